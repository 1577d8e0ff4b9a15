-- What is wrong with the data, a line each; no row means that every invariant holds.
-- Written against the tables alone: it shares nothing with the service.
with journalled as (
    select journal.event_id, journal.version, change.*
      from journal,
           unnest(kinds, reservation_ids, partner_ids, seats)
               as change (kind, reservation_id, partner_id, seats)
), replayed as (
    -- The last word of the journal on each reservation: what it was made with, less what it gave
    -- back while it went on, in the status that was set last.
    select event_id, reservation_id, max(partner_id) as partner_id,
           sum(case when kind in (1, 2) then seats when kind = 5 then -seats else 0 end)::integer
               as seats,
           max(version) as version,
           (array_agg(case kind when 1 then 'confirmed' when 2 then 'held' when 3 then 'confirmed'
                                when 4 then 'held' when 6 then 'cancelled' when 7 then 'expired'
                      end order by version desc) filter (where kind <> 5))[1] as status
      from journalled
     group by event_id, reservation_id
), stored as (
    select event_id, id as reservation_id, partner_id, seats, version, status from reservations
), replayed_only as (
    table replayed except select event_id, reservation_id, partner_id, seats, version, status
                            from stored
), stored_only as (
    table stored except select event_id, reservation_id, partner_id, seats, version, status
                          from replayed
), owned as (
    select event_id,
           sum(seats) filter (where status in ('held', 'confirmed')) as seats,
           sum(seats) filter (where status = 'held') as held,
           count(*) filter (where status = 'confirmed') as confirmed
      from reservations
     group by event_id
)
select format('1 event %s: %s available + %s owned <> %s in total',
              id, available_seats, coalesce(owned.seats, 0), total_seats) as problem
  from events left join owned on owned.event_id = id
 where available_seats + coalesce(owned.seats, 0) <> total_seats
union all
select format('2 event %s: %s of %s available, counts %s reservations of %s, %s held seats of %s',
              id, available_seats, total_seats, reservation_count, coalesce(owned.confirmed, 0),
              held_seats, coalesce(owned.held, 0))
  from events left join owned on owned.event_id = id
 where available_seats not between 0 and total_seats
    or reservation_count <> coalesce(owned.confirmed, 0)
    or held_seats <> coalesce(owned.held, 0)
union all
select format('3 event %s at version %s: %s journal rows from %s to %s',
              id, version, numbered.count, numbered.first, numbered.last)
  from events
  left join lateral (
        select count(*), min(journal.version) as first, max(journal.version) as last
          from journal where event_id = id
       ) as numbered on true
 where numbered.count <> version
    or (version > 0 and (numbered.first <> 1 or numbered.last <> version))
union all
select format('4 event %s: the journal says %s, the table does not', event_id, missing)
  from replayed_only as missing
union all
select format('4 event %s: the table says %s, the journal does not', event_id, extra)
  from stored_only as extra
union all
select format('4 event %s: replaying gives %s seats, %s of them available, not %s and %s',
              id, coalesce(resized.seats, initial_seats),
              coalesce(resized.seats, initial_seats) - coalesce(net.seats, 0),
              total_seats, available_seats)
  from events
  left join (
        select event_id, sum(case when kind in (1, 2) then seats
                                  when kind in (5, 6, 7) then -seats else 0 end) as seats
          from journalled group by event_id
       ) as net on net.event_id = id
  left join lateral (
        select (event_change ->> 'totalSeats')::integer as seats
          from journal
         where event_id = id and event_change ? 'totalSeats'
         order by journal.version desc
         limit 1
       ) as resized on true
 where coalesce(resized.seats, initial_seats) <> total_seats
    or coalesce(resized.seats, initial_seats) - coalesce(net.seats, 0) <> available_seats
union all
select format('5 event %s: %s reservations of %s under key %s',
              event_id, count(*), partner_id, idempotency_key)
  from reservations
 where idempotency_key is not null
 group by event_id, partner_id, idempotency_key, item
having count(*) > 1
union all
select format('4 event %s: the seats of %s are summed up to version %s as %s, not %s',
              event_id, partner_id, version, coalesce(summed.seats, 0), coalesce(said.seats, 0))
  from usage as summed
  full join (
        select event_id, partner_id,
               sum(case when kind in (1, 2) then seats
                        when kind in (5, 6, 7) then -seats else 0 end) as seats
          from journalled join usage_versions using (event_id)
         where journalled.version <= usage_versions.version
         group by event_id, partner_id
       ) as said using (event_id, partner_id)
  left join usage_versions using (event_id)
 where coalesce(summed.seats, 0) <> coalesce(said.seats, 0)
union all
select format('4 event %s at version %s is summed up to version %s', id, events.version,
              usage_versions.version)
  from usage_versions left join events on id = event_id
 where events.version is null or usage_versions.version > events.version

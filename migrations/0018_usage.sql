-- How many seats each partner has of an event that limits them, summed up from the journal to some
-- version of the event; whoever needs the sums adds what the journal says after that version. Each
-- booking of such an event wrote an entry of an index instead, which took a quarter of PostgreSQL's
-- time for it. Nothing is lost with a `truncate usage_versions, usage`: the journal says it all.

create table usage_versions (
    event_id text    primary key,
    version  counter not null
);

-- Sums are updated in place as long as a page has room for both versions of a row.
create table usage (
    event_id   text   not null,
    partner_id text   not null,
    seats      bigint not null,

    primary key (event_id, partner_id)
) with (fillfactor = 40);

-- One statement sees one version of each event, even while others sell. `reservations.limited`, which
-- replicas of an earlier version count by, is still written for them.
with summed as (
    insert into usage_versions (event_id, version)
    select id, version from events where seats_per_partner_max is not null
)
insert into usage (event_id, partner_id, seats)
select event_id, partner_id, sum(seats)
  from reservations join events on events.id = event_id
 where seats_per_partner_max is not null and reservations.status in ('held', 'confirmed')
 group by event_id, partner_id;

-- The rules about how an event starts move from CHECKs to a trigger, which fires when one is made.
--
-- A table's CHECKs are read from the catalogue and prepared anew by every statement that writes to
-- the table (see migration 6), and these were evaluated for each sale, though no sale touches what
-- they are about. With those of the journal (migration 14) they were a fifth of a small commit. What
-- guards the seats stays: it has to hold for every version of an event.
--
-- Not for updates: a trigger before those, even one that does not fire for their columns, has every
-- update lock the row in a step of its own. Nothing in the service sets the id or the initial seats
-- again, and no commit leaves an event at version 0. By hand only the owner can change an id; seats
-- that were changed by hand are seen by `ticketboss verify`.
--
-- To distribute the tables, Citus asks for citus.enable_unsafe_triggers, and means triggers that
-- look at other rows. These look at their own only.

alter table events
    drop constraint events_id_is_a_slug,
    drop constraint events_initial_seats_in_range,
    drop constraint events_start_untouched;

create function check_event_start() returns trigger language plpgsql as $$
declare
    broken text := case
        -- The same pattern as the API's: an event made by hand must be reachable by its URL.
        when new.id !~ '^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$'
            then 'events_id_is_a_slug'
        when new.initial_seats not between 1 and 10000000
            then 'events_initial_seats_in_range'
        -- An event starts whole. Without this, an event inserted by hand with seats already gone
        -- could never be explained by its journal.
        when new.version = 0
             and (new.total_seats, new.available_seats, new.reservation_count)
                 is distinct from (new.initial_seats, new.initial_seats, 0)
            then 'events_start_untouched'
    end;
begin
    if broken is not null then
        raise check_violation using table = tg_table_name, constraint = broken,
            message = format('a row of %s violates %s', tg_table_name, broken);
    end if;
    return new;
end $$;

create trigger events_start before insert on events
    for each row execute function check_event_start();

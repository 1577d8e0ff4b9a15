-- The rules for single values move from the tables to the types of their columns.
--
-- A table's CHECK is read from the catalogue and prepared anew by every statement that writes to
-- the table, which took a quarter of the time of a small commit. The rules of a domain are prepared
-- once for each connection, and an UPDATE checks only the columns that it sets. What spans columns
-- stays with the tables, and so do all rules about the seats of an event: they are the last line of
-- defence, and binaries from before this migration bind one parameter to all three columns. The id
-- of an event stays a text, as it is in the other tables: to distribute them by it, its type has to
-- be the same in all.

create domain event_name as text
    constraint event_name_is_sane check (char_length(value) between 1 and 200);
create domain counter as bigint
    constraint counter_not_negative check (value >= 0);
-- Of what a version made: version 0 is the event before any reservation.
create domain version_made as bigint
    constraint version_made_positive check (value >= 1);
-- Seats, not air.
create domain seat_count as integer
    constraint seat_count_positive check (value >= 1);
create domain reservation_status as text
    constraint reservation_status_known
        check (value in ('held', 'confirmed', 'cancelled', 'expired'));
create domain partner_id as text
    constraint partner_id_length check (char_length(value) between 1 and 128);
create domain item_number as smallint
    constraint item_number_not_negative check (value >= 0);
create domain idempotency_key as text
    constraint idempotency_key_length check (char_length(value) between 1 and 255);
-- Migration 3 lists them.
create domain change_kinds as smallint[]
    constraint change_kinds_known check (1 <= all (value) and 7 >= all (value));

alter table events
    drop constraint events_name_is_sane,
    drop constraint events_reservation_count_not_negative,
    drop constraint events_version_not_negative,
    alter name              type event_name,
    alter reservation_count type counter,
    alter version           type counter;

alter table reservations
    drop constraint reservations_seats_positive,
    drop constraint reservations_status_known,
    drop constraint reservations_version_positive,
    drop constraint reservations_partner_id_length,
    drop constraint reservations_item_not_negative,
    drop constraint reservations_idempotency_key_length,
    alter version         type version_made,
    alter seats           type seat_count,
    alter item            type item_number,
    alter partner_id      type partner_id,
    alter status          type reservation_status,
    alter idempotency_key type idempotency_key;

alter table journal
    drop constraint journal_version_positive,
    drop constraint journal_kinds_known,
    alter version type version_made,
    alter kinds   type change_kinds,
    -- A new type brings its own way of storage with it; see migration 5.
    alter kinds   set storage external;

-- Sessions that prepared statements before this could not run them any more ("cached plan must not
-- change result type"). Replicas that are running open new ones, which wait until this is committed.
select pg_terminate_backend(pid)
  from pg_stat_activity
 where application_name = 'ticketboss' and datname = current_database()
   and pid <> pg_backend_pid();

-- What the service may do, as the role `ticketboss`, which owns nothing: it adds to the journal and
-- never changes it, and deletes nothing at all.
--
-- Run by the owner of the tables after each `ticketboss migrate`. docs/operating.md has the rest.

grant usage on schema public to ticketboss;

grant select, insert on events, reservations, journal, keys to ticketboss;
grant update (name, total_seats, available_seats, held_seats, reservation_count, version, status,
              sales_open_at, sales_close_at)
   on events to ticketboss;
grant update (status, seats, hold_expires_at, version) on reservations to ticketboss;
grant update (revoked_at, revoked_by, last_used_at, changed_at) on keys to ticketboss;
grant execute on function take_baton(text) to ticketboss;

-- To see whether the schema is up to date.
grant select on _sqlx_migrations to ticketboss;

-- The rights of the service as the role `ticketboss`, which owns nothing: it can add to the journal but
-- not change it, and it can delete nothing at all.
--
-- The owner of the tables runs this file after each `ticketboss migrate`. See docs/operating.md.

grant usage on schema public to ticketboss;

grant select, insert on events, reservations, journal, keys, usage, usage_versions to ticketboss;
grant update (name, total_seats, available_seats, held_seats, reservation_count, version, status,
              sales_open_at, sales_close_at)
   on events to ticketboss;
grant update (status, seats, hold_expires_at, version) on reservations to ticketboss;
grant update (seats) on usage to ticketboss;
grant update (version) on usage_versions to ticketboss;
grant update (revoked_at, revoked_by, last_used_at, changed_at) on keys to ticketboss;
grant execute on function take_baton(text) to ticketboss;

-- To check whether the schema is up to date.
grant select on _sqlx_migrations to ticketboss;

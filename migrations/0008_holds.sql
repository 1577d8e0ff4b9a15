-- Holds, and the partner's own text on a reservation.

create domain held_seats as integer
    constraint held_seats_not_negative check (value >= 0);

alter table events
    -- Seats of reservations in status 'held', kept by the guarded statement like the other counters.
    add column held_seats held_seats not null default 0,
    -- What is held is not available. Under the old name, since it says more of the same.
    drop constraint events_available_seats_within_total,
    add constraint events_available_seats_within_total
        check (available_seats + held_seats <= total_seats);

-- A length that belongs to the type is not checked by a statement that does not set it, and adding
-- such a column does not rewrite the table.
alter table reservations
    add column reference varchar(128);

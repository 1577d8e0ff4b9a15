-- What one partner may have of an event.

alter table events
    -- Seats, held and booked together; empty where there is no such limit. Never changes, so that
    -- every reservation that counts is marked.
    add column seats_per_partner_max seat_count;

alter table reservations
    -- Whether its event has such a limit; empty where not, which takes no room.
    add column limited boolean;

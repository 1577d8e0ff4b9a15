-- Events that are made and changed by partners: when they sell, and how much of them at once.

create domain event_status as text
    constraint event_status_known
        check (value in ('on_sale', 'paused', 'closed', 'ended'));

alter table events
    -- 'ended' is 'on_sale' past its end, once somebody was told so: from that version on, nothing
    -- that was decided earlier can land behind the refusal.
    add column status                    event_status not null default 'on_sale',
    add column sales_open_at             timestamptz,
    add column sales_close_at            timestamptz,
    -- Never changes, so that what is asked of an event is valid or not for ever.
    add column seats_per_reservation_max seat_count   not null default 10,
    -- The request that made the event, drawn by the service: when the answer to an insert was lost,
    -- it tells whether the event that is there now is the one.
    add column made_by                   uuid;

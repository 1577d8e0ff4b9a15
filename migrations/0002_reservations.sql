-- One row per reservation, whatever became of it: rows change status and are never deleted.
--
-- There is no foreign key to events, on purpose. A row is only ever inserted from the result of
-- the update of its event, in one statement, and events are never deleted: an orphan cannot arise.
-- The key would lock the event's row once more for each reservation of a batch.
create table reservations (
    -- UUIDv7, made by the server before the row is sent, so that sending it again is harmless.
    id                  uuid        not null,
    created_at          timestamptz not null,
    -- The event's version at which this row last changed.
    version             bigint      not null,
    -- The time at which a hold ends; empty for what was never held.
    hold_expires_at     timestamptz,
    seats               integer     not null,
    -- Position within the request that the idempotency key names; 0 where it made one reservation.
    item                smallint    not null default 0,
    event_id            text        not null,
    partner_id          text        not null,
    status              text        not null,
    idempotency_key     text,
    -- The request as it was parsed when the key was first used: the row's own values may change.
    request_fingerprint text,

    -- The id comes first: a reservation is looked up by its id alone, too. The event is part of
    -- the key so that the table can be distributed by event.
    constraint reservations_pkey primary key (id, event_id),

    -- Seats, not air.
    constraint reservations_seats_positive
        check (seats >= 1),
    constraint reservations_status_known
        check (status in ('held', 'confirmed', 'cancelled', 'expired')),
    -- A hold without an end would strand its seats for ever.
    constraint reservations_hold_has_an_end
        check (status <> 'held' or hold_expires_at is not null),
    -- Version 0 is the event before any reservation.
    constraint reservations_version_positive
        check (version >= 1),
    constraint reservations_partner_id_length
        check (char_length(partner_id) between 1 and 128),
    constraint reservations_item_not_negative
        check (item >= 0),
    constraint reservations_idempotency_key_length
        check (char_length(idempotency_key) between 1 and 255),
    -- A key without the request it stands for could not tell a retry from a mix-up.
    constraint reservations_key_with_fingerprint
        check ((idempotency_key is null) = (request_fingerprint is null))
);

-- Listing an event's reservations, newest first: ids are ordered by time.
create index reservations_by_event on reservations (event_id, id);

-- The guard of exactly-once: whatever raced, one key makes one reservation per item.
create unique index reservations_idempotency_key
    on reservations (event_id, partner_id, idempotency_key, item)
    where idempotency_key is not null;

-- Holds in the order in which they fall due. Partial: it costs nothing for what is not held.
create index reservations_due_holds
    on reservations (event_id, hold_expires_at)
    where status = 'held';

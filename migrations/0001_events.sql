-- An event is the aggregate: its row is the only thing two writers ever compete for, and its
-- version guards everything that belongs to it.
--
-- fillfactor: every commit writes a new version of this row. Room on its page keeps those updates
-- heap-only (no index entry, pruned on the way), which is also why no changing column is indexed.
create table events (
    -- The public slug, as it stands in URLs.
    id                text        not null,
    name              text        not null,
    -- The seats at creation. Never changes: replaying the journal starts here.
    initial_seats     integer     not null,
    total_seats       integer     not null,
    available_seats   integer     not null,
    -- Confirmed reservations, kept by the guarded statement so that the summary needs no count.
    reservation_count bigint      not null default 0,
    -- Moved by exactly one by every commit.
    version           bigint      not null default 0,
    created_at        timestamptz not null default now(),

    constraint events_pkey primary key (id),

    -- The same pattern as the API's: an event made by hand must be reachable by its URL.
    constraint events_id_is_a_slug
        check (id ~ '^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$'),
    constraint events_name_is_sane
        check (char_length(name) between 1 and 200),
    constraint events_initial_seats_in_range
        check (initial_seats between 1 and 10000000),
    -- The last line of defence against selling a seat twice ...
    constraint events_available_seats_not_negative
        check (available_seats >= 0),
    -- ... and against giving one back twice.
    constraint events_available_seats_within_total
        check (available_seats <= total_seats),
    constraint events_reservation_count_not_negative
        check (reservation_count >= 0),
    constraint events_version_not_negative
        check (version >= 0),
    -- An event starts whole. Without this, an event inserted by hand with seats already gone
    -- could never be explained by its journal.
    constraint events_start_untouched
        check (version > 0
            or (total_seats = initial_seats
                and available_seats = initial_seats
                and reservation_count = 0))
) with (fillfactor = 10);

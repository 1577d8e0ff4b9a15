-- One row per version of an event: what that commit changed. It is the audit log and the change
-- feed, and replaying it from initial_seats must give the tables.
--
-- The changes are parallel arrays, bound from the same arrays that the guarded statement unnests
-- into rows; a jsonb document of the same content cost a third of the throughput.
create table journal (
    event_id        text        not null,
    version         bigint      not null,
    at              timestamptz not null,
    -- Random, fixed before the batch is sent: it tells whose commit made this version when the
    -- answer to a commit was lost.
    batch_id        uuid        not null,
    -- How many rows of reservations the statement really wrote.
    change_count    integer     not null,
    -- What happened to each reservation:
    -- 1 reserved, 2 held, 3 confirmed, 4 extended, 5 shrunk, 6 cancelled, 7 expired.
    kinds           smallint[]  not null,
    reservation_ids uuid[]      not null,
    partner_ids     text[]      not null,
    -- Seats taken (reserved, held), given back (shrunk, cancelled, expired), or kept.
    seats           integer[]   not null,
    -- A change of the event itself, when the version was one.
    event_change    jsonb,

    -- The fence: one commit per version, whoever sent it.
    constraint journal_pkey primary key (event_id, version),

    constraint journal_version_positive
        check (version >= 1),
    -- A row that was meant to change but did not match its previous version leaves fewer written
    -- rows than announced ones; this makes the whole statement fail, seats and all.
    constraint journal_changes_complete
        check (cardinality(kinds) = change_count
            and cardinality(reservation_ids) = change_count
            and cardinality(partner_ids) = change_count
            and cardinality(seats) = change_count),
    -- A version that changed nothing would be a gap with a number.
    constraint journal_says_what_changed
        check (change_count >= 1 or event_change is not null),
    constraint journal_kinds_known
        check (1 <= all (kinds) and 7 >= all (kinds))
);

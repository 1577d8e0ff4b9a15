//! The reads of `ticketboss verify`: page by page, each page in a short statement of its own.
//!
//! `offset 0` keeps the planner from reversing a join: what a row refers to is looked up row by
//! row, by its key.

use sqlx::PgConnection;
use uuid::Uuid;

/// Ids of events, in ascending order.
pub(crate) async fn events_after(
    connection: &mut PgConnection,
    id: &str,
    count: i64,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        "-- verify_events
        select id from events where id > $1 order by id limit $2",
        id,
        count,
    )
    .fetch_all(connection)
    .await
}

/// An event's own counters, as stored.
#[derive(Clone, Debug)]
pub(crate) struct Counters {
    pub initial_seats: i32,
    pub total_seats: i32,
    pub available_seats: i32,
    pub held_seats: i32,
    pub reservation_count: i64,
    pub version: i64,
    /// The last version in its journal, read in the same snapshot.
    pub last_journalled: Option<i64>,
}

pub(crate) async fn counters(
    connection: &mut PgConnection,
    event_id: &str,
) -> Result<Option<Counters>, sqlx::Error> {
    sqlx::query_as!(
        Counters,
        "-- verify_counters
        select initial_seats, total_seats, available_seats, held_seats, reservation_count,
               version,
               (select version from journal where event_id = $1
                 order by version desc limit 1)::bigint as last_journalled
          from events
         where id = $1",
        event_id,
    )
    .fetch_optional(connection)
    .await
}

/// How many seats a partner has of an event, summed up to a version of it; without a partner if none
/// has any.
#[derive(Clone, Debug)]
pub(crate) struct Summed {
    pub version: i64,
    pub partner_id: Option<String>,
    pub seats: Option<i64>,
}

pub(crate) async fn usage(
    connection: &mut PgConnection,
    event_id: &str,
) -> Result<Vec<Summed>, sqlx::Error> {
    sqlx::query_as!(
        Summed,
        r#"-- verify_usage
        select coalesce(usage_versions.version, 0)::bigint as "version!",
               usage.partner_id as "partner_id?", usage.seats as "seats?"
          from events
          left join usage_versions on usage_versions.event_id = id
          left join usage on usage.event_id = id
         where id = $1"#,
        event_id,
    )
    .fetch_all(connection)
    .await
}

/// The version up to which there are about `changes` changes after `after`; `None` if there are no
/// more versions.
pub(crate) async fn page_end(
    connection: &mut PgConnection,
    event_id: &str,
    after: i64,
    changes: i64,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- verify_page
        select coalesce(max(version) filter (where so_far <= $3), min(version)) as "version?"
          from (
                select version::bigint as version,
                       sum(greatest(change_count, 1)) over (order by version) as so_far
                  from journal
                 where event_id = $1 and version > $2
                 order by version
                 limit $3
               ) as counted"#,
        event_id,
        after,
        changes,
    )
    .fetch_one(connection)
    .await
}

/// A change in the journal, or a version without any, and the current row of the reservation that
/// it names.
#[derive(Clone, Debug)]
pub(crate) struct JournalEntry {
    pub version: i64,
    /// The event's total seats from this version on, if it changed them.
    pub total_seats: Option<i32>,
    pub kind: Option<i16>,
    pub reservation_id: Option<Uuid>,
    pub partner_id: Option<String>,
    pub seats: Option<i32>,
    pub stored_version: Option<i64>,
    pub stored_partner_id: Option<String>,
    pub stored_seats: Option<i32>,
    pub stored_status: Option<String>,
}

/// The versions of an event after `after`, up to and including `to`.
pub(crate) async fn journal_between(
    connection: &mut PgConnection,
    event_id: &str,
    after: i64,
    to: i64,
) -> Result<Vec<JournalEntry>, sqlx::Error> {
    sqlx::query_as!(
        JournalEntry,
        r#"-- verify_journal
        select journal.version,
               (journal.event_change ->> 'totalSeats')::integer as "total_seats?",
               change.kind as "kind?", change.id as "reservation_id?",
               change.partner_id as "partner_id?", change.seats as "seats?",
               stored.version as "stored_version?", stored.partner_id as "stored_partner_id?",
               stored.seats as "stored_seats?", stored.status as "stored_status?"
          from journal
          left join lateral unnest(kinds::smallint[], reservation_ids, partner_ids, seats)
                         as change (kind, id, partner_id, seats) on true
          left join lateral (
                select version, partner_id, seats, status
                  from reservations
                 where id = change.id and event_id = $1
                offset 0
               ) as stored on true
         where journal.event_id = $1 and journal.version > $2 and journal.version <= $3
         order by journal.version"#,
        event_id,
        after,
        to,
    )
    .fetch_all(connection)
    .await
}

/// What a version of an event did to a reservation.
#[derive(Clone, Debug)]
pub(crate) struct Deed {
    pub kind: i16,
    pub reservation_id: Uuid,
    pub seats: i32,
}

/// What the versions after `after`, up to and including `to`, did to these reservations, in order.
pub(crate) async fn deeds_between(
    connection: &mut PgConnection,
    event_id: &str,
    reservation_ids: &[Uuid],
    after: i64,
    to: i64,
) -> Result<Vec<Deed>, sqlx::Error> {
    sqlx::query_as!(
        Deed,
        r#"-- verify_deeds
        select change.kind as "kind!", change.id as "reservation_id!", change.seats as "seats!"
          from journal,
               lateral unnest(kinds::smallint[], reservation_ids, seats)
                    as change (kind, id, seats)
         where event_id = $1 and version > $2 and version <= $3 and change.id = any ($4)
         order by version"#,
        event_id,
        after,
        to,
        reservation_ids,
    )
    .fetch_all(connection)
    .await
}

/// A reservation, and what the journal says about it at the version in its row.
#[derive(Clone, Debug)]
pub(crate) struct StoredEntry {
    pub id: Uuid,
    pub event_id: String,
    pub seats: i32,
    pub status: String,
    pub version: i64,
    pub has_event: bool,
    /// Number of reservations with its idempotency key and item, including itself.
    pub of_its_key: Option<i64>,
    pub journal_kind: Option<i16>,
    pub journal_seats: Option<i32>,
}

/// Whether the index exists that prevents an idempotency key from being used twice.
pub(crate) async fn keys_are_unique(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- verify_keys
        select coalesce(bool_or(indisunique and indisvalid), false) as "unique!"
          from pg_index
         where indexrelid = to_regclass('reservations_idempotency_key')"#
    )
    .fetch_one(connection)
    .await
}

/// Reservations of all events, ordered by id.
pub(crate) async fn reservations_after(
    connection: &mut PgConnection,
    id: Uuid,
    event_id: &str,
    count: i64,
    count_keys: bool,
) -> Result<Vec<StoredEntry>, sqlx::Error> {
    sqlx::query_as!(
        StoredEntry,
        r#"-- verify_reservations
        select stored.id as "id!", stored.event_id as "event_id!",
               stored.seats as "seats!", stored.status as "status!",
               stored.version as "version!",
               (select 1 from events where id = stored.event_id) is not null as "has_event!",
               case when $4 and stored.idempotency_key is not null then (
                    select count(*) from (
                           select 1
                             from reservations
                            where event_id = stored.event_id
                              and partner_id = stored.partner_id
                              and idempotency_key = stored.idempotency_key
                              and item = stored.item
                           offset 0
                    ) as same
               ) end as "of_its_key?",
               said.kind as "journal_kind?", said.seats as "journal_seats?"
          from (
                select *
                  from reservations
                 where (id, event_id) > ($1::uuid, $2::text)
                 order by id, event_id
                 limit $3
               ) as stored
          left join lateral (
                select kinds[place] as kind, journal.seats[place] as seats
                  from journal, array_position(reservation_ids, stored.id) as place
                 where journal.event_id = stored.event_id
                   and journal.version = stored.version
                   and place is not null
                offset 0
               ) as said on true
         order by stored.id, stored.event_id"#,
        id,
        event_id,
        count,
        count_keys,
    )
    .fetch_all(connection)
    .await
}

//! What partners have of the events that limit their seats, summed up.
//!
//! The journal says it all. The sums of its versions up to one of them are kept, brought up to date
//! beside the sales once in a while, and whoever reads them adds what the journal says after that
//! version. Only an entry for each booking in an index would be as fresh, and that took a quarter of
//! PostgreSQL's time for a booking.

use std::collections::HashMap;

use sqlx::PgConnection;

use super::Batch;
use crate::domain::{ChangeKind, EventId};

/// The sums are brought up to date about once for this many rows of commits. Each time, every partner
/// that booked meanwhile is written once.
const ROWS_PER_SUM: u128 = 16_384;
/// What even a commit of a single row counts for, since a reader reads it as a version.
const ROWS_PER_COMMIT_MIN: usize = 16;
/// How many rows one statement sums up, or a little more.
const SUMMED_MAX: i64 = 16_384;
/// A reader that had to add more rows has them summed up behind its back: it is not the last one.
pub(super) const UNSUMMED_MANY: usize = 1_000;
/// A reader adds no more rows than this, or a little more. If there are more, it sums them up before
/// it goes on.
pub(super) const UNSUMMED_MAX: i64 = 32_768;

/// Whether the sums are due to be brought up to date after this commit. Its id is random, and says so
/// with the right probability: nobody has to count what all replicas committed.
pub(super) fn is_due(batch: &Batch) -> bool {
    let rows = batch.changes.len().max(ROWS_PER_COMMIT_MIN);
    batch.id.as_u128() % ROWS_PER_SUM < rows as u128
}

/// Brings the sums of an event up to date, if it limits its partners. Returns whether there is more
/// to sum up.
///
/// Of several sessions that do so at once, one moves the version, and writes; the others find it
/// moved, and do nothing. None of them waits for a flush or a standby: the journal is in the WAL
/// already, and if the sums are lost, they are made again.
pub(super) async fn sum_up(
    connection: &mut PgConnection,
    event_id: &EventId,
) -> Result<bool, sqlx::Error> {
    let more = sqlx::query_scalar!(
        r#"-- sum_up
        with before as (
            select id, events.version as current, coalesce(usage_versions.version, 0) as version,
                   set_config('synchronous_commit', 'off', true)
              from events
              left join usage_versions on usage_versions.event_id = id
             where id = $1 and seats_per_partner_max is not null
        ), next as (
            select coalesce(max(version) filter (where so_far <= $2), min(version)) as version
              from (
                    select journal.version::bigint as version,
                           sum(greatest(change_count, 1)) over (order by journal.version) as so_far
                      from journal
                     where event_id = $1
                       and journal.version > (select version from before)
                       and journal.version <= (select current from before)
                     order by journal.version
                     limit $2
                   ) as counted
        ), moved as (
            insert into usage_versions (event_id, version)
            select before.id, next.version from before, next where next.version is not null
                on conflict (event_id) do update set version = excluded.version
             where usage_versions.version = (select version from before)
            returning version
        ), summed as (
            insert into usage (event_id, partner_id, seats)
            select $1, change.partner_id,
                   sum(case when change.kind in (1, 2) then change.seats else -change.seats end)
              from journal,
                   unnest(kinds::smallint[], partner_ids, journal.seats)
                       as change (kind, partner_id, seats)
             where journal.event_id = $1
               and journal.version > (select version from before)
               and journal.version <= (select version from moved)
               and change.kind in (1, 2, 5, 6, 7)
             group by change.partner_id
                on conflict (event_id, partner_id)
                do update set seats = usage.seats + excluded.seats
        )
        select moved.version < before.current as "more!" from before, moved"#,
        event_id.as_str(),
        SUMMED_MAX,
    )
    .fetch_optional(connection)
    .await?;
    Ok(more == Some(true))
}

/// A version of the journal that the sums do not include, as its parallel arrays.
pub(super) struct UnsummedVersion {
    pub version: i64,
    pub kinds: Vec<i16>,
    pub partner_ids: Vec<String>,
    pub seats: Vec<i32>,
}

/// Adds up what versions of the journal say about some partners' seats.
#[derive(Default)]
pub(super) struct Unsummed {
    /// The last of the versions.
    pub version: Option<i64>,
    pub rows: usize,
    seats: HashMap<String, i64>,
}

impl Unsummed {
    pub fn add(&mut self, added: UnsummedVersion) {
        let UnsummedVersion { version, kinds, partner_ids, seats } = added;
        self.version = self.version.max(Some(version));
        self.rows += kinds.len();
        for ((kind, partner_id), seats) in kinds.into_iter().zip(partner_ids).zip(seats) {
            let taken = ChangeKind::parse(kind).map_or(0, |kind| kind.seats_taken(seats.into()));
            if taken != 0 {
                *self.seats.entry(partner_id).or_default() += taken;
            }
        }
    }

    pub fn of(&self, partner_id: &str) -> i64 {
        self.seats.get(partner_id).copied().unwrap_or_default()
    }
}

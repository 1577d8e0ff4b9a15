//! The one guarded statement. Nothing else in the service writes reservations or seat counts.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Batch, Commit, Committed};
use crate::domain::{Change, ChangeKind, EventId};

/// Moves the event from the batch's base version to the next, and writes its reservations and its
/// journal row, in one statement: there is no moment in which a seat is taken and no reservation
/// exists, or the other way round.
///
/// The update comes first, and everything else selects from what it returned: where the guard does
/// not match, nothing is written. Each changed reservation must still be at its previous version;
/// one that is not leaves `change_count` short, and the journal's check fails the whole statement.
///
/// The arrays of new rows are unnested side by side in a select list, which PostgreSQL streams; in
/// a from clause it would store each of them first. Those of changed rows are not joined at all but
/// looked up by position, so that no plan can read more of the table than the rows that are named.
#[expect(clippy::too_many_lines, reason = "it is one statement")]
pub(super) async fn commit(
    connection: &mut PgConnection,
    batch: &Batch,
) -> Result<Commit, sqlx::Error> {
    let rows = Rows::of(&batch.changes);
    let row = sqlx::query!(
        r#"-- commit
        with moved as (
            update events
               set available_seats = available_seats - $1, version = version + 1,
                   reservation_count = reservation_count + $4
             where id = $2 and version = $3 and available_seats >= $1
            returning version, available_seats, reservation_count
        ), inserted as (
            insert into reservations
                   (id, created_at, version, seats, event_id, partner_id, status,
                    idempotency_key, request_fingerprint)
            select row.id, $5, moved.version, row.seats, $2, row.partner_id, 'confirmed',
                   row.idempotency_key, row.request_fingerprint
              from moved,
                   (select unnest($8::uuid[]) as id, unnest($9::text[]) as partner_id,
                           unnest($10::integer[]) as seats, unnest($11::text[]) as idempotency_key,
                           unnest($12::text[]) as request_fingerprint) as row
            returning 1
        ), altered as (
            update reservations
               set status = ($17::text[])[array_position($14::uuid[], reservations.id)],
                   version = moved.version
              from moved
             where reservations.event_id = $2
               and reservations.id = any ($14::uuid[])
               and reservations.version
                       = ($18::bigint[])[array_position($14::uuid[], reservations.id)]
            returning 1
        ), journalled as (
            insert into journal
                   (event_id, version, at, batch_id, change_count,
                    kinds, reservation_ids, partner_ids, seats)
            select $2, moved.version, $5, $6,
                   (select count(*) from inserted) + (select count(*) from altered),
                   $7::smallint[] || $13::smallint[], $8::uuid[] || $14::uuid[],
                   $9::text[] || $15::text[], $10::integer[] || $16::integer[]
              from moved
        )
        select version, available_seats, reservation_count, clock_timestamp() as "now!"
          from moved"#,
        batch.net_seats,
        batch.event_id.as_str(),
        batch.base_version,
        batch.net_confirmed,
        batch.at,
        batch.id,
        &rows.inserted.kinds,
        &rows.inserted.ids,
        &rows.inserted.partner_ids as &[&str],
        &rows.inserted.seats,
        &rows.idempotency_keys as &[Option<&str>],
        &rows.request_fingerprints as &[Option<&str>],
        &rows.altered.kinds,
        &rows.altered.ids,
        &rows.altered.partner_ids as &[&str],
        &rows.altered.seats,
        &rows.statuses as &[&str],
        &rows.previous_versions,
    )
    .fetch_optional(connection)
    .await?;

    Ok(match row {
        Some(row) => Commit::Committed(Committed {
            version: row.version,
            available_seats: row.available_seats,
            reservation_count: row.reservation_count,
            now: row.now,
        }),
        None => Commit::VersionMoved,
    })
}

/// The proof of whose commit made a version. Never the reservations: two replicas that cancel the
/// same one leave the same rows.
pub(super) async fn batch_at(
    connection: &mut PgConnection,
    event_id: &EventId,
    version: i64,
) -> Result<Option<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "-- batch_at
        select batch_id from journal where event_id = $1 and version = $2",
        event_id.as_str(),
        version,
    )
    .fetch_optional(connection)
    .await
}

/// Locks the event's row and lets it go again. The lock waits for a commit in flight, and it is
/// written to the log: this commits, and so waits for what every commit waits for.
pub(super) async fn fence(
    connection: &mut PgConnection,
    event_id: &EventId,
) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- fence
        select 1 as "locked!" from events where id = $1 for update"#,
        event_id.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    Ok(())
}

/// The changes of a batch as the arrays that the statement unnests.
#[derive(Default)]
struct Rows<'a> {
    inserted: Journalled<'a>,
    idempotency_keys: Vec<Option<&'a str>>,
    request_fingerprints: Vec<Option<&'a str>>,
    altered: Journalled<'a>,
    statuses: Vec<&'a str>,
    previous_versions: Vec<i64>,
}

/// What the journal records of each change, too.
#[derive(Default)]
struct Journalled<'a> {
    kinds: Vec<i16>,
    ids: Vec<Uuid>,
    partner_ids: Vec<&'a str>,
    seats: Vec<i32>,
}

impl<'a> Journalled<'a> {
    fn push(&mut self, kind: ChangeKind, id: Uuid, partner_id: &'a str, seats: i32) {
        self.kinds.push(kind as i16);
        self.ids.push(id);
        self.partner_ids.push(partner_id);
        self.seats.push(seats);
    }
}

impl<'a> Rows<'a> {
    fn of(changes: &'a [Change]) -> Self {
        let mut rows = Self::default();
        for change in changes {
            match change {
                Change::Insert(new) => {
                    let partner_id = new.partner_id.as_str();
                    rows.inserted.push(ChangeKind::Reserved, new.id.0, partner_id, new.seats);
                    let keyed = new.keyed.as_ref();
                    rows.idempotency_keys.push(keyed.map(|keyed| keyed.key.as_str()));
                    rows.request_fingerprints.push(keyed.map(|keyed| &*keyed.fingerprint));
                }
                Change::Alter { kind, id, partner_id, seats, status, previous_version } => {
                    rows.altered.push(*kind, id.0, partner_id.as_str(), *seats);
                    rows.statuses.push(status.as_str());
                    rows.previous_versions.push(*previous_version);
                }
            }
        }
        // Arrays that are shorter than the others go on with nulls.
        if rows.idempotency_keys.iter().all(Option::is_none) {
            rows.idempotency_keys.clear();
            rows.request_fingerprints.clear();
        }
        rows
    }
}

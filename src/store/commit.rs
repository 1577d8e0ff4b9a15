//! The one guarded statement. Nothing else in the service writes reservations, or seats of an event.

use sqlx::PgConnection;
use uuid::Uuid;

use super::{Batch, Commit, Committed};
use crate::domain::{
    Change, ChangeKind, EventChange, EventId, KeyId, Reference, Reservation, Timestamp, rfc3339,
};

/// Moves the event from the batch's base version to the next, and writes its reservations and its
/// journal row, in one statement: there is no moment in which a seat is taken and no reservation
/// exists, or the other way round.
///
/// The update comes first, and everything else selects from what it returned: if the guard does not
/// match, nothing is written. Each changed reservation must still be at its previous version; one
/// that is not leaves `change_count` short, and the journal's rule fails the whole statement.
///
/// A change of the event itself is applied from the same document that the journal stores, so that
/// what is journalled is what was done. The version guards it, so it needs no other condition.
///
/// The statement also tells whether other replicas are in line for the event, and keeps them
/// waiting until its own effect is visible. `baton`, if it is ours, passes to the next of them in
/// the same moment: the session-level lock becomes a transaction-level one, without a wait. None of
/// this decides anything: see [`super::baton`].
///
/// A batch that only makes reservations leaves out the clauses for changes, for which it has no
/// rows: PostgreSQL sets up every clause at every commit, and these would be a seventh of the work
/// of a small one. Everything else is written once, for both forms.
///
/// The arrays of new rows are unnested side by side in a select list, which PostgreSQL streams; in
/// a from clause it would first store each of them. The arrays of changed rows are not joined at
/// all but looked up by position, so that no plan can read more of the table than the rows that are
/// named.
#[expect(clippy::too_many_lines, reason = "it is one statement")]
pub(super) async fn commit(
    connection: &mut PgConnection,
    batch: &Batch,
    baton: Option<i64>,
) -> Result<Commit, sqlx::Error> {
    let rows = Rows::of(&batch.changes);
    let key_ids = rows.key_ids(batch);
    let event_change = batch.event_change.as_ref().map(to_json);
    // A macro, since sqlx only checks a statement that is a literal.
    macro_rules! guarded {
        (event: $event:tt, altered: $altered:tt, journal: $journal:tt, with: [$($with:expr),*]) => {
            sqlx::query!(
                r#"-- commit
        with moved as (
            update events
               set available_seats = available_seats - $1, version = version + 1,
                   held_seats = held_seats + $7, reservation_count = reservation_count + $4"#
                + $event + r#"
             where id = $2 and version = $3 and available_seats >= $1
            returning version, available_seats, held_seats, reservation_count,
                      seats_per_partner_max is not null or null as limited
        ), inserted as (
            insert into reservations
                   (id, created_at, version, hold_expires_at, seats, item, event_id, partner_id,
                    status, idempotency_key, request_fingerprint, reference, limited)
            select row.id, $5, moved.version, row.hold_expires_at, row.seats,
                   coalesce(row.item, 0), $2, row.partner_id,
                   case when row.hold_expires_at is null then 'confirmed' else 'held' end,
                   row.idempotency_key, row.request_fingerprint, row.reference, moved.limited
              from moved,
                   (select unnest($9::uuid[]) as id, unnest($10::text[]) as partner_id,
                           unnest($11::integer[]) as seats, unnest($12::text[]) as idempotency_key,
                           unnest($13::text[]) as request_fingerprint,
                           unnest($14::smallint[]) as item,
                           unnest($15::timestamptz[]) as hold_expires_at,
                           unnest($16::text[]) as reference) as row
            returning 1
        )"# + $altered + r#", journalled as (
            insert into journal
                   (event_id, version, at, batch_id, key_ids,
                    change_count, kinds, reservation_ids, partner_ids, seats, event_change)
            select $2, moved.version, $5, $6, $17::text[],
                   "# + $journal + r#"
              from moved
        )
        select version, available_seats, held_seats, reservation_count,
               not pg_try_advisory_xact_lock_shared(hashtextextended($2, 0))
                   as "others_in_line!",
               clock_timestamp() as "now!",
               pg_try_advisory_xact_lock($18) and pg_advisory_unlock($18) as passed_on
          from moved"#,
                batch.net_seats,
                batch.event_id.as_str(),
                batch.base_version,
                batch.net_confirmed,
                batch.at,
                batch.id,
                batch.net_held,
                &rows.inserted.kinds,
                &rows.inserted.ids,
                &rows.inserted.partner_ids as &[&str],
                &rows.inserted.seats,
                &rows.idempotency_keys as &[Option<&str>],
                &rows.request_fingerprints as &[Option<&str>],
                &rows.items,
                &rows.holds as &[Option<Timestamp>],
                &rows.references as &[Option<&str>],
                key_ids.as_deref() as Option<&[Option<&str>]>,
                baton,
                $($with),*
            )
            .fetch_optional(connection)
            .await?
            .map(|row| Committed {
                version: row.version,
                available_seats: row.available_seats,
                held_seats: row.held_seats,
                reservation_count: row.reservation_count,
                others_in_line: row.others_in_line,
                now: row.now,
            })
        };
    }
    let committed = if rows.altered.ids.is_empty() && event_change.is_none() {
        guarded!(
            event: "",
            altered: "",
            journal: "(select count(*) from inserted),
                   $8::smallint[], $9::uuid[], $10::text[], $11::integer[], null",
            with: []
        )
    } else {
        guarded!(
            event: ",
                   name = case when $27::jsonb ? 'name'
                               then ($27::jsonb ->> 'name')::event_name else name end,
                   total_seats = case when $27::jsonb ? 'totalSeats'
                               then ($27::jsonb ->> 'totalSeats')::integer else total_seats end,
                   status = case when $27::jsonb ? 'status'
                               then ($27::jsonb ->> 'status')::event_status else status end,
                   sales_open_at = case when $27::jsonb ? 'salesOpenAt'
                               then ($27::jsonb ->> 'salesOpenAt')::timestamptz
                               else sales_open_at end,
                   sales_close_at = case when $27::jsonb ? 'salesCloseAt'
                               then ($27::jsonb ->> 'salesCloseAt')::timestamptz
                               else sales_close_at end",
            altered: ", altered as (
            update reservations
               set status = ($23::text[])[array_position($20::uuid[], reservations.id)],
                   seats = case when $25::integer[] = '{}' then reservations.seats
                                else ($25::integer[])[array_position($20::uuid[],
                                                                     reservations.id)]
                                     ::seat_count end,
                   hold_expires_at = case when $26::timestamptz[] = '{}'
                                then reservations.hold_expires_at
                                else ($26::timestamptz[])[array_position($20::uuid[],
                                                                         reservations.id)] end,
                   version = moved.version
              from moved
             where reservations.event_id = $2
               and reservations.id = any ($20::uuid[])
               and reservations.version
                       = ($24::bigint[])[array_position($20::uuid[], reservations.id)]
            returning 1
        )",
            journal: "(select count(*) from (select from inserted
                                          union all
                                          select from altered) as written),
                   $8::smallint[] || $19::smallint[], $9::uuid[] || $20::uuid[],
                   $10::text[] || $21::text[], $11::integer[] || $22::integer[], $27::jsonb",
            with: [
                &rows.altered.kinds,
                &rows.altered.ids,
                &rows.altered.partner_ids as &[&str],
                &rows.altered.seats,
                &rows.statuses as &[&str],
                &rows.previous_versions,
                &rows.seats_after,
                &rows.holds_after as &[Option<Timestamp>],
                event_change
            ]
        )
    };
    Ok(committed.map_or(Commit::VersionMoved, Commit::Committed))
}

/// The id of the batch that created a version, which proves whose commit it was. The reservations
/// cannot: two replicas that cancel the same one leave the same rows.
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

/// Locks the event's row and releases it. The lock waits for a commit in flight, and taking it is
/// written to the WAL: so this is a commit, and waits for what every commit waits for.
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

/// A change of the event as the document that the journal stores and the statement applies.
fn to_json(change: &EventChange) -> serde_json::Value {
    let EventChange { name, total_seats, status, sales_open_at, sales_close_at } = change;
    let mut fields = serde_json::Map::new();
    let mut field = |name: &str, value| fields.insert(name.into(), value);
    if let Some(name) = name {
        field("name", name.as_str().into());
    }
    if let Some(total_seats) = total_seats {
        field("totalSeats", (*total_seats).into());
    }
    if let Some(status) = status {
        field("status", status.as_str().into());
    }
    if let Some(open) = sales_open_at {
        field("salesOpenAt", open.map(rfc3339).into());
    }
    if let Some(close) = sales_close_at {
        field("salesCloseAt", close.map(rfc3339).into());
    }
    fields.into()
}

/// The changes of a batch as the arrays that the statement unnests. Arrays that are shorter than
/// the others continue with nulls: an empty one means that the batch has no such values.
#[derive(Default)]
struct Rows<'a> {
    inserted: Journalled<'a>,
    idempotency_keys: Vec<Option<&'a str>>,
    request_fingerprints: Vec<Option<&'a str>>,
    items: Vec<i16>,
    holds: Vec<Option<Timestamp>>,
    references: Vec<Option<&'a str>>,
    altered: Journalled<'a>,
    statuses: Vec<&'a str>,
    previous_versions: Vec<i64>,
    seats_after: Vec<i32>,
    holds_after: Vec<Option<Timestamp>>,
}

/// The part of each change that the journal records, too.
#[derive(Default)]
struct Journalled<'a> {
    kinds: Vec<i16>,
    ids: Vec<Uuid>,
    partner_ids: Vec<&'a str>,
    seats: Vec<i32>,
    key_ids: Vec<Option<&'a str>>,
}

impl<'a> Journalled<'a> {
    fn push(&mut self, change: &'a Change) {
        self.kinds.push(change.kind as i16);
        self.ids.push(change.reservation.id.0);
        self.partner_ids.push(change.reservation.partner_id.as_str());
        self.seats.push(change.seats);
        self.key_ids.push(change.by.as_ref().map(KeyId::as_str));
    }
}

impl<'a> Rows<'a> {
    fn of(changes: &'a [Change]) -> Self {
        let mut rows = Self::default();
        let mut resized = false;
        let mut extended = false;
        for change in changes {
            let Reservation { seats, status, hold_expires_at, reference, keyed, item, .. } =
                &change.reservation;
            match change.previous_version {
                None => {
                    rows.inserted.push(change);
                    let keyed = keyed.as_ref();
                    rows.idempotency_keys.push(keyed.map(|keyed| keyed.key.as_str()));
                    rows.request_fingerprints.push(keyed.map(|keyed| &*keyed.fingerprint));
                    rows.items.push(*item);
                    rows.holds.push(*hold_expires_at);
                    rows.references.push(reference.as_ref().map(Reference::as_str));
                }
                Some(previous_version) => {
                    rows.altered.push(change);
                    rows.statuses.push(status.as_str());
                    rows.previous_versions.push(previous_version);
                    rows.seats_after.push(*seats);
                    rows.holds_after.push(*hold_expires_at);
                    resized |= change.kind == ChangeKind::Shrunk;
                    extended |= change.kind == ChangeKind::Extended;
                }
            }
        }
        rows.forget_what_is_not_there(resized, extended);
        rows
    }

    /// The operators' keys as the journal stores them; `None` if there are none.
    fn key_ids(&self, batch: &'a Batch) -> Option<Vec<Option<&'a str>>> {
        let changes = [&self.inserted.key_ids[..], &self.altered.key_ids].concat();
        let of_event = batch.event_changed_by.as_ref().map(KeyId::as_str);
        let event = batch.event_change.as_ref().map(|_| of_event);
        let all: Vec<_> = changes.into_iter().chain(event).collect();
        all.iter().any(Option::is_some).then_some(all)
    }

    fn forget_what_is_not_there(&mut self, resized: bool, extended: bool) {
        if self.idempotency_keys.iter().all(Option::is_none) {
            self.idempotency_keys.clear();
            self.request_fingerprints.clear();
        }
        if self.items.iter().all(|item| *item == 0) {
            self.items.clear();
        }
        if self.holds.iter().all(Option::is_none) {
            self.holds.clear();
        }
        if self.references.iter().all(Option::is_none) {
            self.references.clear();
        }
        if !resized {
            self.seats_after.clear();
        }
        if !extended {
            self.holds_after.clear();
        }
    }
}

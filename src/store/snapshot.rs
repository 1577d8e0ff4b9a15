//! Everything that a batch is decided on, read in one statement.

use sqlx::PgConnection;
use uuid::Uuid;

use super::Snapshot;
use super::reservations::ReservationRow;
use crate::domain::{Command, Event, EventId, Named, Timestamp};

/// One statement is one snapshot: seats, statuses and versions that belong together. Read in two,
/// a reservation cancelled in between gave its seats back twice.
///
/// `offset 0` keeps the planner from turning the join by key around: planned while the table was
/// empty, it would read all of it for each batch once it is not.
pub(super) async fn snapshot(
    connection: &mut PgConnection,
    event_id: &EventId,
    commands: &[&Command],
) -> Result<Option<Snapshot>, sqlx::Error> {
    let wanted = Wanted::by(commands);
    let rows = sqlx::query_as!(
        SnapshotRow,
        r#"-- snapshot
        select event.name, event.total_seats, event.available_seats, event.reservation_count,
               event.version, event.created_at, clock_timestamp() as "now!",
               named.id as "id?", named.partner_id as "partner_id?", named.seats as "seats?",
               named.status as "status?", named.version as "reservation_version?",
               named.created_at as "reserved_at?", named.idempotency_key as "idempotency_key?",
               named.request_fingerprint as "request_fingerprint?"
          from events as event
          left join (
                select by_id.id, by_id.partner_id, by_id.seats, by_id.status, by_id.version,
                       by_id.created_at, by_id.idempotency_key, by_id.request_fingerprint
                  from reservations as by_id
                 where by_id.event_id = $1 and by_id.id = any ($2)
                 union all
                select by_key.*
                  from unnest($3::text[], $4::text[]) as wanted (partner_id, key),
                       lateral (
                        select id, partner_id, seats, status, version, created_at,
                               idempotency_key, request_fingerprint
                          from reservations
                         where event_id = $1
                           and partner_id = wanted.partner_id
                           and idempotency_key = wanted.key
                        offset 0
                       ) as by_key
               ) as named on true
         where event.id = $1"#,
        event_id.as_str(),
        &wanted.ids,
        &wanted.partner_ids as &[&str],
        &wanted.keys as &[&str],
    )
    .fetch_all(connection)
    .await?;

    let Some(first) = rows.first() else {
        return Ok(None);
    };
    let (event, now) = (first.event(event_id), first.now);
    let mut named = Named::default();
    for row in rows {
        if let Some(row) = row.reservation(event_id) {
            named.insert(row.try_into()?);
        }
    }
    Ok(Some(Snapshot { event, named, now }))
}

/// The event, and one of the named reservations beside it, or none.
struct SnapshotRow {
    name: String,
    total_seats: i32,
    available_seats: i32,
    reservation_count: i64,
    version: i64,
    created_at: Timestamp,
    now: Timestamp,
    id: Option<Uuid>,
    partner_id: Option<String>,
    seats: Option<i32>,
    status: Option<String>,
    reservation_version: Option<i64>,
    reserved_at: Option<Timestamp>,
    idempotency_key: Option<String>,
    request_fingerprint: Option<String>,
}

impl SnapshotRow {
    fn event(&self, id: &EventId) -> Event {
        Event {
            id: id.clone(),
            name: self.name.as_str().into(),
            total_seats: self.total_seats,
            available_seats: self.available_seats,
            reservation_count: self.reservation_count,
            version: self.version,
            created_at: self.created_at,
        }
    }

    /// The columns of the outer join are all there, or none is.
    fn reservation(self, event_id: &EventId) -> Option<ReservationRow> {
        Some(ReservationRow {
            id: self.id?,
            event_id: event_id.to_string(),
            partner_id: self.partner_id?,
            seats: self.seats?,
            status: self.status?,
            version: self.reservation_version?,
            created_at: self.reserved_at?,
            idempotency_key: self.idempotency_key,
            request_fingerprint: self.request_fingerprint,
        })
    }
}

/// What the commands name, as the arrays that the statement is bound to.
#[derive(Default)]
struct Wanted<'a> {
    ids: Vec<Uuid>,
    partner_ids: Vec<&'a str>,
    keys: Vec<&'a str>,
}

impl<'a> Wanted<'a> {
    fn by(commands: &[&'a Command]) -> Self {
        let mut wanted = Self::default();
        for command in commands {
            match command {
                Command::Reserve(reserve) => {
                    if let Some(key) = &reserve.key {
                        wanted.partner_ids.push(reserve.partner_id.as_str());
                        wanted.keys.push(key.as_str());
                    }
                }
                Command::Cancel(id) => wanted.ids.push(id.0),
            }
        }
        wanted
    }
}

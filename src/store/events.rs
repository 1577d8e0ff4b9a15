//! Reads of events, and their creation.

use sqlx::PgConnection;
use uuid::Uuid;

use super::EventNow;
use crate::domain::{
    Event, EventId, EventName, EventStatus, KeyId, NewEvent, Timestamp, TotalSeats,
};

/// A row of `events`, as stored.
pub(super) struct EventRow {
    pub id: String,
    pub name: String,
    pub total_seats: i32,
    pub available_seats: i32,
    pub held_seats: i32,
    pub reservation_count: i64,
    pub seats_per_reservation_max: i32,
    pub seats_per_partner_max: Option<i32>,
    pub status: String,
    pub sales_open_at: Option<Timestamp>,
    pub sales_close_at: Option<Timestamp>,
    pub version: i64,
    pub created_at: Timestamp,
}

/// Takes the event from a row that has other columns, too: sqlx's macros cannot nest rows.
macro_rules! event_of {
    ($id:expr, $row:expr) => {
        $crate::domain::Event::try_from($crate::store::events::EventRow {
            id: $id.to_string(),
            name: $row.name.clone(),
            total_seats: $row.total_seats,
            available_seats: $row.available_seats,
            held_seats: $row.held_seats,
            reservation_count: $row.reservation_count,
            seats_per_reservation_max: $row.seats_per_reservation_max,
            seats_per_partner_max: $row.seats_per_partner_max,
            status: $row.status.clone(),
            sales_open_at: $row.sales_open_at,
            sales_close_at: $row.sales_close_at,
            version: $row.version,
            created_at: $row.created_at,
        })
    };
}

pub(super) use event_of;

impl TryFrom<EventRow> for Event {
    type Error = sqlx::Error;

    /// Fails on values that this version of the service cannot have written.
    fn try_from(row: EventRow) -> Result<Self, sqlx::Error> {
        let unreadable = |column: &str| {
            sqlx::Error::Decode(format!("event {}: unreadable {column}", row.id).into())
        };
        Ok(Self {
            id: EventId::parse(&row.id).ok_or_else(|| unreadable("id"))?,
            name: EventName::stored(&row.name),
            total_seats: row.total_seats,
            available_seats: row.available_seats,
            held_seats: row.held_seats,
            reservation_count: row.reservation_count,
            seats_per_reservation_max: row.seats_per_reservation_max,
            seats_per_partner_max: row.seats_per_partner_max,
            status: EventStatus::parse(&row.status).ok_or_else(|| unreadable("status"))?,
            sales_open_at: row.sales_open_at,
            sales_close_at: row.sales_close_at,
            version: row.version,
            created_at: row.created_at,
        })
    }
}

pub(super) async fn event(
    connection: &mut PgConnection,
    id: &EventId,
) -> Result<Option<Event>, sqlx::Error> {
    let row = sqlx::query_as!(
        EventRow,
        "-- event
        select id, name, total_seats, available_seats, held_seats, reservation_count,
               seats_per_reservation_max, seats_per_partner_max, status, sales_open_at,
               sales_close_at, version, created_at
          from events
         where id = $1",
        id.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    row.map(Event::try_from).transpose()
}

pub(super) async fn event_now(
    connection: &mut PgConnection,
    id: &EventId,
) -> Result<Option<EventNow>, sqlx::Error> {
    let row = sqlx::query!(
        r#"-- event_now
        select name, total_seats, available_seats, held_seats, reservation_count,
               seats_per_reservation_max, seats_per_partner_max, status, sales_open_at,
               sales_close_at, version, created_at, clock_timestamp() as "now!"
          from events
         where id = $1"#,
        id.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    Ok(Some(EventNow { event: event_of!(id, row)?, now: row.now }))
}

/// Events ordered by id, starting after `after`.
pub(super) async fn events_after(
    connection: &mut PgConnection,
    after: &str,
    count: i64,
) -> Result<Vec<Event>, sqlx::Error> {
    let rows = sqlx::query_as!(
        EventRow,
        "-- page_of_events
        select id, name, total_seats, available_seats, held_seats, reservation_count,
               seats_per_reservation_max, seats_per_partner_max, status, sales_open_at,
               sales_close_at, version, created_at
          from events
         where id > $1
         order by id
         limit $2",
        after,
        count,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Event::try_from).collect()
}

/// Creates an event, or finds the one that has its id. A new event has nothing that a change could
/// race with, so its creation needs no guard. `made_by` tells whether this request created it,
/// since the statement may be resent if its answer was lost.
pub(super) async fn make_event(
    connection: &mut PgConnection,
    new: &NewEvent,
    made_by: Uuid,
    made_by_key: Option<&KeyId>,
) -> Result<Option<Event>, sqlx::Error> {
    let made = sqlx::query_as!(
        EventRow,
        "-- make_event
        insert into events
               (id, name, initial_seats, total_seats, available_seats, seats_per_reservation_max,
                seats_per_partner_max, sales_open_at, sales_close_at, made_by, made_by_key)
        values ($1::text, $2::text, $3, $3, $3, $4, $5::integer, $6, $7, $8, $9)
            on conflict (id) do nothing
        returning id, name, total_seats, available_seats, held_seats, reservation_count,
                  seats_per_reservation_max, seats_per_partner_max, status, sales_open_at,
                  sales_close_at, version, created_at",
        new.id.as_str(),
        new.name.as_str(),
        new.total_seats.get(),
        new.seats_per_reservation_max.get(),
        new.seats_per_partner_max.map(TotalSeats::get),
        new.sales_open_at,
        new.sales_close_at,
        made_by,
        made_by_key.map(KeyId::as_str),
    )
    .fetch_optional(&mut *connection)
    .await?;
    if let Some(made) = made {
        return Event::try_from(made).map(Some);
    }
    let made_before = sqlx::query_scalar!(
        r#"-- made_by
        select made_by = $2 as "is_ours" from events where id = $1"#,
        new.id.as_str(),
        made_by,
    )
    .fetch_optional(&mut *connection)
    .await?;
    match made_before.flatten() {
        Some(true) => event(connection, &new.id).await,
        Some(false) | None => Ok(None),
    }
}

/// Events with holds past their time. Each event that has holds costs one step through the index.
pub(super) async fn events_with_due_holds(
    connection: &mut PgConnection,
    count: i64,
) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- due_events
        with recursive holding (event_id) as (
            (select event_id from reservations
              where status = 'held'
              order by event_id, hold_expires_at limit 1)
            union all
            select (select further.event_id from reservations as further
                     where further.status = 'held' and further.event_id > holding.event_id
                     order by further.event_id, further.hold_expires_at limit 1)
              from holding
             where holding.event_id is not null
        )
        select event_id as "event_id!"
          from holding
         where event_id is not null
           and (select due.hold_expires_at <= statement_timestamp() from reservations as due
                 where due.status = 'held' and due.event_id = holding.event_id
                 order by due.hold_expires_at limit 1)
         limit $1"#,
        count,
    )
    .fetch_all(connection)
    .await
}

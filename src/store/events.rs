//! Reads of events, and the making of one.

use sqlx::PgConnection;

use crate::domain::{Event, EventId};

pub(super) async fn event(
    connection: &mut PgConnection,
    id: &EventId,
) -> Result<Option<Event>, sqlx::Error> {
    let row = sqlx::query!(
        "-- event
        select name, total_seats, available_seats, reservation_count, version, created_at
          from events
         where id = $1",
        id.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    Ok(row.map(|row| Event {
        id: id.clone(),
        name: row.name.into(),
        total_seats: row.total_seats,
        available_seats: row.available_seats,
        reservation_count: row.reservation_count,
        version: row.version,
        created_at: row.created_at,
    }))
}

/// A new event has nothing that a change could race with, so it needs no guard.
pub(super) async fn ensure_event(
    connection: &mut PgConnection,
    id: &EventId,
    name: &str,
    seats: i32,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "-- ensure_event
        insert into events (id, name, initial_seats, total_seats, available_seats)
        values ($1::text, $2::text, $3, $3, $3)
            on conflict (id) do nothing",
        id.as_str(),
        name,
        seats,
    )
    .execute(connection)
    .await?;
    Ok(())
}

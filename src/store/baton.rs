//! Turns between the replicas that sell one event: who has the event's baton reads, decides and
//! commits, and the others wait for it instead of committing what is bound to lose.
//!
//! It is an advisory lock of the session, so it is free again when its owner's connection ends. It
//! guards nothing, and nobody waits for it for long: who is stopped while it has the baton costs the
//! others a little time. A commit holds it shared, from the update of the event to its end, so that
//! whoever asks for it meanwhile reads what that commit made.
//!
//! What a session did to such a lock is not undone with its transaction. So a connection on which
//! anything failed lets go of it, or is closed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;

use super::EventNow;
use super::connections::Lease;
use super::events::event_of;
use crate::domain::EventId;

/// How long a session waits for it; migration 15 says so to the database.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(100);

/// The batons that this replica has. An event has one batcher, which has one at most.
#[derive(Default)]
pub(super) struct Batons(Mutex<HashMap<EventId, Baton>>);

/// The connection whose session has it.
pub(super) struct Baton {
    pub lease: Lease,
    /// Of the advisory lock.
    pub key: i64,
}

impl Batons {
    pub fn keep(&self, event_id: &EventId, baton: Baton) {
        self.all().insert(event_id.clone(), baton);
    }

    /// Takes it out, to use its connection.
    pub fn find(&self, event_id: &EventId) -> Option<Baton> {
        self.all().remove(event_id)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<EventId, Baton>> {
        // A map has no state that a panic could leave half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the baton, and reads the event then. With the key to pass it on by.
pub(super) async fn take(
    connection: &mut PgConnection,
    event_id: &EventId,
) -> Result<Option<(i64, EventNow)>, sqlx::Error> {
    let row = sqlx::query!(
        r#"-- take_baton
        select hashtextextended($1, 0) as "key!", clock_timestamp() as "now!",
               name as "name!", total_seats as "total_seats!",
               available_seats as "available_seats!", held_seats as "held_seats!",
               reservation_count as "reservation_count!",
               seats_per_reservation_max as "seats_per_reservation_max!", seats_per_partner_max,
               status as "status!", sales_open_at, sales_close_at, version as "version!",
               created_at as "created_at!"
          from take_baton($1)"#,
        event_id.as_str(),
    )
    .fetch_optional(connection)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let event = event_of!(event_id, row)?;
    Ok(Some((row.key, EventNow { event, now: row.now })))
}

/// Lets go of it without a commit, if the session has it.
pub(super) async fn let_go(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- let_go
        select 1 as "done!" from pg_advisory_unlock_all()"#
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

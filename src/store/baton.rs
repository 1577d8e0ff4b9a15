//! Turns between the replicas that sell one event: the replica that has the event's baton reads,
//! decides and commits, and the others wait for it instead of sending commits that are bound to
//! lose.
//!
//! The baton is a session-level advisory lock, so it is free again when its owner's connection
//! ends. It guards nothing, and is never waited for long: a replica that stalls while it has the
//! baton costs the others a little time. A commit holds the lock in shared mode from the update of
//! the event to its end, so that a replica that asks for the baton meanwhile reads what that commit
//! wrote.
//!
//! What a session does to such a lock is not undone when a transaction fails. So a connection on
//! which anything failed releases the lock, or is closed.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgConnection;

use super::EventNow;
use super::connections::Lease;
use super::events::event_of;
use crate::domain::EventId;

/// How long a session waits for the baton; migration 15 sets the same limit in the database.
pub(super) const WAIT_MAX: Duration = Duration::from_millis(100);

/// The batons that this replica has. Each event has one batcher, which has at most one.
#[derive(Default)]
pub(super) struct Batons(Mutex<HashMap<EventId, Baton>>);

/// A baton, with the connection whose session has it.
pub(super) struct Baton {
    pub lease: Lease,
    /// The key of the advisory lock.
    pub key: i64,
}

impl Batons {
    pub fn keep(&self, event_id: &EventId, baton: Baton) {
        self.all().insert(event_id.clone(), baton);
    }

    /// Removes the baton, so that its connection can be used.
    pub fn find(&self, event_id: &EventId) -> Option<Baton> {
        self.all().remove(event_id)
    }

    fn all(&self) -> MutexGuard<'_, HashMap<EventId, Baton>> {
        // Poisoning does not matter: a panic cannot leave a map half-changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Waits for the baton, and then reads the event. Also returns the lock's key, for passing it on.
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

/// Releases the baton without a commit, if the session has it.
pub(super) async fn let_go(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- let_go
        select 1 as "done!" from pg_advisory_unlock_all()"#
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

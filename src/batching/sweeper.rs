//! Housekeeping: holds past their time are expired, so that what is read of an event is what it
//! has. Nothing depends on it, since a decision that needs their seats expires them itself.
//!
//! It runs on every replica. What to sweep is found without a lock, and each event is swept by its
//! batcher, as a command like any other: of two replicas that sweep it, one finds nothing left.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use super::Batching;
use crate::domain::{Command, EventId};
use crate::store::PostgresStore;

/// How late a hold's seats may be seen as available.
const PAUSE: Duration = Duration::from_secs(1);
/// Events that are swept between two looks.
const EVENTS_MAX: i64 = 100;

/// Sweeps as long as it is polled.
pub async fn sweep(
    store: Arc<PostgresStore>,
    batching: Batching<PostgresStore>,
    request_timeout: Duration,
) {
    loop {
        if !sweep_once(&store, &batching, request_timeout).await {
            sleep(PAUSE).await;
        }
    }
}

/// Whether there may be more to do at once.
async fn sweep_once(
    store: &PostgresStore,
    batching: &Batching<PostgresStore>,
    request_timeout: Duration,
) -> bool {
    let found = store.events_with_due_holds(EVENTS_MAX, Instant::now() + request_timeout).await;
    let events = match found {
        Ok(events) => events,
        Err(failure) => {
            // Whoever asks for something meanwhile is told.
            log::debug!("looking for holds past their time: {}", crate::chain(&failure));
            return false;
        }
    };
    let metrics = &batching.0.metrics;
    metrics.events_with_due_holds.set(events.len() as i64);
    metrics.sweeper_looked.set(OffsetDateTime::now_utc().unix_timestamp());
    let mut swept = false;
    for id in events.iter().filter_map(|id| EventId::parse(id)) {
        let until = Instant::now() + request_timeout;
        match batching.submit(&id, Command::Sweep, until).await {
            Ok(_) => swept = true,
            Err(rejection) => log::debug!("event {id} was not swept: {rejection:?}"),
        }
    }
    swept
}

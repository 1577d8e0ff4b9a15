//! Housekeeping: expires holds past their time, so that reads of an event show the seats it really
//! has. Nothing depends on it, since a decision that needs their seats expires them itself.
//!
//! It runs on every replica. Events to sweep are found without a lock, and each is swept by its
//! batcher, through a command like any other: if two replicas sweep an event, one finds nothing
//! left.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use super::Batching;
use crate::domain::{Command, EventId};
use crate::store::PostgresStore;

/// Between two searches, if the last one found nothing.
const PAUSE: Duration = Duration::from_secs(1);
/// How many events are swept before the next search for due holds, at most.
const EVENTS_MAX: i64 = 100;
/// How many of them at once, so that one whose batcher is busy does not hold up the others.
const EVENTS_AT_ONCE: usize = 2;

/// Sweeps as long as the future is polled.
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

/// Whether there may be more to sweep right away.
async fn sweep_once(
    store: &PostgresStore,
    batching: &Batching<PostgresStore>,
    request_timeout: Duration,
) -> bool {
    let found = store.events_with_due_holds(EVENTS_MAX, Instant::now() + request_timeout).await;
    let events = match found {
        Ok(events) => events,
        Err(failure) => {
            // Callers whose requests need the database in the meantime are told.
            log::debug!("could not look for holds past their end: {}", crate::chain(&failure));
            return false;
        }
    };
    let metrics = &batching.0.metrics;
    metrics.events_with_due_holds.set(events.len() as i64);
    metrics.sweeper_looked.set(OffsetDateTime::now_utc().unix_timestamp());
    let ids: Vec<EventId> = events.iter().filter_map(|id| EventId::parse(id)).collect();
    let sweeping = stream::iter(ids).map(|id| async move {
        let until = Instant::now() + request_timeout;
        let swept = batching.submit(&id, Command::Sweep, until).await;
        swept
            .inspect_err(|rejection| log::debug!("event {id} was not swept: {rejection:?}"))
            .is_ok()
    });
    let swept: Vec<bool> = sweeping.buffer_unordered(EVENTS_AT_ONCE).collect().await;
    swept.contains(&true)
}

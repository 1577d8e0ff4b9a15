//! Housekeeping: expires holds past their time, so that reads of an event show the seats it really
//! has. Nothing depends on it, since a decision that needs their seats expires them itself.
//!
//! It runs on every replica. Events to sweep are found without a lock, and each is swept by its
//! batcher, through a command like any other: if two replicas sweep an event, one finds nothing
//! left.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use super::Batching;
use crate::domain::{Command, EventId};
use crate::store::PostgresStore;

/// How long after its end a hold's seats may still be shown as taken.
const PAUSE: Duration = Duration::from_secs(1);
/// How many events are swept before the next search for due holds, at most.
const EVENTS_MAX: i64 = 100;

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

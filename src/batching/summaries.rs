//! Shared reads: what many requests ask for at the same time is read once.
//!
//! Requests that arrive while a read of the event is in flight share the next one, never the
//! current one, so that a read never returns a state older than the request.

use std::collections::HashMap;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

use crate::domain::{Event, EventId};
use crate::store::{PostgresStore, Unavailable};

/// Why an event could not be read. Logged where it happened.
#[derive(Clone, Copy, Debug, Error)]
pub enum SummaryUnavailable {
    #[error("no connection was free in time")]
    Busy,
    #[error("the database could not be queried in time")]
    Failed,
}

type Answer = Result<Option<Arc<Event>>, SummaryUnavailable>;

/// Cheap to clone.
#[derive(Clone)]
pub struct Summaries(Arc<Shared>);

struct Shared {
    store: Arc<PostgresStore>,
    runtime: Handle,
    /// The timeout of one read.
    read_timeout: Duration,
    /// Requests that wait for the next read. An event is listed exactly as long as its reader runs.
    waiting: Mutex<HashMap<EventId, Vec<oneshot::Sender<Answer>>>>,
}

impl Summaries {
    pub fn new(store: Arc<PostgresStore>, read_timeout: Duration, runtime: Handle) -> Self {
        Self(Arc::new(Shared { store, runtime, read_timeout, waiting: Mutex::default() }))
    }

    /// The event as it is at some moment after this call; `None` if there is no such event.
    pub async fn event(&self, id: &EventId, answer_by: Instant) -> Answer {
        let (sender, answer) = oneshot::channel();
        {
            let mut waiting = self.0.waiting();
            if let Some(others) = waiting.get_mut(id) {
                others.push(sender);
            } else {
                waiting.insert(id.clone(), vec![sender]);
                self.0.runtime.spawn(Arc::clone(&self.0).read_while_wanted(id.clone()));
            }
        }
        match timeout_at(answer_by, answer).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) | Err(_) => Err(SummaryUnavailable::Failed),
        }
    }
}

impl Shared {
    async fn read_while_wanted(self: Arc<Self>, id: EventId) {
        loop {
            let readers = {
                let mut waiting = self.waiting();
                let readers = waiting.get_mut(&id).map(mem::take).unwrap_or_default();
                if readers.is_empty() {
                    waiting.remove(&id);
                    return;
                }
                readers
            };
            let answer = Arc::clone(&self).read(id.clone()).await;
            for reader in readers {
                // A request that was abandoned needs no answer.
                let _ = reader.send(answer.clone());
            }
        }
    }

    /// In a task of its own, since a panic in it must not leave the event listed without a reader.
    async fn read(self: Arc<Self>, id: EventId) -> Answer {
        let until = Instant::now() + self.read_timeout;
        let runtime = self.runtime.clone();
        let reading = runtime.spawn(async move {
            let event = self.store.event(&id, until).await;
            event.inspect_err(|failure| log::error!("event {id}: {}", crate::chain(failure)))
        });
        match reading.await {
            Ok(Ok(event)) => Ok(event.map(Arc::new)),
            Ok(Err(Unavailable::Busy)) => Err(SummaryUnavailable::Busy),
            Ok(Err(_)) | Err(_) => Err(SummaryUnavailable::Failed),
        }
    }

    fn waiting(&self) -> MutexGuard<'_, HashMap<EventId, Vec<oneshot::Sender<Answer>>>> {
        // Lists are moved in and out whole, so a panic cannot leave one half-changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

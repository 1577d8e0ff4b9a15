//! Mailboxes and batchers: every change of an event waits in the event's mailbox, and the event's
//! batcher takes all waiting commands into one commit.
//!
//! Callers take turns, if they are known, so that a flood from one does not keep the others out.
//!
//! While a commit is in flight the next batch gathers; nothing ever waits for a timer. Requests of
//! one process therefore never conflict with each other, only with those of another replica.
//!
//! Invariant: this module decides nothing about seats (that is [`crate::domain::decide`]) and
//! writes only through [`Store::commit`].

use std::collections::HashMap;
use std::mem;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;

use prometheus_client::registry::Registry;
use tokio::runtime::Handle;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::domain::{Acceptance, Command, EventId, Refusal, ReservationId};
use crate::store::Store;

mod batcher;
mod baton;
mod metrics;
mod settle;
mod summaries;
mod sweeper;
mod taking;
mod turns;
mod versions;

use batcher::Batcher;
use metrics::Metrics;
use turns::{Turns, Waiting};

pub use summaries::{Summaries, SummaryUnavailable};
pub use sweeper::sweep;
pub use versions::{LatestVersions, look_for_versions};

/// How many events may have a batcher at the same time. Far more than are ever busy at once; it
/// limits what requests for made-up events can occupy.
const MAILBOXES_MAX: usize = 10_000;

/// What became of a command. An `Err` says whether anything happened: only
/// [`Rejection::OutcomeUnknown`] leaves that open.
pub type Outcome = Result<Acceptance, Rejection>;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The decision was to refuse it.
    Refused(Refusal),
    /// Other replicas committed first too often. Nothing happened.
    VersionConflict,
    /// Too much was waiting. Nothing happened.
    Overloaded,
    /// The database could not be queried. Nothing happened.
    DatabaseUnavailable,
    /// It was sent, but whether it was committed could not be determined in time.
    OutcomeUnknown {
        /// The reservation (the first of several) that was to be made or altered; `None` for a
        /// change of the event.
        reservation_id: Option<ReservationId>,
        /// The version it was based on, if known: once the event's version is higher, the
        /// reservation either exists or never will.
        base_version: Option<i64>,
    },
    /// A bug in the service. Nothing happened.
    Internal,
}

#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The time from a request's arrival to its answer. The second half is for the database, so a
    /// command that is not sent in the first half is not sent at all.
    pub request_timeout: Duration,
    /// How many commands may wait for one event.
    pub mailbox_commands_max: usize,
}

/// Makes the ids of reservations and batches. UUIDv7 in the service; seeded in simulations.
pub type NewId = fn() -> Uuid;

/// The entry point of the engine. Cheap to clone.
pub struct Batching<S>(Arc<Shared<S>>);

impl<S> Clone for Batching<S> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

/// What all batchers share.
struct Shared<S> {
    store: Arc<S>,
    settings: Settings,
    new_id: NewId,
    /// Batchers run here, not on the worker that received the request: they outlive both.
    runtime: Handle,
    batchers: TaskTracker,
    mailboxes: RwLock<Mailboxes>,
    latest_versions: LatestVersions,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Mailboxes {
    by_event: HashMap<EventId, Arc<Mailbox>>,
    /// Set when the service stops: no more commands are accepted.
    closed: bool,
}

/// The commands that wait for the batcher of one event.
struct Mailbox {
    waiting: Mutex<Turns<Queued>>,
    /// Notified when a command arrives, and when no more will.
    changed: Notify,
    closed: AtomicBool,
}

impl Mailbox {
    fn new() -> Self {
        let (waiting, closed) = (Mutex::new(Turns::new()), AtomicBool::new(false));
        Self { waiting, changed: Notify::new(), closed }
    }

    /// Returns a command if there is no room for it: this one, or another that is evicted for it.
    fn push(&self, queued: Queued, commands_max: usize) -> Option<Queued> {
        let refused = self.waiting().push_back(queued, commands_max);
        self.changed.notify_one();
        refused
    }

    /// Waits until there is a command; `false` if there will never be one.
    async fn filled(&self) -> bool {
        loop {
            // Read before the queue, so that everything pushed before the close is seen.
            let closed = self.closed.load(Ordering::Acquire);
            if !self.waiting().is_empty() {
                return true;
            }
            if closed {
                return false;
            }
            self.changed.notified().await;
        }
    }

    /// Takes all waiting commands, if there are at most `commands_max`, by a swap: callers who add
    /// more meanwhile wait no longer than that takes.
    fn swap(&self, empty: &mut Turns<Queued>, commands_max: usize) -> bool {
        let mut waiting = self.waiting();
        let fits = waiting.len() <= commands_max;
        if fits {
            mem::swap(&mut *waiting, empty);
        }
        fits
    }

    /// Puts back commands that did not fit, in front of all others.
    fn put_back(&self, rest: &mut Turns<Queued>) {
        if rest.is_empty() {
            return;
        }
        let mut ordered = Vec::new();
        while let Some(queued) = rest.pop() {
            ordered.push(queued);
        }
        let mut waiting = self.waiting();
        ordered.into_iter().rev().for_each(|queued| waiting.push_front(queued));
    }

    fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.changed.notify_one();
    }

    fn waiting(&self) -> MutexGuard<'_, Turns<Queued>> {
        // No change of it can panic halfway through.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A command in a mailbox.
#[derive(Debug)]
struct Queued {
    command: Command,
    /// If not sent by then, it is answered "overloaded" and dropped.
    send_by: Instant,
    answer_by: Instant,
    /// An earlier batch has deferred it to a later one.
    deferred: bool,
    reply: oneshot::Sender<Outcome>,
    metrics: Arc<Metrics>,
}

impl Waiting for Queued {
    fn command(&self) -> &Command {
        &self.command
    }
}

impl Queued {
    fn answer(self, outcome: Outcome) {
        self.metrics.answered(&self.command, &outcome);
        // The client may have disconnected; the command ran to completion all the same.
        let _ = self.reply.send(outcome);
    }
}

impl<S: Store> Batching<S> {
    pub fn new(store: Arc<S>, settings: Settings, new_id: NewId, runtime: Handle) -> Self {
        Self(Arc::new(Shared {
            store,
            settings,
            new_id,
            runtime,
            batchers: TaskTracker::new(),
            mailboxes: RwLock::default(),
            latest_versions: LatestVersions::default(),
            metrics: Arc::new(Metrics::new()),
        }))
    }

    /// Registers the engine's metrics.
    pub fn register(&self, registry: &mut Registry) {
        self.0.metrics.register(registry);
    }

    /// Where batchers announce what they commit.
    pub fn latest_versions(&self) -> &LatestVersions {
        &self.0.latest_versions
    }

    /// An id for a reservation that is about to be made.
    pub fn new_reservation_id(&self) -> ReservationId {
        ReservationId((self.0.new_id)())
    }

    /// Runs a command, and answers by `answer_by`, which is at most the request timeout away. The
    /// command runs to completion even if this future is dropped.
    pub async fn submit(
        &self,
        event_id: &EventId,
        command: Command,
        answer_by: Instant,
    ) -> Outcome {
        let reservation_id = command.reservation_id();
        let (reply, answer) = oneshot::channel();
        // Counted from the request's arrival, not from now: a command that arrives late must not
        // shorten the time of the batch it joins.
        let send_by = answer_by - self.0.settings.request_timeout / 2;
        let metrics = Arc::clone(&self.0.metrics);
        let queued = Queued { command, send_by, answer_by, deferred: false, reply, metrics };
        if Instant::now() > send_by {
            // Its time was used up elsewhere, for example by a slow read before it. It would be
            // late for any batch, and the waiting commands are in the order of their deadlines.
            queued.answer(Err(Rejection::Overloaded));
        } else {
            self.0.metrics.waiting.inc();
            if let Some(queued) = self.0.enqueue(event_id, queued) {
                self.0.metrics.waiting.dec();
                queued.answer(Err(Rejection::Overloaded));
            }
        }
        // A batcher answers every command it took; if there is no answer, it was ended from
        // outside.
        answer
            .await
            .unwrap_or(Err(Rejection::OutcomeUnknown { reservation_id, base_version: None }))
    }

    /// Accepts no more commands, and returns once all earlier ones are settled and answered.
    pub async fn drain(&self) {
        {
            let mut mailboxes = self.0.mailboxes.write().unwrap_or_else(PoisonError::into_inner);
            mailboxes.closed = true;
            mailboxes.by_event.drain().for_each(|(_, mailbox)| mailbox.close());
        }
        self.0.batchers.close();
        self.0.batchers.wait().await;
    }
}

impl<S: Store> Shared<S> {
    /// Returns a command if there is no room for it, this one or another. Never waits.
    fn enqueue(self: &Arc<Self>, event_id: &EventId, queued: Queued) -> Option<Queued> {
        let commands_max = self.settings.mailbox_commands_max;
        // The command is added under the lock: a batcher retires under it, too, so that it cannot
        // leave a command behind.
        {
            let mailboxes = self.mailboxes.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(mailbox) = mailboxes.by_event.get(event_id) {
                return mailbox.push(queued, commands_max);
            }
        }
        let mut mailboxes = self.mailboxes.write().unwrap_or_else(PoisonError::into_inner);
        if mailboxes.closed {
            return Some(queued);
        }
        if let Some(mailbox) = mailboxes.by_event.get(event_id) {
            return mailbox.push(queued, commands_max);
        }
        if mailboxes.by_event.len() >= MAILBOXES_MAX {
            return Some(queued);
        }
        let mailbox = Arc::new(Mailbox::new());
        let refused = mailbox.push(queued, commands_max);
        mailboxes.by_event.insert(event_id.clone(), Arc::clone(&mailbox));
        let batcher = Batcher::new(Arc::clone(self), event_id.clone(), mailbox);
        self.batchers.spawn_on(batcher.run(), &self.runtime);
        refused
    }

    /// Records a command that is taken into its first batch.
    fn taken(&self, queued: &Queued) {
        let arrived = queued.answer_by - self.settings.request_timeout;
        self.metrics.taken(arrived.elapsed());
    }

    /// Removes an event's mailbox if it is empty.
    fn retire(&self, event_id: &EventId, mailbox: &Mailbox) -> bool {
        let mut mailboxes = self.mailboxes.write().unwrap_or_else(PoisonError::into_inner);
        let empty = mailbox.waiting().is_empty();
        if empty {
            mailboxes.by_event.remove(event_id);
        }
        empty
    }
}

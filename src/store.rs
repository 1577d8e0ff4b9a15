//! PostgreSQL: the reads, the one guarded write, and what their failures mean.
//!
//! The only place that has SQL. It never decides anything, and it never retries a write: whether
//! that is safe is known to the batcher alone.

use std::future::Future;

use tokio::time::Instant;
use uuid::Uuid;

use crate::domain::{
    Change, Command, Event, EventChange, EventId, KeyId, Named, Timestamp, UsageByPartner,
};

mod baton;
mod changes;
mod clock;
mod commit;
mod connections;
mod error;
mod events;
mod keys;
mod listing;
mod metrics;
mod postgres;
mod reservations;
pub mod schema;
mod snapshot;
pub(crate) mod verify;

pub use changes::{ReservationChanged, Version, Versions};
pub use clock::DatabaseClock;
pub use error::{CommitError, Unavailable};
pub use keys::{KeysChanged, SecretKey};
pub use listing::{Filter, Page, Position};
pub use postgres::{ConnectionLimits, PostgresStore, session_options};

/// Where batches are committed. Two implementations: [`PostgresStore`], and the simulated one of
/// the test suite, for faults that cannot be produced on demand.
///
/// Each call ends by `until`, whatever the database does. What `snapshot` and `batch_at` show was
/// committed for good before: a database that shows what it may still lose in a failover is not
/// asked before a commit of the store's own has succeeded there.
pub trait Store: Send + Sync + 'static {
    /// The event, the reservations that `commands` name by id or key, and the holds past their time
    /// whose seats they may need, in one snapshot; `None` if there is no such event. `before` is what
    /// was known of the event some time ago: it lets the store read the event alone, where nothing else
    /// can matter.
    fn snapshot(
        &self,
        event_id: &EventId,
        commands: &[&Command],
        before: Option<Before<'_>>,
        until: Instant,
    ) -> impl Future<Output = Result<Option<Snapshot>, Unavailable>> + Send;

    /// Runs the guarded statement: all of `batch`, or nothing.
    fn commit(
        &self,
        batch: &Batch,
        until: Instant,
    ) -> impl Future<Output = Result<Commit, CommitError>> + Send;

    /// Waits in line with other replicas, for a short time, for the event's baton, and reads the event
    /// then. `None` if it did not come, or there is no such event.
    ///
    /// It is ours until a commit of the event succeeds or fails, or until it is passed on; a commit
    /// that comes too late leaves it with us. Others may commit meanwhile, and whoever does not get it
    /// may, too: nothing depends on it but how often the replicas get into each other's way.
    fn take_baton(
        &self,
        event_id: &EventId,
        until: Instant,
    ) -> impl Future<Output = Result<Option<EventNow>, Unavailable>> + Send;

    /// Lets go of the event's baton, if it is ours.
    fn pass_baton(&self, event_id: &EventId, until: Instant) -> impl Future<Output = ()> + Send;

    /// The batch that made `version` of the event; `None` if no such version is visible.
    fn batch_at(
        &self,
        event_id: &EventId,
        version: i64,
        until: Instant,
    ) -> impl Future<Output = Result<Option<Uuid>, Unavailable>> + Send;

    /// Waits for a commit of the event that is in flight, and then commits once itself without
    /// changing anything. Its success proves that whatever was visible before it is as durable as
    /// the database makes an acknowledged commit, synchronous replication included.
    fn fence(
        &self,
        event_id: &EventId,
        until: Instant,
    ) -> impl Future<Output = Result<(), Unavailable>> + Send;
}

/// What is known of an event before it is read.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    pub event: &'a Event,
    /// At the event's version. Where that has not changed, it is not read again.
    pub usage: &'a UsageByPartner,
}

/// An event at one version, with what was asked for beside it.
#[derive(Debug)]
pub struct Snapshot {
    pub event: Event,
    pub named: Named,
    /// What partners have whose commands are limited.
    pub usage: UsageByPartner,
    /// The database's clock.
    pub now: Timestamp,
}

/// The event as it is now that its baton is ours.
#[derive(Debug)]
pub struct EventNow {
    pub event: Event,
    /// The database's clock.
    pub now: Timestamp,
}

/// One commit, complete and fixed before it is first sent: to send it again is harmless.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Goes into the journal: the proof of whose commit made the version.
    pub id: Uuid,
    pub event_id: EventId,
    /// The commit succeeds only from this version, and makes the next one.
    pub base_version: i64,
    pub net_seats: i32,
    pub net_held: i32,
    pub net_confirmed: i64,
    pub at: Timestamp,
    pub changes: Vec<Change>,
    pub event_change: Option<EventChange>,
    /// The key of the operator who changed the event.
    pub event_changed_by: Option<KeyId>,
}

/// What became of a batch.
#[derive(Debug)]
pub enum Commit {
    Committed(Committed),
    /// The event is no longer at the batch's base version. Nothing happened.
    VersionMoved,
}

/// The event's counters after a commit, as the statement itself returned them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Committed {
    pub version: i64,
    pub available_seats: i32,
    pub held_seats: i32,
    pub reservation_count: i64,
    /// Whether another replica has the event's baton. (Before PostgreSQL 17: or waits for it.)
    pub others_in_line: bool,
    /// The database's clock.
    pub now: Timestamp,
}

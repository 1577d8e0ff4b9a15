//! PostgreSQL: the reads, the one guarded write, and what their failures mean.
//!
//! The only module that contains SQL. It never decides anything, and it never retries a write: only
//! the batcher knows whether that is safe.

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
mod usage;
pub(crate) mod verify;

pub use changes::{ReservationChanged, Version, Versions};
pub use clock::DatabaseClock;
pub use error::{CommitError, Unavailable};
pub use keys::{KeysChanged, SecretKey};
pub use listing::{Filter, Page, Position};
pub use postgres::{ConnectionLimits, PostgresStore, session_options};

/// Where batches are committed. There are two implementations: [`PostgresStore`], and the test
/// suite's simulated store, for faults that cannot be produced on demand.
///
/// Each call ends by `until`, whatever the database does. Everything that `snapshot` and `batch_at`
/// show is permanently committed: a database may show what it can still lose in a failover, so it
/// is not queried until a commit of the store's own has succeeded there.
pub trait Store: Send + Sync + 'static {
    /// The event, the reservations that `commands` name by id or key, and the holds past their time
    /// whose seats they may need, in one snapshot; `None` if there is no such event. `before` is
    /// what was known about the event some time ago: it lets the store read only the event row if
    /// nothing else can matter.
    fn snapshot(
        &self,
        event_id: &EventId,
        commands: &[&Command],
        before: Option<Before<'_>>,
        until: Instant,
    ) -> impl Future<Output = Result<Option<Snapshot>, Unavailable>> + Send;

    /// Runs the guarded statement, which commits all of `batch` or nothing.
    fn commit(
        &self,
        batch: &Batch,
        until: Instant,
    ) -> impl Future<Output = Result<Commit, CommitError>> + Send;

    /// Waits in line with other replicas for the event's baton, for a short time, and then reads
    /// the event. `None` if the baton was not obtained in time, or if there is no such event.
    ///
    /// The baton is ours until a commit of the event succeeds or fails, or until it is passed on;
    /// after a commit that finds the version moved, we still have it. Any replica may commit
    /// without the baton, at any time: it affects only how often the replicas conflict.
    fn take_baton(
        &self,
        event_id: &EventId,
        until: Instant,
    ) -> impl Future<Output = Result<Option<EventNow>, Unavailable>> + Send;

    /// Releases the event's baton, if it is ours.
    fn pass_baton(&self, event_id: &EventId, until: Instant) -> impl Future<Output = ()> + Send;

    /// The id of the batch that created `version` of the event; `None` if that is not visible.
    fn batch_at(
        &self,
        event_id: &EventId,
        version: i64,
        until: Instant,
    ) -> impl Future<Output = Result<Option<Uuid>, Unavailable>> + Send;

    /// Waits for a commit of the event that is in flight, and then makes a commit of its own that
    /// changes nothing. Its success proves that everything visible before it is as durable as the
    /// database makes an acknowledged commit, synchronous replication included.
    fn fence(
        &self,
        event_id: &EventId,
        until: Instant,
    ) -> impl Future<Output = Result<(), Unavailable>> + Send;
}

/// What is known about an event before it is read.
#[derive(Clone, Copy, Debug)]
pub struct Before<'a> {
    pub event: &'a Event,
    /// As of the event's version. While that has not changed, it need not be read again.
    pub usage: &'a UsageByPartner,
}

/// An event at one version, together with the other rows that were asked for.
#[derive(Debug)]
pub struct Snapshot {
    pub event: Event,
    pub named: Named,
    /// The usage of the partners whose commands are limited.
    pub usage: UsageByPartner,
    /// The database's clock.
    pub now: Timestamp,
}

/// The event alone, and when it was read.
#[derive(Debug)]
pub struct EventNow {
    pub event: Event,
    /// The database's clock.
    pub now: Timestamp,
}

/// One commit, complete and fixed before it is first sent, so that resending it is harmless.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Recorded in the journal, to prove whose commit created the version.
    pub id: Uuid,
    pub event_id: EventId,
    /// The commit succeeds only if the event is at this version, and creates the next one.
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

/// The outcome of a commit that the database answered.
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
    /// Whether another replica has the event's baton (before PostgreSQL 17: or waits for it).
    pub others_in_line: bool,
    /// The database's clock.
    pub now: Timestamp,
}

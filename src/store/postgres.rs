//! [`PostgresStore`]: runs the statements of this module's siblings on borrowed connections, each
//! within its deadline.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use prometheus_client::registry::Registry;
use sqlx::postgres::PgConnectOptions;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use super::baton::{Baton, Batons};
use super::connections::{Connections, Lease};
use super::error::{self, leaves_connection_usable, was_locked};
use super::metrics::Metrics;
use super::{
    Batch, Before, Commit, CommitError, EventNow, Filter, KeysChanged, Page, Position, Snapshot,
    Store, Unavailable, Versions,
};
use super::{baton, changes, commit, events, keys, listing, reservations, schema, snapshot, usage};
use crate::domain::{
    Command, Event, EventId, Key, KeyId, NewEvent, NewKey, Reservation, ReservationId, Timestamp,
};

/// A read on a connection that turns out to be broken is tried once more, on a new one.
const READ_ATTEMPTS_MAX: usize = 2;
/// How many events may have their sums brought up to date at once, and how long that may take.
const SUMMING_MAX: usize = 2;
const SUM_MAX: Duration = Duration::from_secs(10);

/// Runs a statement that is safe to run twice. A macro, since a function that is generic over
/// futures that borrow their connection cannot yet promise that they are `Send`.
macro_rules! ask {
    ($connections:expr, $until:expr, $($statement:ident)::+($($argument:expr),*)) => {{
        let mut attempts_left = READ_ATTEMPTS_MAX;
        let mut sent = None;
        loop {
            attempts_left -= 1;
            let mut lease = match ($connections.lease($until).await, sent.take()) {
                (Ok(lease), _) => lease,
                // The statement was sent once, and may have been executed.
                (Err(_), Some(failure)) => break Err(Unavailable::Statement(failure)),
                (Err(unavailable), None) => break Err(unavailable),
            };
            let statement = $($statement)::+(&mut lease.connection, $($argument),*);
            let answer = timeout_at($until, statement).await;
            match answer.map_err(|_elapsed| Unavailable::TimedOut)? {
                Ok(value) => {
                    lease.give_back();
                    break Ok(value);
                }
                Err(failure) => {
                    let broken = lease.give_back_after(&failure);
                    if !broken || attempts_left == 0 {
                        break Err(Unavailable::Statement(failure));
                    }
                    sent = Some(failure);
                }
            }
        }
    }};
}

/// Upper limits on the connections that the service opens.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionLimits {
    /// For the batchers.
    pub writes: usize,
    /// For reads that no batch waits for.
    pub reads: usize,
}

/// The real store. Connections are opened when they are first needed.
pub struct PostgresStore {
    writes: Arc<Connections>,
    reads: Arc<Connections>,
    /// A single connection for authentication, so that no other read can keep all callers out. Its
    /// commits never wait for a standby.
    keys: Arc<Connections>,
    batons: Batons,
    /// The sums of what partners have are brought up to date here.
    runtime: Handle,
    summing: Arc<Mutex<HashSet<EventId>>>,
    metrics: Metrics,
}

impl PostgresStore {
    /// `statement_timeout` is enforced by the server itself, in case we cannot tell it to stop.
    pub fn new(
        options: PgConnectOptions,
        limits: ConnectionLimits,
        statement_timeout: Duration,
        runtime: Handle,
    ) -> Self {
        let options = session_options(options, statement_timeout);
        let metrics = Metrics::new();
        let writes = metrics.of_pool("writes", limits.writes);
        let reads = metrics.of_pool("reads", limits.reads);
        let keys = metrics.of_pool("keys", 1);
        let of_keys = options.clone().options([("synchronous_commit", "off")]);
        let connections = |options, limit, metrics| {
            Arc::new(Connections::new(options, limit, runtime.clone(), metrics))
        };
        Self {
            writes: connections(options.clone(), limits.writes, writes),
            reads: connections(options, limits.reads, reads),
            keys: connections(of_keys, 1, keys),
            batons: Batons::default(),
            summing: Arc::default(),
            runtime,
            metrics,
        }
    }

    /// Registers the store's metrics.
    pub fn register(&self, registry: &mut Registry) {
        self.metrics.register(registry);
    }

    /// Whether the schema has everything that this binary needs.
    pub async fn is_current(&self, until: Instant) -> Result<bool, Unavailable> {
        ask!(self.reads, until, schema::is_current())
    }

    /// The event's current state.
    pub async fn event(&self, id: &EventId, until: Instant) -> Result<Option<Event>, Unavailable> {
        ask!(self.reads, until, events::event(id))
    }

    /// The reservation's current state; with `event_id`, only if it belongs to that event.
    pub async fn reservation(
        &self,
        id: ReservationId,
        event_id: Option<&EventId>,
        until: Instant,
    ) -> Result<Option<Reservation>, Unavailable> {
        ask!(self.reads, until, reservations::reservation(id, event_id))
    }

    /// Events ordered by id, starting after `after`.
    pub async fn events_after(
        &self,
        after: &str,
        count: i64,
        until: Instant,
    ) -> Result<Vec<Event>, Unavailable> {
        ask!(self.reads, until, events::events_after(after, count))
    }

    /// Some of the event's reservations that were made before `from`, newest first.
    pub async fn list(
        &self,
        event_id: &EventId,
        filter: &Filter,
        from: Position,
        count: i64,
        changes: i64,
        until: Instant,
    ) -> Result<Page, Unavailable> {
        ask!(self.reads, until, listing::list(event_id, filter, from, count, changes))
    }

    /// Some of an event's versions, starting after `after`; `None` if there is no such event.
    pub async fn changes(
        &self,
        event_id: &EventId,
        after: i64,
        count: i64,
        changes: i64,
        until: Instant,
    ) -> Result<Option<Versions>, Unavailable> {
        ask!(self.reads, until, changes::changes(event_id, after, count, changes))
    }

    /// The current version of each event.
    pub async fn versions_of(
        &self,
        event_ids: &[EventId],
        until: Instant,
    ) -> Result<Vec<(String, i64)>, Unavailable> {
        ask!(self.reads, until, changes::versions_of(event_ids))
    }

    /// Creates an event; `None` if another request has created one with its id. `made_by`
    /// identifies this request, and `made_by_key` is the operator's key that it was made with.
    pub async fn make_event(
        &self,
        new: &NewEvent,
        made_by: Uuid,
        made_by_key: Option<&KeyId>,
        until: Instant,
    ) -> Result<Option<Event>, Unavailable> {
        ask!(self.reads, until, events::make_event(new, made_by, made_by_key))
    }

    /// Creates a key; repeating the call creates no second one.
    pub async fn make_key(&self, new: &NewKey, until: Instant) -> Result<Key, Unavailable> {
        ask!(self.reads, until, keys::make_key(new))
    }

    /// Keys ordered by id, starting after `after`.
    pub async fn keys_after(
        &self,
        after: &str,
        count: i64,
        until: Instant,
    ) -> Result<Vec<Key>, Unavailable> {
        ask!(self.reads, until, keys::keys_after(after, count))
    }

    /// Revokes a key for good. Returns whether there is a key with this id.
    pub async fn revoke_key(
        &self,
        id: &KeyId,
        by: Option<&KeyId>,
        until: Instant,
    ) -> Result<bool, Unavailable> {
        ask!(self.reads, until, keys::revoke_key(id, by))
    }

    /// The keys that were created or revoked after `since`, by the database's clock.
    pub async fn keys_changed(
        &self,
        since: Timestamp,
        until: Instant,
    ) -> Result<KeysChanged, Unavailable> {
        ask!(self.keys, until, keys::keys_changed(since))
    }

    /// Records that these keys were used just now.
    pub async fn mark_used(&self, ids: &[KeyId], until: Instant) -> Result<(), Unavailable> {
        ask!(self.keys, until, keys::mark_used(ids))
    }

    /// Some of the events that have holds past their time.
    pub async fn events_with_due_holds(
        &self,
        count: i64,
        until: Instant,
    ) -> Result<Vec<String>, Unavailable> {
        ask!(self.reads, until, events::events_with_due_holds(count))
    }
}

impl PostgresStore {
    /// If a reader had much to add to the sums of what partners have, the next ones need not.
    fn look_at_sums(
        &self,
        event_id: &EventId,
        read: Option<(Snapshot, usize)>,
    ) -> Option<Snapshot> {
        let (snapshot, unsummed) = read?;
        if unsummed > usage::UNSUMMED_MANY {
            self.sum_up(event_id);
        }
        Some(snapshot)
    }

    /// Brings the event's sums up to date in the background, unless that is already being done.
    /// Readers do without it if it fails, or if too many others are at it.
    fn sum_up(&self, event_id: &EventId) {
        {
            let mut summing = self.summing.lock().unwrap_or_else(PoisonError::into_inner);
            if summing.len() >= SUMMING_MAX || !summing.insert(event_id.clone()) {
                return;
            }
        }
        let (reads, summing, event_id) =
            (Arc::clone(&self.reads), Arc::clone(&self.summing), event_id.clone());
        self.runtime.spawn(async move {
            if let Err(failure) = sum_up(&reads, &event_id).await {
                let why = crate::chain(&failure);
                log::warn!("could not sum up what partners have of {event_id}: {why}");
            }
            summing.lock().unwrap_or_else(PoisonError::into_inner).remove(&event_id);
        });
    }
}

async fn sum_up(reads: &Arc<Connections>, event_id: &EventId) -> Result<(), Unavailable> {
    let until = Instant::now() + SUM_MAX;
    while ask!(reads, until, usage::sum_up(event_id))? {}
    Ok(())
}

impl Store for PostgresStore {
    async fn snapshot(
        &self,
        event_id: &EventId,
        commands: &[&Command],
        before: Option<Before<'_>>,
        until: Instant,
    ) -> Result<Option<Snapshot>, Unavailable> {
        // Never wait for another connection while holding a baton: all others may be taken by
        // batchers that wait for batons.
        if let Some(mut baton) = self.batons.find(event_id) {
            let connection = &mut baton.lease.connection;
            let reading = snapshot::snapshot(connection, event_id, commands, before);
            let answer = timeout_at(until, reading).await;
            // If the read failed, the baton's connection is closed, and another one is used.
            if let Ok(read) = answer.map_err(|_elapsed| Unavailable::TimedOut)? {
                self.batons.keep(event_id, baton);
                return Ok(self.look_at_sums(event_id, read));
            }
        }
        let read = ask!(self.writes, until, snapshot::snapshot(event_id, commands, before))?;
        Ok(self.look_at_sums(event_id, read))
    }

    async fn commit(&self, batch: &Batch, until: Instant) -> Result<Commit, CommitError> {
        let (mut lease, key) = match self.batons.find(&batch.event_id) {
            Some(Baton { lease, key }) => (lease, Some(key)),
            None => (self.writes.lease(until).await?, None),
        };
        let answer = timeout_at(until, commit::commit(&mut lease.connection, batch, key)).await;
        match (answer.map_err(|_elapsed| CommitError::Unknown(None))?, key) {
            (Ok(Commit::VersionMoved), Some(key)) => {
                self.batons.keep(&batch.event_id, Baton { lease, key });
                Ok(Commit::VersionMoved)
            }
            (Ok(commit), _) => {
                lease.give_back();
                if matches!(commit, Commit::Committed(_)) && usage::is_due(batch) {
                    self.sum_up(&batch.event_id);
                }
                Ok(commit)
            }
            (Err(failure), Some(_)) if leaves_connection_usable(&failure) => {
                let_go(lease, until).await;
                error::of_commit(failure)
            }
            (Err(failure), _) => {
                lease.give_back_after(&failure);
                error::of_commit(failure)
            }
        }
    }

    async fn take_baton(
        &self,
        event_id: &EventId,
        until: Instant,
    ) -> Result<Option<EventNow>, Unavailable> {
        let mut lease = self.writes.lease(until).await?;
        // Too little time left: giving up before the server does would mean closing the connection.
        if until.saturating_duration_since(Instant::now()) <= baton::WAIT_MAX {
            lease.give_back();
            return Ok(None);
        }
        let taking = baton::take(&mut lease.connection, event_id);
        match timeout_at(until, taking).await.map_err(|_elapsed| Unavailable::TimedOut)? {
            Ok(Some((key, event))) => {
                self.batons.keep(event_id, Baton { lease, key });
                Ok(Some(event))
            }
            // There is no such event. Closes the connection, and so releases the lock.
            Ok(None) => Ok(None),
            Err(failure) if leaves_connection_usable(&failure) => {
                // The baton may have been obtained in the very moment in which the wait ended.
                let_go(lease, until).await;
                if was_locked(&failure) { Ok(None) } else { Err(Unavailable::Statement(failure)) }
            }
            Err(failure) => {
                lease.give_back_after(&failure);
                Err(Unavailable::Statement(failure))
            }
        }
    }

    async fn pass_baton(&self, event_id: &EventId, until: Instant) {
        if let Some(baton) = self.batons.find(event_id) {
            let_go(baton.lease, until).await;
        }
    }

    async fn batch_at(
        &self,
        event_id: &EventId,
        version: i64,
        until: Instant,
    ) -> Result<Option<Uuid>, Unavailable> {
        ask!(self.writes, until, commit::batch_at(event_id, version))
    }

    async fn fence(&self, event_id: &EventId, until: Instant) -> Result<(), Unavailable> {
        ask!(self.writes, until, commit::fence(event_id))
    }
}

/// Releases the baton and returns its connection. If that fails, the connection is closed, which
/// releases the baton, too.
async fn let_go(mut lease: Lease, until: Instant) {
    if let Ok(Ok(())) = timeout_at(until, baton::let_go(&mut lease.connection)).await {
        lease.give_back();
    }
}

/// The options with which every session of the service is opened.
pub fn session_options(options: PgConnectOptions, statement_timeout: Duration) -> PgConnectOptions {
    let timeout_ms = statement_timeout.as_millis().to_string();
    options.application_name("ticketboss").options([
        // A client that gives up does not stop the server; these settings do, and they free the row
        // lock of a session whose peer is gone.
        ("statement_timeout", timeout_ms.as_str()),
        ("lock_timeout", &timeout_ms),
        ("idle_in_transaction_session_timeout", &timeout_ms),
        ("client_connection_check_interval", "1000"),
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
        // After a lock wait, the guard must re-check the row, as it does at this isolation level.
        ("default_transaction_isolation", "read committed"),
        // Every statement is a point access through an index. A plan made while the tables were
        // small must not scan them once they are large, so plans may not scan at all.
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_bitmapscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("jit", "off"),
    ])
}

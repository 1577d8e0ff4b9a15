//! The database server as its clients meet it: it restarts, waits for its standby, and is replaced
//! by the standby.
//!
//! A commit of PostgreSQL that waits for a synchronous standby keeps its row locked and its effect
//! hidden. If a restart interrupts the wait, the effect is visible, and may be lost with the
//! machine; if the standby takes over, it never was.

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use ticketboss::domain::{Command, EventId, Timestamp};
use ticketboss::store::{Batch, Commit, CommitError, EventNow, Snapshot, Unavailable};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use uuid::Uuid;

use crate::support::simulated::Database;

/// How long a statement waits for a row lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a session waits for the event's baton.
const BATON_TIMEOUT: Duration = Duration::from_millis(100);

pub struct Server {
    state: Mutex<State>,
    /// Notified of every change that a statement may wait for. Not a `watch` channel, which wakes
    /// its receivers in random order.
    changes: Notify,
    started: Instant,
}

struct State {
    /// What statements see.
    visible: Database,
    /// What the standby has: the state after some version.
    replicated: Database,
    /// Incremented whenever all sessions end.
    incarnation: u64,
    up: bool,
    standby: bool,
    /// The commit that waits for the standby, with the event's row locked, and the state that it
    /// makes.
    waiting: Option<(Ticket, Database)>,
    tickets: Ticket,
    /// The last commit that waited for the standby and then succeeded.
    confirmed: Ticket,
    /// The owner of the event's baton.
    baton: Option<Ticket>,
}

/// Names a commit that waits, or an owner of the baton.
pub type Ticket = u64;

/// The session ended before the statement did.
#[derive(Debug)]
pub struct SessionLost;

impl Server {
    pub fn new(database: Database) -> Self {
        let state = State {
            visible: database.clone(),
            replicated: database,
            incarnation: 0,
            up: true,
            standby: true,
            waiting: None,
            tickets: 0,
            confirmed: 0,
            baton: None,
        };
        Self { state: Mutex::new(state), changes: Notify::new(), started: Instant::now() }
    }

    /// A session; `None` while the server is down.
    pub fn connect(&self) -> Option<Session<'_>> {
        let state = self.state();
        state.up.then_some(Session { server: self, incarnation: state.incarnation })
    }

    /// The server goes down without warning. A commit that waited for the standby is visible
    /// afterwards.
    pub fn crash(&self) {
        self.change(|state| {
            if let Some((_, made)) = state.waiting.take() {
                state.visible = made;
            }
            state.incarnation += 1;
            state.up = false;
            state.baton = None;
        });
    }

    pub fn start(&self) {
        self.change(|state| state.up = true);
    }

    /// The standby cannot be reached any more.
    pub fn lose_standby(&self) {
        self.change(|state| state.standby = false);
    }

    /// The standby is back, and catches up.
    pub fn find_standby(&self) {
        self.change(|state| {
            state.standby = true;
            if let Some((ticket, made)) = state.waiting.take() {
                state.visible = made;
                state.confirmed = ticket;
            }
            state.replicated = state.visible.clone();
        });
    }

    /// The standby takes over with the state that it has. It has a standby of its own.
    pub fn fail_over(&self) {
        self.change(|state| {
            state.waiting = None;
            state.visible = state.replicated.clone();
            state.incarnation += 1;
            state.up = true;
            state.baton = None;
            state.standby = true;
        });
    }

    /// Frees the baton if it is `ours`: its session passes it on, or ends.
    pub fn pass_baton(&self, ours: Ticket) {
        self.change(|state| state.baton = state.baton.filter(|baton| *baton != ours));
    }

    /// The database as statements see it.
    pub fn database(&self) -> Database {
        self.state().visible.clone()
    }

    fn now(&self) -> Timestamp {
        OffsetDateTime::UNIX_EPOCH + self.started.elapsed()
    }

    fn change(&self, work: impl FnOnce(&mut State)) {
        work(&mut self.state());
        self.changes.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no panic under the lock")
    }
}

/// A connection, as long as it lasts.
pub struct Session<'a> {
    pub server: &'a Server,
    /// The incarnation of the server that it belongs to.
    pub incarnation: u64,
}

impl Session<'_> {
    pub fn snapshot(
        &self,
        event_id: &EventId,
        commands: &[&Command],
    ) -> Result<Option<Snapshot>, SessionLost> {
        let now = self.server.now();
        Ok(self.alive()?.visible.snapshot(event_id, commands, now))
    }

    pub fn batch_at(&self, version: i64) -> Result<Option<Uuid>, SessionLost> {
        Ok(self.alive()?.visible.batch_at(version))
    }

    /// Waits for the baton for a limited time, and then reads the event.
    pub async fn take_baton(&self) -> Result<Option<(Ticket, EventNow)>, SessionLost> {
        let wait_by = Instant::now() + BATON_TIMEOUT;
        while self.alive()?.baton.is_some() {
            if timeout_at(wait_by, self.server.changes.notified()).await.is_err() {
                return Ok(None);
            }
        }
        let now = self.server.now();
        let mut state = self.alive()?;
        state.tickets += 1;
        state.baton = Some(state.tickets);
        Ok(Some((state.tickets, EventNow { event: state.visible.event.clone(), now })))
    }

    /// The guarded statement, which passes the baton on if it is `ours` and the commit succeeds.
    pub async fn commit(
        &self,
        batch: &Batch,
        ours: Option<Ticket>,
    ) -> Result<Result<Commit, CommitError>, SessionLost> {
        // A statement does not wait for the lock of a row that visibly does not match.
        if self.alive()?.visible.event.version != batch.base_version {
            return Ok(Ok(Commit::VersionMoved));
        }
        let now = self.server.now();
        let writes = |commit: &Commit| matches!(commit, Commit::Committed(_));
        let others_have_it = self.alive()?.baton.is_some_and(|baton| Some(baton) != ours);
        let mut commit = self.write(writes, |database| database.commit(batch, now)).await?;
        if let Ok(Commit::Committed(counters)) = &mut commit {
            counters.others_in_line = others_have_it;
            if let Some(ours) = ours {
                self.server.pass_baton(ours);
            }
        }
        Ok(commit)
    }

    pub async fn fence(&self) -> Result<Result<(), CommitError>, SessionLost> {
        // Locking a row is written to the write-ahead log like any other commit.
        let locked = self.write(|_| true, |_| Ok(Commit::VersionMoved)).await?;
        Ok(locked.map(|_| ()))
    }

    /// Runs a statement that locks the event's row.
    async fn write(
        &self,
        writes: impl FnOnce(&Commit) -> bool,
        work: impl FnOnce(&mut Database) -> Result<Commit, CommitError>,
    ) -> Result<Result<Commit, CommitError>, SessionLost> {
        let lock_by = Instant::now() + LOCK_TIMEOUT;
        while self.alive()?.waiting.is_some() {
            if timeout_at(lock_by, self.server.changes.notified()).await.is_err() {
                return Ok(Err(CommitError::NotDone(Unavailable::TimedOut)));
            }
        }
        let (ticket, commit) = {
            let mut state = self.alive()?;
            let mut made = state.visible.clone();
            let commit = match work(&mut made) {
                Ok(commit) => commit,
                Err(failure) => return Ok(Err(failure)),
            };
            if !writes(&commit) {
                return Ok(Ok(commit));
            }
            if state.standby {
                state.visible = made.clone();
                state.replicated = made;
                return Ok(Ok(commit));
            }
            state.tickets += 1;
            let ticket = state.tickets;
            state.waiting = Some((ticket, made));
            (ticket, commit)
        };
        // Only the standby, or the end of the session, ends this wait.
        while self.alive()?.confirmed < ticket {
            self.server.changes.notified().await;
        }
        Ok(Ok(commit))
    }

    fn alive(&self) -> Result<MutexGuard<'_, State>, SessionLost> {
        let state = self.server.state();
        let alive = state.up && state.incarnation == self.incarnation;
        if alive { Ok(state) } else { Err(SessionLost) }
    }
}

//! A store in memory that fails on demand: the faults that a real database has, but not when asked.
//!
//! [`crate::stores`] holds it to what PostgreSQL does.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use ticketboss::domain::{Change, Command, Event, EventId, Named, Reservation, ReservationId};
use ticketboss::store::{Batch, Commit, CommitError, Committed, Snapshot, Store, Unavailable};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

/// What happens to the next call of `commit`.
#[derive(Debug)]
pub enum Fault {
    /// It happens, and its answer is lost.
    AnswerLost,
    /// It does not happen, and nobody can tell.
    LostOnTheWay,
    /// Its answer is lost, and it happens later, just before the next commit runs.
    LandsLate,
    /// The same, but another replica's commit comes in between, so that it lands on nothing.
    OvertakenThenLost,
    /// It reports that it did nothing.
    Unavailable,
    /// It does not return before [`Simulated::resume`].
    Stalls,
    Panics,
}

pub struct Simulated {
    state: Mutex<State>,
    stalled: Notify,
    resumed: Notify,
}

struct State {
    event: Event,
    reservations: HashMap<ReservationId, Reservation>,
    /// The batch that made each version, from 1.
    journal: Vec<Uuid>,
    faults: VecDeque<Fault>,
    fence_faults: usize,
    fences: usize,
    snapshots: usize,
    late: Vec<Batch>,
    /// A row of this partner is one that the database refuses.
    refused_partner: Option<String>,
}

impl Simulated {
    pub fn with_seats(id: &EventId, seats: i32) -> Self {
        let event = Event {
            id: id.clone(),
            name: "Simulated".into(),
            total_seats: seats,
            available_seats: seats,
            reservation_count: 0,
            version: 0,
            created_at: OffsetDateTime::UNIX_EPOCH,
        };
        let state = State {
            event,
            reservations: HashMap::new(),
            journal: Vec::new(),
            faults: VecDeque::new(),
            fence_faults: 0,
            fences: 0,
            snapshots: 0,
            late: Vec::new(),
            refused_partner: None,
        };
        Self { state: Mutex::new(state), stalled: Notify::new(), resumed: Notify::new() }
    }

    /// Plans what happens to the next commits, in this order.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.locked(|state| state.faults.extend(faults));
    }

    pub fn fail_fences(&self, count: usize) {
        self.locked(|state| state.fence_faults = count);
    }

    pub fn refuse_rows_of(&self, partner_id: &str) {
        self.locked(|state| state.refused_partner = Some(partner_id.into()));
    }

    /// Returns when a commit has stalled.
    pub async fn stalled(&self) {
        self.stalled.notified().await;
    }

    /// Lets a stalled commit go on.
    pub fn resume(&self) {
        self.resumed.notify_one();
    }

    /// Another replica's commit: moves the version, and gives or takes seats.
    pub fn elsewhere(&self, seats_freed: i32) {
        self.locked(|state| {
            state.event.available_seats += seats_freed;
            state.event.total_seats = state.event.total_seats.max(state.event.available_seats);
            state.event.version += 1;
            state.journal.push(Uuid::new_v4());
        });
    }

    pub fn event(&self) -> Event {
        self.locked(|state| state.event.clone())
    }

    pub fn reservations(&self) -> Vec<Reservation> {
        self.locked(|state| state.reservations.values().cloned().collect())
    }

    /// How often the event was fenced, and how often it was read.
    pub fn fences_and_snapshots(&self) -> (usize, usize) {
        self.locked(|state| (state.fences, state.snapshots))
    }

    fn locked<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // A planned panic happens outside of the lock.
        work(&mut self.state.lock().expect("no panic under the lock"))
    }
}

impl State {
    fn apply(&mut self, batch: &Batch) -> Result<Commit, CommitError> {
        if self.event.version != batch.base_version || self.event.available_seats < batch.net_seats
        {
            return Ok(Commit::VersionMoved);
        }
        for change in &batch.changes {
            self.check(change)?;
        }
        let version = self.event.version + 1;
        for change in &batch.changes {
            match change {
                Change::Insert(new) => {
                    self.reservations.insert(new.id, new.clone());
                }
                Change::Alter { id, status, .. } => {
                    let altered = self.reservations.get_mut(id).expect("it was checked");
                    altered.status = *status;
                    altered.version = version;
                }
            }
        }
        self.event.available_seats -= batch.net_seats;
        self.event.reservation_count += batch.net_confirmed;
        self.event.version = version;
        self.journal.push(batch.id);
        Ok(Commit::Committed(Committed {
            version,
            available_seats: self.event.available_seats,
            reservation_count: self.event.reservation_count,
            now: OffsetDateTime::UNIX_EPOCH,
        }))
    }

    fn check(&self, change: &Change) -> Result<(), CommitError> {
        let bad_row = || Err(CommitError::BadRow(sqlx::Error::RowNotFound));
        match change {
            Change::Insert(new) => {
                if self.refused_partner.as_deref() == Some(new.partner_id.as_str()) {
                    return bad_row();
                }
                let same_key = |made: &&Reservation| {
                    let key = |of: &Reservation| of.keyed.clone().map(|keyed| keyed.key);
                    made.partner_id == new.partner_id && key(made) == key(new)
                };
                if new.keyed.is_some() && self.reservations.values().any(|made| same_key(&made)) {
                    return Err(CommitError::KeyTaken);
                }
                Ok(())
            }
            Change::Alter { id, previous_version, .. } => match self.reservations.get(id) {
                Some(made) if made.version == *previous_version => Ok(()),
                Some(_) | None => bad_row(),
            },
        }
    }
}

impl Store for Simulated {
    async fn snapshot(
        &self,
        event_id: &EventId,
        commands: &[&Command],
        _until: Instant,
    ) -> Result<Option<Snapshot>, Unavailable> {
        Ok(self.locked(|state| {
            state.snapshots += 1;
            if state.event.id != *event_id {
                return None;
            }
            let mut named = Named::default();
            for made in state.reservations.values() {
                let is_named = commands.iter().any(|command| match command {
                    Command::Cancel(id) => *id == made.id,
                    Command::Reserve(reserve) => {
                        let key = made.keyed.as_ref().map(|keyed| &keyed.key);
                        key.is_some()
                            && key == reserve.key.as_ref()
                            && reserve.partner_id == made.partner_id
                    }
                });
                if is_named {
                    named.insert(made.clone());
                }
            }
            let now = OffsetDateTime::UNIX_EPOCH;
            Some(Snapshot { event: state.event.clone(), named, now })
        }))
    }

    async fn commit(&self, batch: &Batch, until: Instant) -> Result<Commit, CommitError> {
        // It goes through the scheduler like anything that waits for a socket.
        tokio::task::yield_now().await;
        let fault = self.locked(|state| {
            for late in std::mem::take(&mut state.late) {
                // Where it no longer applies, nobody hears of it.
                let _ = state.apply(&late);
            }
            state.faults.pop_front()
        });
        let copy = || Batch {
            id: batch.id,
            event_id: batch.event_id.clone(),
            base_version: batch.base_version,
            net_seats: batch.net_seats,
            net_confirmed: batch.net_confirmed,
            at: batch.at,
            changes: batch.changes.clone(),
        };
        match fault {
            None => self.locked(|state| state.apply(batch)),
            Some(Fault::AnswerLost) => {
                self.locked(|state| state.apply(batch))?;
                Err(CommitError::Unknown(None))
            }
            Some(Fault::LostOnTheWay) => Err(CommitError::Unknown(None)),
            Some(Fault::LandsLate) => {
                self.locked(|state| state.late.push(copy()));
                Err(CommitError::Unknown(None))
            }
            Some(Fault::OvertakenThenLost) => {
                self.elsewhere(0);
                self.locked(|state| state.late.push(copy()));
                Err(CommitError::Unknown(None))
            }
            Some(Fault::Unavailable) => Err(CommitError::NotDone(Unavailable::TimedOut)),
            Some(Fault::Stalls) => {
                self.stalled.notify_one();
                match tokio::time::timeout_at(until, self.resumed.notified()).await {
                    Ok(()) => self.locked(|state| state.apply(batch)),
                    Err(_elapsed) => Err(CommitError::Unknown(None)),
                }
            }
            Some(Fault::Panics) => panic!("a planned panic"),
        }
    }

    async fn batch_at(
        &self,
        _event_id: &EventId,
        version: i64,
        _until: Instant,
    ) -> Result<Option<Uuid>, Unavailable> {
        let index = usize::try_from(version - 1).expect("versions start at 1");
        Ok(self.locked(|state| state.journal.get(index).copied()))
    }

    async fn fence(&self, _event_id: &EventId, _until: Instant) -> Result<(), Unavailable> {
        self.locked(|state| {
            state.fences += 1;
            if state.fence_faults > 0 {
                state.fence_faults -= 1;
                return Err(Unavailable::TimedOut);
            }
            Ok(())
        })
    }
}

//! A database in memory that does with the service's statements what PostgreSQL does, and a store
//! on it that fails on demand.
//!
//! [`crate::stores`] checks that it behaves like PostgreSQL. [`crate::simulation`] puts the same
//! database behind a network that fails at random.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Mutex;

use ticketboss::domain::{
    Change, ChangeKind, Command, DUE_HOLDS_MAX, Event, EventChange, EventId, EventName,
    EventStatus, Named, PartnerId, Reservation, ReservationId, Status, Timestamp, Usage,
    UsageByPartner,
};
use ticketboss::store::{
    Batch, Before, Commit, CommitError, Committed, EventNow, Snapshot, Store, Unavailable,
};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::Instant;
use uuid::Uuid;

/// One event, its reservations and its journal.
#[derive(Clone)]
pub struct Database {
    pub event: Event,
    pub reservations: BTreeMap<ReservationId, Reservation>,
    /// The versions, from 1.
    pub journal: Vec<Journalled>,
    /// The database refuses rows of this partner.
    pub refused_partner: Option<&'static str>,
}

/// A version, as the journal keeps it.
#[derive(Clone)]
pub struct Journalled {
    pub batch_id: Uuid,
    pub at: Timestamp,
    pub changes: Vec<JournalledChange>,
    pub event_change: Option<EventChange>,
}

#[derive(Clone)]
pub struct JournalledChange {
    pub kind: ChangeKind,
    pub id: ReservationId,
    pub partner_id: String,
    pub seats: i32,
}

impl Database {
    pub fn with_seats(id: &EventId, seats: i32) -> Self {
        let event = Event {
            id: id.clone(),
            name: EventName::parse("Simulated").expect("a name"),
            total_seats: seats,
            available_seats: seats,
            held_seats: 0,
            reservation_count: 0,
            seats_per_reservation_max: 10,
            seats_per_partner_max: None,
            status: EventStatus::OnSale,
            sales_open_at: None,
            sales_close_at: None,
            version: 0,
            created_at: OffsetDateTime::UNIX_EPOCH,
        };
        let reservations = BTreeMap::new();
        Self { event, reservations, journal: Vec::new(), refused_partner: None }
    }

    /// The guarded statement.
    pub fn commit(&mut self, batch: &Batch, now: Timestamp) -> Result<Commit, CommitError> {
        let event = &self.event;
        if event.version != batch.base_version || event.available_seats < batch.net_seats {
            return Ok(Commit::VersionMoved);
        }
        let mut event = event.clone();
        if let Some(change) = &batch.event_change {
            change.apply(&mut event);
        }
        event.available_seats -= batch.net_seats;
        event.held_seats += batch.net_held;
        event.reservation_count += batch.net_confirmed;
        event.version += 1;
        let unavailable = event.available_seats + event.held_seats > event.total_seats;
        let negative = event.reservation_count < 0 || event.held_seats < 0;
        let nothing = batch.changes.is_empty() && batch.event_change.is_none();
        if unavailable || negative || nothing {
            return Err(bad_row());
        }
        for change in &batch.changes {
            self.check(change)?;
        }
        for change in &batch.changes {
            let after = &change.reservation;
            match self.reservations.get_mut(&after.id) {
                Some(altered) => {
                    altered.status = after.status;
                    altered.seats = after.seats;
                    altered.hold_expires_at = after.hold_expires_at;
                    altered.version = event.version;
                }
                None => {
                    let (version, created_at) = (event.version, batch.at);
                    let new = Reservation { version, created_at, ..after.clone() };
                    self.reservations.insert(new.id, new);
                }
            }
        }
        self.event = event;
        self.journal.push(Journalled::of(batch));
        let Event { version, available_seats, held_seats, reservation_count, .. } = self.event;
        let counters = Committed {
            version,
            available_seats,
            held_seats,
            reservation_count,
            others_in_line: false,
            now,
        };
        Ok(Commit::Committed(counters))
    }

    /// Checks the constraints of the schema, and the previous version of a row that changes.
    fn check(&self, change: &Change) -> Result<(), CommitError> {
        let after = &change.reservation;
        let stored = self.reservations.get(&after.id);
        let endless = after.status == Status::Held && after.hold_expires_at.is_none();
        if after.seats < 1 || endless {
            return Err(bad_row());
        }
        let Some(previous_version) = change.previous_version else {
            if self.refused_partner == Some(after.partner_id.as_str()) {
                return Err(bad_row());
            }
            let key = |of: &Reservation| of.keyed.clone().map(|keyed| (keyed.key, of.item));
            let same_key =
                |made: &Reservation| made.partner_id == after.partner_id && key(made) == key(after);
            let taken = after.keyed.is_some() && self.reservations.values().any(same_key);
            return if taken || stored.is_some() { Err(CommitError::KeyTaken) } else { Ok(()) };
        };
        match stored {
            Some(made) if made.version == previous_version => Ok(()),
            Some(_) | None => Err(bad_row()),
        }
    }

    pub fn snapshot(
        &self,
        event_id: &EventId,
        commands: &[&Command],
        now: Timestamp,
    ) -> Option<Snapshot> {
        if self.event.id != *event_id {
            return None;
        }
        let (mut named, mut usage) = (Named::default(), UsageByPartner::default());
        let is_named = |made: &Reservation| {
            commands.iter().any(|command| match command {
                Command::Alter(alter) => alter.id == made.id,
                Command::Reserve(reserve) => {
                    let key = made.keyed.as_ref().map(|keyed| &keyed.key);
                    key.is_some()
                        && key == reserve.key.as_ref()
                        && reserve.partner_id == made.partner_id
                }
                Command::ChangeEvent(_) | Command::Sweep => false,
            })
        };
        for command in commands {
            if let Command::Reserve(reserve) = command
                && reserve.limited_partner(&self.event).is_some()
            {
                let used = self.used_by(&reserve.partner_id, now);
                usage.insert(reserve.partner_id.clone(), used);
            }
        }
        for made in self.reservations.values().filter(|made| is_named(made)) {
            named.insert(made.clone());
        }
        let wanted =
            commands.iter().fold(0_i64, |sum, command| sum.saturating_add(command.seats_wanted()));
        if i64::from(self.event.available_seats) < wanted {
            let mut holds: Vec<_> =
                self.reservations.values().filter(|made| made.status == Status::Held).collect();
            holds.sort_by_key(|hold| hold.hold_expires_at);
            for due in holds.iter().filter(|hold| hold.is_due(now)).take(DUE_HOLDS_MAX) {
                named.insert(Reservation::clone(due));
            }
            let next = holds.iter().find(|hold| !hold.is_due(now));
            named.next_hold_expires_at = next.and_then(|hold| hold.hold_expires_at);
        }
        Some(Snapshot { event: self.event.clone(), named, usage, now })
    }

    fn used_by(&self, partner_id: &PartnerId, now: Timestamp) -> Usage {
        let own = self.reservations.values().filter(|made| made.partner_id == *partner_id);
        let mut used = Usage::default();
        for made in own.filter(|made| made.status.owns_seats() && !made.is_due(now)) {
            if self.event.seats_per_partner_max.is_some() {
                used.seats += i64::from(made.seats);
            }
            used.holds += i64::from(made.status == Status::Held);
        }
        used
    }

    pub fn batch_at(&self, version: i64) -> Option<Uuid> {
        let index = usize::try_from(version - 1).expect("versions start at 1");
        self.journal.get(index).map(|journalled| journalled.batch_id)
    }
}

fn bad_row() -> CommitError {
    CommitError::BadRow(sqlx::Error::RowNotFound)
}

impl Journalled {
    fn of(batch: &Batch) -> Self {
        let changes = batch.changes.iter().map(|change| JournalledChange {
            kind: change.kind,
            id: change.reservation.id,
            partner_id: change.reservation.partner_id.as_str().to_owned(),
            seats: change.seats,
        });
        Self {
            batch_id: batch.id,
            at: batch.at,
            changes: changes.collect(),
            event_change: batch.event_change.clone(),
        }
    }
}

/// What happens to the next call of `commit`.
#[derive(Debug)]
pub enum Fault {
    /// The commit happens, and its answer is lost.
    AnswerLost,
    /// The commit does not happen, and the caller cannot tell.
    LostOnTheWay,
    /// The answer is lost, and the commit happens later, just before the next one runs.
    LandsLate,
    /// The same, but another replica's commit comes in between, so that it matches no row.
    OvertakenThenLost,
    /// Another replica's commit takes the version first.
    Overtaken,
    /// The commit reports that it did nothing.
    Unavailable,
    /// The commit does not return before [`Simulated::resume`].
    Stalls,
    Panics,
}

/// The store that fails on demand.
pub struct Simulated {
    state: Mutex<State>,
    stalled: Notify,
    resumed: Notify,
}

struct State {
    database: Database,
    faults: VecDeque<Fault>,
    fence_faults: usize,
    fences: usize,
    snapshots: usize,
    baton_is_free: bool,
    asked: usize,
    turns: usize,
    passed: usize,
    late: Vec<Batch>,
}

impl Simulated {
    pub fn with_seats(id: &EventId, seats: i32) -> Self {
        let state = State {
            database: Database::with_seats(id, seats),
            faults: VecDeque::new(),
            fence_faults: 0,
            fences: 0,
            snapshots: 0,
            baton_is_free: true,
            asked: 0,
            turns: 0,
            passed: 0,
            late: Vec::new(),
        };
        Self { state: Mutex::new(state), stalled: Notify::new(), resumed: Notify::new() }
    }

    /// Limits each partner to this many seats of the event from now on.
    pub fn limit_partners(&self, seats_max: Option<i32>) {
        self.locked(|state| state.database.event.seats_per_partner_max = seats_max);
    }

    /// Plans what happens to the next commits, in this order.
    pub fn plan(&self, faults: impl IntoIterator<Item = Fault>) {
        self.locked(|state| state.faults.extend(faults));
    }

    pub fn fail_fences(&self, count: usize) {
        self.locked(|state| state.fence_faults = count);
    }

    pub fn refuse_rows_of(&self, partner_id: &'static str) {
        self.locked(|state| state.database.refused_partner = Some(partner_id));
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
            let event = &mut state.database.event;
            event.available_seats += seats_freed;
            event.total_seats = event.total_seats.max(event.available_seats);
            event.version += 1;
            let journalled = Journalled {
                batch_id: Uuid::new_v4(),
                at: OffsetDateTime::UNIX_EPOCH,
                changes: Vec::new(),
                event_change: None,
            };
            state.database.journal.push(journalled);
        });
    }

    pub fn event(&self) -> Event {
        self.locked(|state| state.database.event.clone())
    }

    pub fn reservations(&self) -> Vec<Reservation> {
        self.locked(|state| state.database.reservations.values().cloned().collect())
    }

    /// How often the event was fenced, and how often it was read.
    pub fn fences_and_snapshots(&self) -> (usize, usize) {
        self.locked(|state| (state.fences, state.snapshots))
    }

    /// Another replica has the baton, and never passes it on.
    pub fn baton_is_gone(&self) {
        self.locked(|state| state.baton_is_free = false);
    }

    /// How often the baton was asked for, how often it was obtained, and how often it was passed on
    /// without a commit.
    pub fn batons(&self) -> (usize, usize, usize) {
        self.locked(|state| (state.asked, state.turns, state.passed))
    }

    fn apply(&self, batch: &Batch) -> Result<Commit, CommitError> {
        self.locked(|state| state.database.commit(batch, OffsetDateTime::UNIX_EPOCH))
    }

    fn locked<T>(&self, work: impl FnOnce(&mut State) -> T) -> T {
        // A planned panic happens outside of the lock.
        work(&mut self.state.lock().expect("no panic under the lock"))
    }
}

/// Leaves out of a snapshot what the real store does not read: the usage of partners that is known at
/// the same version of the event.
pub fn without_what_is_known(
    snapshot: Snapshot,
    commands: &[&Command],
    before: Option<Before<'_>>,
) -> Snapshot {
    let event = &snapshot.event;
    let is_known = |command: &&Command| {
        let limited = command.limited_partner(event);
        limited.is_none_or(|it| before.is_some_and(|before| before.usage.of(it).is_some()))
    };
    let is_same = before.is_some_and(|before| before.event.version == event.version);
    if is_same && commands.iter().all(is_known) {
        Snapshot { usage: UsageByPartner::default(), ..snapshot }
    } else {
        snapshot
    }
}

impl Store for Simulated {
    async fn snapshot(
        &self,
        event_id: &EventId,
        commands: &[&Command],
        before: Option<Before<'_>>,
        _until: Instant,
    ) -> Result<Option<Snapshot>, Unavailable> {
        let snapshot = self.locked(|state| {
            state.snapshots += 1;
            state.database.snapshot(event_id, commands, OffsetDateTime::UNIX_EPOCH)
        });
        Ok(snapshot.map(|snapshot| without_what_is_known(snapshot, commands, before)))
    }

    async fn commit(&self, batch: &Batch, until: Instant) -> Result<Commit, CommitError> {
        // A commit goes through the scheduler like anything that waits for a socket.
        tokio::task::yield_now().await;
        let fault = self.locked(|state| {
            for late in std::mem::take(&mut state.late) {
                // If it no longer applies, nobody is told.
                let _ = state.database.commit(&late, OffsetDateTime::UNIX_EPOCH);
            }
            state.faults.pop_front()
        });
        match fault {
            None => self.apply(batch),
            Some(Fault::AnswerLost) => {
                self.apply(batch)?;
                Err(CommitError::Unknown(None))
            }
            Some(Fault::LostOnTheWay) => Err(CommitError::Unknown(None)),
            Some(Fault::LandsLate) => {
                self.locked(|state| state.late.push(batch.clone()));
                Err(CommitError::Unknown(None))
            }
            Some(Fault::Overtaken) => {
                self.elsewhere(0);
                self.apply(batch)
            }
            Some(Fault::OvertakenThenLost) => {
                self.elsewhere(0);
                self.locked(|state| state.late.push(batch.clone()));
                Err(CommitError::Unknown(None))
            }
            Some(Fault::Unavailable) => Err(CommitError::NotDone(Unavailable::TimedOut)),
            Some(Fault::Stalls) => {
                self.stalled.notify_one();
                match tokio::time::timeout_at(until, self.resumed.notified()).await {
                    Ok(()) => self.apply(batch),
                    Err(_elapsed) => Err(CommitError::Unknown(None)),
                }
            }
            Some(Fault::Panics) => panic!("a planned panic"),
        }
    }

    async fn take_baton(
        &self,
        event_id: &EventId,
        until: Instant,
    ) -> Result<Option<EventNow>, Unavailable> {
        Ok(self.locked(|state| {
            let event = state.database.event.clone();
            let in_time = Instant::now() < until;
            let ours = state.baton_is_free && event.id == *event_id && in_time;
            state.asked += 1;
            state.turns += usize::from(ours);
            ours.then_some(EventNow { event, now: OffsetDateTime::UNIX_EPOCH })
        }))
    }

    async fn pass_baton(&self, _event_id: &EventId, _until: Instant) {
        self.locked(|state| state.passed += 1);
    }

    async fn batch_at(
        &self,
        _event_id: &EventId,
        version: i64,
        _until: Instant,
    ) -> Result<Option<Uuid>, Unavailable> {
        Ok(self.locked(|state| state.database.batch_at(version)))
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

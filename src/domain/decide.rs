//! The decision: which of the waiting commands an event can grant, all of them at one version.
//!
//! Every command is decided against the base state minus the seats that earlier commands of the
//! batch take, and never on any other effect of theirs: a command that would need one is deferred
//! to the next batch. A refusal is therefore true even if this batch is never committed.
//!
//! What the clock causes does not count as a command's effect. A hold past its time is expired by
//! the first decision that needs its seats or reports its expiry; sales past their end are ended by
//! the first refusal for that reason. Both are written with the batch, so that what the caller is
//! told stays true whatever else is still on its way to the database.

use std::collections::HashSet;
use std::vec;

use super::{
    Acceptance, Caller, Change, ChangeKind, Command, DUE_HOLDS_MAX, Decision, Event,
    IdempotencyKey, KeyedRequest, Named, PartnerId, Precondition, Refusal, Reservation,
    ReservationId, Reserve, Status, Timestamp, Usage, UsageByPartner, Verdict,
};

mod alter;
mod event;
mod limits;
#[cfg(test)]
mod tests;

/// Decides `commands`, in arrival order, against `event` as it stood at its version.
///
/// Admission is greedy: a request that does not fit is refused, a smaller one behind it may fit.
/// After a change of the event itself, all commands behind it wait for the next batch.
pub fn decide(
    event: &Event,
    named: &Named,
    usage: &UsageByPartner,
    now: Timestamp,
    commands: &[&Command],
) -> Decision {
    let mut batch = Batch::new(event, named, usage, now);
    for command in commands {
        let verdict = if batch.decision.event_change.is_some() {
            Verdict::Deferred
        } else {
            match command {
                Command::Reserve(reserve) => batch.reserve(reserve),
                Command::Alter(alter) => batch.alter(alter),
                Command::ChangeEvent(change) => batch.change_event(change),
                Command::Sweep => batch.sweep(),
            }
        };
        batch.decision.verdicts.push(verdict);
    }
    let Batch { decision, available_seats, .. } = batch;
    assert!(available_seats >= 0, "a batch never takes more seats than its base state has");
    decision
}

/// A decision in progress.
struct Batch<'a> {
    event: &'a Event,
    named: &'a Named,
    /// The usage of partners whose commands are limited.
    usage: &'a UsageByPartner,
    now: Timestamp,
    /// The seats of the base state and of holds expired so far, minus what this batch has taken.
    available_seats: i32,
    /// Holds past their time, oldest first; some may have been expired in the meantime.
    due: vec::IntoIter<&'a Reservation>,
    /// The seats of those that are not yet expired.
    due_seats: i32,
    /// There may be more due holds than were read.
    more_due: bool,
    /// Seats that commands of this batch give back; sellable from the next version on.
    freed_seats: i32,
    altered: HashSet<ReservationId>,
    /// Partners whose usage is reduced by something in this batch.
    relieved: HashSet<PartnerId>,
    /// The usage of limited partners, including what this batch has granted them.
    used: foldhash::HashMap<&'a PartnerId, Usage>,
    used_keys: HashSet<(&'a PartnerId, &'a IdempotencyKey)>,
    /// A command was granted on the condition that the event is at this version.
    version_used: bool,
    decision: Decision,
}

/// Whether a number of seats can be provided.
enum Cover {
    Enough,
    /// Perhaps in the next batch: this one frees seats, or more holds are due than were read.
    Later,
    /// Only this many are left.
    Short(i32),
}

impl<'a> Batch<'a> {
    fn new(event: &'a Event, named: &'a Named, usage: &'a UsageByPartner, now: Timestamp) -> Self {
        let due = named.due(now);
        Self {
            event,
            named,
            usage,
            now,
            available_seats: event.available_seats,
            due_seats: due.iter().map(|hold| hold.seats).sum(),
            more_due: due.len() >= DUE_HOLDS_MAX,
            due: due.into_iter(),
            freed_seats: 0,
            altered: HashSet::new(),
            relieved: HashSet::new(),
            used: foldhash::HashMap::default(),
            used_keys: HashSet::new(),
            version_used: false,
            decision: Decision::default(),
        }
    }

    fn reserve(&mut self, reserve: &'a Reserve) -> Verdict {
        // The key comes before every other check: a replay succeeds even when sold out.
        let keyed = reserve.keyed();
        if let Some(key) = &reserve.key {
            let made = self.named.by_key(&reserve.partner_id, key);
            if let Some(first) = made.first() {
                return self.replay(&made, first.keyed == keyed);
            }
            if self.used_keys.contains(&(&reserve.partner_id, key)) {
                return Verdict::Deferred;
            }
        }
        let seats_max = self.event.seats_per_reservation_max;
        if let Some(item) = reserve.items.iter().position(|item| item.seats.get() > seats_max) {
            let item = reserve.is_list.then_some(item);
            return Verdict::Refused(Refusal::TooManySeats { item, seats_max });
        }
        if let Some(verdict) = self.version_stops(&reserve.precondition) {
            return verdict;
        }
        if let Some(verdict) = self.sales_stop() {
            return verdict;
        }
        if let Some(verdict) = self.limits_stop(reserve) {
            return verdict;
        }
        match self.cover(reserve.seats()) {
            Cover::Enough => {}
            Cover::Later => return Verdict::Deferred,
            Cover::Short(available_seats) => {
                let next_hold_expires_at = self.named.next_hold_expires_at;
                let short = Refusal::InsufficientSeats { available_seats, next_hold_expires_at };
                return Verdict::Refused(short);
            }
        }
        if let Some(key) = &reserve.key {
            self.used_keys.insert((&reserve.partner_id, key));
        }
        self.version_used |= reserve.precondition != Precondition::Any;
        self.use_up(reserve);
        Verdict::Accepted(Acceptance::Reserved(self.make(reserve, keyed)))
    }

    fn replay(&self, made: &[&Reservation], same_request: bool) -> Verdict {
        if !same_request {
            Verdict::Refused(Refusal::IdempotencyKeyReused)
        } else if made.iter().any(|made| self.altered.contains(&made.id)) {
            Verdict::Deferred
        } else {
            let made = made.iter().copied().cloned().collect();
            Verdict::Accepted(Acceptance::Replayed(made))
        }
    }

    /// Of several commands that name the same version, at most one is granted.
    fn version_stops(&self, precondition: &Precondition) -> Option<Verdict> {
        let version = self.event.version;
        if !precondition.allows(version) {
            Some(Verdict::Refused(Refusal::PreconditionFailed { version }))
        } else if self.version_used && *precondition != Precondition::Any {
            Some(Verdict::Deferred)
        } else {
            None
        }
    }

    /// Makes this many seats available, if need be by expiring holds past their time.
    fn cover(&mut self, seats: i32) -> Cover {
        let there = self.available_seats + self.due_seats;
        let goal = if seats <= there {
            seats
        } else if self.more_due {
            i32::MAX
        } else if self.freed_seats > 0 {
            return Cover::Later;
        } else {
            return Cover::Short(there);
        };
        while self.available_seats < goal
            && let Some(hold) = self.due.next()
        {
            self.expire(hold);
        }
        if seats <= there { Cover::Enough } else { Cover::Later }
    }

    /// The rows of a booking whose seats are available.
    fn make(&mut self, reserve: &Reserve, keyed: Option<KeyedRequest>) -> Vec<Reservation> {
        let mut made = Vec::with_capacity(reserve.items.len());
        let mut keyed = keyed;
        for (number, item) in (0..).zip(&reserve.items) {
            let seats = item.seats.get();
            let (kind, status) = match item.hold {
                Some(_) => (ChangeKind::Held, Status::Held),
                None => (ChangeKind::Reserved, Status::Confirmed),
            };
            let reservation = Reservation {
                id: item.id,
                event_id: self.event.id.clone(),
                partner_id: reserve.partner_id.clone(),
                seats,
                status,
                hold_expires_at: item.hold.map(|hold| self.now + hold.duration()),
                reference: item.reference.clone(),
                version: self.event.version + 1,
                created_at: self.now,
                keyed: keyed.clone(),
                item: number,
            };
            self.available_seats -= seats;
            self.write(kind, seats, None, reservation.clone(), &reserve.by);
            made.push(reservation);
            // Only the first reservation of a request has the fingerprint.
            if let (0, Some(keyed)) = (number, &mut keyed) {
                keyed.fingerprint = "".into();
            }
        }
        made
    }

    /// The only place that adds a row; it also maintains the counters.
    fn write(
        &mut self,
        kind: ChangeKind,
        seats: i32,
        before: Option<&Reservation>,
        after: Reservation,
        by: &Caller,
    ) {
        let held = |of: &Reservation| if of.status == Status::Held { of.seats } else { 0 };
        let confirmed = |of: &Reservation| i64::from(of.status == Status::Confirmed);
        let owned = |of: &Reservation| if of.status.owns_seats() { of.seats } else { 0 };
        let decision = &mut self.decision;
        decision.net_seats += owned(&after) - before.map_or(0, owned);
        decision.net_held += held(&after) - before.map_or(0, held);
        decision.net_confirmed += confirmed(&after) - before.map_or(0, confirmed);
        if let Some(before) = before {
            self.altered.insert(before.id);
            if owned(&after) < owned(before) || held(&after) < held(before) {
                self.relieved.insert(after.partner_id.clone());
            }
        }
        let previous_version = before.map(|before| before.version);
        let by = by.operator_key().cloned();
        decision.changes.push(Change { kind, seats, reservation: after, previous_version, by });
    }

    fn sweep(&mut self) -> Verdict {
        while let Some(hold) = self.due.next() {
            self.expire(hold);
        }
        Verdict::Accepted(Acceptance::Swept)
    }
}

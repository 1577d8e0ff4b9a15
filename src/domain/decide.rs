//! The decision: which of the waiting commands an event can grant, all of them at one version.
//!
//! Every command is decided against the base state minus the seats that earlier commands of the
//! batch take, and never on another effect of the batch: what would need one is deferred to the
//! next batch. That keeps a refusal true even if this batch is never committed.

use std::collections::{HashMap, HashSet};

use super::{
    ChangeKind, Command, Event, IdempotencyKey, PartnerId, Reservation, ReservationId, Reserve,
    Status, Timestamp,
};

#[cfg(test)]
mod tests;

/// The reservations that the commands of a batch name, by id or by idempotency key, read in one
/// snapshot with the event. Empty where the event is only remembered: then an acceptance is still
/// sound, since the version and the unique key guard it, and a refusal is not.
#[derive(Debug, Default)]
pub struct Named {
    by_id: HashMap<ReservationId, Reservation>,
    by_key: HashMap<(PartnerId, IdempotencyKey), ReservationId>,
}

impl Named {
    pub fn insert(&mut self, reservation: Reservation) {
        if let Some(keyed) = &reservation.keyed {
            let key = (reservation.partner_id.clone(), keyed.key.clone());
            self.by_key.insert(key, reservation.id);
        }
        self.by_id.insert(reservation.id, reservation);
    }

    fn by_key(&self, partner_id: &PartnerId, key: &IdempotencyKey) -> Option<&Reservation> {
        let id = self.by_key.get(&(partner_id.clone(), key.clone()))?;
        self.by_id.get(id)
    }
}

/// What to write, and what to answer once it is written.
#[derive(Debug, Default)]
pub struct Decision {
    /// Empty when nothing is granted: then there is nothing to commit.
    pub changes: Vec<Change>,
    /// Seats taken minus seats given back.
    pub net_seats: i32,
    /// By how much the number of confirmed reservations moves.
    pub net_confirmed: i64,
    /// One for each command, in their order.
    pub verdicts: Vec<Verdict>,
}

/// A row of `reservations` to write.
#[derive(Clone, Debug)]
pub enum Change {
    Insert(Reservation),
    /// Moves an existing reservation to another status, if it is still at `previous_version`.
    Alter {
        kind: ChangeKind,
        id: ReservationId,
        partner_id: PartnerId,
        seats: i32,
        status: Status,
        previous_version: i64,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Holds once the changes are committed.
    Accepted(Acceptance),
    Refused(Refusal),
    /// Needs an effect of this batch: belongs at the head of the next one.
    Deferred,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    Reserved(Reservation),
    /// An earlier request with the same key made this one; shown as it is now.
    Replayed(Reservation),
    Cancelled,
}

/// Why a command is not granted. Expected, and final for this command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The event has no such slug behind it.
    EventNotFound,
    /// Fewer seats are left than were asked for.
    InsufficientSeats { available_seats: i32 },
    /// Unknown in this event, or no longer active.
    ReservationNotFound,
    /// The key was used for another request.
    IdempotencyKeyReused,
}

/// Decides `commands`, in arrival order, against `event` as it stood at its version.
///
/// Admission is greedy: a request that does not fit is refused, a smaller one behind it may fit.
pub fn decide(event: &Event, named: &Named, now: Timestamp, commands: &[&Command]) -> Decision {
    let mut batch = Batch {
        event,
        named,
        now,
        available_seats: event.available_seats,
        freed_seats: 0,
        altered: HashSet::new(),
        used_keys: HashSet::new(),
        decision: Decision::default(),
    };
    for command in commands {
        let verdict = match command {
            Command::Reserve(reserve) => batch.reserve(reserve),
            Command::Cancel(id) => batch.cancel(*id),
        };
        batch.decision.verdicts.push(verdict);
    }
    let Batch { decision, available_seats, .. } = batch;
    assert!(available_seats >= 0, "a batch never takes more seats than its base state has");
    decision
}

/// A decision in the making.
struct Batch<'a> {
    event: &'a Event,
    named: &'a Named,
    now: Timestamp,
    /// The base state's, minus what this batch has taken so far.
    available_seats: i32,
    /// What this batch gives back; sellable from the next version on.
    freed_seats: i32,
    altered: HashSet<ReservationId>,
    used_keys: HashSet<(&'a PartnerId, &'a IdempotencyKey)>,
    decision: Decision,
}

impl<'a> Batch<'a> {
    fn reserve(&mut self, reserve: &'a Reserve) -> Verdict {
        // The key comes before every other check: a replay succeeds even when sold out.
        let keyed = reserve.keyed();
        if let Some(key) = &reserve.key {
            if let Some(made) = self.named.by_key(&reserve.partner_id, key) {
                return self.replay(made, made.keyed == keyed);
            }
            if self.used_keys.contains(&(&reserve.partner_id, key)) {
                return Verdict::Deferred;
            }
        }

        let seats = reserve.seats.get();
        if seats > self.available_seats {
            return self.short_of_seats();
        }
        if let Some(key) = &reserve.key {
            self.used_keys.insert((&reserve.partner_id, key));
        }
        self.available_seats -= seats;
        self.decision.net_seats += seats;
        self.decision.net_confirmed += 1;
        let reservation = Reservation {
            id: reserve.id,
            event_id: self.event.id.clone(),
            partner_id: reserve.partner_id.clone(),
            seats,
            status: Status::Confirmed,
            version: self.event.version + 1,
            created_at: self.now,
            keyed,
        };
        self.decision.changes.push(Change::Insert(reservation.clone()));
        Verdict::Accepted(Acceptance::Reserved(reservation))
    }

    fn replay(&self, made: &Reservation, same_request: bool) -> Verdict {
        if !same_request {
            Verdict::Refused(Refusal::IdempotencyKeyReused)
        } else if self.altered.contains(&made.id) {
            Verdict::Deferred
        } else {
            Verdict::Accepted(Acceptance::Replayed(made.clone()))
        }
    }

    fn short_of_seats(&self) -> Verdict {
        if self.freed_seats > 0 {
            return Verdict::Deferred;
        }
        let available_seats = self.available_seats;
        Verdict::Refused(Refusal::InsufficientSeats { available_seats })
    }

    fn cancel(&mut self, id: ReservationId) -> Verdict {
        if self.altered.contains(&id) {
            return Verdict::Deferred;
        }
        let active = self.named.by_id.get(&id).filter(|made| made.status.owns_seats());
        let Some(made) = active else {
            return Verdict::Refused(Refusal::ReservationNotFound);
        };
        self.altered.insert(id);
        self.freed_seats += made.seats;
        self.decision.net_seats -= made.seats;
        self.decision.net_confirmed -= i64::from(made.status == Status::Confirmed);
        self.decision.changes.push(Change::Alter {
            kind: ChangeKind::Cancelled,
            id,
            partner_id: made.partner_id.clone(),
            seats: made.seats,
            status: Status::Cancelled,
            previous_version: made.version,
        });
        Verdict::Accepted(Acceptance::Cancelled)
    }
}

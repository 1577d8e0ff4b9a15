//! Changes of a reservation: confirm, extend, shrink, cancel, expire.

use super::Batch;
use crate::domain::{
    Acceptance, Action, Alter, Caller, ChangeKind, HoldTime, Refusal, Reservation, SeatCount,
    Status, Verdict,
};

/// The longest life of a hold from its creation, however often it is extended.
const HOLD_LIFE_MAX: time::Duration = time::Duration::days(7);

impl Batch<'_> {
    pub fn alter(&mut self, alter: &Alter) -> Verdict {
        let Alter { id, action, precondition, by } = alter;
        if self.altered.contains(id) {
            return Verdict::Deferred;
        }
        // Another partner's reservation is not found, whatever its status.
        let found = self.named.by_id(*id).filter(|found| by.may_touch(&found.partner_id));
        let Some(found) = found else {
            return Verdict::Refused(Refusal::ReservationNotFound);
        };
        let is_due = found.is_due(self.now);
        if is_due {
            self.expire(found);
        }
        let status = if is_due { Status::Expired } else { found.status };
        let version = found.version;
        match (status, action) {
            (Status::Cancelled | Status::Expired, Action::Cancel) => {
                Verdict::Refused(Refusal::ReservationNotFound)
            }
            (Status::Expired, _) => Verdict::Refused(Refusal::HoldExpired),
            _ if !precondition.allows(version) => {
                Verdict::Refused(Refusal::PreconditionFailed { version })
            }
            (Status::Cancelled, _) | (Status::Confirmed, Action::Extend(_)) => {
                Verdict::Refused(Refusal::ReservationNotActive { status })
            }
            (Status::Confirmed, Action::Confirm) => {
                Verdict::Accepted(Acceptance::Unaltered(found.clone()))
            }
            (Status::Held, Action::Confirm) => self.confirm(found, by),
            (Status::Held, Action::Extend(time)) => self.extend(found, *time, by),
            (Status::Held | Status::Confirmed, Action::Shrink(seats)) => {
                self.shrink(found, *seats, by)
            }
            (Status::Held | Status::Confirmed, Action::Cancel) => {
                self.end(ChangeKind::Cancelled, found, by);
                self.freed_seats += found.seats;
                Verdict::Accepted(Acceptance::Cancelled)
            }
        }
    }

    fn confirm(&mut self, hold: &Reservation, by: &Caller) -> Verdict {
        let confirmed = Reservation { status: Status::Confirmed, ..hold.clone() };
        self.change(ChangeKind::Confirmed, hold, hold.seats, confirmed, by)
    }

    fn extend(&mut self, hold: &Reservation, time: HoldTime, by: &Caller) -> Verdict {
        let end = (self.now + time.duration()).min(hold.created_at + HOLD_LIFE_MAX);
        let extended = Reservation { hold_expires_at: Some(end), ..hold.clone() };
        self.change(ChangeKind::Extended, hold, hold.seats, extended, by)
    }

    fn shrink(&mut self, found: &Reservation, seats: SeatCount, by: &Caller) -> Verdict {
        let seats = seats.get();
        if seats > found.seats {
            return Verdict::Refused(Refusal::CannotGrow { seats: found.seats });
        }
        if seats == found.seats {
            // A repeated request, for example after its answer was lost.
            return Verdict::Accepted(Acceptance::Unaltered(found.clone()));
        }
        let freed = found.seats - seats;
        self.freed_seats += freed;
        let shrunk = Reservation { seats, ..found.clone() };
        self.change(ChangeKind::Shrunk, found, freed, shrunk, by)
    }

    fn change(
        &mut self,
        kind: ChangeKind,
        before: &Reservation,
        seats: i32,
        after: Reservation,
        by: &Caller,
    ) -> Verdict {
        let after = Reservation { version: self.event.version + 1, ..after };
        self.write(kind, seats, Some(before), after.clone(), by);
        Verdict::Accepted(Acceptance::Altered(after))
    }

    /// Expires a hold past its time. Its seats are available to this very batch.
    pub fn expire(&mut self, hold: &Reservation) {
        if self.altered.contains(&hold.id) {
            return;
        }
        self.due_seats -= hold.seats;
        self.available_seats += hold.seats;
        self.end(ChangeKind::Expired, hold, &Caller::Anybody);
    }

    fn end(&mut self, kind: ChangeKind, before: &Reservation, by: &Caller) {
        let status = kind.status().expect("an end is a status");
        let version = self.event.version + 1;
        let after = Reservation { status, version, ..before.clone() };
        self.write(kind, before.seats, Some(before), after, by);
    }
}

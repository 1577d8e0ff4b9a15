//! Finds the version at which an answer was true.

use std::ops::RangeInclusive;

use uuid::Uuid;

use super::history::{History, Life};
use super::{Action, Answer, Booking, Call, Has, Item, Request, Sales, Shown, Status};

impl History {
    /// The first of the versions at which the answer was true.
    pub fn find(&self, call: &Call, answer: &Answer, versions: RangeInclusive<i64>) -> Option<i64> {
        if let Answer::NothingHappened(_) | Answer::Unknown { .. } = answer {
            return Some(*versions.start());
        }
        match &call.request {
            Request::Reserve(booking) => self.of_booking(call, booking, answer, versions),
            Request::Alter { id, action, at_version } => {
                let life = self.lives.get(id);
                Self::of_change(life, *action, *at_version, answer, versions)
            }
            Request::ChangeEvent { total, sales, at_version } => {
                self.of_event(call, (*total, *sales, *at_version), answer, versions)
            }
            Request::Sweep => Some(*versions.start()).filter(|_| *answer == Answer::Swept),
        }
    }

    fn of_booking(
        &self,
        call: &Call,
        booking: &Booking,
        answer: &Answer,
        mut versions: RangeInclusive<i64>,
    ) -> Option<i64> {
        let newest = *versions.end();
        let known = self.of_key(booking);
        // A known key takes precedence over every other answer.
        let new_at = |version: i64| known.is_none_or(|(_, made)| made > version);
        let fits = |version: i64| booking.at_version.is_none_or(|wanted| wanted == version);
        let seats: i32 = booking.items.iter().map(|item| item.seats).sum();
        match answer {
            Answer::Reserved(shown) => {
                let made = self.made(booking.items[0].id)?;
                let right = self.show(&booking.items, shown, made) && fits(made - 1);
                Some(made).filter(|made| right && meanwhile(&versions, *made))
            }
            Answer::Replayed(shown) => {
                let (first, _) = known?;
                let right = same(first, booking);
                versions.find(|version| right && self.show(&first.items, shown, *version))
            }
            Answer::KeyReused => {
                let (first, made) = known?;
                versions.find(|version| made <= *version && !same(first, booking))
            }
            Answer::InsufficientSeats { available } => versions.find(|version| {
                let event = &self.event[*version as usize];
                // The levels between two bookings of the next version are possible only if that
                // version was already on its way.
                let there = if *version < newest { event.levels.len() } else { 1 };
                let due = self.due(*version, call.between);
                let mut left = event.levels[..there]
                    .iter()
                    .flat_map(|level| due.iter().map(move |due| level + due));
                let left = left.any(|left| left == *available);
                let open = event.sales == Sales::On && fits(*version) && new_at(*version);
                left && *available < seats && open
            }),
            Answer::SalesClosed(sales) => versions.find(|version| {
                let closed = self.event[*version as usize].sales;
                closed == *sales && closed != Sales::On && new_at(*version)
            }),
            Answer::TooManySeats { .. } | Answer::TooManyHolds { .. } => versions.find(|version| {
                let open = self.event[*version as usize].sales == Sales::On;
                open && fits(*version)
                    && new_at(*version)
                    && self.is_over(call, booking, answer, *version, newest)
            }),
            Answer::PreconditionFailed { version } => {
                versions.find(|at| at == version && !fits(*version) && new_at(*version))
            }
            _ => None,
        }
    }

    /// Whether a partner's usage at a version can have been so high that the booking exceeded a
    /// limit. What the next version granted the partner may have come first, in the same batch.
    fn is_over(
        &self,
        call: &Call,
        booking: &Booking,
        answer: &Answer,
        version: i64,
        newest: i64,
    ) -> bool {
        let Some(limits) = self.limits else { return false };
        let [most, least] =
            [call.between.0, call.between.1].map(|at| self.has(&booking.partner, version, at));
        let next = if version < newest {
            self.granted(&booking.partner, version + 1)
        } else {
            Has::default()
        };
        let holds = booking.items.iter().filter(|item| item.hold.is_some()).count() as i32;
        let seats: i32 = booking.items.iter().map(|item| item.seats).sum();
        match answer {
            Answer::TooManySeats { used } => {
                (least.seats..=most.seats + next.seats).contains(used)
                    && used + seats > limits.seats
            }
            Answer::TooManyHolds { used } => {
                (least.holds..=most.holds + next.holds).contains(used)
                    && used + holds > limits.holds
            }
            _ => false,
        }
    }

    /// Whether the reservations at this version are as they were shown.
    fn show(&self, items: &[Item], shown: &[Shown], version: i64) -> bool {
        let at = |id: Uuid| self.lives.get(&id).and_then(|life| life.at(version));
        items.len() == shown.len()
            && items.iter().zip(shown).all(|(item, shown)| at(item.id) == Some(shown))
    }

    fn of_change(
        life: Option<&Life>,
        action: Action,
        at_version: Option<i64>,
        answer: &Answer,
        mut versions: RangeInclusive<i64>,
    ) -> Option<i64> {
        let fits = |version: i64| at_version.is_none_or(|wanted| wanted == version);
        let at = |version: i64| life.and_then(|life| life.at(version));
        match answer {
            Answer::Altered(shown) => {
                let states = &life?.states;
                let place = states.iter().position(|(_, state)| state == shown)?;
                let (kind, _) = states[place];
                let (_, before) = states.get(place.checked_sub(1)?)?;
                let kept = match action {
                    Action::Shrink(seats) => shown.seats == seats,
                    Action::Confirm | Action::Extend(_) | Action::Cancel => true,
                };
                let right = kind == action.kind() && kept && fits(before.version);
                Some(shown.version).filter(|made| right && meanwhile(&versions, *made))
            }
            Answer::Cancelled => {
                let cancelled = life?.last();
                let right = cancelled.status == Status::Cancelled;
                Some(cancelled.version).filter(|made| right && meanwhile(&versions, *made))
            }
            Answer::Unaltered(shown) => {
                let so = match action {
                    Action::Confirm => shown.status == Status::Confirmed,
                    Action::Shrink(seats) => shown.status.is_active() && shown.seats == seats,
                    Action::Extend(_) | Action::Cancel => false,
                };
                versions.find(|version| so && at(*version) == Some(shown) && fits(shown.version))
            }
            Answer::ReservationNotFound => versions.find(|version| {
                let active = at(*version).map(|shown| shown.status.is_active());
                if action == Action::Cancel { active != Some(true) } else { active.is_none() }
            }),
            Answer::HoldExpired => versions.find(|version| {
                let expired = at(*version).is_some_and(|shown| shown.status == Status::Expired);
                expired && action != Action::Cancel
            }),
            Answer::NotActive(status) => versions.find(|version| {
                let extends = matches!(action, Action::Extend(_));
                at(*version).is_some_and(|shown| shown.status == *status)
                    && (*status == Status::Cancelled || *status == Status::Confirmed && extends)
            }),
            Answer::CannotGrow { seats } => versions.find(|version| {
                let there = at(*version)
                    .is_some_and(|shown| shown.status.is_active() && shown.seats == *seats);
                there && matches!(action, Action::Shrink(wanted) if wanted > *seats)
            }),
            Answer::PreconditionFailed { version } => versions.find(|now| {
                at(*now).is_some_and(|shown| shown.version == *version) && !fits(*version)
            }),
            _ => None,
        }
    }

    fn of_event(
        &self,
        call: &Call,
        wanted: (Option<i32>, Option<Sales>, Option<i64>),
        answer: &Answer,
        mut versions: RangeInclusive<i64>,
    ) -> Option<i64> {
        let (total, sales, at_version) = wanted;
        let fits = |version: i64| at_version.is_none_or(|wanted| wanted == version);
        match answer {
            Answer::EventChanged(shown) | Answer::EventUnchanged(shown) => {
                let made = shown.version;
                let changed = matches!(answer, Answer::EventChanged(_));
                let base = if changed { made - 1 } else { made };
                let right = self.event.len() as i64 > made
                    && self.shown(made) == *shown
                    && total.is_none_or(|total| total == shown.total)
                    && sales.is_none_or(|sales| sales == shown.sales)
                    && fits(base);
                let there =
                    if changed { meanwhile(&versions, made) } else { versions.contains(&made) };
                Some(made).filter(|_| right && there)
            }
            Answer::CapacityBelowSold { taken } => versions.find(|version| {
                let event = &self.event[*version as usize];
                let due = self.due(*version, call.between);
                let mut possible = due.iter().map(|due| event.total - event.levels[0] - due);
                let so = possible.any(|possible| possible == *taken);
                so && total.is_some_and(|total| total < *taken) && fits(*version)
            }),
            Answer::PreconditionFailed { version } => {
                versions.find(|at| at == version && !fits(*version))
            }
            _ => None,
        }
    }
}

/// Whether a call can have made this version: not if the version existed before the call.
fn meanwhile(versions: &RangeInclusive<i64>, made: i64) -> bool {
    made > *versions.start() && made <= *versions.end()
}

/// Whether a retry asks for the same as the first request.
fn same(first: &Booking, again: &Booking) -> bool {
    let what = |booking: &Booking| {
        booking.items.iter().map(|item| (item.seats, item.hold)).collect::<Vec<_>>()
    };
    what(first) == what(again)
}

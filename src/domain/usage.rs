//! Usage: what partners have of an event, as far as it counts against a limit.

use std::ops::Add;

use foldhash::{HashMap, HashMapExt as _};

use super::{Change, ChangeKind, Event, PartnerId, Reserve};

#[cfg(test)]
mod tests;

/// What one partner has; holds that are past their time no longer count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Held and booked seats together; meaningful only if the event limits them.
    pub seats: i64,
    /// The number of holds, not of their seats.
    pub holds: i64,
}

impl Usage {
    /// What a booking adds.
    pub fn of(reserve: &Reserve) -> Self {
        let holds = reserve.items.iter().filter(|item| item.hold.is_some()).count();
        Self { seats: reserve.seats().into(), holds: holds as i64 }
    }
}

impl Add for Usage {
    type Output = Self;

    fn add(self, more: Self) -> Self {
        Self { seats: self.seats + more.seats, holds: self.holds + more.holds }
    }
}

/// How many partners' usage is remembered, at most.
pub(super) const PARTNERS_MAX: usize = 10_000;

/// What the partners of an event have at one of its versions, as far as is known.
///
/// It may be too high, never too low: what is given back is not subtracted. That is enough to grant
/// a command; before one is refused, the partner's usage is read.
#[derive(Debug, Default)]
pub struct UsageByPartner {
    /// Few, and known for a short time only, so that their hashes need not withstand an attack.
    partners: HashMap<PartnerId, Usage>,
    /// Partners that are not in the map have nothing. Without this, each commit would need a read
    /// when sales open, since every partner is new then.
    complete: bool,
}

impl UsageByPartner {
    /// What the event alone tells: while all of its seats are available, nobody has any.
    pub fn of_event(event: &Event) -> Self {
        let complete = event.available_seats == event.total_seats;
        Self { partners: HashMap::new(), complete }
    }

    /// `None` if it is not known.
    pub fn of(&self, partner_id: &PartnerId) -> Option<Usage> {
        let known = self.partners.get(partner_id).copied();
        known.or_else(|| self.complete.then(Usage::default))
    }

    /// Adds what was read about a partner.
    pub fn insert(&mut self, partner_id: PartnerId, used: Usage) {
        self.partners.insert(partner_id, used);
    }

    /// Adds what was read at the same version. If too many are remembered, only that is kept.
    pub fn with(mut self, read: Self) -> Self {
        // Nothing was read, because what is known is enough.
        if read.partners.is_empty() {
            return self;
        }
        if self.partners.len() >= PARTNERS_MAX {
            return read;
        }
        // In place: with many partners, nearly every batch has a new one.
        self.partners.extend(read.partners);
        self
    }

    /// The usage at the event's next version, which these changes made.
    pub fn after(mut self, event: &Event, changes: &[Change]) -> Self {
        for Change { kind, seats, reservation, .. } in changes {
            let granted = |holds| Usage { seats: (*seats).into(), holds };
            match kind {
                // If the event does not limit seats, only holds count.
                ChangeKind::Reserved if event.seats_per_partner_max.is_none() => {}
                ChangeKind::Reserved => self.add(&reservation.partner_id, granted(0)),
                ChangeKind::Held => self.add(&reservation.partner_id, granted(1)),
                ChangeKind::Confirmed
                | ChangeKind::Extended
                | ChangeKind::Shrunk
                | ChangeKind::Cancelled
                | ChangeKind::Expired => {}
            }
        }
        self
    }

    fn add(&mut self, partner_id: &PartnerId, granted: Usage) {
        if let Some(used) = self.partners.get_mut(partner_id) {
            *used = *used + granted;
        } else if self.partners.len() >= PARTNERS_MAX {
            self.complete = false;
        } else if self.complete {
            self.partners.insert(partner_id.clone(), granted);
        }
    }
}

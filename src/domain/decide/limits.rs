//! Limits on what one partner may have of an event. They are decided like everything else, against
//! the base state and what earlier commands of the batch take, and guarded by the version, so that
//! two replicas cannot both grant the last of it.

use super::Batch;
use crate::domain::{Refusal, Reserve, Usage, Verdict};

impl<'a> Batch<'a> {
    /// The verdict, if the request would exceed the partner's limits.
    pub fn limits_stop(&mut self, reserve: &'a Reserve) -> Option<Verdict> {
        let limits = reserve.limits.as_ref()?;
        let partner_id = reserve.limited_partner(self.event)?;
        let used = self.used(reserve);
        let wanted = Usage::of(reserve);
        let over = |used: i64, wanted: i64, max: i64| wanted > 0 && used + wanted > max;
        let holds_max = i64::from(limits.open_holds_max);
        let refusal = if over(used.holds, wanted.holds, holds_max) {
            Refusal::TooManyHolds { used: used.holds, max: holds_max }
        } else {
            let max = i64::from(self.event.seats_per_partner_max?);
            if !over(used.seats, wanted.seats, max) {
                return None;
            }
            Refusal::TooManySeatsOfPartner { used: used.seats, max }
        };
        // What the partner gives back in this batch no longer counts in the next one.
        if self.relieved.contains(partner_id) {
            return Some(Verdict::Deferred);
        }
        Some(Verdict::Refused(refusal))
    }

    /// Adds what the command takes to the partner's usage.
    pub fn use_up(&mut self, reserve: &'a Reserve) {
        if reserve.limited_partner(self.event).is_some() {
            let used = self.used(reserve) + Usage::of(reserve);
            self.used.insert(&reserve.partner_id, used);
        }
    }

    fn used(&self, reserve: &Reserve) -> Usage {
        let earlier = self.used.get(&reserve.partner_id).copied();
        let base = || self.usage.of(&reserve.partner_id);
        earlier.or_else(base).expect("what a limited partner has is read, or remembered")
    }
}

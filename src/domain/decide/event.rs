//! Changes of the event itself, and whether it is selling.

use super::{Batch, Cover};
use crate::domain::{Acceptance, ChangeEvent, Event, EventChange, EventStatus, Refusal, Verdict};

impl Batch<'_> {
    pub fn change_event(&mut self, wanted: &ChangeEvent) -> Verdict {
        // A change of the event gets a version of its own.
        if self.decision.writes() {
            return Verdict::Deferred;
        }
        if let Some(verdict) = self.version_stops(&wanted.precondition) {
            return verdict;
        }
        let change = self.difference(wanted);
        if change.is_empty() {
            return Verdict::Accepted(Acceptance::EventUnchanged(self.event.clone()));
        }
        let mut after = Event { version: self.event.version + 1, ..self.event.clone() };
        change.apply(&mut after);
        if let (Some(open), Some(close)) = (after.sales_open_at, after.sales_close_at)
            && close <= open
        {
            return Verdict::Refused(Refusal::SalesWindowEmpty);
        }
        let lost_seats = self.event.total_seats - after.total_seats;
        match self.cover(lost_seats) {
            Cover::Enough => {}
            Cover::Later => return Verdict::Deferred,
            Cover::Short(available) => {
                let taken_seats = self.event.total_seats - available;
                return Verdict::Refused(Refusal::CapacityBelowSold { taken_seats });
            }
        }
        self.available_seats -= lost_seats;
        self.decision.net_seats += lost_seats;
        self.decision.event_change = Some(change);
        self.decision.event_changed_by = wanted.by.operator_key().cloned();
        after.available_seats = self.available_seats;
        after.held_seats += self.decision.net_held;
        Verdict::Accepted(Acceptance::EventChanged(after))
    }

    /// The part of a requested change that is not in effect already.
    fn difference(&self, wanted: &ChangeEvent) -> EventChange {
        let now = self.event;
        let ChangeEvent { name, total_seats, status, sales_open_at, sales_close_at, .. } = wanted;
        let sales_close_at = sales_close_at.filter(|close| *close != now.sales_close_at);
        // With another end, sales go on; if that has passed, too, the next booking ends them again.
        let reopened = sales_close_at
            .filter(|_| now.status == EventStatus::Ended)
            .map(|_| EventStatus::OnSale);
        EventChange {
            name: name.clone().filter(|name| *name != now.name),
            total_seats: total_seats.map(|seats| seats.get()).filter(|it| *it != now.total_seats),
            status: status.or(reopened).filter(|status| *status != now.status),
            sales_open_at: sales_open_at.filter(|open| *open != now.sales_open_at),
            sales_close_at,
        }
    }

    /// The verdict on a new booking, if the event is not selling now. Sales that have reached their
    /// end are ended here.
    pub fn sales_stop(&mut self) -> Option<Verdict> {
        let Event { status, sales_open_at, sales_close_at, .. } = *self.event;
        let closed = |status| {
            Verdict::Refused(Refusal::SalesClosed { status, sales_open_at, sales_close_at })
        };
        if status != EventStatus::OnSale || sales_open_at.is_some_and(|open| self.now < open) {
            return Some(closed(status));
        }
        if sales_close_at.is_none_or(|close| self.now < close) {
            return None;
        }
        if self.decision.writes() {
            return Some(Verdict::Deferred);
        }
        let status = EventStatus::Ended;
        self.decision.event_change =
            Some(EventChange { status: Some(status), ..EventChange::default() });
        Some(closed(status))
    }
}

//! The reservations that a batch is about.

use std::collections::HashMap;

use super::{IdempotencyKey, PartnerId, Reservation, ReservationId, Timestamp};

/// Holds past their time that are read beside a batch. With so many of them there may be more,
/// which wait for the next batch.
pub const DUE_HOLDS_MAX: usize = 512;

/// The reservations that the commands of a batch name, by id or by idempotency key, and the holds
/// past their time whose seats they may need, read in one snapshot with the event. Empty where the
/// event is only remembered: then an acceptance that writes is still sound, since the version and
/// the unique key guard it, and a refusal is not.
#[derive(Debug, Default)]
pub struct Named {
    by_id: HashMap<ReservationId, Reservation>,
    /// In the order of their items.
    by_key: HashMap<(PartnerId, IdempotencyKey), Vec<ReservationId>>,
    /// When the first of the holds ends that are not past their time; only where seats may be
    /// short.
    pub next_hold_expires_at: Option<Timestamp>,
}

impl Named {
    /// The same one any number of times.
    pub fn insert(&mut self, reservation: Reservation) {
        let (id, item) = (reservation.id, reservation.item);
        let keyed = reservation.keyed.clone();
        let partner_id = reservation.partner_id.clone();
        if self.by_id.insert(id, reservation).is_some() {
            return;
        }
        if let Some(keyed) = keyed {
            let of_key = self.by_key.entry((partner_id, keyed.key)).or_default();
            let by_id = &self.by_id;
            let position = of_key.partition_point(|other| by_id[other].item < item);
            of_key.insert(position, id);
        }
    }

    pub(super) fn by_id(&self, id: ReservationId) -> Option<&Reservation> {
        self.by_id.get(&id)
    }

    /// What a key has made, in the order of its items; empty for a key that was not used.
    pub(super) fn by_key(&self, partner_id: &PartnerId, key: &IdempotencyKey) -> Vec<&Reservation> {
        if self.by_key.is_empty() {
            return Vec::new();
        }
        let ids = self.by_key.get(&(partner_id.clone(), key.clone()));
        ids.into_iter().flatten().map(|id| &self.by_id[id]).collect()
    }

    /// The holds past their time, the oldest first.
    pub(super) fn due(&self, now: Timestamp) -> Vec<&Reservation> {
        let mut due: Vec<_> = self.by_id.values().filter(|hold| hold.is_due(now)).collect();
        due.sort_unstable_by_key(|hold| (hold.hold_expires_at, hold.id));
        due
    }
}

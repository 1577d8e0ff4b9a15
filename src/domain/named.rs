//! The reservations that a batch is about.

use std::collections::HashMap;

use super::{IdempotencyKey, PartnerId, Reservation, ReservationId, Timestamp};

/// How many holds past their time are read with a batch, at most. If this many are found there may
/// be more, which wait for the next batch.
pub const DUE_HOLDS_MAX: usize = 512;

/// The reservations that the commands of a batch name, by id or by idempotency key, and the holds
/// past their time whose seats they may need, read in one snapshot with the event. Empty if the
/// event is only remembered: an acceptance that writes is still sound then, since the version and
/// the unique key guard it; a refusal is not.
#[derive(Debug, Default)]
pub struct Named {
    by_id: HashMap<ReservationId, Reservation>,
    /// The reservations of each key, in the order of their items.
    by_key: HashMap<(PartnerId, IdempotencyKey), Vec<ReservationId>>,
    /// The earliest end among the holds that are not past their time; only known where seats may be
    /// short.
    pub next_hold_expires_at: Option<Timestamp>,
}

impl Named {
    /// Inserting the same reservation again has no effect.
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

    /// The reservations made with a key, in the order of their items; empty for an unused key.
    pub(super) fn by_key(&self, partner_id: &PartnerId, key: &IdempotencyKey) -> Vec<&Reservation> {
        if self.by_key.is_empty() {
            return Vec::new();
        }
        let ids = self.by_key.get(&(partner_id.clone(), key.clone()));
        ids.into_iter().flatten().map(|id| &self.by_id[id]).collect()
    }

    /// The holds past their time, oldest first.
    pub(super) fn due(&self, now: Timestamp) -> Vec<&Reservation> {
        let mut due: Vec<_> = self.by_id.values().filter(|hold| hold.is_due(now)).collect();
        due.sort_unstable_by_key(|hold| (hold.hold_expires_at, hold.id));
        due
    }
}

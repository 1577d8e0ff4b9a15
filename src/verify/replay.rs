//! The journal of one event, replayed up to one version, and compared with the tables.

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use crate::domain::{ChangeKind, Status};
use crate::store::verify::{Counters, Deed, JournalEntry, StoredEntry, Summed};

#[cfg(test)]
mod tests;

/// The replay of an event, entry by entry. It keeps nothing about an entry, except for what partners
/// have of an event that limits it, and for reservations that have changed since the version it
/// replays to: as many as change while it runs.
pub struct Replay {
    event_id: String,
    /// The event as it was when the replay began.
    found: Counters,
    version: i64,
    total_seats: i64,
    available_seats: i64,
    /// According to the table, or to the journal for reservations that have changed since.
    owned_seats: i64,
    held_seats: i64,
    confirmed: i64,
    /// The reservations that have changed since, as the journal says they were before.
    changed_since: HashMap<Uuid, (Status, i64)>,
    /// The reservations that the current version names.
    named: HashSet<Uuid>,
    /// The version up to which partners' seats are summed up, and each one's seats at that version:
    /// the sum, and what was replayed.
    summed_to: i64,
    seats_of: HashMap<String, (i64, i64)>,
}

impl Replay {
    pub fn new(event_id: &str, found: Counters, summed: Vec<Summed>) -> Self {
        let summed_to = summed.first().map_or(0, |summed| summed.version);
        let sums = summed.into_iter().filter_map(|it| Some((it.partner_id?, (it.seats?, 0))));
        Self {
            summed_to,
            seats_of: sums.collect(),
            event_id: event_id.to_owned(),
            version: 0,
            total_seats: found.initial_seats.into(),
            available_seats: found.initial_seats.into(),
            owned_seats: 0,
            held_seats: 0,
            confirmed: 0,
            changed_since: HashMap::new(),
            named: HashSet::new(),
            found,
        }
    }

    /// The version up to which everything has been replayed.
    pub fn version(&self) -> i64 {
        self.version
    }

    /// Replays the next entry; what is wrong with it is added to `wrong`.
    pub fn entry(&mut self, entry: &JournalEntry, wrong: &mut Vec<String>) {
        if entry.version != self.version {
            self.end_version(wrong);
            if entry.version != self.version + 1 {
                wrong.push(self.says(&format!(
                    "the journal jumps from version {} to {}",
                    self.version, entry.version
                )));
            }
            self.version = entry.version;
            self.named.clear();
            if let Some(total_seats) = entry.total_seats.map(i64::from) {
                self.available_seats += total_seats - self.total_seats;
                self.total_seats = total_seats;
            }
        }
        let (Some(kind), Some(id), Some(seats)) = (entry.kind, entry.reservation_id, entry.seats)
        else {
            // A version that changed the event itself.
            return;
        };
        let Some(kind) = ChangeKind::parse(kind) else {
            wrong.push(self.says(&format!("version {} has the unknown kind {kind}", self.version)));
            return;
        };
        if !self.named.insert(id) {
            wrong.push(self.says(&format!("version {} has reservation {id} twice", self.version)));
        }
        let seats = i64::from(seats);
        let taken = kind.seats_taken(seats);
        self.available_seats -= taken;
        if self.version <= self.summed_to
            && let Some(partner_id) = &entry.partner_id
        {
            let (_, replayed) = self.seats_of.entry(partner_id.clone()).or_default();
            *replayed += taken;
        }
        self.compare(entry, kind, id, seats, wrong);
    }

    /// Compares the entry with the reservation that it names.
    fn compare(
        &mut self,
        entry: &JournalEntry,
        kind: ChangeKind,
        id: Uuid,
        seats: i64,
        wrong: &mut Vec<String>,
    ) {
        let at = self.version;
        let (Some(version), Some(status)) = (entry.stored_version, &entry.stored_status) else {
            wrong.push(
                self.says(&format!("version {at} names reservation {id}, which does not exist")),
            );
            return;
        };
        if entry.partner_id != entry.stored_partner_id {
            wrong.push(
                self.says(&format!("version {at} names another partner for reservation {id}")),
            );
        }
        if version > self.found.version {
            self.change_before(kind, id, seats);
        } else if version < at {
            wrong.push(self.says(&format!(
                "version {at} changes reservation {id}, which is at version {version}"
            )));
        } else if version == at {
            let stored_seats = i64::from(entry.stored_seats.unwrap_or_default());
            match Status::parse(status) {
                Some(status) => self.count(status, stored_seats),
                None => wrong
                    .push(self.says(&format!("reservation {id} has the unknown status {status}"))),
            }
        }
    }

    /// Reservations of a page that have changed since the version it replays to, and whose history
    /// it has not kept, because they had not changed yet when that was read. This matters only for
    /// those that were shrunk, since all other entries are complete in themselves.
    pub fn forgotten(&self, page: &[JournalEntry]) -> Vec<Uuid> {
        let shrunk = page.iter().filter(|entry| {
            entry.kind.and_then(ChangeKind::parse) == Some(ChangeKind::Shrunk)
                && entry.stored_version.is_some_and(|version| version > self.found.version)
        });
        let ids = shrunk.filter_map(|entry| entry.reservation_id);
        ids.filter(|id| !self.changed_since.contains_key(id)).collect()
    }

    /// Takes in an entry that the replay has already passed.
    pub fn remember(&mut self, deed: &Deed) {
        // An unknown kind was reported when the entry was passed.
        if let Some(kind) = ChangeKind::parse(deed.kind) {
            self.change_before(kind, deed.reservation_id, deed.seats.into());
        }
    }

    /// Records what a reservation was before it changed again, which only the journal tells.
    fn change_before(&mut self, kind: ChangeKind, id: Uuid, seats: i64) {
        let before = self.changed_since.get(&id).copied();
        let (status, owned) = before.unwrap_or((Status::Confirmed, 0));
        let seats = match kind {
            ChangeKind::Shrunk => owned - seats,
            ChangeKind::Reserved
            | ChangeKind::Held
            | ChangeKind::Confirmed
            | ChangeKind::Extended
            | ChangeKind::Cancelled
            | ChangeKind::Expired => seats,
        };
        self.changed_since.insert(id, (kind.status().unwrap_or(status), seats));
    }

    fn count(&mut self, status: Status, seats: i64) {
        if status.owns_seats() {
            self.owned_seats += seats;
        }
        if status == Status::Held {
            self.held_seats += seats;
        }
        self.confirmed += i64::from(status == Status::Confirmed);
    }

    fn end_version(&self, wrong: &mut Vec<String>) {
        if self.available_seats < 0 {
            let (version, seats) = (self.version, self.available_seats);
            wrong.push(self.says(&format!(
                "replaying its journal to version {version} leaves {seats} seats available"
            )));
        }
    }

    /// Compares the sums of what partners have with what they had when these were made.
    fn end_sums(&self, wrong: &mut Vec<String>) {
        let at = self.summed_to;
        if at > self.version {
            let version = self.version;
            wrong.push(self.says(&format!(
                "its partners' seats are summed up to version {at}, and it is at {version}"
            )));
        }
        for (partner_id, (sum, replayed)) in &self.seats_of {
            if sum != replayed {
                wrong.push(self.says(&format!(
                    "replaying its journal to version {at} gives {partner_id} {replayed} seats, not \
                     the {sum} that are summed up"
                )));
            }
        }
    }

    /// Compares the replayed state with the event's own counters.
    pub fn end(mut self, wrong: &mut Vec<String>) {
        self.end_version(wrong);
        self.end_sums(wrong);
        for (status, seats) in std::mem::take(&mut self.changed_since).into_values() {
            self.count(status, seats);
        }
        let Counters {
            total_seats, available_seats, held_seats, reservation_count, version, ..
        } = self.found;
        let (total, available) = (i64::from(total_seats), i64::from(available_seats));
        if self.total_seats != total {
            let replayed = self.total_seats;
            wrong.push(self.says(&format!(
                "replaying its journal gives {replayed} seats in total, not {total}"
            )));
        }
        if i64::from(held_seats) != self.held_seats {
            let held = self.held_seats;
            wrong.push(
                self.says(&format!("it counts {held_seats} held seats, but there are {held}")),
            );
        }
        let owned = self.owned_seats;
        if available + owned != total {
            let sum = format!("{available} available + {owned} owned <> {total} in total");
            wrong.push(self.says(&sum));
        }
        if !(0..=total).contains(&available) {
            wrong.push(
                self.says(&format!("it has {available} available seats of {total} in total")),
            );
        }
        if reservation_count != self.confirmed {
            let confirmed = self.confirmed;
            wrong.push(self.says(&format!(
                "it counts {reservation_count} confirmed reservations, but there are {confirmed}"
            )));
        }
        let last = self.found.last_journalled.unwrap_or(0);
        if version != last {
            wrong.push(
                self.says(&format!("it is at version {version}, but its journal ends at {last}")),
            );
        }
        if self.available_seats != available {
            let replayed = self.available_seats;
            wrong.push(self.says(&format!(
                "replaying its journal leaves {replayed} seats available, not {available}"
            )));
        }
    }

    fn says(&self, what: &str) -> String {
        format!("event {}: {what}", self.event_id)
    }
}

/// Checks a reservation by itself, and against the journal of the version in its row.
pub fn check_stored(stored: &StoredEntry, wrong: &mut Vec<String>) {
    let StoredEntry { id, event_id, version, status, seats, .. } = stored;
    let mut says = |what: &str| wrong.push(format!("event {event_id}: reservation {id} {what}"));
    if !stored.has_event {
        says("belongs to no event");
    }
    let kind = stored.journal_kind.and_then(ChangeKind::parse);
    match kind {
        None => says(&format!("is at version {version}, whose journal entry does not name it")),
        Some(kind) => {
            let said = kind.status().map(Status::as_str);
            let active = Status::parse(status).is_some_and(Status::owns_seats);
            if said.map_or(!active, |said| said != status) {
                let said = said.unwrap_or("still active");
                says(&format!("is {status}, but {said} in the journal at version {version}"));
            }
            // For a shrunk reservation, the journal has the number of seats given back instead.
            if kind != ChangeKind::Shrunk && stored.journal_seats != Some(*seats) {
                says(&format!(
                    "has {seats} seats, but another number in the journal at version {version}"
                ));
            }
        }
    }
    if let Some(count @ 2..) = stored.of_its_key {
        says(&format!("is one of {count} with the same idempotency key"));
    }
}

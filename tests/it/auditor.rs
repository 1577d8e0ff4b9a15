//! The auditor: judges a run by what its clients were told and by what the database has afterwards.
//!
//! It knows nothing of how the service works and shares no code with it. It has the calls and their
//! answers, the journal, and the final tables; it does not trust the journal either, but replays
//! it. Its one idea: the journal orders everything that was done, and each answer must have been
//! true at some moment between its call and its arrival.

use std::collections::{BTreeMap, HashMap};
use std::ops::RangeInclusive;

use uuid::Uuid;

use history::History;

mod answers;
mod history;
mod tests;

/// A position in the order of everything that happens in a run. No two are the same.
pub type Moment = usize;
/// The database's clock, in microseconds.
pub type Time = i64;

/// What a client asked for, and what it was told.
#[derive(Clone, Debug)]
pub struct Call {
    pub called: Moment,
    /// `None` if the client hung up or lost its connection.
    pub answered: Option<(Moment, Answer)>,
    pub request: Request,
    /// The times of the call and of its answer.
    pub between: (Time, Time),
}

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    Reserve(Booking),
    Alter { id: Uuid, action: Action, at_version: Option<i64> },
    ChangeEvent { total: Option<i32>, sales: Option<Sales>, at_version: Option<i64> },
    Sweep,
}

/// Booked in full, or not at all.
#[derive(Clone, Debug, PartialEq)]
pub struct Booking {
    pub partner: String,
    pub items: Vec<Item>,
    pub key: Option<String>,
    pub at_version: Option<i64>,
}

/// A reservation that is requested.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// The id that the service would name if the outcome were unknown.
    pub id: Uuid,
    pub seats: i32,
    /// How long to hold the seats; `None` to book them.
    pub hold: Option<Time>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Action {
    Confirm,
    /// All extensions of a run ask for the same duration.
    Extend(Time),
    Shrink(i32),
    Cancel,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Sales {
    On,
    Paused,
    /// Past their end.
    Ended,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Reserved(Vec<Shown>),
    /// What an earlier request with the same key made, as it is now.
    Replayed(Vec<Shown>),
    Altered(Shown),
    /// The reservation was already as requested.
    Unaltered(Shown),
    Cancelled,
    EventChanged(ShownEvent),
    EventUnchanged(ShownEvent),
    Swept,
    InsufficientSeats {
        available: i32,
    },
    SalesClosed(Sales),
    ReservationNotFound,
    HoldExpired,
    NotActive(Status),
    CannotGrow {
        seats: i32,
    },
    CapacityBelowSold {
        taken: i32,
    },
    PreconditionFailed {
        version: i64,
    },
    KeyReused,
    TooManySeats {
        used: i32,
    },
    TooManyHolds {
        used: i32,
    },
    /// Some other answer that says "nothing happened".
    NothingHappened(&'static str),
    Unknown {
        id: Option<Uuid>,
        base_version: Option<i64>,
    },
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Status {
    Held,
    Confirmed,
    Cancelled,
    Expired,
}

impl Status {
    pub fn parse(word: &str) -> Self {
        match word {
            "held" => Self::Held,
            "confirmed" => Self::Confirmed,
            "cancelled" => Self::Cancelled,
            "expired" => Self::Expired,
            _ => panic!("{word} is no status"),
        }
    }

    fn is_active(self) -> bool {
        matches!(self, Self::Held | Self::Confirmed)
    }
}

/// A reservation as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub id: Uuid,
    pub partner: String,
    pub seats: i32,
    pub status: Status,
    /// When a hold ends, or ended.
    pub expires: Option<Time>,
    pub version: i64,
}

/// An event as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ShownEvent {
    pub total: i32,
    pub available: i32,
    pub sales: Sales,
    pub version: i64,
}

/// A version of the event, as the change feed reports it.
#[derive(Clone, Debug)]
pub struct Version {
    pub at: Time,
    pub changes: Vec<Change>,
    pub event: Option<EventChange>,
}

#[derive(Clone, Debug)]
pub struct Change {
    pub kind: Kind,
    pub id: Uuid,
    pub partner: String,
    pub seats: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    Reserved,
    Held,
    Confirmed,
    Extended,
    Shrunk,
    Cancelled,
    Expired,
}

impl Kind {
    /// The kind that has this number in the journal.
    pub fn of(number: i16) -> Self {
        match number {
            1 => Self::Reserved,
            2 => Self::Held,
            3 => Self::Confirmed,
            4 => Self::Extended,
            5 => Self::Shrunk,
            6 => Self::Cancelled,
            7 => Self::Expired,
            _ => panic!("{number} is no kind of change"),
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct EventChange {
    pub total: Option<i32>,
    pub sales: Option<Sales>,
}

/// What the database has when the run is over.
#[derive(Clone, Debug)]
pub struct Final {
    pub total_seats: i32,
    pub available_seats: i32,
    pub held_seats: i32,
    pub reservation_count: i64,
    pub version: i64,
    pub reservations: Vec<Shown>,
}

/// The event before its first version.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    pub seats: i32,
    /// When its sales end.
    pub sales_end: Option<Time>,
    /// What one partner may have of the event.
    pub limits: Option<Has>,
}

/// A partner's usage: seats, held and booked together, and holds.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Has {
    pub seats: i32,
    pub holds: i32,
}

/// Returns everything that is wrong with a run.
pub fn audit(start: Start, calls: &[Call], versions: &[Version], found: &Final) -> Vec<String> {
    let mut wrong = Vec::new();
    let history = History::replay(start, calls, versions, &mut wrong);
    history.compare(found, &mut wrong);
    if wrong.is_empty() {
        let mut audit = Audit { calls, history, proved: vec![0], wrong };
        audit.explain();
        audit.date(versions);
        audit.judge();
        return audit.wrong;
    }
    wrong
}

struct Audit<'a> {
    calls: &'a [Call],
    history: History,
    /// Indexed by the number of answers, in order of arrival: the latest version that they prove to
    /// exist.
    proved: Vec<i64>,
    wrong: Vec<String>,
}

/// A kind of change of a reservation, or, without an id, of the event.
type Deed = (Option<Uuid>, Option<Kind>);

impl Request {
    /// The changes that the request may cause.
    fn deeds(&self) -> Vec<Deed> {
        match self {
            Self::Reserve(booking) => booking.items.iter().map(Item::deed).collect(),
            Self::Alter { id, action, .. } => vec![(Some(*id), Some(action.kind()))],
            Self::ChangeEvent { .. } => vec![(None, None)],
            Self::Sweep => Vec::new(),
        }
    }
}

impl Item {
    fn kind(&self) -> Kind {
        if self.hold.is_some() { Kind::Held } else { Kind::Reserved }
    }

    fn deed(&self) -> Deed {
        (Some(self.id), Some(self.kind()))
    }
}

impl Action {
    fn kind(self) -> Kind {
        match self {
            Self::Confirm => Kind::Confirmed,
            Self::Extend(_) => Kind::Extended,
            Self::Shrink(_) => Kind::Shrunk,
            Self::Cancel => Kind::Cancelled,
        }
    }
}

impl Answer {
    /// The version that the call made, according to this answer; the answer to a cancel does not
    /// name it.
    fn made(&self) -> Option<Option<i64>> {
        match self {
            Self::Reserved(shown) => Some(shown.first().map(|shown| shown.version)),
            Self::Altered(shown) => Some(Some(shown.version)),
            Self::EventChanged(shown) => Some(Some(shown.version)),
            Self::Cancelled => Some(None),
            _ => None,
        }
    }
}

/// For one kind of change: the calls that were told that they made it, and those that may have.
#[derive(Default)]
struct Asked {
    told: Vec<Option<i64>>,
    /// The version that each call of unknown outcome would have made, where that is known.
    open: Vec<Option<i64>>,
}

impl Audit<'_> {
    /// Checks that the calls explain every change, as often as it was made. A call that was told
    /// that it did nothing explains none.
    fn explain(&mut self) {
        let mut asked: BTreeMap<Deed, Asked> = BTreeMap::new();
        for call in self.calls {
            for deed in call.request.deeds() {
                let asked = asked.entry(deed).or_default();
                match call.answered.as_ref().map(|(_, answer)| answer) {
                    None => asked.open.push(None),
                    Some(Answer::Unknown { base_version, .. }) => {
                        asked.open.push(base_version.map(|base| base + 1));
                    }
                    Some(answer) => asked.told.extend(answer.made()),
                }
            }
        }
        for (deed, versions) in self.history.deeds() {
            let Some(asked) = asked.get(&deed) else {
                self.wrong.push(format!("nobody asked for {deed:?} at {versions:?}"));
                continue;
            };
            let told_of = |version: &i64| asked.told.contains(&Some(*version));
            let mut untold: Vec<i64> =
                versions.iter().copied().filter(|version| !told_of(version)).collect();
            // The answer to a cancel does not name the version that the cancel made.
            let nameless = asked.told.iter().filter(|told| told.is_none()).count();
            untold.truncate(untold.len().saturating_sub(nameless));
            let possible = |version: &i64| {
                asked.open.iter().any(|open| open.is_none_or(|open| open == *version))
            };
            let unexplained = untold.len() > asked.open.len() || !untold.iter().all(possible);
            if asked.told.len() > versions.len() || unexplained {
                self.wrong.push(format!(
                    "{deed:?} was done at {versions:?}, told of {:?}, open are {:?}",
                    asked.told, asked.open
                ));
            }
        }
    }

    /// Finds the earliest moment at which each version can have been made: not before each of its
    /// changes was first requested.
    fn date(&mut self, versions: &[Version]) {
        let mut asked: HashMap<Deed, Moment> = HashMap::new();
        for call in self.calls {
            for deed in call.request.deeds() {
                let first = asked.entry(deed).or_insert(call.called);
                *first = call.called.min(*first);
            }
        }
        let mut earliest = vec![0];
        for version in versions {
            let deeds = version.changes.iter().map(|change| (Some(change.id), Some(change.kind)));
            let called = deeds.filter_map(|deed| asked.get(&deed)).copied();
            let before = earliest.last().copied().expect("it begins with one");
            earliest.push(called.max().unwrap_or_default().max(before));
        }
        self.history.earliest = earliest;
    }

    /// Checks that each answer was true at some moment between its call and its arrival.
    fn judge(&mut self) {
        let mut answers: Vec<(Moment, &Answer, &Call)> = self
            .calls
            .iter()
            .filter_map(|call| call.answered.as_ref().map(|(at, answer)| (*at, answer, call)))
            .collect();
        answers.sort_by_key(|(at, ..)| *at);
        let moments: Vec<Moment> = answers.iter().map(|(at, ..)| *at).collect();
        for (at, answer, call) in answers {
            // The version proved by the answers that arrived before the call was made.
            let before = moments.partition_point(|moment| *moment < call.called);
            let oldest = self.proved[before];
            let newest = self.history.earliest.partition_point(|earliest| *earliest <= at) - 1;
            let versions: RangeInclusive<i64> = oldest..=newest as i64;
            let proved = self.history.find(call, answer, versions);
            let last = self.proved.last().copied().expect("it begins with one");
            self.proved.push(proved.map_or(last, |version| last.max(version)));
            if proved.is_none() {
                self.wrong
                    .push(format!("not true at any version from {oldest} to {newest}: {call:?}"));
            }
        }
    }
}

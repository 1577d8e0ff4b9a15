//! The auditor: judges a run by what its clients were told and by what is there afterwards.
//!
//! It knows nothing of how the service works and shares no code with it. It holds the calls and
//! their answers, the journal, and the tables at the end; the journal it does not trust either, but
//! replays. Its one idea: the journal orders everything that was done, and each answer must have
//! been true at some moment between its call and its arrival.

use std::collections::{BTreeMap, HashMap};

use uuid::Uuid;

mod tests;

/// A moment: how much had happened in the run before it. No two are alike.
pub type Moment = usize;

/// What a client asked for, and what it was told.
#[derive(Clone, Debug)]
pub struct Call {
    pub called: Moment,
    /// None if the client hung up, or lost its connection.
    pub answered: Option<(Moment, Answer)>,
    pub request: Request,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Request {
    /// The id is the one that the service would name if the outcome were unknown.
    Reserve {
        id: Uuid,
        partner: String,
        seats: i32,
        key: Option<String>,
    },
    Cancel {
        id: Uuid,
    },
}

#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    Reserved(Shown),
    /// What an earlier request with the same key made, as it is now.
    Replayed(Shown),
    Cancelled,
    InsufficientSeats {
        available: i32,
    },
    ReservationNotFound,
    KeyReused,
    /// Some other answer that says "nothing happened".
    NothingHappened(&'static str),
    Unknown {
        id: Uuid,
        base_version: Option<i64>,
    },
}

/// A reservation as a client sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Shown {
    pub id: Uuid,
    pub partner: String,
    pub seats: i32,
    /// Held or confirmed, as against cancelled or expired.
    pub active: bool,
    pub version: i64,
}

/// A version of the event, as the change feed tells of it.
#[derive(Clone, Debug)]
pub struct Version {
    pub changes: Vec<Change>,
}

#[derive(Clone, Debug)]
pub struct Change {
    pub cancels: bool,
    pub id: Uuid,
    pub partner: String,
    pub seats: i32,
}

/// What is there when all is over.
#[derive(Clone, Debug)]
pub struct Final {
    pub total_seats: i32,
    pub available_seats: i32,
    pub reservation_count: i64,
    pub version: i64,
    pub reservations: Vec<Shown>,
}

/// What is wrong with a run; nothing, if it is empty.
pub fn audit(calls: &[Call], versions: &[Version], found: &Final) -> Vec<String> {
    let mut audit = Audit { calls, history: History::default(), proved: vec![0], wrong: vec![] };
    audit.replay(versions, found);
    if audit.wrong.is_empty() {
        audit.explain();
        audit.date();
        audit.judge();
    }
    audit.wrong
}

/// What the journal says, told another way.
#[derive(Default)]
struct History {
    /// By version, from 0: the seats that were free, followed by what was left after each booking
    /// of the next version. A refusal may stand between two bookings that were committed together.
    free: Vec<Vec<i32>>,
    lives: BTreeMap<Uuid, Life>,
    /// What each key of a partner has made.
    keys: HashMap<(String, String), Uuid>,
    /// The earliest moment at which each version can have been made, from version 0.
    earliest: Vec<Moment>,
}

struct Life {
    partner: String,
    seats: i32,
    made: i64,
    cancelled: Option<i64>,
}

struct Audit<'a> {
    calls: &'a [Call],
    history: History,
    /// By the number of answers, in their order: the version that they have proved to be there.
    proved: Vec<i64>,
    wrong: Vec<String>,
}

impl Audit<'_> {
    /// Whether the journal makes sense by itself, and gives what is there.
    fn replay(&mut self, versions: &[Version], found: &Final) {
        let mut free = found.total_seats;
        for (made, version) in (1..).zip(versions) {
            let mut levels = vec![free];
            let mut freed = 0;
            for change in &version.changes {
                if change.cancels {
                    freed += change.seats;
                    self.end(made, change);
                } else {
                    free -= change.seats;
                    levels.push(free);
                    self.begin(made, change);
                }
            }
            if free < 0 || version.changes.is_empty() {
                self.wrong.push(format!("version {made} leaves {free} seats: {version:?}"));
            }
            self.history.free.push(levels);
            free += freed;
        }
        self.history.free.push(vec![free]);

        let lives = &self.history.lives;
        let confirmed = lives.values().filter(|life| life.cancelled.is_none()).count();
        let counters = (free, confirmed as i64, versions.len() as i64);
        let shown = (found.available_seats, found.reservation_count, found.version);
        if counters != shown {
            self.wrong.push(format!("replayed {counters:?}, found {shown:?}"));
        }
        let mut replayed: Vec<_> = lives.iter().map(|(id, life)| life.show(*id)).collect();
        let mut stored = found.reservations.clone();
        replayed.sort_by_key(|shown| shown.id);
        stored.sort_by_key(|shown| shown.id);
        if replayed != stored {
            self.wrong.push(format!("replayed {replayed:?}, found {stored:?}"));
        }
    }

    fn begin(&mut self, version: i64, change: &Change) {
        let Change { partner, seats, .. } = change.clone();
        let life = Life { partner, seats, made: version, cancelled: None };
        if self.history.lives.insert(change.id, life).is_some() {
            self.wrong.push(format!("version {version} makes a reservation again: {change:?}"));
        }
    }

    fn end(&mut self, version: i64, change: &Change) {
        let life = self.history.lives.get_mut(&change.id);
        let life = life.filter(|life| life.cancelled.is_none() && life.seats == change.seats);
        match life {
            Some(life) => life.cancelled = Some(version),
            None => self.wrong.push(format!("version {version} gives back: {change:?}")),
        }
    }

    /// Whether all that was done was asked for, and none of it by a call that did nothing.
    fn explain(&mut self) {
        let mut asked = HashMap::new();
        let mut cancels: BTreeMap<Uuid, (usize, usize)> = BTreeMap::new();
        for call in self.calls {
            match &call.request {
                Request::Reserve { id, partner, seats, key } => {
                    asked.insert(*id, (call, partner, *seats, key));
                }
                Request::Cancel { id } => {
                    let (done, open) = cancels.entry(*id).or_default();
                    match call.answered {
                        Some((_, Answer::Cancelled)) => *done += 1,
                        None | Some((_, Answer::Unknown { .. })) => *open += 1,
                        Some(_) => {}
                    }
                }
            }
        }
        for (id, life) in &self.history.lives {
            match asked.get(id) {
                Some((call, partner, seats, key)) => {
                    if life.partner != **partner || life.seats != *seats {
                        self.wrong.push(format!("{id} is not what {:?} asked for", call.request));
                    }
                    let said = call.answered.as_ref().map(|(_, answer)| answer);
                    let open = said.is_none_or(|answer| match answer {
                        Answer::Reserved(shown) => shown.id == *id,
                        Answer::Unknown { id: unknown, base_version } => {
                            unknown == id && base_version.is_none_or(|base| life.made == base + 1)
                        }
                        _ => false,
                    });
                    if !open {
                        let made = life.made;
                        self.wrong.push(format!("version {made} has what did nothing: {call:?}"));
                    }
                    if let Some(key) = key
                        && let Some(other) =
                            self.history.keys.insert(((*partner).clone(), key.clone()), *id)
                    {
                        self.wrong.push(format!("{id} and {other} are of one key: {call:?}"));
                    }
                }
                None => self.wrong.push(format!("nobody asked for {id}")),
            }
            let (done, open) = cancels.get(id).copied().unwrap_or_default();
            if done > 1 || (life.cancelled.is_some() && done + open == 0) {
                let at = life.cancelled;
                self.wrong.push(format!("{id}, cancelled at {at:?}, was told so {done} times"));
            }
        }
    }

    /// When each version can have been made at the earliest: not before the last of its calls.
    fn date(&mut self) {
        let mut asked: HashMap<(Uuid, bool), Moment> = HashMap::new();
        for call in self.calls {
            let what = match &call.request {
                Request::Reserve { id, .. } => (*id, false),
                Request::Cancel { id } => (*id, true),
            };
            let nothing = matches!(
                &call.answered,
                Some((_, Answer::NothingHappened(_) | Answer::ReservationNotFound))
            );
            if !nothing {
                let first = asked.entry(what).or_insert(call.called);
                *first = call.called.min(*first);
            }
        }
        let mut earliest = vec![0; self.history.free.len()];
        for (id, life) in &self.history.lives {
            for (version, cancels) in [(Some(life.made), false), (life.cancelled, true)] {
                let Some(version) = version else { continue };
                let called = asked.get(&(*id, cancels)).copied().unwrap_or_default();
                let at = &mut earliest[version as usize];
                *at = called.max(*at);
            }
        }
        for version in 1..earliest.len() {
            earliest[version] = earliest[version].max(earliest[version - 1]);
        }
        self.history.earliest = earliest;
    }

    /// Whether each answer was true at some moment between its call and its arrival.
    fn judge(&mut self) {
        let mut answers: Vec<(Moment, &Answer, &Call)> = self
            .calls
            .iter()
            .filter_map(|call| call.answered.as_ref().map(|(at, answer)| (*at, answer, call)))
            .collect();
        answers.sort_by_key(|(at, ..)| *at);
        let moments: Vec<Moment> = answers.iter().map(|(at, ..)| *at).collect();
        for (at, answer, call) in answers {
            // What was proved by answers that came before the call was made.
            let before = moments.partition_point(|moment| *moment < call.called);
            let oldest = self.proved[before];
            let newest = self.history.earliest.partition_point(|earliest| *earliest <= at) - 1;
            let proved = self.history.find(call, answer, oldest..=newest as i64);
            let last = self.proved.last().copied().expect("it begins with one");
            match proved {
                Some(version) => self.proved.push(last.max(version)),
                None => {
                    self.proved.push(last);
                    self.wrong.push(format!(
                        "not true at any version from {oldest} to {newest}: {call:?}"
                    ));
                }
            }
        }
    }
}

impl History {
    /// What the key of a call has made.
    fn of_key(&self, partner: &str, key: &Option<String>) -> Option<(Uuid, &Life)> {
        let id = *self.keys.get(&(partner.to_owned(), key.clone()?))?;
        Some((id, &self.lives[&id]))
    }

    /// The first of the versions at which the answer was true.
    fn find(
        &self,
        call: &Call,
        answer: &Answer,
        versions: std::ops::RangeInclusive<i64>,
    ) -> Option<i64> {
        let (oldest, newest) = versions.clone().into_inner();
        let mut versions = versions;
        // What was there already when the call was made, it did not make.
        let made_meanwhile = |version: &i64| *version > oldest && *version <= newest;
        match (&call.request, answer) {
            (Request::Reserve { id, partner, seats, .. }, Answer::Reserved(shown)) => {
                let life = self.lives.get(id)?;
                let right = *shown == life.as_made(*id)
                    && shown.partner == *partner
                    && shown.seats == *seats;
                Some(life.made).filter(|made| right && made_meanwhile(made))
            }
            (Request::Reserve { partner, seats, key, .. }, Answer::Replayed(shown)) => {
                let (id, life) = self.of_key(partner, key)?;
                let right = shown.id == id && life.seats == *seats;
                versions.find(|version| right && life.at(id, *version).as_ref() == Some(shown))
            }
            (Request::Reserve { partner, seats, key, .. }, Answer::KeyReused) => {
                let (_, life) = self.of_key(partner, key)?;
                versions.find(|version| life.made <= *version && life.seats != *seats)
            }
            (
                Request::Reserve { partner, seats, key, .. },
                Answer::InsufficientSeats { available },
            ) => {
                let replayable = self.of_key(partner, key).map_or(i64::MAX, |(_, life)| life.made);
                versions.find(|version| {
                    let levels = &self.free[*version as usize];
                    // What is left between two bookings of the next version was left only if that
                    // version was on its way.
                    let there = if *version < newest { levels.len() } else { 1 };
                    available < seats
                        && levels[..there].contains(available)
                        && *version < replayable
                })
            }
            (Request::Cancel { id }, Answer::Cancelled) => {
                self.lives.get(id)?.cancelled.filter(made_meanwhile)
            }
            (Request::Cancel { id }, Answer::ReservationNotFound) => versions.find(|version| {
                let shown = self.lives.get(id).and_then(|life| life.at(*id, *version));
                !shown.is_some_and(|shown| shown.active)
            }),
            (_, Answer::NothingHappened(_) | Answer::Unknown { .. }) => Some(oldest),
            (Request::Reserve { .. }, Answer::Cancelled | Answer::ReservationNotFound)
            | (
                Request::Cancel { .. },
                Answer::Reserved(_)
                | Answer::Replayed(_)
                | Answer::InsufficientSeats { .. }
                | Answer::KeyReused,
            ) => None,
        }
    }
}

impl Life {
    fn as_made(&self, id: Uuid) -> Shown {
        let (partner, seats) = (self.partner.clone(), self.seats);
        Shown { id, partner, seats, active: true, version: self.made }
    }

    /// As it was at a version; `None` before it was made.
    fn at(&self, id: Uuid, version: i64) -> Option<Shown> {
        let made = (self.made <= version).then(|| self.as_made(id))?;
        Some(match self.cancelled {
            Some(cancelled) if cancelled <= version => {
                Shown { active: false, version: cancelled, ..made }
            }
            Some(_) | None => made,
        })
    }

    fn show(&self, id: Uuid) -> Shown {
        self.at(id, i64::MAX).expect("it was made by then")
    }
}

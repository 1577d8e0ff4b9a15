//! The journal, replayed: the event and its reservations at each version.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use uuid::Uuid;

use super::{
    Action, Booking, Call, Change, Deed, Final, Has, Item, Kind, Moment, Request, Sales, Shown,
    ShownEvent, Start, Status, Time, Version,
};

/// However often a hold is extended, it ends at most this long after it was made.
const HOLD_LIFE_MAX: Time = 7 * 86_400 * 1_000_000;

pub struct History {
    /// Indexed by version, from 0.
    pub event: Vec<EventState>,
    pub lives: BTreeMap<Uuid, Life>,
    /// What each key of a partner has made, in the order of the request.
    keys: HashMap<(String, String), Booking>,
    /// The earliest moment at which each version can have been made.
    pub earliest: Vec<Moment>,
    pub limits: Option<Has>,
}

pub struct EventState {
    pub at: Time,
    pub total: i32,
    pub sales: Sales,
    /// The free seats, followed by what was left of them after each booking of the next version: a
    /// refusal may have been decided between two bookings that were committed together.
    pub levels: Vec<i32>,
}

/// A reservation at each version at which it changed.
pub struct Life {
    pub states: Vec<(Kind, Shown)>,
    made_at: Time,
}

impl History {
    /// Contradictions within the journal are added to `wrong`.
    pub fn replay(
        start: Start,
        calls: &[Call],
        versions: &[Version],
        wrong: &mut Vec<String>,
    ) -> Self {
        let first = EventState {
            at: Time::MIN,
            total: start.seats,
            sales: Sales::On,
            levels: vec![start.seats],
        };
        let (lives, keys, earliest) = Default::default();
        let limits = start.limits;
        let mut history = Self { event: vec![first], lives, keys, earliest, limits };
        let asked = Asked::of(calls);
        for (number, version) in (1..).zip(versions) {
            let before = wrong.len();
            history.add(start, &asked, number, version, wrong);
            if wrong.len() > before {
                wrong.push(format!("version {number}: {version:?}"));
            }
        }
        history.find_keys(calls, wrong);
        history
    }

    fn add(
        &mut self,
        start: Start,
        asked: &Asked,
        number: i64,
        version: &Version,
        wrong: &mut Vec<String>,
    ) {
        let last = self.event.last().expect("it begins with one");
        let (mut total, mut sales) = (last.total, last.sales);
        let free = last.levels[0];
        if version.at < last.at {
            wrong.push("time runs backwards".into());
        }
        let over = start.sales_end.is_some_and(|end| end <= version.at);
        let (mut taken, mut freed, mut expired) = (0, 0, 0);
        let mut levels = vec![free];
        let mut named = BTreeSet::new();
        for change in &version.changes {
            if !named.insert(change.id) {
                wrong.push(format!("{} twice", change.id));
            }
            match change.kind {
                Kind::Reserved | Kind::Held => {
                    taken += change.seats;
                    levels.push(free - taken);
                    if sales != Sales::On || over {
                        wrong.push("sold while nothing is sold".into());
                    }
                    self.begin(asked, number, version.at, change, wrong);
                }
                Kind::Confirmed | Kind::Extended => {}
                Kind::Shrunk | Kind::Cancelled => freed += change.seats,
                Kind::Expired => expired += change.seats,
            }
            if !matches!(change.kind, Kind::Reserved | Kind::Held) {
                self.go_on(asked, number, version.at, change, wrong);
            }
        }
        let mut gained = 0;
        if let Some(event) = &version.event {
            let resized = event.total.unwrap_or(total);
            gained = resized - total;
            total = resized;
            if event.sales == Some(Sales::Ended) && !(over && sales == Sales::On) {
                wrong.push("sales end before their end".into());
            }
            sales = event.sales.unwrap_or(sales);
        } else if version.changes.is_empty() {
            wrong.push("nothing changes".into());
        }
        // Seats that are given back are sellable from the next version on.
        if free + expired - taken + gained.min(0) < 0 {
            wrong.push(format!("{taken} seats of {free} and {expired} expired ones"));
        }
        self.event.last_mut().expect("it begins with one").levels = levels;
        self.check_limits(number, version, wrong);
        let levels = vec![free + expired + freed - taken + gained];
        self.event.push(EventState { at: version.at, total, sales, levels });
    }

    /// Checks that what a version grants a partner stays within the limits. What the version gives
    /// back counts from the next version on, and holds past their time do not count at all.
    fn check_limits(&self, number: i64, version: &Version, wrong: &mut Vec<String>) {
        let Some(limits) = self.limits else { return };
        let partners: BTreeSet<&str> =
            version.changes.iter().map(|change| change.partner.as_str()).collect();
        for partner in partners {
            let more = self.granted(partner, number);
            let has = self.has(partner, number - 1, version.at);
            let seats = more.seats > 0 && has.seats + more.seats > limits.seats;
            let holds = more.holds > 0 && has.holds + more.holds > limits.holds;
            if seats || holds {
                wrong.push(format!("{partner} has {has:?} and gets {more:?} of {limits:?}"));
            }
        }
    }

    /// A partner's usage at a version, without holds that had ended by `at`.
    pub fn has(&self, partner: &str, version: i64, at: Time) -> Has {
        let shown = self.lives.values().filter_map(|life| life.at(version));
        let shown = shown.filter(|shown| shown.partner == partner && shown.status.is_active());
        let mut has = Has::default();
        for shown in shown {
            let is_hold = shown.status == Status::Held;
            if !is_hold || shown.expires.is_some_and(|end| end > at) {
                has.seats += shown.seats;
                has.holds += i32::from(is_hold);
            }
        }
        has
    }

    /// What a version granted to a partner.
    pub fn granted(&self, partner: &str, version: i64) -> Has {
        let mut granted = Has::default();
        for life in self.lives.values() {
            let (_, shown) = &life.states[0];
            if shown.version == version && shown.partner == partner {
                granted.seats += shown.seats;
                granted.holds += i32::from(shown.status == Status::Held);
            }
        }
        granted
    }

    fn begin(
        &mut self,
        asked: &Asked,
        number: i64,
        at: Time,
        change: &Change,
        wrong: &mut Vec<String>,
    ) {
        let Some((partner, item)) = asked.items.get(&change.id) else {
            wrong.push(format!("nobody asked for {}", change.id));
            return;
        };
        if *partner != change.partner || item.seats != change.seats || item.kind() != change.kind {
            wrong.push(format!("{} is not what was asked for: {item:?}", change.id));
        }
        let shown = Shown {
            id: change.id,
            partner: change.partner.clone(),
            seats: change.seats,
            status: if change.kind == Kind::Held { Status::Held } else { Status::Confirmed },
            expires: item.hold.map(|hold| at + hold),
            version: number,
        };
        let life = Life { states: vec![(change.kind, shown)], made_at: at };
        if self.lives.insert(change.id, life).is_some() {
            wrong.push(format!("{} is made again", change.id));
        }
    }

    fn go_on(
        &mut self,
        asked: &Asked,
        number: i64,
        at: Time,
        change: &Change,
        wrong: &mut Vec<String>,
    ) {
        let Some(life) = self.lives.get_mut(&change.id) else {
            wrong.push(format!("{} is not there", change.id));
            return;
        };
        let last = life.last().clone();
        let due = last.status == Status::Held && last.expires.is_some_and(|end| end <= at);
        let part = 0 < change.seats && change.seats < last.seats;
        let (allowed, status, seats) = match change.kind {
            Kind::Confirmed => (last.status == Status::Held, Status::Confirmed, last.seats),
            Kind::Extended => (last.status == Status::Held, Status::Held, last.seats),
            Kind::Shrunk => {
                (last.status.is_active() && part, last.status, last.seats - change.seats)
            }
            Kind::Cancelled => (last.status.is_active(), Status::Cancelled, last.seats),
            Kind::Expired => (due, Status::Expired, last.seats),
            Kind::Reserved | Kind::Held => unreachable!("these begin"),
        };
        let whole = change.kind == Kind::Shrunk || change.seats == last.seats;
        let late = due && change.kind != Kind::Expired;
        if !allowed || !whole || late || change.partner != last.partner {
            wrong.push(format!("{:?} does not become of {last:?}", change.kind));
        }
        let expires = if change.kind == Kind::Extended {
            let extension = asked.extensions.get(&change.id).copied();
            extension.map(|time| (at + time).min(life.made_at + HOLD_LIFE_MAX))
        } else {
            last.expires
        };
        let shown = Shown { seats, status, expires, version: number, ..last };
        life.states.push((change.kind, shown));
    }

    /// Checks that each request was made in full or not at all, and that at most one was made of
    /// those with the same key, and of those that name the same version.
    fn find_keys(&mut self, calls: &[Call], wrong: &mut Vec<String>) {
        let mut conditional = BTreeSet::new();
        for call in calls {
            let Request::Reserve(booking) = &call.request else { continue };
            let made: Vec<_> = booking.items.iter().map(|item| self.made(item.id)).collect();
            if made.iter().any(|version| *version != made[0]) {
                wrong.push(format!("a part of it was made: {call:?}"));
            }
            let Some(version) = made[0] else { continue };
            if let Some(base) = booking.at_version
                && (base + 1 != version || !conditional.insert(version))
            {
                wrong.push(format!("version {version} is not for this one: {call:?}"));
            }
            if let Some(key) = &booking.key {
                let key = (booking.partner.clone(), key.clone());
                if let Some(other) = self.keys.insert(key, booking.clone()) {
                    wrong.push(format!("{booking:?} and {other:?} are of one key"));
                }
            }
        }
    }

    /// Compares the replayed state with the tables.
    pub fn compare(&self, found: &Final, wrong: &mut Vec<String>) {
        let last = self.event.last().expect("it begins with one");
        let of = |status: Status| {
            self.lives.values().map(Life::last).filter(move |shown| shown.status == status)
        };
        let held: i32 = of(Status::Held).map(|shown| shown.seats).sum();
        let count = of(Status::Confirmed).count() as i64;
        let counters = (last.total, last.levels[0], held, count, self.event.len() as i64 - 1);
        let Final { total_seats, available_seats, held_seats, reservation_count, version, .. } =
            *found;
        let shown = (total_seats, available_seats, held_seats, reservation_count, version);
        if counters != shown {
            wrong.push(format!("replayed {counters:?}, found {shown:?}"));
        }
        let replayed: Vec<_> = self.lives.values().map(|life| life.last().clone()).collect();
        let mut stored = found.reservations.clone();
        stored.sort_by_key(|shown| shown.id);
        if replayed != stored {
            wrong.push(format!("replayed {replayed:?}, found {stored:?}"));
        }
    }

    /// All changes that a caller must have requested, with the versions that made them.
    pub fn deeds(&self) -> BTreeMap<Deed, Vec<i64>> {
        let mut deeds: BTreeMap<Deed, Vec<i64>> = BTreeMap::new();
        for (id, life) in &self.lives {
            for (kind, shown) in life.states.iter().filter(|(kind, _)| *kind != Kind::Expired) {
                deeds.entry((Some(*id), Some(*kind))).or_default().push(shown.version);
            }
        }
        for (version, states) in (1..).zip(self.event.windows(2)) {
            let [before, after] = states else { unreachable!("two at a time") };
            let by_clock = before.sales != after.sales && after.sales == Sales::Ended;
            if before.total != after.total || (before.sales != after.sales && !by_clock) {
                deeds.entry((None, None)).or_default().push(version);
            }
        }
        deeds
    }

    /// What was booked with the key of this booking, and at which version.
    pub fn of_key(&self, booking: &Booking) -> Option<(&Booking, i64)> {
        let made = self.keys.get(&(booking.partner.clone(), booking.key.clone()?))?;
        Some((made, self.made(made.items[0].id)?))
    }

    /// The version that made a reservation.
    pub fn made(&self, id: Uuid) -> Option<i64> {
        Some(self.lives.get(&id)?.states[0].1.version)
    }

    pub fn shown(&self, version: i64) -> ShownEvent {
        let EventState { total, sales, levels, .. } = &self.event[version as usize];
        ShownEvent { total: *total, available: levels[0], sales: *sales, version }
    }

    /// The possible numbers of seats in holds past their time, for a decision on a version between
    /// two times: it is not known how many of the holds had ended, but in which order they end.
    pub fn due(&self, version: i64, between: (Time, Time)) -> Vec<i32> {
        let at = self.lives.values().filter_map(|life| life.at(version));
        let held = at.filter(|shown| shown.status == Status::Held);
        let mut ends: Vec<(Time, i32)> =
            held.map(|shown| (shown.expires.expect("a hold ends"), shown.seats)).collect();
        ends.sort_unstable();
        let mut sums = Vec::new();
        let mut sum = 0;
        for (end, seats) in ends {
            if end > between.0 {
                sums.push(sum);
            }
            if end > between.1 {
                return sums;
            }
            sum += seats;
        }
        sums.push(sum);
        sums
    }
}

impl Life {
    pub fn last(&self) -> &Shown {
        &self.states.last().expect("it begins with one").1
    }

    /// The reservation at a version; `None` before it was made.
    pub fn at(&self, version: i64) -> Option<&Shown> {
        let later = self.states.partition_point(|(_, shown)| shown.version <= version);
        Some(&self.states[..later].last()?.1)
    }
}

/// What the calls asked for, by reservation.
struct Asked {
    items: HashMap<Uuid, (String, Item)>,
    extensions: HashMap<Uuid, Time>,
}

impl Asked {
    fn of(calls: &[Call]) -> Self {
        let mut asked = Self { items: HashMap::new(), extensions: HashMap::new() };
        for call in calls {
            match &call.request {
                Request::Reserve(booking) => {
                    for item in &booking.items {
                        let what = (booking.partner.clone(), item.clone());
                        asked.items.insert(item.id, what);
                    }
                }
                Request::Alter { id, action: Action::Extend(time), .. } => {
                    asked.extensions.insert(*id, *time);
                }
                Request::Alter { .. } | Request::ChangeEvent { .. } | Request::Sweep => {}
            }
        }
        asked
    }
}

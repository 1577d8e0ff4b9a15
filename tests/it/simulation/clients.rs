//! The clients of a run: they book, hold, change, operate, hang up, and try again.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ticketboss::batching::{Batching, Outcome, Rejection};
use ticketboss::domain::{
    self, Acceptance, Alter, Caller, ChangeEvent, Command, Event, EventId, EventStatus, HoldTime,
    IdempotencyKey, PartnerId, PartnerLimits, Precondition, Refusal, Reservation, ReservationId,
    Reserve, SeatCount, Timestamp, TotalSeats,
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::dice::{Dice, new_id};
use super::network::Remote;
use super::trace::{Trace, What};
use super::{CULPRIT, SECOND, TIMEOUT};
use crate::auditor::{
    Action, Answer, Booking, Call, Has, Item, Request, Sales, Shown, ShownEvent, Status, Time,
};

/// A running process of the service.
#[derive(Clone)]
pub struct Replica {
    pub batching: Batching<Remote>,
    pub killed: CancellationToken,
}

/// What the clients share.
pub struct Crowd {
    pub event: EventId,
    pub replicas: Mutex<Vec<Replica>>,
    pub dice: Dice,
    pub trace: Trace,
    calls: Mutex<Vec<Call>>,
    /// Reservations that a client may want to change, with the version at which they were seen.
    made: Mutex<Vec<(Uuid, Option<i64>)>>,
    /// The newest version that any client was told of.
    newest: AtomicI64,
    habits: Habits,
}

/// How the clients of a run behave.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    /// Changes a reservation instead of making one.
    pub alters: f64,
    /// Of bookings: holds the seats.
    pub holds: f64,
    /// Of bookings: asks for several reservations at once.
    pub lists: f64,
    pub keyed: f64,
    /// Of keyed bookings: asks for something else with a key that was used.
    pub mixes_up: f64,
    /// Makes the request conditional on a version that it has seen or made up.
    pub conditions: f64,
    /// Changes the event.
    pub operates: f64,
    pub sweeps: f64,
    pub hangs_up: f64,
    /// Waits as long as a hold lasts.
    pub lingers: f64,
    pub pause_max_ms: u64,
    pub seats_max: usize,
    pub seats_of_event: i32,
    pub limits: Option<Has>,
}

const PARTNERS: [&str; 2] = ["abc-corp", "xyz-corp"];
/// How many seconds a hold is requested for, and extended by.
const HOLDS: [i64; 2] = [10, 15];
const EXTENSION: i64 = 12;

impl Crowd {
    pub fn new(event: EventId, dice: Dice, trace: Trace, habits: Habits) -> Arc<Self> {
        let (calls, made, newest, replicas) = Default::default();
        Arc::new(Self { event, replicas, dice, trace, calls, made, newest, habits })
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no panic under the lock").clone()
    }

    /// One client, which makes this many calls, one after the other.
    pub async fn client(self: Arc<Self>, calls: usize) {
        for _ in 0..calls {
            sleep(self.dice.pause(self.habits.pause_max_ms)).await;
            if self.dice.chance(self.habits.lingers) {
                // Until a hold that is made now is about to end, or has just ended.
                sleep(Duration::from_millis(9_800) + self.dice.pause(400)).await;
            }
            let request = self.choose();
            let keyed = matches!(&request, Request::Reserve(asked) if asked.key.is_some());
            let patience = self.dice.chance(self.habits.hangs_up);
            let open = self.call(request.clone(), patience).await;
            // A retry with the same key settles an unknown outcome.
            if keyed && open && self.dice.chance(0.8) {
                self.call(again(&request), false).await;
            }
        }
    }

    fn choose(&self) -> Request {
        let (dice, habits) = (&self.dice, &self.habits);
        if dice.chance(habits.operates) {
            let near = habits.seats_of_event / 2 + i32::try_from(dice.between(0, 40)).expect("few");
            let total = dice.chance(0.6).then_some(near.max(1));
            let sales = [Sales::On, Sales::On, Sales::Paused][dice.between(0, 3)];
            let sales = (total.is_none() || dice.chance(0.2)).then_some(sales);
            return Request::ChangeEvent { total, sales, at_version: self.condition(None) };
        }
        if dice.chance(habits.sweeps) {
            return Request::Sweep;
        }
        if dice.chance(habits.alters) {
            return self.choose_change();
        }
        self.choose_booking()
    }

    fn choose_change(&self) -> Request {
        let dice = &self.dice;
        let made = self.made.lock().expect("no panic under the lock");
        // Mostly a recent one, so that several clients change it at once.
        let recent = &made[made.len().saturating_sub(4)..];
        let chosen = if dice.chance(0.7) { dice.pick(recent) } else { dice.pick(&made) };
        let (id, version) = chosen.copied().unwrap_or_else(|| (new_id(), None));
        let action = match dice.between(0, 6) {
            0 | 1 => Action::Cancel,
            2 | 3 => Action::Confirm,
            4 => Action::Extend(EXTENSION * SECOND),
            _ => Action::Shrink(i32::try_from(dice.between(1, 5)).expect("few")),
        };
        Request::Alter { id, action, at_version: self.condition(version) }
    }

    fn choose_booking(&self) -> Request {
        let (dice, habits) = (&self.dice, &self.habits);
        let partner =
            if dice.chance(0.02) { CULPRIT } else { PARTNERS[dice.between(0, PARTNERS.len())] };
        let count = if dice.chance(habits.lists) { dice.between(2, 5) } else { 1 };
        let mut items: Vec<Item> = (0..count)
            .map(|_| Item {
                id: new_id(),
                seats: i32::try_from(dice.between(1, habits.seats_max + 1)).expect("few"),
                hold: dice.chance(habits.holds).then(|| HOLDS[dice.between(0, 2)] * SECOND),
            })
            .collect();
        let key = dice.chance(habits.keyed).then(|| {
            let number = dice.between(0, 12);
            // Requests with the same key are mostly the same.
            if !dice.chance(habits.mixes_up) {
                items.truncate(1 + number % 2);
                for item in &mut items {
                    item.seats = i32::try_from(number % 3 + 1).expect("few");
                    item.hold =
                        (number % 4 == 0 && habits.holds > 0.0).then_some(HOLDS[0] * SECOND);
                }
                while items.len() < 1 + number % 2 {
                    let Item { seats, hold, .. } = items[0].clone();
                    items.push(Item { id: new_id(), seats, hold });
                }
            }
            format!("order-{number}")
        });
        let at_version = self.condition(None);
        Request::Reserve(Booking { partner: partner.to_owned(), items, key, at_version })
    }

    /// A version that the target may be at, or one that is made up.
    fn condition(&self, known: Option<i64>) -> Option<i64> {
        if !self.dice.chance(self.habits.conditions) {
            return None;
        }
        let newest = self.newest.load(Ordering::Relaxed);
        let guess = newest - i64::try_from(self.dice.between(0, 3)).expect("few");
        Some(known.filter(|_| self.dice.chance(0.7)).unwrap_or(guess.max(0)))
    }

    /// Makes a call. Returns whether its outcome remains open.
    pub async fn call(&self, request: Request, hangs_up: bool) -> bool {
        let replica = {
            let replicas = self.replicas.lock().expect("no panic under the lock");
            let chosen = self.dice.between(0, replicas.len());
            (chosen, replicas[chosen].clone())
        };
        let number = {
            let mut calls = self.calls.lock().expect("no panic under the lock");
            let called = self.trace.len();
            let between = (self.trace.micros(), Time::MAX);
            calls.push(Call { called, answered: None, request: request.clone(), between });
            calls.len() - 1
        };
        self.trace.add(What::Called(number, replica.0, request.clone()));
        let patience =
            if hangs_up { self.dice.pause(50) } else { TIMEOUT + Duration::from_millis(2) };
        let replica = replica.1;
        let submitted =
            replica.batching.submit(&self.event, self.command(&request), Instant::now() + TIMEOUT);
        let outcome = tokio::select! {
            biased;
            () = replica.killed.cancelled() => None,
            outcome = timeout(patience, submitted) => match outcome {
                Ok(outcome) => Some(outcome),
                Err(_elapsed) if hangs_up => None,
                Err(_elapsed) => panic!("not answered in time: {request:?}"),
            },
        };
        let Some(outcome) = outcome else {
            self.remember(&request, None);
            return true;
        };
        let answer = answer(&request, outcome);
        self.remember(&request, Some(&answer));
        let open = matches!(answer, Answer::Unknown { .. });
        let at = self.trace.len();
        let now = self.trace.micros();
        self.trace.add(What::Answered(number, answer.clone()));
        let call = &mut self.calls.lock().expect("no panic under the lock")[number];
        call.answered = Some((at, answer));
        call.between.1 = now;
        open
    }

    /// Remembers the reservations that are worth changing, and the versions that were seen.
    fn remember(&self, request: &Request, answer: Option<&Answer>) {
        let mut made = self.made.lock().expect("no panic under the lock");
        let shown = match answer {
            Some(Answer::Reserved(shown) | Answer::Replayed(shown)) => shown.clone(),
            Some(Answer::Altered(shown)) => vec![shown.clone()],
            Some(Answer::EventChanged(shown)) => {
                self.newest.fetch_max(shown.version, Ordering::Relaxed);
                Vec::new()
            }
            _ => Vec::new(),
        };
        if let (None | Some(Answer::Unknown { .. }), Request::Reserve(booking)) = (answer, request)
        {
            made.extend(booking.items.iter().map(|item| (item.id, None)));
        }
        for shown in shown {
            self.newest.fetch_max(shown.version, Ordering::Relaxed);
            made.push((shown.id, Some(shown.version)));
        }
    }
}

/// The same request, as a client resends it.
pub fn again(request: &Request) -> Request {
    let mut again = request.clone();
    if let Request::Reserve(booking) = &mut again {
        booking.items.iter_mut().for_each(|item| item.id = new_id());
    }
    again
}

impl Crowd {
    /// In runs with limits, the callers are known as partners.
    fn command(&self, request: &Request) -> Command {
        let mut command = command(request);
        if let (Command::Reserve(reserve), Some(limits)) = (&mut command, self.habits.limits) {
            let open_holds_max = limits.holds.try_into().expect("not negative");
            reserve.by = Caller::Partner(reserve.partner_id.clone());
            reserve.limits = Some(PartnerLimits { open_holds_max });
        }
        command
    }
}

fn command(request: &Request) -> Command {
    let seats = |seats: i32| SeatCount::new(seats.into()).expect("a seat count");
    let time = |micros: Time| HoldTime::new(micros / SECOND).expect("a hold time");
    let condition = |version: &Option<i64>| match version {
        Some(version) => Precondition::Versions([*version].into()),
        None => Precondition::Any,
    };
    match request {
        Request::Reserve(booking) => {
            let item = |item: &Item| domain::Item {
                id: ReservationId(item.id),
                seats: seats(item.seats),
                hold: item.hold.map(time),
                reference: None,
            };
            let key = booking.key.as_deref();
            Command::Reserve(Reserve {
                partner_id: PartnerId::parse(&booking.partner).expect("a partner id"),
                items: booking.items.iter().map(item).collect(),
                is_list: booking.items.len() > 1,
                key: key.map(|key| IdempotencyKey::parse(key).expect("a key")),
                precondition: condition(&booking.at_version),
                by: Caller::Anybody,
                limits: None,
            })
        }
        Request::Alter { id, action, at_version } => Command::Alter(Alter {
            id: ReservationId(*id),
            action: match action {
                Action::Cancel => domain::Action::Cancel,
                Action::Confirm => domain::Action::Confirm,
                Action::Extend(micros) => domain::Action::Extend(time(*micros)),
                Action::Shrink(kept) => domain::Action::Shrink(seats(*kept)),
            },
            precondition: condition(at_version),
            by: Caller::Anybody,
        }),
        Request::ChangeEvent { total, sales, at_version } => Command::ChangeEvent(ChangeEvent {
            total_seats: total.map(|total| TotalSeats::new(total.into()).expect("some seats")),
            status: sales.map(|sales| match sales {
                Sales::On => EventStatus::OnSale,
                Sales::Paused => EventStatus::Paused,
                Sales::Ended => EventStatus::Ended,
            }),
            precondition: condition(at_version),
            by: Caller::Anybody,
            ..ChangeEvent::default()
        }),
        Request::Sweep => Command::Sweep,
    }
}

fn answer(request: &Request, outcome: Outcome) -> Answer {
    match outcome {
        Ok(acceptance) => accepted(acceptance),
        Err(Rejection::Refused(refusal)) => refused(request, refusal),
        Err(Rejection::VersionConflict) => Answer::NothingHappened("version_conflict"),
        Err(Rejection::Overloaded) => Answer::NothingHappened("overloaded"),
        Err(Rejection::DatabaseUnavailable) => Answer::NothingHappened("database_unavailable"),
        Err(Rejection::OutcomeUnknown { reservation_id, base_version }) => {
            Answer::Unknown { id: reservation_id.map(|id| id.0), base_version }
        }
        Err(Rejection::Internal) => {
            let culprit = matches!(request, Request::Reserve(asked) if asked.partner == CULPRIT);
            assert!(culprit, "a defect at {request:?}");
            Answer::NothingHappened("internal")
        }
    }
}

fn accepted(acceptance: Acceptance) -> Answer {
    let all = |made: Vec<Reservation>| made.iter().map(show).collect();
    match acceptance {
        Acceptance::Reserved(made) => Answer::Reserved(all(made)),
        Acceptance::Replayed(made) => Answer::Replayed(all(made)),
        Acceptance::Altered(made) => Answer::Altered(show(&made)),
        Acceptance::Unaltered(made) => Answer::Unaltered(show(&made)),
        Acceptance::Cancelled => Answer::Cancelled,
        Acceptance::EventChanged(event) => Answer::EventChanged(show_event(&event)),
        Acceptance::EventUnchanged(event) => Answer::EventUnchanged(show_event(&event)),
        Acceptance::Swept => Answer::Swept,
    }
}

fn refused(request: &Request, refusal: Refusal) -> Answer {
    let few = |used: i64| i32::try_from(used).expect("few");
    match refusal {
        Refusal::InsufficientSeats { available_seats, .. } => {
            Answer::InsufficientSeats { available: available_seats }
        }
        Refusal::SalesClosed { status, .. } => Answer::SalesClosed(sales(status)),
        Refusal::ReservationNotFound => Answer::ReservationNotFound,
        Refusal::HoldExpired => Answer::HoldExpired,
        Refusal::ReservationNotActive { status } => Answer::NotActive(show_status(status)),
        Refusal::CannotGrow { seats } => Answer::CannotGrow { seats },
        Refusal::CapacityBelowSold { taken_seats } => {
            Answer::CapacityBelowSold { taken: taken_seats }
        }
        Refusal::PreconditionFailed { version } => Answer::PreconditionFailed { version },
        Refusal::IdempotencyKeyReused => Answer::KeyReused,
        Refusal::TooManyHolds { used, .. } => Answer::TooManyHolds { used: few(used) },
        Refusal::TooManySeatsOfPartner { used, .. } => Answer::TooManySeats { used: few(used) },
        Refusal::EventNotFound | Refusal::TooManySeats { .. } | Refusal::SalesWindowEmpty => {
            panic!("{refusal:?} to {request:?}")
        }
    }
}

pub fn show(made: &Reservation) -> Shown {
    Shown {
        id: made.id.0,
        partner: made.partner_id.as_str().to_owned(),
        seats: made.seats,
        status: show_status(made.status),
        expires: made.hold_expires_at.map(micros),
        version: made.version,
    }
}

fn show_status(status: domain::Status) -> Status {
    Status::parse(status.as_str())
}

fn show_event(event: &Event) -> ShownEvent {
    ShownEvent {
        total: event.total_seats,
        available: event.available_seats,
        sales: sales(event.status),
        version: event.version,
    }
}

pub fn sales(status: EventStatus) -> Sales {
    match status {
        EventStatus::OnSale => Sales::On,
        EventStatus::Paused => Sales::Paused,
        EventStatus::Ended => Sales::Ended,
        EventStatus::Closed => panic!("nobody closes it"),
    }
}

/// The server's clock starts with the run.
pub fn micros(at: Timestamp) -> Time {
    i64::try_from(at.unix_timestamp_nanos() / 1_000).expect("a run is short")
}

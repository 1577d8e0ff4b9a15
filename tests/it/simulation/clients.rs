//! The clients of a run: they book, cancel, hang up, and try again.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use ticketboss::batching::{Batching, Outcome, Rejection};
use ticketboss::domain::{
    Acceptance, Action, Command, EventId, IdempotencyKey, Item, PartnerId, Precondition, Refusal,
    Reservation, ReservationId, Reserve, SeatCount,
};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::dice::{Dice, new_id};
use super::network::Remote;
use super::trace::{Trace, What};
use super::{CULPRIT, TIMEOUT};
use crate::auditor::{Answer, Call, Request, Shown};
use crate::support::alter;

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
    /// Reservations that somebody may want to cancel.
    made: Mutex<Vec<Uuid>>,
    habits: Habits,
}

/// How the clients of a run behave.
#[derive(Clone, Copy, Debug)]
pub struct Habits {
    pub cancels: f64,
    pub keyed: f64,
    /// Of the keyed ones: asks for something else under a key that was used.
    pub mixes_up: f64,
    pub hangs_up: f64,
    pub pause_max_ms: u64,
    pub seats_max: usize,
}

const PARTNERS: [&str; 2] = ["abc-corp", "xyz-corp"];

impl Crowd {
    pub fn new(event: EventId, dice: Dice, trace: Trace, habits: Habits) -> Arc<Self> {
        let (calls, made, replicas) = Default::default();
        Arc::new(Self { event, replicas, dice, trace, calls, made, habits })
    }

    pub fn calls(&self) -> Vec<Call> {
        self.calls.lock().expect("no panic under the lock").clone()
    }

    /// One client, who makes so many calls, one after the other.
    pub async fn client(self: Arc<Self>, calls: usize) {
        for _ in 0..calls {
            sleep(self.dice.pause(self.habits.pause_max_ms)).await;
            let request = self.choose();
            let keyed = matches!(&request, Request::Reserve { key: Some(_), .. });
            let patience = self.dice.chance(self.habits.hangs_up);
            let open = self.call(request.clone(), patience).await;
            // The same key settles what is unknown.
            if keyed && open && self.dice.chance(0.8) {
                self.call(again(&request), false).await;
            }
        }
    }

    fn choose(&self) -> Request {
        let (dice, habits) = (&self.dice, &self.habits);
        if dice.chance(habits.cancels) {
            let made = self.made.lock().expect("no panic under the lock");
            // Mostly one of the last, so that several clients cancel it at once.
            let recent = &made[made.len().saturating_sub(4)..];
            let chosen = if dice.chance(0.7) { dice.pick(recent) } else { dice.pick(&made) };
            return Request::Cancel { id: chosen.copied().unwrap_or_else(new_id) };
        }
        let partner =
            if dice.chance(0.02) { CULPRIT } else { PARTNERS[dice.between(0, PARTNERS.len())] };
        let mut seats = i32::try_from(dice.between(1, habits.seats_max + 1)).expect("few");
        let key = dice.chance(habits.keyed).then(|| {
            let number = dice.between(0, 12);
            // What is asked for under a key is mostly the same.
            if !dice.chance(habits.mixes_up) {
                seats = i32::try_from(number % 3 + 1).expect("few");
            }
            format!("order-{number}")
        });
        Request::Reserve { id: new_id(), partner: partner.to_owned(), seats, key }
    }

    /// Whether it remains open what the call did.
    pub async fn call(&self, request: Request, hangs_up: bool) -> bool {
        let replica = {
            let replicas = self.replicas.lock().expect("no panic under the lock");
            let chosen = self.dice.between(0, replicas.len());
            (chosen, replicas[chosen].clone())
        };
        let number = {
            let mut calls = self.calls.lock().expect("no panic under the lock");
            let called = self.trace.len();
            calls.push(Call { called, answered: None, request: request.clone() });
            calls.len() - 1
        };
        self.trace.add(What::Called(number, replica.0, request.clone()));
        let patience =
            if hangs_up { self.dice.pause(50) } else { TIMEOUT + Duration::from_millis(2) };
        let replica = replica.1;
        let submitted =
            replica.batching.submit(&self.event, command(&request), Instant::now() + TIMEOUT);
        let outcome = tokio::select! {
            biased;
            () = replica.killed.cancelled() => None,
            outcome = timeout(patience, submitted) => match outcome {
                Ok(outcome) => Some(outcome),
                Err(_elapsed) if hangs_up => None,
                Err(_elapsed) => panic!("not answered in time: {request:?}"),
            },
        };
        if let Request::Reserve { id, .. } = &request {
            self.made.lock().expect("no panic under the lock").push(*id);
        }
        let Some(outcome) = outcome else { return true };
        let answer = answer(&request, outcome);
        let open = matches!(answer, Answer::Unknown { .. });
        let at = self.trace.len();
        self.trace.add(What::Answered(number, answer.clone()));
        self.calls.lock().expect("no panic under the lock")[number].answered = Some((at, answer));
        open
    }
}

/// The same request, as a client sends it again.
pub fn again(request: &Request) -> Request {
    match request.clone() {
        Request::Reserve { partner, seats, key, .. } => {
            Request::Reserve { id: new_id(), partner, seats, key }
        }
        cancel @ Request::Cancel { .. } => cancel,
    }
}

fn command(request: &Request) -> Command {
    match request {
        Request::Cancel { id } => alter(ReservationId(*id), Action::Cancel),
        Request::Reserve { id, partner, seats, key } => {
            let seats = SeatCount::new((*seats).into()).expect("a seat count");
            let id = ReservationId(*id);
            Command::Reserve(Reserve {
                partner_id: PartnerId::parse(partner).expect("a partner id"),
                items: vec![Item { id, seats, hold: None, reference: None }],
                is_list: false,
                key: key.as_deref().map(|key| IdempotencyKey::parse(key).expect("a key")),
                precondition: Precondition::Any,
            })
        }
    }
}

fn answer(request: &Request, outcome: Outcome) -> Answer {
    let culprit = matches!(request, Request::Reserve { partner, .. } if partner == CULPRIT);
    match outcome {
        Ok(Acceptance::Reserved(made)) => Answer::Reserved(show(&made[0])),
        Ok(Acceptance::Replayed(made)) => Answer::Replayed(show(&made[0])),
        Ok(Acceptance::Cancelled) => Answer::Cancelled,
        Err(Rejection::Refused(Refusal::InsufficientSeats { available_seats, .. })) => {
            Answer::InsufficientSeats { available: available_seats }
        }
        Err(Rejection::Refused(Refusal::ReservationNotFound)) => Answer::ReservationNotFound,
        Err(Rejection::Refused(Refusal::IdempotencyKeyReused)) => Answer::KeyReused,
        Err(Rejection::VersionConflict) => Answer::NothingHappened("version_conflict"),
        Err(Rejection::Overloaded) => Answer::NothingHappened("overloaded"),
        Err(Rejection::DatabaseUnavailable) => Answer::NothingHappened("database_unavailable"),
        Err(Rejection::Internal) if culprit => Answer::NothingHappened("internal"),
        Err(Rejection::OutcomeUnknown { reservation_id, base_version }) => {
            Answer::Unknown { id: reservation_id.expect("it names one").0, base_version }
        }
        other => panic!("{other:?} to {request:?}"),
    }
}

pub fn show(made: &Reservation) -> Shown {
    Shown {
        id: made.id.0,
        partner: made.partner_id.as_str().to_owned(),
        seats: made.seats,
        active: made.status.owns_seats(),
        version: made.version,
    }
}

//! The batcher under faults that no real database produces on demand.

use std::sync::Arc;
use std::time::Duration;

use ticketboss::batching::{Batching, Outcome, Rejection, Settings};
use ticketboss::domain::{
    Acceptance, Action, Caller, ChangeEvent, Command, EventId, HoldTime, Item, Refusal,
    Reservation, ReservationId, Reserve, TotalSeats,
};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::simulated::{Fault, Simulated};
use crate::support::{alter, limited, partner, reserve_as};

mod room;

const TIMEOUT: Duration = Duration::from_secs(4);

pub struct Engine {
    pub store: Arc<Simulated>,
    pub batching: Batching<Simulated>,
    event: EventId,
}

impl Engine {
    pub fn with_seats(seats: i32) -> Self {
        Self::with_mailbox(seats, 100)
    }

    pub fn with_mailbox(seats: i32, mailbox_commands_max: usize) -> Self {
        let event = EventId::parse("hot").expect("a slug");
        let store = Arc::new(Simulated::with_seats(&event, seats));
        let settings = Settings { request_timeout: TIMEOUT, mailbox_commands_max };
        let batching = Batching::new(Arc::clone(&store), settings, Uuid::now_v7, Handle::current());
        Self { store, batching, event }
    }

    async fn submit(&self, command: Command) -> Outcome {
        self.batching.submit(&self.event, command, Instant::now() + TIMEOUT).await
    }

    /// Holds a seat.
    async fn hold(&self) -> ReservationId {
        let Command::Reserve(mut hold) = reserve(1) else { unreachable!("it books") };
        hold.items[0].hold = HoldTime::new(60);
        made(self.submit(Command::Reserve(hold)).await).id
    }

    /// Submits now; the answer comes later.
    pub async fn start(&self, command: Command) -> JoinHandle<Outcome> {
        self.start_by(command, Instant::now() + TIMEOUT).await
    }

    /// The same, for a caller that wants its answer by then.
    async fn start_by(&self, command: Command, answer_by: Instant) -> JoinHandle<Outcome> {
        let (batching, event) = (self.batching.clone(), self.event.clone());
        let (submitting, submitted) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            let mut answer = Box::pin(batching.submit(&event, command, answer_by));
            // The first poll puts the command into its mailbox.
            let first = futures_util::poll!(&mut answer);
            submitting.send(()).expect("the test waits for it");
            match first {
                std::task::Poll::Ready(outcome) => outcome,
                std::task::Poll::Pending => answer.await,
            }
        });
        submitted.await.expect("it is submitted");
        task
    }

    /// Submits now, and returns once the commit is in flight and stalled.
    pub async fn start_stalled(&self, command: Command) -> JoinHandle<Outcome> {
        self.store.plan([Fault::Stalls]);
        let task = self.start(command).await;
        self.store.stalled().await;
        task
    }

    pub async fn reserve(&self, seats: i32) -> Outcome {
        self.submit(reserve(seats)).await
    }

    /// Checks all counts of what is sold.
    pub fn check_sold(&self, seats: i32, reservations: usize) {
        let event = self.store.event();
        let made = self.store.reservations();
        let owned = made.iter().filter(|made| made.status.owns_seats());
        assert_eq!(owned.clone().count(), reservations);
        assert_eq!(owned.map(|made| made.seats).sum::<i32>(), seats);
        assert_eq!(event.available_seats, event.total_seats - seats);
        assert_eq!(event.reservation_count, i64::try_from(reservations).expect("few"));
    }
}

fn extend(id: ReservationId) -> Command {
    alter(id, Action::Extend(HoldTime::new(60).expect("a hold time")))
}

fn reserve(seats: i32) -> Command {
    reserve_as("abc-corp", seats, None)
}

pub fn made(outcome: Outcome) -> Reservation {
    match outcome {
        Ok(Acceptance::Reserved(mut made)) if made.len() == 1 => made.remove(0),
        other => panic!("not made: {other:?}"),
    }
}

fn refused_for_seats(outcome: Outcome) -> i32 {
    match outcome {
        Err(Rejection::Refused(Refusal::InsufficientSeats { available_seats, .. })) => {
            available_seats
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// Whatever a lost connection did to the commit, the caller is told that it was made, and it was
/// made once.
#[tokio::test(start_paused = true)]
async fn an_unknown_outcome_is_settled_by_the_version_fence() {
    use Fault::{AnswerLost, LandsLate, LostOnTheWay, Unavailable};
    let cases: Vec<Vec<Fault>> = vec![
        vec![AnswerLost],
        vec![LostOnTheWay],
        vec![LandsLate],
        vec![LostOnTheWay, LostOnTheWay, AnswerLost],
        vec![LandsLate, LandsLate, LandsLate],
        vec![LostOnTheWay, Unavailable, AnswerLost, Unavailable],
    ];
    for faults in cases {
        let case = format!("{faults:?}");
        let engine = Engine::with_seats(10);
        engine.store.plan(faults);
        assert_eq!(made(engine.reserve(4).await).version, 1, "{case}");
        engine.check_sold(4, 1);
        assert_eq!(made(engine.reserve(4).await).version, 2, "{case}");
        engine.check_sold(8, 2);
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_was_overtaken_while_unknown_is_decided_again() {
    let engine = Engine::with_seats(10);
    engine.store.plan([Fault::OvertakenThenLost]);
    assert_eq!(made(engine.reserve(4).await).version, 2);
    engine.check_sold(4, 1);
}

#[tokio::test(start_paused = true)]
async fn ours_is_said_only_after_another_commit_has_succeeded() {
    let engine = Engine::with_seats(10);
    engine.store.plan([Fault::AnswerLost]);
    engine.store.fail_fences(3);
    made(engine.reserve(4).await);
    assert_eq!(engine.store.fences_and_snapshots().0, 4);
    engine.check_sold(4, 1);
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_settled_is_unknown_and_not_failed() {
    let engine = Engine::with_seats(10);
    made(engine.reserve(1).await);
    engine.store.plan([Fault::AnswerLost]);
    engine.store.fail_fences(usize::MAX);
    let command = reserve(4);
    let id = command.reservation_id();
    let unknown = Rejection::OutcomeUnknown { reservation_id: id, base_version: Some(1) };
    assert_eq!(engine.submit(command).await, Err(unknown));
    engine.store.fail_fences(0);
    made(engine.reserve(4).await);
    engine.check_sold(9, 3);
}

/// In a batch whose outcome stays unknown, a refused command has certainly done nothing.
#[tokio::test(start_paused = true)]
async fn a_refusal_in_an_unknown_batch_is_not_unknown() {
    let engine = Engine::with_seats(6);
    let in_flight = engine.start_stalled(reserve(1)).await;
    let (first, second) = (engine.start(reserve(5)).await, engine.start(reserve(1)).await);
    engine.store.plan((0..1000).map(|_| Fault::LostOnTheWay));
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    let first = first.await.expect("answered");
    assert!(matches!(first, Err(Rejection::OutcomeUnknown { base_version: Some(1), .. })));
    assert_eq!(second.await.expect("answered"), Err(Rejection::DatabaseUnavailable));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_rests_on_a_fresh_read() {
    let engine = Engine::with_seats(5);
    made(engine.reserve(5).await);
    // The batcher remembers "sold out"; another replica has cancelled since.
    engine.store.elsewhere(3);
    made(engine.reserve(3).await);
    assert_eq!(refused_for_seats(engine.reserve(1).await), 0);
}

#[tokio::test(start_paused = true)]
async fn an_acceptance_rests_on_the_version() {
    let engine = Engine::with_seats(5);
    made(engine.reserve(1).await);
    // The batcher remembers "4 left"; another replica has sold 3 since.
    engine.store.elsewhere(-3);
    assert_eq!(refused_for_seats(engine.reserve(2).await), 1);
    assert_eq!(made(engine.reserve(1).await).version, 3);
}

/// Whoever follows the event learns of a version before its callers do, and of none that another
/// batch made.
#[tokio::test(start_paused = true)]
async fn a_commit_is_told_to_those_who_follow() {
    let engine = Engine::with_seats(10);
    let mut followed = engine.batching.latest_versions().watch(&engine.event, 0);
    engine.reserve(1).await.expect("granted");
    assert_eq!(*followed.borrow_and_update(), 1);
    // The answer to the second commit is lost, and the commit is settled.
    engine.store.plan([Fault::AnswerLost]);
    engine.reserve(1).await.expect("granted");
    assert_eq!(*followed.borrow_and_update(), 2);
    engine.reserve(20).await.expect_err("refused");
    assert!(!followed.has_changed().expect("it is there"));
}

#[tokio::test(start_paused = true)]
async fn a_lone_request_on_a_known_event_costs_no_read() {
    let engine = Engine::with_seats(50);
    for _ in 0..5 {
        made(engine.reserve(2).await);
    }
    assert_eq!(engine.store.fences_and_snapshots(), (0, 1));
}

/// Also on an event that limits its partners: when sales open, no partner has anything yet.
#[tokio::test(start_paused = true)]
async fn new_partners_of_an_untouched_event_cost_no_read() {
    let engine = Engine::with_seats(50);
    engine.store.limit_partners(Some(3));
    let book = async |name, seats| engine.submit(limited(reserve_as(name, seats, None), 9)).await;
    for name in ["one", "two", "three"] {
        made(book(name, 2).await);
    }
    assert_eq!(engine.store.fences_and_snapshots(), (0, 1));
    // A refusal needs a read, as always, and the batcher forgets nothing by it.
    book("one", 2).await.expect_err("refused");
    assert_eq!(engine.store.fences_and_snapshots(), (0, 2));
    made(book("one", 1).await);
    made(book("four", 3).await);
    assert_eq!(engine.store.fences_and_snapshots(), (0, 2));
    // The batcher does not know what another replica has sold since.
    engine.store.elsewhere(-1);
    made(book("five", 1).await);
    made(book("six", 1).await);
    assert_eq!(engine.store.fences_and_snapshots(), (0, 4));
}

/// What is known of its partners is not read again, and is still known when they are refused.
#[tokio::test(start_paused = true)]
async fn a_sold_out_event_knows_its_partners() {
    let engine = Engine::with_seats(4);
    engine.store.limit_partners(Some(3));
    let book = async |name, seats| engine.submit(limited(reserve_as(name, seats, None), 9)).await;
    made(book("one", 3).await);
    for (seats, granted) in [(3, false), (1, true), (1, false)] {
        match book("two", seats).await {
            Ok(_) => assert!(granted),
            Err(Rejection::Refused(Refusal::InsufficientSeats { .. })) => assert!(!granted),
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(engine.store.fences_and_snapshots(), (0, 3));
}

/// Two commands wait for one freed seat: the first to arrive gets it, also ahead of later arrivals.
#[tokio::test(start_paused = true)]
async fn what_waits_for_the_next_batch_keeps_its_place() {
    let engine = Engine::with_seats(2);
    let held = made(engine.reserve(1).await).id;
    let in_flight = engine.start_stalled(reserve(1)).await;
    let cancel = engine.start(alter(held, Action::Cancel)).await;
    let (first, second) = (engine.start(reserve(1)).await, engine.start(reserve(1)).await);
    engine.store.plan([Fault::Stalls]);
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    engine.store.stalled().await;
    let third = engine.start(reserve(1)).await;
    engine.store.resume();
    assert_eq!(cancel.await.expect("answered"), Ok(Acceptance::Cancelled));
    made(first.await.expect("answered"));
    assert_eq!(refused_for_seats(second.await.expect("answered")), 0);
    assert_eq!(refused_for_seats(third.await.expect("answered")), 0);
}

/// An event that is no longer booked costs nothing.
#[tokio::test(start_paused = true)]
async fn a_batcher_that_is_idle_ends_and_the_next_booking_starts_another() {
    let engine = Engine::with_seats(2);
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    made(engine.reserve(1).await);
    assert_eq!(tasks(), before + 1);
    tokio::time::sleep(Duration::from_secs(11)).await;
    assert_eq!(tasks(), before);
    made(engine.reserve(1).await);
    engine.check_sold(2, 2);
}

/// Many extensions of one hold take a batch each. All other commands go on meanwhile.
#[tokio::test(start_paused = true)]
async fn those_who_change_one_thing_leave_room_for_the_others() {
    let engine = Engine::with_mailbox(50, 2_000);
    let id = engine.hold().await;
    let in_flight = engine.start_stalled(reserve(1)).await;
    let mut extensions = Vec::new();
    for _ in 0..1_000 {
        extensions.push(engine.start(extend(id)).await);
    }
    let booking = engine.start(reserve(1)).await;
    engine.store.resume();
    assert_eq!(made(in_flight.await.expect("answered")).version, 2);
    // A batch of extensions, then one that is half full of deferred extensions, and so on.
    assert_eq!(made(booking.await.expect("answered")).version, 5);
    for extension in extensions {
        let extended = extension.await.expect("answered");
        assert!(matches!(extended, Ok(Acceptance::Altered(_))), "{extended:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn one_key_makes_one_reservation_in_one_batch_too() {
    let engine = Engine::with_seats(50);
    let in_flight = engine.start_stalled(reserve(1)).await;
    let mut tasks = Vec::new();
    for _ in 0..20 {
        tasks.push(engine.start(reserve_as("abc-corp", 2, Some("order-1"))).await);
    }
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    let (mut fresh, mut replayed) = (0, 0);
    for task in tasks {
        match task.await.expect("answered") {
            Ok(Acceptance::Reserved(_)) => fresh += 1,
            Ok(Acceptance::Replayed(_)) => replayed += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((fresh, replayed), (1, 19));
    engine.check_sold(3, 2);
}

#[tokio::test(start_paused = true)]
async fn a_replay_follows_a_commit_that_succeeded() {
    let engine = Engine::with_seats(50);
    made(engine.submit(reserve_as("abc-corp", 2, Some("order-1"))).await);
    engine.store.fail_fences(1);
    let again = || engine.submit(reserve_as("abc-corp", 2, Some("order-1")));
    // Not "nothing happened": the reservation of this key was seen, and may be permanent.
    let reservation_id = Some(engine.store.reservations()[0].id);
    let unknown = Rejection::OutcomeUnknown { reservation_id, base_version: Some(0) };
    assert_eq!(again().await, Err(unknown));
    assert!(matches!(again().await, Ok(Acceptance::Replayed(_))));
    engine.check_sold(2, 1);
}

/// An answer that something is already as requested also follows a commit that succeeded.
#[tokio::test(start_paused = true)]
async fn what_was_so_before_follows_a_commit_that_succeeded() {
    let engine = Engine::with_seats(50);
    let change = ChangeEvent { total_seats: TotalSeats::new(50), ..ChangeEvent::default() };
    let unchanged = Command::ChangeEvent(change);
    let unknown = |reservation_id, base_version| {
        Err(Rejection::OutcomeUnknown { reservation_id, base_version: Some(base_version) })
    };
    engine.store.fail_fences(1);
    assert_eq!(engine.submit(unchanged.clone()).await, unknown(None, 0));
    made(engine.reserve(1).await);
    let id = made(engine.reserve(1).await).id;
    for (command, id) in [(unchanged, None), (alter(id, Action::Confirm), Some(id))] {
        engine.store.fail_fences(1);
        assert_eq!(engine.submit(command.clone()).await, unknown(id, 1));
        let known = engine.submit(command).await;
        let is_known =
            matches!(known, Ok(Acceptance::Unaltered(_) | Acceptance::EventUnchanged(_)));
        assert!(is_known, "{known:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_database_that_is_away_is_said_to_be_away() {
    let engine = Engine::with_seats(50);
    engine.store.plan([Fault::Unavailable]);
    assert_eq!(engine.reserve(2).await, Err(Rejection::DatabaseUnavailable));
    engine.check_sold(0, 0);
    made(engine.reserve(2).await);
}

#[tokio::test(start_paused = true)]
async fn a_batcher_that_panics_is_replaced_and_its_commands_are_answered() {
    let engine = Engine::with_seats(50);
    engine.store.plan([Fault::Panics]);
    let answer = engine.reserve(2).await;
    assert!(matches!(answer, Err(Rejection::OutcomeUnknown { base_version: Some(0), .. })));
    made(engine.reserve(2).await);
    engine.check_sold(2, 1);
}

#[tokio::test(start_paused = true)]
async fn a_row_that_the_database_refuses_harms_nobody_else() {
    let engine = Engine::with_seats(50);
    engine.store.refuse_rows_of("culprit");
    let in_flight = engine.start_stalled(reserve(1)).await;
    let mut tasks = Vec::new();
    for index in 0..21 {
        let name = if index == 13 { "culprit" } else { "abc-corp" };
        tasks.push((name, engine.start(reserve_as(name, 1, None)).await));
    }
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    for (name, task) in tasks {
        match task.await.expect("answered") {
            Err(Rejection::Internal) => assert_eq!(name, "culprit"),
            outcome => assert_eq!(made(outcome).partner_id, partner("abc-corp")),
        }
    }
    engine.check_sold(21, 21);
}

#[tokio::test(start_paused = true)]
async fn a_command_runs_to_its_end_when_the_client_hangs_up() {
    let engine = Engine::with_seats(50);
    engine.start_stalled(reserve(2)).await.abort();
    // These two wait behind it, for the same batch.
    engine.start(reserve(3)).await.abort();
    let next = engine.start(reserve(4)).await;
    engine.store.resume();
    made(next.await.expect("answered"));
    engine.check_sold(9, 3);
}

#[tokio::test(start_paused = true)]
async fn a_full_mailbox_turns_away_at_once() {
    let engine = Engine::with_mailbox(50, 2);
    let in_flight = engine.start_stalled(reserve(1)).await;
    let waiting = [engine.start(reserve(1)).await, engine.start(reserve(1)).await];
    let before = Instant::now();
    assert_eq!(engine.reserve(1).await, Err(Rejection::Overloaded));
    assert_eq!(before.elapsed(), Duration::ZERO);
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    for task in waiting {
        made(task.await.expect("answered"));
    }
    engine.check_sold(3, 3);
}

/// A command that has waited too long is dropped before it is sent, so that "nothing happened" is
/// true.
#[tokio::test(start_paused = true)]
async fn a_command_past_its_time_is_dropped_before_it_is_sent() {
    let engine = Engine::with_seats(50);
    let in_flight = engine.start_stalled(reserve(1)).await;
    engine.store.plan((0..1000).map(|_| Fault::Stalls));
    let waiting = engine.start(reserve(1)).await;
    let before = Instant::now();
    assert_eq!(waiting.await.expect("answered"), Err(Rejection::Overloaded));
    assert!(before.elapsed() <= TIMEOUT);
    // The command in flight was bounded by its own deadline.
    let in_flight = in_flight.await.expect("answered");
    assert!(matches!(in_flight, Err(Rejection::OutcomeUnknown { .. })), "{in_flight:?}");
}

/// A request that has used up half of its time before it arrives is not sent, however much is left:
/// its whole batch would have to be answered by its deadline.
#[tokio::test(start_paused = true)]
async fn a_command_that_comes_late_hurries_nobody() {
    let engine = Engine::with_seats(50);
    let late = Instant::now() + TIMEOUT / 2 - Duration::from_millis(1);
    let answer = engine.batching.submit(&engine.event, reserve(1), late).await;
    assert_eq!(answer, Err(Rejection::Overloaded));
    engine.check_sold(0, 0);
}

#[tokio::test(start_paused = true)]
async fn draining_answers_what_was_taken_in_and_takes_no_more() {
    let engine = Engine::with_seats(50);
    let taken = [engine.start_stalled(reserve(1)).await, engine.start(reserve(1)).await];
    engine.store.resume();
    let begun = Instant::now();
    engine.batching.drain().await;
    assert_eq!(begun.elapsed(), Duration::ZERO, "an idle batcher was waited for");
    for task in taken {
        made(task.await.expect("answered"));
    }
    assert_eq!(engine.reserve(1).await, Err(Rejection::Overloaded));
    engine.check_sold(2, 2);
}

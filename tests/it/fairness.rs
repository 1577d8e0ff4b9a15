//! No caller's flood keeps the others out. The figures are in docs/performance.md; these tests
//! check the order of decisions, which depends on no clock.

use ticketboss::batching::{Outcome, Rejection};
use ticketboss::domain::{Acceptance, Command, Refusal};
use tokio::task::JoinHandle;

use crate::engine::{Engine, made};
use crate::support::{limited, reserve_as};

/// A booking by a partner that has shown an access key.
fn by(partner: &str) -> Command {
    limited(reserve_as(partner, 1, None), 1)
}

async fn start(engine: &Engine, partner: &str, count: usize) -> Vec<JoinHandle<Outcome>> {
    let mut started = Vec::new();
    for _ in 0..count {
        started.push(engine.start(by(partner)).await);
    }
    started
}

async fn ended(started: Vec<JoinHandle<Outcome>>) -> Vec<Outcome> {
    let mut ended = Vec::new();
    for each in started {
        ended.push(each.await.expect("it is answered"));
    }
    ended
}

/// One partner sends 99 of 100 requests, and was there first.
#[tokio::test(start_paused = true)]
async fn a_flood_holds_nobody_up() {
    let engine = Engine::with_mailbox(10_000, 10_000);
    let in_flight = engine.start_stalled(by("flood")).await;
    let flood = start(&engine, "flood", 1_980).await;
    let small = start(&engine, "small", 10).await;
    let other = start(&engine, "other", 10).await;
    engine.store.resume();
    assert_eq!(made(in_flight.await.expect("answered")).version, 1);
    // All bookings of the other two are in the very next batch.
    for outcome in ended(small).await.into_iter().chain(ended(other).await) {
        assert_eq!(made(outcome).version, 2);
    }
    let last = ended(flood).await.into_iter().map(|outcome| made(outcome).version).max();
    assert_eq!(last, Some(5));
    engine.check_sold(2_001, 2_001);
}

/// A single line would give all seats that are left to the partner that came first.
#[tokio::test(start_paused = true)]
async fn with_seats_running_out_each_gets_its_turn() {
    let engine = Engine::with_mailbox(11, 10_000);
    let in_flight = engine.start_stalled(by("flood")).await;
    let flood = start(&engine, "flood", 400).await;
    let mut others = Vec::new();
    for partner in ["a", "b", "c", "d"] {
        others.extend(start(&engine, partner, 2).await);
    }
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    for outcome in ended(others).await {
        made(outcome);
    }
    let flood = ended(flood).await;
    let (granted, refused): (Vec<_>, Vec<_>) =
        flood.into_iter().partition(|outcome| matches!(outcome, Ok(Acceptance::Reserved(_))));
    assert_eq!(granted.len(), 2);
    for outcome in refused {
        let sold_out =
            Refusal::InsufficientSeats { available_seats: 0, next_hold_expires_at: None };
        assert_eq!(outcome, Err(Rejection::Refused(sold_out)));
    }
    engine.check_sold(11, 11);
}

/// A command must be turned away then: the last one of the caller that has the most in the mailbox.
#[tokio::test(start_paused = true)]
async fn a_full_mailbox_has_room_for_those_who_are_few() {
    let engine = Engine::with_mailbox(10_000, 100);
    let in_flight = engine.start_stalled(by("flood")).await;
    let flood = start(&engine, "flood", 150).await;
    let small = start(&engine, "small", 20).await;
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    for outcome in ended(small).await {
        made(outcome);
    }
    let flood = ended(flood).await;
    let turned_away = flood.iter().filter(|outcome| **outcome == Err(Rejection::Overloaded));
    assert_eq!(turned_away.count(), 70);
    engine.check_sold(101, 101);
}

/// A list of a hundred rows takes a hundred turns.
#[tokio::test(start_paused = true)]
async fn a_list_counts_as_what_it_is() {
    let engine = Engine::with_mailbox(10_000, 10_000);
    let list = || {
        let Command::Reserve(mut list) = by("lists") else { unreachable!("it books") };
        let item = list.items[0].clone();
        list.items = (0..100)
            .map(|_| {
                let id = engine.batching.new_reservation_id();
                ticketboss::domain::Item { id, ..item.clone() }
            })
            .collect();
        list.is_list = true;
        Command::Reserve(list)
    };
    let in_flight = engine.start_stalled(by("lists")).await;
    let mut lists = Vec::new();
    for _ in 0..8 {
        lists.push(engine.start(list()).await);
    }
    let small = start(&engine, "small", 300).await;
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    // Each partner gets about half of the 512 rows. If a list took one turn, it would be five lists
    // and 12 others.
    let first = ended(small).await.into_iter().filter(|outcome| match outcome {
        Ok(Acceptance::Reserved(made)) => made[0].version == 2,
        _ => false,
    });
    assert_eq!(first.count(), 212);
    ended(lists).await;
}

//! Commands that have no room in a batch, and commands that wait behind a batch.

use super::*;

/// A list of this many reservations of one seat.
fn list_of(count: usize) -> Command {
    let Command::Reserve(one) = reserve(1) else { unreachable!("it books") };
    let items = std::iter::repeat_with(|| Item {
        id: ReservationId(Uuid::now_v7()),
        ..one.items[0].clone()
    });
    Command::Reserve(Reserve { items: items.take(count).collect(), is_list: true, ..one.clone() })
}

/// A statement writes 512 rows at most, and a list is never split.
#[tokio::test(start_paused = true)]
async fn what_has_no_room_in_a_batch_is_the_next_one() {
    let engine = Engine::with_seats(1_000);
    let in_flight = engine.start_stalled(reserve(1)).await;
    let mut lists = Vec::new();
    for _ in 0..6 {
        lists.push(engine.start(list_of(100)).await);
    }
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    for (number, list) in lists.into_iter().enumerate() {
        let Ok(Acceptance::Reserved(made)) = list.await.expect("answered") else {
            panic!("list {number} is not made");
        };
        assert_eq!((made.len(), made[0].version), (100, if number < 5 { 2 } else { 3 }));
    }
    engine.check_sold(601, 601);
}

/// Seven partners request a list of a hundred each; a batch has room for five of the lists.
async fn seven_partners(
    engine: &Engine,
    sixth_by: Instant,
    seventh_by: Instant,
) -> [JoinHandle<Outcome>; 7] {
    let mut asking = Vec::new();
    for number in 1..=7 {
        let Command::Reserve(list) = list_of(100) else { unreachable!("it books") };
        let by = Caller::Partner(partner(&number.to_string()));
        let answer_by = match number {
            6 => sixth_by,
            7 => seventh_by,
            _ => Instant::now() + TIMEOUT,
        };
        let list = Command::Reserve(Reserve { by, ..list });
        asking.push(engine.start_by(list, answer_by).await);
    }
    asking.try_into().expect("they are seven")
}

#[tokio::test(start_paused = true)]
async fn a_batch_does_not_outlast_who_waits_behind_it() {
    let engine = Engine::with_seats(1_000);
    let in_flight = engine.start_stalled(reserve(1)).await;
    let soon = Instant::now() + TIMEOUT * 5 / 8;
    let [first, .., sixth, _] = seven_partners(&engine, soon, soon).await;
    // A batch with the whole time of a request would lose three quarters of it to these stalls.
    engine.store.plan([Fault::Stalls, Fault::Stalls]);
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    assert_eq!(sixth.await.expect("answered"), Err(Rejection::Overloaded));
    assert!(Instant::now() <= soon);
    let first = first.await.expect("answered");
    assert!(matches!(first, Ok(Acceptance::Reserved(_))), "{first:?}");
}

#[tokio::test(start_paused = true)]
async fn who_comes_too_late_is_told_at_once_and_hurries_nobody() {
    let engine = Engine::with_seats(1_000);
    let in_flight = engine.start_stalled(reserve(1)).await;
    let (begun, in_time) = (Instant::now(), Instant::now() + TIMEOUT);
    let late = begun + TIMEOUT / 2 - Duration::from_millis(1);
    let [first, .., seventh] = seven_partners(&engine, in_time, late).await;
    engine.store.plan([Fault::Stalls]);
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    assert_eq!(seventh.await.expect("answered"), Err(Rejection::Overloaded));
    assert_eq!(begun.elapsed(), Duration::ZERO);
    // The batch had half of the time of the callers that are in time.
    let first = first.await.expect("answered");
    assert!(matches!(first, Ok(Acceptance::Reserved(_))), "{first:?}");
    assert!(begun.elapsed() >= TIMEOUT / 2);
}

/// A deferred command may be too late by the time of its second batch, and is not taken into it
/// then.
#[tokio::test(start_paused = true)]
async fn what_was_put_off_and_is_late_is_told_at_once_too() {
    let engine = Engine::with_mailbox(1_000, 1_000);
    let in_flight = engine.start_stalled(reserve(1)).await;
    let (begun, in_time) = (Instant::now(), Instant::now() + TIMEOUT);
    let moment = Duration::from_millis(100);
    let soon_late = begun + TIMEOUT / 2 + moment;
    // A whole batch of requests with one key: all except the first wait for the next batch, in
    // which half of them have room, since there are others.
    let mut same = Vec::new();
    for number in 0..512 {
        let by = if number <= 256 { in_time } else { soon_late };
        same.push(engine.start_by(reserve_as("abc-corp", 1, Some("k")), by).await);
    }
    for _ in 0..256 {
        engine.start(reserve(1)).await;
    }
    engine.store.plan([Fault::Stalls, Fault::Stalls]);
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    engine.store.stalled().await;
    tokio::time::advance(moment * 2).await;
    engine.store.resume();
    for late in same.split_off(257) {
        assert_eq!(late.await.expect("answered"), Err(Rejection::Overloaded));
    }
    assert_eq!(begun.elapsed(), moment * 2);
    for replayed in same.drain(1..) {
        let replayed = replayed.await.expect("answered");
        assert!(matches!(replayed, Ok(Acceptance::Replayed(_))), "{replayed:?}");
    }
}

/// Changes of one reservation take a batch each; those that arrive later do not overtake them.
#[tokio::test(start_paused = true)]
async fn what_is_deferred_keeps_the_order_of_its_arrival() {
    let engine = Engine::with_mailbox(50, 2_000);
    let held = engine.hold().await;
    let in_flight = engine.start_stalled(reserve(1)).await;
    let mut extensions = Vec::new();
    // More than fit into a batch.
    for _ in 0..700 {
        extensions.push(engine.start(extend(held)).await);
    }
    engine.store.resume();
    made(in_flight.await.expect("answered"));
    for (extension, version) in extensions.into_iter().zip(3..) {
        let Ok(Acceptance::Altered(extended)) = extension.await.expect("answered") else {
            panic!("the one for version {version} is not extended");
        };
        assert_eq!(extended.version, version);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_is_deferred_than_may_wait() {
    let engine = Engine::with_mailbox(50, 100);
    let held = engine.hold().await;
    let mut extensions = Vec::new();
    let mut in_flight = engine.start_stalled(reserve(1)).await;
    for _ in 0..2 {
        for _ in 0..100 {
            extensions.push(engine.start(extend(held)).await);
        }
        engine.store.plan([Fault::Stalls]);
        engine.store.resume();
        in_flight.await.expect("answered").expect("granted");
        engine.store.stalled().await;
        in_flight = extensions.remove(0);
    }
    engine.store.resume();
    in_flight.await.expect("answered").expect("granted");
    let mut outcomes = Vec::new();
    for extension in extensions {
        outcomes.push(extension.await.expect("answered"));
    }
    // 99 of the first hundred were waiting for their second batch when the second hundred came.
    let refused = outcomes.iter().filter(|it| **it == Err(Rejection::Overloaded)).count();
    let extended = outcomes.iter().filter(|it| matches!(it, Ok(Acceptance::Altered(_)))).count();
    assert_eq!((refused, extended), (98, 100));
    assert!(outcomes[..98].iter().all(Result::is_ok), "the first go before the others");
}

#[tokio::test(start_paused = true)]
async fn whose_time_has_gone_by_before_it_came_is_told_at_once() {
    let engine = Engine::with_seats(10);
    let in_flight = engine.start_stalled(reserve(1)).await;
    let begun = Instant::now();
    let late = begun + TIMEOUT / 2 - Duration::from_millis(1);
    let outcome = engine.start_by(reserve(1), late).await.await.expect("answered");
    assert_eq!(outcome, Err(Rejection::Overloaded));
    // It did not wait for the commit in flight.
    assert_eq!(begun.elapsed(), Duration::ZERO);
    engine.store.resume();
    made(in_flight.await.expect("answered"));
}

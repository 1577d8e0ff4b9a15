//! Replicas that sell the same event take turns by a baton, and nothing depends on it.

use std::sync::Arc;
use std::time::Duration;

use ticketboss::batching::Rejection;
use ticketboss::domain::EventId;
use ticketboss::store::{Commit, CommitError, Committed, ConnectionLimits, PostgresStore, Store};
use tokio::runtime::Handle;
use tokio::time::Instant;

use crate::engine::{Engine, made};
use crate::stores::{TIMEOUT, insert};
use crate::support::simulated::Fault;
use crate::support::{TestDatabase, eventually};

#[tokio::test(start_paused = true)]
async fn after_a_lost_race_a_batcher_waits_for_its_turn() {
    let engine = Engine::with_seats(50);
    made(engine.reserve(1).await);
    assert_eq!(engine.store.batons(), (0, 0, 0));
    engine.store.elsewhere(0);
    made(engine.reserve(1).await);
    // The commit has passed the baton on.
    assert_eq!(engine.store.batons(), (1, 1, 0));
    // No other replica turns up, so that the batcher soon commits without the baton again.
    for _ in 0..10 {
        made(engine.reserve(1).await);
    }
    assert_eq!(engine.store.batons(), (5, 5, 0));
    engine.check_sold(12, 12);
    // The baton is passed on even if there is nothing left to commit.
    engine.store.elsewhere(-38);
    let refused = engine.reserve(1).await;
    assert!(matches!(refused, Err(Rejection::Refused(_))), "{refused:?}");
    assert_eq!(engine.store.batons(), (6, 6, 1));
    let refused = engine.reserve(1).await;
    assert!(matches!(refused, Err(Rejection::Refused(_))), "{refused:?}");
    assert_eq!(engine.store.batons(), (6, 6, 1));
}

#[tokio::test(start_paused = true)]
async fn a_baton_that_does_not_come_stops_nobody() {
    let engine = Engine::with_seats(200);
    engine.store.baton_is_gone();
    made(engine.reserve(1).await);
    for _ in 0..10 {
        engine.store.elsewhere(0);
        made(engine.reserve(1).await);
    }
    // The baton is not asked for each time: here, time passes only while the batcher pauses after a
    // loss.
    assert_eq!(engine.store.batons(), (1, 0, 0));
    // Within a second, the baton is asked for after 50 ms, and then after twice as long each time.
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(10)).await;
        engine.store.elsewhere(0);
        made(engine.reserve(1).await);
    }
    assert_eq!(engine.store.batons(), (5, 0, 0));
    engine.check_sold(111, 111);
}

/// From the second loss on, the batcher waits in line behind the commit that is under way. With the
/// baton it has reason to expect to win, and waits only from the third loss on.
#[tokio::test(start_paused = true)]
async fn who_loses_again_and_again_gives_way() {
    for (baton_is_free, losses, fences) in
        [(false, 1, 0), (false, 2, 1), (false, 5, 4), (true, 2, 0), (true, 3, 1), (true, 5, 3)]
    {
        let engine = Engine::with_seats(50);
        if !baton_is_free {
            engine.store.baton_is_gone();
        }
        engine.store.plan(std::iter::repeat_with(|| Fault::Overtaken).take(losses));
        let begun = Instant::now();
        made(engine.reserve(1).await);
        assert_eq!(engine.store.fences_and_snapshots().0, fences, "{baton_is_free} {losses}");
        // A batcher that has the baton tries again without a pause.
        assert_eq!(begun.elapsed().is_zero(), baton_is_free && fences == 0);
        engine.check_sold(1, 1);
    }
}

/// On the real store. Each replica has one connection for its commits, and needs no other while it
/// has the baton.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_pass_the_baton_on() {
    let database = TestDatabase::create().await;
    database.insert_event("hot", 10).await;
    let event = EventId::parse("hot").expect("a slug");
    let replica = || {
        let limits = ConnectionLimits { writes: 1, reads: 1 };
        let options = database.options.clone();
        Arc::new(PostgresStore::new(options, limits, TIMEOUT, Handle::current()))
    };
    let (one, two) = (replica(), replica());
    let until = Instant::now() + TIMEOUT;
    let turn = async |replica: &PostgresStore| {
        let turn = replica.take_baton(&event, until).await.expect("it answers");
        turn.map(|now| now.event.version)
    };

    assert_eq!(turn(&one).await, Some(0));
    assert_eq!(turn(&two).await, None);
    // A replica without the baton commits all the same, and is told that another one is in line.
    let first = insert(&event, 0, 1, Some("order-1"));
    assert!(committed(two.commit(&first, until).await).others_in_line);
    // The baton stays with a replica that was overtaken.
    let overtaken = one.commit(&insert(&event, 0, 1, None), until).await;
    assert!(matches!(overtaken, Ok(Commit::VersionMoved)), "{overtaken:?}");
    assert_eq!(turn(&two).await, None);
    let snapshot = one.snapshot(&event, &[], None, until).await.expect("it answers");
    assert_eq!(snapshot.expect("the event is there").event.version, 1);
    // A replica that waits for the baton gets it once the commit is visible, and not before.
    let mut connection = database.connect().await;
    let (other, hot) = (Arc::clone(&two), event.clone());
    let waiting = tokio::spawn(async move {
        loop {
            if let Some(now) = other.take_baton(&hot, until).await.expect("it answers") {
                return now.event.version;
            }
        }
    });
    eventually("a replica waits for the baton", async || waits_for_baton(&mut connection).await)
        .await;
    committed(one.commit(&insert(&event, 1, 1, None), until).await);
    assert_eq!(waiting.await.expect("no panic"), 2);
    // A commit that fails at any point releases the baton, and so does a replica that commits
    // nothing.
    let taken = two.commit(&insert(&event, 2, 1, Some("order-1")), until).await;
    assert!(matches!(taken, Err(CommitError::KeyTaken)), "{taken:?}");
    assert_eq!(turn(&one).await, Some(2));
    let mut air = insert(&event, 2, 1, None);
    air.net_seats = -10;
    let refused = one.commit(&air, until).await;
    assert!(matches!(refused, Err(CommitError::BadRow(_))), "{refused:?}");
    assert_eq!(turn(&two).await, Some(2));
    two.pass_baton(&event, until).await;
    assert_eq!(turn(&one).await, Some(2));
    one.pass_baton(&event, until).await;
    assert_eq!(turn(&two).await, Some(2));
    let alone = committed(two.commit(&insert(&event, 2, 1, None), until).await);
    assert!(!alone.others_in_line);
    // The baton may arrive just as the wait for it ends with an error: it is released then, too.
    let mut transaction = database.connect().await;
    let lock = sqlx::raw_sql("begin; lock table events in access exclusive mode");
    lock.execute(&mut transaction).await.expect("nobody else has it");
    assert_eq!(turn(&two).await, None);
    drop(transaction);
    while turn(&one).await.is_none() {
        assert!(Instant::now() < until, "it is not free again");
    }
    one.pass_baton(&event, until).await;
    // A replica that is gone releases it as well.
    assert_eq!(turn(&two).await, Some(3));
    drop(two);
    while turn(&one).await.is_none() {
        assert!(Instant::now() < until, "it is not free again");
    }
    database.audit().await;
}

fn committed(commit: Result<Commit, CommitError>) -> Committed {
    match commit {
        Ok(Commit::Committed(counters)) => counters,
        other => panic!("not committed: {other:?}"),
    }
}

async fn waits_for_baton(connection: &mut sqlx::PgConnection) -> bool {
    let waits = "select exists (select from pg_locks join pg_database on pg_database.oid = database
                                 where locktype = 'advisory' and not granted
                                   and datname = current_database())";
    sqlx::query_scalar(waits).fetch_one(connection).await.expect("it answers")
}

//! The database goes away, and comes back.

use std::time::Duration;

use serde_json::json;
use sqlx::{Connection as _, PgConnection};
use tokio::time::Instant;

use crate::support::binary::{self, Binary};
use crate::support::proxy::{Proxy, Way};
use crate::support::{Answer, TestDatabase, with_app, with_database};

/// A database behind a proxy, and its URL through the proxy.
pub async fn behind_a_proxy() -> (TestDatabase, Proxy, String) {
    let database = TestDatabase::create().await;
    let port = database.options.get_port();
    let proxy = Proxy::to(([127, 0, 0, 1], port).into()).await;
    let url = database.url.replace(&format!(":{port}/"), &format!(":{}/", proxy.address.port()));
    (database, proxy, url)
}

/// Checks that the answer is a 503 of an outage. Returns whether it is "database unavailable".
fn is_outage(answer: &Answer) -> bool {
    let code = answer.json()["code"].as_str().expect("a code").to_owned();
    answer.problem(503, &code);
    assert!(["database_unavailable", "outcome_unknown", "overloaded"].contains(&code.as_str()));
    code == "database_unavailable"
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_said_and_ends_by_itself() {
    for way in [Way::Closed, Way::BlackHole] {
        let (database, proxy, url) = behind_a_proxy().await;
        let settings = [("DATABASE_URL", url.as_str()), ("REQUEST_TIMEOUT_MS", "1500")];
        with_database(database, &settings, async |app| {
            let made = app.reserve(1).await.made();
            let id = made["reservationId"].as_str().expect("an id").to_owned();
            proxy.set(way);
            // The first commit may have been sent in vain; once the outage is known, all requests
            // are told of it.
            let started = Instant::now();
            while !is_outage(&app.reserve(1).await) {
                assert!(started.elapsed() < Duration::from_secs(30), "{way:?}");
            }
            for _ in 0..3 {
                assert!(is_outage(&app.reserve(1).await), "{way:?}");
                app.get("/reservations").await.problem(503, "database_unavailable");
                let path = format!("/reservations/{id}");
                app.get(&path).await.problem(503, "database_unavailable");
                app.delete(&path).await.problem(503, "database_unavailable");
                assert_eq!(app.get("/health").await.status, 200);
            }
            proxy.set(Way::Open);
            proxy.is_open().await;
            app.reserve(1).await.made();
            let event = app.get("/reservations").await.json();
            // Bookings with an unknown outcome were made once or not at all.
            let sold = 500 - event["availableSeats"].as_i64().expect("a number");
            assert_eq!(event["reservationCount"], sold);
            assert!(sold >= 2, "{event}");
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_between_requests_is_not_noticed() {
    let (database, proxy, url) = behind_a_proxy().await;
    with_database(database, &[("DATABASE_URL", url.as_str())], async |app| {
        for _ in 0..5 {
            app.reserve(1).await.made();
            proxy.set(Way::Closed);
            // The proxy has cut its connections once its port is closed.
            proxy.is_closed().await;
            proxy.set(Way::Open);
            proxy.is_open().await;
            assert_eq!(app.get("/reservations").await.status, 200);
        }
        assert_eq!(app.get("/reservations").await.json()["reservationCount"], 5);
    })
    .await;
}

/// A connection that was idle for a while is checked before a commit is sent on it, so that the
/// answer is "nothing happened", and not "unknown".
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_went_while_nothing_happened_leaves_no_doubt() {
    let (database, proxy, url) = behind_a_proxy().await;
    let settings = [("DATABASE_URL", url.as_str()), ("REQUEST_TIMEOUT_MS", "1500")];
    with_database(database, &settings, async |app| {
        app.reserve(1).await.made();
        // Longer than a connection is used without a check.
        tokio::time::sleep(Duration::from_millis(700)).await;
        proxy.set(Way::Closed);
        proxy.is_closed().await;
        app.reserve(1).await.problem(503, "database_unavailable");
        proxy.set(Way::Open);
        proxy.is_open().await;
        assert_eq!(app.get("/reservations").await.json()["reservationCount"], 1);
    })
    .await;
}

/// The server ends the session in the middle of a commit (57P01). That does not say whether the
/// commit succeeded; the booking is made once all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_ended_in_the_middle_of_a_commit_is_settled() {
    with_app(async |app| {
        app.reserve(1).await.made();
        let mut blocker = app.database.connect().await;
        let mut blocking = blocker.begin().await.expect("a transaction");
        sqlx::query("select 1 from events for update")
            .execute(&mut *blocking)
            .await
            .expect("the lock");
        let mut watcher = app.database.connect().await;
        let mut booking = std::pin::pin!(app.reserve(3));
        // Ends the session that waits for the lock, twice, and lets the third one have it.
        let mut ended = 0;
        while ended < 2 {
            tokio::select! {
                biased;
                answer = &mut booking => panic!("answered before it could be: {answer:?}"),
                one = end_the_one_that_waits(&mut watcher) => ended += i32::from(one),
            }
        }
        blocking.rollback().await.expect("the lock goes");
        let answer = booking.await;
        assert_eq!(answer.made()["version"], 2);
        assert_eq!(app.get("/reservations").await.json()["availableSeats"], 496);
    })
    .await;
}

/// Ends sessions that wait for a lock; returns whether there were any.
async fn end_the_one_that_waits(watcher: &mut PgConnection) -> bool {
    let ended: Vec<bool> = sqlx::query_scalar(
        "select pg_terminate_backend(pid) from pg_stat_activity
          where datname = current_database() and wait_event_type = 'Lock'",
    )
    .fetch_all(watcher)
    .await
    .expect("it answers");
    !ended.is_empty()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_the_database() {
    let (database, proxy, url) = behind_a_proxy().await;
    proxy.set(Way::Closed);
    proxy.is_closed().await;
    let starting = tokio::spawn(async move {
        let settings = [("DATABASE_URL", url.as_str())];
        Binary::serve_after(&settings, "the database is unavailable", || proxy.set(Way::Open)).await
    });
    let service = starting.await.expect("it starts");
    let body = json!({"partnerId": "abc-corp", "seats": 1});
    let client = reqwest::Client::new();
    let answer = client.post(format!("{}/reservations", service.base)).json(&body).send().await;
    // The proxy ended with its task: from here on, the database is away for good.
    drop(answer);
    let (code, log) = service.stop().await;
    assert_eq!(code, Some(0), "{log:?}");
    database.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_database_gives_up() {
    // One command finds a closed port, the other a server that does not answer.
    let (_, closed, url) = behind_a_proxy().await;
    let mut serve = binary::command(&[], &[("DATABASE_URL", url.as_str()), ("PORT", "0")]);
    drop(closed);
    let (database, silent, url) = behind_a_proxy().await;
    let mut migrate = binary::command(&["migrate"], &[("DATABASE_URL", url.as_str())]);
    silent.set(Way::BlackHole);
    let (serve, migrate) = tokio::join!(serve.output(), migrate.output());
    for output in [serve.expect("it runs"), migrate.expect("it runs")] {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains("the database is unavailable"), "{said}");
        let last = said.lines().last().expect("a line");
        assert!(last.starts_with("ticketboss: could not connect to the database: "), "{said}");
        let password = database.url.split([':', '@']).nth(2).expect("a password");
        assert!(!said.contains(password), "{said}");
    }
}

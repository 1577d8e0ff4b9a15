//! The database goes away, and comes back.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use crate::support::binary::{self, Binary};
use crate::support::proxy::{Proxy, Way};
use crate::support::{Answer, TestDatabase, with_database};

/// A database behind a proxy, and its URL there.
async fn behind_a_proxy() -> (TestDatabase, Proxy, String) {
    let database = TestDatabase::create().await;
    let port = database.options.get_port();
    let proxy = Proxy::to(([127, 0, 0, 1], port).into()).await;
    let url = database.url.replace(&format!(":{port}/"), &format!(":{}/", proxy.address.port()));
    (database, proxy, url)
}

/// A 503 of the database's, whether it says "nothing happened" or "unknown".
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
            // The first may have been sent into the dark; once that is known, all are told so.
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
            app.reserve(1).await.made();
            let event = app.get("/reservations").await.json();
            // What was unknown happened once or not at all.
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
            // Until the port is free, the proxy has not cut.
            while tokio::net::TcpStream::connect(proxy.address).await.is_ok() {}
            proxy.set(Way::Open);
            while tokio::net::TcpStream::connect(proxy.address).await.is_err() {}
        }
        assert_eq!(app.get("/reservations").await.json()["reservationCount"], 5);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_waits_for_the_database() {
    let (database, proxy, url) = behind_a_proxy().await;
    proxy.set(Way::Closed);
    while tokio::net::TcpStream::connect(proxy.address).await.is_ok() {}
    let starting = tokio::spawn(async move {
        let settings = [("DATABASE_URL", url.as_str())];
        Binary::serve_after(&settings, "the database is away", || proxy.set(Way::Open)).await
    });
    let service = starting.await.expect("it starts");
    let body = json!({"partnerId": "abc-corp", "seats": 1});
    let client = reqwest::Client::new();
    let answer = client.post(format!("{}/reservations", service.base)).json(&body).send().await;
    // The proxy went with its task: from here on, the database is away for good.
    drop(answer);
    let (code, log) = service.stop().await;
    assert_eq!(code, Some(0), "{log:?}");
    database.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_start_without_a_database_gives_up() {
    let (database, proxy, url) = behind_a_proxy().await;
    drop(proxy);
    let environment = [("DATABASE_URL", url.as_str()), ("PORT", "0")];
    let mut commands = [&[][..], &["migrate"]].map(|words| binary::command(words, &environment));
    let [serve, migrate] = &mut commands;
    let (serve, migrate) = tokio::join!(serve.output(), migrate.output());
    for output in [serve.expect("it runs"), migrate.expect("it runs")] {
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains("the database is away"), "{said}");
        let last = said.lines().last().expect("a line");
        assert!(last.starts_with("ticketboss: could not connect to the database: "), "{said}");
        let password = database.url.split([':', '@']).nth(2).expect("a password");
        assert!(!said.contains(password), "{said}");
    }
}

//! Everybody at once, on one server and on two.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::binary::Binary;
use crate::support::{Answer, TestDatabase, with_app, with_settings};

async fn post(client: &Client, url: &str, key: Option<&str>, body: &Value) -> Answer {
    let mut request = client.post(url).timeout(Duration::from_secs(60)).json(body);
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    Answer::of(request.send().await.expect("an answer")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_requests_of_ten_seats_share_five_hundred() {
    for _round in 0..10 {
        with_app(async |app| {
            let client = Client::new();
            let mut requests = JoinSet::new();
            for partner in 0..60 {
                let (client, url) = (client.clone(), format!("{}/reservations", app.base));
                let body = json!({"partnerId": format!("partner-{partner}"), "seats": 10});
                requests.spawn(async move { post(&client, &url, None, &body).await });
            }
            let answers = requests.join_all().await;
            let made = answers.iter().filter(|answer| answer.status == StatusCode::CREATED);
            let ids: HashSet<String> =
                made.map(|answer| answer.json()["reservationId"].to_string()).collect();
            assert_eq!(ids.len(), 50);
            let refused = answers.iter().filter(|answer| answer.status == StatusCode::CONFLICT);
            let refused: Vec<_> =
                refused.map(|answer| answer.problem(409, "insufficient_seats")).collect();
            assert_eq!(refused.len(), 10);
            let event = app.get("/reservations").await.json();
            assert_eq!(event["availableSeats"], 0);
            assert_eq!(event["reservationCount"], 50);
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_seats_are_sold_from_sixty_four_connections() {
    with_settings(&[("DEFAULT_EVENT_SEATS", "10000")], async |app| {
        let mut connections = JoinSet::new();
        for connection in 0..64 {
            let (client, url) = (Client::new(), format!("{}/reservations", app.base));
            // 10,000 is 64 times 156, and 16 more.
            let requests = if connection < 16 { 157 } else { 156 };
            connections.spawn(async move {
                let body = json!({"partnerId": format!("partner-{connection}"), "seats": 1});
                for _ in 0..requests {
                    post(&client, &url, None, &body).await.made();
                }
            });
        }
        connections.join_all().await;
        app.reserve(1).await.problem(409, "insufficient_seats");
        let event = app.get("/reservations").await.json();
        assert_eq!(event["availableSeats"], 0);
        assert_eq!(event["reservationCount"], 10_000);
    })
    .await;
}

/// Reads are shared, and yet none shows a state that is older than its request.
#[tokio::test(flavor = "multi_thread")]
async fn a_read_shows_what_was_acknowledged_before_it() {
    with_settings(&[("DEFAULT_EVENT_SEATS", "100000")], async |app| {
        let mut clients = JoinSet::new();
        for number in 0..16 {
            let (client, url) = (Client::new(), format!("{}/reservations", app.base));
            clients.spawn(async move {
                let body = json!({"partnerId": format!("partner-{number}"), "seats": 1});
                let mut seen = 0;
                for _ in 0..60 {
                    let made = post(&client, &url, None, &body).await.made();
                    let acknowledged = made["version"].as_i64().expect("a number");
                    assert!(acknowledged > seen, "{acknowledged} after {seen}");
                    let read = Answer::of(client.get(&url).send().await.expect("an answer")).await;
                    seen = read.json()["version"].as_i64().expect("a number");
                    assert!(seen >= acknowledged, "{seen} after {acknowledged}");
                }
            });
        }
        clients.join_all().await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_eight_deletes_exactly_one_succeeds() {
    with_settings(&[("DEFAULT_EVENT_SEATS", "50")], async |app| {
        for _round in 0..25 {
            let made = app.reserve(5).await.made();
            let id = made["reservationId"].as_str().expect("an id").to_owned();
            let mut requests = JoinSet::new();
            for number in 0..8 {
                let client = Client::new();
                // Both paths, since both name the same reservation.
                let url = if number % 2 == 0 {
                    format!("{}/reservations/{id}", app.base)
                } else {
                    format!("{}/events/node-meetup-2025/reservations/{id}", app.base)
                };
                requests.spawn(async move {
                    Answer::of(client.delete(url).send().await.expect("an answer")).await
                });
            }
            let answers = requests.join_all().await;
            let (done, rest): (Vec<_>, Vec<_>) =
                answers.into_iter().partition(|answer| answer.status == 204);
            assert_eq!(done.len(), 1);
            for answer in rest {
                answer.problem(404, "reservation_not_found");
            }
            assert_eq!(app.get("/reservations").await.json()["availableSeats"], 50);
        }
    })
    .await;
}

/// The requests go to two replicas at once.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_posts_with_one_key_make_one_reservation() {
    let database = TestDatabase::create().await;
    let settings = [("DATABASE_URL", database.url.as_str())];
    let processes = [Binary::serve(&settings).await, Binary::serve(&settings).await];
    let client = Client::new();
    for round in 0..5 {
        let mut requests = JoinSet::new();
        for number in 0..100 {
            let url = format!("{}/reservations", processes[number % 2].base);
            let (client, key) = (client.clone(), format!("order-{round}"));
            let body = json!({"partnerId": "abc-corp", "seats": 2});
            requests.spawn(async move { post(&client, &url, Some(&key), &body).await });
        }
        let answers = requests.join_all().await;
        let ids: HashSet<String> =
            answers.iter().map(|answer| answer.made()["reservationId"].to_string()).collect();
        assert_eq!(ids.len(), 1);
        let replayed =
            answers.iter().filter(|answer| answer.header("idempotency-replayed").is_some());
        assert_eq!(replayed.count(), 99);
    }
    let url = format!("{}/reservations", processes[0].base);
    let event: Value =
        client.get(url).send().await.expect("an answer").json().await.expect("it is JSON");
    assert_eq!(event["availableSeats"], 490);
    for process in processes {
        assert_eq!(process.stop().await.0, Some(0));
    }
    database.audit().await;
}

/// Every booking that is sent after the pause was acknowledged is refused, even by the other
/// replica, which is busy and remembers another state.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_stops_sales_on_every_replica() {
    let database = TestDatabase::create().await;
    let settings = [("DATABASE_URL", database.url.as_str()), ("DEFAULT_EVENT_SEATS", "1000000")];
    let processes = [Binary::serve(&settings).await, Binary::serve(&settings).await];
    let client = Client::new();
    let event = format!("{}/events/node-meetup-2025", processes[0].base);
    let switch = async |status: &str| {
        let request = client.patch(&event).header("if-match", "*").json(&json!({"status": status}));
        assert_eq!(request.send().await.expect("an answer").status(), 200);
    };
    for _ in 0..10 {
        let paused = Arc::new(AtomicBool::new(false));
        let made = Arc::new(AtomicUsize::new(0));
        let mut clients = JoinSet::new();
        for number in 0..8 {
            let (client, paused, made) = (client.clone(), Arc::clone(&paused), Arc::clone(&made));
            let url = format!("{}/reservations", processes[1].base);
            let body = json!({"partnerId": format!("partner-{number}"), "seats": 1});
            clients.spawn(async move {
                loop {
                    let after = paused.load(Ordering::SeqCst);
                    let answer = post(&client, &url, None, &body).await;
                    if answer.status == StatusCode::CONFLICT {
                        answer.problem(409, "sales_closed");
                        return;
                    }
                    answer.made();
                    assert!(!after, "sold after the pause");
                    made.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        while made.load(Ordering::SeqCst) < 50 {
            tokio::task::yield_now().await;
        }
        switch("paused").await;
        paused.store(true, Ordering::SeqCst);
        clients.join_all().await;
        switch("on_sale").await;
    }
    for process in processes {
        assert_eq!(process.stop().await.0, Some(0));
    }
    database.audit().await;
}

/// Two processes, each with clients of its own on the hot event.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_because_another_replica_is_busy() {
    let database = TestDatabase::create().await;
    // A very long time-out: the test is about replicas that give up, not about slow ones.
    let settings = [
        ("DATABASE_URL", database.url.as_str()),
        ("DEFAULT_EVENT_SEATS", "3000"),
        ("REQUEST_TIMEOUT_MS", "60000"),
    ];
    let processes = [Binary::serve(&settings).await, Binary::serve(&settings).await];
    let mut clients = JoinSet::new();
    for number in 0..64 {
        let url = format!("{}/reservations", processes[number % 2].base);
        clients.spawn(async move {
            let client = Client::new();
            let body = json!({"partnerId": format!("partner-{number}"), "seats": 1});
            let mut made = 0;
            loop {
                let answer = post(&client, &url, None, &body).await;
                if answer.status == StatusCode::CONFLICT {
                    answer.problem(409, "insufficient_seats");
                    return made;
                }
                answer.made();
                made += 1;
            }
        });
    }
    assert_eq!(clients.join_all().await.into_iter().sum::<i32>(), 3000);
    for process in processes {
        assert_eq!(process.stop().await.0, Some(0));
    }
    database.audit().await;
}

/// Two processes on one database, both booking, retrying and cancelling on one event.
#[tokio::test(flavor = "multi_thread")]
async fn two_processes_sell_exactly_all_seats() {
    let database = TestDatabase::create().await;
    let settings = [("DATABASE_URL", database.url.as_str()), ("DEFAULT_EVENT_SEATS", "600")];
    let processes = [Binary::serve(&settings).await, Binary::serve(&settings).await];
    let client = Client::new();
    let mut clients = JoinSet::new();
    for number in 0..16 {
        let client = client.clone();
        let bases = [processes[number % 2].base.clone(), processes[(number + 1) % 2].base.clone()];
        clients.spawn(async move {
            let body = json!({"partnerId": format!("partner-{number}"), "seats": 1});
            let (mut made, mut cancelled) = (0, 0);
            for round in 0.. {
                // Every request goes to both processes under one key, and makes one reservation.
                let key = format!("{number}-{round}");
                let urls = bases.each_ref().map(|base| format!("{base}/reservations"));
                let (first, second) = tokio::join!(
                    post(&client, &urls[0], Some(&key), &body),
                    post(&client, &urls[1], Some(&key), &body),
                );
                if first.status == 409 && second.status == 409 {
                    first.problem(409, "insufficient_seats");
                    second.problem(409, "insufficient_seats");
                    return (made, cancelled);
                }
                let [first, second] = if first.status == 201 && second.status == 201 {
                    [first.made(), second.made()]
                } else {
                    // One was refused, and then another client's cancel made room.
                    let (late, refused) =
                        if first.status == 201 { (first, second) } else { (second, first) };
                    refused.problem(409, "insufficient_seats");
                    [late.made(), late.made()]
                };
                assert_eq!(first["reservationId"], second["reservationId"]);
                made += 1;
                if round % 5 == 0 {
                    let id = first["reservationId"].as_str().expect("an id");
                    let urls = bases.each_ref().map(|base| format!("{base}/reservations/{id}"));
                    let (first, second) = tokio::join!(
                        client.delete(&urls[0]).send(),
                        client.delete(&urls[1]).send(),
                    );
                    let first = Answer::of(first.expect("an answer")).await;
                    let second = Answer::of(second.expect("an answer")).await;
                    let mut statuses = [first.status.as_u16(), second.status.as_u16()];
                    statuses.sort_unstable();
                    assert_eq!(statuses, [204, 404], "{first:?}, {second:?}");
                    cancelled += 1;
                }
            }
            unreachable!("the seats run out")
        });
    }
    let counts = clients.join_all().await;
    let made: i64 = counts.iter().map(|(made, _)| made).sum();
    let cancelled: i64 = counts.iter().map(|(_, cancelled)| cancelled).sum();
    for process in &processes {
        let event = client.get(format!("{}/reservations", process.base)).send().await;
        let event: Value = event.expect("an answer").json().await.expect("JSON");
        assert_eq!(event["reservationCount"], made - cancelled);
        assert_eq!(event["availableSeats"], 600 - (made - cancelled));
        assert!(cancelled > 0);
    }
    for process in processes {
        let (code, log) = process.stop().await;
        assert_eq!(code, Some(0), "{log:?}");
    }
    database.audit().await;
}

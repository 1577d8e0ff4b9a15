//! Pitfalls of partners' integrations, and how the service deals with them.

use std::collections::{HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::Connection as _;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use time::format_description::well_known::Rfc3339;

use crate::support::binary::Binary;
use crate::support::{Answer, TestDatabase, with_app};

fn hold(seats: i32) -> Value {
    json!({"partnerId": "abc-corp", "seats": seats, "holdSeconds": 60})
}

/// The client's own time-out is over before the answer comes, again and again.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_times_out_and_retries() {
    with_app(async |app| {
        app.make_event("e", 100).await;
        let url = format!("{}/events/e/reservations", app.base);
        let client = Client::new();
        for number in 0..20 {
            let key = format!("order-{number}");
            let post = || client.post(&url).header("idempotency-key", &key).json(&hold(1));
            for micros in [100, 300, 1_000, 3_000] {
                // It is unknown what these attempts did, if anything.
                let _ = post().timeout(Duration::from_micros(micros)).send().await;
            }
            Answer::of(post().send().await.expect("an answer")).await.made();
        }
        let event = app.get("/events/e").await.json();
        assert_eq!((&event["availableSeats"], &event["heldSeats"]), (&json!(80), &json!(20)));
    })
    .await;
}

/// The service is restarted in between, as for an update.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_retries_after_a_restart() {
    let database = TestDatabase::create().await;
    let environment = [("DATABASE_URL", database.url.as_str())];
    let client = Client::new();
    let mut first = None;
    for _ in 0..2 {
        let service = Binary::serve(&environment).await;
        let url = format!("{}/events/node-meetup-2025/reservations/batch", service.base);
        let body = json!({"partnerId": "abc-corp", "items": [{"seats": 2}, {"seats": 3}]});
        let post = client.post(url).header("idempotency-key", "order-1").json(&body);
        let answer = Answer::of(post.send().await.expect("an answer")).await;
        let replayed = answer.header("idempotency-replayed").is_some();
        assert_eq!(replayed, first.is_some());
        let made = answer.made();
        assert_eq!(first.get_or_insert_with(|| made.clone()), &made);
        service.stop().await;
    }
    database.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_has_a_changed_body() {
    with_app(async |app| {
        app.make_event("e", 100).await;
        let path = "/events/e/reservations";
        let made = app.post_with_key(path, "order-1", hold(2)).await.made();
        let with = |name: &str, value: Value| {
            let mut body = hold(2);
            body[name] = value;
            body
        };
        let mut booking = hold(2);
        booking.as_object_mut().expect("an object").remove("holdSeconds");
        let changed = [
            with("seats", json!(3)),
            with("holdSeconds", json!(61)),
            with("reference", json!("mine")),
            booking,
        ];
        for body in changed {
            let answer = app.post_with_key(path, "order-1", body).await;
            answer.problem(422, "idempotency_key_reused");
        }
        // The same request, written differently, is the same request.
        let same = r#" {"holdSeconds":60,"seats":2,"partnerId":"abc\u002dcorp"}"#;
        let headers = [("idempotency-key", "order-1")];
        let again = app.send(Method::POST, path, &headers, Some(same.into())).await;
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        assert_eq!(again.made(), made);
        // Another partner's key is another key.
        let other = app.post_with_key(path, "order-1", with("partnerId", json!("xyz"))).await;
        assert_eq!(other.header("idempotency-replayed"), None);
        assert_ne!(other.made()["reservationId"], made["reservationId"]);
    })
    .await;
}

/// What a client asks for in a place that is not read is refused, and nothing is done.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_says_it_in_the_wrong_place() {
    with_app(async |app| {
        app.make_event("e", 100).await;
        let bookings = "/events/e/reservations";
        let misplaced = app.post("/events/e/reservations?holdSeconds=60", hold(1)).await;
        let problem = misplaced.problem(400, "validation_failed");
        let expected = json!([{"field": "holdSeconds", "detail": "is not a known parameter"}]);
        assert_eq!(problem["errors"], expected);
        let held = app.made_in("e", hold(3)).await;
        let short = held.strip_prefix("/events/e").expect("it is below its event");
        for path in [&*held, short] {
            for (method, path, body) in [
                (Method::DELETE, format!("{path}?seats=1"), None),
                (Method::DELETE, path.into(), Some(r#"{"seats": 1}"#)),
                (Method::DELETE, path.into(), Some("1")),
                (Method::POST, format!("{path}/confirm"), Some(r#"{"seats": 2}"#)),
                (Method::POST, format!("{path}/confirm?seats=2"), None),
                (Method::GET, format!("{path}?fields=seats"), None),
                (Method::PATCH, format!("{path}?seats=2"), Some(r#"{"seats": 2}"#)),
                (Method::POST, format!("{path}/extend?x"), Some(r#"{"holdSeconds": 60}"#)),
            ] {
                let answer = app.send(method, &path, &[], body.map(Into::into)).await;
                answer.problem(400, "validation_failed");
            }
            let cut = app.send(Method::DELETE, path, &[], Some("{".into())).await;
            cut.problem(400, "malformed_json");
        }
        for path in ["/events/e?x=1", "/events/e/reservations?status=held&limit=10&x=1"] {
            app.get(path).await.problem(400, "validation_failed");
        }
        app.patch("/events/e?status=paused", "*", json!({"status": "paused"}))
            .await
            .problem(400, "validation_failed");
        let key = [("idempotency-key", "k"), ("accept", "text/csv")];
        let csv = app.send(Method::GET, &format!("{bookings}?limit=10"), &key[1..], None).await;
        assert_eq!(csv.problem(400, "validation_failed")["errors"][0]["field"], "limit");
        let event = app.get("/events/e").await.json();
        assert_eq!((&event["version"], &event["heldSeats"]), (&json!(1), &json!(3)));
        // An empty object is no body, and the original contract ignores parameters.
        let confirm = format!("{held}/confirm");
        assert_eq!(app.send(Method::POST, &confirm, &[], Some(" {} ".into())).await.status, 200);
        assert_eq!(app.get("/reservations?x=1").await.status, 200);
        app.post("/reservations?x=1", json!({"partnerId": "abc-corp", "seats": 1})).await.made();
    })
    .await;
}

/// With any encoding but UTF-8 a search would find nothing, which the client would take for the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_encodes_its_query_in_another_way() {
    with_app(async |app| {
        app.make_event("e", 100).await;
        let mut body = hold(1);
        body["reference"] = json!("café");
        app.made_in("e", body).await;
        let list = async |query: &str| app.get(&format!("/events/e/reservations?{query}")).await;
        let found = list("reference=caf%C3%A9").await.json();
        assert_eq!(found["items"].as_array().map(Vec::len), Some(1));
        for (query, field) in [
            ("reference=caf%E9", "reference"),
            ("reference=100%", "reference"),
            ("partnerId=%ff", "partnerId"),
            ("%ff=1", "query"),
        ] {
            let problem = list(query).await.problem(400, "validation_failed");
            assert_eq!(problem["errors"][0]["field"], field, "{query}");
        }
    })
    .await;
}

/// A second confirmation changes nothing, and a replay of the booking shows the reservation as it
/// is now.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_confirmed_twice() {
    with_app(async |app| {
        app.make_event("e", 3).await;
        let path = "/events/e/reservations";
        let first = app.post_with_key(path, "order-1", hold(3)).await;
        let held = first.header("location").expect("a location").to_owned();
        let confirms = (0..8).map(|_| {
            let path = format!("{held}/confirm");
            async move { app.post(&path, json!(null)).await }
        });
        for confirmed in futures_util::future::join_all(confirms).await {
            assert_eq!(confirmed.status, 200, "{confirmed:?}");
            let body = confirmed.json();
            assert_eq!((&body["status"], &body["version"]), (&json!("confirmed"), &json!(2)));
        }
        assert_eq!(app.get("/events/e").await.json()["version"], 2);

        app.patch("/events/e", "*", json!({"status": "paused"})).await.json();
        for (seats, status) in [(3, "confirmed"), (1, "confirmed"), (1, "cancelled")] {
            if status == "cancelled" {
                assert_eq!(app.delete(&held).await.status, 204);
            } else {
                let shrunk = json!({"seats": seats}).to_string();
                app.send(Method::PATCH, &held, &[], Some(shrunk)).await.json();
            }
            let headers = [("idempotency-key", "order-1"), ("if-match", "\"999\"")];
            let again = app.send(Method::POST, path, &headers, Some(hold(3).to_string())).await;
            assert_eq!(again.header("idempotency-replayed"), Some("true"));
            let again = again.made();
            assert_eq!((&again["seats"], &again["status"]), (&json!(seats), &json!(status)));
        }
    })
    .await;
}

/// Exactly one of the two gets the seats: the caller that confirms, or the one that books them
/// next.
#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_confirmed_just_as_it_expires() {
    let database = TestDatabase::create().await;
    let environment = [("DATABASE_URL", database.url.as_str())];
    let (one, two) = (Binary::serve(&environment).await, Binary::serve(&environment).await);
    let client = Client::new();
    let post = async |base: &str, path: &str, body: Value| {
        let sent = client.post(format!("{base}{path}")).json(&body).send().await;
        Answer::of(sent.expect("an answer")).await
    };
    let mut connection = database.connect().await;
    let mut winners = HashMap::new();
    for round in 0..40 {
        let id = format!("event-{round}");
        let event = json!({"eventId": id, "name": "E", "totalSeats": 2});
        assert_eq!(post(&one.base, "/events", event).await.status, 201);
        let path = format!("/events/{id}/reservations");
        let held = post(&one.base, &path, hold(2)).await;
        let held = held.header("location").expect("a location").to_owned();
        // The hold expires this many milliseconds from now.
        sqlx::query(
            "update reservations set hold_expires_at = clock_timestamp() + $2 * interval '1 ms'
              where event_id = $1",
        )
        .bind(&id)
        .bind(f64::from(round % 10))
        .execute(&mut connection)
        .await
        .expect("it runs");
        let confirm = async {
            let mut last = post(&one.base, &format!("{held}/confirm"), json!(null)).await;
            // A second, later attempt in every other round.
            for _ in 0..round % 2 {
                last = post(&one.base, &format!("{held}/confirm"), json!(null)).await;
            }
            last
        };
        let book = async {
            let body = json!({"partnerId": "xyz", "seats": 2});
            loop {
                let booked = post(&two.base, &path, body.clone()).await;
                let again = booked.status == 409 && booked.json()["nextHoldExpiresAt"].is_string();
                if !again {
                    break booked;
                }
            }
        };
        let (confirmed, booked) = tokio::join!(confirm, book);
        let winner = match (confirmed.status.as_u16(), booked.status.as_u16()) {
            (200, 409) => "confirm",
            (409, 201) => {
                confirmed.problem(409, "hold_expired");
                "book"
            }
            _ => panic!("{confirmed:?}, {booked:?}"),
        };
        *winners.entry(winner).or_insert(0) += 1;
    }
    println!("who won: {winners:?}");
    connection.close().await.expect("it closes");
    one.stop().await;
    two.stop().await;
    database.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reservation_is_cancelled_twice() {
    with_app(async |app| {
        app.make_event("e", 3).await;
        for body in [hold(2), json!({"partnerId": "abc-corp", "seats": 2})] {
            let made = app.made_in("e", body).await;
            let cancels = (0..8).map(|_| app.delete(&made));
            let answers = futures_util::future::join_all(cancels).await;
            let done = answers.iter().filter(|answer| answer.status == 204).count();
            assert_eq!(done, 1);
            for refused in answers.iter().filter(|answer| answer.status != 204) {
                refused.problem(404, "reservation_not_found");
            }
            assert_eq!(app.get("/events/e").await.json()["availableSeats"], 3);
        }
    })
    .await;
}

/// Each reservation that existed before is listed once, and later ones do not get in the way.
#[tokio::test(flavor = "multi_thread")]
async fn reservations_are_listed_while_the_event_sells() {
    with_app(async |app| {
        app.make_event("e", 1_000_000).await;
        let mut before = HashSet::new();
        for _ in 0..50 {
            let path = app.made_in("e", hold(1)).await;
            before.insert(path.rsplit('/').next().expect("an id").to_owned());
        }
        let over = AtomicBool::new(false);
        let sell = async || {
            let mut made: Option<String> = None;
            while !over.load(Ordering::Relaxed) {
                let next = app.made_in("e", hold(1)).await;
                if let Some(path) = made.replace(next) {
                    assert_eq!(app.delete(&path).await.status, 204);
                }
            }
        };
        let list = async {
            for _ in 0..5 {
                let (mut listed, mut cursor) = (Vec::new(), String::new());
                loop {
                    let path = format!("/events/e/reservations?limit=7{cursor}");
                    let page = app.get(&path).await.json();
                    for item in page["items"].as_array().expect("a list") {
                        listed.push(item["reservationId"].as_str().expect("an id").to_owned());
                    }
                    let Some(next) = page["nextCursor"].as_str() else { break };
                    cursor = format!("&cursor={next}");
                }
                let once: HashSet<_> = listed.iter().cloned().collect();
                assert_eq!(once.len(), listed.len(), "nothing is repeated");
                assert!(before.is_subset(&once), "nothing is skipped");
            }
            over.store(true, Ordering::Relaxed);
        };
        tokio::join!(list, sell(), sell(), sell());
    })
    .await;
}

/// The clock of one replica's machine is an hour ahead. Times are the database's all the same.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_disagree_about_the_time() {
    let database = TestDatabase::create().await;
    let library = faketime();
    let url = ("DATABASE_URL", database.url.as_str());
    let right = Binary::serve(&[url]).await;
    let ahead = Binary::serve(&[
        url,
        ("LD_PRELOAD", library.to_str().expect("a text")),
        ("FAKETIME", "+1h"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ])
    .await;
    let client = Client::new();
    let send = async |binary: &Binary, method: Method, path: &str, body: Value| {
        let request = client.request(method, format!("{}{path}", binary.base)).json(&body);
        Answer::of(request.send().await.expect("an answer")).await
    };
    let health = send(&ahead, Method::GET, "/health", json!(null)).await;
    let date = health.header("date").expect("a date").replace("GMT", "+0000");
    let date = OffsetDateTime::parse(&date, &Rfc2822).expect("a date");
    assert!(date - OffsetDateTime::now_utc() > time::Duration::minutes(50), "it is ahead: {date}");

    let path = "/events/node-meetup-2025/reservations";
    let mut versions = Vec::new();
    for _ in 0..5 {
        for (holder, other) in [(&right, &ahead), (&ahead, &right)] {
            let held = send(holder, Method::POST, path, hold(10)).await.made();
            let at = |name: &str| {
                OffsetDateTime::parse(held[name].as_str().expect("a text"), &Rfc3339)
                    .expect("a time")
            };
            let now = OffsetDateTime::now_utc();
            assert!((at("createdAt") - now).abs() < time::Duration::minutes(1), "{held}");
            assert_eq!(at("holdExpiresAt") - at("createdAt"), time::Duration::MINUTE, "{held}");
            versions.push(held["version"].as_i64().expect("a version"));
            // Neither replica's clock ends the hold early.
            let id = held["reservationId"].as_str().expect("an id");
            let confirmed =
                send(other, Method::POST, &format!("/reservations/{id}/confirm"), json!(null))
                    .await;
            assert_eq!(confirmed.status, 200, "{confirmed:?}");
        }
    }
    assert!(versions.is_sorted());
    right.stop().await;
    ahead.stop().await;
    database.audit().await;
}

/// The library that shifts a process's clock.
fn faketime() -> PathBuf {
    const NAME: &str = "libfaketimeMT.so.1";
    let places = ["/usr/lib", "/usr/local/lib", "/usr/lib64"].map(PathBuf::from);
    let below = |place: &PathBuf| {
        let inside = std::fs::read_dir(place).into_iter().flatten().flatten();
        inside.map(|entry| entry.path()).collect::<Vec<_>>()
    };
    let candidates = places.iter().flat_map(|place| [vec![place.clone()], below(place)].concat());
    let mut found = candidates.map(|place| place.join("faketime").join(NAME));
    found.find(|path| path.exists()).expect("faketime is not there; `make test` installs it")
}

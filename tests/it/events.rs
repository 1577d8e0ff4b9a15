//! Events over HTTP: made, listed, changed.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::with_app;

#[tokio::test(flavor = "multi_thread")]
async fn an_event_is_made_and_shown() {
    with_app(async |app| {
        let event = json!({
            "eventId": "rust-meetup", "name": "Rust Meet-up", "totalSeats": 120,
            "maxSeatsPerReservation": 4, "salesOpenAt": "2020-01-31T13:00:00.5+01:00",
            "salesCloseAt": "2090-01-31T12:00:00Z",
        });
        let made = app.post("/events", event).await;
        assert_eq!(made.status, 201, "{made:?}");
        assert_eq!(made.header("location"), Some("/events/rust-meetup"));
        assert_eq!(made.header("etag"), Some("\"0\""));
        let shown = app.get("/events/rust-meetup").await;
        assert_eq!(shown.header("etag"), Some("\"0\""));
        assert_eq!(shown.json(), made.json());
        let mut body = made.json();
        let created_at = body.as_object_mut().expect("an object").remove("createdAt");
        assert!(created_at.expect("a time").as_str().expect("a text").ends_with('Z'));
        let expected = json!({
            "eventId": "rust-meetup", "name": "Rust Meet-up", "totalSeats": 120,
            "availableSeats": 120, "heldSeats": 0, "reservationCount": 0, "version": 0,
            "status": "on_sale", "maxSeatsPerReservation": 4,
            "salesOpenAt": "2020-01-31T12:00:00.500000Z",
            "salesCloseAt": "2090-01-31T12:00:00.000000Z",
        });
        assert_eq!(body, expected);

        let order = json!({"partnerId": "abc-corp", "seats": 5});
        let refused = app.post("/events/rust-meetup/reservations", order).await;
        let problem = refused.problem(400, "validation_failed");
        assert_eq!(problem["errors"][0]["detail"], "must be a whole number from 1 to 4");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_without_an_id_is_given_one() {
    with_app(async |app| {
        let event = json!({"name": "Nameless", "totalSeats": 3});
        let made = app.post("/events", event).await.made();
        let id = made["eventId"].as_str().expect("a text").to_owned();
        assert_eq!(app.get(&format!("/events/{id}")).await.json(), made);
        assert_eq!(made["maxSeatsPerReservation"], 10);
        assert_eq!(made.get("salesOpenAt"), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_id_is_one_event() {
    with_app(async |app| {
        let event = json!({"eventId": "once", "name": "Once", "totalSeats": 3});
        let posts = (0..8).map(|_| app.post("/events", event.clone()));
        let answers = futures_util::future::join_all(posts).await;
        let made = answers.iter().filter(|answer| answer.status == 201).count();
        assert_eq!(made, 1);
        for answer in answers.iter().filter(|answer| answer.status != 201) {
            answer.problem(409, "event_exists");
        }
        app.make_event("other", 1).await;
        // Without an `eventId`, each attempt would make another event.
        let key = [("idempotency-key", "make-1")];
        let unnamed = json!({"name": "E", "totalSeats": 1});
        let refused = app.send(Method::POST, "/events", &key, Some(unnamed.to_string())).await;
        let problem = refused.problem(400, "validation_failed");
        assert_eq!(problem["errors"][0]["field"], "eventId");
        let named = json!({"eventId": "named", "name": "E", "totalSeats": 1}).to_string();
        let made = app.send(Method::POST, "/events", &key, Some(named.clone())).await;
        assert_eq!(made.status, 201);
        let again = app.send(Method::POST, "/events", &key, Some(named)).await;
        again.problem(409, "event_exists");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_event_is_told_each_thing_that_is_wrong() {
    with_app(async |app| {
        let event = json!({
            "eventId": "Upper", "name": " ", "totalSeats": 10_000_001,
            "maxSeatsPerReservation": 0, "salesOpenAt": "tomorrow", "salesCloseAt": 7,
        });
        let problem = app.post("/events", event).await.problem(400, "validation_failed");
        let errors = problem["errors"].as_array().expect("a list");
        let fields: Vec<_> = errors.iter().map(|error| error["field"].as_str()).collect();
        let expected = [
            "eventId",
            "maxSeatsPerReservation",
            "name",
            "salesCloseAt",
            "salesOpenAt",
            "totalSeats",
        ];
        assert_eq!(fields, expected.map(Some));
        let window = json!({"name": "E", "totalSeats": 1, "salesOpenAt": "2030-01-01T00:00:00Z",
            "salesCloseAt": "2030-01-01T00:00:00Z"});
        let problem = app.post("/events", window).await.problem(400, "validation_failed");
        assert_eq!(problem["errors"][0]["field"], "salesCloseAt");
        for time in ["1969-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59", "2030-01-01T00:00:00"] {
            let event = json!({"name": "E", "totalSeats": 1, "salesOpenAt": time});
            app.post("/events", event).await.problem(400, "validation_failed");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_listed_page_by_page() {
    with_app(async |app| {
        for number in 0..7 {
            app.make_event(&format!("event-{number}"), 5).await;
        }
        let (mut listed, mut path) = (Vec::new(), "/events?limit=3".to_owned());
        loop {
            let page = app.get(&path).await.json();
            let items = page["items"].as_array().expect("a list");
            assert!(items.len() <= 3);
            listed.extend(items.iter().map(|event| event["eventId"].to_string()));
            let Some(cursor) = page["nextCursor"].as_str() else { break };
            path = format!("/events?limit=3&cursor={cursor}");
        }
        let mut expected: Vec<String> =
            (0..7).map(|number| format!("\"event-{number}\"")).collect();
        expected.push("\"node-meetup-2025\"".into());
        assert_eq!(listed, expected);
        for query in ["limit=0", "limit=201", "limit=x", "limit=1&limit=2", "cursor=A", "after=x"] {
            app.get(&format!("/events?{query}")).await.problem(400, "validation_failed");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_names_the_version_it_is_meant_for() {
    with_app(async |app| {
        app.make_event("e", 10).await;
        let rename = || json!({"name": "Renamed"});
        let without = app.send(Method::PATCH, "/events/e", &[], Some(rename().to_string())).await;
        without.problem(428, "precondition_required");
        let stale = app.patch("/events/e", "\"7\"", rename()).await;
        assert_eq!(stale.problem(412, "precondition_failed")["version"], 0);
        for bad in ["7", "\"", "x", "\"0\", 8", "\"0\" \"1\""] {
            app.patch("/events/e", bad, rename()).await.problem(400, "validation_failed");
        }
        // A weak tag, or one that is not a version, never matches.
        for other in ["W/\"0\"", "\"00\"", "\"zero\""] {
            let problem = app.patch("/events/e", other, rename()).await;
            let problem = problem.problem(412, "precondition_failed");
            assert!(problem["detail"].as_str().is_some_and(|it| it.contains("weak")), "{problem}");
        }
        let changed = app.patch("/events/e", "\"5\", \"0\"", rename()).await;
        assert_eq!((changed.status.as_u16(), changed.header("etag")), (200, Some("\"1\"")));
        assert_eq!(changed.json()["name"], "Renamed");
        // The same change again has no effect, and makes no version.
        assert_eq!(app.patch("/events/e", "*", rename()).await.json()["version"], 1);
        app.patch("/events/missing", "*", rename()).await.problem(404, "event_not_found");
        app.patch("/events/e", "*", json!({})).await.problem(400, "validation_failed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_grows_and_shrinks_down_to_what_is_taken() {
    with_app(async |app| {
        app.make_event("e", 10).await;
        let resize = |seats: i32| app.patch("/events/e", "*", json!({"totalSeats": seats}));
        let order = json!({"partnerId": "abc-corp", "seats": 4});
        app.made_in("e", order.clone()).await;
        let hold = json!({"partnerId": "abc-corp", "seats": 2, "holdSeconds": 60});
        app.made_in("e", hold).await;
        let problem = resize(5).await.problem(409, "capacity_below_sold");
        assert_eq!(problem["takenSeats"], 6);
        let event = resize(6).await.json();
        let counts = |event: &Value| {
            ["totalSeats", "availableSeats", "heldSeats"].map(|name| event[name].as_i64())
        };
        assert_eq!(counts(&event), [6, 0, 2].map(Some));
        // Held seats count as taken until the hold ends, and not a moment longer.
        app.end_holds().await;
        let event = resize(4).await.json();
        assert_eq!(counts(&event), [4, 0, 0].map(Some));
        let event = resize(20).await.json();
        assert_eq!(counts(&event), [20, 16, 0].map(Some));
        app.made_in("e", order).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_event_sells_nothing_new() {
    with_app(async |app| {
        app.make_event("e", 10).await;
        let order = |key: &'static str| {
            let body = json!({"partnerId": "abc-corp", "seats": 2});
            app.post_with_key("/events/e/reservations", key, body)
        };
        let made = order("first").await.made();
        let hold = json!({"partnerId": "abc-corp", "seats": 2, "holdSeconds": 60});
        let held = app.made_in("e", hold.clone()).await;
        for (status, words) in [("paused", "Sales are paused"), ("closed", "Sales are closed")] {
            let changed = app.patch("/events/e", "*", json!({"status": status})).await.json();
            assert_eq!(changed["status"], status);
            let problem = order("second").await.problem(409, "sales_closed");
            assert_eq!(problem["detail"], words);
            app.post("/events/e/reservations", hold.clone()).await.problem(409, "sales_closed");
            // A replay is not a sale.
            let replay = order("first").await;
            assert_eq!(replay.header("idempotency-replayed"), Some("true"));
            assert_eq!(replay.made(), made);
        }
        let confirmed = app.post(&format!("{held}/confirm"), json!(null)).await;
        assert_eq!(confirmed.json()["status"], "confirmed");
        assert_eq!(app.delete(&held).await.status, 204);
        app.patch("/events/e", "*", json!({"status": "on_sale"})).await.json();
        order("second").await.made();
        let bad = app.patch("/events/e", "*", json!({"status": "ended"})).await;
        bad.problem(400, "validation_failed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sales_open_and_close_at_their_times() {
    with_app(async |app| {
        app.make_event("e", 10).await;
        let order =
            || app.post("/events/e/reservations", json!({"partnerId": "abc-corp", "seats": 2}));
        let window = |open: Value, close: Value| {
            let body = json!({"salesOpenAt": open, "salesCloseAt": close});
            app.patch("/events/e", "*", body)
        };
        let (past, future) = ("2020-01-01T00:00:00Z", "2090-01-01T00:00:00.000000Z");
        window(json!(future), json!(null)).await.json();
        let problem = order().await.problem(409, "sales_closed");
        assert_eq!((&problem["salesOpenAt"], problem.get("salesCloseAt")), (&json!(future), None));
        assert_eq!(problem["detail"], format!("Sales open at {future}"));

        window(json!(past), json!("2021-01-01T00:00:00Z")).await.json();
        assert_eq!(app.get("/events/e").await.json()["status"], "on_sale");
        let problem = order().await.problem(409, "sales_closed");
        assert_eq!(problem["salesCloseAt"], "2021-01-01T00:00:00.000000Z");
        // Since a caller has been told that sales are over, the event is closed from now on.
        let ended = app.get("/events/e").await.json();
        assert_eq!((&ended["status"], &ended["version"]), (&json!("closed"), &json!(3)));
        order().await.problem(409, "sales_closed");
        assert_eq!(app.get("/events/e").await.json()["version"], 3);

        let reopened = window(json!(past), json!(future)).await.json();
        assert_eq!(reopened["status"], "on_sale");
        order().await.made();
        window(json!(future), json!(past)).await.problem(400, "validation_failed");
    })
    .await;
}

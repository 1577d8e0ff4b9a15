//! Part A of the contract, and what belongs to it: idempotency keys, request ids, the paths below
//! an event.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::binary::Binary;
use crate::support::{DEFAULT_EVENT, with_app, with_settings};

#[tokio::test(flavor = "multi_thread")]
async fn health_is_ok() {
    with_app(async |app| {
        for path in ["/health", "/health/"] {
            let answer = app.get(path).await;
            assert_eq!(answer.status, 200);
            assert_eq!(answer.json(), json!({"status": "ok"}));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_default_event_is_there_on_the_first_start() {
    with_app(async |app| {
        for path in ["/reservations", "/reservations/"] {
            let answer = app.get(path).await;
            assert_eq!(answer.status, 200);
            let expected = json!({
                "eventId": DEFAULT_EVENT, "name": "Node.js Meet-up", "totalSeats": 500,
                "availableSeats": 500, "reservationCount": 0, "version": 0,
            });
            assert_eq!(answer.json(), expected);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_is_answered_with_the_reservation() {
    with_app(async |app| {
        for (version, path) in [(1, "/reservations"), (2, "/reservations/")] {
            let answer = app.post(path, json!({"partnerId": "abc-corp", "seats": 3})).await;
            let made = answer.made();
            let id = made["reservationId"].as_str().expect("an id");
            assert_eq!(Uuid::parse_str(id).expect("a UUID").get_version_num(), 7);
            assert_eq!(made["eventId"], DEFAULT_EVENT);
            assert_eq!(made["partnerId"], "abc-corp");
            assert_eq!(made["seats"], 3);
            assert_eq!(made["status"], "confirmed");
            assert_eq!(made["version"], version);
            assert!(made["createdAt"].as_str().expect("a time").ends_with('Z'));
            assert_eq!(made.as_object().expect("an object").len(), 7);
            let location = answer.header("location").expect("a location");
            assert_eq!(location, format!("/events/{DEFAULT_EVENT}/reservations/{id}"));
            assert_eq!(app.get(location).await.json(), made, "it is found as it was answered");
        }
        let event = app.get("/reservations").await.json();
        assert_eq!(event["availableSeats"], 494);
        assert_eq!(event["reservationCount"], 2);
        assert_eq!(event["version"], 2);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn refuses_when_sold_out() {
    with_settings(&[("DEFAULT_EVENT_SEATS", "12")], async |app| {
        app.reserve(10).await.made();
        let problem = app.reserve(3).await.problem(409, "insufficient_seats");
        assert_eq!(problem["detail"], "Not enough seats left");
        assert_eq!(problem["availableSeats"], 2);
        app.reserve(2).await.made();
        let problem = app.reserve(1).await.problem(409, "insufficient_seats");
        assert_eq!(problem["availableSeats"], 0);
        assert_eq!(app.get("/reservations").await.json()["version"], 2, "refusals leave no trace");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_reservation_gives_its_seats_back_once() {
    with_settings(&[("DEFAULT_EVENT_SEATS", "5")], async |app| {
        let id = id_of(&app.reserve(5).await.made());
        let answer = app.delete(&format!("/reservations/{id}/")).await;
        assert_eq!(answer.status, 204);
        assert_eq!(answer.text, "");
        app.delete(&format!("/reservations/{id}")).await.problem(404, "reservation_not_found");
        let event = app.get("/reservations").await.json();
        assert_eq!(event["availableSeats"], 5);
        assert_eq!(event["reservationCount"], 0);
        assert_eq!(event["version"], 2);
        let read = app.get(&format!("/reservations/{id}")).await.json();
        assert_eq!(read["status"], "cancelled");
        assert_eq!(read["version"], 2);
        app.reserve(5).await.made();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelling_what_is_not_there_is_404() {
    with_app(async |app| {
        let unknown = Uuid::now_v7();
        let simple = unknown.simple();
        let braced = unknown.braced();
        for id in [unknown.to_string(), simple.to_string(), braced.to_string(), "42".into()] {
            let path = format!("/reservations/{id}");
            app.delete(&path).await.problem(404, "reservation_not_found");
            app.get(&path).await.problem(404, "reservation_not_found");
            let path = format!("/events/{DEFAULT_EVENT}/reservations/{id}");
            app.delete(&path).await.problem(404, "reservation_not_found");
            app.get(&path).await.problem(404, "reservation_not_found");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_has_its_own_reservations() {
    with_app(async |app| {
        app.database.insert_event("other", 4).await;
        let body = json!({"partnerId": "abc-corp", "seats": 3});
        let made = app.post("/events/other/reservations/", body.clone()).await.made();
        assert_eq!(made["eventId"], "other");
        app.post("/events/other/reservations", body).await.problem(409, "insufficient_seats");
        let event = app.get("/events/other").await.json();
        assert_eq!(event["availableSeats"], 1);
        assert!(event["createdAt"].is_string());
        assert_eq!(app.get("/reservations").await.json()["availableSeats"], 500);

        let id = id_of(&made);
        let elsewhere = format!("/events/{DEFAULT_EVENT}/reservations/{id}");
        app.get(&elsewhere).await.problem(404, "reservation_not_found");
        app.delete(&elsewhere).await.problem(404, "reservation_not_found");
        assert_eq!(app.get(&format!("/reservations/{id}")).await.json(), made);
        let there = format!("/events/other/reservations/{id}");
        assert_eq!(app.delete(&there).await.status, 204);
        app.delete(&there).await.problem(404, "reservation_not_found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_does_not_exist_is_404() {
    with_app(async |app| {
        let id = Uuid::now_v7();
        let body = json!({"partnerId": "abc-corp", "seats": 1});
        let long = "a".repeat(65);
        for event in ["missing", "Not-A-Slug", "-", "a_b", "%00", "a%2Fb", "%F0%9F%8E%AB", &long] {
            app.get(&format!("/events/{event}")).await.problem(404, "event_not_found");
            let reservations = format!("/events/{event}/reservations");
            app.post(&reservations, body.clone()).await.problem(404, "event_not_found");
            app.delete(&format!("{reservations}/{id}")).await.problem(404, "event_not_found");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_with_the_same_key_makes_one_reservation() {
    with_settings(&[("DEFAULT_EVENT_SEATS", "4")], async |app| {
        let body = json!({"partnerId": "abc-corp", "seats": 3});
        let first = app.post_with_key("/reservations", "order-1", body.clone()).await;
        assert_eq!(first.header("idempotency-replayed"), None);
        let made = first.made();

        // The event's own path is the same scope; white space and unknown fields do not make it
        // another request; and a replay takes precedence over "sold out".
        let own_path = format!("/events/{DEFAULT_EVENT}/reservations");
        let same = json!({"seats": 3, "partnerId": "abc-corp"});
        let noted = json!({"seats": 3, "partnerId": "abc-corp", "note": "unknown"});
        for (path, body) in [(own_path.as_str(), same), ("/reservations", noted)] {
            let again = app.post_with_key(path, "order-1", body).await;
            assert_eq!(again.header("idempotency-replayed"), Some("true"));
            assert_eq!(again.made(), made);
        }

        let other = json!({"partnerId": "abc-corp", "seats": 1});
        let answer = app.post_with_key("/reservations", "order-1", other.clone()).await;
        answer.problem(422, "idempotency_key_reused");

        // Another partner's key is another key.
        let stranger = json!({"partnerId": "xyz", "seats": 1});
        let answer = app.post_with_key("/reservations", "order-1", stranger).await;
        assert_eq!(answer.header("idempotency-replayed"), None);
        answer.made();

        // A refused request does not consume its key.
        let answer = app.post_with_key("/reservations", "order-2", other.clone()).await;
        answer.problem(409, "insufficient_seats");
        let id = id_of(&made);
        assert_eq!(app.delete(&format!("/reservations/{id}")).await.status, 204);
        app.post_with_key("/reservations", "order-2", other).await.made();

        // A replay shows the reservation as it is now.
        let again = app.post_with_key("/reservations", "order-1", body).await;
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        let replayed = again.made();
        assert_eq!(replayed["reservationId"], made["reservationId"]);
        assert_eq!(replayed["status"], "cancelled");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_idempotency_key_is_refused() {
    with_app(async |app| {
        let body = json!({"partnerId": "abc-corp", "seats": 1});
        let long = "k".repeat(256);
        for key in ["", "with space", "t\tab", "\u{e4}", &long] {
            let problem = app
                .post_with_key("/reservations", key, body.clone())
                .await
                .problem(400, "validation_failed");
            assert_eq!(problem["errors"][0]["field"], "Idempotency-Key", "{key:?}");
        }
        let longest = "k".repeat(255);
        app.post_with_key("/reservations", &longest, body).await.made();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_ids_are_echoed_or_made() {
    with_app(async |app| {
        let longest = "x".repeat(128);
        for id in ["abc-123", &longest] {
            let answer = app.send(Method::GET, "/health", &[("x-request-id", id)], None).await;
            assert_eq!(answer.header("x-request-id"), Some(id));
        }
        let too_long = "x".repeat(129);
        for id in ["two words", &too_long, ""] {
            let answer = app.send(Method::GET, "/nope", &[("x-request-id", id)], None).await;
            answer.problem(404, "route_not_found");
            let made = answer.header("x-request-id").expect("an id");
            assert!(Uuid::parse_str(made).is_ok(), "{made}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_paths_and_methods_are_told_apart() {
    with_app(async |app| {
        for path in [
            "/console/nope",
            "/nope",
            "/events/a/b",
            "/reservations/1/2",
            "/problems/nope",
            "/docs/x.js",
        ] {
            app.get(path).await.problem(404, "route_not_found");
        }
        let cases = [
            (Method::PUT, "/reservations", "GET, HEAD, POST"),
            (Method::DELETE, "/reservations/", "GET, HEAD, POST"),
            (Method::POST, "/health", "GET, HEAD"),
            (Method::POST, "/", "GET, HEAD"),
            (Method::DELETE, "/console/main.js", "GET, HEAD"),
            (Method::PUT, "/reservations/x", "GET, HEAD, PATCH, DELETE"),
            (Method::GET, "/reservations/x/confirm", "POST"),
            (Method::PUT, "/events/x/reservations/batch", "GET, HEAD, POST, PATCH, DELETE"),
        ];
        for (method, path, allow) in cases {
            let answer = app.send(method, path, &[], None).await;
            answer.problem(405, "method_not_allowed");
            assert_eq!(answer.header("allow"), Some(allow), "{path}");
        }
        let head = app.send(Method::HEAD, "/reservations", &[], None).await;
        assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_problem_has_a_page() {
    with_app(async |app| {
        let unknown = app.get("/nope").await.json();
        let page = app.get(unknown["type"].as_str().expect("a path")).await;
        assert_eq!(page.status, 200);
        assert!(page.text.contains("<code>route_not_found</code>"), "{}", page.text);
        for code in crate::openapi::codes_of(&app.get("/openapi.json").await.json()) {
            let page = app.get(&format!("/problems/{}", code.replace('_', "-"))).await;
            assert_eq!(page.status, 200, "{code}");
            assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
            assert!(page.text.contains(&code), "{code}");
        }
    })
    .await;
}

fn id_of(made: &Value) -> String {
    made["reservationId"].as_str().expect("an id").to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_leaves_the_default_event_alone() {
    with_settings(&[("DEFAULT_EVENT_SEATS", "20")], async |app| {
        app.reserve(2).await.made();
        let url = app.database.url.as_str();
        let settings = [
            ("DATABASE_URL", url),
            ("DEFAULT_EVENT_SEATS", "77"),
            ("DEFAULT_EVENT_NAME", "Renamed"),
        ];
        assert_eq!(Binary::serve(&settings).await.stop().await.0, Some(0));
        let event = app.get("/reservations").await.json();
        assert_eq!(event["totalSeats"], 20);
        assert_eq!(event["availableSeats"], 18);
        assert_eq!(event["name"], "Node.js Meet-up");
    })
    .await;
}

//! The life of reservations over HTTP: held, confirmed, extended, shrunk, made together.

use reqwest::Method;
use serde_json::{Map, Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::timeout;

use crate::support::{PATIENCE, TestApp, with_app};

const HOLD: &str = r#"{"partnerId": "abc-corp", "seats": 3, "holdSeconds": 60}"#;

fn hold() -> Value {
    serde_json::from_str(HOLD).expect("it is JSON")
}

async fn event(app: &TestApp) -> [i64; 3] {
    let event = app.get("/events/e").await.json();
    ["availableSeats", "heldSeats", "reservationCount"]
        .map(|name| event[name].as_i64().expect("a number"))
}

fn time(text: &Value) -> OffsetDateTime {
    OffsetDateTime::parse(text.as_str().expect("a text"), &Rfc3339).expect("a time")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_becomes_a_booking() {
    with_app(async |app| {
        app.make_event("e", 10).await;
        let mut order = hold();
        order["reference"] = json!("order 4711");
        let answer = app.post("/events/e/reservations", order).await;
        let held = answer.made();
        assert_eq!(answer.header("etag"), Some("\"1\""));
        assert_eq!((&held["status"], &held["reference"]), (&json!("held"), &json!("order 4711")));
        let lasts = time(&held["holdExpiresAt"]) - time(&held["createdAt"]);
        assert_eq!(lasts.whole_seconds(), 60);
        assert_eq!(event(app).await, [7, 3, 0]);

        let id = held["reservationId"].as_str().expect("a text");
        let confirmed = app.post(&format!("/reservations/{id}/confirm"), json!(null)).await;
        assert_eq!((confirmed.status.as_u16(), confirmed.header("etag")), (200, Some("\"2\"")));
        assert_eq!(confirmed.json()["status"], "confirmed");
        assert_eq!(confirmed.json().get("holdExpiresAt"), None, "it lasts");
        assert_eq!(event(app).await, [7, 0, 1]);
        let read = app.get(&format!("/events/e/reservations/{id}")).await;
        assert_eq!((read.json(), read.header("etag")), (confirmed.json(), Some("\"2\"")));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_past_its_time_is_gone() {
    with_app(async |app| {
        app.make_event("e", 3).await;
        for (method, action, body, code) in [
            (Method::POST, "/confirm", None, "hold_expired"),
            (Method::POST, "/extend", Some(r#"{"holdSeconds": 60}"#), "hold_expired"),
            (Method::PATCH, "", Some(r#"{"seats": 1}"#), "hold_expired"),
            (Method::DELETE, "", None, "reservation_not_found"),
        ] {
            let held = app.made_in("e", hold()).await;
            app.end_holds().await;
            let path = format!("{held}{action}");
            let status = if code == "hold_expired" { 409 } else { 404 };
            for _ in 0..2 {
                let body = body.map(str::to_owned);
                app.send(method.clone(), &path, &[], body).await.problem(status, code);
            }
            assert_eq!(app.get(&held).await.json()["status"], "expired");
            assert_eq!(event(app).await, [3, 0, 0]);
        }
    })
    .await;
}

/// The seats are sold in the very request that needs them, whether or not the sweeper has come by.
#[tokio::test(flavor = "multi_thread")]
async fn the_seats_of_a_hold_past_its_time_are_sold() {
    with_app(async |app| {
        app.make_event("e", 3).await;
        for _ in 0..20 {
            app.made_in("e", hold()).await;
            let short = app.post("/events/e/reservations", hold()).await;
            let problem = short.problem(409, "insufficient_seats");
            assert_eq!(problem["availableSeats"], 0);
            assert!(time(&problem["nextHoldExpiresAt"]) > OffsetDateTime::now_utc());
            app.end_holds().await;
        }
        let booked = app.made_in("e", json!({"partnerId": "abc-corp", "seats": 3})).await;
        assert_eq!(app.get(&booked).await.json().get("holdExpiresAt"), None);
        let short = app.post("/events/e/reservations", hold()).await;
        let problem = short.problem(409, "insufficient_seats");
        assert_eq!(problem.get("nextHoldExpiresAt"), None);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_asks_for_is_swept() {
    with_app(async |app| {
        app.make_event("e", 10).await;
        app.make_event("f", 10).await;
        app.made_in("e", hold()).await;
        app.made_in("e", hold()).await;
        app.made_in("f", hold()).await;
        app.end_holds().await;
        let swept = async {
            while event(app).await != [10, 0, 0]
                || app.get("/events/f").await.json()["heldSeats"] != json!(0)
            {
                tokio::task::yield_now().await;
            }
        };
        timeout(PATIENCE, swept).await.expect("the sweeper comes by");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_is_extended_and_a_booking_is_not() {
    with_app(async |app| {
        app.make_event("e", 10).await;
        let held = app.made_in("e", hold()).await;
        let before = app.get(&held).await.json();
        let extend = |seconds: Value| {
            let path = format!("{held}/extend");
            async move { app.post(&path, json!({"holdSeconds": seconds})).await }
        };
        let extended = extend(json!(86_400)).await.json();
        let later = time(&extended["holdExpiresAt"]) - time(&before["holdExpiresAt"]);
        assert!(later.whole_seconds() > 86_000, "{later}");
        assert_eq!(app.get(&held).await.json(), extended);
        for seconds in [json!(9), json!(86_401), json!(60.5), json!("60"), json!(null)] {
            extend(seconds).await.problem(400, "validation_failed");
        }
        app.post(&format!("{held}/confirm"), json!(null)).await.json();
        let problem = extend(json!(60)).await.problem(409, "reservation_not_active");
        assert_eq!(problem["detail"], "The reservation is confirmed");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_is_given_back() {
    with_app(async |app| {
        app.make_event("e", 10).await;
        let booked = app.made_in("e", json!({"partnerId": "abc-corp", "seats": 5})).await;
        let held = app.made_in("e", hold()).await;
        let keep = |path: &str, seats: Value| {
            let (path, body) = (path.to_owned(), json!({"seats": seats}).to_string());
            async move { app.send(Method::PATCH, &path, &[], Some(body)).await }
        };
        for (path, seats) in [(&booked, 2), (&held, 1)] {
            let kept = keep(path, json!(seats)).await.json();
            assert_eq!(kept["seats"], seats);
            assert_eq!(app.get(path).await.json(), kept);
        }
        assert_eq!(event(app).await, [7, 1, 1]);
        let problem = keep(&booked, json!(3)).await.problem(400, "validation_failed");
        assert_eq!(problem["errors"][0]["detail"], "must be at most 2, the current number");
        keep(&booked, json!(0)).await.problem(400, "validation_failed");
        // Resent, as after a lost answer.
        let again = keep(&booked, json!(2)).await;
        assert_eq!((again.status.as_u16(), again.header("etag")), (200, Some("\"3\"")));
        assert_eq!(app.delete(&booked).await.status, 204);
        keep(&booked, json!(1)).await.problem(409, "reservation_not_active");
        assert_eq!(event(app).await, [9, 1, 0]);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_a_reservation_can_name_its_version() {
    with_app(async |app| {
        app.make_event("e", 10).await;
        let held = app.made_in("e", hold()).await;
        app.made_in("e", hold()).await;
        let confirm = |tag: &'static str| {
            let path = format!("{held}/confirm");
            async move { app.send(Method::POST, &path, &[("if-match", tag)], None).await }
        };
        // The version of the reservation counts, not that of the event.
        let stale = confirm("\"2\"").await.problem(412, "precondition_failed");
        assert_eq!(stale["version"], 1);
        assert_eq!(confirm("\"1\"").await.header("etag"), Some("\"3\""));
        let delete = |tag: &'static str| {
            let path = held.clone();
            async move { app.send(Method::DELETE, &path, &[("if-match", tag)], None).await }
        };
        delete("\"1\"").await.problem(412, "precondition_failed");
        assert_eq!(delete("\"3\"").await.status, 204);
        delete("\"3\"").await.problem(404, "reservation_not_found");
    })
    .await;
}

/// Of many bookings that name the same version exactly one wins, even within one batch.
#[tokio::test(flavor = "multi_thread")]
async fn a_booking_can_name_the_version_of_the_event() {
    with_app(async |app| {
        app.make_event("e", 100).await;
        let order = |version: usize| {
            let tag = format!("\"{version}\"");
            async move {
                let headers = [("if-match", tag.as_str())];
                let path = "/events/e/reservations";
                app.send(Method::POST, path, &headers, Some(HOLD.to_owned())).await
            }
        };
        for version in 0..5 {
            let answers = futures_util::future::join_all((0..20).map(|_| order(version))).await;
            let made = answers.iter().filter(|answer| answer.status == 201).count();
            assert_eq!(made, 1);
            for refused in answers.iter().filter(|answer| answer.status != 201) {
                refused.problem(412, "precondition_failed");
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_are_made_together_or_not_at_all() {
    with_app(async |app| {
        app.make_event("e", 10).await;
        let path = "/events/e/reservations/batch";
        let list = json!({"partnerId": "abc-corp", "items": [
            {"seats": 3}, {"seats": 2, "holdSeconds": 60, "reference": "two"}, {"seats": 4},
        ]});
        let made = app.post_with_key(path, "list-1", list.clone()).await;
        let items = made.made()["items"].as_array().expect("a list").clone();
        let short: Vec<_> = items
            .iter()
            .map(|item| (item["seats"].as_i64(), item["status"].as_str(), item["version"].as_i64()))
            .collect();
        let expected = [(3, "confirmed"), (2, "held"), (4, "confirmed")];
        assert_eq!(short, expected.map(|(seats, status)| (Some(seats), Some(status), Some(1))));
        assert_eq!(event(app).await, [1, 2, 2]);

        // The key stands for the whole list, and a replay shows the list as it is now.
        let second = items[1]["reservationId"].as_str().expect("a text");
        assert_eq!(app.delete(&format!("/reservations/{second}")).await.status, 204);
        let again = app.post_with_key(path, "list-1", list).await;
        assert_eq!(again.header("idempotency-replayed"), Some("true"));
        let again = again.made();
        assert_eq!(again["items"][0], items[0]);
        assert_eq!(again["items"][1]["status"], "cancelled");
        let other = json!({"partnerId": "abc-corp", "items": [{"seats": 3}]});
        app.post_with_key(path, "list-1", other).await.problem(422, "idempotency_key_reused");
        let single = json!({"partnerId": "abc-corp", "seats": 3});
        let answer = app.post_with_key("/events/e/reservations", "list-1", single).await;
        answer.problem(422, "idempotency_key_reused");

        let too_many = json!({"partnerId": "abc-corp", "items": [{"seats": 3}, {"seats": 1}]});
        let problem = app.post(path, too_many).await.problem(409, "insufficient_seats");
        assert_eq!(problem["availableSeats"], 3);
        assert_eq!(event(app).await, [3, 0, 2]);
    })
    .await;
}

/// A misspelt `holdSeconds` would sell seats that were to be held.
#[tokio::test(flavor = "multi_thread")]
async fn a_field_that_is_not_known_is_refused() {
    with_app(async |app| {
        app.make_event("e", 10).await;
        let held = app.made_in("e", hold()).await;
        let misspelt = json!({"partnerId": "abc-corp", "seats": 1, "hold_seconds": 60, "x": 1});
        let cases = [
            (Method::POST, "/events/e/reservations", misspelt.clone(), vec!["hold_seconds", "x"]),
            (Method::POST, "/events", json!({"name": "E", "totalSeats": 1, "status": "paused"}), {
                vec!["status"]
            }),
            (Method::PATCH, "/events/e", json!({"name": "E", "maxSeatsPerReservation": 5}), {
                vec!["maxSeatsPerReservation"]
            }),
            (Method::PATCH, &held, json!({"seats": 1, "partnerId": "x"}), vec!["partnerId"]),
        ];
        for (method, path, body, names) in cases {
            let headers = [("if-match", "*")];
            let answer = app.send(method, path, &headers, Some(body.to_string())).await;
            let problem = answer.problem(400, "validation_failed");
            let errors = problem["errors"].as_array().expect("a list");
            let fields: Vec<_> =
                errors.iter().filter_map(|error| error["field"].as_str()).collect();
            assert_eq!(fields, names, "{path}");
        }
        assert_eq!(app.get("/events/e").await.json()["version"], 1);
        // Unknown fields are reported together with missing ones, and of very many not each one is.
        let typo = json!({"partnerId": "abc-corp", "seat": 1});
        let problem = app.post("/events/e/reservations", typo).await;
        let problem = problem.problem(400, "validation_failed");
        assert_eq!(problem["detail"], "seat is not a known field; seats is required");
        let many: Map<_, _> = (0..100).map(|number| (format!("f{number}"), json!(1))).collect();
        let problem = app.post("/events/e/reservations", many.into()).await;
        let problem = problem.problem(400, "validation_failed");
        assert_eq!(problem["errors"].as_array().map(Vec::len), Some(20));
        // Except by the original contract, which has never refused any.
        app.post("/reservations", misspelt).await.made();
        let missing = app.get(&held.replace("/e/", "/missing/")).await;
        missing.problem(404, "event_not_found");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_list_that_is_wrong_is_told_where() {
    with_app(async |app| {
        app.make_event("e", 1000).await;
        let path = "/events/e/reservations/batch";
        let list = json!({"partnerId": "abc-corp", "items": [
            {"seats": 3}, {"seats": 0, "holdSeconds": 5}, {"reference": ""},
        ]});
        let problem = app.post(path, list).await.problem(400, "validation_failed");
        let errors = problem["errors"].as_array().expect("a list");
        let fields: Vec<_> = errors.iter().map(|error| error["field"].as_str()).collect();
        let expected =
            ["items[1].holdSeconds", "items[1].seats", "items[2].reference", "items[2].seats"];
        assert_eq!(fields, expected.map(Some));
        let no_lists = [
            json!([]),
            json!({}),
            json!(null),
            json!("items"),
            json!(vec![json!({"seats": 1}); 101]),
        ];
        for items in no_lists {
            let body = json!({"partnerId": "abc-corp", "items": items});
            let problem = app.post(path, body).await.problem(400, "validation_failed");
            assert_eq!(problem["detail"], "items must be a list of 1 to 100 objects");
        }
        // Everything that is wrong with each item is reported, together with what is wrong with the
        // rest.
        let twice = r#"{"seats": 1, "seats": 2}"#;
        let list = format!(
            r#"{{"seats": 3, "items": [{{"seats": 1}}, 3, [3], {twice}, {{"hold_seconds": 60}}]}}"#
        );
        let problem = app.send(Method::POST, path, &[], Some(list)).await;
        let problem = problem.problem(400, "validation_failed");
        let no_object = "must be a JSON object without duplicate fields";
        let expected = [
            "seats is not a known field".to_owned(),
            format!("items[1] {no_object}"),
            format!("items[2] {no_object}"),
            format!("items[3] {no_object}"),
            "items[4] has an unknown field: hold_seconds".to_owned(),
            "items[4].seats is required".to_owned(),
            "partnerId is required".to_owned(),
        ];
        assert_eq!(problem["detail"], expected.join("; "));
        // The largest list that is possible.
        let item = json!({"seats": 10, "reference": "\u{1F3AB}".repeat(128)});
        let body = json!({"partnerId": "abc-corp", "items": vec![item; 100]}).to_string();
        let body = body.replace('\u{1F3AB}', "\\ud83c\\udfab");
        let made = app.send(Method::POST, path, &[], Some(body)).await.made();
        assert_eq!(made["items"].as_array().map(Vec::len), Some(100));
        assert_eq!(event(app).await, [0, 0, 100]);
    })
    .await;
}

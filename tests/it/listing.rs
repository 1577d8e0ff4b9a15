//! The reservations of an event over HTTP: page by page, filtered, and as CSV.

use reqwest::Method;
use serde_json::{Value, json};
use sqlx::Executor as _;

use crate::support::{Answer, TestApp, with_app};

/// All items of a listing, collected by following its cursors.
async fn all(app: &TestApp, query: &str) -> Vec<Value> {
    let mut listed = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = app.get(&format!("/events/e/reservations?{query}{cursor}")).await.json();
        listed.extend(page["items"].as_array().expect("a list").clone());
        let Some(next) = page["nextCursor"].as_str() else { return listed };
        cursor = format!("&cursor={next}");
    }
}

async fn csv(app: &TestApp, query: &str) -> Answer {
    let path = format!("/events/e/reservations{query}");
    app.send(Method::GET, &path, &[("accept", "text/csv")], None).await
}

fn names(listed: &[Value], field: &str) -> Vec<String> {
    listed.iter().map(|item| item[field].as_str().unwrap_or_default().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newest_comes_first_in_pages_of_any_size() {
    with_app(async |app| {
        app.make_event("e", 1000).await;
        let mut made = Vec::new();
        for number in 0..7 {
            let item = json!({"seats": 1, "reference": format!("{number}")});
            let body = json!({"partnerId": "abc-corp", "items": vec![item; number + 1]});
            let answer = app.post("/events/e/reservations/batch", body).await.made();
            made.extend(answer["items"].as_array().expect("a list").clone());
        }
        made.reverse();
        for limit in [1, 2, 3, 5, 27, 28, 200] {
            assert_eq!(all(app, &format!("limit={limit}")).await, made, "{limit}");
        }
        for (limit, goes_on) in [(27, true), (28, false), (29, false)] {
            let page = app.get(&format!("/events/e/reservations?limit={limit}")).await.json();
            assert_eq!(page["nextCursor"].is_string(), goes_on, "{limit}");
            let cursor = page["nextCursor"].as_str().unwrap_or("1").to_owned();
            let digits = |part: &str| (1..=18).contains(&part.len()) && part.parse::<u64>().is_ok();
            assert!(cursor.splitn(2, '.').all(digits), "as the document says: {cursor}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_who_are_asked_for_are_listed() {
    with_app(async |app| {
        app.make_event("e", 1000).await;
        app.make_event("f", 100).await;
        for number in 0..12 {
            let partner = ["abc-corp", "xyz"][number % 2];
            let body = json!({
                "partnerId": partner, "seats": 1, "holdSeconds": 60,
                "reference": format!("r{}", number % 3),
            });
            let path = app.made_in("e", body.clone()).await;
            app.made_in("f", body).await;
            match number % 4 {
                0 => assert_eq!(app.delete(&path).await.status, 204),
                1 => assert_eq!(app.post(&format!("{path}/confirm"), json!({})).await.status, 200),
                _ => {}
            }
        }
        let cases = [
            ("", 12),
            ("partnerId=xyz", 6),
            ("status=held", 6),
            ("status=cancelled", 3),
            ("status=expired", 0),
            ("reference=r1", 4),
            ("partnerId=abc-corp&status=held", 3),
            ("partnerId=abc-corp&status=cancelled&reference=r2", 1),
            ("partnerId=nobody", 0),
        ];
        for (query, count) in cases {
            for limit in [1, 5, 50] {
                let listed = all(app, &format!("{query}&limit={limit}")).await;
                assert_eq!(listed.len(), count, "{query}");
                assert!(names(&listed, "eventId").iter().all(|event| event == "e"), "{query}");
            }
            let lines = csv(app, &format!("?{query}")).await.text.lines().count();
            assert_eq!(lines, count + 1, "{query}");
        }
        for query in [
            "limit=0",
            "limit=201",
            "status=gone",
            "partnerId=",
            "reference=",
            "partnerID=xyz",
            "cursor=1.",
            "cursor=9223372036854775807",
            "cursor=x.y",
            "cursor=-1.1",
            "status=held&status=expired",
        ] {
            let answer = app.get(&format!("/events/e/reservations?{query}")).await;
            answer.problem(400, "validation_failed");
        }
        app.get("/events/missing/reservations").await.problem(404, "event_not_found");
        app.make_event("empty", 1).await;
        let empty = app.get("/events/empty/reservations").await.json();
        assert_eq!(empty, json!({"items": [], "nextCursor": null}));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spreadsheet_takes_nothing_for_a_formula() {
    with_app(async |app| {
        app.make_event("e", 100).await;
        let texts = [
            "=1+1",
            "+1",
            "-1",
            "@SUM(A1)",
            " =1",
            "\u{ff1d}1",
            "plain",
            "a,b",
            "say \"hi\"",
            "O'Neill=",
            "a; =1;b",
        ];
        for text in texts {
            let body = json!({"partnerId": text, "seats": 1, "reference": text});
            app.made_in("e", body).await;
        }
        let answer = csv(app, "").await;
        assert_eq!(answer.header("content-type"), Some("text/csv; charset=utf-8"));
        let file = answer.header("content-disposition");
        assert_eq!(file, Some("attachment; filename=\"e-reservations.csv\""));
        let head =
            app.send(Method::HEAD, "/events/e/reservations", &[("accept", "text/csv")], None);
        let head = head.await;
        assert_eq!(head.header("content-type"), Some("text/csv; charset=utf-8"));
        assert_eq!((head.status.as_u16(), head.text.as_str()), (200, ""));
        let mut reader = csv::Reader::from_reader(answer.text.as_bytes());
        let head = reader.headers().expect("a head").iter().collect::<Vec<_>>().join(",");
        let columns = "reservationId,eventId,partnerId,seats,status,holdExpiresAt,reference,\
                       version,createdAt";
        assert_eq!(head, columns);
        let rows: Vec<csv::StringRecord> =
            reader.records().map(|row| row.expect("a row")).collect();
        let listed = all(app, "").await;
        assert_eq!(rows.len(), listed.len());
        for ((row, made), text) in rows.iter().zip(&listed).zip(texts.iter().rev()) {
            assert_eq!(&row[0], made["reservationId"].as_str().expect("an id"));
            let first = text.trim_start().chars().next().expect("a text");
            let formula = "=+-@\u{ff1d}".contains(first);
            let neutral = if formula { format!("'{text}") } else { (*text).to_owned() };
            // Where semicolons separate cells, the second cell of "a; =1;b" would be a formula.
            let neutral = neutral.replace("; =1", ";' =1");
            assert_eq!((&row[2], &row[6]), (neutral.as_str(), neutral.as_str()));
            assert_eq!((&row[3], &row[4], &row[5]), ("1", "confirmed", ""));
            assert_eq!(&row[8], made["createdAt"].as_str().expect("a time"));
        }
    })
    .await;
}

/// The reservations are written past the service, in journal rows of the size that it writes.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_listing_is_read_in_parts() {
    with_app(async |app| {
        app.make_event("e", 100_000).await;
        let connection = &mut app.database.connect().await;
        connection
            .execute(
                "create temporary table made as
                 select gen_random_uuid() as id, 1 + number / 300 as version
                   from generate_series(0, 59999) as number;
                 insert into reservations
                        (id, created_at, version, seats, event_id, partner_id, status)
                 select id, now(), version, 1, 'e',
                        case when version = 3 then 'rare' else 'usual' end, 'confirmed'
                   from made;
                 insert into journal (event_id, version, at, batch_id, change_count,
                                      kinds, reservation_ids, partner_ids, seats)
                 select 'e', version, now(), gen_random_uuid(), 300, array_agg(1), array_agg(id),
                        array_agg(case when version = 3 then 'rare' else 'usual' end), array_agg(1)
                   from made group by version;
                 update events set available_seats = 40000, reservation_count = 60000,
                                   version = 200 where id = 'e'",
            )
            .await
            .expect("it is made");
        let text = csv(app, "").await.text;
        let ids: std::collections::HashSet<&str> =
            text.lines().skip(1).map(|line| &line[..36]).collect();
        assert_eq!(ids.len(), 60_000);
        // A page that ends early has a cursor to the rest.
        let page = app.get("/events/e/reservations?partnerId=rare&limit=200").await.json();
        assert_eq!(page["items"], json!([]));
        assert!(page["nextCursor"].is_string());
        assert_eq!(all(app, "partnerId=rare&limit=200").await.len(), 300);
        assert_eq!(csv(app, "?partnerId=rare").await.text.lines().count(), 301);
    })
    .await;
}

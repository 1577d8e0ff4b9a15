//! From raw bytes to the answer: whatever the path, the headers and the body, the answer is well
//! formed and never a 5xx, and nothing happens that was not answered 201 or 204.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestError, TestRunner};
use serde_json::{Value, json};

use crate::support::{TestApp, with_settings};

/// The number of requests in one run.
const CASES: u32 = 2_000;
/// Less than the service's time-out for idle clients, so that a connection that is held open for no
/// reason fails the test.
const ANSWER_MAX: Duration = Duration::from_secs(4);

#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    path: String,
    headers: Vec<(&'static str, String)>,
    body: Vec<u8>,
}

/// A valid body, so that its mutations are only slightly wrong.
const BODY: &str = r#"{"partnerId":"abc-corp","seats":3}"#;

fn body() -> impl Strategy<Value = Vec<u8>> {
    let pieces = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"",
        "\"partnerId\"",
        "\"seats\"",
        "\"holdSeconds\"",
        "\"items\"",
        "\"name\"",
        "\"salesOpenAt\"",
        "\"9999-12-31T23:59:59-23:59\"",
        "\"a\"",
        "1",
        "11",
        "-0",
        "2.0",
        "1e1",
        "1e999",
        "null",
        "true",
        " ",
        "\\u0000",
        "\\ud800",
        "\u{feff}",
        "\u{1f600}",
        "99999999999999999999",
    ]);
    prop_oneof![
        1 => prop::collection::vec(any::<u8>(), 0..200),
        1 => prop::collection::vec(pieces, 0..30).prop_map(|pieces| pieces.concat().into_bytes()),
        // One change of a valid body: bytes replaced, cut out or put in.
        1 => (0..BODY.len(), 0..4usize, prop::collection::vec(any::<u8>(), 0..4)).prop_map(
            |(at, cut, put)| {
                let mut body = BODY.as_bytes().to_vec();
                let end = (at + cut).min(body.len());
                body.splice(at..end, put);
                body
            }
        ),
        3 => sensible_body().prop_map(|body| body.to_string().into_bytes()),
        // Often enough that some thirty requests of a run are granted, and never, by chance, hardly
        // any.
        2 => Just(BODY.as_bytes().to_vec()),
    ]
}

/// A body that some endpoint accepts, or nearly accepts.
fn sensible_body() -> impl Strategy<Value = Value> {
    let text = || prop_oneof![1 => ".{0,210}", 3 => "[a-z]{1,20}"];
    let time = || {
        prop_oneof![
            3 => "[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9](\\.[0-9]{1,12})?\
                  (Z|[+-][0-2][0-9]:[0-5][0-9])",
            1 => ".{0,30}",
        ]
    };
    let hold = || prop_oneof![Just(json!(null)), (0..90_000i64).prop_map(|seconds| json!(seconds))];
    let item = || {
        (0..12i64, hold(), text()).prop_map(
            |(seats, hold, text)| json!({"seats": seats, "holdSeconds": hold, "reference": text}),
        )
    };
    prop_oneof![
        4 => (text(), 0..12i64).prop_map(|(text, seats)| json!({"partnerId": text, "seats": seats})),
        1 => (text(), item()).prop_map(|(text, mut item)| {
            item["partnerId"] = json!(text);
            item
        }),
        1 => (text(), prop::collection::vec(item(), 0..4))
            .prop_map(|(text, items)| json!({"partnerId": text, "items": items})),
        1 => hold().prop_map(|hold| json!({"holdSeconds": hold})),
        1 => (text(), text(), -1..10_000_002i64, time(), time()).prop_map(
            |(id, name, seats, open, close)| json!({
                "eventId": id, "name": name, "totalSeats": seats, "status": "on_sale",
                "salesOpenAt": open, "salesCloseAt": close,
            })
        ),
    ]
}

fn path() -> impl Strategy<Value = String> {
    let segment = prop_oneof![
        prop::sample::select(vec![
            "reservations",
            "events",
            "other",
            "node-meetup-2025",
            "batch",
            "confirm",
            "extend",
            "health",
            "problems",
            "openapi.json",
            "docs",
            "index.html",
            "",
            ".",
            "..",
            "%2e%2e",
            "%00",
            "%",
            "%zz",
            "%c3%28",
            "~",
            "00000000-0000-7000-8000-000000000000",
            "overloaded",
        ])
        .prop_map(str::to_owned),
        "[!-~&&[^ #?]]{0,70}",
        "(%[0-9a-fA-F]{2}){1,20}",
    ];
    let query = prop_oneof![4 => Just(String::new()), 1 => "\\?[!-~&&[^ #]]{0,40}"];
    (prop::collection::vec(segment, 0..5), query)
        .prop_map(|(segments, query)| format!("/{}{query}", segments.join("/")))
}

fn headers() -> impl Strategy<Value = Vec<(&'static str, String)>> {
    let name = prop::sample::select(vec![
        "content-type",
        "idempotency-key",
        "x-request-id",
        "accept",
        "if-match",
        "accept-encoding",
        "content-encoding",
        "expect",
        "range",
    ]);
    let value = prop_oneof![
        2 => Just("application/json".to_owned()),
        1 => Just("*".to_owned()),
        1 => "(W/)?\"[0-9]{0,20}\"",
        1 => "[ -~]{0,40}",
        1 => "[!-~\u{80}-\u{ff}]{0,300}",
    ];
    prop::collection::vec((name, value), 0..4)
}

fn request() -> impl Strategy<Value = Request> {
    let methods =
        ["GET", "POST", "POST", "POST", "DELETE", "PUT", "PATCH", "HEAD", "OPTIONS", "BREW"];
    let path = prop_oneof![
        2 => Just("/reservations".to_owned()),
        1 => Just("/events/node-meetup-2025/reservations".to_owned()),
        1 => Just("/events/other/reservations/batch".to_owned()),
        1 => Just("/events/other".to_owned()),
        1 => Just("/events".to_owned()),
        1 => "/events/other/reservations\\?[a-zI]{5,9}=[!-~&&[^ #&]]{0,20}",
        4 => path(),
    ];
    let headers =
        prop_oneof![Just(vec![("content-type", "application/json".to_owned())]), headers()];
    (prop::sample::select(methods.to_vec()), path, headers, body())
        .prop_map(|(method, path, headers, body)| Request { method, path, headers, body })
}

/// Sends it on a connection of its own. Returns the status, content type and body of the answer.
fn send(address: &str, request: &Request) -> Result<(u16, String, Vec<u8>), String> {
    let mut bytes = format!("{} {} HTTP/1.1\r\nhost: fuzz\r\n", request.method, request.path);
    for (name, value) in &request.headers {
        bytes += &format!("{name}: {value}\r\n");
    }
    bytes += &format!("connection: close\r\ncontent-length: {}\r\n\r\n", request.body.len());
    let mut bytes = bytes.into_bytes();
    bytes.extend(&request.body);
    let failed = |failure: std::io::Error| failure.to_string();
    let mut stream = TcpStream::connect(address).map_err(failed)?;
    stream.set_read_timeout(Some(ANSWER_MAX)).map_err(failed)?;
    stream.write_all(&bytes).map_err(failed)?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).map_err(failed)?;

    let mut slots = [httparse::EMPTY_HEADER; 32];
    let mut head = httparse::Response::new(&mut slots);
    let length = match head.parse(&answer) {
        Ok(httparse::Status::Complete(length)) => length,
        other => return Err(format!("no answer: {other:?}, {} bytes", answer.len())),
    };
    let content_type = head.headers.iter().find(|header| header.name == "content-type");
    let content_type =
        content_type.map(|header| String::from_utf8_lossy(header.value).into_owned());
    let status = head.code.expect("it is complete");
    Ok((status, content_type.unwrap_or_default(), answer.split_off(length)))
}

/// Checks an answer; the error says what is wrong with it.
fn check(request: &Request, answer: (u16, String, Vec<u8>)) -> Result<(), String> {
    let (status, content_type, body) = answer;
    if status >= 500 {
        return Err(format!("{status}: {}", String::from_utf8_lossy(&body)));
    }
    // Invalid HTTP is answered without a body, and so is HEAD.
    if status < 400 || (body.is_empty() && (status == 400 || request.method == "HEAD")) {
        return Ok(());
    }
    let problem: Value = serde_json::from_slice(&body).map_err(|failure| {
        format!("{status} without a problem: {failure}: {}", String::from_utf8_lossy(&body))
    })?;
    let well_formed = content_type == "application/problem+json"
        && problem["status"] == status
        && problem["code"].is_string()
        && problem["detail"] == problem["error"]
        && problem["requestId"].is_string();
    if well_formed { Ok(()) } else { Err(format!("{content_type}: {problem}")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_break_the_service() {
    with_settings(&[("DEFAULT_EVENT_SEATS", "1000000")], async |app: &TestApp| {
        app.make_event("other", 1_000).await;
        let address = app.base.strip_prefix("http://").expect("a URL").to_owned();
        let (granted, refused, failed) = tokio::task::spawn_blocking(move || {
            let (mut granted, mut refused) = (0, 0);
            let counts = std::cell::RefCell::new((&mut granted, &mut refused));
            let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
            let failed = TestRunner::new(config).run(&request(), |request| {
                let answer = send(&address, &request).map_err(TestCaseError::fail)?;
                let (granted, refused) = &mut *counts.borrow_mut();
                // Only bookings change the default event, so that its version counts them.
                match answer.0 {
                    201 if !request.path.contains("other") && request.path != "/events" => {
                        **granted += 1;
                    }
                    400 => **refused += 1,
                    _ => {}
                }
                check(&request, answer).map_err(TestCaseError::fail)
            });
            let failed = failed.err().map(|failure| match failure {
                TestError::Fail(why, request) => {
                    let body = String::from_utf8_lossy(&request.body).into_owned();
                    format!("{why}\n{request:?}\n{body}")
                }
                TestError::Abort(why) => why.to_string(),
            });
            (granted, refused, failed)
        })
        .await
        .expect("it runs");
        assert_eq!(failed, None);
        // The run has met both kinds of requests: those that are granted, and those that are
        // refused.
        assert!(granted > 10 && refused > 100, "{granted} granted, {refused} refused");
        let there = app.get("/reservations").await.json()["version"].as_i64();
        assert_eq!(there, Some(granted));
    })
    .await;
}

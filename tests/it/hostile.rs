//! Untrusted input: every request gets a clear answer, and one that is refused does nothing.

use std::time::Duration;

use reqwest::Method;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{TestApp, with_app};

/// Posts a body as it stands and checks that it is refused for this reason.
async fn refused(app: &TestApp, body: &str, status: u16, code: &str) -> serde_json::Value {
    let answer = app.send(Method::POST, "/reservations", &[], Some(body.to_owned())).await;
    answer.problem(status, code)
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_fields_are_named() {
    let partner_ids = [
        r#"{"seats":1}"#,
        r#"{"partnerId":null,"seats":1}"#,
        r#"{"partnerId":"","seats":1}"#,
        r#"{"partnerId":"   ","seats":1}"#,
        r#"{"partnerId":"\u2003\u00a0","seats":1}"#,
        r#"{"partnerId":7,"seats":1}"#,
        r#"{"partnerId":["a"],"seats":1}"#,
        r#"{"partnerId":{"a":1},"seats":1}"#,
        r#"{"partnerId":true,"seats":1}"#,
        r#"{"partnerId":"nul\u0000","seats":1}"#,
        r#"{"partnerId":"tab\t","seats":1}"#,
        r#"{"partnerId":"c1\u0085","seats":1}"#,
        r#"{"partnerId":"\ud800","seats":1}"#,
        r#"{"partnerId":"\udc00\ud800","seats":1}"#,
        r#"{"partner_id":"abc-corp","seats":1}"#,
    ];
    let seats = [
        r#"{"partnerId":"abc-corp"}"#,
        r#"{"partnerId":"abc-corp","seats":0}"#,
        r#"{"partnerId":"abc-corp","seats":11}"#,
        r#"{"partnerId":"abc-corp","seats":-1}"#,
        r#"{"partnerId":"abc-corp","seats":-0}"#,
        r#"{"partnerId":"abc-corp","seats":2.5}"#,
        r#"{"partnerId":"abc-corp","seats":2.0}"#,
        r#"{"partnerId":"abc-corp","seats":1e2}"#,
        r#"{"partnerId":"abc-corp","seats":1E0}"#,
        r#"{"partnerId":"abc-corp","seats":1e400}"#,
        r#"{"partnerId":"abc-corp","seats":"3"}"#,
        r#"{"partnerId":"abc-corp","seats":null}"#,
        r#"{"partnerId":"abc-corp","seats":true}"#,
        r#"{"partnerId":"abc-corp","seats":[3]}"#,
        r#"{"partnerId":"abc-corp","seats":4294967299}"#,
        r#"{"partnerId":"abc-corp","seats":18446744073709551619}"#,
        r#"{"partnerId":"abc-corp","seats":340282366920938463463374607431768211459}"#,
    ];
    with_app(async |app| {
        let too_long = json!({"partnerId": "p".repeat(129), "seats": 1}).to_string();
        let partner_ids = partner_ids.into_iter().chain([too_long.as_str()]);
        let seats = seats.into_iter().map(|body| ("seats", body));
        for (field, body) in partner_ids.map(|body| ("partnerId", body)).chain(seats) {
            let problem = refused(app, body, 400, "validation_failed").await;
            let errors = problem["errors"].as_array().expect("errors");
            assert_eq!(errors.len(), 1, "{body}: {problem}");
            assert_eq!(errors[0]["field"], field, "{body}");
            assert!(!errors[0]["detail"].as_str().expect("a text").is_empty());
        }
        let problem = refused(app, "{}", 400, "validation_failed").await;
        assert_eq!(problem["detail"], "partnerId is required; seats is required");
        assert_eq!(app.get("/reservations").await.json()["version"], 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_json_object_is_refused() {
    let malformed = [
        "",
        "{",
        "}",
        "{\"partnerId\":\"a\",\"seats\":1",
        "{\"partnerId\":\"a\",\"seats\":1}}",
        "{'partnerId':'a','seats':1}",
        "{\"partnerId\":\"a\",\"seats\":01}",
        "{\"partnerId\":\"a\",\"seats\":NaN}",
        "{\"partnerId\":\"a\",\"seats\":+1}",
        "{\"partnerId\":\"a\nb\",\"seats\":1}",
        "{\"partnerId\":\"a\",\"seats\":1,}",
        "partnerId=abc-corp&seats=3",
        "\u{feff}{\"partnerId\":\"a\",\"seats\":1}",
        "nul",
        "<a/>",
    ];
    let no_objects = [
        "null",
        "true",
        "3",
        "\"text\"",
        "[]",
        "[{\"partnerId\":\"a\",\"seats\":1}]",
        "[\"abc-corp\",3]",
        "{\"partnerId\":\"a\",\"seats\":1,\"seats\":2}",
        "{\"partnerId\":\"a\",\"partnerId\":\"b\",\"seats\":1}",
    ];
    with_app(async |app| {
        for body in malformed {
            refused(app, body, 400, "malformed_json").await;
        }
        for body in no_objects {
            refused(app, body, 400, "validation_failed").await;
        }
        // Deep nesting neither crashes the service nor is examined.
        let deep = format!("{}{}", "[".repeat(100), "]".repeat(100));
        refused(app, &deep, 400, "validation_failed").await;
        let deepest = "[".repeat(4000);
        refused(app, &deepest, 400, "malformed_json").await;
        let nested = format!(r#"{{"partnerId":"a","seats":{deep}}}"#);
        refused(app, &nested, 400, "validation_failed").await;
        // Bytes that are not UTF-8.
        let raw: &[u8] = b"{\"partnerId\":\"\xff\xfe\",\"seats\":1}";
        let answer = app.post_bytes("/reservations", raw.to_vec()).await;
        answer.problem(400, "malformed_json");
        assert_eq!(app.get("/reservations").await.json()["version"], 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusual_text_is_kept_as_it_is() {
    let longest = "\u{1f3ab}".repeat(128);
    let partners = [
        "\u{1f3ab}\u{1f469}\u{200d}\u{1f680}", // emoji, joined
        "\u{202e}evil\u{202c}",                // right to left
        "\u{645}\u{631}\u{62d}\u{628}\u{627}",
        "'; drop table reservations; --",
        "\\'\"$1%_{}",
        "e\u{301}", // not composed, and stays so
        " inner  spaces ",
        &longest,
    ];
    with_app(async |app| {
        for partner in partners {
            let body = json!({"partnerId": partner, "seats": 1});
            let answer = app.post("/reservations", body).await;
            let made = answer.made();
            assert_eq!(made["partnerId"], partner);
            let location = answer.header("location").expect("a location").to_owned();
            assert_eq!(app.get(&location).await.json()["partnerId"], partner);
        }
        // A surrogate pair is a character; unknown fields are ignored, whatever they contain.
        let body = r#"{"partnerId":"\ud83c\udfab","seats":1,"x":{"y":[null,1e999,"\ud800"]}}"#;
        let answer = app.send(Method::POST, "/reservations", &[], Some(body.into())).await;
        assert_eq!(answer.made()["partnerId"], "\u{1f3ab}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_content_types_are_refused() {
    let body = || Some(r#"{"partnerId":"abc-corp","seats":1}"#.to_owned());
    with_app(async |app| {
        for content_type in ["text/plain", "application/x-www-form-urlencoded", "application/xml"] {
            let headers = [("content-type", content_type)];
            let answer = app.send(Method::POST, "/reservations", &headers, body()).await;
            answer.problem(415, "unsupported_media_type");
        }
        let gzip = [("content-type", "application/json"), ("content-encoding", "gzip")];
        let answer = app.send(Method::POST, "/reservations", &gzip, body()).await;
        answer.problem(415, "unsupported_media_type");
        for content_type in ["application/json; charset=utf-8", "Application/JSON"] {
            let headers = [("content-type", content_type)];
            app.send(Method::POST, "/reservations", &headers, body()).await.made();
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_refused_and_the_answer_arrives() {
    with_app(async |app| {
        for kilobytes in [9, 64, 1024] {
            let body = json!({"partnerId": "p".repeat(kilobytes * 1024), "seats": 1});
            let answer = app.post("/reservations", body).await;
            answer.problem(413, "body_too_large");
        }
        // The largest legal request fits, however it is escaped.
        let escaped = "\\ud83c\\udfab".repeat(128);
        let body = format!(r#"{{"partnerId":"{escaped}","seats":1}}"#);
        app.send(Method::POST, "/reservations", &[], Some(body)).await.made();
    })
    .await;
}

/// A body that stops halfway, be it chunked without an end or shorter than announced: it is
/// answered or closed within the read time-out, and well-behaved clients are served meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_stops_halfway_holds_up_nobody() {
    let heads = [
        "content-length: 60\r\n\r\n{\"partnerId\":",
        "transfer-encoding: chunked\r\n\r\n5\r\n{\"par\r\n",
        "content-length: 60\r\nexpect: 100-continue\r\n\r\n",
    ];
    with_app(async |app| {
        let address = app.base.strip_prefix("http://").expect("a URL");
        let mut stalled = Vec::new();
        for head in heads {
            let mut stream = TcpStream::connect(address).await.expect("it accepts");
            let request = format!(
                "POST /reservations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n{head}"
            );
            stream.write_all(request.as_bytes()).await.expect("it reads");
            stalled.push(stream);
        }
        for _ in 0..5 {
            app.reserve(1).await.made();
        }
        for mut stream in stalled {
            let mut answer = String::new();
            let reading = stream.read_to_string(&mut answer);
            tokio::time::timeout(Duration::from_secs(20), reading)
                .await
                .expect("it is closed in time")
                .expect("it is closed in order");
            let status = answer.lines().find(|line| !line.is_empty() && !line.contains(" 100 "));
            assert!(status.is_some_and(|line| line.starts_with("HTTP/1.1 408")), "{answer}");
            assert!(answer.contains("\"code\":\"request_timeout\""), "{answer}");
        }
        // A connection that is cut in the middle of a body.
        let mut stream = TcpStream::connect(address).await.expect("it accepts");
        let request = "POST /reservations HTTP/1.1\r\nhost: x\r\n\
                       content-type: application/json\r\ncontent-length: 60\r\n\r\n{\"partnerId\":";
        stream.write_all(request.as_bytes()).await.expect("it reads");
        drop(stream);
        app.reserve(1).await.made();
    })
    .await;
}

/// The same for a body that no handler reads: the answer comes at once, and the connection is
/// closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_nobody_reads_holds_no_connection() {
    with_app(async |app| {
        let address = app.base.strip_prefix("http://").expect("a URL");
        let mut stalled = Vec::new();
        for target in
            ["GET /health", "POST /nope", "PUT /reservations", "POST /events/-/reservations"]
        {
            let mut stream = TcpStream::connect(address).await.expect("it accepts");
            let request = format!(
                "{target} HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\n{{\"par"
            );
            stream.write_all(request.as_bytes()).await.expect("it reads");
            stalled.push((target, stream));
        }
        for (target, mut stream) in stalled {
            let mut answer = String::new();
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer))
                .await
                .unwrap_or_else(|_| panic!("{target} is not closed in time"))
                .expect("it is closed in order");
            assert!(answer.starts_with("HTTP/1.1 "), "{target}: {answer}");
        }
    })
    .await;
}

/// Bytes that are not HTTP at all are answered by the HTTP library, without a body, and the
/// connection is closed.
#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_answered_400_and_closed() {
    with_app(async |app| {
        let address = app.base.strip_prefix("http://").expect("a URL");
        for garbage in ["\u{0}\u{1}\r\n\r\n", "GET\r\n\r\n", "GET / HTTP/1.1\r\nbad header\r\n\r\n"]
        {
            let mut stream = TcpStream::connect(address).await.expect("it accepts");
            stream.write_all(garbage.as_bytes()).await.expect("it reads");
            let mut answer = String::new();
            tokio::time::timeout(Duration::from_secs(20), stream.read_to_string(&mut answer))
                .await
                .expect("it is closed in time")
                .expect("it is closed in order");
            assert!(answer.starts_with("HTTP/1.1 400"), "{garbage:?}: {answer}");
        }
        app.reserve(1).await.made();
    })
    .await;
}

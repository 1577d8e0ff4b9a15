//! What an operator sees: metrics, readiness, the log.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};

use nix::sys::signal::Signal;
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::outage::behind_a_proxy;
use crate::support::binary::Binary;
use crate::support::proxy::Way;
use crate::support::{Answer, PATIENCE, TestApp, TestDatabase, with_app, with_database};

/// Samples by name and labels.
type Samples = BTreeMap<String, f64>;

fn samples(text: &str) -> Samples {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let sample = |line: &str| {
        let (name, value) = line.rsplit_once(' ').expect("a name and a value");
        (name.to_owned(), value.parse().expect("a number"))
    };
    lines.map(sample).collect()
}

/// The value of a sample.
fn value(samples: &Samples, name: &str) -> f64 {
    let value = samples.get(&format!("ticketboss_{name}"));
    *value.unwrap_or_else(|| panic!("{name} was never counted: {samples:#?}"))
}

async fn metrics(app: &TestApp) -> Samples {
    metrics_in(&app.get("/metrics").await)
}

fn metrics_in(answer: &Answer) -> Samples {
    assert_eq!(answer.status, 200);
    let kind = answer.header("content-type").expect("a type");
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert!(answer.text.ends_with("# EOF\n"));
    let types: Vec<&str> = answer.text.lines().filter(|line| line.starts_with("# TYPE ")).collect();
    assert_eq!(types.iter().collect::<BTreeSet<_>>().len(), types.len(), "each once: {types:#?}");
    samples(&answer.text)
}

/// Makes everything happen at least once.
async fn use_it(app: &TestApp) {
    app.make_event("secret-event", 20).await;
    let held = json!({"partnerId": "secret-partner", "seats": 2, "holdSeconds": 60});
    let path = app.made_in("secret-event", held.clone()).await;
    app.post(&format!("{path}/extend"), json!({"holdSeconds": 100})).await;
    app.patch(&path, "*", json!({"seats": 1})).await;
    app.post(&format!("{path}/confirm"), json!(null)).await;
    app.post(&format!("{path}/confirm"), json!({})).await;
    app.delete(&path).await;
    app.delete(&path).await;
    app.made_in("secret-event", held).await;
    app.end_holds().await;
    let much = json!({"partnerId": "secret-partner", "items": vec![json!({"seats": 10}); 2]});
    app.post("/events/secret-event/reservations/batch", much).await.made();
    let more = json!({"partnerId": "secret-partner", "seats": 1});
    app.post("/events/secret-event/reservations", more).await.problem(409, "insufficient_seats");
    app.patch("/events/secret-event", "*", json!({"status": "paused"})).await;
    app.get("/nothing/secret-path").await;
    app.get("/events/secret-event/changes").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_counted_once() {
    with_app(async |app| {
        use_it(app).await;
        let samples = metrics(app).await;
        let expected = [
            (r#"commands_total{command="reserve",outcome="done"}"#, 3.0),
            (r#"commands_total{command="reserve",outcome="insufficient_seats"}"#, 1.0),
            (r#"commands_total{command="confirm",outcome="done"}"#, 1.0),
            (r#"commands_total{command="confirm",outcome="done_before"}"#, 1.0),
            (r#"commands_total{command="extend",outcome="done"}"#, 1.0),
            (r#"commands_total{command="shrink",outcome="done"}"#, 1.0),
            (r#"commands_total{command="cancel",outcome="done"}"#, 1.0),
            (r#"commands_total{command="cancel",outcome="reservation_not_found"}"#, 1.0),
            (r#"commands_total{command="change_event",outcome="done"}"#, 1.0),
            (r#"reservation_changes_total{type="held"}"#, 2.0),
            (r#"reservation_changes_total{type="reserved"}"#, 2.0),
            (r#"reservation_changes_total{type="expired"}"#, 1.0),
            (r#"http_requests_total{method="DELETE",route="/events/{eventId}/reservations/{reservationId}",status="204"}"#, 1.0),
            (r#"http_requests_total{method="DELETE",route="/events/{eventId}/reservations/{reservationId}",status="404"}"#, 1.0),
            (r#"http_requests_total{method="POST",route="/events/{eventId}/reservations/batch",status="201"}"#, 1.0),
            (r#"http_requests_total{method="GET",route="none",status="404"}"#, 1.0),
            (r#"http_request_duration_seconds_count{method="POST",route="/events"}"#, 1.0),
            ("mailbox_commands", 0.0),
            ("streams", 0.0),
            (r#"connections_max{pool="writes"}"#, 15.0),
            (r#"connections_max{pool="reads"}"#, 5.0),
            (r#"build_info{version="0.1.0"}"#, 1.0),
        ];
        for (name, expected) in expected {
            assert!((value(&samples, name) - expected).abs() < 0.5, "{name}: {samples:#?}");
        }
        // Eight commits, perhaps nine with the sweeper's; a batch that only refuses needs none.
        let commits = value(&samples, "commit_duration_seconds_count");
        assert!((8.0..=9.0).contains(&commits), "{commits}");
        let batches = value(&samples, "batch_commands_count");
        assert!(batches >= commits + 3.0, "{batches}");
        assert!(value(&samples, "mailbox_wait_seconds_count") >= 11.0);
        assert!(value(&samples, "mailbox_wait_seconds_sum") > 0.0);
        let stream = format!("{}/events/secret-event/stream?after=0", app.base);
        let mut stream = Client::new().get(stream).send().await.expect("an answer");
        let mut sent = 0;
        while sent < 1_000 {
            sent += stream.chunk().await.expect("bytes").expect("more").len();
        }
        let samples = metrics(app).await;
        assert!((value(&samples, "streams") - 1.0).abs() < 0.5);
        assert!(value(&samples, "stream_sent_bytes_total") > 900.0);
        drop(stream);
        let ended = async { while value(&metrics(app).await, "streams") > 0.5 {} };
        timeout(PATIENCE, ended).await.expect("a client that is gone has no stream");
        for name in samples.keys() {
            assert!(!name.contains("secret-"), "a label has what callers make up: {name}");
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_nothing_to_sweep_looks_once_a_second() {
    with_app(async |app| {
        let looked = |samples: &Samples| value(samples, "sweeper_looked_timestamp_seconds");
        let reads =
            |samples: &Samples| value(samples, r#"connection_wait_seconds_count{pool="reads"}"#);
        let after = async |moment: f64| loop {
            let samples = metrics(app).await;
            if looked(&samples) > moment {
                return samples;
            }
        };
        let first = timeout(PATIENCE, after(0.0)).await.expect("it looks");
        let last = timeout(PATIENCE, after(looked(&first) + 1.0)).await.expect("it looks again");
        let looks = reads(&last) - reads(&first);
        let seconds = looked(&last) - looked(&first);
        assert!(looks <= seconds + 2.0, "{looks} in {seconds} s");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
#[cfg(target_os = "linux")]
async fn what_the_process_takes_is_told() {
    const CONNECTIONS: usize = 100;
    let database = TestDatabase::create().await;
    let service = Binary::serve(&[("DATABASE_URL", database.url.as_str())]).await;
    let (client, url) = (Client::new(), format!("{}/metrics", service.base));
    let taken = async || {
        let answer = client.get(&url).send().await.expect("an answer");
        let samples = metrics_in(&Answer::of(answer).await);
        move |name: &str| samples[&format!("process_{name}")]
    };
    let first = taken().await;
    assert!(first("open_fds") < first("max_fds"));
    assert!(first("threads") >= 2.0);
    assert!((1e6..1e9).contains(&first("resident_memory_bytes")));
    let address = service.base.strip_prefix("http://").expect("a base");
    let idle: Vec<_> = (0..CONNECTIONS)
        .map(|_| std::net::TcpStream::connect(address).expect("a connection"))
        .collect();
    // Some descriptors that were open at first may have been closed since.
    let many = first("open_fds") + CONNECTIONS as f64 * 0.8;
    let all_open = async { while taken().await("open_fds") < many {} };
    timeout(PATIENCE, all_open).await.expect("each connection is open");
    drop(idle);
    let worked =
        async { while taken().await("cpu_seconds_total") <= first("cpu_seconds_total") {} };
    timeout(PATIENCE, worked).await.expect("what it does takes time");
    service.stop().await;
}

/// The names of metrics in an expression of PromQL that are the service's or its process's.
fn names_in(text: &str) -> BTreeSet<String> {
    let word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c: char| !word(c));
    let ours = |word: &&str| word.starts_with("ticketboss_") || word.starts_with("process_");
    words.filter(ours).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn dashboard_and_alerts_name_what_is_exported() {
    with_app(async |app| {
        use_it(app).await;
        let text = app.get("/metrics").await.text;
        // Families that have no sample until something goes wrong are known by their type.
        let mut exported: BTreeSet<String> =
            samples(&text).into_keys().flat_map(|name| names_in(&name)).collect();
        for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
            let (name, kind) = line.split_once(' ').expect("a name and a type");
            match kind {
                "counter" => exported.insert(format!("{name}_total")),
                _ => exported.insert(name.to_owned()),
            };
        }
        let dashboard = include_str!("../../ops/grafana-dashboard.json");
        let board: Value = serde_json::from_str(dashboard).expect("it is JSON");
        let panels = board["panels"].as_array().expect("panels");
        let expressions = panels.iter().flat_map(|panel| panel["targets"].as_array());
        assert!(
            expressions.flatten().all(|target| !names_in(&target["expr"].to_string()).is_empty())
        );
        let alerts = include_str!("../../ops/alerts.yml");
        let mut shown = BTreeSet::new();
        for (file, text) in [("dashboard", dashboard), ("alerts", alerts)] {
            let named = names_in(text);
            assert!(named.len() >= 8, "{file}: {named:?}");
            for name in &named {
                assert!(exported.contains(name), "{file}: {name} is not exported: {exported:#?}");
            }
            shown.extend(named);
        }
        // A metric that is shown nowhere need not be counted.
        let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        for family in families.filter_map(|line| line.split(' ').next()) {
            let is_shown = shown.iter().any(|name| name.starts_with(family));
            assert!(is_shown, "{family} is on no panel and in no alert");
        }
    })
    .await;
}

/// Polls until the server is not ready: an earlier result is reused for half a second.
async fn not_ready(app: &TestApp) -> Answer {
    let asking = async {
        loop {
            let answer = app.get("/ready").await;
            if answer.status != 200 {
                return answer;
            }
        }
    };
    timeout(PATIENCE, asking).await.expect("it is noticed")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_is_ready_as_long_as_its_database_is() {
    let (database, proxy, url) = behind_a_proxy().await;
    with_database(database, &[("DATABASE_URL", url.as_str())], async |app| {
        assert_eq!(app.get("/ready").await.json(), json!({"status": "ready"}));
        proxy.set(Way::Closed);
        not_ready(app).await.problem(503, "database_unavailable");
        assert_eq!(app.get("/health").await.status, 200);
        proxy.set(Way::Open);
        let again = async { while app.get("/ready").await.status != 200 {} };
        timeout(PATIENCE, again).await.expect("it is ready again");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lacks_a_migration_is_not_ready() {
    with_app(async |app| {
        assert_eq!(app.get("/ready").await.status, 200);
        app.database.execute("delete from _sqlx_migrations where version = 8").await;
        let problem = not_ready(app).await.problem(503, "database_unavailable");
        assert!(problem["detail"].as_str().expect("a text").contains("ticketboss migrate"));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_drains_says_so_and_goes_on() {
    let database = TestDatabase::create().await;
    let settings = [("DATABASE_URL", database.url.as_str()), ("DRAIN_DELAY_MS", "300000")];
    let service = Binary::serve(&settings).await;
    let client = Client::new();
    let ready = format!("{}/ready", service.base);
    let get = async || Answer::of(client.get(&ready).send().await.expect("an answer")).await;
    assert_eq!(get().await.status, 200);
    service.signal(Signal::SIGTERM);
    let draining = async {
        loop {
            let answer = get().await;
            if answer.status != 200 {
                return answer;
            }
        }
    };
    let draining = timeout(PATIENCE, draining).await.expect("it is noticed");
    draining.problem(503, "draining");
    let body = json!({"partnerId": "abc-corp", "seats": 1});
    let booked = client.post(format!("{}/reservations", service.base)).json(&body).send().await;
    assert_eq!(booked.expect("an answer").status(), 201);
    // The second signal ends the delay.
    let (code, log) = service.stop().await;
    assert_eq!(code, Some(0), "{log:?}");
    database.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_log_is_an_object_on_each_line() {
    let database = TestDatabase::create().await;
    let settings = [
        ("DATABASE_URL", database.url.as_str()),
        ("LOG_FORMAT", "json"),
        ("RUST_LOG", "info,sqlx=warn"),
    ];
    let service = Binary::serve(&settings).await;
    let client = Client::new();
    let body = json!({"partnerId": "secret-partner", "seats": 1});
    let url = format!("{}/reservations?secret=1", service.base);
    let post = client.post(url).header("x-request-id", "call-1").json(&body);
    assert_eq!(post.send().await.expect("an answer").status(), 201);
    let url = format!("{}/reservations/x", service.base);
    let delete = client.delete(url).header("x-request-id", "call-2");
    assert_eq!(delete.send().await.expect("an answer").status(), 404);
    let (code, log) = service.stop().await;
    assert_eq!(code, Some(0), "{log:?}");
    let lines: Vec<Value> = log
        .iter()
        .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}")))
        .collect();
    for line in &lines {
        assert!(line["time"].is_string() && line["message"].is_string(), "{line}");
        assert_eq!(line["level"], "info", "{line}");
    }
    assert!(log.iter().all(|line| !line.contains("secret")), "{log:?}");
    let request = |id: &str| {
        let line = lines.iter().find(|line| line["requestId"] == id);
        line.unwrap_or_else(|| panic!("{log:?}"))
    };
    let booked = request("call-1");
    assert_eq!(booked["target"], "ticketboss::requests");
    assert_eq!(booked["method"], "POST");
    assert_eq!(booked["route"], "/reservations");
    assert_eq!(booked["status"], 201);
    assert_eq!(booked["outcome"], "done");
    assert!(booked["durationMs"].as_f64().is_some_and(|ms| ms > 0.0), "{booked}");
    let refused = request("call-2");
    assert_eq!(refused["status"], 404);
    assert_eq!(refused["outcome"], "reservation_not_found");
}

/// The reader of the log may be slow, or stop for a while: the log then lacks some lines, and
/// nobody else is kept waiting.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_log_that_is_not_read() {
    // More lines than the service queues and the pipe holds; and enough lines to fill the pipe.
    const TOO_MANY: usize = 6_000;
    const SOME: usize = 1_500;
    let database = TestDatabase::create().await;
    let settings = [("DATABASE_URL", database.url.as_str()), ("RUST_LOG", "info,sqlx=warn")];
    let mut service = Binary::serve(&settings).await;
    let (client, url) = (Client::new(), format!("{}/health", service.base));
    let asked = Cell::new(0);
    let ask = async |times: usize| {
        for _ in 0..times {
            asked.set(asked.get() + 1);
            let request = client.get(&url).header("x-request-id", "i".repeat(128));
            let answer = timeout(PATIENCE, request.send()).await.expect("nobody waits");
            assert_eq!(answer.expect("an answer").status(), 200);
        }
    };
    service.leave_log_unread().await;
    ask(TOO_MANY).await;
    service.read_log();
    let left_out = |line: &String| line.contains("log lines were dropped");
    let told = async {
        // Lines that were left out are reported only while other lines are written.
        while !service.log().iter().any(left_out) {
            ask(1).await;
        }
    };
    timeout(PATIENCE, told).await.expect("it is told");
    let told = service.log().into_iter().find(left_out).expect("just seen");
    assert!(told.contains("WARN"), "{told}");
    // Each line is either written, or counted as left out.
    let number = |line: &String| -> Option<usize> {
        let (_, said) = line.split_once("] ")?;
        said.strip_suffix(" log lines were dropped, because the log was not read in time")?
            .parse()
            .ok()
    };
    let all = async {
        loop {
            let log = service.log();
            let written = log.iter().filter(|line| line.contains("GET /health")).count();
            let left_out: usize = log.iter().filter_map(number).sum();
            if written + left_out == asked.get() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, all).await.expect("none is missing");

    service.leave_log_unread().await;
    ask(SOME).await;
    let (code, _) = service.stop().await;
    assert_eq!(code, Some(0));
}

//! The journal over HTTP: as a feed, and as a stream.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use nix::sys::signal::Signal;
use reqwest::{Client, Method, Response};
use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::support::binary::Binary;
use crate::support::{DEFAULT_EVENT, PATIENCE, TestApp, TestDatabase, with_app, with_settings};

/// An open stream.
struct Follower {
    response: Response,
    text: String,
}

/// A Server-Sent Event.
#[derive(Debug)]
struct Event {
    name: Option<String>,
    id: Option<i64>,
    data: Option<Value>,
}

impl Follower {
    async fn open(base: &str, path: &str, last_event_id: Option<i64>) -> Self {
        let mut request = Client::new().get(format!("{base}{path}"));
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.expect("an answer");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { response, text: String::new() }
    }

    /// The next event; `None` if the server ended the stream, and an error if it broke off.
    async fn next(&mut self) -> reqwest::Result<Option<Event>> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| {
                    let line = event.lines().find_map(|line| line.strip_prefix(name))?;
                    Some(line.to_owned())
                };
                let event = Event {
                    name: field("event: "),
                    id: field("id: ").map(|id| id.parse().expect("a number")),
                    data: field("data: ").map(|data| serde_json::from_str(&data).expect("JSON")),
                };
                self.text = rest.to_owned();
                return Ok(Some(event));
            }
            let read = timeout(PATIENCE, self.response.chunk()).await;
            let Some(chunk) = read.expect("something in time")? else { return Ok(None) };
            self.text.push_str(std::str::from_utf8(&chunk).expect("text"));
        }
    }

    /// The next version.
    async fn version(&mut self) -> Value {
        loop {
            let event = self.next().await.expect("no failure").expect("the stream goes on");
            let Some(data) = event.data else { continue };
            assert_eq!(event.name, None, "{data}");
            assert_eq!(data["version"].as_i64(), event.id);
            return data;
        }
    }
}

/// All versions of an event, read from the feed.
async fn feed(app: &TestApp, event: &str, limit: usize) -> Vec<Value> {
    let mut versions = Vec::new();
    loop {
        let after = versions.len();
        let page =
            app.get(&format!("/events/{event}/changes?after={after}&limit={limit}")).await.json();
        let items = page["items"].as_array().expect("a list");
        assert!(items.len() <= limit, "{page}");
        versions.extend(items.clone());
        if page["latestVersion"] == versions.len() {
            return versions;
        }
        assert!(!items.is_empty(), "{page}");
    }
}

fn check_gapless(versions: &[Value], after: i64) {
    for (version, number) in versions.iter().zip(after + 1..) {
        assert_eq!(version["version"], number, "{versions:?}");
    }
}

/// The copy of an event that a partner maintains from the changes.
#[derive(Default)]
struct Mirror {
    available: i64,
    /// Partner, seats and status, by id.
    reservations: HashMap<String, (String, i64, String)>,
    event_changes: Vec<Value>,
}

impl Mirror {
    fn apply(&mut self, version: &Value) {
        for change in version["changes"].as_array().expect("a list") {
            let kind = change["type"].as_str().expect("a word");
            if kind == "event_changed" {
                self.available += change["totalSeats"].as_i64().map_or(0, |total| total - 100);
                self.event_changes.push(change.clone());
                continue;
            }
            let text = |name: &str| change[name].as_str().expect("a text").to_owned();
            let seats = change["seats"].as_i64().expect("a number");
            let fresh = (text("partnerId"), 0, String::new());
            let entry = self.reservations.entry(text("reservationId")).or_insert(fresh);
            match kind {
                "reserved" | "held" => {
                    entry.1 = seats;
                    self.available -= seats;
                }
                "shrunk" => {
                    entry.1 -= seats;
                    self.available += seats;
                }
                "confirmed" | "extended" => assert_eq!(entry.1, seats),
                "cancelled" | "expired" => self.available += seats,
                other => panic!("{other}"),
            }
            match kind {
                "reserved" => entry.2 = "confirmed".into(),
                "shrunk" | "extended" => {}
                kind => entry.2 = kind.into(),
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_of_the_feed_has_what_the_listing_has() {
    with_app(async |app| {
        app.make_event("e", 100).await;
        let held = json!({"partnerId": "abc-corp", "seats": 5, "holdSeconds": 60});
        let sold = json!({"partnerId": "xyz", "seats": 4});
        let kept = app.made_in("e", held.clone()).await;
        let extended = app.post(&format!("{kept}/extend"), json!({"holdSeconds": 100})).await;
        let confirmed = app.post(&format!("{kept}/confirm"), json!(null)).await;
        let cancelled = app.made_in("e", sold.clone()).await;
        let cancelled = app.delete(&cancelled).await;
        let shrunk = app.made_in("e", sold).await;
        let shrunk = app.patch(&shrunk, "*", json!({"seats": 1})).await;
        let done = [extended, confirmed, cancelled, shrunk].map(|answer| answer.status.as_u16());
        assert_eq!(done, [200, 200, 204, 200]);
        app.made_in("e", held).await;
        app.end_holds().await;
        // Either the sweeper or this booking expires the hold, whichever comes first.
        let rest = json!({"partnerId": "xyz", "items": vec![json!({"seats": 10}); 9]});
        app.post("/events/e/reservations/batch", rest).await.made();
        let items = [json!({"seats": 1, "reference": "a"}), json!({"seats": 2, "holdSeconds": 90})];
        let list = json!({"partnerId": "xyz", "items": items});
        app.post("/events/e/reservations/batch", list).await.made();
        let window = json!({"salesCloseAt": "2000-01-01T00:00:00Z", "name": "E"});
        assert_eq!(app.patch("/events/e", "*", window).await.status, 200);
        let late = app.post("/events/e/reservations", json!({"partnerId": "a", "seats": 1})).await;
        late.problem(409, "sales_closed");
        let open = json!({"salesCloseAt": null, "totalSeats": 120, "status": "on_sale"});
        assert_eq!(app.patch("/events/e", "*", open).await.status, 200);

        for limit in [1, 3, 1000] {
            let versions = feed(app, "e", limit).await;
            check_gapless(&versions, 0);
            let event = app.get("/events/e").await.json();
            assert_eq!(event["version"], versions.len());

            let mut mirror = Mirror { available: 100, ..Mirror::default() };
            versions.iter().for_each(|version| mirror.apply(version));
            assert_eq!(event["availableSeats"], mirror.available);
            let changes = versions.iter().flat_map(|it| it["changes"].as_array().expect("a list"));
            let kinds: BTreeSet<_> = changes.map(|change| change["type"].to_string()).collect();
            assert_eq!(kinds.len(), 8, "each kind there is: {kinds:?}");
            let listed = app.get("/events/e/reservations?limit=200").await.json();
            let listed = listed["items"].as_array().expect("a list");
            assert_eq!(listed.len(), mirror.reservations.len());
            for made in listed {
                let id = made["reservationId"].as_str().expect("an id");
                let (partner, seats, status) = &mirror.reservations[id];
                assert_eq!(made["partnerId"], *partner);
                assert_eq!(made["seats"], *seats);
                assert_eq!(made["status"], *status);
            }
            let [window, ended, open] = &mirror.event_changes[..] else { panic!("{versions:?}") };
            assert_eq!(window["salesCloseAt"], "2000-01-01T00:00:00.000000Z");
            assert_eq!(window["name"], "E");
            assert!(window.get("totalSeats").is_none(), "{window}");
            assert_eq!(*ended, json!({"type": "event_changed", "status": "closed"}));
            // What was journalled is what was done.
            assert_eq!((&event["name"], &event["totalSeats"]), (&json!("E"), &json!(120)));
            assert_eq!((&event["status"], event.get("salesCloseAt")), (&json!("on_sale"), None));
            assert!(open["salesCloseAt"].is_null() && open.get("salesCloseAt").is_some());
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_of_the_journal_is_said() {
    with_app(async |app| {
        for path in ["changes", "stream"] {
            let answer = app.get(&format!("/events/nobody/{path}")).await;
            answer.problem(404, "event_not_found");
            for query in ["after=-1", "after=x", "after=1&after=2", "since=1", "after=%2B1"] {
                let answer = app.get(&format!("/events/{}/{path}?{query}", DEFAULT_EVENT)).await;
                answer.problem(400, "validation_failed");
            }
        }
        for query in ["limit=0", "limit=1001", "after=9999999999999999999"] {
            let answer = app.get(&format!("/events/{}/changes?{query}", DEFAULT_EVENT)).await;
            answer.problem(400, "validation_failed");
        }
        let stream = format!("/events/{}/stream", DEFAULT_EVENT);
        let headers = [("last-event-id", "x")];
        app.send(Method::GET, &stream, &headers, None).await.problem(400, "validation_failed");
        // A client that claims to have seen a version that never was would miss the versions to
        // come.
        let answer = app.get(&format!("{stream}?after=1")).await.problem(400, "validation_failed");
        assert!(answer["detail"].as_str().expect("a text").contains("at most 0"), "{answer}");
        let head = app.send(Method::HEAD, &stream, &[], None).await;
        assert_eq!(head.header("content-type"), Some("text/event-stream"));
        let ahead = app.get(&format!("/events/{DEFAULT_EVENT}/changes?after=1")).await;
        ahead.problem(400, "validation_failed");
        let empty = app.get(&format!("/events/{}/changes?after=0", DEFAULT_EVENT)).await.json();
        assert_eq!(empty, json!({"items": [], "latestVersion": 0}));
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_begins_where_it_is_told_to() {
    with_app(async |app| {
        for _ in 0..3 {
            app.reserve(1).await.made();
        }
        let path = format!("/events/{}/stream", DEFAULT_EVENT);
        let mut from_now = Follower::open(&app.base, &path, None).await;
        let first = from_now.next().await.expect("no failure").expect("it says where it begins");
        assert_eq!((first.id, first.data.is_none()), (Some(3), true));
        let mut from_two = Follower::open(&app.base, &format!("{path}?after=2"), None).await;
        let mut from_one = Follower::open(&app.base, &format!("{path}?after=2"), Some(1)).await;
        app.reserve(2).await.made();
        assert_eq!(from_two.version().await["version"], 3);
        assert_eq!(from_one.version().await["version"], 2);
        assert_eq!(from_one.version().await["version"], 3);
        let expected = app.get(&format!("/events/{}/changes?after=3", DEFAULT_EVENT)).await.json();
        for mut stream in [from_now, from_two, from_one] {
            assert_eq!(stream.version().await, expected["items"][0]);
        }
    })
    .await;
}

/// Follows an event up to a version, reconnecting whenever the stream ends. Reports when it has
/// seen the version before that.
async fn follow_to(base: Arc<Mutex<String>>, last: i64, almost: mpsc::Sender<()>) -> Vec<i64> {
    let (mut seen, mut almost) = (Vec::new(), Some(almost));
    while seen.last() != Some(&last) {
        let here = base.lock().await.clone();
        let request = Client::new().get(format!("{here}/events/{DEFAULT_EVENT}/stream?after=0"));
        let request = match seen.last() {
            Some(last) => request.header("last-event-id", *last),
            None => request,
        };
        // No server listens while it is being restarted.
        let Ok(response) = request.send().await else { continue };
        let mut stream = Follower { response, text: String::new() };
        while seen.last() != Some(&last)
            && let Ok(Some(event)) = stream.next().await
        {
            seen.extend(event.id.filter(|_| event.data.is_some()));
            // Comments arrive in between, and each consumer must report only once.
            if let Some(almost) = almost.take_if(|_| seen.last() == Some(&(last - 1))) {
                almost.send(()).await.expect("the test waits for it");
            }
        }
    }
    seen
}

/// All bookings go to one replica. At the other one, which finds them by polling the database, the
/// consumers are cut off again and again, since it is killed and replaced while they follow.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_back_sees_every_version_once() {
    const BOOKINGS: i64 = 300;
    const CONSUMERS: usize = 4;
    let database = TestDatabase::create().await;
    let settings = [("DATABASE_URL", database.url.as_str()), ("DEFAULT_EVENT_SEATS", "100000")];
    let selling = Binary::serve(&settings).await;
    let mut other = Binary::serve(&settings).await;
    let bases = [&selling, &other].map(|replica| Arc::new(Mutex::new(replica.base.clone())));
    let mut consumers = JoinSet::new();
    let (almost, mut all_but_one) = mpsc::channel(CONSUMERS);
    for number in 0..CONSUMERS {
        let base = Arc::clone(&bases[number % 2]);
        consumers.spawn(follow_to(base, BOOKINGS, almost.clone()));
    }
    let client = Client::new();
    let url = format!("{}/reservations", selling.base);
    for number in 1..=BOOKINGS {
        if number == BOOKINGS {
            // No consumer is still catching up from the journal, so that the last version must be
            // announced.
            for _ in 0..CONSUMERS {
                timeout(PATIENCE, all_but_one.recv()).await.expect("they get there");
            }
        }
        // One after the other, so that each makes a version of its own.
        let body = json!({"partnerId": "abc-corp", "seats": 1});
        let booked = client.post(&url).json(&body).send().await.expect("an answer");
        assert_eq!(booked.status(), 201);
        if number % 100 == 50 {
            other.signal(Signal::SIGKILL);
            other.ended().await;
            other = Binary::serve(&settings).await;
            *bases[1].lock().await = other.base.clone();
        }
    }
    let all = timeout(PATIENCE, consumers.join_all()).await.expect("they get there");
    for seen in all {
        assert_eq!(seen, (1..=BOOKINGS).collect::<Vec<_>>());
    }
    for replica in [selling, other] {
        assert_eq!(replica.stop().await.0, Some(0));
    }
    database.audit().await;
}

/// Here, all streams together may send half a megabyte at once, and each stream a little more.
#[tokio::test(flavor = "multi_thread")]
async fn who_falls_behind_is_told_where_to_go_on() {
    with_settings(&[("STREAM_BYTES_PER_S_MAX", "1000000")], async |app| {
        app.make_event("quiet", 10).await;
        app.make_event("busy", 1_000_000).await;
        let mut quiet = Follower::open(&app.base, "/events/quiet/stream", None).await;
        let mut consumers = JoinSet::new();
        for _ in 0..40 {
            let mut stream = Follower::open(&app.base, "/events/busy/stream", Some(0)).await;
            consumers.spawn(async move {
                let mut seen = Vec::new();
                loop {
                    let event = stream.next().await.expect("no failure").expect("an event");
                    let Some(data) = event.data else { continue };
                    if event.name.as_deref() == Some("behind") {
                        assert!(
                            stream.next().await.expect("an end").is_none(),
                            "it is the last one"
                        );
                        return (seen, data);
                    }
                    seen.push(data);
                }
            });
        }
        let list = json!({"partnerId": "xyz", "items": vec![json!({"seats": 1}); 100]});
        let mut booked = 0;
        // Each version is about 11 kB, sent to 40 streams.
        let dropped = loop {
            app.post("/events/busy/reservations/batch", list.clone()).await.made();
            booked += 1;
            if let Some(dropped) = consumers.try_join_next() {
                break dropped.expect("no panic");
            }
            assert!(booked < 1_000, "somebody is dropped");
        };
        let (seen, hint) = dropped;
        check_gapless(&seen, 0);
        assert_eq!(hint["after"], seen.len());
        let rest = app.get(hint["changes"].as_str().expect("a path")).await.json();
        assert_eq!(rest["items"][0]["version"], seen.len() + 1, "{hint}");

        // A stream of the quiet event is not affected.
        app.made_in("quiet", json!({"partnerId": "abc-corp", "seats": 1})).await;
        assert_eq!(quiet.version().await["version"], 1);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_end_when_the_server_stops() {
    let database = TestDatabase::create().await;
    let settings = [("DATABASE_URL", database.url.as_str())];
    let service = Binary::serve(&settings).await;
    let path = "/events/node-meetup-2025/stream";
    let mut stream = Follower::open(&service.base, path, None).await;
    assert!(stream.next().await.expect("no failure").is_some());
    let (code, log) = service.stop().await;
    assert_eq!(code, Some(0), "{log:?}");
    assert!(stream.next().await.expect("an end, and not a cut").is_none());
}

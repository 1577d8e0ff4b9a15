//! The ledger: every request that was made and every answer that came, recorded outside the service
//! and reconciled with the database at the end.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use tokio::sync::watch;
use tokio::time::timeout;
use uuid::Uuid;

use crate::auditor::{
    Action, Answer, Booking, Call, Change, Final, Item, Kind, Request, Shown, Start, Status, Time,
    Version, audit,
};
use crate::support::DEFAULT_EVENT;

/// Far more than the service's own time-out.
const ANSWER_MAX: Duration = Duration::from_secs(20);

pub struct Ledger {
    entries: Mutex<Vec<Entry>>,
    moment: AtomicUsize,
    /// The number of answers that say what became of the request.
    clear: watch::Sender<usize>,
}

/// A call. The id of its reservation is known only from the answer, if at all.
#[derive(Clone)]
struct Entry {
    call: Call,
    /// The answer's body, where it is a reservation.
    body: Option<Value>,
}

/// What a client asks for. Each partner makes one logical booking, however often it is sent.
#[derive(Clone, Debug)]
pub enum Wanted {
    Reserve { partner: String, seats: i32, key: Option<String> },
    Cancel(Uuid),
}

impl Ledger {
    pub fn new() -> Self {
        Self { entries: Mutex::default(), moment: AtomicUsize::new(0), clear: watch::channel(0).0 }
    }

    /// Sends a request and records the answer. A client whose patience runs out hangs up.
    pub async fn call(
        &self,
        client: &Client,
        base: &str,
        wanted: &Wanted,
        patience: Duration,
    ) -> Option<Answer> {
        let number = self.begin(wanted);
        let answered = timeout(patience.min(ANSWER_MAX), send(client, base, wanted)).await;
        let Ok(Some((answer, body))) = answered else { return None };
        self.end(number, answer.clone(), body);
        Some(answer)
    }

    /// Records a request. Called directly for a request whose answer nobody waits for.
    pub fn begin(&self, wanted: &Wanted) -> usize {
        let request = match wanted.clone() {
            Wanted::Reserve { partner, seats, key } => {
                let items = vec![Item { id: Uuid::nil(), seats, hold: None }];
                Request::Reserve(Booking { partner, items, key, at_version: None })
            }
            Wanted::Cancel(id) => Request::Alter { id, action: Action::Cancel, at_version: None },
        };
        let mut entries = self.entries();
        let called = self.moment.fetch_add(1, Ordering::SeqCst);
        // There are no holds, so that the clocks do not matter.
        let between = (Time::MIN, Time::MAX);
        let call = Call { called, answered: None, request, between };
        entries.push(Entry { call, body: None });
        entries.len() - 1
    }

    fn end(&self, number: usize, answer: Answer, body: Option<Value>) {
        let clear = !matches!(answer, Answer::Unknown { .. } | Answer::NothingHappened(_));
        let at = self.moment.fetch_add(1, Ordering::SeqCst);
        let mut entries = self.entries();
        entries[number].call.answered = Some((at, answer));
        entries[number].body = body;
        drop(entries);
        if clear {
            self.clear.send_modify(|count| *count += 1);
        }
    }

    /// Returns once this many more requests have been answered clearly.
    pub async fn serves(&self, count: usize) {
        let mut clear = self.clear.subscribe();
        let goal = *clear.borrow() + count;
        let served = timeout(Duration::from_secs(60), clear.wait_for(|clear| *clear >= goal));
        assert!(served.await.is_ok(), "not served: {:?}", self.last());
    }

    /// The keyed requests whose outcome no answer has settled yet.
    pub fn unsettled(&self) -> Vec<Wanted> {
        let mut open = HashMap::new();
        for Entry { call, .. } in self.entries().iter() {
            if let Request::Reserve(Booking { partner, items, key: Some(key), .. }) = &call.request
            {
                let seats = &items[0].seats;
                match &call.answered {
                    None | Some((_, Answer::Unknown { .. })) => {
                        let (partner, key) = (partner.clone(), Some(key.clone()));
                        let wanted =
                            Wanted::Reserve { partner: partner.clone(), seats: *seats, key };
                        open.insert(partner, wanted);
                    }
                    Some((_, Answer::NothingHappened(_))) => {}
                    Some(_) => {
                        open.remove(partner);
                    }
                }
            }
        }
        open.into_values().collect()
    }

    /// The numbers of calls, of calls that were granted, and of calls with an unknown outcome.
    pub fn counts(&self) -> (usize, usize, usize) {
        let entries = self.entries();
        let of = |wanted: fn(Option<&Answer>) -> bool| {
            let answers = entries.iter().map(|entry| entry.call.answered.as_ref());
            answers.filter(|answer| wanted(answer.map(|(_, answer)| answer))).count()
        };
        let granted = of(|answer| {
            let granted = |answer: &Answer| {
                matches!(answer, Answer::Reserved(_) | Answer::Replayed(_) | Answer::Cancelled)
            };
            answer.is_some_and(granted)
        });
        (entries.len(), granted, of(|answer| matches!(answer, None | Some(Answer::Unknown { .. }))))
    }

    /// Returns what is wrong with the answers, given what the database has.
    pub async fn reconcile(
        &self,
        client: &Client,
        base: &str,
        at: &PgConnectOptions,
    ) -> Vec<String> {
        let mut connection = at.connect().await.expect("the database is there");
        let versions = versions(&mut connection).await;
        let found = found(&mut connection).await;
        let entries = self.entries().clone();
        let mut wrong = Vec::new();
        // Each 201 must be found with the same fields. The fields that may change are in the
        // journal.
        for body in entries.iter().filter_map(|entry| entry.body.as_ref()) {
            let id = body["reservationId"].as_str().expect("an id");
            let path = format!("{base}/reservations/{id}");
            let answer = client.get(path).send().await.expect("it is served");
            let now: Value = answer.json().await.expect("JSON");
            let same = ["reservationId", "eventId", "partnerId", "seats", "createdAt"];
            if same.iter().any(|field| now[field] != body[field]) {
                wrong.push(format!("told {body}, found {now}"));
            }
        }
        let calls = with_ids(entries.into_iter().map(|entry| entry.call).collect(), &found);
        let start = Start { seats: found.total_seats, sales_end: None, limits: None };
        wrong.extend(audit(start, &calls, &versions, &found));
        wrong
    }

    /// How many acknowledged bookings the database does not have.
    pub async fn lost(&self, at: &PgConnectOptions) -> usize {
        let found = found(&mut at.connect().await.expect("the database is there")).await;
        let is_there = |id: &Uuid| found.reservations.iter().any(|made| made.id == *id);
        let entries = self.entries();
        let granted = entries.iter().filter_map(|entry| match &entry.call.answered {
            Some((_, Answer::Reserved(shown))) => Some(shown[0].id),
            Some(_) | None => None,
        });
        granted.filter(|id| !is_there(id)).count()
    }

    fn last(&self) -> Option<Call> {
        self.entries().last().map(|entry| entry.call.clone())
    }

    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().expect("no panic under the lock")
    }
}

/// Sends a request; `None` if the connection broke before there was an answer.
async fn send(client: &Client, base: &str, wanted: &Wanted) -> Option<(Answer, Option<Value>)> {
    let request = match wanted {
        Wanted::Reserve { partner, seats, key } => {
            let body = json!({"partnerId": partner, "seats": seats});
            let request = client.post(format!("{base}/reservations")).json(&body);
            match key {
                Some(key) => request.header("idempotency-key", key),
                None => request,
            }
        }
        Wanted::Cancel(id) => client.delete(format!("{base}/reservations/{id}")),
    };
    let response = match request.send().await {
        Ok(response) => response,
        Err(failure) if failure.is_connect() => {
            return Some((Answer::NothingHappened("no connection"), None));
        }
        Err(_) => return None,
    };
    let status = response.status();
    let replayed = response.headers().contains_key("idempotency-replayed");
    let text = response.text().await.ok()?;
    let body: Value =
        if text.is_empty() { Value::Null } else { serde_json::from_str(&text).ok()? };
    Some(read(status, replayed, body))
}

fn read(status: StatusCode, replayed: bool, body: Value) -> (Answer, Option<Value>) {
    let id = |body: &Value| {
        body["reservationId"].as_str().and_then(|id| id.parse().ok()).expect("an id")
    };
    let code = body["code"].as_str().unwrap_or_default();
    let answer = match (status.as_u16(), code) {
        (201, _) => {
            let shown = Shown {
                id: id(&body),
                partner: body["partnerId"].as_str().expect("a text").to_owned(),
                seats: i32::try_from(body["seats"].as_i64().expect("a number")).expect("few"),
                status: Status::parse(body["status"].as_str().expect("a text")),
                expires: None,
                version: body["version"].as_i64().expect("a number"),
            };
            let shown = vec![shown];
            let answer = if replayed { Answer::Replayed(shown) } else { Answer::Reserved(shown) };
            return (answer, Some(body));
        }
        (204, _) => Answer::Cancelled,
        (404, "reservation_not_found") => Answer::ReservationNotFound,
        (409, "insufficient_seats") => {
            let available = body["availableSeats"].as_i64().expect("a number");
            Answer::InsufficientSeats { available: i32::try_from(available).expect("few") }
        }
        (409, "version_conflict") => Answer::NothingHappened("version_conflict"),
        (422, "idempotency_key_reused") => Answer::KeyReused,
        (503, "overloaded") => Answer::NothingHappened("overloaded"),
        (503, "database_unavailable") => Answer::NothingHappened("database_unavailable"),
        (503, "outcome_unknown") => {
            Answer::Unknown { id: Some(id(&body)), base_version: body["version"].as_i64() }
        }
        _ => panic!("no answer of the contract: {status} {body}"),
    };
    (answer, None)
}

/// Gives each call the id of the reservation that it made. An id that no answer names belongs to a
/// call without an answer: to the first, if there are several for one logical request. A retry may
/// be told that it is unknown whether the reservation that it repeats is permanent: then, too, the
/// first call gets the id.
fn with_ids(mut calls: Vec<Call>, found: &Final) -> Vec<Call> {
    let mut of_partner: HashMap<String, Vec<usize>> = HashMap::new();
    for (number, call) in calls.iter_mut().enumerate() {
        if let Request::Reserve(booking) = &mut call.request {
            booking.items[0].id = match &call.answered {
                Some((_, Answer::Reserved(shown))) => shown[0].id,
                _ => Uuid::new_v4(),
            };
            of_partner.entry(booking.partner.clone()).or_default().push(number);
        }
    }
    for made in &found.reservations {
        let numbers = of_partner.get(&made.partner).map_or(&[][..], Vec::as_slice);
        let fits = |rank: u8| {
            numbers.iter().find(|number| match &calls[**number].answered {
                Some((_, Answer::Reserved(shown))) => rank == 0 && shown[0].id == made.id,
                Some((_, Answer::Unknown { id, .. })) => rank == 1 && *id == Some(made.id),
                None => rank == 1,
                Some(_) => rank == 2,
            })
        };
        let fit = (0..=2).find_map(fits).copied();
        if let Some(number) = fit
            && let Request::Reserve(booking) = &mut calls[number].request
        {
            booking.items[0].id = made.id;
        }
    }
    calls
}

/// Version, kinds, reservations, partners, seats.
type JournalRow = (i64, Vec<i16>, Vec<Uuid>, Vec<String>, Vec<i32>);

/// The journal of the default event, as the change feed would report it.
async fn versions(connection: &mut PgConnection) -> Vec<Version> {
    let rows: Vec<JournalRow> = sqlx::query_as(
        "select version, kinds::smallint[], reservation_ids, partner_ids, seats
           from journal where event_id = $1 order by version",
    )
    .bind(DEFAULT_EVENT)
    .fetch_all(connection)
    .await
    .expect("it can be read");
    let version = |(expected, row): (i64, JournalRow)| {
        let (version, kinds, ids, partners, seats) = row;
        assert_eq!(version, expected, "a version is missing");
        let changes = kinds.into_iter().zip(ids).zip(partners).zip(seats);
        let change =
            |(((kind, id), partner), seats)| Change { kind: Kind::of(kind), id, partner, seats };
        Version { at: 0, changes: changes.map(change).collect(), event: None }
    };
    (1..).zip(rows).map(version).collect()
}

async fn found(connection: &mut PgConnection) -> Final {
    let (total_seats, available_seats, held_seats, reservation_count, version) = sqlx::query_as(
        "select total_seats, available_seats, held_seats, reservation_count, version
           from events where id = $1",
    )
    .bind(DEFAULT_EVENT)
    .fetch_one(&mut *connection)
    .await
    .expect("the event is there");
    let rows: Vec<(Uuid, String, i32, String, i64)> = sqlx::query_as(
        "select id, partner_id, seats, status, version from reservations where event_id = $1",
    )
    .bind(DEFAULT_EVENT)
    .fetch_all(connection)
    .await
    .expect("it can be read");
    let show = |(id, partner, seats, status, version): (_, _, _, String, _)| Shown {
        id,
        partner,
        seats,
        status: Status::parse(&status),
        expires: None,
        version,
    };
    let reservations = rows.into_iter().map(show).collect();
    Final { total_seats, available_seats, held_seats, reservation_count, version, reservations }
}

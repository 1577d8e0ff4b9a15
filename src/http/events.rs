//! Events: what is left of them, and making, listing and changing them.

use std::sync::Arc;

use actix_web::http::header;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, get, patch, post, rt};
use garde::Validate;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use super::access::{Operator, Viewer};
use super::body::{self, Field, Fields};
use super::headers::{IDEMPOTENCY_KEY, RequiredIfMatchHeader, etag, if_match, shown};
use super::openapi::problems;
use super::problem::{Code, Problem};
use super::query::{NoQuery, Query};
use super::{App, event_id, rfc3339};
use crate::domain::{
    Acceptance, ChangeEvent, Command, Event, EventId, EventName, EventStatus, KeyId, NewEvent,
    SeatCount, Timestamp, TotalSeats,
};

const LIMIT_DEFAULT: i64 = 50;
const LIMIT_MAX: i64 = 200;

/// The counters of an event at one version.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EventSummary<'a> {
    #[schema(example = "node-meetup-2025")]
    event_id: &'a str,
    #[schema(example = "Node.js Meet-up")]
    name: &'a str,
    total_seats: i32,
    available_seats: i32,
    /// Confirmed reservations.
    reservation_count: i64,
    /// Moves by one with every change.
    version: i64,
}

/// An event.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Event)]
pub struct EventBody<'a> {
    #[serde(flatten)]
    summary: EventSummary<'a>,
    /// Seats of holds. Those of a hold that has just ended may be among them; they are sold all the
    /// same.
    held_seats: i32,
    #[schema(value_type = EventStatusWord)]
    status: &'static str,
    /// RFC 3339, UTC. Missing where sales are not to wait.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    sales_open_at: Option<String>,
    /// RFC 3339, UTC. Missing where sales have no end.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    sales_close_at: Option<String>,
    max_seats_per_reservation: i32,
    /// What one partner may have, held and booked together. Missing where there is no such limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    max_seats_per_partner: Option<i32>,
    /// RFC 3339, UTC.
    #[schema(format = DateTime)]
    created_at: String,
}

/// Whether an event sells. Sales past their end are shown as closed from the first request on that
/// was refused for it.
#[derive(ToSchema)]
#[schema(as = EventStatus, rename_all = "snake_case")]
#[allow(dead_code, reason = "describes a text")]
pub enum EventStatusWord {
    OnSale,
    Paused,
    Closed,
}

/// Events in the order of their ids.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventPage)]
pub struct EventPageBody<'a> {
    items: Vec<EventBody<'a>>,
    /// For the next page; `null` at the end.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

/// An event to make.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventRequest)]
pub struct EventRequest {
    /// Stands in URLs, and never changes. Made up by the service if it is left out.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = String, example = "rust-meetup",
        pattern = "^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
    event_id: Field<EventId>,
    /// Not blank, without control characters.
    #[serde(default)]
    #[garde(custom(body::required))]
    #[schema(required = true, value_type = String, min_length = 1, max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$",
        example = "Rust Meet-up")]
    name: Field<EventName>,
    #[serde(default)]
    #[garde(custom(body::required))]
    #[schema(required = true, value_type = i32, minimum = 1, maximum = 10_000_000, example = 120)]
    total_seats: Field<TotalSeats>,
    /// 10 if it is left out. Never changes.
    #[serde(default)]
    #[garde(custom(most_seats))]
    #[schema(required = false, value_type = i32, minimum = 1, maximum = 10_000, example = 10)]
    max_seats_per_reservation: Field<SeatCount>,
    /// What one partner may have, held and booked together, where the service runs with access
    /// control; as much as there is if it is left out. Never changes.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = i32, minimum = 1, maximum = 10_000_000, example = 50)]
    max_seats_per_partner: Field<TotalSeats>,
    /// Nothing is sold or held before.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = Option<String>, format = DateTime,
        example = "2026-01-31T12:00:00Z")]
    sales_open_at: Field<Option<Timestamp>>,
    /// Nothing is sold or held from then on.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = Option<String>, format = DateTime,
        example = "2030-01-31T12:00:00Z")]
    sales_close_at: Field<Option<Timestamp>>,
}

/// What to change; the rest stays as it is.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = EventChange, min_properties = 1)]
pub struct ChangeRequest {
    /// Not blank, without control characters.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = String, min_length = 1, max_length = 200,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$")]
    name: Field<EventName>,
    /// Not below what is sold or held.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = i32, minimum = 1, maximum = 10_000_000)]
    total_seats: Field<TotalSeats>,
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = EventStatusWord)]
    status: Field<EventStatus>,
    /// `null` takes it away.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = Option<String>, format = DateTime)]
    sales_open_at: Field<Option<Timestamp>>,
    /// `null` takes it away. Sales that have ended go on if this is later or taken away; those that
    /// were closed by `status` do not.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = Option<String>, format = DateTime)]
    sales_close_at: Field<Option<Timestamp>>,
}

impl Fields for EventRequest {
    const FIELDS: &'static [&'static str] = &[
        "eventId",
        "name",
        "totalSeats",
        "maxSeatsPerReservation",
        "maxSeatsPerPartner",
        "salesOpenAt",
        "salesCloseAt",
    ];
}

impl Fields for ChangeRequest {
    const FIELDS: &'static [&'static str] =
        &["name", "totalSeats", "status", "salesOpenAt", "salesCloseAt"];
}

fn most_seats(field: &Field<SeatCount>, _context: &()) -> garde::Result {
    match field {
        Field::Wrong => Err(garde::Error::new("must be a whole number from 1 to 10000")),
        Field::Missing | Field::Is(_) => Ok(()),
    }
}

impl<'a> From<&'a Event> for EventSummary<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            event_id: event.id.as_str(),
            name: event.name.as_str(),
            total_seats: event.total_seats,
            available_seats: event.available_seats,
            reservation_count: event.reservation_count,
            version: event.version,
        }
    }
}

impl<'a> From<&'a Event> for EventBody<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            summary: event.into(),
            held_seats: event.held_seats,
            status: event.status.shown(),
            sales_open_at: event.sales_open_at.map(rfc3339),
            sales_close_at: event.sales_close_at.map(rfc3339),
            max_seats_per_reservation: event.seats_per_reservation_max,
            max_seats_per_partner: event.seats_per_partner_max,
            created_at: rfc3339(event.created_at),
        }
    }
}

/// What is left of the default event
#[utoipa::path(
    tag = "reservations",
    security(("key" = ["partner", "read", "operator"])),
    responses(
        (status = 200, description = "The event as it is now", body = EventSummary,
            headers(("ETag" = String, description = "The event's version, in quotes"))),
        SummaryProblems,
    ),
)]
#[get("/reservations")]
pub async fn read_default_event(_viewer: Viewer, app: Data<App>) -> Result<HttpResponse, Problem> {
    let event = app.find_event(&app.default_event).await?;
    Ok(shown(event.version, &EventSummary::from(&*event)))
}

/// An event
#[utoipa::path(
    tag = "events",
    params(("eventId" = String, Path, example = "node-meetup-2025")),
    security(("key" = ["partner", "read", "operator"])),
    responses(
        (status = 200, description = "The event as it is now", body = EventBody,
            headers(("ETag" = String, description = "The event's version, in quotes"))),
        EventProblems,
    ),
)]
#[get("/events/{eventId}")]
pub async fn read_event(
    _viewer: Viewer,
    _: NoQuery,
    app: Data<App>,
    path: Path<String>,
) -> Result<HttpResponse, Problem> {
    let event = app.find_event(&event_id(&path)?).await?;
    Ok(shown(event.version, &EventBody::from(&*event)))
}

/// List the events
///
/// In the order of their ids.
#[utoipa::path(
    tag = "events",
    params(PageQuery),
    security(("key" = ["partner", "read", "operator"])),
    responses(
        (status = 200, description = "A page of them", body = EventPageBody),
        ListProblems,
    ),
)]
#[get("/events")]
pub async fn list_events(
    _viewer: Viewer,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let mut query = Query::of(&request)?;
    let limit = query.limit(LIMIT_DEFAULT, LIMIT_MAX)?;
    let after = query.take("cursor", "must be a nextCursor of this listing", EventId::parse)?;
    query.end()?;
    // One more, to know whether there is a next page.
    let (store, until) = (Arc::clone(&app.store), app.answer_by());
    let read = async move {
        let after = after.as_ref().map_or("", EventId::as_str);
        store.events_after(after, limit + 1, until).await
    };
    let mut events = rt::spawn(read).await.map_err(|_panic| Problem::internal())??;
    let more = events.len() as i64 > limit;
    events.truncate(limit as usize);
    let next_cursor = events.last().filter(|_| more).map(|event| event.id.to_string());
    let items = events.iter().map(EventBody::from).collect();
    Ok(HttpResponse::Ok().json(EventPageBody { items, next_cursor }))
}

/// Make an event
///
/// It is on sale at once, unless `salesOpenAt` says otherwise. Events are never deleted. With an
/// `eventId`, it is safe to send again: there is one event with that id. An `Idempotency-Key`, which
/// is for reservations, is refused without one.
#[utoipa::path(
    tag = "events",
    request_body = EventRequest,
    security(("key" = ["operator"])),
    responses(
        (status = 201, description = "Made", body = EventBody, headers(
            ("Location" = String, description = "The path of the event"),
            ("ETag" = String, description = "The event's version, in quotes"),
        )),
        MakeProblems,
    ),
)]
#[post("/events")]
pub async fn make_event(
    operator: Operator,
    _: NoQuery,
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::read(&request, payload).await?;
    let wanted: EventRequest = body::parse_known(&body, &())?;
    // Who sends a key means to be safe from making two.
    if request.headers().contains_key(IDEMPOTENCY_KEY) && !wanted.event_id.is_given() {
        let detail = "is required with an Idempotency-Key, which is for reservations: the eventId is \
                      what makes one event of a request that is sent again";
        return Err(Problem::wrong("eventId", detail));
    }
    let made_up = || EventId::parse(&Uuid::now_v7().to_string()).expect("a UUID is a slug");
    let new = NewEvent {
        id: wanted.event_id.given().unwrap_or_else(made_up),
        name: wanted.name.must(),
        total_seats: wanted.total_seats.must(),
        seats_per_reservation_max: wanted
            .max_seats_per_reservation
            .given()
            .unwrap_or(SeatCount::DEFAULT_MAX),
        seats_per_partner_max: wanted.max_seats_per_partner.given(),
        sales_open_at: wanted.sales_open_at.given().flatten(),
        sales_close_at: wanted.sales_close_at.given().flatten(),
    };
    if let (Some(open), Some(close)) = (new.sales_open_at, new.sales_close_at)
        && close <= open
    {
        return Err(Problem::sales_window_empty());
    }
    let event = app.make_event(new, operator.key_id().cloned()).await?;
    let mut response = HttpResponse::Created();
    response
        .insert_header((header::LOCATION, format!("/events/{}", event.id)))
        .insert_header(etag(event.version));
    Ok(response.json(EventBody::from(&event)))
}

/// Change an event
///
/// Its name, its seats, when it sells. A paused or closed event sells and holds nothing new;
/// reservations that exist can still be confirmed, cancelled and shrunk.
#[utoipa::path(
    tag = "events",
    request_body = ChangeRequest,
    params(("eventId" = String, Path, example = "node-meetup-2025"), RequiredIfMatchHeader),
    security(("key" = ["operator"])),
    responses(
        (status = 200, description = "The event after the change", body = EventBody,
            headers(("ETag" = String, description = "The event's version, in quotes"))),
        ChangeProblems,
    ),
)]
#[patch("/events/{eventId}")]
pub async fn change_event(
    operator: Operator,
    _: NoQuery,
    app: Data<App>,
    path: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let event_id = event_id(&path)?;
    let body = body::read(&request, payload).await?;
    let wanted: ChangeRequest = body::parse_known(&body, &())?;
    let Some(precondition) = if_match(&request)? else {
        let detail = "Send If-Match with the version that this is meant for, or with *";
        return Err(Problem::new(Code::PreconditionRequired, detail));
    };
    let change = ChangeEvent {
        name: wanted.name.given(),
        total_seats: wanted.total_seats.given(),
        status: wanted.status.given(),
        sales_open_at: wanted.sales_open_at.given(),
        sales_close_at: wanted.sales_close_at.given(),
        precondition,
        by: operator.caller(),
    };
    if change.is_empty() {
        let fields = "name, totalSeats, status, salesOpenAt or salesCloseAt";
        return Err(Problem::wrong("body", format!("must have at least one of {fields}")));
    }
    let command = Command::ChangeEvent(change);
    match app.submit(&event_id, command, app.answer_by()).await? {
        Acceptance::EventChanged(event) | Acceptance::EventUnchanged(event) => {
            Ok(shown(event.version, &EventBody::from(&event)))
        }
        Acceptance::Reserved(_)
        | Acceptance::Replayed(_)
        | Acceptance::Altered(_)
        | Acceptance::Unaltered(_)
        | Acceptance::Cancelled
        | Acceptance::Swept => unreachable!("a change of an event is not answered so"),
    }
}

impl App {
    /// The event as it is now.
    pub async fn find_event(&self, id: &EventId) -> Result<Arc<Event>, Problem> {
        self.find_event_by(id, self.answer_by()).await
    }

    /// The same, for a request of which time has gone by.
    pub async fn find_event_by(&self, id: &EventId, until: Instant) -> Result<Arc<Event>, Problem> {
        let event = self.summaries.event(id, until).await?;
        event.ok_or_else(Problem::event_not_found)
    }

    async fn make_event(&self, new: NewEvent, by: Option<KeyId>) -> Result<Event, Problem> {
        // In a task of its own: it may be half way when the client hangs up.
        let (store, until) = (Arc::clone(&self.store), self.answer_by());
        let id = new.id.clone();
        let making =
            async move { store.make_event(&new, Uuid::new_v4(), by.as_ref(), until).await };
        match rt::spawn(making).await {
            Ok(Ok(Some(event))) => Ok(event),
            Ok(Ok(None)) => {
                Err(Problem::new(Code::EventExists, format!("Event {id} exists already")))
            }
            Ok(Err(failure)) => Err(Problem::event_not_made(failure, &id)),
            Err(_panic) => Err(Problem::event_unknown(&id)),
        }
    }
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes parameters")]
struct PageQuery {
    /// How many of them, at most.
    #[param(value_type = i32, required = false, minimum = 1, maximum = 200, default = 50)]
    limit: Option<i32>,
    /// The `nextCursor` of the page before.
    #[param(value_type = String, required = false,
        pattern = "^[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?$")]
    cursor: Option<String>,
}

problems! {
    SummaryProblems: EventNotFound, Overloaded, DatabaseUnavailable;
    EventProblems: ValidationFailed, EventNotFound, Overloaded, DatabaseUnavailable;
    ListProblems: ValidationFailed, Internal, Overloaded, DatabaseUnavailable;
    MakeProblems: ValidationFailed, MalformedJson, RequestTimeout, BodyTooLarge,
        UnsupportedMediaType, EventExists, Internal, Overloaded, DatabaseUnavailable,
        OutcomeUnknown;
    ChangeProblems: ValidationFailed, MalformedJson, EventNotFound, RequestTimeout, BodyTooLarge,
        UnsupportedMediaType, CapacityBelowSold, VersionConflict, PreconditionFailed,
        PreconditionRequired, Internal, Overloaded, DatabaseUnavailable, OutcomeUnknown;
}

//! Reservations: make, read and cancel them, of the default event and of any other.

use std::sync::Arc;

use actix_web::http::header;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, delete, get, post, rt};
use garde::Validate;
use serde::{Deserialize, Serialize};
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use super::body::{self, Field};
use super::openapi::problems;
use super::problem::{FieldError, Problem};
use super::{App, event_id};
use crate::domain::{
    Acceptance, Command, EventId, IdempotencyKey, PartnerId, Reservation, ReservationId, Reserve,
    SeatCount,
};

/// The header of a request that may be sent more than once.
const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// The header of an answer to one that was sent before.
const IDEMPOTENCY_REPLAYED: &str = "Idempotency-Replayed";

/// What to book.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ReservationRequest)]
pub struct ReservationRequest {
    /// Who books. Not blank, without control characters.
    #[serde(default)]
    #[garde(custom(body::required))]
    #[schema(required = true, value_type = String, min_length = 1, max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$",
        example = "abc-corp")]
    partner_id: Field<PartnerId>,
    #[serde(default)]
    #[garde(custom(body::required))]
    #[schema(required = true, value_type = i32, minimum = 1, maximum = 10, example = 3)]
    seats: Field<SeatCount>,
}

/// A reservation.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Reservation)]
pub struct ReservationBody<'a> {
    reservation_id: Uuid,
    #[schema(example = "node-meetup-2025")]
    event_id: &'a str,
    #[schema(example = "abc-corp")]
    partner_id: &'a str,
    #[schema(minimum = 1)]
    seats: i32,
    /// `held`, `confirmed`, `cancelled` or `expired`.
    #[schema(example = "confirmed")]
    status: &'static str,
    /// The event's version at which this reservation last changed.
    #[schema(minimum = 1)]
    version: i64,
    /// RFC 3339, UTC.
    #[schema(format = DateTime)]
    created_at: String,
}

impl<'a> From<&'a Reservation> for ReservationBody<'a> {
    fn from(reservation: &'a Reservation) -> Self {
        let created_at = reservation.created_at.format(&Rfc3339);
        Self {
            reservation_id: reservation.id.0,
            event_id: reservation.event_id.as_str(),
            partner_id: reservation.partner_id.as_str(),
            seats: reservation.seats,
            status: reservation.status.as_str(),
            version: reservation.version,
            created_at: created_at.expect("years of the database's clock have four digits"),
        }
    }
}

/// Book seats of the default event
///
/// Answered at once with a reservation or a refusal; nothing is accepted to be decided later.
#[utoipa::path(
    tag = "reservations",
    request_body = ReservationRequest,
    params(IdempotencyKeyHeader),
    responses(Reserved, ReserveProblems),
)]
#[post("/reservations")]
pub async fn make_reservation(
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    reserve_in(&app, &app.default_event, &request, payload).await
}

/// Book seats of an event
#[utoipa::path(
    tag = "reservations",
    request_body = ReservationRequest,
    params(("eventId" = String, Path, example = "node-meetup-2025"), IdempotencyKeyHeader),
    responses(Reserved, ReserveProblems),
)]
#[post("/events/{eventId}/reservations")]
pub async fn make_reservation_of_event(
    app: Data<App>,
    path: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    reserve_in(&app, &event_id(&path)?, &request, payload).await
}

async fn reserve_in(
    app: &App,
    event_id: &EventId,
    request: &HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::read(request, payload).await?;
    let wanted: ReservationRequest = body::parse(&body)?;
    let (Field::Is(partner_id), Field::Is(seats)) = (wanted.partner_id, wanted.seats) else {
        unreachable!("parsing refuses a body in which a required field is not as it must be");
    };
    let key = idempotency_key(request)?;
    let id = app.batching.new_reservation_id();
    let command = Command::Reserve(Reserve { id, partner_id, seats, key });
    let accepted = app.batching.submit(event_id, command, app.answer_by()).await;
    match accepted.map_err(|rejection| Problem::from_rejection(rejection, event_id))? {
        Acceptance::Reserved(reservation) => Ok(created(&reservation, false)),
        Acceptance::Replayed(reservation) => Ok(created(&reservation, true)),
        Acceptance::Cancelled => unreachable!("only a cancel is answered so"),
    }
}

fn created(reservation: &Reservation, replayed: bool) -> HttpResponse {
    let location = format!("/events/{}/reservations/{}", reservation.event_id, reservation.id.0);
    let mut response = HttpResponse::Created();
    response.insert_header((header::LOCATION, location));
    if replayed {
        response.insert_header((IDEMPOTENCY_REPLAYED, "true"));
    }
    response.json(ReservationBody::from(reservation))
}

fn idempotency_key(request: &HttpRequest) -> Result<Option<IdempotencyKey>, Problem> {
    let mut given = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(first) = given.next() else { return Ok(None) };
    let key = first.to_str().ok().and_then(IdempotencyKey::parse);
    match (key, given.next()) {
        (Some(key), None) => Ok(Some(key)),
        _ => Err(Problem::validation(vec![FieldError {
            field: IDEMPOTENCY_KEY.into(),
            detail: "must be 1 to 255 visible ASCII characters, and stand there once".into(),
        }])),
    }
}

/// Read a reservation
///
/// Of any event. It stays readable after it was cancelled.
#[utoipa::path(
    tag = "reservations",
    params(("reservationId" = Uuid, Path)),
    responses(
        (status = 200, description = "The reservation as it is now", body = ReservationBody),
        ReadProblems,
    ),
)]
#[get("/reservations/{reservationId}")]
pub async fn read_reservation(app: Data<App>, path: Path<String>) -> Result<HttpResponse, Problem> {
    let found = find(&app, reservation_id(&path)?, None, app.answer_by()).await?;
    Ok(HttpResponse::Ok().json(ReservationBody::from(&found)))
}

/// Read a reservation of an event
#[utoipa::path(
    tag = "reservations",
    params(
        ("eventId" = String, Path, example = "node-meetup-2025"),
        ("reservationId" = Uuid, Path),
    ),
    responses(
        (status = 200, description = "The reservation as it is now", body = ReservationBody),
        ReadOfEventProblems,
    ),
)]
#[get("/events/{eventId}/reservations/{reservationId}")]
pub async fn read_reservation_of_event(
    app: Data<App>,
    path: Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let event_id = event_id(&path.0)?;
    let id = reservation_id(&path.1)?;
    let found = find(&app, id, Some(event_id), app.answer_by()).await?;
    Ok(HttpResponse::Ok().json(ReservationBody::from(&found)))
}

/// Cancel a reservation
///
/// Of any event. Its seats are sellable at once, and are given back once, however often this is
/// called.
#[utoipa::path(
    tag = "reservations",
    params(("reservationId" = Uuid, Path)),
    responses((status = 204, description = "Cancelled by this call"), CancelProblems),
)]
#[delete("/reservations/{reservationId}")]
pub async fn cancel_reservation(
    app: Data<App>,
    path: Path<String>,
) -> Result<HttpResponse, Problem> {
    let id = reservation_id(&path)?;
    let answer_by = app.answer_by();
    let event_id = find(&app, id, None, answer_by).await?.event_id;
    cancel_in(&app, &event_id, id, answer_by).await
}

/// Cancel a reservation of an event
#[utoipa::path(
    tag = "reservations",
    params(
        ("eventId" = String, Path, example = "node-meetup-2025"),
        ("reservationId" = Uuid, Path),
    ),
    responses((status = 204, description = "Cancelled by this call"), CancelOfEventProblems),
)]
#[delete("/events/{eventId}/reservations/{reservationId}")]
pub async fn cancel_reservation_of_event(
    app: Data<App>,
    path: Path<(String, String)>,
) -> Result<HttpResponse, Problem> {
    let event_id = event_id(&path.0)?;
    cancel_in(&app, &event_id, reservation_id(&path.1)?, app.answer_by()).await
}

async fn cancel_in(
    app: &App,
    event_id: &EventId,
    id: ReservationId,
    answer_by: Instant,
) -> Result<HttpResponse, Problem> {
    let accepted = app.batching.submit(event_id, Command::Cancel(id), answer_by).await;
    accepted.map_err(|rejection| Problem::from_rejection(rejection, event_id))?;
    Ok(HttpResponse::NoContent().finish())
}

async fn find(
    app: &App,
    id: ReservationId,
    event_id: Option<EventId>,
    until: Instant,
) -> Result<Reservation, Problem> {
    // In a task of its own: dropped in the middle of a read, with a request whose client has hung
    // up, the connection to the database would have to be closed.
    let store = Arc::clone(&app.store);
    let read = async move { store.reservation(id, event_id.as_ref(), until).await };
    let found = rt::spawn(read).await.map_err(|_panic| Problem::internal())??;
    found.ok_or_else(Problem::reservation_not_found)
}

/// Only the form with hyphens: one reservation has one URL.
fn reservation_id(text: &str) -> Result<ReservationId, Problem> {
    let parsed = Uuid::try_parse(text).ok().filter(|_| text.len() == 36);
    parsed.map(ReservationId).ok_or_else(Problem::reservation_not_found)
}

/// The answer to a booking.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "describes an answer")]
enum Reserved {
    /// Booked, or booked before under the same key
    #[response(status = 201, headers(
        ("Location" = String, description = "The path of the reservation"),
        ("Idempotency-Replayed" = String,
            description = "`true` if an earlier request with the same key made it"),
    ))]
    Created(ReservationBody<'static>),
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header")]
struct IdempotencyKeyHeader {
    /// 1 to 255 visible ASCII characters. Of one partner and event, the same key makes one
    /// reservation, however often the request is sent.
    #[param(rename = "Idempotency-Key", value_type = String, required = false, min_length = 1,
        max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

problems! {
    ReserveProblems: ValidationFailed, MalformedJson, EventNotFound, RequestTimeout, BodyTooLarge,
        UnsupportedMediaType, InsufficientSeats, VersionConflict, IdempotencyKeyReused, Internal,
        Overloaded, DatabaseUnavailable, OutcomeUnknown;
    ReadProblems: ReservationNotFound, Internal, Overloaded, DatabaseUnavailable;
    ReadOfEventProblems: EventNotFound, ReservationNotFound, Internal, Overloaded,
        DatabaseUnavailable;
    CancelProblems: ReservationNotFound, VersionConflict, Internal, Overloaded,
        DatabaseUnavailable, OutcomeUnknown;
    CancelOfEventProblems: EventNotFound, ReservationNotFound, VersionConflict, Internal,
        Overloaded, DatabaseUnavailable, OutcomeUnknown;
}

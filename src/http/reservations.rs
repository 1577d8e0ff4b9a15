//! Reservations: creating them, for the default event and for any other, and how they are shown.

use actix_web::http::header;
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, post};
use garde::Validate;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use uuid::Uuid;

use super::access::{Access, Booker, Identity};
use super::body::{self, Field, Fields, ITEMS_MAX, List};
use super::headers::{
    EventIfMatchHeader, IDEMPOTENCY_REPLAYED, IdempotencyKeyHeader, etag, idempotency_key,
    if_match, joined,
};
use super::openapi::problems;
use super::problem::Problem;
use super::query::NoQuery;
use super::{App, event_id, rfc3339};
use crate::domain::{
    Acceptance, Command, EventId, HoldTime, Item, PartnerId, PartnerLimits, Reference, Reservation,
    Reserve, SeatCount,
};

pub mod list;
pub mod one;

/// A reservation to create.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase")]
#[garde(context(Identity))]
#[schema(as = ReservationRequest)]
pub struct ReservationRequest {
    /// The partner that books. Not blank, without control characters. Required, except from callers
    /// with a partner's key: they may omit it, and may not name another partner.
    #[serde(default)]
    #[garde(custom(partner))]
    #[schema(required = false, value_type = String, min_length = 1, max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$",
        example = "abc-corp")]
    partner_id: Field<PartnerId>,
    /// At most the event's `maxSeatsPerReservation`.
    #[serde(default)]
    #[garde(custom(body::required))]
    #[schema(required = true, value_type = i32, minimum = 1, maximum = 10_000, example = 3)]
    seats: Field<SeatCount>,
    /// Hold the seats for this many seconds instead of booking them. They are given back
    /// automatically unless the hold is confirmed.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = i32, minimum = 10, maximum = 86_400)]
    hold_seconds: Field<HoldTime>,
    /// The partner's own text.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = String, min_length = 1, max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    reference: Field<Reference>,
}

/// Reservations to create, all or nothing.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase")]
#[garde(context(Identity))]
#[schema(as = ReservationListRequest)]
pub struct ListRequest {
    /// The partner that books. Not blank, without control characters. Required, except from callers
    /// with a partner's key: they may omit it, and may not name another partner.
    #[serde(default)]
    #[garde(custom(partner))]
    #[schema(required = false, value_type = String, min_length = 1, max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$",
        example = "abc-corp")]
    partner_id: Field<PartnerId>,
    #[serde(default)]
    #[garde(dive)]
    #[schema(required = true, value_type = Vec<ItemRequest>, min_items = 1, max_items = 100)]
    items: List<ItemRequest>,
}

/// One of the reservations to create.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase")]
#[garde(context(Identity))]
#[schema(as = ReservationItem)]
pub struct ItemRequest {
    /// At most the event's `maxSeatsPerReservation`.
    #[serde(default)]
    #[garde(custom(body::required))]
    #[schema(required = true, value_type = i32, minimum = 1, maximum = 10_000, example = 3)]
    seats: Field<SeatCount>,
    /// Hold the seats for this many seconds instead of booking them.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = i32, minimum = 10, maximum = 86_400)]
    hold_seconds: Field<HoldTime>,
    /// The partner's own text.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = String, min_length = 1, max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]+$")]
    reference: Field<Reference>,
}

const _: () = assert!(ITEMS_MAX == 100, "as the schema says");

/// Required from callers that may book for more than one partner.
fn partner(field: &Field<PartnerId>, identity: &Identity) -> garde::Result {
    match identity.partner() {
        Some(_) => body::optional(field, identity),
        None => body::required(field, identity),
    }
}

impl Fields for ReservationRequest {
    const FIELDS: &'static [&'static str] = &["partnerId", "seats", "holdSeconds", "reference"];
}

impl Fields for ListRequest {
    const FIELDS: &'static [&'static str] = &["partnerId", "items"];
}

impl Fields for ItemRequest {
    const FIELDS: &'static [&'static str] = &["seats", "holdSeconds", "reference"];
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
    #[schema(value_type = ReservationStatus)]
    status: &'static str,
    /// When the hold expires, or when it expired; RFC 3339, UTC. Missing if the status is
    /// `confirmed` or `cancelled`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    hold_expires_at: Option<String>,
    /// The partner's own text, if there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reference: Option<&'a str>,
    /// The event's version at which this reservation last changed.
    #[schema(minimum = 1)]
    version: i64,
    /// RFC 3339, UTC.
    #[schema(format = DateTime)]
    created_at: String,
}

/// The status of a reservation. Held and confirmed reservations own their seats. A hold that has
/// just ended may still be shown as `held` for a moment; it can no longer be confirmed, and its
/// seats are available.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes a text")]
pub enum ReservationStatus {
    Held,
    Confirmed,
    Cancelled,
    Expired,
}

/// Reservations that were created together.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ReservationList)]
pub struct ListBody<'a> {
    /// In the order of the request.
    items: Vec<ReservationBody<'a>>,
}

impl<'a> From<&'a Reservation> for ReservationBody<'a> {
    fn from(reservation: &'a Reservation) -> Self {
        Self {
            reservation_id: reservation.id.0,
            event_id: reservation.event_id.as_str(),
            partner_id: reservation.partner_id.as_str(),
            seats: reservation.seats,
            status: reservation.status.as_str(),
            hold_expires_at: reservation.ends_at().map(rfc3339),
            reference: reservation.reference.as_ref().map(Reference::as_str),
            version: reservation.version,
            created_at: rfc3339(reservation.created_at),
        }
    }
}

/// Book seats of the default event
///
/// Answered at once with a reservation or a refusal; nothing is left to be decided later. With
/// `holdSeconds`, the seats are held instead. Unknown fields are ignored here, and only here.
#[utoipa::path(
    tag = "reservations",
    request_body = ReservationRequest,
    params(IdempotencyKeyHeader, EventIfMatchHeader),
    security(("key" = ["partner", "operator"])),
    responses(Reserved, ReserveProblems),
)]
#[post("/reservations")]
pub async fn make_reservation(
    booker: Booker,
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::read(&request, payload).await?;
    // The original contract does not refuse unknown fields.
    let wanted = body::parse(&body, &*booker)?;
    make_one(&app, &app.default_event, &booker, &request, wanted).await
}

/// Book seats of an event
///
/// Answered at once with a reservation or a refusal; nothing is left to be decided later. With
/// `holdSeconds`, the seats are held instead.
#[utoipa::path(
    tag = "reservations",
    request_body = ReservationRequest,
    params(("eventId" = String, Path, example = "node-meetup-2025"), IdempotencyKeyHeader,
        EventIfMatchHeader),
    security(("key" = ["partner", "operator"])),
    responses(Reserved, ReserveProblems),
)]
#[post("/events/{eventId}/reservations")]
pub async fn make_reservation_of_event(
    booker: Booker,
    _: NoQuery,
    app: Data<App>,
    path: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let event_id = event_id(&path)?;
    let body = body::read(&request, payload).await?;
    let wanted = body::parse_known(&body, &*booker)?;
    make_one(&app, &event_id, &booker, &request, wanted).await
}

/// Book seats of an event, all or nothing
///
/// Up to 100 reservations of one partner, at one version: all of them are created, or none is. One
/// `Idempotency-Key` covers the whole list.
#[utoipa::path(
    tag = "reservations",
    request_body = ListRequest,
    params(("eventId" = String, Path, example = "node-meetup-2025"), IdempotencyKeyHeader,
        EventIfMatchHeader),
    security(("key" = ["partner", "operator"])),
    responses(ReservedList, ReserveProblems),
)]
#[post("/events/{eventId}/reservations/batch")]
pub async fn make_reservations(
    booker: Booker,
    _: NoQuery,
    app: Data<App>,
    path: Path<String>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let event_id = event_id(&path)?;
    let body = body::read_list(&request, payload).await?;
    let wanted: ListRequest = body::parse_known(&body, &*booker)?;
    let items = wanted.items.must().map(|item| {
        let ItemRequest { seats, hold_seconds, reference } = item;
        app.item(seats.must(), hold_seconds.given(), reference.given())
    });
    let reserve = Reserve {
        partner_id: booked_for(&booker, wanted.partner_id)?,
        items: items.collect(),
        is_list: true,
        key: idempotency_key(&request)?,
        precondition: if_match(&request)?.unwrap_or_default(),
        by: booker.caller(),
        limits: app.partner_limits(),
    };
    let (made, replayed) = app.reserve(&event_id, reserve).await?;
    let items = made.iter().map(ReservationBody::from).collect();
    let mut response = HttpResponse::Created();
    if replayed {
        response.insert_header((IDEMPOTENCY_REPLAYED, "true"));
    }
    Ok(response.json(ListBody { items }))
}

async fn make_one(
    app: &App,
    event_id: &EventId,
    booker: &Booker,
    request: &HttpRequest,
    wanted: ReservationRequest,
) -> Result<HttpResponse, Problem> {
    let ReservationRequest { partner_id, seats, hold_seconds, reference } = wanted;
    let reserve = Reserve {
        partner_id: booked_for(booker, partner_id)?,
        items: vec![app.item(seats.must(), hold_seconds.given(), reference.given())],
        is_list: false,
        key: idempotency_key(request)?,
        precondition: if_match(request)?.unwrap_or_default(),
        by: booker.caller(),
        limits: app.partner_limits(),
    };
    let (made, replayed) = app.reserve(event_id, reserve).await?;
    let [made] = &made[..] else { unreachable!("one item makes one reservation") };
    let (event_id, id) = (made.event_id.as_str(), &mut Uuid::encode_buffer());
    let id = made.id.0.hyphenated().encode_lower(id);
    let location = joined(["/events/", event_id, "/reservations/", id]);
    let mut response = HttpResponse::Created();
    response.insert_header((header::LOCATION, location)).insert_header(etag(made.version));
    if replayed {
        response.insert_header((IDEMPOTENCY_REPLAYED, "true"));
    }
    Ok(response.json(ReservationBody::from(made)))
}

fn booked_for(booker: &Booker, named: Field<PartnerId>) -> Result<PartnerId, Problem> {
    let about = booker.about(named.given())?;
    Ok(about.expect("parsing refuses a body that does not say for whom"))
}

impl App {
    /// Only with access control: without it, callers can claim any name.
    fn partner_limits(&self) -> Option<PartnerLimits> {
        match &self.access {
            Access::Off => None,
            Access::Keys(guard) => Some(guard.limits),
        }
    }

    fn item(&self, seats: SeatCount, hold: Option<HoldTime>, reference: Option<Reference>) -> Item {
        Item { id: self.batching.new_reservation_id(), seats, hold, reference }
    }

    /// The reservations, and whether an earlier request created them.
    async fn reserve(
        &self,
        event_id: &EventId,
        reserve: Reserve,
    ) -> Result<(Vec<Reservation>, bool), Problem> {
        match self.submit(event_id, Command::Reserve(reserve), self.answer_by()).await? {
            Acceptance::Reserved(made) => Ok((made, false)),
            Acceptance::Replayed(made) => Ok((made, true)),
            Acceptance::Altered(_)
            | Acceptance::Unaltered(_)
            | Acceptance::Cancelled
            | Acceptance::EventChanged(_)
            | Acceptance::EventUnchanged(_)
            | Acceptance::Swept => unreachable!("a booking is not answered so"),
        }
    }
}

/// The answer to a booking.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "describes an answer")]
enum Reserved {
    /// Booked or held, by this request or by an earlier one with the same key
    #[response(status = 201, headers(
        ("Location" = String, description = "The path of the reservation"),
        ("ETag" = String, description = "The reservation's version, in quotes"),
        ("Idempotency-Replayed" = String,
            description = "`true` if an earlier request with the same key created it"),
    ))]
    Created(ReservationBody<'static>),
}

/// The answer to a booking of several reservations.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "describes an answer")]
enum ReservedList {
    /// Booked or held, by this request or by an earlier one with the same key
    #[response(status = 201, headers(
        ("Idempotency-Replayed" = String,
            description = "`true` if an earlier request with the same key created them"),
    ))]
    Created(ListBody<'static>),
}

problems! {
    ReserveProblems: ValidationFailed, MalformedJson, EventNotFound, RequestTimeout, BodyTooLarge,
        UnsupportedMediaType, InsufficientSeats, PartnerLimitExceeded, SalesClosed, VersionConflict, PreconditionFailed,
        IdempotencyKeyReused, Internal, Overloaded, DatabaseUnavailable, OutcomeUnknown;
}

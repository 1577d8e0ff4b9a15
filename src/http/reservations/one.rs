//! One reservation: read, confirm, extend, shrink, cancel. Each call exists in two forms: below the
//! event, and by the reservation's id alone.

use std::sync::Arc;

use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, routes, rt};
use garde::Validate;
use serde::Deserialize;
use tokio::time::Instant;
use utoipa::ToSchema;
use uuid::Uuid;

use super::ReservationBody;
use crate::domain::{
    Acceptance, Action, Alter, Command, EventId, HoldTime, Reservation, ReservationId, SeatCount,
};
use crate::http::access::{Booker, Identity, Viewer};
use crate::http::body::{self, Field, Fields};
use crate::http::headers::{IfMatchHeader, if_match, shown};
use crate::http::openapi::problems;
use crate::http::problem::Problem;
use crate::http::query::NoQuery;
use crate::http::{App, event_id};

/// How long to hold the seats from now on.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ExtendRequest)]
pub struct ExtendRequest {
    /// Seconds from now. A hold ends seven days after it was created, at the latest.
    #[serde(default)]
    #[garde(custom(body::required))]
    #[schema(required = true, value_type = i32, minimum = 10, maximum = 86_400, example = 300)]
    hold_seconds: Field<HoldTime>,
}

/// What to keep of a reservation.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ReservationChange)]
pub struct ShrinkRequest {
    /// The number of seats to keep, at most as many as the reservation has.
    #[serde(default)]
    #[garde(custom(body::required))]
    #[schema(required = true, value_type = i32, minimum = 1, maximum = 10_000, example = 1)]
    seats: Field<SeatCount>,
}

impl Fields for ExtendRequest {
    const FIELDS: &'static [&'static str] = &["holdSeconds"];
}

impl Fields for ShrinkRequest {
    const FIELDS: &'static [&'static str] = &["seats"];
}

/// The ids in a path.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ids {
    event_id: Option<String>,
    reservation_id: String,
}

/// The reservation that the ids name.
struct Target {
    event_id: Option<EventId>,
    id: ReservationId,
}

impl Target {
    fn of(ids: &Ids) -> Result<Self, Problem> {
        let event_id = ids.event_id.as_deref().map(event_id).transpose()?;
        // Only the form with hyphens is accepted, so that a reservation has one URL.
        let text = &ids.reservation_id;
        let id = Uuid::try_parse(text).ok().filter(|_| text.len() == 36);
        let id = id.map(ReservationId).ok_or_else(Problem::reservation_not_found)?;
        Ok(Self { event_id, id })
    }

    /// Reads the reservation, if `identity` may see it.
    async fn find(
        self,
        app: &App,
        identity: &Identity,
        until: Instant,
    ) -> Result<Reservation, Problem> {
        let Self { event_id, id } = self;
        let event = event_id.clone();
        // In a task of its own: when a client hangs up, its request is dropped, and if that dropped
        // a read in the middle, its connection to the database would have to be closed.
        let store = Arc::clone(&app.store);
        let read = async move { store.reservation(id, event_id.as_ref(), until).await };
        let found = rt::spawn(read).await.map_err(|_panic| Problem::internal())??;
        if let (None, Some(event)) = (&found, event) {
            app.find_event_by(&event, until).await?;
        }
        // Another partner's reservation is answered like one that does not exist.
        let found = found.filter(|found| identity.caller().may_touch(&found.partner_id));
        found.ok_or_else(Problem::reservation_not_found)
    }

    /// The reservation after the action; `None` if it was cancelled.
    async fn alter(
        self,
        app: &App,
        action: Action,
        booker: &Booker,
        request: &HttpRequest,
    ) -> Result<Option<Reservation>, Problem> {
        let precondition = if_match(request)?.unwrap_or_default();
        let answer_by = app.answer_by();
        let id = self.id;
        let event_id = match self.event_id {
            Some(event_id) => event_id,
            None => self.find(app, booker, answer_by).await?.event_id,
        };
        let command = Command::Alter(Alter { id, action, precondition, by: booker.caller() });
        match app.submit(&event_id, command, answer_by).await? {
            Acceptance::Altered(made) | Acceptance::Unaltered(made) => Ok(Some(made)),
            Acceptance::Cancelled => Ok(None),
            Acceptance::Reserved(_)
            | Acceptance::Replayed(_)
            | Acceptance::EventChanged(_)
            | Acceptance::EventUnchanged(_)
            | Acceptance::Swept => unreachable!("a change is not answered so"),
        }
    }
}

async fn alter(
    app: &App,
    ids: &Ids,
    action: Action,
    booker: &Booker,
    request: &HttpRequest,
) -> Result<HttpResponse, Problem> {
    Ok(match Target::of(ids)?.alter(app, action, booker, request).await? {
        Some(made) => shown(made.version, &ReservationBody::from(&made)),
        None => HttpResponse::NoContent().finish(),
    })
}

/// Read a reservation
///
/// A reservation stays readable after it was cancelled or has expired.
#[utoipa::path(
    tag = "reservations",
    operation_id = "read_reservation_of_event",
    params(
        ("eventId" = String, Path, example = "node-meetup-2025"),
        ("reservationId" = Uuid, Path),
    ),
    security(("key" = ["partner", "read", "operator"])),
    responses(Shown, ReadProblems),
)]
#[routes]
#[get("/events/{eventId}/reservations/{reservationId}")]
#[get("/reservations/{reservationId}")]
pub async fn read_reservation(
    viewer: Viewer,
    _: NoQuery,
    app: Data<App>,
    ids: Path<Ids>,
) -> Result<HttpResponse, Problem> {
    let found = Target::of(&ids)?.find(&app, &viewer, app.answer_by()).await?;
    Ok(shown(found.version, &ReservationBody::from(&found)))
}

/// Cancel a reservation
///
/// Cancels a booking or a hold. Its seats are available again at once, and are given back only
/// once, however often this is called.
#[utoipa::path(
    tag = "reservations",
    operation_id = "cancel_reservation_of_event",
    params(
        ("eventId" = String, Path, example = "node-meetup-2025"),
        ("reservationId" = Uuid, Path),
        IfMatchHeader,
    ),
    security(("key" = ["partner", "operator"])),
    responses((status = 204, description = "Cancelled by this call"), CancelProblems),
)]
#[routes]
#[delete("/events/{eventId}/reservations/{reservationId}")]
#[delete("/reservations/{reservationId}")]
pub async fn cancel_reservation(
    booker: Booker,
    _: NoQuery,
    app: Data<App>,
    ids: Path<Ids>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    body::read_nothing(payload).await?;
    alter(&app, &ids, Action::Cancel, &booker, &request).await
}

/// Confirm a hold
///
/// The hold becomes a booking. Confirming it again changes nothing, and is not an error.
#[utoipa::path(
    tag = "reservations",
    operation_id = "confirm_reservation_of_event",
    params(
        ("eventId" = String, Path, example = "node-meetup-2025"),
        ("reservationId" = Uuid, Path),
        IfMatchHeader,
    ),
    security(("key" = ["partner", "operator"])),
    responses(Shown, ConfirmProblems),
)]
#[routes]
#[post("/events/{eventId}/reservations/{reservationId}/confirm")]
#[post("/reservations/{reservationId}/confirm")]
pub async fn confirm_reservation(
    booker: Booker,
    _: NoQuery,
    app: Data<App>,
    ids: Path<Ids>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    body::read_nothing(payload).await?;
    alter(&app, &ids, Action::Confirm, &booker, &request).await
}

/// Extend a hold
///
/// The hold ends `holdSeconds` from now, but seven days after it was created at the latest.
#[utoipa::path(
    tag = "reservations",
    operation_id = "extend_reservation_of_event",
    request_body = ExtendRequest,
    params(
        ("eventId" = String, Path, example = "node-meetup-2025"),
        ("reservationId" = Uuid, Path),
        IfMatchHeader,
    ),
    security(("key" = ["partner", "operator"])),
    responses(Shown, ExtendProblems),
)]
#[routes]
#[post("/events/{eventId}/reservations/{reservationId}/extend")]
#[post("/reservations/{reservationId}/extend")]
pub async fn extend_reservation(
    booker: Booker,
    _: NoQuery,
    app: Data<App>,
    ids: Path<Ids>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::read(&request, payload).await?;
    let wanted: ExtendRequest = body::parse_known(&body, &())?;
    alter(&app, &ids, Action::Extend(wanted.hold_seconds.must()), &booker, &request).await
}

/// Shrink a reservation
///
/// Gives part of its seats back, which are available again at once. A reservation never grows;
/// requesting the number of seats that it has changes nothing, and is not an error.
#[utoipa::path(
    tag = "reservations",
    operation_id = "shrink_reservation_of_event",
    request_body = ShrinkRequest,
    params(
        ("eventId" = String, Path, example = "node-meetup-2025"),
        ("reservationId" = Uuid, Path),
        IfMatchHeader,
    ),
    security(("key" = ["partner", "operator"])),
    responses(Shown, ShrinkProblems),
)]
#[routes]
#[patch("/events/{eventId}/reservations/{reservationId}")]
#[patch("/reservations/{reservationId}")]
pub async fn shrink_reservation(
    booker: Booker,
    _: NoQuery,
    app: Data<App>,
    ids: Path<Ids>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let body = body::read(&request, payload).await?;
    let wanted: ShrinkRequest = body::parse_known(&body, &())?;
    alter(&app, &ids, Action::Shrink(wanted.seats.must()), &booker, &request).await
}

/// The answer that shows a reservation.
#[derive(utoipa::IntoResponses)]
#[allow(dead_code, reason = "describes an answer")]
enum Shown {
    /// The reservation as it is now
    #[response(status = 200, headers(
        ("ETag" = String, description = "The reservation's version, in quotes"),
    ))]
    Found(ReservationBody<'static>),
}

problems! {
    ReadProblems: ValidationFailed, EventNotFound, ReservationNotFound, Internal, Overloaded,
        DatabaseUnavailable;
    CancelProblems: EventNotFound, ValidationFailed, MalformedJson, RequestTimeout, BodyTooLarge,
        ReservationNotFound, VersionConflict,
        PreconditionFailed, Internal, Overloaded, DatabaseUnavailable, OutcomeUnknown;
    ConfirmProblems: EventNotFound, ValidationFailed, MalformedJson, RequestTimeout, BodyTooLarge,
        ReservationNotFound, HoldExpired,
        ReservationNotActive, VersionConflict, PreconditionFailed, Internal, Overloaded,
        DatabaseUnavailable, OutcomeUnknown;
    ExtendProblems: EventNotFound, ValidationFailed, MalformedJson, RequestTimeout,
        BodyTooLarge, UnsupportedMediaType, ReservationNotFound, HoldExpired,
        ReservationNotActive, VersionConflict, PreconditionFailed, Internal, Overloaded,
        DatabaseUnavailable, OutcomeUnknown;
    ShrinkProblems: EventNotFound, ValidationFailed, MalformedJson, RequestTimeout,
        BodyTooLarge, UnsupportedMediaType, ReservationNotFound, HoldExpired,
        ReservationNotActive, VersionConflict, PreconditionFailed, Internal, Overloaded,
        DatabaseUnavailable, OutcomeUnknown;
}

//! The feed: what changed, version by version, straight from the journal. `stream` sends the same
//! as it happens.

use std::sync::Arc;

use actix_web::web::{Data, Path};
use actix_web::{HttpRequest, HttpResponse, get, rt};
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::access::Overseer;
use super::events::EventStatusWord;
use super::openapi::problems;
use super::problem::Problem;
use super::query::Query;
use super::{App, event_id, rfc3339};
use crate::domain::EventStatus;
use crate::store::{ReservationChanged, Version, Versions};

const LIMIT_DEFAULT: i64 = 100;
const LIMIT_MAX: i64 = 1_000;
/// A page ends early, with the version that brings it to this many changes.
const CHANGES_MAX: i64 = 5_000;

/// What one version of an event changed.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = VersionChanges)]
pub struct VersionBody<'a> {
    version: i64,
    /// RFC 3339, UTC, by the database's clock.
    #[schema(format = DateTime)]
    at: String,
    changes: Vec<ChangeBody<'a>>,
}

/// A change of a reservation, or of the event itself.
#[derive(Serialize, ToSchema)]
#[serde(untagged)]
#[schema(as = Change)]
pub enum ChangeBody<'a> {
    Reservation(ReservationChangedBody<'a>),
    #[schema(value_type = EventChangedBody)]
    Event(EventChanged),
}

#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ReservationChanged)]
pub struct ReservationChangedBody<'a> {
    #[schema(value_type = ReservationChangeType)]
    r#type: &'static str,
    #[schema(value_type = String, format = Uuid)]
    reservation_id: uuid::Uuid,
    partner_id: &'a str,
    /// The number of seats taken (`reserved`, `held`), given back (`shrunk`, `cancelled`,
    /// `expired`) or kept (`confirmed`, `extended`).
    seats: i32,
    /// The id of the operator's key with which the change was requested. Missing if there was none.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    key_id: Option<&'a str>,
}

/// What happened to a reservation.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes a text")]
pub enum ReservationChangeType {
    Reserved,
    Held,
    Confirmed,
    Extended,
    Shrunk,
    Cancelled,
    Expired,
}

#[derive(Serialize)]
pub struct EventChanged {
    r#type: &'static str,
    #[serde(flatten)]
    fields: Map<String, Value>,
}

/// The properties of the event that were changed; the others stayed as they were.
#[derive(ToSchema)]
#[schema(as = EventChanged, rename_all = "camelCase")]
#[allow(dead_code, reason = "describes a body")]
pub struct EventChangedBody {
    r#type: EventChangeType,
    #[schema(nullable = false)]
    name: Option<String>,
    #[schema(nullable = false)]
    total_seats: Option<i32>,
    #[schema(nullable = false)]
    status: Option<EventStatusWord>,
    /// `null` if it was removed.
    #[schema(format = DateTime)]
    sales_open_at: Option<String>,
    /// `null` if it was removed.
    #[schema(format = DateTime)]
    sales_close_at: Option<String>,
    /// The id of the operator's key with which the change was requested. Missing if there was none.
    #[schema(nullable = false)]
    key_id: Option<String>,
}

#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes a text")]
pub enum EventChangeType {
    EventChanged,
}

/// Versions of an event, oldest first and without gaps.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = ChangePage)]
pub struct PageBody<'a> {
    items: Vec<VersionBody<'a>>,
    /// The event's version at the time of the answer. As long as the last item's version is lower,
    /// there are more.
    latest_version: i64,
}

impl<'a> From<&'a Version> for VersionBody<'a> {
    fn from(version: &'a Version) -> Self {
        let changes = version.changes.iter().map(ChangeBody::from);
        let event_change = version.event_change.as_ref().and_then(Value::as_object);
        let by = version.event_changed_by.as_deref();
        let event_change = event_change.map(|change| ChangeBody::of_event(change, by));
        let changes = changes.chain(event_change).collect();
        Self { version: version.version, at: rfc3339(version.at), changes }
    }
}

impl<'a> From<&'a ReservationChanged> for ChangeBody<'a> {
    fn from(change: &'a ReservationChanged) -> Self {
        Self::Reservation(ReservationChangedBody {
            r#type: change.kind.as_str(),
            reservation_id: change.id,
            partner_id: &change.partner_id,
            seats: change.seats,
            key_id: change.key_id.as_deref(),
        })
    }
}

impl ChangeBody<'_> {
    /// From the document in the journal, whose field names are the API's, and whose values are the
    /// table's.
    fn of_event(stored: &Map<String, Value>, key_id: Option<&str>) -> Self {
        let mut fields = stored.clone();
        if let Some(key_id) = key_id {
            fields.insert("keyId".into(), key_id.into());
        }
        if let Some(status) = fields.get_mut("status")
            && let Some(known) = status.as_str().and_then(EventStatus::parse)
        {
            *status = known.shown().into();
        }
        Self::Event(EventChanged { r#type: "event_changed", fields })
    }
}

/// List the changes of an event
///
/// The event's versions after `after`, oldest first: each occurs once, and none is left out. A
/// mirror of the event's reservations starts with 0, and continues from the last version that it
/// has seen. A page may have fewer than `limit` versions: as long as its last version is below
/// `latestVersion`, there are more.
#[utoipa::path(
    tag = "changes",
    params(("eventId" = String, Path, example = "node-meetup-2025"), ChangesQuery),
    security(("key" = ["read", "operator"])),
    responses(
        (status = 200, description = "A page of versions", body = PageBody),
        ChangesProblems,
    ),
)]
#[get("/events/{eventId}/changes")]
pub async fn list_changes(
    overseer: Overseer,
    app: Data<App>,
    path: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let event_id = event_id(&path)?;
    let mut query = Query::of(&request)?;
    let after = query.take("after", VERSION_MUST_BE, version)?.unwrap_or(0);
    let limit = query.limit(LIMIT_DEFAULT, LIMIT_MAX)?;
    query.end()?;
    // In a task of its own, for the same reason as the read of one reservation.
    let (store, until) = (Arc::clone(&app.store), app.answer_by());
    let turn = app.large_reads.turn(overseer.account(), until).await?;
    let read = async move {
        let _turn = turn;
        store.changes(&event_id, after, limit, CHANGES_MAX, until).await
    };
    let found = rt::spawn(read).await.map_err(|_panic| Problem::internal())??;
    let Versions { versions, latest } = found.ok_or_else(Problem::event_not_found)?;
    if after > latest {
        return Err(Problem::not_had("after", latest));
    }
    let items = versions.iter().map(VersionBody::from).collect();
    Ok(HttpResponse::Ok().json(PageBody { items, latest_version: latest }))
}

pub const VERSION_MUST_BE: &str = "must be a version number, or 0 for all versions";

/// Parses a version that a caller has given.
pub fn version(digits: &str) -> Option<i64> {
    let is_number = (1..=VERSION_DIGITS_MAX).contains(&digits.len())
        && digits.bytes().all(|digit| digit.is_ascii_digit());
    is_number.then(|| digits.parse().expect("it is a number of 18 digits"))
}

const VERSION_DIGITS_MAX: usize = 18;

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes parameters")]
struct ChangesQuery {
    /// The last version that the caller has seen.
    #[param(value_type = i64, required = false, minimum = 0, maximum = 999_999_999_999_999_999i64,
        default = 0)]
    after: Option<i64>,
    /// The maximum number of versions on the page.
    #[param(value_type = i32, required = false, minimum = 1, maximum = 1000, default = 100)]
    limit: Option<i32>,
}

problems! {
    ChangesProblems: ValidationFailed, EventNotFound, Internal, Overloaded, DatabaseUnavailable;
}

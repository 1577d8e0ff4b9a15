//! Events: what is left of them.

use std::sync::Arc;

use actix_web::web::{Data, Path};
use actix_web::{HttpResponse, get};
use serde::Serialize;
use time::format_description::well_known::Rfc3339;
use utoipa::ToSchema;

use super::openapi::problems;
use super::problem::Problem;
use super::{App, event_id};
use crate::domain::{Event, EventId};

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
    /// RFC 3339, UTC.
    #[schema(format = DateTime)]
    created_at: String,
}

impl<'a> From<&'a Event> for EventSummary<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            event_id: event.id.as_str(),
            name: &event.name,
            total_seats: event.total_seats,
            available_seats: event.available_seats,
            reservation_count: event.reservation_count,
            version: event.version,
        }
    }
}

impl<'a> From<&'a Event> for EventBody<'a> {
    fn from(event: &'a Event) -> Self {
        let created_at = event.created_at.format(&Rfc3339);
        let created_at = created_at.expect("years of the database's clock have four digits");
        Self { summary: event.into(), created_at }
    }
}

/// What is left of the default event
#[utoipa::path(
    tag = "reservations",
    responses(
        (status = 200, description = "The event as it is now", body = EventSummary),
        EventProblems,
    ),
)]
#[get("/reservations")]
pub async fn read_default_event(app: Data<App>) -> Result<HttpResponse, Problem> {
    let event = find(&app, &app.default_event).await?;
    Ok(HttpResponse::Ok().json(EventSummary::from(&*event)))
}

/// An event
#[utoipa::path(
    tag = "events",
    params(("eventId" = String, Path, example = "node-meetup-2025")),
    responses(
        (status = 200, description = "The event as it is now", body = EventBody),
        EventProblems,
    ),
)]
#[get("/events/{eventId}")]
pub async fn read_event(app: Data<App>, path: Path<String>) -> Result<HttpResponse, Problem> {
    let event = find(&app, &event_id(&path)?).await?;
    Ok(HttpResponse::Ok().json(EventBody::from(&*event)))
}

async fn find(app: &App, id: &EventId) -> Result<Arc<Event>, Problem> {
    let event = app.summaries.event(id, app.answer_by()).await?;
    event.ok_or_else(Problem::event_not_found)
}

problems! {
    EventProblems: EventNotFound, DatabaseUnavailable;
}

//! From what the engine says to what the client is told.

use std::borrow::Cow;
use std::time::Duration;

use super::access::TurnedAway;
use super::problem::{Code, Limit, Problem};
use super::rfc3339;
use crate::batching::{Rejection, SummaryUnavailable};
use crate::domain::{EventId, EventStatus, Refusal, Timestamp};
use crate::store::Unavailable;

/// A full queue is worked off in well under this time.
const RETRY_AFTER_OVERLOAD: Duration = Duration::from_secs(1);
/// Streams are open for long.
const RETRY_AFTER_STREAM: Duration = Duration::from_secs(10);
/// A database that restarts is back after about this time.
const RETRY_AFTER_OUTAGE: Duration = Duration::from_secs(2);

impl Problem {
    /// The one table from outcomes of the engine to problems.
    pub fn from_rejection(rejection: Rejection, event_id: &EventId) -> Self {
        match rejection {
            Rejection::Refused(refusal) => Self::from_refusal(refusal),
            Rejection::VersionConflict => Self::new(
                Code::VersionConflict,
                "The event changed too often while this was tried; try again",
            ),
            Rejection::Overloaded => Self::overloaded(),
            Rejection::DatabaseUnavailable => Self::database_unavailable(),
            Rejection::OutcomeUnknown { reservation_id, base_version } => {
                let mut problem = Self::outcome_unknown(if reservation_id.is_some() {
                    "send it again (a booking with the same Idempotency-Key), or read the reservation"
                } else {
                    "read the event, or send it again"
                });
                problem.more.event_id = Some(event_id.to_string());
                problem.more.reservation_id = reservation_id.map(|id| id.0.to_string());
                problem.more.version = base_version;
                problem
            }
            Rejection::Internal => Self::internal(),
        }
    }

    fn from_refusal(refusal: Refusal) -> Self {
        match refusal {
            Refusal::EventNotFound => Self::event_not_found(),
            Refusal::InsufficientSeats { available_seats, next_hold_expires_at } => {
                let mut problem = Self::new(Code::InsufficientSeats, "Not enough seats left");
                problem.more.available_seats = Some(available_seats);
                problem.more.next_hold_expires_at = next_hold_expires_at;
                problem
            }
            Refusal::SalesClosed { status, sales_open_at, sales_close_at } => {
                let mut problem = Self::new(Code::SalesClosed, sales(status, sales_open_at));
                problem.more.sales_open_at = sales_open_at;
                problem.more.sales_close_at = sales_close_at;
                problem
            }
            Refusal::TooManySeats { item, seats_max } => {
                let field = item.map_or("seats".into(), |item| format!("items[{item}].seats"));
                Self::wrong(&field, format!("must be a whole number from 1 to {seats_max}"))
            }
            Refusal::TooManyHolds { used, max } => Self::partner_limit("openHolds", used, max),
            Refusal::TooManySeatsOfPartner { used, max } => {
                Self::partner_limit("maxSeatsPerPartner", used, max)
            }
            Refusal::ReservationNotFound => Self::new(
                Code::ReservationNotFound,
                "There is no such reservation, or it is no longer active",
            ),
            Refusal::HoldExpired => {
                Self::new(Code::HoldExpired, "The hold has expired, and its seats are given back")
            }
            Refusal::ReservationNotActive { status } => Self::new(
                Code::ReservationNotActive,
                format!("The reservation is {}", status.as_str()),
            ),
            Refusal::CannotGrow { seats } => {
                Self::wrong("seats", format!("must be at most {seats}, which it has now"))
            }
            Refusal::CapacityBelowSold { taken_seats } => {
                let detail = format!("{taken_seats} seats are sold or held");
                let mut problem = Self::new(Code::CapacityBelowSold, detail);
                problem.more.taken_seats = Some(taken_seats);
                problem
            }
            Refusal::SalesWindowEmpty => Self::sales_window_empty(),
            Refusal::PreconditionFailed { version } => {
                let detail = format!(
                    "It is at version {version} now, which If-Match does not name (a weak tag, as in \
                     W/\"{version}\", names none)"
                );
                let mut problem = Self::new(Code::PreconditionFailed, detail);
                problem.more.version = Some(version);
                problem
            }
            Refusal::IdempotencyKeyReused => Self::new(
                Code::IdempotencyKeyReused,
                "This Idempotency-Key was used for a request with other values",
            ),
        }
    }

    fn partner_limit(limit: &'static str, used: i64, max: i64) -> Self {
        let what = if limit == "openHolds" { "open holds" } else { "seats" };
        let detail = format!(
            "This would be more than the {max} {what} that a partner may have of this event; it has \
             {used}"
        );
        let mut problem = Self::new(Code::PartnerLimitExceeded, detail);
        problem.more.limit = Some(Limit { limit, used, max });
        problem
    }

    pub fn event_not_found() -> Self {
        Self::new(Code::EventNotFound, "There is no event with this id")
    }

    pub fn reservation_not_found() -> Self {
        Self::new(Code::ReservationNotFound, "There is no such reservation")
    }

    pub fn sales_window_empty() -> Self {
        Self::wrong("salesCloseAt", "must be after salesOpenAt")
    }

    /// A mirror that goes on from there would miss what comes.
    pub fn not_had(field: &str, latest: i64) -> Self {
        Self::wrong(field, format!("must be a version that the event has had: it is at {latest}"))
    }

    pub fn internal() -> Self {
        Self::new(Code::Internal, "A defect of this service; nothing happened")
    }

    /// With what the caller can do to know.
    fn outcome_unknown(remedy: &str) -> Self {
        let detail = format!("The database did not say whether this was done; {remedy}");
        Self::new(Code::OutcomeUnknown, detail).retry_after(RETRY_AFTER_OUTAGE)
    }

    /// An event that may have been made all the same, where a statement was sent and not answered.
    pub fn event_not_made(failure: Unavailable, id: &EventId) -> Self {
        match failure {
            Unavailable::Busy | Unavailable::Connect(_) => failure.into(),
            Unavailable::TimedOut | Unavailable::Statement(_) => {
                log::error!("event {id} may not be made: {}", crate::chain(&failure));
                Self::event_unknown(id)
            }
        }
    }

    pub fn event_unknown(id: &EventId) -> Self {
        let remedy = format!(
            "GET /events/{id} finds it, if it was; a request with this eventId can be \
                              sent again"
        );
        let mut problem = Self::outcome_unknown(&remedy);
        problem.more.event_id = Some(id.to_string());
        problem
    }

    /// A key that may have been made or revoked all the same.
    pub fn key_not_written(failure: Unavailable, remedy: &str) -> Self {
        match failure {
            Unavailable::Busy | Unavailable::Connect(_) => failure.into(),
            Unavailable::TimedOut | Unavailable::Statement(_) => {
                log::error!("a key may not be written: {}", crate::chain(&failure));
                Self::key_unknown(remedy)
            }
        }
    }

    pub fn key_unknown(remedy: &str) -> Self {
        Self::outcome_unknown(remedy)
    }

    /// The same for all that is wrong with a key: who guesses learns nothing.
    pub fn unauthenticated(why: TurnedAway) -> Self {
        let detail = match why {
            TurnedAway::NoKey => "Send a key: `Authorization: Bearer tb_...`",
            _ => "The key is not valid",
        };
        Self::turned_away(Code::Unauthenticated, detail, why)
    }

    pub fn turned_away(code: Code, detail: impl Into<Cow<'static, str>>, why: TurnedAway) -> Self {
        let mut problem = Self::new(code, detail);
        problem.more.turned_away = Some(why);
        problem
    }

    pub fn key_not_found() -> Self {
        Self::new(Code::KeyNotFound, "There is no key with this id")
    }

    pub fn draining() -> Self {
        Self::new(Code::Draining, "This server is stopping").retry_after(RETRY_AFTER_OUTAGE)
    }

    pub fn schema_too_old() -> Self {
        let detail = "The database lacks a migration; run `ticketboss migrate`";
        Self::new(Code::DatabaseUnavailable, detail).retry_after(RETRY_AFTER_OUTAGE)
    }

    pub fn too_many_streams() -> Self {
        Self::new(Code::Overloaded, "Too many streams are open; nothing happened")
            .retry_after(RETRY_AFTER_STREAM)
    }

    fn overloaded() -> Self {
        Self::new(Code::Overloaded, "Too many requests are waiting; nothing happened")
            .retry_after(RETRY_AFTER_OVERLOAD)
    }

    pub fn database_unavailable() -> Self {
        Self::new(Code::DatabaseUnavailable, "The database cannot be reached; nothing happened")
            .retry_after(RETRY_AFTER_OUTAGE)
    }
}

/// Why an event sells nothing.
fn sales(status: EventStatus, sales_open_at: Option<Timestamp>) -> Cow<'static, str> {
    match (status, sales_open_at) {
        (EventStatus::OnSale, Some(open)) => format!("Sales open at {}", rfc3339(open)).into(),
        (EventStatus::OnSale, None) | (EventStatus::Ended, _) => "Sales have ended".into(),
        (EventStatus::Paused, _) => "Sales are paused".into(),
        (EventStatus::Closed, _) => "Sales are closed".into(),
    }
}

impl From<SummaryUnavailable> for Problem {
    fn from(failure: SummaryUnavailable) -> Self {
        match failure {
            SummaryUnavailable::Busy => Self::overloaded(),
            SummaryUnavailable::Failed => Self::database_unavailable(),
        }
    }
}

/// For reads that no batch waits for; logged here, since nobody else handles it.
impl From<Unavailable> for Problem {
    fn from(failure: Unavailable) -> Self {
        match failure {
            Unavailable::Busy => Self::overloaded(),
            Unavailable::TimedOut | Unavailable::Connect(_) | Unavailable::Statement(_) => {
                log::error!("a read failed: {}", crate::chain(&failure));
                Self::database_unavailable()
            }
        }
    }
}

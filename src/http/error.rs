//! Turns outcomes of the engine into the problems that clients receive.

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
/// Longer, since streams stay open for a long time.
const RETRY_AFTER_STREAM: Duration = Duration::from_secs(10);
/// A database that restarts is available again after about this time.
const RETRY_AFTER_OUTAGE: Duration = Duration::from_secs(2);

impl Problem {
    /// The one table that maps outcomes of the engine to problems.
    pub fn from_rejection(rejection: Rejection, event_id: &EventId) -> Self {
        match rejection {
            Rejection::Refused(refusal) => Self::from_refusal(refusal),
            Rejection::VersionConflict => Self::new(
                Code::VersionConflict,
                "The event changed during every attempt; send the request again",
            ),
            Rejection::Overloaded => Self::overloaded(),
            Rejection::DatabaseUnavailable => Self::database_unavailable(),
            Rejection::OutcomeUnknown { reservation_id, base_version } => {
                let mut problem = Self::outcome_unknown(if reservation_id.is_some() {
                    "repeat the request (a booking with the same Idempotency-Key), or read the \
                     reservation"
                } else {
                    "read the event, or repeat the request"
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
                Self::new(Code::HoldExpired, "The hold has expired; its seats were given back")
            }
            Refusal::ReservationNotActive { status } => Self::new(
                Code::ReservationNotActive,
                format!("The reservation is {}", status.as_str()),
            ),
            Refusal::CannotGrow { seats } => {
                Self::wrong("seats", format!("must be at most {seats}, the current number"))
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
                    "The current version is {version}, which If-Match does not name (a weak tag, \
                     such as W/\"{version}\", never matches)"
                );
                let mut problem = Self::new(Code::PreconditionFailed, detail);
                problem.more.version = Some(version);
                problem
            }
            Refusal::IdempotencyKeyReused => Self::new(
                Code::IdempotencyKeyReused,
                "This Idempotency-Key was already used for a different request",
            ),
        }
    }

    fn partner_limit(limit: &'static str, used: i64, max: i64) -> Self {
        let what = if limit == "openHolds" { "open holds" } else { "seats" };
        let detail = format!(
            "A partner may have at most {max} {what} of this event; this one already has {used}"
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

    /// Refuses a version that the event has not reached: a mirror that continued from there would
    /// miss changes.
    pub fn not_had(field: &str, latest: i64) -> Self {
        Self::wrong(field, format!("must be at most {latest}, the event's current version"))
    }

    pub fn internal() -> Self {
        Self::new(Code::Internal, "An internal error; nothing happened")
    }

    /// `remedy` says how the caller can find out.
    pub fn outcome_unknown(remedy: &str) -> Self {
        let detail = format!("It is not known whether this was done; {remedy}");
        Self::new(Code::OutcomeUnknown, detail).retry_after(RETRY_AFTER_OUTAGE)
    }

    /// A failure to create an event. If the statement was sent but not answered, the event may
    /// exist.
    pub fn event_not_made(failure: Unavailable, id: &EventId) -> Self {
        match failure {
            Unavailable::Busy | Unavailable::Connect(_) => failure.into(),
            Unavailable::TimedOut | Unavailable::Statement(_) => {
                log::error!("event {id} may have been created: {}", crate::chain(&failure));
                Self::event_unknown(id)
            }
        }
    }

    pub fn event_unknown(id: &EventId) -> Self {
        let remedy = format!(
            "GET /events/{id} shows whether the event was created; the request can be repeated \
             with this eventId"
        );
        let mut problem = Self::outcome_unknown(&remedy);
        problem.more.event_id = Some(id.to_string());
        problem
    }

    /// A failure to create or revoke a key. If the statement was sent but not answered, it may have
    /// been done.
    pub fn key_not_written(failure: Unavailable, remedy: &str) -> Self {
        match failure {
            Unavailable::Busy | Unavailable::Connect(_) => failure.into(),
            Unavailable::TimedOut | Unavailable::Statement(_) => {
                log::error!("a key may have been created or revoked: {}", crate::chain(&failure));
                Self::outcome_unknown(remedy)
            }
        }
    }

    /// The answer is the same for every key that is not valid, so that guessing reveals nothing.
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
        Self::new(Code::Draining, "This server is shutting down").retry_after(RETRY_AFTER_OUTAGE)
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

/// Why an event is not selling.
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

/// For reads outside of batches. Logged here, since nothing else handles the failure.
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

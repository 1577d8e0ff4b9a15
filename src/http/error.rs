//! From what the engine says to what the client is told.

use std::time::Duration;

use super::problem::{Code, Problem};
use crate::batching::{Rejection, SummaryUnavailable};
use crate::domain::{EventId, Refusal};
use crate::store::Unavailable;

/// A full queue is worked off in well under this time.
const RETRY_AFTER_OVERLOAD: Duration = Duration::from_secs(1);
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
                let mut problem = Self::new(
                    Code::OutcomeUnknown,
                    "The database did not say whether this was done; \
                     retry with the same Idempotency-Key, or read the reservation",
                )
                .retry_after(RETRY_AFTER_OUTAGE);
                problem.more.event_id = Some(event_id.to_string());
                problem.more.reservation_id = Some(reservation_id.0.to_string());
                problem.more.version = base_version;
                problem
            }
            Rejection::Internal => Self::internal(),
        }
    }

    fn from_refusal(refusal: Refusal) -> Self {
        match refusal {
            Refusal::EventNotFound => Self::event_not_found(),
            Refusal::InsufficientSeats { available_seats } => {
                let mut problem = Self::new(Code::InsufficientSeats, "Not enough seats left");
                problem.more.available_seats = Some(available_seats);
                problem
            }
            Refusal::ReservationNotFound => Self::reservation_not_found(),
            Refusal::IdempotencyKeyReused => Self::new(
                Code::IdempotencyKeyReused,
                "This Idempotency-Key was used for a request with other values",
            ),
        }
    }

    pub fn event_not_found() -> Self {
        Self::new(Code::EventNotFound, "There is no event with this id")
    }

    pub fn reservation_not_found() -> Self {
        Self::new(
            Code::ReservationNotFound,
            "There is no such reservation, or it is no longer active",
        )
    }

    pub fn internal() -> Self {
        Self::new(Code::Internal, "A defect of this service; nothing happened")
    }

    fn overloaded() -> Self {
        Self::new(Code::Overloaded, "Too many requests are waiting; nothing happened")
            .retry_after(RETRY_AFTER_OVERLOAD)
    }

    fn database_unavailable() -> Self {
        Self::new(Code::DatabaseUnavailable, "The database cannot be reached; nothing happened")
            .retry_after(RETRY_AFTER_OUTAGE)
    }
}

impl From<SummaryUnavailable> for Problem {
    fn from(_: SummaryUnavailable) -> Self {
        Self::database_unavailable()
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

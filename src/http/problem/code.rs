//! The table of problems: codes, statuses, and what they mean.

use actix_web::http::StatusCode;

/// What went wrong, for programs. Stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    ValidationFailed,
    MalformedJson,
    Unauthenticated,
    Forbidden,
    EventNotFound,
    ReservationNotFound,
    KeyNotFound,
    RouteNotFound,
    MethodNotAllowed,
    RequestTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    InsufficientSeats,
    PartnerLimitExceeded,
    EventExists,
    HoldExpired,
    ReservationNotActive,
    CapacityBelowSold,
    SalesClosed,
    PreconditionFailed,
    PreconditionRequired,
    VersionConflict,
    IdempotencyKeyReused,
    RateLimited,
    Internal,
    Overloaded,
    DatabaseUnavailable,
    OutcomeUnknown,
    Draining,
}

/// A row of the table of problems.
pub struct Entry {
    pub code: &'static str,
    pub status: u16,
    pub title: &'static str,
    /// The text of its page: what happened, and what to do.
    pub explanation: &'static str,
}

impl Code {
    pub const ALL: [Self; 29] = [
        Self::ValidationFailed,
        Self::MalformedJson,
        Self::Unauthenticated,
        Self::Forbidden,
        Self::EventNotFound,
        Self::ReservationNotFound,
        Self::KeyNotFound,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::InsufficientSeats,
        Self::PartnerLimitExceeded,
        Self::EventExists,
        Self::HoldExpired,
        Self::ReservationNotActive,
        Self::CapacityBelowSold,
        Self::SalesClosed,
        Self::PreconditionFailed,
        Self::PreconditionRequired,
        Self::VersionConflict,
        Self::IdempotencyKeyReused,
        Self::RateLimited,
        Self::Internal,
        Self::Overloaded,
        Self::DatabaseUnavailable,
        Self::OutcomeUnknown,
        Self::Draining,
    ];

    #[expect(clippy::too_many_lines, reason = "it is one table")]
    pub fn entry(self) -> Entry {
        let (code, status, title, explanation) = match self {
            Self::ValidationFailed => (
                "validation_failed",
                400,
                "The request is not valid",
                "A value of the request is missing or outside of what is allowed. `errors` names \
                 each field and what it must be. Nothing happened; correct the request.",
            ),
            Self::MalformedJson => (
                "malformed_json",
                400,
                "The body is not JSON",
                "The body could not be read as JSON (RFC 8259) in UTF-8. Nothing happened.",
            ),
            Self::Unauthenticated => (
                "unauthenticated",
                401,
                "A valid key is needed",
                "Send one as `Authorization: Bearer tb_...`. If one was sent, it is misspelt, has \
                 expired, was revoked, or has never existed; ask the operators of this service for \
                 another. Nothing happened.",
            ),
            Self::Forbidden => (
                "forbidden",
                403,
                "The key is not for this",
                "The key is valid, and its scope does not allow the request: a partner's key is for \
                 that partner's reservations alone, and keys that only read change nothing. Without \
                 access control, this is the answer to whatever is about keys. Nothing happened.",
            ),
            Self::EventNotFound => (
                "event_not_found",
                404,
                "No such event",
                "There is no event with the id in the path. Events are never deleted, so it has \
                 not existed before either.",
            ),
            Self::ReservationNotFound => (
                "reservation_not_found",
                404,
                "No such reservation",
                "There is no reservation with the id in the path (in the event, where the path \
                 names one), or it is another partner's. For a DELETE it may also have been cancelled already, or have \
                 expired: its seats have been given back, once.",
            ),
            Self::KeyNotFound => (
                "key_not_found",
                404,
                "No such key",
                "There is no key with the id in the path. Keys that were revoked stay in the list, \
                 and so this one has never existed.",
            ),
            Self::RouteNotFound => (
                "route_not_found",
                404,
                "No such route",
                "The API has nothing at this path. /openapi.json lists what it has.",
            ),
            Self::MethodNotAllowed => (
                "method_not_allowed",
                405,
                "The method is not allowed here",
                "The path exists, and the header `Allow` lists its methods.",
            ),
            Self::RequestTimeout => (
                "request_timeout",
                408,
                "The request did not arrive in time",
                "The body stopped arriving before it was complete. Nothing happened; send the \
                 request again.",
            ),
            Self::BodyTooLarge => (
                "body_too_large",
                413,
                "The body is too large",
                "No request for one reservation needs a body of more than a few kilobytes, and none \
                 for a hundred more than 200. Nothing happened.",
            ),
            Self::UnsupportedMediaType => (
                "unsupported_media_type",
                415,
                "The content type is not supported",
                "Send JSON, and say so: `Content-Type: application/json`. Nothing happened.",
            ),
            Self::InsufficientSeats => (
                "insufficient_seats",
                409,
                "Not enough seats left",
                "Fewer seats are left than were asked for; `availableSeats` says how many there \
                 were when this was decided. A smaller request may succeed, and cancelled seats \
                 may come back; so may held ones, from `nextHoldExpiresAt` on, where that is \
                 given. Nothing happened, and an idempotency key was not used up.",
            ),
            Self::PartnerLimitExceeded => (
                "partner_limit_exceeded",
                409,
                "More than a partner may have",
                "`limit` says of what: `maxSeatsPerPartner` counts the seats that the partner holds \
                 and has booked of this event, `openHolds` its holds. `limitUsed` is what it has, \
                 `limitMax` what it may have. A smaller request may succeed, or this one once \
                 something is cancelled. Nothing happened, and an idempotency key was not used up.",
            ),
            Self::EventExists => (
                "event_exists",
                409,
                "The event exists already",
                "There is an event with this `eventId`. Nothing happened: it is as it was. Choose \
                 another id, or leave it out to be given one.",
            ),
            Self::HoldExpired => (
                "hold_expired",
                409,
                "The hold's time is over",
                "The hold ended before this arrived, and its seats have been given back. Nothing \
                 happened; make a new reservation.",
            ),
            Self::ReservationNotActive => (
                "reservation_not_active",
                409,
                "The reservation's status does not allow this",
                "A cancelled reservation cannot be confirmed, extended or shrunk, and only a hold \
                 can be extended. Nothing happened.",
            ),
            Self::CapacityBelowSold => (
                "capacity_below_sold",
                409,
                "More seats are sold or held",
                "An event cannot have fewer seats than are sold or held; `takenSeats` says how many \
                 that were when this was decided. Nothing happened.",
            ),
            Self::SalesClosed => (
                "sales_closed",
                409,
                "The event sells nothing now",
                "The event is paused or closed, or its sales have not begun or have ended: \
                 `salesOpenAt` and `salesCloseAt` say when, where they are set. Reservations that \
                 exist can still be confirmed, cancelled and shrunk. Nothing happened, and an \
                 idempotency key was not used up.",
            ),
            Self::PreconditionFailed => (
                "precondition_failed",
                412,
                "It has changed meanwhile",
                "What `If-Match` names is not its version any more; `version` says what is. Nothing \
                 happened: read it again, and decide anew.",
            ),
            Self::PreconditionRequired => (
                "precondition_required",
                428,
                "`If-Match` is required",
                "Send the version that the change is meant for, as the `ETag` of a read has it, or \
                 `If-Match: *` for whatever version it is at. Nothing happened.",
            ),
            Self::VersionConflict => (
                "version_conflict",
                409,
                "The event changed too often meanwhile",
                "Other writers changed the event each time this request was about to be \
                 committed, and the service gave up. Nothing happened; send it again.",
            ),
            Self::IdempotencyKeyReused => (
                "idempotency_key_reused",
                422,
                "The idempotency key was used for another request",
                "A reservation of this partner was made under the same `Idempotency-Key` by a \
                 request with other values. Nothing happened; use a new key for a new request.",
            ),
            Self::RateLimited => (
                "rate_limited",
                429,
                "Too many requests",
                "More requests came with the keys of a partner, or with another key, than may; `RateLimit` \
                 says on every answer to a call that takes a key how many are left, and `RateLimit-Policy` how many there are. Nothing \
                 happened; send the request again after `Retry-After`.",
            ),
            Self::Internal => (
                "internal",
                500,
                "A defect of this service",
                "It is not the request's fault. Nothing happened. `requestId` finds the cause in \
                 the service's log.",
            ),
            Self::Overloaded => (
                "overloaded",
                503,
                "Too many requests are waiting",
                "The request was turned away before it was tried. Nothing happened; send it again \
                 after `Retry-After`.",
            ),
            Self::DatabaseUnavailable => (
                "database_unavailable",
                503,
                "The database cannot be reached",
                "Nothing happened; send the request again after `Retry-After`.",
            ),
            Self::OutcomeUnknown => (
                "outcome_unknown",
                503,
                "The outcome is unknown",
                "The change was sent to the database and its answer was lost, so it may have \
                 happened, or not. Send the request again with the same `Idempotency-Key`: it \
                 makes one reservation, whatever happened. Confirming, extending, shrinking and \
                 cancelling can be sent again, too (without `If-Match`: it would name the version \
                 before). Without a key: read `reservationId`; once the event's version is higher \
                 than `version`, a 404 is final. Whether an event was made, a read of `eventId` \
                 tells; of a key, the list of keys.",
            ),
            Self::Draining => (
                "draining",
                503,
                "The server is stopping",
                "Only `/ready` answers so: requests should go to another server from now on. What \
                 is sent here all the same is still answered, until the server is gone.",
            ),
        };
        Entry { code, status, title, explanation }
    }

    /// The last part of the problem's `type`.
    pub fn slug(self) -> String {
        self.entry().code.replace('_', "-")
    }

    pub fn from_slug(slug: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|code| code.slug() == slug)
    }

    pub fn status(self) -> StatusCode {
        let status = StatusCode::from_u16(self.entry().status);
        status.expect("the table has only valid status codes")
    }
}

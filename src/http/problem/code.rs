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
                "A value in the request is missing or not allowed. `errors` names each field and \
                 says what is wrong with it. Nothing happened; correct the request.",
            ),
            Self::MalformedJson => (
                "malformed_json",
                400,
                "The body is not valid JSON",
                "The body could not be read as JSON (RFC 8259) in UTF-8. Nothing happened; correct \
                 the body.",
            ),
            Self::Unauthenticated => (
                "unauthenticated",
                401,
                "A valid key is required",
                "Send a key as `Authorization: Bearer tb_...`. If one was sent, it is misspelt, \
                 has expired, was revoked, or never existed; ask the operators of this service for \
                 another one. Nothing happened.",
            ),
            Self::Forbidden => (
                "forbidden",
                403,
                "The key does not allow this",
                "The key is valid, but its scope does not allow the request: a partner's key is \
                 only for that partner's reservations, and a key with the scope `read` cannot \
                 change anything. Without access control, every request about keys is answered \
                 this way. Nothing happened.",
            ),
            Self::EventNotFound => (
                "event_not_found",
                404,
                "No such event",
                "There is no event with the id in the path. Events are never deleted, so it has \
                 never existed.",
            ),
            Self::ReservationNotFound => (
                "reservation_not_found",
                404,
                "No such reservation",
                "There is no reservation with the id in the path (in the event, if the path names \
                 one), or it belongs to another partner. For a DELETE, the reservation may also \
                 have been cancelled already, or have expired: its seats have been given back, \
                 once.",
            ),
            Self::KeyNotFound => (
                "key_not_found",
                404,
                "No such key",
                "There is no key with the id in the path. Revoked keys stay in the list, so this \
                 one has never existed.",
            ),
            Self::RouteNotFound => (
                "route_not_found",
                404,
                "No such route",
                "The API has nothing at this path. /openapi.json lists all paths.",
            ),
            Self::MethodNotAllowed => (
                "method_not_allowed",
                405,
                "The method is not allowed here",
                "The path exists, but does not support this method. The header `Allow` lists the \
                 methods that it supports.",
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
                "A request for one reservation never needs more than a few kilobytes, and one for \
                 a hundred reservations never more than 200. Nothing happened; send a smaller \
                 body.",
            ),
            Self::UnsupportedMediaType => (
                "unsupported_media_type",
                415,
                "The content type is not supported",
                "Send JSON that is not compressed, with the header `Content-Type: \
                 application/json`. Nothing happened.",
            ),
            Self::InsufficientSeats => (
                "insufficient_seats",
                409,
                "Not enough seats left",
                "Fewer seats are left than were requested; `availableSeats` says how many were \
                 left when this was decided. A smaller request may succeed. Seats become available \
                 again when reservations are cancelled, and may do so when holds expire, from \
                 `nextHoldExpiresAt` on, if that is given. Nothing happened, and the idempotency \
                 key, if any, is not used up.",
            ),
            Self::PartnerLimitExceeded => (
                "partner_limit_exceeded",
                409,
                "The partner's limit is exceeded",
                "`limit` names the limit: `maxSeatsPerPartner` counts the seats of this event that \
                 the partner has held and booked, `openHolds` its holds. `limitUsed` is how many \
                 it has, `limitMax` how many it may have. A smaller request may succeed, or this \
                 one after something has been cancelled. Nothing happened, and the idempotency \
                 key, if any, is not used up.",
            ),
            Self::EventExists => (
                "event_exists",
                409,
                "The event already exists",
                "There is already an event with this `eventId`. Nothing happened: that event is as \
                 it was. Choose another id, or omit it to have one generated.",
            ),
            Self::HoldExpired => (
                "hold_expired",
                409,
                "The hold has expired",
                "The hold ended before this request arrived, and its seats have been given back. \
                 Nothing happened; make a new reservation.",
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
                "More seats are already sold or held",
                "An event cannot have fewer seats than are sold or held; `takenSeats` says how \
                 many were when this was decided. Nothing happened.",
            ),
            Self::SalesClosed => (
                "sales_closed",
                409,
                "Sales are not open",
                "The event is paused or closed, or its sales have not opened yet or have ended: \
                 `salesOpenAt` and `salesCloseAt` say when, if they are set. Existing reservations \
                 can still be confirmed, cancelled and shrunk. Nothing happened, and the \
                 idempotency key, if any, is not used up.",
            ),
            Self::PreconditionFailed => (
                "precondition_failed",
                412,
                "The resource has changed",
                "`If-Match` does not name the current version, which is in `version`. Nothing \
                 happened: read the resource again, and decide whether the change still applies.",
            ),
            Self::PreconditionRequired => (
                "precondition_required",
                428,
                "If-Match is required",
                "Send `If-Match` with the version that the change is meant for, as in the `ETag` \
                 of a read, or `If-Match: *` for any version. Nothing happened.",
            ),
            Self::VersionConflict => (
                "version_conflict",
                409,
                "The event changed too often",
                "Other writers changed the event each time this request was about to be committed, \
                 and the service gave up. Nothing happened; send the request again.",
            ),
            Self::IdempotencyKeyReused => (
                "idempotency_key_reused",
                422,
                "The idempotency key was used for a different request",
                "This partner has already used this `Idempotency-Key` to book, in a request with \
                 other values. Nothing happened; use a new key for a new request.",
            ),
            Self::RateLimited => (
                "rate_limited",
                429,
                "Too many requests",
                "More requests were sent than are allowed with the keys of one partner, or with \
                 any other key. Every answer to a call that takes a key says in `RateLimit` how \
                 many requests are left, and in `RateLimit-Policy` how many are allowed. Nothing \
                 happened; send the request again after `Retry-After`.",
            ),
            Self::Internal => (
                "internal",
                500,
                "Internal error",
                "The request met a defect of this service; the request is not at fault. Nothing \
                 happened. With the `requestId`, operators find the cause in the service's log.",
            ),
            Self::Overloaded => (
                "overloaded",
                503,
                "The service is overloaded",
                "The request was turned away before it was tried. Nothing happened; send it again \
                 after `Retry-After`.",
            ),
            Self::DatabaseUnavailable => (
                "database_unavailable",
                503,
                "The database is unavailable",
                "Nothing happened; send the request again after `Retry-After`.",
            ),
            Self::OutcomeUnknown => (
                "outcome_unknown",
                503,
                "The outcome is unknown",
                "The change was sent to the database and the answer was lost, so it may or may not \
                 have happened. Repeat a booking with the same `Idempotency-Key`: it makes one \
                 reservation, whatever happened. Confirming, extending, shrinking and cancelling \
                 can be repeated, too (without `If-Match`, which would name the version before the \
                 change). For a booking without a key, read `reservationId`: once the event's \
                 version is higher than `version`, a 404 is final. To see whether an event was \
                 created, read `eventId`; for a key, list the keys.",
            ),
            Self::Draining => (
                "draining",
                503,
                "The server is shutting down",
                "Only `/ready` gives this answer: requests should go to another server from now \
                 on. Requests that are still sent here are answered until the server has stopped.",
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

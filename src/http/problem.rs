//! Problems (RFC 9457): every error of the API, in one form, from one table.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

/// The media type of every error.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// What went wrong, for programs. Stable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Code {
    ValidationFailed,
    MalformedJson,
    EventNotFound,
    ReservationNotFound,
    RouteNotFound,
    MethodNotAllowed,
    RequestTimeout,
    BodyTooLarge,
    UnsupportedMediaType,
    InsufficientSeats,
    VersionConflict,
    IdempotencyKeyReused,
    Internal,
    Overloaded,
    DatabaseUnavailable,
    OutcomeUnknown,
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
    pub const ALL: [Self; 16] = [
        Self::ValidationFailed,
        Self::MalformedJson,
        Self::EventNotFound,
        Self::ReservationNotFound,
        Self::RouteNotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::BodyTooLarge,
        Self::UnsupportedMediaType,
        Self::InsufficientSeats,
        Self::VersionConflict,
        Self::IdempotencyKeyReused,
        Self::Internal,
        Self::Overloaded,
        Self::DatabaseUnavailable,
        Self::OutcomeUnknown,
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
                 names one). For a DELETE it may also have been cancelled already, or have \
                 expired: its seats have been given back, once.",
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
                "No request of this API needs a body of more than a few kilobytes. Nothing \
                 happened.",
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
                 may come back. Nothing happened, and an idempotency key was not used up.",
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
                 makes one reservation, whatever happened. Without a key: read `reservationId`; \
                 once the event's version is higher than `version`, a 404 is final.",
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

/// An error of the API on its way to the client. [`super::finish`] writes it out.
#[derive(Debug)]
pub struct Problem {
    pub code: Code,
    pub detail: Cow<'static, str>,
    pub more: Box<More>,
}

/// What helps the caller act.
#[derive(Debug, Default)]
pub struct More {
    pub errors: Vec<FieldError>,
    pub available_seats: Option<i32>,
    pub event_id: Option<String>,
    pub reservation_id: Option<String>,
    pub version: Option<i64>,
    pub retry_after: Option<Duration>,
    /// The value of the header `Allow`.
    pub allow: Option<String>,
}

/// One value of the request that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The field of the body, or the header.
    pub field: String,
    /// What it must be.
    pub detail: String,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), more: Box::default() }
    }

    pub fn validation(errors: Vec<FieldError>) -> Self {
        let each = errors.iter().map(|error| format!("{} {}", error.field, error.detail));
        let detail = each.collect::<Vec<_>>().join("; ");
        let mut problem = Self::new(Code::ValidationFailed, detail);
        problem.more.errors = errors;
        problem
    }

    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.more.retry_after = Some(wait);
        self
    }

    /// The answer, complete.
    pub fn respond(&self, request_id: &str) -> HttpResponse {
        let entry = self.code.entry();
        let more = &*self.more;
        let mut response = HttpResponseBuilder::new(self.code.status());
        response.content_type(CONTENT_TYPE);
        if let Some(wait) = more.retry_after {
            let seconds = wait.as_millis().div_ceil(1000).max(1);
            response.insert_header((header::RETRY_AFTER, seconds.to_string()));
        }
        if let Some(allow) = &more.allow {
            response.insert_header((header::ALLOW, allow.as_str()));
        }
        response.json(ProblemBody {
            r#type: format!("/problems/{}", self.code.slug()),
            title: entry.title,
            status: entry.status,
            detail: &self.detail,
            code: entry.code,
            error: &self.detail,
            request_id,
            errors: &more.errors,
            available_seats: more.available_seats,
            event_id: more.event_id.as_deref(),
            reservation_id: more.reservation_id.as_deref(),
            version: more.version,
            retry_after_ms: more.retry_after.map(|wait| wait.as_millis() as u64),
        })
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.code.status()
    }

    /// A placeholder: only [`super::finish`] knows the id of the request.
    fn error_response(&self) -> HttpResponse {
        HttpResponse::new(self.code.status())
    }
}

/// Any error (RFC 9457).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub struct ProblemBody<'a> {
    /// A page that explains this kind of problem.
    #[schema(example = "/problems/insufficient-seats")]
    r#type: String,
    /// The same for every problem of this kind.
    title: &'a str,
    status: u16,
    /// What happened this time.
    detail: &'a str,
    /// The kind of problem, for programs. Stable.
    #[schema(example = "insufficient_seats")]
    code: &'a str,
    /// The same text as `detail`.
    error: &'a str,
    /// The `X-Request-Id` of the answer.
    request_id: &'a str,
    /// The values of the request that are not as they must be.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
    /// With `insufficient_seats`: the seats that were left.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    available_seats: Option<i32>,
    /// With `outcome_unknown`: the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    event_id: Option<&'a str>,
    /// With `outcome_unknown`: the reservation that was made or changed, if it was.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reservation_id: Option<&'a str>,
    /// With `outcome_unknown`: the event's version before.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    version: Option<i64>,
    /// With status 503: when to try again, as in `Retry-After`, in milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after_ms: Option<u64>,
}

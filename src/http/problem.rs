//! Problems (RFC 9457): every error of the API, in one form, from one table.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde::Serialize;
use utoipa::ToSchema;

use super::access::TurnedAway;
use super::rates::Allowance;
use super::rfc3339;
use crate::domain::Timestamp;

mod code;

pub use code::Code;

/// The media type of every error.
pub const CONTENT_TYPE: &str = "application/problem+json";

/// An error of the API on its way to the client. [`super::finish`] writes it out.
#[derive(Debug)]
pub struct Problem {
    pub code: Code,
    pub detail: Cow<'static, str>,
    pub more: Box<More>,
}

/// Details that help the caller to act.
#[derive(Debug, Default)]
pub struct More {
    pub errors: Vec<FieldError>,
    pub available_seats: Option<i32>,
    pub next_hold_expires_at: Option<Timestamp>,
    pub taken_seats: Option<i32>,
    pub sales_open_at: Option<Timestamp>,
    pub sales_close_at: Option<Timestamp>,
    pub limit: Option<Limit>,
    pub event_id: Option<String>,
    pub reservation_id: Option<String>,
    pub version: Option<i64>,
    pub retry_after: Option<Duration>,
    /// The value of the header `Allow`.
    pub allow: Option<String>,
    /// Why the caller was turned away. For the metrics only, never shown to the caller.
    pub turned_away: Option<TurnedAway>,
    /// What is left to a caller that has sent too many requests.
    pub allowance: Option<Allowance>,
}

/// A limit of a partner: how much it may have, and how much it has.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub limit: &'static str,
    pub used: i64,
    pub max: i64,
}

/// A value of the request that is not valid.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// The name of the body's field, of the parameter or of the header.
    pub field: String,
    /// What is wrong with it, or what it must be. Continues a sentence that begins with the name.
    pub detail: String,
}

impl Problem {
    pub fn new(code: Code, detail: impl Into<Cow<'static, str>>) -> Self {
        Self { code, detail: detail.into(), more: Box::default() }
    }

    /// A single value is not valid.
    pub fn wrong(field: &str, detail: impl Into<String>) -> Self {
        Self::validation(vec![FieldError { field: field.into(), detail: detail.into() }])
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

    /// The complete response.
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
        if self.code == Code::Unauthenticated {
            let was_there = more.turned_away != Some(TurnedAway::NoKey);
            let error = if was_there { ", error=\"invalid_token\"" } else { "" };
            let challenge = format!("Bearer realm=\"ticketboss\"{error}");
            response.insert_header((header::WWW_AUTHENTICATE, challenge));
        }
        let mut response = response.json(ProblemBody {
            r#type: format!("/problems/{}", self.code.slug()),
            title: entry.title,
            status: entry.status,
            detail: &self.detail,
            code: entry.code,
            error: &self.detail,
            request_id,
            errors: &more.errors,
            available_seats: more.available_seats,
            next_hold_expires_at: more.next_hold_expires_at.map(rfc3339),
            taken_seats: more.taken_seats,
            sales_open_at: more.sales_open_at.map(rfc3339),
            sales_close_at: more.sales_close_at.map(rfc3339),
            limit: more.limit.map(|limit| limit.limit),
            limit_used: more.limit.map(|limit| limit.used),
            limit_max: more.limit.map(|limit| limit.max),
            event_id: more.event_id.as_deref(),
            reservation_id: more.reservation_id.as_deref(),
            version: more.version,
            retry_after_ms: more.retry_after.map(|wait| wait.as_millis() as u64),
        });
        if let Some(allowance) = &more.allowance {
            allowance.write(response.headers_mut());
        }
        response
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.detail)
    }
}

impl std::error::Error for Problem {}

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
    /// The path of a page that explains this type of problem.
    #[schema(example = "/problems/insufficient-seats")]
    r#type: String,
    /// A short title, the same for every problem of this type.
    title: &'a str,
    status: u16,
    /// What is wrong in this case.
    detail: &'a str,
    /// The type of problem, for programs. Stable.
    #[schema(example = "insufficient_seats")]
    code: &'a str,
    /// The same text as `detail`.
    error: &'a str,
    /// The `X-Request-Id` of the answer.
    request_id: &'a str,
    /// The values of the request that are not valid.
    #[serde(skip_serializing_if = "<[FieldError]>::is_empty")]
    #[schema(required = false)]
    errors: &'a [FieldError],
    /// With `insufficient_seats`: the number of seats that were left.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    available_seats: Option<i32>,
    /// With `insufficient_seats`: when the next hold ends, if there is one. Its seats may become
    /// available then.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    next_hold_expires_at: Option<String>,
    /// With `capacity_below_sold`: the number of seats that are sold or held.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    taken_seats: Option<i32>,
    /// With `sales_closed`: when sales open, if that is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    sales_open_at: Option<String>,
    /// With `sales_closed`: when sales close, if that is set.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    sales_close_at: Option<String>,
    /// With `partner_limit_exceeded`: the limit, `maxSeatsPerPartner` or `openHolds`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    limit: Option<&'a str>,
    /// With `partner_limit_exceeded`: how many seats or holds the partner has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    limit_used: Option<i64>,
    /// With `partner_limit_exceeded`: how many seats or holds the partner may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    limit_max: Option<i64>,
    /// With `outcome_unknown`: the id of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    event_id: Option<&'a str>,
    /// With `outcome_unknown`: the id of the reservation that may have been created or changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    reservation_id: Option<&'a str>,
    /// With `outcome_unknown`: the event's version before the change. With `precondition_failed`:
    /// the current version.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    version: Option<i64>,
    /// With status 429 or 503: how long to wait before trying again, in milliseconds; `Retry-After`
    /// says the same in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after_ms: Option<u64>,
}

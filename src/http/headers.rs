//! The headers that make a request safe to repeat or conditional.

use actix_web::http::header::{ETAG, Header as _, HeaderName, HeaderValue, IF_MATCH, IfMatch};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use super::problem::Problem;
use crate::domain::{IdempotencyKey, Precondition};

/// The header that makes a booking safe to repeat.
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// The header of an answer that replays an earlier booking.
pub const IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// The idempotency key of a request, if it has one.
pub fn idempotency_key(request: &HttpRequest) -> Result<Option<IdempotencyKey>, Problem> {
    let mut given = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(first) = given.next() else { return Ok(None) };
    let key = first.to_str().ok().and_then(IdempotencyKey::parse);
    match (key, given.next()) {
        (Some(key), None) => Ok(Some(key)),
        _ => Err(Problem::wrong(
            "Idempotency-Key",
            "must be 1 to 255 visible ASCII characters, and be given only once",
        )),
    }
}

/// The versions that a request is meant for; `None` without `If-Match`.
pub fn if_match(request: &HttpRequest) -> Result<Option<Precondition>, Problem> {
    if !request.headers().contains_key(IF_MATCH) {
        return Ok(None);
    }
    let tags = match IfMatch::parse(request) {
        Ok(IfMatch::Any) => return Ok(Some(Precondition::Any)),
        // The parser skips what it cannot read.
        Ok(IfMatch::Items(tags)) if tags.len() == members(request) => tags,
        Ok(IfMatch::Items(_)) | Err(_) => {
            return Err(Problem::wrong(
                "If-Match",
                "must be * or versions in quotes, such as \"7\" or \"7\", \"8\"",
            ));
        }
    };
    // A tag that is not one of ours names no version; a weak tag never matches (RFC 9110).
    let versions = tags.iter().filter(|tag| !tag.weak).filter_map(|tag| {
        let version: i64 = tag.tag().parse().ok()?;
        (version.to_string() == tag.tag()).then_some(version)
    });
    Ok(Some(Precondition::Versions(versions.collect())))
}

/// How many tags the header has; at least one.
fn members(request: &HttpRequest) -> usize {
    let lines = request.headers().get_all(IF_MATCH).filter_map(|line| line.to_str().ok());
    let members = lines.flat_map(|line| line.split(',')).filter(|member| !member.trim().is_empty());
    members.count().max(1)
}

/// A 200 response that shows something at a version.
pub fn shown(version: i64, body: &impl Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header(etag(version)).json(body)
}

/// The entity tag of a version.
pub fn etag(version: i64) -> (HeaderName, HeaderValue) {
    (ETAG, joined(["\"", itoa::Buffer::new().format(version), "\""]))
}

/// A value for each answer: without a formatter, and in one allocation.
pub fn joined<const PARTS: usize>(parts: [&str; PARTS]) -> HeaderValue {
    HeaderValue::try_from(parts.concat()).expect("its parts are visible ASCII")
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header")]
pub struct IdempotencyKeyHeader {
    /// 1 to 255 visible ASCII characters. Per event and partner, one key makes one reservation, or
    /// one list of reservations, however often the request is sent.
    #[param(rename = "Idempotency-Key", value_type = String, required = false, min_length = 1,
        max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header")]
pub struct IfMatchHeader {
    /// Make the change only if the reservation is at this version, in quotes, as in its `ETag`; `*`
    /// stands for any version. Without this header, the service retries until the change fits the
    /// current version.
    #[param(rename = "If-Match", value_type = String, required = false,
        pattern = r#"^(\*|"[0-9]{1,19}"(, "[0-9]{1,19}")*)$"#)]
    if_match: Option<String>,
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header")]
pub struct EventIfMatchHeader {
    /// Book only if the event (not a reservation) is at this version, in quotes, as in its `ETag`;
    /// `*` stands for any version. Without this header, the service retries until the booking fits
    /// the current version.
    #[param(rename = "If-Match", value_type = String, required = false,
        pattern = r#"^(\*|"[0-9]{1,19}"(, "[0-9]{1,19}")*)$"#)]
    if_match: Option<String>,
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header")]
pub struct RequiredIfMatchHeader {
    /// Make the change only if the event is at this version, in quotes, as in its `ETag`; `*`
    /// stands for any version.
    #[param(rename = "If-Match", value_type = String, required = true, example = "*",
        pattern = r#"^(\*|"[0-9]{1,19}"(, "[0-9]{1,19}")*)$"#)]
    if_match: String,
}

//! The headers that make a request safe to repeat, and conditional.

use actix_web::http::header::{ETag, EntityTag, Header as _, IF_MATCH, IfMatch};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use super::problem::Problem;
use crate::domain::{IdempotencyKey, Precondition};

/// The header of a request that may be sent more than once.
pub const IDEMPOTENCY_KEY: &str = "Idempotency-Key";
/// The header of an answer to one that was sent before.
pub const IDEMPOTENCY_REPLAYED: &str = "Idempotency-Replayed";

/// The key of a request, if it has one.
pub fn idempotency_key(request: &HttpRequest) -> Result<Option<IdempotencyKey>, Problem> {
    let mut given = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(first) = given.next() else { return Ok(None) };
    let key = first.to_str().ok().and_then(IdempotencyKey::parse);
    match (key, given.next()) {
        (Some(key), None) => Ok(Some(key)),
        _ => Err(Problem::wrong(
            IDEMPOTENCY_KEY,
            "must be 1 to 255 visible ASCII characters, and stand there once",
        )),
    }
}

/// The versions that a request is meant for; `None` where it names none.
pub fn if_match(request: &HttpRequest) -> Result<Option<Precondition>, Problem> {
    if !request.headers().contains_key(IF_MATCH) {
        return Ok(None);
    }
    let tags = match IfMatch::parse(request) {
        Ok(IfMatch::Any) => return Ok(Some(Precondition::Any)),
        // The parser passes over what it cannot read.
        Ok(IfMatch::Items(tags)) if tags.len() == members(request) => tags,
        Ok(IfMatch::Items(_)) | Err(_) => {
            return Err(Problem::wrong(
                "If-Match",
                "must be * or versions in quotes, as in \"7\" or \"7\", \"8\"",
            ));
        }
    };
    // A tag that is none of ours stands for no version; a weak one never matches (RFC 9110).
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

/// A 200 that shows something at a version.
pub fn shown(version: i64, body: &impl Serialize) -> HttpResponse {
    HttpResponse::Ok().insert_header(etag(version)).json(body)
}

/// The tag of a version.
pub fn etag(version: i64) -> ETag {
    ETag(EntityTag::new_strong(version.to_string()))
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header")]
pub struct IdempotencyKeyHeader {
    /// 1 to 255 visible ASCII characters. Of one partner and event, the same key makes one
    /// reservation, or one list of them, however often the request is sent.
    #[param(rename = "Idempotency-Key", value_type = String, required = false, min_length = 1,
        max_length = 255, pattern = "^[!-~]+$")]
    idempotency_key: Option<String>,
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header")]
pub struct IfMatchHeader {
    /// Only if the reservation is at this version, as its `ETag` has it, in quotes; `*` for whatever
    /// version it is at. Without it, the service retries until the change fits.
    #[param(rename = "If-Match", value_type = String, required = false,
        pattern = r#"^(\*|"[0-9]{1,19}"(, "[0-9]{1,19}")*)$"#)]
    if_match: Option<String>,
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header")]
pub struct EventIfMatchHeader {
    /// Only if the event (not a reservation) is at this version, as its `ETag` has it, in quotes; `*`
    /// for whatever version it is at. Without it, the service retries until the booking fits.
    #[param(rename = "If-Match", value_type = String, required = false,
        pattern = r#"^(\*|"[0-9]{1,19}"(, "[0-9]{1,19}")*)$"#)]
    if_match: Option<String>,
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Header)]
#[allow(dead_code, reason = "describes a header")]
pub struct RequiredIfMatchHeader {
    /// Only if the event is at this version, as its `ETag` has it, in quotes; `*` for whatever version
    /// it is at.
    #[param(rename = "If-Match", value_type = String, required = true, example = "*",
        pattern = r#"^(\*|"[0-9]{1,19}"(, "[0-9]{1,19}")*)$"#)]
    if_match: String,
}

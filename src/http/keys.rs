//! Keys: creating, listing and revoking them, for operators.

use std::sync::Arc;

use actix_web::http::header::{self, CacheDirective};
use actix_web::web::{Data, Path, Payload};
use actix_web::{HttpRequest, HttpResponse, delete, get, post, rt};
use garde::Validate;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use utoipa::ToSchema;

use super::access::{Access, Operator};
use super::body::{self, Field, Fields};
use super::headers::IDEMPOTENCY_KEY;
use super::openapi::problems;
use super::problem::{Code, Problem};
use super::query::{NoQuery, Query};
use super::{App, rfc3339};
use crate::access::{KeyRing, new_key};
use crate::domain::{Key, KeyId, KeyName, PartnerId, Scope, Timestamp};

const LIMIT_DEFAULT: i64 = 50;
const LIMIT_MAX: i64 = 200;

/// A key to create.
#[derive(Debug, Deserialize, Validate, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = KeyRequest, example = json!({
    "name": "abc-corp, web shop", "scope": "partner", "partnerId": "abc-corp",
}))]
pub struct KeyRequest {
    /// The name of the key, for people. Not blank, without control characters.
    #[serde(default)]
    #[garde(custom(body::required))]
    #[schema(required = true, value_type = String, min_length = 1, max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$")]
    name: Field<KeyName>,
    #[serde(default)]
    #[garde(custom(body::required))]
    #[schema(required = true, value_type = KeyScope)]
    scope: Field<ScopeWord>,
    /// The partner that the key is for. Required with the scope `partner`, and only allowed with
    /// it.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = String, min_length = 1, max_length = 128,
        pattern = r"^[^\u0000-\u001f\u007f-\u009f]*[^\s\u0000-\u001f\u007f-\u009f][^\u0000-\u001f\u007f-\u009f]*$")]
    partner_id: Field<PartnerId>,
    /// When the key expires. It never does if this is `null` or omitted.
    #[serde(default)]
    #[garde(custom(body::optional))]
    #[schema(required = false, value_type = Option<String>, format = DateTime)]
    expires_at: Field<Option<Timestamp>>,
}

impl Fields for KeyRequest {
    const FIELDS: &'static [&'static str] = &["name", "scope", "partnerId", "expiresAt"];
}

/// The name of a scope.
#[derive(Debug)]
struct ScopeWord(&'static str);

impl body::FromJson for ScopeWord {
    const MUST_BE: &'static str = "must be partner, read or operator";

    fn from_json(json: &str) -> Option<Self> {
        let given = body::text(json)?;
        Scope::WORDS.into_iter().find(|word| *word == given).map(Self)
    }
}

impl body::FromJson for KeyName {
    const MUST_BE: &'static str =
        "must be a string of 1 to 128 characters, not blank and without control characters";

    fn from_json(json: &str) -> Option<Self> {
        Self::parse(&body::text(json)?)
    }
}

/// What a key allows. `partner`: books for one partner, sees and changes its reservations, and sees
/// all events. `read`: sees everything. `operator`: sees and changes everything.
#[derive(ToSchema)]
#[schema(rename_all = "snake_case")]
#[allow(dead_code, reason = "describes a text")]
pub enum KeyScope {
    Partner,
    Read,
    Operator,
}

/// A key, without its secret, which only its owner knows.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Key)]
pub struct KeyBody<'a> {
    /// The part between `tb_` and the secret.
    #[schema(pattern = "^[0-9a-f]{16}$")]
    key_id: &'a str,
    name: &'a str,
    #[schema(value_type = KeyScope)]
    scope: &'static str,
    /// Only with the scope `partner`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    partner_id: Option<&'a str>,
    /// RFC 3339, UTC.
    #[schema(format = DateTime)]
    created_at: String,
    /// The id of the key with which it was created. Missing if that was on the command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    created_by: Option<&'a str>,
    /// RFC 3339, UTC. Missing if the key does not expire.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    expires_at: Option<String>,
    /// RFC 3339, UTC. Missing if the key was not revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    revoked_at: Option<String>,
    /// The id of the key with which it was revoked. Missing if it was not revoked, or on the
    /// command line.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    revoked_by: Option<&'a str>,
    /// RFC 3339, UTC, accurate to about ten seconds. Missing if the key was never used.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false, format = DateTime)]
    last_used_at: Option<String>,
}

/// A new key, with its secret.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = NewKey)]
pub struct NewKeyBody<'a> {
    #[serde(flatten)]
    key: KeyBody<'a>,
    /// The text of the key, for `Authorization: Bearer`. It is shown only this once.
    #[serde(rename = "key")]
    #[schema(pattern = "^tb_[0-9a-f]{16}_[0-9a-f]{40}$")]
    text: &'a str,
}

/// Keys, ordered by id.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = KeyPage)]
pub struct KeyPageBody<'a> {
    items: Vec<KeyBody<'a>>,
    /// The cursor for the next page; `null` at the end.
    #[schema(required = true)]
    next_cursor: Option<String>,
}

impl<'a> From<&'a Key> for KeyBody<'a> {
    fn from(key: &'a Key) -> Self {
        Self {
            key_id: key.id.as_str(),
            name: key.name.as_str(),
            scope: key.scope.as_str(),
            partner_id: match &key.scope {
                Scope::Partner(partner_id) => Some(partner_id.as_str()),
                Scope::Read | Scope::Operator => None,
            },
            created_at: rfc3339(key.created_at),
            created_by: key.made_by.as_ref().map(KeyId::as_str),
            expires_at: key.expires_at.map(rfc3339),
            revoked_at: key.revoked_at.map(rfc3339),
            revoked_by: key.revoked_by.as_ref().map(KeyId::as_str),
            last_used_at: key.last_used_at.map(rfc3339),
        }
    }
}

/// Create a key
///
/// The answer contains the text of the key, which is never shown again. The key works at once, on
/// this server and on all others. To replace a key, create another one, let its owner change over,
/// and revoke the old one.
#[utoipa::path(
    tag = "keys",
    request_body = KeyRequest,
    security(("key" = ["operator"])),
    responses((status = 201, description = "The new key", body = NewKeyBody), MakeProblems),
)]
#[post("/keys")]
pub async fn make_key(
    operator: Operator,
    _: NoQuery,
    app: Data<App>,
    request: HttpRequest,
    payload: Payload,
) -> Result<HttpResponse, Problem> {
    let ring = app.keys()?;
    let body = body::read(&request, payload).await?;
    let wanted: KeyRequest = body::parse_known(&body, &())?;
    if request.headers().contains_key(IDEMPOTENCY_KEY) {
        let detail = "only works for reservations: repeating this request would create another \
                      key; GET /keys lists the existing ones";
        return Err(Problem::wrong("Idempotency-Key", detail));
    }
    let scope = Scope::of(wanted.scope.must().0, wanted.partner_id.given());
    let scope = scope.ok_or_else(|| {
        Problem::wrong("partnerId", "is required with the scope partner, and only allowed with it")
    })?;
    let (expires_at, made_by) = (wanted.expires_at.given().flatten(), operator.key_id().cloned());
    if expires_at.is_some_and(|end| end <= OffsetDateTime::now_utc()) {
        return Err(Problem::wrong("expiresAt", "must be in the future"));
    }
    let made = new_key(wanted.name.must(), scope, expires_at, made_by);
    let (new, text) = made.map_err(|failure| {
        log::error!("no random numbers are available: {failure}");
        Problem::internal()
    })?;
    // In a task of its own, so that it is completed even if the client hangs up.
    let (store, until) = (Arc::clone(&app.store), app.answer_by());
    let made = rt::spawn(async move { store.make_key(&new, until).await });
    let made = made.await.map_err(|_panic| Problem::outcome_unknown(NOT_MADE))?;
    let made = made.map_err(|failure| Problem::key_not_written(failure, NOT_MADE))?;
    log::info!("key {} ({}) was created", made.id, made.scope.as_str());
    // The key exists, whether or not this server knows it yet.
    let _ = ring.look_again().await;
    let body = NewKeyBody { key: KeyBody::from(&made), text: &text };
    let no_store = header::CacheControl(vec![CacheDirective::NoStore]);
    Ok(HttpResponse::Created().insert_header(no_store).json(body))
}

/// List the keys
///
/// All keys that ever existed, ordered by id, without their secrets.
#[utoipa::path(
    tag = "keys",
    params(PageQuery),
    security(("key" = ["operator"])),
    responses((status = 200, description = "A page of keys", body = KeyPageBody), ListProblems),
)]
#[get("/keys")]
pub async fn list_keys(
    _operator: Operator,
    app: Data<App>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    app.keys()?;
    let mut query = Query::of(&request)?;
    let limit = query.limit(LIMIT_DEFAULT, LIMIT_MAX)?;
    let after = query.take("cursor", "must be a nextCursor of this list", KeyId::parse)?;
    query.end()?;
    // One more than requested, to know whether there is a next page.
    let (store, until) = (Arc::clone(&app.store), app.answer_by());
    let read = async move {
        store.keys_after(after.as_ref().map_or("", KeyId::as_str), limit + 1, until).await
    };
    let mut keys = rt::spawn(read).await.map_err(|_panic| Problem::internal())??;
    let more = keys.len() as i64 > limit;
    keys.truncate(limit as usize);
    let next_cursor = keys.last().filter(|_| more).map(|key| key.id.to_string());
    let items = keys.iter().map(KeyBody::from).collect();
    Ok(HttpResponse::Ok().json(KeyPageBody { items, next_cursor }))
}

/// Revoke a key
///
/// The key stops working on this server at once, and on all others within about a second; streams
/// that were opened with it end. This cannot be undone. Revoking a key again changes nothing, and
/// is not an error.
#[utoipa::path(
    tag = "keys",
    params(("keyId" = String, Path, pattern = "^[0-9a-f]{16}$", example = "0123456789abcdef")),
    security(("key" = ["operator"])),
    responses((status = 204, description = "The key is revoked"), RevokeProblems),
)]
#[delete("/keys/{keyId}")]
pub async fn revoke_key(
    operator: Operator,
    _: NoQuery,
    app: Data<App>,
    path: Path<String>,
) -> Result<HttpResponse, Problem> {
    let ring = app.keys()?;
    let id = KeyId::parse(&path).ok_or_else(Problem::key_not_found)?;
    let (store, until, by) = (Arc::clone(&app.store), app.answer_by(), operator.key_id().cloned());
    let revoked = id.clone();
    let revoking = async move { store.revoke_key(&revoked, by.as_ref(), until).await };
    let found =
        rt::spawn(revoking).await.map_err(|_panic| Problem::outcome_unknown(NOT_REVOKED))?;
    if !found.map_err(|failure| Problem::key_not_written(failure, NOT_REVOKED))? {
        return Err(Problem::key_not_found());
    }
    log::info!("key {id} was revoked");
    // The key is revoked, whether or not this server knows it yet.
    let _ = ring.look_again().await;
    Ok(HttpResponse::NoContent().finish())
}

/// What the caller can do if the outcome is unknown.
const NOT_MADE: &str = "look for the key in GET /keys: if it is there, revoke it, since nobody has \
                        its text; then create another one";
const NOT_REVOKED: &str = "revoke it again";

impl App {
    /// Refused without access control: otherwise, anyone could create a key for later.
    fn keys(&self) -> Result<&KeyRing, Problem> {
        match &self.access {
            Access::Keys(guard) => Ok(&guard.ring),
            Access::Off => {
                let detail =
                    "Access control is off on this server; use the command `ticketboss key`";
                Err(Problem::new(Code::Forbidden, detail))
            }
        }
    }
}

#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[allow(dead_code, reason = "describes parameters")]
struct PageQuery {
    /// The maximum number of keys on the page.
    #[param(value_type = i32, required = false, minimum = 1, maximum = 200, default = 50)]
    limit: Option<i32>,
    /// The `nextCursor` of the previous page.
    #[param(value_type = String, required = false, pattern = "^[0-9a-f]{16}$")]
    cursor: Option<String>,
}

problems! {
    MakeProblems: ValidationFailed, MalformedJson, RequestTimeout, BodyTooLarge,
        UnsupportedMediaType, Internal, Overloaded, DatabaseUnavailable, OutcomeUnknown;
    ListProblems: ValidationFailed, Internal, Overloaded, DatabaseUnavailable;
    RevokeProblems: ValidationFailed, KeyNotFound, Internal, Overloaded, DatabaseUnavailable, OutcomeUnknown;
}

//! What browsers are told, so that nobody can use one against us: security headers, and which pages
//! of others may call.

use actix_cors::Cors;
use actix_web::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap,
    HeaderName, HeaderValue, IF_MATCH, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use actix_web::middleware::Condition;

/// How the service meets the world.
#[derive(Clone, Debug)]
pub struct Exposure {
    /// Of pages that may call.
    pub cors_origins: Vec<String>,
    pub is_tls: bool,
}

/// How long a browser may go on without asking whether a page may call.
const PREFLIGHT_MAX_AGE_S: usize = 3600;
/// Of a page that says nothing else: its own files, styles that stand in it, and no frame around it.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const DENY: HeaderValue = HeaderValue::from_static("DENY");
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");
const A_YEAR: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Adds what an answer does not say itself. What is about pages is not sent with data.
pub fn write(headers: &mut HeaderMap, is_tls: bool) {
    headers.insert(X_CONTENT_TYPE_OPTIONS, NOSNIFF);
    let is_page =
        headers.get(CONTENT_TYPE).is_some_and(|it| it.as_bytes().starts_with(b"text/html"));
    if is_page {
        add(headers, CONTENT_SECURITY_POLICY, POLICY);
        add(headers, X_FRAME_OPTIONS, DENY);
        add(headers, REFERRER_POLICY, NO_REFERRER);
    }
    add(headers, CACHE_CONTROL, NO_STORE);
    if is_tls {
        add(headers, STRICT_TRANSPORT_SECURITY, A_YEAR);
    }
}

fn add(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    if !headers.contains_key(&name) {
        headers.insert(name, value);
    }
}

/// Lets scripts of these pages call, and read what the API says in headers. They bring a key in a
/// header; cookies and the like are nothing here.
pub fn cors(origins: &[String]) -> Condition<Cors> {
    let cors = Cors::default()
        .allowed_methods(["GET", "POST", "PATCH", "DELETE"])
        .allowed_headers([AUTHORIZATION, ACCEPT, CONTENT_TYPE, IF_MATCH])
        .allowed_headers(["idempotency-key", "last-event-id", "x-request-id"])
        .expose_headers([
            "content-disposition",
            "etag",
            "idempotency-replayed",
            "location",
            "ratelimit",
            "ratelimit-policy",
            "retry-after",
            "www-authenticate",
            "x-request-id",
        ])
        .max_age(PREFLIGHT_MAX_AGE_S)
        // Others are answered without the headers, and their browsers keep the answer from them.
        .block_on_origin_mismatch(false);
    let cors = origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin));
    Condition::new(!origins.is_empty(), cors)
}

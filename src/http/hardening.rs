//! Protection against misuse of browsers: security headers, and which pages of other origins may
//! call the API (CORS).

use actix_cors::Cors;
use actix_web::http::header::{
    ACCEPT, AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderMap,
    HeaderName, HeaderValue, IF_MATCH, REFERRER_POLICY, STRICT_TRANSPORT_SECURITY,
    X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use actix_web::middleware::Condition;

/// How the service is exposed to the network.
#[derive(Clone, Debug)]
pub struct Exposure {
    /// The origins of pages that may call the API.
    pub cors_origins: Vec<String>,
    pub is_tls: bool,
}

/// How long a browser may cache the answer to a preflight request.
const PREFLIGHT_MAX_AGE_S: usize = 3600;
/// For pages that set no policy of their own: files of this server, inline styles, and no framing.
const POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; \
     base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);
const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
const NO_STORE: HeaderValue = HeaderValue::from_static("no-store");
const DENY: HeaderValue = HeaderValue::from_static("DENY");
const NO_REFERRER: HeaderValue = HeaderValue::from_static("no-referrer");
const A_YEAR: HeaderValue = HeaderValue::from_static("max-age=31536000");

/// Adds the security headers that a response does not set itself. Those that concern pages are not
/// sent with data.
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

/// Lets scripts of pages from these origins call the API and read its headers. They send a key in a
/// header; cookies and other credentials of the browser are not allowed.
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
        // Pages of other origins get an answer without the CORS headers, so their browsers withhold
        // it.
        .block_on_origin_mismatch(false);
    let cors = origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin));
    Condition::new(!origins.is_empty(), cors)
}

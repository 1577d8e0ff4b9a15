//! The console: one page for operators, built on the API that partners use. Its files are embedded
//! in the binary unchanged, and it contacts no other server.

use actix_web::http::header;
use actix_web::web::Path;
use actix_web::{HttpResponse, get};

use super::problem::{Code, Problem};

/// Nothing from other origins, nothing inline, and no framing.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; \
                      connect-src 'self'; base-uri 'none'; form-action 'none'; \
                      frame-ancestors 'none'";

const PAGE: &str = include_str!("console/index.html");

/// The files of the page: name, media type, content.
const FILES: [(&str, &str, &str); 13] = [
    ("style.css", "text/css", include_str!("console/style.css")),
    ("icon.svg", "image/svg+xml", include_str!("console/icon.svg")),
    ("main.js", "text/javascript", include_str!("console/main.js")),
    ("api.js", "text/javascript", include_str!("console/api.js")),
    ("chart.js", "text/javascript", include_str!("console/chart.js")),
    ("dom.js", "text/javascript", include_str!("console/dom.js")),
    ("event.js", "text/javascript", include_str!("console/event.js")),
    ("events.js", "text/javascript", include_str!("console/events.js")),
    ("forms.js", "text/javascript", include_str!("console/forms.js")),
    ("key.js", "text/javascript", include_str!("console/key.js")),
    ("numbers.js", "text/javascript", include_str!("console/numbers.js")),
    ("reservations.js", "text/javascript", include_str!("console/reservations.js")),
    ("stream.js", "text/javascript", include_str!("console/stream.js")),
];

/// Not in the OpenAPI document, since it is for people.
#[get("/")]
pub async fn read_console() -> HttpResponse {
    file("text/html; charset=utf-8", PAGE)
}

#[get("/console/{file}")]
pub async fn read_console_file(path: Path<String>) -> Result<HttpResponse, Problem> {
    let found = FILES.iter().find(|(name, _, _)| *name == path.as_str());
    let Some((_, media_type, content)) = found else {
        return Err(Problem::new(Code::RouteNotFound, "The console has no such file"));
    };
    Ok(file(media_type, content))
}

fn file(media_type: &'static str, content: &'static str) -> HttpResponse {
    HttpResponse::Ok()
        .content_type(media_type)
        .insert_header((header::CONTENT_SECURITY_POLICY, POLICY))
        .insert_header((header::X_CONTENT_TYPE_OPTIONS, "nosniff"))
        // Another version of the service may have another page.
        .insert_header((header::CACHE_CONTROL, "no-cache"))
        .body(content)
}

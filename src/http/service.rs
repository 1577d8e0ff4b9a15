//! The service itself: is it alive, and what do its problems mean?

use actix_web::web::Path;
use actix_web::{HttpResponse, get};

use super::openapi::problems;
use super::problem::{Code, Problem};

/// Is the process alive?
///
/// Touches no database.
#[utoipa::path(
    tag = "service",
    responses((status = 200, description = "Alive", body = serde_json::Value,
        example = json!({"status": "ok"}))),
)]
#[get("/health")]
pub async fn read_health() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(r#"{"status":"ok"}"#)
}

/// What a kind of problem means
///
/// The page behind the `type` of an error.
#[utoipa::path(
    tag = "service",
    params(("type" = String, Path, example = "insufficient-seats")),
    responses(
        (status = 200, description = "A page for people", body = String,
            content_type = "text/html"),
        PageProblems,
    ),
)]
#[get("/problems/{type}")]
pub async fn read_problem(path: Path<String>) -> Result<HttpResponse, Problem> {
    let Some(code) = Code::from_slug(&path) else {
        return Err(Problem::new(Code::RouteNotFound, "There is no such kind of problem"));
    };
    Ok(HttpResponse::Ok().content_type("text/html; charset=utf-8").body(page(code)))
}

/// The texts are ours and have nothing to escape in them.
fn page(code: Code) -> String {
    let entry = code.entry();
    let mut quoted = false;
    let explanation: String = entry
        .explanation
        .split('`')
        .flat_map(|part| {
            let marks = if quoted { ["<code>", part, "</code>"] } else { ["", part, ""] };
            quoted = !quoted;
            marks
        })
        .collect();
    format!(
        "<!doctype html>\n<html lang=\"en\"><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width\">\n\
         <title>{title} - TicketBoss</title>\n\
         <style>body{{font:1rem/1.6 system-ui,sans-serif;max-width:40rem;margin:4rem auto;\
         padding:0 1rem;color-scheme:light dark}}dt{{float:left;width:5rem;opacity:.6}}</style>\n\
         <h1>{title}</h1>\n\
         <dl><dt>status</dt><dd>{status}</dd><dt>code</dt><dd><code>{code}</code></dd></dl>\n\
         <p>{explanation}</p>\n</html>\n",
        title = entry.title,
        status = entry.status,
        code = entry.code,
    )
}

problems! {
    PageProblems: RouteNotFound;
}

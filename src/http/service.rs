//! The service itself: liveness, readiness, and the pages that explain its problems.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::{Data, Path};
use actix_web::{HttpResponse, get, rt};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::App;
use super::openapi::problems;
use super::problem::{Code, Problem};
use crate::store::Unavailable;

/// More frequent calls get the previous result, so that they cost the database nothing.
const READY_KEPT: Duration = Duration::from_millis(500);
/// A database that takes longer to answer is unavailable.
const READY_MAX: Duration = Duration::from_secs(2);

/// Whether this server should receive requests.
#[derive(Default)]
pub struct Readiness {
    /// Cancelled when the service is about to stop.
    pub draining: CancellationToken,
    /// The last result of checking the database, and when that was.
    found: Mutex<Option<(Instant, Found)>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Found {
    Ready,
    SchemaTooOld,
    Away,
}

/// Check whether the process is alive
///
/// Does not touch the database.
#[utoipa::path(
    tag = "service",
    responses((status = 200, description = "Alive", body = serde_json::Value,
        example = json!({"status": "ok"}))),
)]
#[get("/health")]
pub async fn read_health() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(r#"{"status":"ok"}"#)
}

/// Check whether this server should receive requests
///
/// It should if the database can be reached and has this version's schema, and the server is not
/// about to stop. This is for load balancers; whether the process should be restarted is a question
/// for `/health`.
#[utoipa::path(
    tag = "service",
    responses(
        (status = 200, description = "Ready", body = serde_json::Value,
            example = json!({"status": "ready"})),
        ReadyProblems,
    ),
)]
#[get("/ready")]
pub async fn read_ready(app: Data<App>) -> Result<HttpResponse, Problem> {
    let answer = ready_or_not(&app).await;
    app.metrics.ready.set(answer.is_ok().into());
    answer
}

async fn ready_or_not(app: &App) -> Result<HttpResponse, Problem> {
    if app.readiness.draining.is_cancelled() {
        return Err(Problem::draining());
    }
    let mut found = app.readiness.found.lock().await;
    let now = match *found {
        Some((at, before)) if at.elapsed() < READY_KEPT => before,
        Some(_) | None => {
            let before = found.map(|(_, before)| before);
            let now = app.look_at_the_database(before).await?;
            *found = Some((Instant::now(), now));
            now
        }
    };
    match now {
        Found::Ready => {
            let body = r#"{"status":"ready"}"#;
            Ok(HttpResponse::Ok().content_type("application/json").body(body))
        }
        Found::SchemaTooOld => Err(Problem::schema_too_old()),
        Found::Away => Err(Problem::database_unavailable()),
    }
}

impl App {
    async fn look_at_the_database(&self, before: Option<Found>) -> Result<Found, Problem> {
        // In a task of its own, for the same reason as the read of one reservation.
        let store = Arc::clone(&self.store);
        let asking = async move { store.is_current(Instant::now() + READY_MAX).await };
        match rt::spawn(asking).await.map_err(|_panic| Problem::internal())? {
            Ok(true) => {
                if before.is_some_and(|before| before != Found::Ready) {
                    log::info!("ready again");
                }
                Ok(Found::Ready)
            }
            Ok(false) => {
                if before != Some(Found::SchemaTooOld) {
                    log::warn!("not ready: the database lacks a migration of this version");
                }
                Ok(Found::SchemaTooOld)
            }
            // Busy is not unavailable: requests that are sent elsewhere would make other servers
            // busier.
            Err(Unavailable::Busy) => Ok(before.unwrap_or(Found::Ready)),
            Err(failure) => {
                if before != Some(Found::Away) {
                    log::warn!("not ready: {}", crate::chain(&failure));
                }
                Ok(Found::Away)
            }
        }
    }
}

/// Explain a type of problem
///
/// The page that the `type` of an error leads to.
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
        return Err(Problem::new(Code::RouteNotFound, "There is no such type of problem"));
    };
    Ok(HttpResponse::Ok().content_type("text/html; charset=utf-8").body(page(code)))
}

/// The texts are our own, and contain nothing that has to be escaped.
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
    ReadyProblems: Internal, DatabaseUnavailable, Draining;
    PageProblems: RouteNotFound;
}

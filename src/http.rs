//! The API over HTTP: routes, handlers, bodies, problems.
//!
//! The only module that names status codes. Handlers extract, make one call, and render. The
//! contract for partners is the OpenAPI document, which is generated from the handlers.

use std::sync::Arc;
use std::time::Duration;

use actix_cors::CorsError;
use actix_web::body::MessageBody;
use actix_web::dev::{ResourceDef, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue, LOCATION, VARY};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{Next, NormalizePath, from_fn};
use actix_web::web::{self, Data};
use actix_web::{Error, HttpMessage as _, HttpRequest, HttpResponse};
use tokio::time::Instant;
use utoipa_actix_web::AppExt as _;
use utoipa_swagger_ui::SwaggerUi;
use uuid::Uuid;

use crate::batching::{Batching, Summaries};
use crate::domain::{Acceptance, Command, EventId, rfc3339};
use crate::logging::REQUESTS;
use crate::store::PostgresStore;

mod access;
mod body;
mod changes;
mod console;
mod error;
mod events;
mod hardening;
mod headers;
mod keys;
mod large_reads;
mod metrics;
mod openapi;
mod problem;
mod query;
mod rates;
mod reservations;
mod service;
mod stream;
mod unread;

use problem::{Code, Problem};
use rates::Allowance;
use reservations::{list, one};
use unread::KeptBody;

pub use access::{Access, Guard};
pub use hardening::Exposure;
pub use large_reads::LargeReads;
pub use metrics::{Metrics, PREFIX, StreamMetrics};
pub use rates::Rates;
pub use service::Readiness;
pub use stream::Streams;

/// The state that all handlers share.
pub struct App {
    pub batching: Batching<PostgresStore>,
    pub summaries: Summaries,
    pub store: Arc<PostgresStore>,
    pub default_event: EventId,
    pub request_timeout: Duration,
    pub large_reads: LargeReads,
    pub streams: Streams,
    pub metrics: Metrics,
    pub readiness: Readiness,
    pub access: Access,
}

impl App {
    /// The deadline of a request that is accepted now.
    fn answer_by(&self) -> Instant {
        Instant::now() + self.request_timeout
    }

    /// Submits a command, and waits for its outcome.
    async fn submit(
        &self,
        event_id: &EventId,
        command: Command,
        answer_by: Instant,
    ) -> Result<Acceptance, Problem> {
        let outcome = self.batching.submit(event_id, command, answer_by).await;
        outcome.map_err(|rejection| Problem::from_rejection(rejection, event_id))
    }
}

/// The whole API as an actix application, built once for each worker.
pub fn application(app: Data<App>, exposure: Exposure) -> actix_web::App<impl Factory> {
    let (application, document) = routes();
    let cors = hardening::cors(&exposure.cors_origins);
    application
        .app_data(app)
        .app_data(Data::new(exposure))
        .app_data(Data::new(Routes::of(&document)))
        .app_data(Data::new(document))
        .service(
            web::resource("/docs")
                .route(web::get().to(to_the_page))
                .default_service(web::to(no_such_route)),
        )
        .service(
            SwaggerUi::new("/docs/{_:.*}")
                // Without this, the page contacts a validator on the internet.
                .config(utoipa_swagger_ui::Config::new(["/openapi.json"]).validator_url("none")),
        )
        .service(console::read_console)
        .service(console::read_console_file)
        .default_service(web::to(no_such_route))
        .wrap(NormalizePath::trim())
        .wrap(cors)
        .wrap(from_fn(finish))
}

/// The OpenAPI document: the whole contract, for people and for client generators.
pub fn document() -> utoipa::openapi::OpenApi {
    routes().1
}

/// The factory that an actix application is built on; the library has no shorter name for it.
pub trait Factory:
    ServiceFactory<
        ServiceRequest,
        Config = (),
        Response = ServiceResponse,
        Error = Error,
        InitError = (),
    >
{
}

impl<T> Factory for T where
    T: ServiceFactory<
            ServiceRequest,
            Config = (),
            Response = ServiceResponse,
            Error = Error,
            InitError = (),
        >
{
}

fn routes() -> (actix_web::App<impl Factory>, utoipa::openapi::OpenApi) {
    let (application, mut document) = actix_web::App::new()
        .into_utoipa_app()
        .openapi(openapi::base())
        // The router tries these in order, so the busiest come first.
        .service(reservations::make_reservation_of_event)
        .service(reservations::make_reservation)
        .service(events::read_event)
        .service(events::read_default_event)
        .service(one::confirm_reservation)
        .service(one::read_reservation)
        .service(one::cancel_reservation)
        .service(one::extend_reservation)
        .service(one::shrink_reservation)
        .service(reservations::make_reservations)
        .service(list::list_reservations)
        .service(changes::list_changes)
        .service(stream::stream_changes)
        .service(events::list_events)
        .service(events::make_event)
        .service(events::change_event)
        .service(keys::make_key)
        .service(keys::list_keys)
        .service(keys::revoke_key)
        .service(service::read_health)
        .service(service::read_ready)
        .service(metrics::read_metrics)
        .service(openapi::read_openapi)
        .service(service::read_problem)
        .split_for_parts();
    openapi::add_short_forms(&mut document);
    openapi::add_access(&mut document);
    openapi::add_request_ids(&mut document);
    openapi::close_bodies(&mut document);
    openapi::list_codes(&mut document);
    (application, document)
}

/// Parses the id of an event in a path. There is no event with a malformed id, so it is simply not
/// found.
fn event_id(text: &str) -> Result<EventId, Problem> {
    EventId::parse(text).ok_or_else(Problem::event_not_found)
}

/// All paths with their methods, to tell an unknown path from a wrong method.
struct Routes(Vec<(ResourceDef, Vec<&'static str>)>);

impl Routes {
    fn of(document: &utoipa::openapi::OpenApi) -> Self {
        let paths = document.paths.paths.iter();
        let paths = paths.map(|(path, item)| (ResourceDef::new(path.as_str()), methods(item)));
        // The console is not part of the document.
        let pages = ["/", "/console/{file}"].map(|path| (ResourceDef::new(path), vec![METHODS[0]]));
        Self(paths.chain(pages).collect())
    }

    /// The methods of a path, for `Allow`; `None` if the path does not exist.
    fn allowed(&self, path: &str) -> Option<String> {
        let here = self.0.iter().filter(|(known, _)| known.is_match(path));
        let here: Vec<&str> = here.flat_map(|(_, methods)| methods).copied().collect();
        let each = METHODS.into_iter().filter(|method| here.contains(method));
        Some(each.collect::<Vec<_>>().join(", ")).filter(|allowed| !allowed.is_empty())
    }
}

const METHODS: [&str; 5] = ["GET, HEAD", "POST", "PUT", "PATCH", "DELETE"];

fn methods(path: &utoipa::openapi::PathItem) -> Vec<&'static str> {
    let there = [&path.get, &path.post, &path.put, &path.patch, &path.delete];
    let there = METHODS.into_iter().zip(there).filter(|(_, operation)| operation.is_some());
    there.map(|(method, _)| method).collect()
}

/// Redirects to the start page of the documentation. This is not actix's own redirect, which has no
/// response body: a request's body is kept until the response's body is written (see [`unread`]),
/// and if it is dropped too early, the connection stays open until a time-out.
async fn to_the_page() -> HttpResponse {
    const PAGE: &str = "/docs/index.html";
    HttpResponse::TemporaryRedirect().insert_header((LOCATION, PAGE)).body(format!("See {PAGE}\n"))
}

async fn no_such_route(
    request: HttpRequest,
    routes: Data<Routes>,
) -> Result<HttpResponse, Problem> {
    Err(match routes.allowed(request.path()) {
        Some(allow) => {
            let detail = format!("{} is not allowed here (allowed: {allow})", request.method());
            let mut problem = Problem::new(Code::MethodNotAllowed, detail);
            problem.more.allow = Some(allow);
            problem
        }
        None => {
            Problem::new(Code::RouteNotFound, "There is nothing at this path; see /openapi.json")
        }
    })
}

/// Wraps every request: gives it an id, renders its problem if there is one, counts it and logs it.
///
/// A HEAD is handled as a GET; the encoder leaves out the body.
async fn finish(
    mut request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse, Error> {
    let arrived = Instant::now();
    let app = request.app_data::<Data<App>>().expect("it is the application's").clone();
    let id = request_id(request.headers());
    let method = metrics::method(request.method());
    if request.method() == Method::HEAD {
        request.head_mut().method = Method::GET;
        request.extensions_mut().insert(WasHead);
    }
    let body = KeptBody::of(&mut request);
    let (mut answered, outcome) =
        write_out(next.call(request).await?.map_into_boxed_body(), &id, &app.metrics);
    let took = arrived.elapsed();
    let route = metrics::route(answered.request().path());
    app.metrics.answered(method, route, answered.status(), took);
    // Operators have to know about defects; the other lines are for looking up a single request.
    let is_defect = answered.status() == StatusCode::INTERNAL_SERVER_ERROR;
    let level = if is_defect { log::Level::Error } else { log::Level::Info };
    log::log!(
        target: REQUESTS, level, requestId = id.as_str(), method, route,
        status = answered.status().as_u16(), durationMs = took.as_micros() as f64 / 1000.0, outcome;
        "{method} {}", answered.request().path(),
    );
    if let Some(mut body) = body {
        if !body.has_ended() {
            body.skim().await;
        }
        answered = body.keep_for(answered);
    }
    let allowance = answered.request().extensions().get::<Allowance>().cloned();
    if let Some(allowance) = allowance {
        allowance.write(answered.headers_mut());
    }
    let id = HeaderValue::from_str(&id).expect("an id is visible ASCII");
    answered.headers_mut().insert(X_REQUEST_ID, id);
    let exposure = answered.request().app_data::<Data<Exposure>>().is_some_and(|it| it.is_tls);
    hardening::write(answered.headers_mut(), exposure);
    Ok(answered)
}

/// Renders the final response, and returns it with its outcome in a word: the code of the problem,
/// if it is one.
fn write_out(
    answered: ServiceResponse,
    id: &str,
    metrics: &Metrics,
) -> (ServiceResponse, &'static str) {
    let status = answered.status();
    if !status.is_client_error() && !status.is_server_error() {
        return (answered, "done");
    }
    let error = answered.response().error();
    let (mut response, code) = match error.and_then(|error| error.as_error::<Problem>()) {
        Some(problem) => {
            problem.more.turned_away.inspect(|why| metrics.turned_away(*why));
            (problem.respond(id), problem.code)
        }
        None => {
            let problem = of_foreign_error(status, error);
            (problem.respond(id), problem.code)
        }
    };
    // These tell browsers whether a page of another origin may read the response.
    for (name, value) in answered.headers() {
        if name.as_str().starts_with("access-control-") || name == VARY {
            response.headers_mut().append(name.clone(), value.clone());
        }
    }
    (ServiceResponse::new(answered.into_parts().0, response), code.entry().code)
}

/// Marks a HEAD request that is handled as a GET.
struct WasHead;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer value is not taken for an id, since it would only fill the log.
const REQUEST_ID_LENGTH_MAX: usize = 128;

/// The caller's id for the request if it can be echoed, otherwise a generated one.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(X_REQUEST_ID).and_then(|given| given.to_str().ok());
    let sane = |id: &&str| {
        (1..=REQUEST_ID_LENGTH_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    given.filter(sane).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// The problem for an error that comes from a library.
fn of_foreign_error(status: StatusCode, error: Option<&Error>) -> Problem {
    if let Some(refused) = error.and_then(|error| error.as_error::<CorsError>()) {
        let field = match refused {
            CorsError::MissingRequestMethod
            | CorsError::BadRequestMethod
            | CorsError::MethodNotAllowed => "Access-Control-Request-Method",
            CorsError::BadRequestHeaders | CorsError::HeadersNotAllowed => {
                "Access-Control-Request-Headers"
            }
            // The library may add variants.
            _ => "Origin",
        };
        Problem::wrong(field, format!("is refused: {refused} (see CORS_ORIGINS)"))
    } else if status == StatusCode::NOT_FOUND {
        Problem::new(Code::RouteNotFound, "There is nothing at this path; see /openapi.json")
    } else if status.is_client_error() {
        Problem::new(Code::ValidationFailed, "The request could not be understood")
    } else {
        log::error!("unexpected error: {error:?}");
        Problem::internal()
    }
}

//! The API over HTTP: routes, handlers, bodies, problems.
//!
//! The only place that names status codes. Handlers extract, make one call, and render; what a
//! partner may rely on is in the OpenAPI document, which is made from them.

use std::sync::Arc;
use std::time::Duration;

use actix_web::body::BoxBody;
use actix_web::dev::{ResourceDef, ServiceFactory, ServiceRequest, ServiceResponse};
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::{Next, NormalizePath, from_fn};
use actix_web::web::{self, Data};
use actix_web::{Error, HttpRequest, HttpResponse};
use utoipa_actix_web::AppExt as _;
use utoipa_swagger_ui::SwaggerUi;
use uuid::Uuid;

use crate::batching::{Batching, Summaries};
use crate::domain::EventId;
use crate::store::PostgresStore;

mod body;
mod error;
mod events;
mod openapi;
mod problem;
mod reservations;
mod service;

use problem::{Code, Problem};

/// What the handlers work with.
pub struct App {
    pub batching: Batching<PostgresStore>,
    pub summaries: Summaries,
    pub store: Arc<PostgresStore>,
    pub default_event: EventId,
    pub request_timeout: Duration,
}

/// The whole API as an actix application, one for each worker.
pub fn application(app: Data<App>) -> actix_web::App<impl Factory> {
    let (application, document) = routes();
    application
        .app_data(app)
        .app_data(Data::new(Routes::of(&document)))
        .app_data(Data::new(document))
        .service(web::redirect("/docs", "/docs/index.html"))
        .service(
            SwaggerUi::new("/docs/{_:.*}")
                .config(utoipa_swagger_ui::Config::new(["/openapi.json"])),
        )
        .default_service(web::to(no_such_route))
        .wrap(NormalizePath::trim())
        .wrap(from_fn(finish))
}

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    routes().1
}

/// What an actix application is made of; the library has no shorter name for it.
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
    actix_web::App::new()
        .into_utoipa_app()
        .openapi(openapi::base())
        .service(events::read_default_event)
        .service(reservations::make_reservation)
        .service(reservations::read_reservation)
        .service(reservations::cancel_reservation)
        .service(events::read_event)
        .service(reservations::make_reservation_of_event)
        .service(reservations::read_reservation_of_event)
        .service(reservations::cancel_reservation_of_event)
        .service(service::read_health)
        .service(openapi::read_openapi)
        .service(service::read_problem)
        .split_for_parts()
}

/// The id of an event in a path. One that cannot exist is simply not found.
fn event_id(text: &str) -> Result<EventId, Problem> {
    EventId::parse(text).ok_or_else(|| Problem::event_not_found(text))
}

/// The paths of the document with their methods, to tell a wrong path from a wrong method.
struct Routes(Vec<(ResourceDef, String)>);

impl Routes {
    fn of(document: &utoipa::openapi::OpenApi) -> Self {
        let allow = |path: &utoipa::openapi::PathItem| {
            let methods = [
                (path.get.is_some(), "GET, HEAD"),
                (path.post.is_some(), "POST"),
                (path.put.is_some(), "PUT"),
                (path.patch.is_some(), "PATCH"),
                (path.delete.is_some(), "DELETE"),
            ];
            let there = methods.into_iter().filter(|(there, _)| *there).map(|(_, name)| name);
            there.collect::<Vec<_>>().join(", ")
        };
        let paths = document.paths.paths.iter();
        Self(paths.map(|(path, item)| (ResourceDef::new(path.as_str()), allow(item))).collect())
    }
}

async fn no_such_route(
    request: HttpRequest,
    routes: Data<Routes>,
) -> Result<HttpResponse, Problem> {
    let known = routes.0.iter().find(|(path, _)| path.is_match(request.path()));
    Err(match known {
        Some((_, allow)) => {
            let detail = format!("{} is not allowed here (allowed: {allow})", request.method());
            let mut problem = Problem::new(Code::MethodNotAllowed, detail);
            problem.more.allow = Some(allow.clone());
            problem
        }
        None => Problem::new(
            Code::RouteNotFound,
            format!("There is nothing at {:?}; see /openapi.json", request.path()),
        ),
    })
}

/// Around every request: gives it an id, and writes out what went wrong.
///
/// A HEAD is answered as a GET whose body the encoder leaves out.
async fn finish(
    mut request: ServiceRequest,
    next: Next<BoxBody>,
) -> Result<ServiceResponse, Error> {
    let id = request_id(request.headers());
    if request.method() == Method::HEAD {
        request.head_mut().method = Method::GET;
    }
    let answered = next.call(request).await?;
    let problem = answered.response().error().map(|error| match error.as_error::<Problem>() {
        Some(problem) => problem.respond(&id),
        None => of_foreign_error(error).respond(&id),
    });
    let mut answered = match problem {
        Some(response) => {
            let (request, _) = answered.into_parts();
            log_failure(&request, &response, &id);
            ServiceResponse::new(request, response)
        }
        None => answered,
    };
    let id = HeaderValue::from_str(&id).expect("an id is visible ASCII");
    answered.headers_mut().insert(X_REQUEST_ID, id);
    Ok(answered)
}

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// A longer one is not an id, and not worth a place in the log.
const REQUEST_ID_LENGTH_MAX: usize = 128;

/// The caller's id for the request, if it can be echoed, and one of ours otherwise.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(X_REQUEST_ID).and_then(|given| given.to_str().ok());
    let sane = |id: &&str| {
        (1..=REQUEST_ID_LENGTH_MAX).contains(&id.len())
            && id.bytes().all(|byte| byte.is_ascii_graphic())
    };
    given.filter(sane).map_or_else(|| Uuid::new_v4().to_string(), str::to_owned)
}

/// What actix refuses before a handler sees it.
fn of_foreign_error(error: &Error) -> Problem {
    match error.as_response_error().status_code() {
        StatusCode::NOT_FOUND => Problem::new(Code::RouteNotFound, "There is nothing here"),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(Code::BodyTooLarge, "Too large"),
        status if status.is_client_error() => {
            Problem::new(Code::ValidationFailed, "The request could not be understood")
        }
        _ => {
            log::error!("an unexpected error: {error:?}");
            Problem::new(Code::Internal, "A defect of this service; nothing happened")
        }
    }
}

fn log_failure(request: &HttpRequest, response: &HttpResponse, id: &str) {
    let level =
        if response.status().is_server_error() { log::Level::Warn } else { log::Level::Debug };
    log::log!(level, "{} {} {} {id}", response.status(), request.method(), request.path());
}

//! The OpenAPI document: the descriptions of the routes, and the problems with which they can
//! answer, taken from the table of problems.

use std::collections::BTreeMap;

use actix_web::web::Data;
use actix_web::{HttpResponse, get};
use utoipa::openapi::extensions::ExtensionsBuilder;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Ref, Schema, Type};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{ContentBuilder, RefOr, Response, ResponseBuilder};
use utoipa::{Modify, OpenApi};

use super::problem::{self, Code, ProblemBody};
use super::reservations::ListBody;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "TicketBoss",
        description = "Book, hold and cancel seats of events. Every booking is answered at once, \
            and no seat is sold twice.\n\n\
            Every error is `application/problem+json`: `code` is for programs, `detail` for \
            people. An unknown path is answered 404 `route_not_found`, and a method that a path \
            does not support 405 `method_not_allowed`, with `Allow`. Only a request that is not \
            valid HTTP is answered 400, 408 or 431 without a body.",
    ),
    servers((url = "/", description = "This server")),
    // The default, for open operations; all others declare which keys they take.
    security(()),
    modifiers(&KeyScheme),
    tags(
        (name = "reservations", description = "Book, hold, confirm, extend, shrink, cancel, list"),
        (name = "events", description = "Create, read, list and change events"),
        (name = "changes", description = "Follow the changes of an event"),
        (name = "keys", description = "Create, list and revoke the keys of callers"),
        (name = "service", description = "The service itself: health, metrics, documentation"),
    ),
    components(schemas(ProblemBody, ListBody)),
)]
struct Base;

/// How a key is sent.
struct KeyScheme;

impl Modify for KeyScheme {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("tb_<id>_<secret>")
            .description(Some(
                "Required if the service runs with access control. The roles are the key scopes \
                 that an operation accepts.",
            ));
        let components = document.components.get_or_insert_default();
        components.add_security_scheme("key", SecurityScheme::Http(scheme.build()));
    }
}

/// Adds the short form of each operation on a reservation, in which it is found by its id alone.
pub fn add_short_forms(document: &mut utoipa::openapi::OpenApi) {
    let mut short_forms = document.clone();
    short_forms.paths.paths.retain(|path, _| path.contains("{reservationId}"));
    for operation in operations(&mut short_forms) {
        let id = operation.operation_id.as_deref().and_then(|id| id.strip_suffix("_of_event"));
        operation.operation_id = Some(id.expect("it is named for its event").to_owned());
        operation.summary.as_mut().expect("it has one").push_str(", by its id alone");
        operation.parameters.as_mut().expect("it has some").retain(
            |parameter| !matches!(parameter, RefOr::T(parameter) if parameter.name == "eventId"),
        );
        operation.responses.responses.extend(responses(&[Code::ReservationNotFound]));
    }
    for (path, operations) in short_forms.paths.paths {
        let short = path.strip_prefix("/events/{eventId}").expect("it is below its event");
        document.paths.paths.insert(short.to_owned(), operations);
    }
}

/// Declares, for all operations that take keys, how they refuse, and that access control may be
/// off.
pub fn add_access(document: &mut utoipa::openapi::OpenApi) {
    for operation in operations(document) {
        let Some(security) = &mut operation.security else { continue };
        security.insert(0, SecurityRequirement::default());
        let refusals = responses(&[Code::Unauthenticated, Code::Forbidden, Code::RateLimited]);
        operation.responses.responses.extend(refusals);
        for (status, response) in &mut operation.responses.responses {
            // All answers to requests with a valid key have these headers.
            if let RefOr::T(response) = response
                && status != "401"
            {
                let headers = [
                    ("RateLimit", "With a key: how many requests are left"),
                    ("RateLimit-Policy", "With a key: how many requests are allowed"),
                ];
                for (name, said) in headers {
                    let text = ObjectBuilder::new().schema_type(Type::String);
                    let header =
                        HeaderBuilder::new().schema(Some(text)).description(Some(said)).build();
                    response.headers.insert(name.into(), header.into());
                }
            }
        }
    }
}

fn operations(
    document: &mut utoipa::openapi::OpenApi,
) -> impl Iterator<Item = &mut utoipa::openapi::path::Operation> {
    document.paths.paths.values_mut().flat_map(|path| {
        let each = [&mut path.get, &mut path.post, &mut path.patch, &mut path.delete];
        each.into_iter().flatten()
    })
}

/// The parts of the document that do not come from the routes.
pub fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

/// Declares that request bodies have no other fields, except in the original contract, which
/// ignores them.
pub fn close_bodies(document: &mut utoipa::openapi::OpenApi) {
    let bodies = [
        "ReservationRequest",
        "ReservationListRequest",
        "ReservationItem",
        "ReservationChange",
        "ExtendRequest",
        "EventRequest",
        "EventChange",
        "KeyRequest",
    ];
    let components = document.components.as_mut().expect("it has schemas");
    let original = components.schemas.get(bodies[0]).expect("it is there").clone();
    for name in bodies {
        let Some(RefOr::T(Schema::Object(body))) = components.schemas.get_mut(name) else {
            unreachable!("{name} is the schema of an object");
        };
        body.additional_properties = Some(Box::new(AdditionalProperties::FreeForm(false)));
    }
    let path = document.paths.paths.get_mut("/reservations").expect("it is there");
    let operation = path.post.as_mut().expect("it books");
    let Some(RefOr::T(body)) = operation.request_body.as_mut() else {
        unreachable!("it has a body");
    };
    for content in body.content.values_mut() {
        if let RefOr::T(content) = content {
            content.schema = Some(original.clone());
        }
    }
}

/// Lists the codes of problems, as an enumeration that may grow.
pub fn list_codes(document: &mut utoipa::openapi::OpenApi) {
    let components = document.components.as_mut().expect("it has schemas");
    let problem = components.schemas.get_mut("Problem").expect("it is there");
    let RefOr::T(Schema::Object(problem)) = problem else { unreachable!("it is an object") };
    let code = problem.properties.get_mut("code").expect("it has one");
    let RefOr::T(Schema::Object(code)) = code else { unreachable!("it is a text") };
    let codes: Vec<&str> = Code::ALL.iter().map(|code| code.entry().code).collect();
    let list = ExtensionsBuilder::new().add("x-extensible-enum", codes);
    code.extensions.get_or_insert_default().merge(list.build());
}

/// Declares that every answer has the id of its request.
pub fn add_request_ids(document: &mut utoipa::openapi::OpenApi) {
    let header = HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .description(Some("The request's own id if it has up to 128 visible ASCII characters"))
        .build();
    for operation in operations(document) {
        for response in operation.responses.responses.values_mut() {
            if let RefOr::T(response) = response {
                response.headers.insert("X-Request-Id".into(), header.clone().into());
            }
        }
    }
}

/// Read this document
#[utoipa::path(
    tag = "service",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)),
)]
#[get("/openapi.json")]
pub async fn read_openapi(document: Data<utoipa::openapi::OpenApi>) -> HttpResponse {
    HttpResponse::Ok().json(document)
}

/// The responses that `codes` stand for, one per status.
pub fn responses(codes: &[Code]) -> BTreeMap<String, RefOr<Response>> {
    let mut by_status: BTreeMap<u16, Vec<Code>> = BTreeMap::new();
    for code in codes {
        by_status.entry(code.entry().status).or_default().push(*code);
    }
    let response = |codes: &[Code]| {
        let each = codes.iter().map(|code| format!("`{}`", code.entry().code));
        let schema = Ref::from_schema_name("Problem");
        let content = ContentBuilder::new().schema(Some(schema)).build();
        let mut response = ResponseBuilder::new()
            .description(each.collect::<Vec<_>>().join(", "))
            .content(problem::CONTENT_TYPE, content);
        if codes.contains(&Code::Unauthenticated) {
            let text = ObjectBuilder::new().schema_type(Type::String);
            let header = HeaderBuilder::new().schema(Some(text)).description(Some("RFC 6750"));
            response = response.header("WWW-Authenticate", header.build());
        }
        if codes.iter().any(|code| [429, 503].contains(&code.entry().status)) {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer);
            let header = HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds"));
            response = response.header("Retry-After", header.build());
        }
        RefOr::T(response.build())
    };
    by_status.into_iter().map(|(status, codes)| (status.to_string(), response(&codes))).collect()
}

/// Defines named sets of problems, for the `responses` of a route.
macro_rules! problems {
    ($($(#[$attribute:meta])* $name:ident: $($code:ident),+;)+) => { $(
        $(#[$attribute])*
        pub struct $name;

        impl utoipa::IntoResponses for $name {
            fn responses() -> std::collections::BTreeMap<
                String,
                utoipa::openapi::RefOr<utoipa::openapi::Response>,
            > {
                use $crate::http::problem::Code;
                $crate::http::openapi::responses(&[$(Code::$code),+])
            }
        }
    )+ };
}
pub(super) use problems;

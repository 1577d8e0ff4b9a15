//! The OpenAPI document: what the routes say of themselves, and the problems they can answer,
//! taken from the table of problems.

use std::collections::BTreeMap;

use actix_web::web::Data;
use actix_web::{HttpResponse, get};
use utoipa::OpenApi;
use utoipa::openapi::header::HeaderBuilder;
use utoipa::openapi::schema::{AdditionalProperties, ObjectBuilder, Ref, Schema, Type};
use utoipa::openapi::{ContentBuilder, RefOr, Response, ResponseBuilder};

use super::problem::{self, Code, ProblemBody};
use super::reservations::ListBody;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "TicketBoss",
        description = "Book, hold and cancel seats of events. Answered at once; never sold \
            twice.\n\n\
            Every error is `application/problem+json`: `code` is for programs, `detail` for \
            people. Only what is no valid HTTP is answered 400, 408 or 431 without a body.",
    ),
    servers((url = "/", description = "This server")),
    // Nobody is asked who he is.
    security(()),
    tags(
        (name = "reservations", description = "Book, hold, confirm, shrink, cancel, list"),
        (name = "events", description = "Make them, change them, and see what is left"),
        (name = "changes", description = "Follow what happens to an event"),
        (name = "service", description = "The service itself"),
    ),
    components(schemas(ProblemBody, ListBody)),
)]
struct Base;

/// What the routes do not say themselves.
pub fn base() -> utoipa::openapi::OpenApi {
    Base::openapi()
}

/// Says of the bodies of requests that they have no other fields; but for the original contract's,
/// which ignores them.
pub fn close_bodies(document: &mut utoipa::openapi::OpenApi) {
    let bodies = [
        "ReservationRequest",
        "ReservationListRequest",
        "ReservationItem",
        "ReservationChange",
        "ExtendRequest",
        "EventRequest",
        "EventChange",
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

/// Says of every answer that it has the id of its request.
pub fn add_request_ids(document: &mut utoipa::openapi::OpenApi) {
    let header = HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .description(Some("The request's own, if it was up to 128 visible ASCII characters"))
        .build();
    for path in document.paths.paths.values_mut() {
        let operations = [&mut path.get, &mut path.post, &mut path.patch, &mut path.delete];
        for operation in operations.into_iter().flatten() {
            for response in operation.responses.responses.values_mut() {
                if let RefOr::T(response) = response {
                    response.headers.insert("X-Request-Id".into(), header.clone().into());
                }
            }
        }
    }
}

/// This document
#[utoipa::path(
    tag = "service",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value)),
)]
#[get("/openapi.json")]
pub async fn read_openapi(document: Data<utoipa::openapi::OpenApi>) -> HttpResponse {
    HttpResponse::Ok().json(document)
}

/// The responses that `codes` stand for, one for each status.
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
        if codes.iter().any(|code| code.entry().status == 503) {
            let seconds = ObjectBuilder::new().schema_type(Type::Integer);
            let header = HeaderBuilder::new().schema(Some(seconds)).description(Some("Seconds"));
            response = response.header("Retry-After", header.build());
        }
        RefOr::T(response.build())
    };
    by_status.into_iter().map(|(status, codes)| (status.to_string(), response(&codes))).collect()
}

/// Names sets of problems, for the `responses` of a route.
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

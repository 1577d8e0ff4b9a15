//! The OpenAPI document describes what the service does, and nothing else.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::support::with_app;

/// All codes of problems that the document names.
pub fn codes_of(document: &Value) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    for (_, _, operation) in operations(document) {
        for response in operation["responses"].as_object().expect("responses").values() {
            if response["content"].get("application/problem+json").is_some() {
                let each = response["description"].as_str().expect("a description").split(", ");
                codes.extend(each.map(|code| code.trim_matches('`').to_owned()));
            }
        }
    }
    codes
}

pub fn operations(document: &Value) -> Vec<(String, Method, Value)> {
    let mut operations = Vec::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let method = method.to_uppercase().parse().expect("a method");
            operations.push((path.clone(), method, operation.clone()));
        }
    }
    operations
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_of_the_document_is_there() {
    with_app(async |app| {
        let document = app.get("/openapi.json").await.json();
        assert_eq!(document["openapi"], "3.1.0");
        let code = &document["components"]["schemas"]["Problem"]["properties"]["code"];
        let listed = code["x-extensible-enum"].as_array().expect("a list of all codes");
        for code in codes_of(&document) {
            assert!(listed.contains(&json!(code)), "{code} is not listed");
        }
        let id = Uuid::now_v7().to_string();
        let operations = operations(&document);
        assert_eq!(operations.len(), 29);
        for (path, method, operation) in operations {
            let real = path
                .replace("{eventId}", "node-meetup-2025")
                .replace("{reservationId}", &id)
                .replace("{keyId}", "0123456789abcdef")
                .replace("{type}", "internal")
                // A stream has no end.
                .replace("/stream", "/stream?after=x");
            let answer = app.send(method.clone(), &real, &[], None).await;
            let status = answer.status.as_u16().to_string();
            assert!(
                operation["responses"].get(&status).is_some(),
                "{method} {path} answered {status}, which the document does not say"
            );
            assert!(!["405", "501"].contains(&status.as_str()), "{method} {path}: {status}");
            if answer.header("content-type") == Some("application/problem+json") {
                let code = answer.json()["code"].as_str().expect("a code").to_owned();
                assert_ne!(code, "route_not_found", "{method} {path}");
                let said = operation["responses"][&status]["description"].to_string();
                assert!(said.contains(&code), "{method} {path}: {code} is not in {said}");
            }
            assert!(operation["summary"].is_string(), "{method} {path}");
            assert!(operation["operationId"].is_string(), "{method} {path}");
        }
    })
    .await;
}

/// Unknown fields are refused, and the document says so; only the original contract ignores them.
#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_no_other_fields() {
    with_app(async |app| {
        let document = app.get("/openapi.json").await.json();
        let mut bodies = 0;
        for (path, method, operation) in operations(&document) {
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            if schema.is_null() {
                continue;
            }
            let pointer = schema["$ref"].as_str().and_then(|name| name.strip_prefix('#'));
            let schema = pointer.and_then(|pointer| document.pointer(pointer)).unwrap_or(schema);
            let open = path == "/reservations";
            let closed = schema["additionalProperties"] == json!(false);
            assert_eq!(closed, !open, "{method} {path}: {schema}");
            bodies += 1;
        }
        assert_eq!(bodies, 10);
    })
    .await;
}

/// The other direction: a method that the document does not list is refused.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_there_that_the_document_does_not_say() {
    with_app(async |app| {
        let document = app.get("/openapi.json").await.json();
        for path in document["paths"].as_object().expect("paths").keys() {
            for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
                // A path without parameters may also match one with parameters.
                let real = path.replace("/batch", "/{reservationId}");
                let listed = [path, real.as_str()]
                    .iter()
                    .any(|path| document["paths"][path].get(method.to_lowercase()).is_some());
                if !listed {
                    let real = path.replace(['{', '}'], "");
                    let method: Method = method.parse().expect("a method");
                    let answer = app.send(method, &real, &[], None).await;
                    answer.problem(405, "method_not_allowed");
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_reference_of_the_document_leads_somewhere() {
    with_app(async |app| {
        let document = app.get("/openapi.json").await.json();
        let text = document.to_string();
        let references = text.split("\"$ref\":\"#").skip(1);
        let mut count = 0;
        for reference in references {
            let pointer = reference.split('"').next().expect("a text");
            assert!(document.pointer(pointer).is_some(), "{pointer}");
            count += 1;
        }
        assert!(count > 10, "{count}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_can_be_browsed_offline() {
    with_app(async |app| {
        for path in ["/docs", "/docs/", "/docs/index.html"] {
            let page = app.get(path).await;
            assert_eq!(page.status, 200, "{path}");
            assert!(page.text.contains("swagger-ui"), "{path}");
            assert!(!page.text.contains("https://"), "{path}: {}", page.text);
        }
        assert_eq!(app.get("/docs/swagger-ui-bundle.js").await.status, 200);
        let start = app.get("/docs/swagger-initializer.js").await;
        assert!(start.text.contains("/openapi.json"), "{}", start.text);
    })
    .await;
}

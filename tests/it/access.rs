//! Access control: who may call what.

use std::fmt::Write as _;

use reqwest::Method;
use serde_json::{Value, json};
use ticketboss::domain::Scope;
use tokio::time::timeout;

use crate::openapi::operations;
use crate::outage::behind_a_proxy;
use crate::support::binary::command;
use crate::support::proxy::Way;
use crate::support::{
    Answer, PATIENCE, TestApp, TestDatabase, partner, with_database, with_settings,
};

/// Access control on, with request rates that no test reaches.
pub const KEYS: [(&str, &str); 3] = [
    ("ACCESS_CONTROL", "keys"),
    ("PARTNER_REQUESTS_PER_S", "100000"),
    ("PARTNER_REQUESTS_BURST", "100000"),
];

/// A key of each scope, and of two partners.
pub struct Holders {
    pub ours: String,
    pub theirs: String,
    read: String,
    pub operator: String,
}

impl Holders {
    pub async fn of(app: &TestApp) -> Self {
        let key = async |scope| app.key(scope).await.1;
        Self {
            ours: key(Scope::Partner(partner("abc-corp"))).await,
            theirs: key(Scope::Partner(partner("other-corp"))).await,
            read: key(Scope::Read).await,
            operator: key(Scope::Operator).await,
        }
    }
}

/// Makes a hold for abc-corp, which can be cancelled as well as confirmed.
async fn held(app: &TestApp, operator: &str) -> String {
    let body = json!({"partnerId": "abc-corp", "seats": 2, "holdSeconds": 600});
    let path = "/events/node-meetup-2025/reservations";
    let made = app.send_as(operator, Method::POST, path, body).await.made();
    made["reservationId"].as_str().expect("an id").to_owned()
}

/// Sends a request that can only be refused because of its caller.
pub async fn call(app: &TestApp, operator: &str, key: &str, method: &Method, path: &str) -> Answer {
    let mut real = path.replace("{eventId}", "node-meetup-2025").replace("{type}", "internal");
    if path.contains("{reservationId}") {
        real = real.replace("{reservationId}", &held(app, operator).await);
    }
    if path.contains("{keyId}") {
        let (id, _) = app.key(Scope::Read).await;
        real = real.replace("{keyId}", id.as_str());
    }
    let booking = json!({"partnerId": "abc-corp", "seats": 1});
    let body = match (method.as_str(), path.rsplit('/').next().expect("a last part")) {
        ("POST", "reservations") => booking,
        ("POST", "batch") => json!({"partnerId": "abc-corp", "items": [{"seats": 1}]}),
        ("POST", "extend") => json!({"holdSeconds": 60}),
        ("POST", "events") => json!({"name": "Another", "totalSeats": 5}),
        ("POST", "keys") => json!({"name": "another", "scope": "read"}),
        ("PATCH", "{reservationId}") => json!({"seats": 1}),
        ("PATCH", "{eventId}") => json!({"totalSeats": 500}),
        _ => Value::Null,
    };
    // A GET of a stream would never end.
    let method = if path.ends_with("/stream") { Method::HEAD } else { method.clone() };
    let authorization = format!("Bearer {key}");
    let mut headers = vec![("if-match", "*")];
    if !key.is_empty() {
        headers.push(("authorization", &authorization));
    }
    app.send(method, &real, &headers, (!body.is_null()).then(|| body.to_string())).await
}

/// Every endpoint with every kind of caller, as listed in SECURITY.md. After a change of what
/// callers may do, `WRITE_SECURITY_TABLE=1 cargo test access::` rewrites the table.
#[tokio::test(flavor = "multi_thread")]
async fn every_endpoint_takes_the_keys_that_it_says() {
    with_settings(&KEYS, async |app| {
        let holders = Holders::of(app).await;
        let Holders { ours, theirs, read, operator } = &holders;
        let wrong = format!("{}0000", &ours[..ours.len() - 4]);
        let (revoked_id, revoked) = app.key(Scope::Operator).await;
        let (_, expired) = app.key(Scope::Operator).await;
        app.database.execute("update keys set expires_at = now(), changed_at = now() where id = (select id from keys order by created_at desc limit 1)").await;
        let path = format!("/keys/{revoked_id}");
        assert_eq!(app.send_as(operator, Method::DELETE, &path, Value::Null).await.status, 204);

        let document = app.get("/openapi.json").await.json();
        let mut table = String::from(
            "| endpoint | no key | wrong, expired or revoked | `partner` | another partner's | \
             `read` | `operator` |\n|---|---|---|---|---|---|---|\n",
        );
        for (path, method, operation) in operations(&document) {
            let status = async |key: &str| {
                call(app, operator, key, &method, &path).await.status.as_u16()
            };
            let none = status("").await;
            let invalid = [status(&wrong).await, status(&expired).await, status(&revoked).await];
            assert!(invalid.iter().all(|other| *other == invalid[0]), "{path}: {invalid:?}");
            let each = [
                status(ours).await,
                status(theirs).await,
                status(read).await,
                status(operator).await,
            ];
            let allowed = |status: u16| (200..300).contains(&status);
            let roles: Vec<_> = [("partner", each[0]), ("read", each[2]), ("operator", each[3])]
                .into_iter()
                .filter(|(_, status)| allowed(*status) && !allowed(none))
                .map(|(role, _)| role)
                .collect();
            let said = &operation["security"][1]["key"];
            let said = if said.is_null() { json!([]) } else { said.clone() };
            assert_eq!(said, json!(roles), "{method} {path} is not as the document says");
            let cell = |status: u16| if allowed(status) { "yes".into() } else { status.to_string() };
            let statuses = [none, invalid[0]].into_iter().chain(each).map(cell);
            let statuses = statuses.collect::<Vec<_>>().join(" | ");
            writeln!(table, "| `{method} {path}` | {statuses} |").expect("it is a text");
        }
        for page in ["/", "/console/main.js", "/docs/index.html"] {
            assert_eq!(app.get(page).await.status, 200, "{page}");
        }

        let file = concat!(env!("CARGO_MANIFEST_DIR"), "/SECURITY.md");
        let text = std::fs::read_to_string(file).expect("the file is there");
        let (before, rest) = text.split_once("<!-- table -->\n").expect("where it begins");
        let (current, after) = rest.split_once("<!-- end of table -->").expect("where it ends");
        if std::env::var_os("WRITE_SECURITY_TABLE").is_some() {
            let text = format!("{before}<!-- table -->\n{table}<!-- end of table -->{after}");
            std::fs::write(file, text).expect("it can be written");
        } else {
            assert_eq!(current, table, "SECURITY.md is not up to date; the test says how");
        }
    })
    .await;
}

/// A caller who guesses keys learns nothing from the answer.
#[tokio::test(flavor = "multi_thread")]
async fn all_that_is_wrong_with_a_key_reads_the_same() {
    with_settings(&KEYS, async |app| {
        let (id, operator) = app.key(Scope::Operator).await;
        let missing = app.get("/reservations").await;
        missing.problem(401, "unauthenticated");
        assert_eq!(missing.header("www-authenticate"), Some("Bearer realm=\"ticketboss\""));
        let secret = operator.rsplit('_').next().expect("a secret");
        let upper = secret.to_uppercase();
        let wrong = [
            format!("tb_{id}_{}", "0".repeat(40)),
            format!("tb_{}_{secret}", "0".repeat(16)),
            format!("tb_{id}_{upper}"),
            format!("TB_{id}_{secret}"),
            format!("{operator} {operator}"),
            secret.to_owned(),
        ];
        let mut seen = Vec::new();
        for wrong in &wrong {
            let answer = app.send_as(wrong, Method::GET, "/reservations", Value::Null).await;
            let mut problem = answer.problem(401, "unauthenticated");
            problem["requestId"] = Value::Null;
            seen.push((problem, answer.header("www-authenticate").map(str::to_owned)));
        }
        assert!(seen.iter().all(|other| *other == seen[0]), "{seen:#?}");
        let authorization = format!("Bearer {operator}");
        for twice in [
            vec![("authorization", authorization.as_str()), ("authorization", &authorization)],
            vec![("authorization", &operator)],
            vec![("authorization", "Basic dGI6dGI=")],
        ] {
            let answer = app.send(Method::GET, "/reservations", &twice, None).await;
            answer.problem(401, "unauthenticated");
        }
        let query = format!("/reservations?access_token={operator}");
        app.get(&query).await.problem(401, "unauthenticated");
        let lower = [("authorization", format!("bearer {operator}"))];
        let lower = lower.each_ref().map(|(name, value)| (*name, value.as_str()));
        assert_eq!(app.send(Method::GET, "/reservations", &lower, None).await.status, 200);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_books_for_itself_alone() {
    with_settings(&KEYS, async |app| {
        let Holders { ours, theirs, operator, .. } = Holders::of(app).await;
        for path in ["/reservations", "/events/node-meetup-2025/reservations"] {
            let booked = app.send_as(&ours, Method::POST, path, json!({"seats": 1})).await.made();
            assert_eq!(booked["partnerId"], "abc-corp");
            let named = json!({"seats": 1, "partnerId": "abc-corp"});
            app.send_as(&ours, Method::POST, path, named.clone()).await.made();
            app.send_as(&theirs, Method::POST, path, named).await.problem(403, "forbidden");
            // Both errors are reported at once.
            let wrong = app.send_as(&operator, Method::POST, path, json!({"seats": 0})).await;
            let wrong = wrong.problem(400, "validation_failed");
            assert_eq!(wrong["errors"].as_array().map(Vec::len), Some(2), "{wrong}");
        }
        let list = "/events/node-meetup-2025/reservations/batch";
        let items = json!({"items": [{"seats": 1}, {"seats": 2}]});
        let booked = app.send_as(&ours, Method::POST, list, items).await.made();
        assert_eq!(booked["items"][1]["partnerId"], "abc-corp");
        let summary = app.send_as(&ours, Method::GET, "/reservations", Value::Null).await.json();
        assert_eq!(summary["reservationCount"], 6);
    })
    .await;
}

/// A partner does not even learn that another partner's reservation exists.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_another_partners_is_not_there() {
    with_settings(&KEYS, async |app| {
        let Holders { ours, theirs, operator, .. } = Holders::of(app).await;
        let id = held(app, &operator).await;
        let path = format!("/reservations/{id}");
        let before = app.send_as(&operator, Method::GET, &path, Value::Null).await.json();
        for base in ["/reservations", "/events/node-meetup-2025/reservations"] {
            let path = format!("{base}/{id}");
            let calls = [
                (Method::GET, path.clone(), Value::Null),
                (Method::POST, format!("{path}/confirm"), Value::Null),
                (Method::POST, format!("{path}/extend"), json!({"holdSeconds": 60})),
                (Method::PATCH, path.clone(), json!({"seats": 1})),
                (Method::DELETE, path.clone(), Value::Null),
            ];
            for (method, path, body) in calls {
                let answer = app.send_as(&theirs, method.clone(), &path, body).await;
                let problem = answer.problem(404, "reservation_not_found");
                let no_such = path.replace(&id, &uuid::Uuid::now_v7().to_string());
                let body = if path.ends_with("extend") {
                    json!({"holdSeconds": 60})
                } else if method == Method::PATCH {
                    json!({"seats": 1})
                } else {
                    Value::Null
                };
                let unknown = app.send_as(&theirs, method, &no_such, body).await;
                assert_eq!(problem["detail"], unknown.json()["detail"], "{path}");
            }
        }
        let path = format!("/reservations/{id}");
        assert_eq!(app.send_as(&ours, Method::GET, &path, Value::Null).await.json(), before);

        // Listings and exports have only the caller's own reservations.
        let all = "/events/node-meetup-2025/reservations";
        let listed = app.send_as(&theirs, Method::GET, all, Value::Null).await.json();
        assert_eq!(listed["items"], json!([]));
        let listed = app.send_as(&ours, Method::GET, all, Value::Null).await.json();
        assert_eq!(listed["items"].as_array().map(Vec::len), Some(1));
        let of_ours = format!("{all}?partnerId=abc-corp");
        app.send_as(&theirs, Method::GET, &of_ours, Value::Null).await.problem(403, "forbidden");
        let csv = [("authorization", format!("Bearer {theirs}")), ("accept", "text/csv".into())];
        let csv = csv.each_ref().map(|(name, value)| (*name, value.as_str()));
        let csv = app.send(Method::GET, all, &csv, None).await;
        assert_eq!(csv.text.lines().count(), 1, "{csv:?}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_journal_says_which_operator_did_it() {
    with_settings(&KEYS, async |app| {
        let ours = app.key(Scope::Partner(partner("abc-corp"))).await.1;
        let (id, operator) = app.key(Scope::Operator).await;
        let post =
            async |key: &str, path: &str, body| app.send_as(key, Method::POST, path, body).await;
        let event =
            post(&operator, "/events", json!({"eventId": "e", "name": "E", "totalSeats": 9}));
        assert_eq!(event.await.status, 201);
        let list = json!({"partnerId": "abc-corp", "items": [{"seats": 1}, {"seats": 2}]});
        post(&operator, "/events/e/reservations/batch", list).await.made();
        let own = post(&ours, "/events/e/reservations", json!({"seats": 3})).await.made();
        let own = format!("/reservations/{}", own["reservationId"].as_str().expect("an id"));
        let cancelled = app.send_as(&operator, Method::DELETE, &own, Value::Null).await;
        assert_eq!(cancelled.status, 204);
        let change = json!({"name": "F"});
        assert_eq!(app.send_as(&operator, Method::PATCH, "/events/e", change).await.status, 200);

        let feed =
            app.send_as(&operator, Method::GET, "/events/e/changes", Value::Null).await.json();
        let keys: Vec<Vec<&Value>> = feed["items"]
            .as_array()
            .expect("versions")
            .iter()
            .map(|version| {
                let changes = version["changes"].as_array().expect("changes");
                changes.iter().map(|change| &change["keyId"]).collect()
            })
            .collect();
        let (id, none) = (json!(id.as_str()), Value::Null);
        assert_eq!(keys, [vec![&id, &id], vec![&none], vec![&id], vec![&id]], "{feed}");
        let made_by = sqlx::query_scalar::<_, Option<String>>(
            "select made_by_key from events where id = 'e'",
        );
        let made_by = made_by.fetch_one(&mut app.database.connect().await).await;
        assert_eq!(json!(made_by.expect("the event is there")), id);
    })
    .await;
}

/// Operators need the metrics most when something is wrong, so an outage must not take them away.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_are_there_while_the_database_is_away() {
    let (database, proxy, url) = behind_a_proxy().await;
    let settings = [&KEYS[..], &[("DATABASE_URL", url.as_str())]].concat();
    with_database(database, &settings, async |app| {
        let (read, partners) = (app.key(Scope::Read).await.1, Scope::Partner(partner("abc-corp")));
        let partners = app.key(partners).await.1;
        let get = async |key: &str, path| app.send_as(key, Method::GET, path, Value::Null).await;
        for key in [&read, &partners] {
            assert_eq!(get(key, "/events").await.status, 200);
        }
        proxy.set(Way::Closed);
        let closed = async { while get(&read, "/events").await.status != 503 {} };
        timeout(PATIENCE, closed).await.expect("it is noticed");
        // Once the service cannot know whether a key was revoked, the key is good for nothing else.
        // (This key may not list keys, and would otherwise be told so.)
        let stale = async { while get(&read, "/keys").await.status != 503 {} };
        timeout(PATIENCE, stale).await.expect("it is noticed");
        for _ in 0..2 {
            assert_eq!(get(&read, "/metrics").await.status, 200);
        }
        get(&partners, "/metrics").await.problem(403, "forbidden");
        let wrong = format!("{}0000", &read[..56]);
        get(&wrong, "/metrics").await.problem(401, "unauthenticated");
        let unknown = format!("tb_{}{}", "0".repeat(16), &read[19..]);
        get(&unknown, "/metrics").await.problem(503, "database_unavailable");
        proxy.set(Way::Open);
        let again = async { while get(&read, "/events").await.status != 200 {} };
        timeout(PATIENCE, again).await.expect("it is there again");
    })
    .await;
}

/// No service is open to the internet because a setting was forgotten or mistyped.
#[tokio::test(flavor = "multi_thread")]
async fn access_control_is_not_off_by_accident() {
    let database = TestDatabase::create_empty().await;
    let serve = async |more: &[(&str, &str)]| {
        let environment = [&[("DATABASE_URL", database.url.as_str())], more].concat();
        command(&[], &environment).output().await.expect("it runs")
    };
    for host in ["0.0.0.0", "::"] {
        let output = serve(&[("HOST", host)]).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert!(said.contains("ACCESS_CONTROL"), "{said}");
    }
    let output = serve(&[("ACCESS_CONTROL", "on")]).await;
    assert_eq!(output.status.code(), Some(2), "{output:?}");
}

//! The service under a database role with few rights: the tables belong to another role.

use reqwest::Method;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::access::{Holders, KEYS, call};
use crate::openapi::operations;
use crate::support::binary::command;
use crate::support::{TestApp, TestDatabase, eventually, with_database};

/// The rights in `ops/grants.sql` are all that the service needs, and do not include what it must
/// not do.
#[tokio::test(flavor = "multi_thread")]
async fn the_service_needs_few_rights() {
    let admin = TestDatabase::create_empty().await;
    let number = Uuid::new_v4().simple();
    let (owner, role) = (format!("owner_{number}"), format!("role_{number}"));
    let database = admin.url.rsplit('/').next().expect("a name").split('?').next();
    let database = database.expect("a name");
    admin
        .execute(format!(
            "create role {owner} login password 'o'; create role {role} login password 'r';
             alter database {database} owner to {owner};"
        ))
        .await;
    let (owned, limited) = (admin.as_role(&owner, "o"), admin.as_role(&role, "r"));
    let environment = [("DATABASE_URL", owned.url.as_str())];
    let migrated = command(&["migrate"], &environment).output().await.expect("it runs");
    assert_eq!(migrated.status.code(), Some(0), "{migrated:?}");
    let grants = include_str!("../../ops/grants.sql");
    owned.execute(grants.replace("to ticketboss", &format!("to {role}"))).await;

    // Every endpoint works with these rights.
    let settings = [&KEYS[..], &[("MIGRATE_ON_START", "false")]].concat();
    with_database(limited, &settings, async |app| {
        let Holders { ours, operator, .. } = Holders::of(app).await;
        let document = app.get("/openapi.json").await.json();
        for (path, method, operation) in operations(&document) {
            let ours_may = operation["security"][1]["key"]
                .as_array()
                .is_some_and(|roles| roles.contains(&Value::from("partner")));
            for key in [Some(&operator), ours_may.then_some(&ours)].into_iter().flatten() {
                let status = call(app, &operator, key, &method, &path).await.status;
                assert!(status.is_success(), "{method} {path}: {status}");
            }
        }
        // So does the sweeper, which nobody calls.
        admin
            .execute("update reservations set hold_expires_at = now() where status = 'held'")
            .await;
        let held = async || {
            let event = "/events/node-meetup-2025";
            let event = app.send_as(&operator, Method::GET, event, Value::Null).await;
            event.json()["heldSeats"].as_i64().expect("a number")
        };
        eventually("no hold is left", async || held().await == 0).await;
        // And so do the sums of what partners have.
        sum_up(app, &admin, &ours, &operator).await;
        let environment = [("DATABASE_URL", app.database.url.as_str())];
        let verified = command(&["verify"], &environment).output().await.expect("it runs");
        assert_eq!(verified.status.code(), Some(0), "{verified:?}");

        for forbidden in [
            "delete from reservations",
            "delete from journal",
            "delete from events",
            "delete from keys",
            "update journal set at = now()",
            "update reservations set partner_id = 'another'",
            "update events set initial_seats = 1",
            "update keys set secret_sha256 = sha256('mine')",
            "update keys set scope = 'operator', partner_id = null",
            "update keys set revoked_at = null",
            "truncate journal",
            "drop table events",
            "alter table events drop constraint events_available_seats_not_negative",
            "create table public.mine (id integer)",
            "update _sqlx_migrations set success = false",
            "update usage set partner_id = 'another'",
            "delete from usage",
            "delete from usage_versions",
        ] {
            let refused = sqlx::raw_sql(forbidden).execute(&mut app.database.connect().await).await;
            let refused = refused.expect_err(forbidden).into_database_error().expect("a refusal");
            assert_eq!(refused.code().as_deref(), Some("42501"), "{forbidden}: {refused}");
        }
    })
    .await;
}

/// Has so much summed up that a reader has it done.
async fn sum_up(app: &TestApp, admin: &TestDatabase, ours: &str, operator: &str) {
    let event = json!({"eventId": "sums", "name": "E", "totalSeats": 1_101,
        "maxSeatsPerPartner": 1_100});
    app.send_as(operator, Method::POST, "/events", event).await.json();
    let path = "/events/sums/reservations/batch";
    let book = async |seats| {
        let list = json!({"items": vec![json!({"seats": 1}); seats]});
        app.send_as(ours, Method::POST, path, list).await
    };
    for _ in 0..11 {
        book(100).await.made();
    }
    // Otherwise a commit may have summed up a part, so that too little is left for a reader.
    admin.execute("truncate usage_versions, usage").await;
    eventually("the seats are summed up", async || {
        book(1).await.problem(409, "partner_limit_exceeded");
        let sums = "select seats from usage where event_id = 'sums'";
        let mut connection = app.database.connect().await;
        let seats: Option<i64> =
            sqlx::query_scalar(sums).fetch_optional(&mut connection).await.expect("it is there");
        seats == Some(1_100)
    })
    .await;
}

//! Access keys: made, listed and revoked, over the API and on the command line.

use reqwest::{Client, Method};
use serde_json::{Value, json};
use ticketboss::domain::Scope;
use tokio::time::timeout;

use crate::access::KEYS;
use crate::support::binary::{Binary, TemporaryDirectory, command};
use crate::support::{PATIENCE, TestDatabase, with_app, with_database, with_settings};

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_made_listed_and_revoked() {
    with_settings(&KEYS, async |app| {
        let (first, operator) = app.key(Scope::Operator).await;
        let wanted = json!({"name": "shop", "scope": "partner", "partnerId": "abc-corp",
            "expiresAt": "2100-01-01T00:00:00Z"});
        let answer = app.send_as(&operator, Method::POST, "/keys", wanted).await;
        assert_eq!(answer.header("cache-control"), Some("no-store"));
        let made = answer.made();
        assert_eq!(made["createdBy"], first.as_str());
        assert_eq!(made["expiresAt"], "2100-01-01T00:00:00.000000Z");
        let text = made["key"].as_str().expect("a key").to_owned();
        let body = json!({"seats": 1});
        app.send_as(&text, Method::POST, "/reservations", body.clone()).await.made();

        // The listing shows the same key, without its secret.
        let used = async || {
            let list = app.send_as(&operator, Method::GET, "/keys?limit=200", Value::Null).await;
            assert!(!list.text.contains(&text[20..]), "{list:?}");
            let list = list.json();
            let items = list["items"].as_array().expect("keys").clone();
            assert_eq!(items.len(), 2, "{list}");
            let ours = items.into_iter().find(|key| key["keyId"] == made["keyId"]);
            ours.expect("it is listed")
        };
        let last_used = async {
            loop {
                if let Some(at) = used().await["lastUsedAt"].as_str() {
                    return at.to_owned();
                }
            }
        };
        let last_used = timeout(PATIENCE, last_used).await.expect("it is written down");
        assert!(last_used.as_str() >= made["createdAt"].as_str().expect("a time"));
        let pages = app.send_as(&operator, Method::GET, "/keys?limit=1", Value::Null).await.json();
        let cursor = pages["nextCursor"].as_str().expect("another page");
        let next = format!("/keys?cursor={cursor}");
        let next = app.send_as(&operator, Method::GET, &next, Value::Null).await.json();
        assert_eq!(
            (next["items"].as_array().map(Vec::len), &next["nextCursor"]),
            (Some(1), &Value::Null)
        );

        let path = format!("/keys/{}", made["keyId"].as_str().expect("an id"));
        for _again in 0..2 {
            assert_eq!(
                app.send_as(&operator, Method::DELETE, &path, Value::Null).await.status,
                204
            );
            let refused = app.send_as(&text, Method::POST, "/reservations", body.clone()).await;
            refused.problem(401, "unauthenticated");
        }
        assert_eq!(used().await["revokedBy"], first.as_str());
        for unknown in ["/keys/0000000000000000", "/keys/x"] {
            let answer = app.send_as(&operator, Method::DELETE, unknown, Value::Null).await;
            answer.problem(404, "key_not_found");
        }
        for wrong in [
            json!({"name": "x", "scope": "partner"}),
            json!({"name": "x", "scope": "read", "partnerId": "abc-corp"}),
            json!({"name": " ", "scope": "read"}),
            json!({"name": "x", "scope": "god"}),
            json!({"name": "x", "scope": "read", "expiresAt": "tomorrow"}),
            json!({"name": "x", "scope": "read", "expiresAt": "2020-01-01T00:00:00Z"}),
            json!({"name": "x", "scope": "read", "secret": "1"}),
        ] {
            let answer = app.send_as(&operator, Method::POST, "/keys", wrong.clone()).await;
            answer.problem(400, "validation_failed");
        }
    })
    .await;
}

/// A retry would make another key, whatever its sender hopes.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_not_made_under_an_idempotency_key() {
    with_settings(&KEYS, async |app| {
        let (_, operator) = app.key(Scope::Operator).await;
        let authorization = format!("Bearer {operator}");
        let headers = [("authorization", authorization.as_str()), ("idempotency-key", "k")];
        let body = json!({"name": "shop", "scope": "read"}).to_string();
        let answer = app.send(Method::POST, "/keys", &headers, Some(body)).await;
        let problem = answer.problem(400, "validation_failed");
        assert_eq!(problem["errors"][0]["field"], "Idempotency-Key");
        let list = app.send_as(&operator, Method::GET, "/keys", Value::Null).await.json();
        assert_eq!(list["items"].as_array().map(Vec::len), Some(1), "{list}");
    })
    .await;
}

/// Otherwise anybody could make a key to use once access control is on.
#[tokio::test(flavor = "multi_thread")]
async fn without_access_control_there_are_no_keys_over_the_api() {
    with_app(async |app| {
        let body = json!({"name": "mine", "scope": "operator"});
        app.post("/keys", body).await.problem(403, "forbidden");
        app.get("/keys").await.problem(403, "forbidden");
        app.delete("/keys/0000000000000000").await.problem(403, "forbidden");
    })
    .await;
}

/// On a replica that did not make the change, a new key works at once, and a revoked one stops
/// working, together with the streams that were opened with it.
#[tokio::test(flavor = "multi_thread")]
async fn replicas_hear_of_keys() {
    let database = TestDatabase::create().await;
    let environment = [&[("DATABASE_URL", database.url.as_str())][..], &KEYS].concat();
    let other = Binary::serve(&environment).await;
    with_database(database, &KEYS, async |app| {
        let client = Client::new();
        let ask = async |path: &str, key: &str| {
            let request = client.get(format!("{}{path}", other.base)).bearer_auth(key);
            request.send().await.expect("an answer")
        };
        let (_, operator) = app.key(Scope::Operator).await;
        for _ in 0..3 {
            let (_, read) = app.key(Scope::Read).await;
            assert_eq!(ask("/reservations", &read).await.status(), 200);
        }
        let (id, read) = app.key(Scope::Read).await;
        let mut stream = ask("/events/node-meetup-2025/stream", &read).await;
        assert_eq!(stream.status(), 200);
        let path = format!("/keys/{id}");
        assert_eq!(app.send_as(&operator, Method::DELETE, &path, Value::Null).await.status, 204);
        let refused = async {
            while ask("/reservations", &read).await.status() != 401 {}
            while stream.chunk().await.expect("it ends in order").is_some() {}
        };
        timeout(PATIENCE, refused).await.expect("it is heard of");
        assert_eq!(ask("/reservations", &operator).await.status(), 200);
    })
    .await;
    assert_eq!(other.stop().await.0, Some(0));
}

/// The commands work before the first start, and beside a running service.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_makes_and_revokes_keys() {
    let directory = TemporaryDirectory::new();
    let environment = [("DATA_DIR", directory.as_str()), KEYS[0]];
    let run = async |arguments: &[&str], code: i32| {
        let output = command(arguments, &environment).output().await.expect("it runs");
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    let operator = run(&["key", "create", "--scope", "operator", "--name", "first"], 0).await;
    let service = Binary::serve(&environment).await;
    let ask = async |key: &str| {
        let request = Client::new().get(format!("{}/reservations", service.base));
        request.bearer_auth(key.trim()).send().await.expect("an answer").status()
    };
    assert_eq!(ask(&operator).await, 200);
    let create = ["key", "create", "--scope", "partner", "--partner", "abc-corp", "--name", "shop"];
    let shop = run(&[&create[..], &["--days", "90"]].concat(), 0).await;
    assert_eq!(ask(&shop).await, 200);
    let list = run(&["key", "list"], 0).await;
    assert_eq!(list.lines().count(), 3, "{list}");
    assert!(list.contains("shop (abc-corp)"), "{list}");
    run(&["key", "revoke", &shop[3..19]], 0).await;
    let refused = async { while ask(&shop).await != 401 {} };
    timeout(PATIENCE, refused).await.expect("it is heard of");
    assert!(run(&["key", "list"], 0).await.contains("revoked"));
    run(&["key", "revoke", "0000000000000000"], 1).await;
    run(&["key", "create", "--scope", "partner", "--name", "nobody's"], 2).await;
    run(&["key", "create", "--scope", "read", "--partner", "abc-corp", "--name", "x"], 2).await;
    assert_eq!(service.stop().await.0, Some(0));
}

/// Only `serve` and `migrate` bring a schema up to date; a database that has none is given one with
/// its first key.
#[tokio::test(flavor = "multi_thread")]
async fn looking_at_keys_changes_no_schema() {
    let database = TestDatabase::create_empty().await;
    let environment = [("DATABASE_URL", database.url.as_str())];
    let run = async |arguments: &[&str]| {
        let output = command(arguments, &environment).output().await.expect("it runs");
        (output.status.code(), String::from_utf8(output.stderr).expect("text"))
    };
    let tables = async || -> i64 {
        let mut connection = database.connect().await;
        let tables = "select count(*) from pg_tables where schemaname = 'public'";
        sqlx::query_scalar(tables).fetch_one(&mut connection).await.expect("a number")
    };
    let looks: [&[&str]; 3] =
        [&["key", "list"], &["key", "revoke", "0000000000000000"], &["verify"]];
    let too_old = |missing| {
        format!(
            "ticketboss: the schema is too old: migration {missing} is missing; run \
             `ticketboss migrate`\n"
        )
    };
    for look in looks {
        assert_eq!(run(look).await, (Some(1), too_old(1)), "{look:?}");
    }
    assert_eq!(tables().await, 0);
    let create = ["key", "create", "--scope", "operator", "--name", "first"];
    assert_eq!(run(&create).await.0, Some(0));
    assert!(tables().await > 0);

    // Like the schema of an older binary, seen by a newer one.
    database.execute("delete from _sqlx_migrations where version = 12").await;
    for command in looks.into_iter().chain([&create[..]]) {
        assert_eq!(run(command).await, (Some(1), too_old(12)), "{command:?}");
    }
}

/// A key that this version cannot read is not accepted; all others are.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_cannot_be_read_locks_out_nobody_else() {
    with_settings(&KEYS, async |app| {
        let (id, odd) = app.key(Scope::Read).await;
        let (_, read) = app.key(Scope::Read).await;
        let ask =
            async |key: &str| app.send_as(key, Method::GET, "/reservations", Value::Null).await;
        app.database
            .execute(format!(
                "update keys set name = e'two\\nlines', changed_at = clock_timestamp()
                  where id = '{id}'"
            ))
            .await;
        ask(&odd).await.problem(401, "unauthenticated");
        assert_eq!(ask(&read).await.status, 200);
        let (_, new) = app.key(Scope::Read).await;
        assert_eq!(ask(&new).await.status, 200);
    })
    .await;
}

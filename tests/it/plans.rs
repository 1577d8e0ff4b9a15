//! How PostgreSQL runs the service's statements: as point accesses, however large the tables are.
//!
//! A session plans a statement once. Even a plan that is made while the tables are empty, when
//! reading all of them costs nothing, must not do that.

use std::time::Duration;

use serde_json::Value;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection, raw_sql};
use ticketboss::store::session_options;

use crate::support::TestDatabase;

/// The statements that the service was compiled with.
fn statements() -> Vec<String> {
    let queries: Value =
        serde_json::from_str(include_str!("../../sqlx-data.json")).expect("it is JSON");
    let queries = queries.as_object().expect("by hash").values();
    queries.map(|query| query["query"].as_str().expect("a text").to_owned()).collect()
}

/// Collects the index condition for each table that the plan reads.
fn searched<'a>(node: &'a Value, found: &mut Vec<(&'a str, &'a str)>) {
    if let Some(table) = node["Relation Name"].as_str()
        && node["Node Type"] != "ModifyTable"
    {
        found.push((table, node["Index Cond"].as_str().unwrap_or("nothing")));
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        searched(child, found);
    }
}

async fn plan(connection: &mut PgConnection, statement: &str) -> Value {
    let run = |sql: String| raw_sql(AssertSqlSafe(sql));
    run(format!("prepare planned as {statement}")).execute(&mut *connection).await.expect("parses");
    let parameters: i32 = sqlx::query_scalar(
        "select cardinality(parameter_types) from pg_prepared_statements where name = 'planned'",
    )
    .fetch_one(&mut *connection)
    .await
    .expect("it is prepared");
    let nulls = vec!["null"; usize::try_from(parameters).expect("a count")].join(", ");
    let nulls = if nulls.is_empty() { nulls } else { format!("({nulls})") };
    let explain = AssertSqlSafe(format!("explain (format json) execute planned {nulls}"));
    let plan: Value =
        sqlx::query_scalar(explain).fetch_one(&mut *connection).await.expect("it has a plan");
    run("deallocate planned".into()).execute(connection).await.expect("it is there");
    plan
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_finds_its_rows_by_what_names_them() {
    let database = TestDatabase::create().await;
    let options = session_options(database.options.clone(), Duration::from_secs(10));
    let mut connection = options.connect().await.expect("the database is there");
    for statistics in ["none", "of empty tables"] {
        if statistics != "none" {
            database.execute("vacuum analyze").await;
        }
        for statement in statements() {
            let plan = plan(&mut connection, &statement).await;
            let mut accesses = Vec::new();
            searched(&plan[0]["Plan"], &mut accesses);
            for (table, by) in accesses {
                // Statements that read everything do so page by page, in the order of a key.
                let page = ["-- verify", "-- page_of", "-- oldest_of_page"]
                    .iter()
                    .any(|name| statement.starts_with(name));
                let steps = statement.starts_with("-- due_events");
                let names_rows = match table {
                    "events" => by.contains("(id = ") || (page && by.contains("(id > ")),
                    "journal" => by.contains("version") || (page && by.contains("(event_id = ")),
                    "reservations" => {
                        by.contains("(id = ")
                            || by.contains("idempotency_key")
                            || by.contains("hashtext((partner_id)::text)")
                            || (by.contains("event_id = ") && by.contains("hold_expires_at"))
                            || (steps && (by.contains("event_id") || by == "nothing"))
                            || (page && by.contains("ROW(id, event_id) > "))
                    }
                    "keys" => {
                        by.contains("(id = ")
                            || by.contains("changed_at > ")
                            || (page && by.contains("(id > "))
                    }
                    "usage" => by.contains("partner_id = ") || (page && by.contains("event_id = ")),
                    "usage_versions" => by.contains("event_id = "),
                    "pg_index" => by.contains("indexrelid"),
                    other => panic!("{other} is no table of the service"),
                };
                assert!(names_rows, "statistics: {statistics}; {table} by {by} in {statement}");
            }
        }
    }
}

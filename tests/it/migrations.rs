//! Migrations on a database that is in use, and those that were interrupted.

use sqlx::{AssertSqlSafe, PgConnection, raw_sql};
use ticketboss::store::schema::{self, SchemaError};
use tokio::time::timeout;

use crate::support::{PATIENCE, TestDatabase};
use crate::verify::SOUND;

/// A database at an earlier version of the schema.
async fn at(version: i64) -> TestDatabase {
    let database = TestDatabase::create_empty().await;
    let migrated = sqlx::migrate!().run_to(version, &mut database.connect().await).await;
    migrated.expect("migrations apply");
    database
}

async fn is_valid(connection: &mut PgConnection, index: &str) -> Option<bool> {
    let valid =
        sqlx::query_scalar("select indisvalid from pg_index where indexrelid = to_regclass($1)");
    valid.bind(index).fetch_optional(connection).await.expect("the catalogue can be read")
}

/// The server may finish what its client did not live to record, or leave it half done.
#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_index_is_finished() {
    const BUILT: &str = "create index concurrently holds_by_partner on reservations (seats)";
    const CUT_OFF: &str = "update pg_index set indisvalid = false
                            where indexrelid = to_regclass('holds_by_partner')";
    const DROPPED: &str = "drop index concurrently reservations_by_partner";
    for (version, done) in [
        (18, &[BUILT][..]),
        (18, &[BUILT, CUT_OFF]),
        (11, &["create index concurrently reservations_of_partner on reservations (seats)"]),
        (15, &["create index concurrently reservations_by_partner on reservations (seats)"]),
        (16, &["drop index concurrently reservations_of_partner"]),
        (19, &[DROPPED]),
        (19, &[]),
    ] {
        let database = at(version).await;
        let mut connection = database.connect().await;
        for statement in done {
            raw_sql(*statement).execute(&mut connection).await.expect("it runs");
        }
        schema::migrate(&database.options).await.unwrap_or_else(|it| panic!("{done:?}: {it:?}"));
        schema::check(&database.options).await.expect("nothing is missing");
        assert_eq!(is_valid(&mut connection, "holds_by_partner").await, Some(true));
        assert_eq!(is_valid(&mut connection, "reservations_by_partner").await, None);
        assert_eq!(is_valid(&mut connection, "reservations_of_partner").await, None);
    }
}

/// What partners have counts from the start, whether or not a replica marked it.
#[tokio::test(flavor = "multi_thread")]
async fn what_partners_have_is_summed_up() {
    let database = at(17).await;
    database.execute(SOUND).await;
    database
        .execute(
            "update events set seats_per_partner_max = 9 where id = 'e';
             update reservations set limited = true where version = 2",
        )
        .await;
    schema::migrate(&database.options).await.expect("it is migrated");
    let sums = "select usage_versions.version::bigint, partner_id, seats
                  from usage_versions join usage using (event_id)";
    let sums: Vec<(i64, String, i64)> =
        sqlx::query_as(sums).fetch_all(&mut database.connect().await).await.expect("it reads");
    assert_eq!(sums, [(7, "p".to_owned(), 7)]);
    database.audit().await;
}

/// While a migration waits for a table, nobody may have to wait behind it for as long.
#[tokio::test(flavor = "multi_thread")]
async fn a_migration_gives_way_to_those_who_use_the_table() {
    let database = at(13).await;
    // A dump, for example.
    let mut reader = database.connect().await;
    let begin = "begin; select count(*) from journal";
    raw_sql(begin).execute(&mut reader).await.expect("it reads");
    let mut other = database.connect().await;
    let waits =
        "select count(*) from pg_locks where not granted and relation = 'journal'::regclass";
    let meanwhile = async {
        let waiting = async {
            loop {
                let waiting = sqlx::query_scalar::<_, i64>(waits).fetch_one(&mut other).await;
                if waiting.expect("the locks can be read") > 0 {
                    return;
                }
            }
        };
        timeout(PATIENCE, waiting).await.expect("the migration waits for the table");
        let read = raw_sql("select count(*) from journal").execute(&mut other);
        let read = timeout(PATIENCE, read).await.expect("it does not wait for the dump");
        read.expect("it reads");
        raw_sql("commit").execute(&mut reader).await.expect("it ends");
    };
    let (migrated, ()) = tokio::join!(schema::migrate(&database.options), meanwhile);
    migrated.expect("it is migrated");
    schema::check(&database.options).await.expect("nothing is missing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_hold_all_texts_is_refused() {
    let database = TestDatabase::create_empty().await;
    let name = database.url.rsplit_once('/').expect("a URL").1;
    let create = format!(
        "create database {name}_ascii encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C' \
         template template0"
    );
    let create = raw_sql(AssertSqlSafe(create)).execute(&mut database.connect().await).await;
    create.expect("a database can be made");
    let options = format!("{}_ascii", database.url).parse().expect("a URL");
    for refused in [schema::migrate(&options).await, schema::check(&options).await] {
        let is_refused =
            matches!(&refused, Err(SchemaError::Encoding { encoding }) if encoding == "SQL_ASCII");
        assert!(is_refused, "{refused:?}");
    }
}

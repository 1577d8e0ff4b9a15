//! The schema: migrating it, and checking whether it is up to date.

use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, PgConnection, raw_sql};
use thiserror::Error;
use tokio::time::{sleep, timeout};

use super::connections::CONNECT_TIMEOUT;

/// The pause between two attempts to get the lock for migrating.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// How long a migration may wait for a table. Everybody else's statements queue behind it, so that it
/// gives way to whoever has the table (a dump, a forgotten transaction), and tries again. Longer than
/// PostgreSQL's `deadlock_timeout` of a second, after which an autovacuum gives way in its turn.
const TABLE_LOCK_MAX: Duration = Duration::from_millis(1_500);
const TABLE_LOCK_PAUSE: Duration = Duration::from_millis(500);
const TABLE_LOCK_ATTEMPTS_MAX: usize = 30;
/// The table in which sqlx records applied migrations.
const TABLE: &str = "_sqlx_migrations";

#[derive(Debug, Error)]
pub enum SchemaError {
    #[error("could not connect to the database")]
    Connect(#[source] sqlx::Error),
    #[error("could not connect to the database: no answer in {} s", CONNECT_TIMEOUT.as_secs())]
    NoAnswer,
    #[error("a migration failed")]
    Migrate(#[from] MigrateError),
    #[error("migration {version} could not lock its table, which another session keeps in use")]
    Locked { version: i64 },
    #[error("the database's encoding is {encoding}; it must be UTF8")]
    Encoding { encoding: String },
    #[error("the schema is too old: migration {missing} is missing; run `ticketboss migrate`")]
    TooOld { missing: i64 },
}

impl SchemaError {
    /// Whether the database has no schema of ours at all: even the first migration is missing.
    pub fn is_no_schema(&self) -> bool {
        match self {
            Self::TooOld { missing } => {
                migrator().iter().next().is_some_and(|first| first.version == *missing)
            }
            Self::Connect(_)
            | Self::NoAnswer
            | Self::Migrate(_)
            | Self::Locked { .. }
            | Self::Encoding { .. } => false,
        }
    }

    /// Whether the database refuses us, because of a wrong password or an unknown name.
    pub fn is_wrong_address(&self) -> bool {
        matches!(self, Self::Connect(_)) && !self.is_away()
    }

    /// Whether the database may be available later: it does not answer, is starting, or is full. A
    /// wrong password, or a database that does not exist, stays wrong.
    pub fn is_away(&self) -> bool {
        match self {
            Self::NoAnswer => true,
            Self::Connect(failure) => match failure.as_database_error() {
                Some(said) => {
                    let code = said.code().unwrap_or_default();
                    code.starts_with("57P") || code.starts_with("53")
                }
                None => matches!(failure, sqlx::Error::Io(_)),
            },
            Self::Migrate(_)
            | Self::TooOld { .. }
            | Self::Locked { .. }
            | Self::Encoding { .. } => false,
        }
    }
}

/// Ignores applied migrations that are not known here: an older binary must be able to start after
/// a newer one has migrated.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.set_ignore_missing(true);
    migrator.set_locking(false);
    migrator
}

/// Tries to get the lock for migrating. It does not wait inside a statement, as sqlx does: building
/// an index concurrently waits for all running statements, and so for that one, too.
async fn try_lock(connection: &mut PgConnection) -> Result<bool, MigrateError> {
    let locked = sqlx::query_scalar!(
        r#"-- lock_migrations
        select pg_try_advisory_lock(hashtext('ticketboss migrations')) as "locked!""#
    );
    Ok(locked.fetch_one(connection).await?)
}

/// Applies the missing migrations. Replicas that start together wait for each other.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), SchemaError> {
    let mut connection = connect(options).await?;
    // Finding that there is nothing to do must not require the privilege to do it.
    if missing(&mut connection).await?.is_none() {
        return Ok(());
    }
    // The lock is released when the connection ends.
    if !try_lock(&mut connection).await? {
        log::info!("waiting for another process to migrate the database");
        while !try_lock(&mut connection).await? {
            sleep(LOCK_PAUSE).await;
        }
    }
    while let Some(version) = missing(&mut connection).await? {
        match CONCURRENT.iter().find(|concurrent| concurrent.version == version) {
            Some(concurrent) => concurrent.apply(&mut connection).await?,
            None => apply(&mut connection, version).await?,
        }
    }
    Ok(())
}

/// Applies one migration in a transaction of its own.
async fn apply(connection: &mut PgConnection, version: i64) -> Result<(), SchemaError> {
    set_lock_timeout(connection, TABLE_LOCK_MAX).await?;
    for _ in 0..TABLE_LOCK_ATTEMPTS_MAX {
        match migrator().run_to(version, &mut *connection).await {
            Err(MigrateError::ExecuteMigration(failure, _)) if is(&failure, "55P03") => {
                log::warn!("migration {version} is waiting for a table that another session uses");
                sleep(TABLE_LOCK_PAUSE).await;
            }
            applied => return Ok(applied?),
        }
    }
    Err(SchemaError::Locked { version })
}

/// A migration that builds or drops an index beside writers, and therefore outside of a transaction:
/// if it is cut off, the server may finish it all the same, or leave an index that is not valid.
struct Concurrent {
    version: i64,
    index: &'static str,
    /// Whether the index is there afterwards.
    builds: bool,
}

const CONCURRENT: [Concurrent; 5] = [
    Concurrent { version: 12, index: "reservations_of_partner", builds: true },
    Concurrent { version: 16, index: "reservations_by_partner", builds: true },
    Concurrent { version: 17, index: "reservations_of_partner", builds: false },
    Concurrent { version: 19, index: "holds_by_partner", builds: true },
    Concurrent { version: 20, index: "reservations_by_partner", builds: false },
];

impl Concurrent {
    async fn apply(&self, connection: &mut PgConnection) -> Result<(), SchemaError> {
        // It waits for every transaction there is, and blocks nobody meanwhile.
        set_lock_timeout(connection, Duration::ZERO).await?;
        let is_valid = self.is_valid(connection).await.map_err(MigrateError::Execute)?;
        if is_valid == self.builds.then_some(true) {
            let done = migrator().skip(&mut *connection, Some(self.version)).await;
            return Ok(done?);
        }
        if self.builds && is_valid.is_some() {
            let drop = AssertSqlSafe(format!("drop index concurrently {}", self.index));
            raw_sql(drop).execute(&mut *connection).await.map_err(MigrateError::Execute)?;
        }
        Ok(migrator().run_to(self.version, &mut *connection).await?)
    }

    /// `None` if there is no such index.
    async fn is_valid(&self, connection: &mut PgConnection) -> Result<Option<bool>, sqlx::Error> {
        let valid = sqlx::query_scalar!(
            "-- index_is_valid
            select indisvalid from pg_index where indexrelid = to_regclass($1)",
            self.index,
        );
        valid.fetch_optional(connection).await
    }
}

async fn set_lock_timeout(
    connection: &mut PgConnection,
    timeout: Duration,
) -> Result<(), SchemaError> {
    let timeout = format!("{}ms", timeout.as_millis());
    let set = sqlx::query_scalar!(
        "-- set_lock_timeout
        select set_config('lock_timeout', $1, false)",
        timeout,
    );
    set.fetch_one(connection).await.map_err(MigrateError::Execute)?;
    Ok(())
}

/// Fails if the schema lacks a migration of this binary.
pub async fn check(options: &PgConnectOptions) -> Result<(), SchemaError> {
    let mut connection = connect(options).await?;
    match missing(&mut connection).await? {
        Some(missing) => Err(SchemaError::TooOld { missing }),
        None => Ok(()),
    }
}

/// Whether the schema has everything that this binary needs.
pub(super) async fn is_current(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match missing(connection).await {
        Ok(missing) => Ok(missing.is_none()),
        Err(MigrateError::Execute(failure)) => Err(failure),
        Err(failure) => Err(sqlx::Error::Migrate(Box::new(failure))),
    }
}

/// The first migration of this binary that has not been applied.
async fn missing(connection: &mut PgConnection) -> Result<Option<i64>, MigrateError> {
    let applied = match connection.list_applied_migrations(TABLE).await {
        Ok(applied) => applied,
        // Checking must not require the privilege to create the table.
        Err(MigrateError::Execute(failure)) if is(&failure, "42P01") => Vec::new(),
        Err(failure) => return Err(failure),
    };
    let is_applied = |version: i64| applied.iter().any(|done| done.version == version);
    let missing = migrator().iter().map(|known| known.version).find(|known| !is_applied(*known));
    Ok(missing)
}

fn is(failure: &sqlx::Error, sqlstate: &str) -> bool {
    failure.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == sqlstate)
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, SchemaError> {
    // A migration must not go on in a session whose client is gone: nobody would record it.
    let options = options.clone().options([
        ("client_connection_check_interval", "1000"),
        ("tcp_keepalives_idle", "5"),
        ("tcp_keepalives_interval", "2"),
        ("tcp_keepalives_count", "3"),
    ]);
    let connected = timeout(CONNECT_TIMEOUT, options.connect()).await;
    let connected = connected.map_err(|_elapsed| SchemaError::NoAnswer)?;
    let mut connection = connected.map_err(SchemaError::Connect)?;
    // Texts are as long as the database says they are, and hold what it can encode.
    let encoding = sqlx::query_scalar!(
        r#"-- encoding
        select current_setting('server_encoding') as "encoding!""#
    );
    let encoding = encoding.fetch_one(&mut connection).await.map_err(MigrateError::Execute)?;
    if encoding == "UTF8" { Ok(connection) } else { Err(SchemaError::Encoding { encoding }) }
}

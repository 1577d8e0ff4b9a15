//! The schema: migrating it, and checking whether it is up to date.

use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use thiserror::Error;
use tokio::time::{sleep, timeout};

use super::connections::CONNECT_TIMEOUT;

/// The pause between two attempts to get the lock for migrating.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
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
            Self::Connect(_) | Self::NoAnswer | Self::Migrate(_) => false,
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
            Self::Migrate(_) | Self::TooOld { .. } => false,
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
    while !try_lock(&mut connection).await? {
        sleep(LOCK_PAUSE).await;
    }
    migrator().run(&mut connection).await?;
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
        Err(MigrateError::Execute(failure)) if is_undefined_table(&failure) => Vec::new(),
        Err(failure) => return Err(failure),
    };
    let is_applied = |version: i64| applied.iter().any(|done| done.version == version);
    let missing = migrator().iter().map(|known| known.version).find(|known| !is_applied(*known));
    Ok(missing)
}

fn is_undefined_table(failure: &sqlx::Error) -> bool {
    failure.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "42P01")
}

async fn connect(options: &PgConnectOptions) -> Result<PgConnection, SchemaError> {
    let connected = timeout(CONNECT_TIMEOUT, options.connect()).await;
    connected.map_err(|_elapsed| SchemaError::NoAnswer)?.map_err(SchemaError::Connect)
}

//! The schema: bringing it up to date, and telling whether it is.

use std::time::Duration;

use sqlx::migrate::{Migrate, MigrateError, Migrator};
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, PgConnection};
use thiserror::Error;
use tokio::time::{sleep, timeout};

use super::connections::CONNECT_TIMEOUT;

/// Between two attempts to be the one who migrates.
const LOCK_PAUSE: Duration = Duration::from_millis(100);
/// Where sqlx records what it has applied.
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
    /// Whether the database has no schema of ours at all: the very first migration is missing.
    pub fn is_no_schema(&self) -> bool {
        match self {
            Self::TooOld { missing } => {
                migrator().iter().next().is_some_and(|first| first.version == *missing)
            }
            Self::Connect(_) | Self::NoAnswer | Self::Migrate(_) => false,
        }
    }

    /// Whether the database refuses us, by a wrong password or a name that it does not know.
    pub fn is_wrong_address(&self) -> bool {
        matches!(self, Self::Connect(_)) && !self.is_away()
    }

    /// Whether the database may be there in a while: nobody answers, or it is starting, or full. A
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

/// An older binary must be able to start after a newer one has migrated: what is applied and not
/// known here is ignored.
fn migrator() -> Migrator {
    let mut migrator = sqlx::migrate!();
    migrator.set_ignore_missing(true);
    migrator.set_locking(false);
    migrator
}

/// Tries to be the only one who migrates. Not by a statement that waits, as sqlx's own does: building
/// an index beside writers waits for all statements, that one too.
async fn try_lock(connection: &mut PgConnection) -> Result<bool, MigrateError> {
    let locked = sqlx::query_scalar!(
        r#"-- lock_migrations
        select pg_try_advisory_lock(hashtext('ticketboss migrations')) as "locked!""#
    );
    Ok(locked.fetch_one(connection).await?)
}

/// Applies the migrations that are missing. Replicas that start together wait for each other.
pub async fn migrate(options: &PgConnectOptions) -> Result<(), SchemaError> {
    let mut connection = connect(options).await?;
    // To find that there is nothing to do needs no right to do it.
    if missing(&mut connection).await?.is_none() {
        return Ok(());
    }
    // It goes with the connection.
    while !try_lock(&mut connection).await? {
        sleep(LOCK_PAUSE).await;
    }
    migrator().run(&mut connection).await?;
    Ok(())
}

/// Refuses a schema that lacks a migration of this binary.
pub async fn check(options: &PgConnectOptions) -> Result<(), SchemaError> {
    let mut connection = connect(options).await?;
    match missing(&mut connection).await? {
        Some(missing) => Err(SchemaError::TooOld { missing }),
        None => Ok(()),
    }
}

/// Whether the schema has all that this binary needs.
pub(super) async fn is_current(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    match missing(connection).await {
        Ok(missing) => Ok(missing.is_none()),
        Err(MigrateError::Execute(failure)) => Err(failure),
        Err(failure) => Err(sqlx::Error::Migrate(Box::new(failure))),
    }
}

/// The first migration of this binary that was not applied.
async fn missing(connection: &mut PgConnection) -> Result<Option<i64>, MigrateError> {
    let applied = match connection.list_applied_migrations(TABLE).await {
        Ok(applied) => applied,
        // Looking must not need the right to create the table.
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

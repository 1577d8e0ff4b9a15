//! Commands that do not serve: they open the database, or use that of a service that is running.

use sqlx::postgres::PgConnectOptions;

use super::{OpenDatabase, ServeError, Signals, with_database};
use crate::config::{Config, Database};
use crate::postgres;
use crate::store::schema;
use crate::verify::{self, Report, VerifyError};

/// Brings the schema up to date, and nothing else.
pub async fn migrate(config: &Config) -> Result<(), ServeError> {
    let stop = Signals::watch()?.stop;
    with_database(config, &stop, async |database| {
        tokio::select! {
            migrated = database.migrate() => migrated,
            () = stop.cancelled() => Err(ServeError::Stopped),
        }
    })
    .await
}

/// Checks the data, and passes each problem to `tell` as it is found. Only reads. If a service is
/// running on its private PostgreSQL, this works beside it, too.
pub async fn verify(config: &Config, tell: impl FnMut(&str)) -> Result<Report, ServeError> {
    must_exist(config)?;
    let mut report = Report::default();
    beside(config, async |at| {
        // In an older schema, what is missing would look like faults.
        schema::check(at.options()).await?;
        report = verify::verify(at.options(), tell).await?;
        Ok(())
    })
    .await?;
    Ok(report)
}

/// Refuses to inspect a database that would have to be created first.
pub(super) fn must_exist(config: &Config) -> Result<(), ServeError> {
    match &config.database {
        Database::Private { data_dir, .. } if !postgres::is_made(data_dir) => {
            Err(ServeError::NoDatabase { data_dir: data_dir.clone() })
        }
        Database::Private { .. } | Database::Given(_) => Ok(()),
    }
}

/// The database of a command: one that it has opened, or that of a service that is already running.
pub(super) enum At<'a> {
    Own(&'a OpenDatabase),
    Running(Box<PgConnectOptions>),
}

impl At<'_> {
    pub fn options(&self) -> &PgConnectOptions {
        match self {
            Self::Own(database) => &database.options,
            Self::Running(options) => options,
        }
    }

    /// A description for people, without the password.
    pub fn describe(&self) -> String {
        match self {
            Self::Own(database) => database.describe(),
            Self::Running(_) => "the database of the running service".into(),
        }
    }
}

/// Runs `work` on the database until it is done, or told to stop. If a service is running on its
/// private PostgreSQL, this works beside it, too.
pub(super) async fn beside(
    config: &Config,
    work: impl AsyncFnOnce(At<'_>) -> Result<(), ServeError>,
) -> Result<(), ServeError> {
    if let Database::Private { data_dir, .. } = &config.database
        && postgres::is_made(data_dir)
        && let Some(url) = postgres::url_in_use(data_dir)?
    {
        // A service that is just starting may not have written its URL yet.
        let options = url.parse().map_err(VerifyError::Connect)?;
        return work(At::Running(Box::new(options))).await;
    }
    let stop = Signals::watch()?.stop;
    with_database(config, &stop, async |database| {
        tokio::select! {
            worked = work(At::Own(database)) => worked,
            () = stop.cancelled() => Err(ServeError::Stopped),
        }
    })
    .await
}

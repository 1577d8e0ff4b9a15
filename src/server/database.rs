//! The database of a service: given, or a private PostgreSQL that is started and stopped with it.

use std::sync::Arc;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use tokio::time::{Instant, sleep, timeout};

use super::ServeError;
use crate::config::Database;
use crate::postgres::{PrivatePostgres, STOP_TIMEOUT_S};
use crate::store::schema::{self, SchemaError};

/// How long a start waits for a database that is unavailable.
const DATABASE_WAIT_MAX: Duration = Duration::from_secs(30);
const DATABASE_WAIT_STEP: Duration = Duration::from_secs(1);
/// How often the private PostgreSQL is checked.
const REVIVE_INTERVAL: Duration = Duration::from_secs(1);

/// The database that the configuration names, running.
pub struct OpenDatabase {
    pub options: PgConnectOptions,
    private: Option<Arc<PrivatePostgres>>,
}

impl OpenDatabase {
    /// Starts the private PostgreSQL, if that is what the configuration asks for.
    pub async fn open(database: &Database) -> Result<Self, ServeError> {
        let (data_dir, bin_dir) = match database.clone() {
            Database::Given(options) => return Ok(Self { options: *options, private: None }),
            Database::Private { data_dir, bin_dir } => (data_dir, bin_dir),
        };
        let start = move || PrivatePostgres::start(&data_dir, bin_dir.as_deref());
        let private = tokio::task::spawn_blocking(start).await??;
        let options = private.url().parse();
        let options = options.expect("the private PostgreSQL's URL is valid");
        Ok(Self { options, private: Some(Arc::new(private)) })
    }

    /// Brings the schema up to date, waiting for a database that is unavailable.
    pub async fn migrate(&self) -> Result<(), ServeError> {
        wait_for_database(|| schema::migrate(&self.options)).await
    }

    /// Stops the private PostgreSQL, if there is one. It is no failure if that takes too long: what
    /// was committed is safe, and the next start finds the server, running or not.
    pub async fn close(self) {
        let Some(private) = self.private else { return };
        let stopping = tokio::task::spawn_blocking(move || private.stop());
        match timeout(Duration::from_secs(STOP_TIMEOUT_S), stopping).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(failure))) => log::warn!("{failure}"),
            Ok(Err(failure)) => log::error!("stopping PostgreSQL failed: {failure}"),
            Err(_elapsed) => log::warn!("the private PostgreSQL is still stopping"),
        }
    }

    /// Restarts the private PostgreSQL whenever it is gone. Does not return.
    pub async fn look_after(&self) {
        let Some(private) = &self.private else { return std::future::pending().await };
        loop {
            sleep(REVIVE_INTERVAL).await;
            let private = Arc::clone(private);
            match tokio::task::spawn_blocking(move || private.revive()).await {
                Ok(Ok(false)) => {}
                Ok(Ok(true)) => log::warn!("the private PostgreSQL had stopped, and was restarted"),
                Ok(Err(failure)) => {
                    log::error!("could not restart the private PostgreSQL: {failure}");
                }
                Err(failure) => log::error!("checking the private PostgreSQL failed: {failure}"),
            }
        }
    }

    /// A description for the log, without the password.
    pub fn describe(&self) -> String {
        match &self.private {
            Some(private) => format!("private PostgreSQL in {}", private.directory().display()),
            None => {
                let options = &self.options;
                let database = options.get_database().unwrap_or(options.get_username());
                format!("PostgreSQL {}:{}/{database}", options.get_host(), options.get_port())
            }
        }
    }
}

/// Repeats `attempt` for a while, until the database can be reached.
pub async fn wait_for_database(
    attempt: impl AsyncFn() -> Result<(), SchemaError>,
) -> Result<(), ServeError> {
    let deadline = Instant::now() + DATABASE_WAIT_MAX;
    loop {
        match attempt().await {
            Err(failure) if failure.is_away() && Instant::now() < deadline => {
                log::warn!(
                    "the database is unavailable: {}; retrying for another {} s",
                    crate::chain(&failure),
                    deadline.saturating_duration_since(Instant::now()).as_secs(),
                );
                sleep(DATABASE_WAIT_STEP).await;
            }
            other => return Ok(other?),
        }
    }
}

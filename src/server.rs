//! Builds everything from a [`Config`], runs it, and takes it down in order.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpServer;
use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use sqlx::postgres::PgConnectOptions;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use uuid::Uuid;

use crate::batching::{Batching, Settings, Summaries};
use crate::config::{Config, Database};
use crate::http::{self, App};
use crate::postgres::{LaunchError, PrivatePostgres};
use crate::store::schema::{self, SchemaError};
use crate::store::{ConnectionLimits, PostgresStore, Unavailable};

/// How long a start waits for a database that is away.
const DATABASE_WAIT_MAX: Duration = Duration::from_secs(30);
const DATABASE_WAIT_STEP: Duration = Duration::from_secs(1);
/// How long a request may take to send its head, and a response to be taken.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// Between two requests of a connection: longer than a load balancer's usual minute.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// The parts of a stop; with the private PostgreSQL's own limit, less than ten seconds.
const STOP_HTTP_MAX_S: u64 = 3;
const STOP_BATCHERS_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Error)]
pub enum ServeError {
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error("the default event could not be made")]
    DefaultEvent(#[source] Unavailable),
    #[error("cannot listen on {address}")]
    Bind { address: String, source: io::Error },
    #[error("a background task failed")]
    Task(#[from] tokio::task::JoinError),
    #[error("the HTTP server failed")]
    Http(#[source] io::Error),
}

/// The database that the configuration names, running.
pub struct OpenDatabase {
    pub options: PgConnectOptions,
    private: Option<PrivatePostgres>,
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
        let options = options.expect("the private PostgreSQL's URL is one");
        Ok(Self { options, private: Some(private) })
    }

    /// Brings the schema up to date, waiting for a database that is away.
    pub async fn migrate(&self) -> Result<(), ServeError> {
        wait_for_database(|| schema::migrate(&self.options)).await
    }

    /// Stops the private PostgreSQL, if there is one.
    pub async fn close(self) -> Result<(), ServeError> {
        if let Some(private) = self.private {
            tokio::task::spawn_blocking(move || private.stop()).await??;
        }
        Ok(())
    }

    /// For the log, without the password.
    fn describe(&self) -> String {
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

/// Serves until SIGTERM or SIGINT, then finishes what was taken in.
pub async fn serve(config: &Config) -> Result<(), ServeError> {
    let mut stop = signals()?;
    let database = tokio::select! {
        opened = OpenDatabase::open(&config.database) => opened?,
        () = &mut stop => return Ok(()),
    };
    let served = tokio::select! {
        started = Server::start(config, &database) => match started {
            Ok(server) => {
                (&mut stop).await;
                server.stop().await;
                Ok(())
            }
            Err(failure) => Err(failure),
        },
        () = &mut stop => Ok(()),
    };
    database.close().await?;
    log::info!("stopped");
    served
}

/// A running service.
pub struct Server {
    address: SocketAddr,
    http: ServerHandle,
    running: JoinHandle<io::Result<()>>,
    batching: Batching<PostgresStore>,
}

impl Server {
    /// Readies the database, and returns once connections are accepted.
    pub async fn start(config: &Config, database: &OpenDatabase) -> Result<Self, ServeError> {
        if config.migrate_on_start {
            database.migrate().await?;
        } else {
            wait_for_database(|| schema::check(&database.options)).await?;
        }
        let app = app(config, &database.options);
        let event = &config.default_event;
        let until = Instant::now() + config.request_timeout;
        let made = app.store.ensure_event(&event.id, &event.name, event.seats, until).await;
        made.map_err(ServeError::DefaultEvent)?;

        let batching = app.batching.clone();
        let app = Data::new(app);
        let address = (config.host.as_str(), config.port);
        let server = HttpServer::new(move || http::application(app.clone()))
            .workers(config.workers)
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(CLIENT_TIMEOUT)
            .client_disconnect_timeout(CLIENT_TIMEOUT)
            .shutdown_timeout(STOP_HTTP_MAX_S)
            .disable_signals()
            .bind(address)
            .map_err(|source| ServeError::Bind {
                address: format!("{}:{}", config.host, config.port),
                source,
            })?;
        let address = server.addrs()[0];
        let server = server.run();
        let http = server.handle();
        let running = tokio::spawn(server);
        log::info!(
            "serving http://{address}; database: {}; default event: {} at /reservations",
            database.describe(),
            event.id,
        );
        Ok(Self { address, http, running, batching })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Accepts no more, answers what was taken in, and settles what is in flight.
    pub async fn stop(self) {
        log::info!("stopping");
        self.http.stop(true).await;
        match self.running.await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => log::error!("the HTTP server failed: {failure}"),
            Err(failure) => log::error!("the HTTP server failed: {failure}"),
        }
        if timeout(STOP_BATCHERS_MAX, self.batching.drain()).await.is_err() {
            log::error!("some commits were not settled in time; their callers were not answered");
        }
    }
}

fn app(config: &Config, options: &PgConnectOptions) -> App {
    let runtime = Handle::current();
    let request_timeout = config.request_timeout;
    let reads = (config.database_connections_max / 4).max(1);
    let limits = ConnectionLimits { writes: config.database_connections_max - reads, reads };
    let store =
        Arc::new(PostgresStore::new(options.clone(), limits, request_timeout / 2, runtime.clone()));
    let settings = Settings { request_timeout, mailbox_commands_max: config.mailbox_commands_max };
    App {
        batching: Batching::new(Arc::clone(&store), settings, Uuid::now_v7, runtime.clone()),
        summaries: Summaries::new(Arc::clone(&store), request_timeout, runtime),
        store,
        default_event: config.default_event.id.clone(),
        request_timeout,
    }
}

/// Tries until the database can be reached, for a while.
async fn wait_for_database(
    attempt: impl AsyncFn() -> Result<(), SchemaError>,
) -> Result<(), ServeError> {
    let deadline = Instant::now() + DATABASE_WAIT_MAX;
    loop {
        match attempt().await {
            Err(SchemaError::Connect(failure)) if Instant::now() < deadline => {
                log::warn!(
                    "the database is away: {}; trying for {} s more",
                    crate::chain(&failure),
                    deadline.saturating_duration_since(Instant::now()).as_secs(),
                );
                sleep(DATABASE_WAIT_STEP).await;
            }
            other => return Ok(other?),
        }
    }
}

/// Ends with the first SIGTERM or SIGINT.
fn signals() -> Result<std::pin::Pin<Box<dyn Future<Output = ()> + Send>>, ServeError> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Http)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Http)?;
    Ok(Box::pin(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }))
}

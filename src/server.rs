//! Builds everything from a [`Config`], runs it, and shuts it down in order.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpServer;
use actix_web::dev::ServerHandle;
use actix_web::web::Data;
use nix::errno::Errno;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::Backlog;
#[cfg(target_os = "linux")]
use nix::sys::socket::sockopt::TcpUserTimeout;
use prometheus_client::registry::Registry;
use sqlx::postgres::PgConnectOptions;
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::access::KeyRing;
use crate::batching::{self, Batching, Settings, Summaries};
use crate::config::{AccessControl, Config};
use crate::domain::{KeyId, PartnerLimits};
use crate::http::{
    self, Access, App, Exposure, Guard, LargeReads, Metrics, Rates, Readiness, Streams,
};
use crate::postgres::{LaunchError, STOP_TIMEOUT_S};
use crate::store::schema::{self, SchemaError};
use crate::store::{ConnectionLimits, PostgresStore, Unavailable};
use crate::verify::VerifyError;

mod commands;
mod database;
pub mod keys;
mod tls;

use database::wait_for_database;
use tls::Certificate;

pub use commands::{migrate, verify};
pub use database::OpenDatabase;
pub use tls::TlsError;

/// How long a request may take to send its head. Not shorter: slow clients reconnect when they are
/// cut off, and reconnecting costs more than waiting.
const HEAD_MAX: Duration = Duration::from_secs(15);
/// How long a response may take to be taken, and a connection to be closed.
const CLOSING_MAX: Duration = Duration::from_secs(5);
/// Idle time between two requests on a connection: longer than a load balancer's usual minute.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// The parts of a shutdown: answering the requests that were accepted, settling commits that nobody
/// waits for any more, and stopping the private PostgreSQL.
const STOP_HTTP_MAX_S: u64 = 5;
/// Before anything is served, that time is available to a start that is in progress.
const STOP_START_MAX_S: u64 = STOP_HTTP_MAX_S + STOP_BATCHERS_MAX_S;
const STOP_BATCHERS_MAX_S: u64 = 1;
const STOP_MAX_S: u64 = 10;
const _: () = assert!(STOP_HTTP_MAX_S + STOP_BATCHERS_MAX_S + STOP_TIMEOUT_S < STOP_MAX_S);
/// Connections that may wait to be accepted: all partners call in the same second.
const BACKLOG: i32 = 4096;
/// How long a client may take in nothing of what is sent to it, as when nobody reads a stream.
#[cfg(target_os = "linux")]
const UNTAKEN_MAX_MS: u32 = 30_000;

#[derive(Debug, Error)]
pub enum ServeError {
    #[error(transparent)]
    Launch(#[from] LaunchError),
    #[error(transparent)]
    Schema(#[from] SchemaError),
    #[error(transparent)]
    Verify(#[from] VerifyError),
    #[error("there is no database in DATA_DIR {}; set DATA_DIR or DATABASE_URL", data_dir.display())]
    NoDatabase { data_dir: PathBuf },
    #[error("could not read or write the keys")]
    Keys(#[source] Unavailable),
    #[error("there is no key with the id {id}")]
    NoSuchKey { id: KeyId },
    #[error("could not get random numbers from the operating system")]
    Random(#[source] getrandom::Error),
    #[error("could not create the default event")]
    DefaultEvent(#[source] Unavailable),
    #[error("cannot listen on {addresses:?}")]
    Bind { addresses: Vec<SocketAddr>, source: io::Error },
    #[error("could not set up signal handling")]
    Signals(#[source] io::Error),
    #[error("stopped before the command was finished")]
    Stopped,
    #[error("a background task failed")]
    Task(#[from] tokio::task::JoinError),
    #[error("TLS_CERT and TLS_KEY cannot be used")]
    Tls(#[from] TlsError),
    #[error("the HTTP server failed")]
    Http(#[source] io::Error),
}

/// Serves until SIGTERM or SIGINT, then finishes the requests that were accepted.
pub async fn serve(config: &Config) -> Result<(), ServeError> {
    let signals = Signals::watch()?;
    let stop = &signals.stop;
    allow_many_connections();
    // First, so that no database is started if a port is taken.
    let listeners = listen(&config.addresses)?;
    let served = with_database(config, stop, async |database| {
        let server = tokio::select! {
            started = Server::start(config, database, listeners) => started?,
            () = stop.cancelled() => return Ok(()),
        };
        let drained = async {
            stop.cancelled().await;
            server.drain(config.drain_delay, &signals.hurry).await;
        };
        tokio::select! {
            () = drained => {}
            () = database.look_after() => {}
        }
        server.stop().await;
        Ok(())
    })
    .await;
    match served {
        // Stopped as requested.
        Ok(()) | Err(ServeError::Stopped) => {
            log::info!("stopped");
            Ok(())
        }
        Err(failure) => Err(failure),
    }
}

/// Each connection is an open file, and most systems set the soft limit of open files to 1,024, for
/// programs that cannot handle more. A process may raise it to the hard limit by itself.
pub fn allow_many_connections() {
    let raised = getrlimit(Resource::RLIMIT_NOFILE)
        .and_then(|(_soft, hard)| setrlimit(Resource::RLIMIT_NOFILE, hard, hard));
    if let Err(failure) = raised {
        log::warn!("could not raise the limit on open files: {failure}");
    }
}

/// Listens on the addresses. Those that this machine does not have are left out, since a name may
/// stand for more than one; but not one that is in use, or its callers would reach another program.
pub fn listen(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, ServeError> {
    let mut listeners = Vec::new();
    let mut failure = None;
    for address in addresses {
        let listener = TcpListener::bind(address).and_then(|listener| {
            // The standard library's own backlog allows only 128 callers at the same moment.
            nix::sys::socket::listen(&listener, Backlog::new(BACKLOG)?)?;
            // Accepted connections inherit it.
            #[cfg(target_os = "linux")]
            nix::sys::socket::setsockopt(&listener, TcpUserTimeout, &UNTAKEN_MAX_MS)?;
            Ok(listener)
        });
        match listener {
            Ok(listener) => listeners.push(listener),
            Err(source) => {
                let is_absent = source.kind() == io::ErrorKind::AddrNotAvailable
                    || source.raw_os_error() == Some(Errno::EAFNOSUPPORT as i32);
                let bind = ServeError::Bind { addresses: addresses.to_vec(), source };
                if !is_absent {
                    return Err(bind);
                }
                failure = Some(bind);
            }
        }
    }
    match failure {
        Some(failure) if listeners.is_empty() => Err(failure),
        Some(_) | None => Ok(listeners),
    }
}

/// Opens the database, runs `work` with it, and closes it, whatever happens in between.
async fn with_database(
    config: &Config,
    stop: &CancellationToken,
    work: impl AsyncFnOnce(&OpenDatabase) -> Result<(), ServeError>,
) -> Result<(), ServeError> {
    let mut opening = Box::pin(OpenDatabase::open(&config.database));
    let opened = tokio::select! {
        opened = &mut opening => opened,
        // A database server that is being started has to be stopped, too.
        () = stop.cancelled() => timeout(Duration::from_secs(STOP_START_MAX_S), opening)
            .await
            .unwrap_or(Err(ServeError::Stopped)),
    };
    let database = opened?;
    let worked = if stop.is_cancelled() { Err(ServeError::Stopped) } else { work(&database).await };
    database.close().await;
    worked
}

/// A running service.
pub struct Server {
    address: SocketAddr,
    http: ServerHandle,
    running: JoinHandle<io::Result<()>>,
    batching: Batching<PostgresStore>,
    streams: Streams,
    ring: Option<KeyRing>,
    draining: CancellationToken,
    /// The sweeper, and the polls for what other replicas commit, and for keys.
    chores: Vec<JoinHandle<()>>,
}

impl Server {
    /// Prepares the database, and returns once connections are accepted.
    pub async fn start(
        config: &Config,
        database: &OpenDatabase,
        listeners: Vec<TcpListener>,
    ) -> Result<Self, ServeError> {
        if config.migrate_on_start {
            database.migrate().await?;
        } else {
            wait_for_database(|| schema::check(&database.options)).await?;
        }
        let certificate = config.tls.as_ref().map(Certificate::read).transpose()?;
        let app = app(config, &database.options).await?;
        let event = &config.default_event;
        let until = Instant::now() + config.request_timeout;
        let made = app.store.make_event(event, Uuid::new_v4(), None, until).await;
        made.map_err(ServeError::DefaultEvent)?;

        let (batching, streams) = (app.batching.clone(), app.streams.clone());
        let draining = app.readiness.draining.clone();
        let (store, timeout) = (&app.store, config.request_timeout);
        let sweeping = batching::sweep(Arc::clone(store), batching.clone(), timeout);
        let versions = batching.latest_versions().clone();
        let looking = batching::look_for_versions(Arc::clone(store), versions, timeout);
        let mut chores = vec![tokio::spawn(sweeping), tokio::spawn(looking)];
        let ring = match &app.access {
            Access::Keys(guard) => Some(guard.ring.clone()),
            Access::Off => None,
        };
        chores.extend(ring.clone().map(|ring| tokio::spawn(ring.keep())));
        let app = Data::new(app);
        let exposure =
            Exposure { cors_origins: config.cors_origins.clone(), is_tls: certificate.is_some() };
        let mut server = HttpServer::new(move || http::application(app.clone(), exposure.clone()))
            .workers(config.workers)
            .keep_alive(KEEP_ALIVE)
            .client_request_timeout(HEAD_MAX)
            .client_disconnect_timeout(CLOSING_MAX)
            .shutdown_timeout(STOP_HTTP_MAX_S)
            // A client that is gone must not keep a stream open.
            .h1_allow_half_closed(false)
            .disable_signals();
        for listener in listeners {
            server = match &certificate {
                Some(certificate) => server.listen_rustls_0_23(listener, certificate.config()?),
                None => server.listen(listener),
            }
            .map_err(ServeError::Http)?;
        }
        let scheme = if certificate.is_some() { "https" } else { "http" };
        if let Some(certificate) = certificate {
            chores.push(tokio::spawn(async move {
                if let Err(failure) = certificate.renew().await {
                    log::error!("the certificate will not be renewed: {}", crate::chain(&failure));
                }
            }));
        }
        let address = server.addrs()[0];
        let addresses = server.addrs().into_iter().map(|address| format!("{scheme}://{address}"));
        let addresses = addresses.collect::<Vec<_>>().join(" and ");
        let server = server.run();
        let http = server.handle();
        let running = tokio::spawn(server);
        log::info!(
            "serving {addresses}; access control: {}; database: {}; default event: {} at \
             /reservations",
            match config.access_control {
                AccessControl::Keys => "keys",
                AccessControl::Off => "off (anybody may do everything)",
            },
            database.describe(),
            event.id,
        );
        Ok(Self { address, http, running, batching, streams, ring, draining, chores })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Reports that requests should go elsewhere, and continues to serve for `delay`.
    async fn drain(&self, delay: Duration, hurry: &CancellationToken) {
        self.draining.cancel();
        if !delay.is_zero() {
            log::info!("draining for {} ms", delay.as_millis());
            // Ends after `delay`, or at another signal.
            let _ = timeout(delay, hurry.cancelled()).await;
        }
    }

    /// Stops accepting, answers the requests that were accepted, and settles the commits in flight.
    pub async fn stop(self) {
        log::info!("stopping");
        self.chores.iter().for_each(JoinHandle::abort);
        self.streams.stop();
        self.http.stop(true).await;
        match self.running.await {
            Ok(Ok(())) => {}
            Ok(Err(failure)) => log::error!("the HTTP server failed: {failure}"),
            Err(failure) => log::error!("the HTTP server failed: {failure}"),
        }
        let settling = async {
            self.batching.drain().await;
            if let Some(ring) = &self.ring {
                ring.close().await;
            }
        };
        if timeout(Duration::from_secs(STOP_BATCHERS_MAX_S), settling).await.is_err() {
            log::error!("some commits were not settled in time; their callers were not answered");
        }
    }
}

async fn app(config: &Config, options: &PgConnectOptions) -> Result<App, ServeError> {
    let runtime = Handle::current();
    let request_timeout = config.request_timeout;
    let reads = (config.database_connections_max / 4).max(1);
    let limits = ConnectionLimits { writes: config.database_connections_max - reads, reads };
    let store =
        Arc::new(PostgresStore::new(options.clone(), limits, request_timeout / 2, runtime.clone()));
    let settings = Settings { request_timeout, mailbox_commands_max: config.mailbox_commands_max };
    let batching = Batching::new(Arc::clone(&store), settings, Uuid::now_v7, runtime.clone());
    let mut registry = Registry::with_prefix(http::PREFIX);
    store.register(&mut registry);
    batching.register(&mut registry);
    let metrics = Metrics::new(registry);
    let large_reads = LargeReads::new((reads / 2).max(1));
    let access = match config.access_control {
        AccessControl::Off => Access::Off,
        AccessControl::Keys => {
            let Config { partner_requests_per_s, partner_requests_burst, .. } = *config;
            let rates = Rates::new(partner_requests_per_s, partner_requests_burst);
            let ring = KeyRing::open(Arc::clone(&store), runtime.clone(), rates.quota()).await;
            let limits = PartnerLimits { open_holds_max: config.partner_holds_max };
            Access::Keys(Guard { ring: ring.map_err(ServeError::Keys)?, rates, limits })
        }
    };
    Ok(App {
        access,
        streams: Streams::new(
            Arc::clone(&store),
            batching.latest_versions().clone(),
            runtime.clone(),
            request_timeout,
            config.stream_bytes_per_s_max,
            metrics.streams.clone(),
            large_reads.clone(),
        ),
        metrics,
        readiness: Readiness::default(),
        batching,
        summaries: Summaries::new(Arc::clone(&store), request_timeout, runtime),
        store,
        default_event: config.default_event.id.clone(),
        request_timeout,
        large_reads,
    })
}

/// Requests to stop, by SIGTERM or SIGINT.
struct Signals {
    /// Cancelled by the first.
    stop: CancellationToken,
    /// Cancelled by the second.
    hurry: CancellationToken,
}

impl Signals {
    fn watch() -> Result<Self, ServeError> {
        let mut terminate = signal(SignalKind::terminate()).map_err(ServeError::Signals)?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(ServeError::Signals)?;
        // From now on, SIGHUP does not end the process; with TLS, we re-read the certificate.
        drop(signal(SignalKind::hangup()).map_err(ServeError::Signals)?);
        let signals = Self { stop: CancellationToken::new(), hurry: CancellationToken::new() };
        let tokens = [signals.stop.clone(), signals.hurry.clone()];
        tokio::spawn(async move {
            for token in tokens {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = interrupt.recv() => {}
                }
                token.cancel();
            }
        });
        Ok(signals)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_taken_is_not_left_out() {
        let free: SocketAddr = ([127, 0, 0, 1], 0).into();
        // For documentation only (RFC 5737).
        let absent: SocketAddr = ([192, 0, 2, 1], 0).into();
        assert_eq!(listen(&[absent, free]).expect("one of them is there").len(), 1);
        assert!(listen(&[absent]).is_err());
        let other = TcpListener::bind(free).expect("a free port");
        let taken = other.local_addr().expect("it is bound");
        assert!(listen(&[free, taken]).is_err());
    }
}

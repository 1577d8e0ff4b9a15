//! A fixed set of connections to PostgreSQL.
//!
//! Not sqlx's pool, which asks the server at every return whether the connection still works: a
//! round trip for each commit. Here, a connection that failed, or whose statement was abandoned
//! halfway, is closed; all others are returned at once. The set never grows.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions, Connection as _, PgConnection};
use tokio::runtime::Handle;
use tokio::sync::{Mutex as AsyncMutex, OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;

use super::Unavailable;
use super::error::leaves_connection_usable;

/// A connection that was idle for longer is checked before a commit is sent on it. The server may
/// have gone down meanwhile, and a statement written to a dead connection has an unknown outcome.
const TRUSTED_IDLE_MAX: Duration = Duration::from_millis(500);

/// A server that does not even complete the handshake in this time counts as unavailable.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A proof that takes longer is most likely running on a dead connection, and is given up. If it was
/// not, its session is still there, waiting for a standby, so each is given twice as long as the last.
const FIRST_PROOF_MAX: Duration = Duration::from_secs(60);
const PROOF_MAX: Duration = Duration::from_secs(5 * 60);

pub(super) struct Connections {
    options: PgConnectOptions,
    /// The runtime of the connections: those of actix's workers end before the last commit.
    runtime: Handle,
    permits: Arc<Semaphore>,
    /// The proof in progress. Only one at a time: on a server whose standby is gone, a proof waits
    /// for ever, even if its client is gone, and such sessions must not fill up the server.
    proof: AsyncMutex<Option<Proof>>,
    /// Last in, first out: a quiet service keeps using the same few, and their plans stay warm.
    idle: Mutex<Vec<Idle>>,
    metrics: PoolMetrics,
}

/// The metrics of a set of connections.
pub(super) struct PoolMetrics {
    /// Connections in use.
    pub lent: Gauge,
    /// Time until a connection was available, or the wait ended without one.
    pub wait_seconds: Histogram,
}

/// The proof of a session by a commit of its own, in a task that outlives its caller.
struct Proof {
    proving: AbortOnDropHandle<Result<PgConnection, sqlx::Error>>,
    began: Instant,
    /// How long it may take.
    max: Duration,
}

struct Idle {
    connection: PgConnection,
    since: Instant,
}

impl Connections {
    pub fn new(
        options: PgConnectOptions,
        connections_max: usize,
        runtime: Handle,
        metrics: PoolMetrics,
    ) -> Self {
        let permits = Arc::new(Semaphore::new(connections_max));
        Self {
            options,
            runtime,
            permits,
            proof: AsyncMutex::default(),
            idle: Mutex::default(),
            metrics,
        }
    }

    /// Lends a connection, opening one if none is idle.
    pub async fn lease(self: &Arc<Self>, until: Instant) -> Result<Lease, Unavailable> {
        let asked = Instant::now();
        let lent = self.borrow(until).await;
        self.metrics.wait_seconds.observe(asked.elapsed().as_secs_f64());
        let (permit, connection) = lent?;
        let lent = Lent::count(self.metrics.lent.clone());
        Ok(Lease { connection, owner: Arc::clone(self), _permit: permit, _lent: lent })
    }

    async fn borrow(
        &self,
        until: Instant,
    ) -> Result<(OwnedSemaphorePermit, PgConnection), Unavailable> {
        let permit = timeout_at(until, Arc::clone(&self.permits).acquire_owned())
            .await
            .map_err(|_elapsed| Unavailable::Busy)?
            .expect("the semaphore is never closed");
        let connection = match self.working(until).await {
            Some(connection) => connection,
            None => self.connect(until).await?,
        };
        Ok((permit, connection))
    }

    /// An idle connection that still works.
    async fn working(&self, until: Instant) -> Option<PgConnection> {
        let Idle { mut connection, since } = self.idle().pop()?;
        if since.elapsed() <= TRUSTED_IDLE_MAX {
            return Some(connection);
        }
        let until = until.min(Instant::now() + CONNECT_TIMEOUT);
        match timeout_at(until, connection.ping()).await {
            Ok(Ok(())) => Some(connection),
            Ok(Err(_)) | Err(_) => {
                self.idle().clear();
                None
            }
        }
    }

    /// A new connection that can be trusted.
    ///
    /// A server that has just come back, or taken over, may show commits that never reached its
    /// standby, and may still lose them. So each session first commits something of its own: once
    /// that has succeeded, everything that it sees from before is permanent.
    async fn connect(&self, until: Instant) -> Result<PgConnection, Unavailable> {
        let until = until.min(Instant::now() + CONNECT_TIMEOUT);
        let mut proof =
            timeout_at(until, self.proof.lock()).await.map_err(|_elapsed| Unavailable::TimedOut)?;
        let mut max = FIRST_PROOF_MAX;
        if let Some(mut last) = proof.take() {
            if last.proving.is_finished() || last.began.elapsed() < last.max {
                match timeout_at(until, &mut last.proving).await {
                    Ok(Ok(Ok(connection))) => return Ok(connection),
                    // The proof failed: its server is gone, and another may have taken over by now.
                    Ok(Ok(Err(_)) | Err(_)) => {}
                    Err(_elapsed) => {
                        *proof = Some(last);
                        return Err(Unavailable::TimedOut);
                    }
                }
            } else {
                max = (last.max * 2).min(PROOF_MAX);
            }
        }
        let mut next = self.prove(self.reach(until).await?, max);
        match timeout_at(until, &mut next.proving).await {
            Ok(proved) => {
                proved.map_err(|_stopping| Unavailable::TimedOut)?.map_err(Unavailable::Connect)
            }
            Err(_elapsed) => {
                *proof = Some(next);
                Err(Unavailable::TimedOut)
            }
        }
    }

    async fn reach(&self, until: Instant) -> Result<PgConnection, Unavailable> {
        let options = self.options.clone();
        let connecting = self.runtime.spawn(async move { options.connect().await });
        // An attempt that was given up must not continue and hold a socket.
        let connecting = AbortOnDropHandle::new(connecting);
        let connected = timeout_at(until, connecting).await;
        connected
            .map_err(|_elapsed| Unavailable::TimedOut)?
            .map_err(|_stopping| Unavailable::TimedOut)?
            .map_err(Unavailable::Connect)
    }

    fn prove(&self, mut connection: PgConnection, max: Duration) -> Proof {
        let proving = AbortOnDropHandle::new(self.runtime.spawn(async move {
            commit_something(&mut connection).await?;
            Ok(connection)
        }));
        Proof { proving, began: Instant::now(), max }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        // Poisoning does not matter: a panic cannot leave a list of connections half-changed.
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes to the WAL and to no table, and waits for what every commit waits for.
async fn commit_something(connection: &mut PgConnection) -> Result<(), sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- commit_something
        select 1 as "done!" from pg_logical_emit_message(true, 'ticketboss', '')"#
    )
    .fetch_one(connection)
    .await?;
    Ok(())
}

/// A borrowed connection. It is closed when dropped: a statement may still be running on it.
pub(super) struct Lease {
    pub connection: PgConnection,
    owner: Arc<Connections>,
    _permit: OwnedSemaphorePermit,
    _lent: Lent,
}

/// Counts a connection as in use until it is dropped.
struct Lent(Gauge);

impl Lent {
    fn count(lent: Gauge) -> Self {
        lent.inc();
        Self(lent)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl Lease {
    /// Returns a connection on which every statement has ended.
    pub fn give_back(self) {
        let idle = Idle { connection: self.connection, since: Instant::now() };
        self.owner.idle().push(idle);
    }

    /// Returns the connection if the failure ended only a statement. Otherwise closes it and all
    /// idle ones: if one broke, the others most likely did, too. Returns whether it was broken.
    pub fn give_back_after(self, failure: &sqlx::Error) -> bool {
        let broken = !leaves_connection_usable(failure);
        if broken {
            self.owner.idle().clear();
        } else {
            self.give_back();
        }
        broken
    }
}

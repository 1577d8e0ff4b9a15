//! The network from a replica to the database, which delays and loses messages and breaks
//! connections.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use ticketboss::domain::{Command, EventId};
use ticketboss::store::{
    Batch, Before, Commit, CommitError, EventNow, Snapshot, Store, Unavailable,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::dice::Dice;
use super::server::{Server, Session, SessionLost, Ticket};
use super::trace::{Trace, What};
use crate::support::simulated::without_what_is_known;

/// The probabilities of the faults, from 0 to 1, and how slow everything is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weather {
    /// No connection can be made.
    pub refused: f64,
    /// The statement ends with an error, and did nothing.
    pub error: f64,
    /// The statement never arrives, and the connection breaks.
    pub lost: f64,
    /// The statement runs, and the connection breaks before its answer.
    pub answer_lost: f64,
    /// The connection breaks, and the statement runs later.
    pub late: f64,
    /// The connection is silent, and the statement may run at any time.
    pub silent: f64,
    pub latency_max_ms: u64,
    /// How late a late statement may be.
    pub late_max_ms: u64,
}

impl Weather {
    pub const CALM: Self = Self {
        refused: 0.0,
        error: 0.0,
        lost: 0.0,
        answer_lost: 0.0,
        late: 0.0,
        silent: 0.0,
        latency_max_ms: 2,
        late_max_ms: 0,
    };
}

/// What happens to one statement on its way.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fate {
    Arrives,
    Error,
    Lost,
    AnswerLost,
    Late,
    Silent,
}

/// Far longer than the replicas' bounds on their own waits.
const FAR: Duration = Duration::from_secs(10);

/// The network through which all replicas reach the database.
pub struct Network {
    pub server: Server,
    pub dice: Dice,
    pub weather: Mutex<Weather>,
    pub trace: Trace,
}

impl Network {
    fn weather(&self) -> Weather {
        *self.weather.lock().expect("no panic under the lock")
    }

    fn fate(&self) -> Fate {
        let weather = self.weather();
        let fates = [
            (weather.error, Fate::Error),
            (weather.lost, Fate::Lost),
            (weather.answer_lost, Fate::AnswerLost),
            (weather.late, Fate::Late),
            (weather.silent, Fate::Silent),
        ];
        let met = fates.into_iter().find(|(likely, _)| self.dice.chance(*likely));
        met.map_or(Fate::Arrives, |(_, fate)| fate)
    }

    async fn travel(&self) {
        sleep(self.dice.pause(self.weather().latency_max_ms)).await;
    }

    /// Runs a statement from the moment at which it is written to a connection. It runs to its end
    /// even if nobody waits for its answer any more.
    async fn run(
        self: Arc<Self>,
        incarnation: u64,
        statement: Statement,
        fate: Fate,
        answer: oneshot::Sender<Told>,
    ) {
        let session = Session { server: &self.server, incarnation };
        self.travel().await;
        let mut answer = Some(answer);
        match fate {
            Fate::Arrives | Fate::AnswerLost => {}
            Fate::Error => {
                let _ = answer.take().map(|answer| answer.send(failed()));
                return;
            }
            Fate::Lost => return,
            Fate::Late => {
                answer = None;
                sleep(self.dice.pause(self.weather().late_max_ms)).await;
            }
            Fate::Silent => sleep(self.dice.pause(self.weather().late_max_ms)).await,
        }
        let ended = match &statement {
            Statement::Commit(batch, baton) => {
                let ended = session.commit(batch, *baton).await;
                self.trace.add(What::Ran(batch.id, format!("{ended:?}")));
                ended.map(Told::Commit)
            }
            Statement::Fence => session.fence().await.map(Told::Fence),
        };
        self.travel().await;
        if fate == Fate::AnswerLost || fate == Fate::Silent {
            // A silent connection stays open: only the caller's own time-out ends the wait.
            if fate == Fate::Silent {
                std::future::pending::<()>().await;
            }
            return;
        }
        if let (Some(answer), Ok(told)) = (answer, ended) {
            // The caller may have given up.
            let _ = answer.send(told);
        }
    }
}

enum Statement {
    Commit(Batch, Option<Ticket>),
    Fence,
}

/// The server's answer to a statement.
enum Told {
    Commit(Result<Commit, CommitError>),
    Fence(Result<(), CommitError>),
}

fn failed() -> Told {
    Told::Commit(Err(CommitError::NotDone(Unavailable::TimedOut)))
}

/// A replica's store.
pub struct Remote {
    network: Arc<Network>,
    /// Cancelled when the replica is killed: it receives nothing from then on.
    killed: CancellationToken,
    /// The incarnation of the server on which a commit of this replica has succeeded.
    trusted: Mutex<Option<u64>>,
    baton: Mutex<Option<Ticket>>,
}

impl Remote {
    pub fn new(network: Arc<Network>, killed: CancellationToken) -> Self {
        Self { network, killed, trusted: Mutex::default(), baton: Mutex::default() }
    }

    /// A session on which something was committed before it is used, as in the real store.
    async fn session(&self, until: Instant) -> Result<Session<'_>, Unavailable> {
        let network = &self.network;
        if network.dice.chance(network.weather().refused) {
            // Each call ends by its deadline.
            let _ = timeout_at(until, network.travel()).await;
            return Err(Unavailable::TimedOut);
        }
        let session = network.server.connect().ok_or(Unavailable::TimedOut)?;
        let trusted = || self.trusted.lock().expect("no panic under the lock");
        if *trusted() != Some(session.incarnation) {
            let committed = timeout_at(until, session.fence()).await;
            let Ok(Ok(Ok(()))) = committed else { return Err(Unavailable::TimedOut) };
            *trusted() = Some(session.incarnation);
        }
        Ok(session)
    }

    /// Does the work, unless the replica is killed: a killed process never sees the result.
    async fn lived<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::select! {
            biased;
            () = self.killed.cancelled() => std::future::pending().await,
            done = work => done,
        }
    }

    /// Sends a statement; `None` if its outcome is unknown.
    async fn send(
        &self,
        statement: Statement,
        until: Instant,
    ) -> Result<Option<Told>, Unavailable> {
        let network = &self.network;
        let incarnation = self.session(until).await?.incarnation;
        let fate = network.fate();
        if let Statement::Commit(batch, _) = &statement {
            network.trace.add(What::Sent(batch.id, batch.base_version, fate));
        }
        let (answer, told) = oneshot::channel();
        tokio::spawn(Arc::clone(network).run(incarnation, statement, fate, answer));
        Ok(timeout_at(until, told).await.ok().and_then(Result::ok))
    }

    async fn read<T>(
        &self,
        until: Instant,
        read: impl FnOnce(&Session<'_>) -> Result<T, SessionLost>,
    ) -> Result<T, Unavailable> {
        let network = &self.network;
        let reading = async {
            let session = self.session(until).await?;
            network.travel().await;
            let answer = match network.fate() {
                Fate::Arrives => read(&session).ok(),
                Fate::Silent => std::future::pending().await,
                Fate::Error | Fate::Lost | Fate::AnswerLost | Fate::Late => None,
            };
            network.travel().await;
            answer.ok_or(Unavailable::TimedOut)
        };
        timeout_at(until, reading).await.unwrap_or(Err(Unavailable::TimedOut))
    }

    async fn line_up(&self) -> Result<Option<(Granted, EventNow)>, Unavailable> {
        let (network, far) = (&self.network, Instant::now() + FAR);
        let session = self.session(far).await?;
        network.travel().await;
        let fate = network.fate();
        if fate == Fate::Error || fate == Fate::Lost {
            return Err(Unavailable::TimedOut);
        }
        let taken = session.take_baton().await.map_err(|_lost| Unavailable::TimedOut)?;
        let Some((ours, event)) = taken else { return Ok(None) };
        let granted = Granted { network: Arc::clone(network), ours: Some(ours) };
        let (killed, on_kill) = (self.killed.clone(), Arc::clone(network));
        tokio::spawn(async move {
            killed.cancelled().await;
            on_kill.server.pass_baton(ours);
        });
        network.travel().await;
        if fate == Fate::Arrives { Ok(Some((granted, event))) } else { Err(Unavailable::TimedOut) }
    }

    fn take_out_baton(&self) -> Option<Ticket> {
        self.baton().take()
    }

    fn baton(&self) -> MutexGuard<'_, Option<Ticket>> {
        self.baton.lock().expect("no panic under the lock")
    }
}

/// A baton that the replica has not received yet. If it never does, its session ends some time
/// later.
struct Granted {
    network: Arc<Network>,
    ours: Option<Ticket>,
}

impl Drop for Granted {
    fn drop(&mut self) {
        if let Some(ours) = self.ours.take() {
            let network = Arc::clone(&self.network);
            tokio::spawn(async move {
                network.travel().await;
                network.server.pass_baton(ours);
            });
        }
    }
}

impl Store for Remote {
    async fn snapshot(
        &self,
        event_id: &EventId,
        commands: &[&Command],
        before: Option<Before<'_>>,
        until: Instant,
    ) -> Result<Option<Snapshot>, Unavailable> {
        let read = |session: &Session<'_>| session.snapshot(event_id, commands);
        let snapshot = self.lived(self.read(until, read)).await?;
        Ok(snapshot.map(|snapshot| without_what_is_known(snapshot, commands, before)))
    }

    async fn commit(&self, batch: &Batch, until: Instant) -> Result<Commit, CommitError> {
        let baton = self.take_out_baton();
        let sent = self.lived(self.send(Statement::Commit(batch.clone(), baton), until)).await;
        let commit = match sent {
            Ok(Some(Told::Commit(commit))) => commit,
            Ok(Some(Told::Fence(_))) => unreachable!("it was a commit"),
            Ok(None) => Err(CommitError::Unknown(None)),
            Err(unavailable) => Err(unavailable.into()),
        };
        match (&commit, baton) {
            (Ok(Commit::VersionMoved), _) => *self.baton() = baton,
            // The baton goes with its connection.
            (Err(_), Some(ours)) => self.network.server.pass_baton(ours),
            (_, _) => {}
        }
        commit
    }

    async fn take_baton(
        &self,
        _event_id: &EventId,
        until: Instant,
    ) -> Result<Option<EventNow>, Unavailable> {
        let taken = self.lived(timeout_at(until, self.line_up())).await;
        let taken = taken.unwrap_or(Err(Unavailable::TimedOut))?;
        Ok(taken.map(|(mut granted, event)| {
            *self.baton() = granted.ours.take();
            event
        }))
    }

    async fn pass_baton(&self, _event_id: &EventId, _until: Instant) {
        if let Some(ours) = self.take_out_baton() {
            self.network.server.pass_baton(ours);
        }
    }

    async fn batch_at(
        &self,
        _event_id: &EventId,
        version: i64,
        until: Instant,
    ) -> Result<Option<Uuid>, Unavailable> {
        self.lived(self.read(until, |session| session.batch_at(version))).await
    }

    async fn fence(&self, _event_id: &EventId, until: Instant) -> Result<(), Unavailable> {
        match self.lived(self.send(Statement::Fence, until)).await? {
            Some(Told::Fence(Ok(()))) => Ok(()),
            Some(Told::Fence(Err(_)) | Told::Commit(_)) | None => Err(Unavailable::TimedOut),
        }
    }
}

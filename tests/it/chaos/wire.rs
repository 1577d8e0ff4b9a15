//! A proxy for PostgreSQL that knows its protocol, and breaks at a chosen message of a commit.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A point in the exchange about a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The service has written the statement, and the server has not seen it.
    BeforeStatement,
    /// The server has run the statement, holds its locks, and was not told to commit.
    BeforeSync,
    /// The server has the statement, and no part of its answer has arrived.
    AfterStatement,
    /// The rows have arrived, but not the message that the statement is complete.
    BeforeComplete,
    /// The statement is complete, but the server has not said that it is ready.
    BeforeReady,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Both sides are disconnected.
    Cut,
    /// The service is disconnected, and the server does not notice for a while.
    HangUp,
    /// Nothing passes any more, in either direction, until the service gives the connection up.
    BlackHole,
    Delay(Duration),
}

pub const POINTS: [Point; 5] = [
    Point::BeforeStatement,
    Point::BeforeSync,
    Point::AfterStatement,
    Point::BeforeComplete,
    Point::BeforeReady,
];
pub const ACTS: [Act; 4] =
    [Act::Cut, Act::HangUp, Act::BlackHole, Act::Delay(Duration::from_millis(300))];

/// How long the server does not notice that its client has gone.
const HUNG_UP_TIME: Duration = Duration::from_secs(2);

/// Forwards a port of its own to a database.
pub struct Wire {
    pub address: SocketAddr,
    plan: Arc<Plan>,
    done: mpsc::UnboundedReceiver<()>,
    forwarding: JoinHandle<()>,
}

struct Plan {
    target: Mutex<SocketAddr>,
    /// What happens to the next commit that gets to this point; it happens once.
    next: Mutex<Option<(Point, Act)>>,
    done: mpsc::UnboundedSender<()>,
}

impl Wire {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (sender, done) = mpsc::unbounded_channel();
        let plan =
            Arc::new(Plan { target: Mutex::new(target), next: Mutex::default(), done: sender });
        let forwarding = tokio::spawn({
            let plan = Arc::clone(&plan);
            async move {
                loop {
                    let (client, _) = listener.accept().await.expect("it accepts");
                    tokio::spawn(connection(client, Arc::clone(&plan)));
                }
            }
        });
        Self { address, plan, done, forwarding }
    }

    /// Directs new connections to another server, like an address that moves to it.
    pub fn lead_to(&self, target: SocketAddr) {
        *self.plan.target.lock().expect("no panic under the lock") = target;
    }

    /// Breaks the next commit at this point, and returns once it is broken.
    pub async fn break_commit(&mut self, point: Point, act: Act) {
        *self.plan.next.lock().expect("no panic under the lock") = Some((point, act));
        let broken = timeout(Duration::from_secs(60), self.done.recv()).await;
        assert_eq!(broken, Ok(Some(())), "no commit came to {point:?}");
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

impl Plan {
    /// What is planned at this point, if anything.
    fn at(&self, point: Point) -> Option<Act> {
        let mut next = self.next.lock().expect("no panic under the lock");
        let act = next.take_if(|(planned, _)| *planned == point)?.1;
        let _ = self.done.send(());
        Some(act)
    }
}

/// The state of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Open,
    Silent,
    HungUp,
    Closed,
}

/// What both directions of a connection share.
struct Shared {
    plan: Arc<Plan>,
    way: watch::Sender<Way>,
    /// Whether a commit was forwarded and is not answered yet.
    committing: Mutex<bool>,
}

async fn connection(client: TcpStream, plan: Arc<Plan>) {
    let target = *plan.target.lock().expect("no panic under the lock");
    let Ok(server) = TcpStream::connect(target).await else { return };
    // Small messages must not wait for more data.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let shared = Shared { plan, way: watch::channel(Way::Open).0, committing: Mutex::default() };
    let mut ways = shared.way.subscribe();
    tokio::select! {
        _ = forward_requests(&mut from_client, &mut to_server, &shared) => {}
        _ = forward_answers(&mut from_server, &mut to_client, &shared) => {}
        _ = ways.wait_for(|way| matches!(way, Way::HungUp | Way::Closed)) => {}
    }
    drop((from_client, to_client));
    if *shared.way.borrow() == Way::HungUp {
        // The server may go on and commit. Then it waits for the next message.
        let ending = async { while read_message(&mut from_server).await.is_ok() {} };
        let _ = timeout(HUNG_UP_TIME, ending).await;
    }
}

async fn forward_requests(
    client: &mut OwnedReadHalf,
    server: &mut OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<()> {
    // The first message has no type.
    let mut length = [0; 4];
    client.read_exact(&mut length).await?;
    let mut rest = vec![0; u32::from_be_bytes(length) as usize - 4];
    client.read_exact(&mut rest).await?;
    server.write_all(&[&length[..], &rest].concat()).await?;

    let mut statements = HashMap::new();
    let mut open = true;
    loop {
        let message = read_message(client).await?;
        match message[0] {
            b'P' => {
                let (name, rest) = text(&message[5..]);
                let commits = text(rest).0.starts_with("-- commit\n");
                statements.insert(name.to_owned(), commits);
            }
            b'B' => {
                let (_portal, rest) = text(&message[5..]);
                if statements.get(text(rest).0) == Some(&true) {
                    open = shared.pass(Point::BeforeStatement).await;
                    *shared.committing() = true;
                }
            }
            b'S' if *shared.committing() => open = shared.pass(Point::BeforeSync).await,
            _ => {}
        }
        if open {
            server.write_all(&message).await?;
        }
    }
}

async fn forward_answers(
    server: &mut OwnedReadHalf,
    client: &mut OwnedWriteHalf,
    shared: &Shared,
) -> io::Result<()> {
    let (mut first, mut open) = (true, true);
    loop {
        let message = read_message(server).await?;
        if *shared.committing() {
            let point = match message[0] {
                _ if std::mem::take(&mut first) => Some(Point::AfterStatement),
                b'C' => Some(Point::BeforeComplete),
                b'Z' => Some(Point::BeforeReady),
                _ => None,
            };
            if let Some(point) = point {
                open = open && shared.pass(point).await;
            }
            if message[0] == b'Z' {
                first = true;
                *shared.committing() = false;
            }
        }
        if open && *shared.way.borrow() == Way::Open {
            client.write_all(&message).await?;
        }
    }
}

impl Shared {
    /// Carries out what is planned at this point. Returns whether messages still pass.
    async fn pass(&self, point: Point) -> bool {
        match self.plan.at(point) {
            None => {}
            Some(Act::Delay(time)) => tokio::time::sleep(time).await,
            Some(Act::BlackHole) => {
                self.way.send_replace(Way::Silent);
            }
            Some(Act::Cut) => {
                self.way.send_replace(Way::Closed);
            }
            Some(Act::HangUp) => {
                self.way.send_replace(Way::HungUp);
            }
        }
        *self.way.borrow() == Way::Open
    }

    fn committing(&self) -> MutexGuard<'_, bool> {
        self.committing.lock().expect("no panic under the lock")
    }
}

/// One message: its type, its length, its body.
async fn read_message(from: &mut OwnedReadHalf) -> io::Result<Vec<u8>> {
    let mut message = vec![0; 5];
    from.read_exact(&mut message).await?;
    let length = u32::from_be_bytes(message[1..].try_into().expect("four bytes")) as usize;
    message.resize(length + 1, 0);
    from.read_exact(&mut message[5..]).await?;
    Ok(message)
}

/// The text up to the next zero, and what follows it.
fn text(bytes: &[u8]) -> (&str, &[u8]) {
    let end = bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len());
    let rest = bytes.get(end + 1..).unwrap_or_default();
    (std::str::from_utf8(&bytes[..end]).unwrap_or_default(), rest)
}

//! A proxy in front of PostgreSQL whose connections can be cut.

use std::net::SocketAddr;

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::eventually;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Bytes pass.
    Open,
    /// The port is closed, and existing connections are cut.
    Closed,
    /// Connections are accepted and kept, but nothing passes.
    BlackHole,
}

/// Forwards a port of its own to a database, as long as the way is open.
pub struct Proxy {
    pub address: SocketAddr,
    way: watch::Sender<Way>,
    forwarding: JoinHandle<()>,
}

impl Proxy {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let (way, changes) = watch::channel(Way::Open);
        let forwarding = tokio::spawn(forward(listener, address, target, changes));
        Self { address, way, forwarding }
    }

    pub fn set(&self, way: Way) {
        self.way.send(way).expect("the forwarding task runs");
    }

    /// Returns once it accepts connections.
    pub async fn is_open(&self) {
        eventually("the proxy accepts connections", async || self.accepts().await).await;
    }

    /// Returns once its port is closed: it has cut all connections then.
    pub async fn is_closed(&self) {
        eventually("the proxy's port is closed", async || !self.accepts().await).await;
    }

    async fn accepts(&self) -> bool {
        TcpStream::connect(self.address).await.is_ok()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.forwarding.abort();
    }
}

async fn forward(
    listener: TcpListener,
    address: SocketAddr,
    target: SocketAddr,
    mut changes: watch::Receiver<Way>,
) {
    let mut listener = Some(listener);
    loop {
        let way = *changes.borrow_and_update();
        if way == Way::Closed {
            listener = None;
        } else if listener.is_none() {
            listener = Some(TcpListener::bind(address).await.expect("the port is still ours"));
        }
        match &listener {
            None => changes.changed().await.expect("the proxy is there"),
            Some(listener) => tokio::select! {
                changed = changes.changed() => changed.expect("the proxy is there"),
                accepted = listener.accept() => {
                    let (client, _) = accepted.expect("it accepts");
                    tokio::spawn(connection(client, target, changes.clone()));
                }
            },
        }
    }
}

async fn connection(mut client: TcpStream, target: SocketAddr, mut way: watch::Receiver<Way>) {
    let Ok(mut server) = TcpStream::connect(target).await else { return };
    loop {
        let now = *way.borrow_and_update();
        match now {
            Way::Closed => return,
            Way::BlackHole => {
                if way.changed().await.is_err() {
                    return;
                }
            }
            Way::Open => tokio::select! {
                _ = copy_bidirectional(&mut client, &mut server) => return,
                changed = way.changed() => if changed.is_err() { return },
            },
        }
    }
}

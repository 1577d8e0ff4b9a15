//! Hostile clients: a process of its own that opens thousands of connections and keeps each of them
//! uselessly busy for as long as the service tolerates it.

use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

/// Time between two actions of one connection.
const PACE: Duration = Duration::from_secs(1);
/// The connections act in this many groups, so that they do not all act at the same moment.
const GROUPS: u32 = 50;
/// How long the service tolerates such a connection. The first connections do not wait for that,
/// but give up one after another within this time, so that reconnects come at an even rate from the
/// beginning.
const PUT_UP_WITH: Duration = Duration::from_secs(15);

/// Which service to attack, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub address: SocketAddr,
    pub connections: usize,
    pub time: Duration,
}

#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Time until all connections were open for the first time.
    pub opened_s: f64,
    /// Connections that were closed, almost all by the service, and opened again.
    pub reopened: u64,
}

/// Reads a plan from standard input, carries it out, and writes the tally to standard output.
pub fn main() -> io::Result<()> {
    let plan: Plan = serde_json::from_reader(io::stdin()).map_err(io::Error::other)?;
    let begin = Instant::now();
    let mut all = Vec::with_capacity(plan.connections);
    for number in 0..plan.connections {
        let hostile = Hostile::open(&plan, Manner::ALL[number % Manner::ALL.len()])?;
        let gives_up = begin + PUT_UP_WITH.mul_f64(number as f64 / plan.connections as f64);
        all.push(Hostile { gives_up: Some(gives_up), ..hostile });
    }
    let mut tally = Tally { opened_s: begin.elapsed().as_secs_f64(), reopened: 0 };
    let group = plan.connections.div_ceil(GROUPS as usize);
    'time: loop {
        for group in all.chunks_mut(group) {
            if begin.elapsed() >= plan.time {
                break 'time;
            }
            for hostile in group {
                if !hostile.go_on() {
                    *hostile = Hostile::open(&plan, hostile.manner)?;
                    tally.reopened += 1;
                }
            }
            thread::sleep(PACE / GROUPS);
        }
    }
    serde_json::to_writer(io::stdout(), &tally).map_err(io::Error::other)
}

#[derive(Clone, Copy)]
enum Manner {
    /// Sends nothing.
    Silent,
    /// Sends headers that never end.
    SlowHead,
    /// Sends a body byte by byte.
    SlowBody,
    /// Sends a chunked body that never ends.
    EndlessBody,
}

impl Manner {
    const ALL: [Self; 4] = [Self::Silent, Self::SlowHead, Self::SlowBody, Self::EndlessBody];

    fn begins(self) -> &'static str {
        match self {
            Self::Silent => "",
            Self::SlowHead => "POST /reservations HTTP/1.1\r\nhost: localhost\r\n",
            Self::SlowBody => {
                "POST /reservations HTTP/1.1\r\nhost: localhost\r\n\
                 content-type: application/json\r\ncontent-length: 4000\r\n\r\n"
            }
            Self::EndlessBody => {
                "POST /reservations HTTP/1.1\r\nhost: localhost\r\n\
                 content-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"
            }
        }
    }

    fn goes_on(self) -> &'static str {
        match self {
            Self::Silent => "",
            Self::SlowHead => "x-more: to come\r\n",
            Self::SlowBody => " ",
            Self::EndlessBody => {
                "40\r\n                                                                \r\n"
            }
        }
    }
}

struct Hostile {
    stream: TcpStream,
    manner: Manner,
    gives_up: Option<Instant>,
}

impl Hostile {
    fn open(plan: &Plan, manner: Manner) -> io::Result<Self> {
        let mut stream = TcpStream::connect(plan.address)?;
        stream.set_nonblocking(true)?;
        stream.write_all(manner.begins().as_bytes())?;
        Ok(Self { stream, manner, gives_up: None })
    }

    /// Acts once more. `false` if the service has answered or closed the connection, or if it is
    /// time for the connection to give up by itself.
    fn go_on(&mut self) -> bool {
        if self.gives_up.is_some_and(|gives_up| Instant::now() >= gives_up) {
            return false;
        }
        let mut answer = [0; 1024];
        let would_block = |failure: &io::Error| failure.kind() == ErrorKind::WouldBlock;
        let silent = self.stream.read(&mut answer).is_err_and(|failure| would_block(&failure));
        let sent = self.stream.write(self.manner.goes_on().as_bytes());
        silent && sent.as_ref().err().is_none_or(would_block)
    }
}

//! The load generator: a process of its own that keeps a number of connections busy and counts the
//! answers.
//!
//! Written here because no packaged generator can do all of this: mix bookings and cancellations,
//! offer a fixed rate without hiding the waiting time of requests that could not be sent in time
//! ("coordinated omission"), and distinguish booked, refused and failed requests. Each thread
//! drives all its connections from one event loop, so that the generator takes little from the
//! machine that it shares with what it measures.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};

/// How long answers may take once nothing more is sent.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// How long the answers to the requests of idle connections may take.
const IDLE_ANSWER_MAX: Duration = Duration::from_secs(10);
/// Minimum time between two checks of an open loop's schedule.
const TICK: Duration = Duration::from_micros(100);
const PARTNERS: u32 = 1_000;
const WAKE: Token = Token(usize::MAX);
const LATENCY_MAX_US: u64 = 60_000_000;

/// What to send, from where, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// Connections are distributed over them in turn.
    pub addresses: Vec<SocketAddr>,
    pub connections: usize,
    /// Opened in addition, used once, and left idle.
    pub idle_connections: usize,
    pub threads: usize,
    pub warm_up: Duration,
    /// Answers that arrive in this time after the warm-up are counted.
    pub measured: Duration,
    /// Requests per second, however fast the answers come. Without a rate, each connection sends
    /// its next request when the last one is answered.
    pub rate: Option<f64>,
    pub calls: Calls,
    /// Access keys, one for each partner that books, if the service requires them.
    pub keys: Vec<String>,
    pub seed: u64,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Calls {
    Get {
        path: String,
    },
    /// Books one seat. The event is drawn for each request: uniformly, or by Zipf's law with this
    /// exponent.
    Reserve {
        events: Vec<String>,
        zipf: Option<f64>,
        keyed: bool,
    },
    /// Books this many one-seat reservations at once, with an access key.
    ReserveLists {
        event: String,
        size: usize,
    },
    /// Books one seat, or, in this share of the calls, cancels what the connection booked before.
    ReserveAndCancel {
        event: String,
        cancelled: f64,
    },
}

/// What came back. Counts are of the measured time unless stated otherwise.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    pub seconds: f64,
    /// Answers 2xx, by address.
    pub accepted: Vec<u64>,
    /// Answers 409.
    pub refused: u64,
    /// All other answers of the whole run, by status.
    pub failed: BTreeMap<u16, u64>,
    /// Reservations booked (201) and cancelled (204) in the whole run.
    pub booked: u64,
    pub cancelled: u64,
    /// Latency of the accepted requests, and of the refused ones.
    pub accepted_latency: Latency,
    pub refused_latency: Latency,
}

/// Latency, in microseconds, of all requests that were due in the measured time, however late their
/// answers came. A request of an open loop has been waiting since it was due, sent or not.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    pub p50: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}

/// Reads a plan from standard input, runs it, and writes the tally to standard output.
pub fn main() -> io::Result<()> {
    let plan: Plan = serde_json::from_reader(io::stdin()).map_err(io::Error::other)?;
    let mut total = Totals::new(plan.addresses.len());
    let idle = idle(&plan)?;
    thread::scope(|scope| -> io::Result<()> {
        let loops: Vec<_> = (0..plan.threads)
            .map(|number| {
                let plan = &plan;
                scope.spawn(move || Generator::new(plan, number)?.run())
            })
            .collect();
        for each in loops {
            total.add(&each.join().expect("an event loop does not panic")?);
        }
        Ok(())
    })?;
    drop(idle);
    serde_json::to_writer(io::stdout(), &total.tally(plan.measured)).map_err(io::Error::other)
}

/// Opens connections that send one request each and then stay open.
fn idle(plan: &Plan) -> io::Result<Vec<std::net::TcpStream>> {
    let addresses = plan.addresses.iter().cycle();
    let open = addresses.take(plan.idle_connections).map(|address| {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(IDLE_ANSWER_MAX))?;
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
        let mut answer = [0; 1024];
        let read = stream.read(&mut answer)?;
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"), "the service is alive");
        Ok(stream)
    });
    open.collect()
}

/// The counts of one event loop, or of all.
struct Totals {
    tally: Tally,
    accepted: Histogram<u64>,
    refused: Histogram<u64>,
}

impl Totals {
    fn new(addresses: usize) -> Self {
        let empty = Histogram::new_with_bounds(1, LATENCY_MAX_US, 3).expect("sane bounds");
        let tally = Tally { accepted: vec![0; addresses], ..Tally::default() };
        Self { tally, accepted: empty.clone(), refused: empty }
    }

    fn add(&mut self, other: &Self) {
        let (sum, more) = (&mut self.tally, &other.tally);
        for (sum, more) in sum.accepted.iter_mut().zip(&more.accepted) {
            *sum += more;
        }
        for (status, count) in &more.failed {
            *sum.failed.entry(*status).or_default() += count;
        }
        sum.refused += more.refused;
        sum.booked += more.booked;
        sum.cancelled += more.cancelled;
        self.accepted.add(&other.accepted).expect("the same bounds");
        self.refused.add(&other.refused).expect("the same bounds");
    }

    fn tally(self, measured: Duration) -> Tally {
        let of = |latency: &Histogram<u64>| Latency {
            p50: latency.value_at_quantile(0.5),
            p99: latency.value_at_quantile(0.99),
            p999: latency.value_at_quantile(0.999),
            max: latency.max(),
        };
        let (accepted_latency, refused_latency) = (of(&self.accepted), of(&self.refused));
        let seconds = measured.as_secs_f64();
        Tally { seconds, accepted_latency, refused_latency, ..self.tally }
    }
}

/// One thread's share of the plan.
struct Generator<'a> {
    plan: &'a Plan,
    number: usize,
    poll: Poll,
    connections: Vec<Connection>,
    random: SmallRng,
    /// The cumulative probabilities of the events; empty if all are equally likely.
    likelihood: Vec<f64>,
    keys: u64,
    totals: Totals,
    schedule: Option<Schedule>,
}

/// The schedule of an open loop.
struct Schedule {
    period: Duration,
    next: Instant,
    /// The due times of the requests that wait for a connection.
    due: VecDeque<Instant>,
    /// Free connections, in the order in which they became free, so that none is idle for long.
    free: VecDeque<usize>,
}

struct Connection {
    address: usize,
    stream: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
    /// When the wait for the pending answer began; `None` while no answer is pending.
    since: Option<Instant>,
    /// The paths of the reservations that this connection booked.
    made: Vec<String>,
}

impl<'a> Generator<'a> {
    fn new(plan: &'a Plan, number: usize) -> io::Result<Self> {
        let poll = Poll::new()?;
        let mine = (0..plan.connections).filter(|index| index % plan.threads == number);
        let connections: io::Result<Vec<Connection>> = mine
            .enumerate()
            .map(|(token, index)| {
                let address = index % plan.addresses.len();
                let stream = std::net::TcpStream::connect(plan.addresses[address])?;
                stream.set_nodelay(true)?;
                stream.set_nonblocking(true)?;
                let mut stream = TcpStream::from_std(stream);
                poll.registry().register(&mut stream, Token(token), Interest::READABLE)?;
                let (request, answer) = (Vec::with_capacity(1024), Vec::with_capacity(4096));
                Ok(Connection { address, stream, request, answer, since: None, made: Vec::new() })
            })
            .collect();
        let likelihood = match &plan.calls {
            Calls::Reserve { events, zipf: Some(exponent), .. } => zipf(events.len(), *exponent),
            Calls::Reserve { zipf: None, .. }
            | Calls::Get { .. }
            | Calls::ReserveLists { .. }
            | Calls::ReserveAndCancel { .. } => Vec::new(),
        };
        Ok(Self {
            plan,
            number,
            poll,
            connections: connections?,
            random: SmallRng::seed_from_u64(plan.seed + number as u64),
            likelihood,
            keys: 0,
            totals: Totals::new(plan.addresses.len()),
            schedule: None,
        })
    }

    fn run(mut self) -> io::Result<Totals> {
        let begin = Instant::now();
        let from = begin + self.plan.warm_up;
        let until = from + self.plan.measured;
        let mut ticker = None;
        if let Some(rate) = self.plan.rate {
            let period = Duration::from_secs_f64(self.plan.threads as f64 / rate);
            let free = (0..self.connections.len()).collect();
            self.schedule = Some(Schedule { period, next: begin, due: VecDeque::new(), free });
            ticker = Some(Ticker::start(&self.poll)?);
        } else {
            for token in 0..self.connections.len() {
                self.send(token, begin)?;
            }
        }
        let mut events = Events::with_capacity(1024);
        let mut waiting = !self.connections.is_empty();
        while Instant::now() < until || waiting {
            let timeout = until.saturating_duration_since(Instant::now());
            self.poll.poll(&mut events, Some(timeout.max(Duration::from_millis(20))))?;
            let now = Instant::now();
            for event in &events {
                if event.token() != WAKE {
                    self.receive(event.token().0, from..until)?;
                }
            }
            self.send_due(now, until)?;
            let due = self.schedule.as_ref().is_some_and(|schedule| !schedule.due.is_empty());
            waiting = due || self.connections.iter().any(|connection| connection.since.is_some());
            if now > until + DRAIN_MAX {
                return Err(io::Error::other("some requests were never answered"));
            }
        }
        drop(ticker);
        Ok(self.totals)
    }

    /// Sends the requests that are due by now, as far as connections are free.
    fn send_due(&mut self, now: Instant, until: Instant) -> io::Result<()> {
        let Some(mut schedule) = self.schedule.take() else { return Ok(()) };
        while schedule.next <= now && schedule.next < until {
            schedule.due.push_back(schedule.next);
            schedule.next += schedule.period;
        }
        while !schedule.due.is_empty()
            && let Some(token) = schedule.free.pop_front()
        {
            let due = schedule.due.pop_front().expect("it is not empty");
            self.send(token, due)?;
        }
        self.schedule = Some(schedule);
        Ok(())
    }

    fn send(&mut self, token: usize, since: Instant) -> io::Result<()> {
        self.write_request(token);
        let connection = &mut self.connections[token];
        let sent = connection.stream.write(&connection.request)?;
        assert_eq!(sent, connection.request.len(), "a request fits into an empty socket");
        connection.since = Some(since);
        Ok(())
    }

    fn write_request(&mut self, token: usize) {
        let partner = self.random.random_range(0..PARTNERS);
        let connection = &mut self.connections[token];
        let request = &mut connection.request;
        request.clear();
        let (event, keyed) = match &self.plan.calls {
            Calls::Get { path } => {
                write!(request, "GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
                    .expect("memory takes it");
                return;
            }
            Calls::ReserveLists { event, size } => {
                let items = vec![r#"{"seats":1}"#; *size].join(",");
                let key = self.plan.keys.first().map_or("none", String::as_str);
                // Without access control, the body must name a partner.
                let body = format!(r#"{{"partnerId":"partner-001","items":[{items}]}}"#);
                write!(
                    request,
                    "POST /events/{event}/reservations/batch HTTP/1.1\r\nhost: localhost\r\n\
                     authorization: Bearer {key}\r\ncontent-type: application/json\r\n\
                     content-length: {}\r\n\r\n{body}",
                    body.len(),
                )
                .expect("memory takes it");
                return;
            }
            Calls::ReserveAndCancel { event, cancelled } => {
                if self.random.random_bool(*cancelled)
                    && let Some(path) = connection.made.pop()
                {
                    write!(request, "DELETE {path} HTTP/1.1\r\nhost: localhost\r\n\r\n")
                        .expect("memory takes it");
                    return;
                }
                (event, false)
            }
            Calls::Reserve { events, keyed, .. } => {
                let drawn = if self.likelihood.is_empty() {
                    self.random.random_range(0..events.len())
                } else {
                    let drawn: f64 = self.random.random();
                    self.likelihood.partition_point(|up_to| *up_to < drawn).min(events.len() - 1)
                };
                (&events[drawn], *keyed)
            }
        };
        write!(request, "POST /events/{event}/reservations HTTP/1.1\r\nhost: localhost\r\n")
            .expect("memory takes it");
        if keyed {
            self.keys += 1;
            write!(request, "idempotency-key: {}-{}\r\n", self.number, self.keys)
                .expect("memory takes it");
        }
        if let Some(last) = self.plan.keys.len().checked_sub(1) {
            // The access key identifies the partner.
            let key = &self.plan.keys[(partner as usize).min(last)];
            write!(
                request,
                "authorization: Bearer {key}\r\ncontent-type: application/json\r\n\
                 content-length: 11\r\n\r\n{{\"seats\":1}}",
            )
            .expect("memory takes it");
            return;
        }
        let length = r#"{"partnerId":"partner-000","seats":1}"#.len();
        write!(
            request,
            "content-type: application/json\r\ncontent-length: {length}\r\n\r\n\
             {{\"partnerId\":\"partner-{partner:03}\",\"seats\":1}}",
        )
        .expect("memory takes it");
    }

    /// Reads what has arrived; once the answer is complete, counts it and sends the next request.
    fn receive(&mut self, token: usize, measured: Range<Instant>) -> io::Result<()> {
        let connection = &mut self.connections[token];
        let mut chunk = [0; 4096];
        loop {
            match connection.stream.read(&mut chunk) {
                Ok(0) if connection.since.is_none() => return Ok(()),
                Ok(0) => return Err(io::Error::other("the server closed a connection")),
                Ok(read) => {
                    connection.answer.extend_from_slice(&chunk[..read]);
                    // A short read has emptied the socket, and the next byte raises a new event.
                    if read < chunk.len() {
                        break;
                    }
                }
                Err(failure) if failure.kind() == ErrorKind::WouldBlock => break,
                Err(failure) => return Err(failure),
            }
        }
        let (Some(since), Some(answer)) = (connection.since, Answer::parse(&connection.answer)?)
        else {
            return Ok(());
        };
        connection.since = None;
        let now = Instant::now();
        let counts = measured.contains(&now);
        let tally = &mut self.totals.tally;
        let latency = u64::try_from((now - since).as_micros()).unwrap_or(LATENCY_MAX_US);
        let was_due = u64::from(measured.contains(&since));
        match answer.status {
            200..300 => {
                tally.accepted[connection.address] += u64::from(counts);
                self.totals.accepted.saturating_record_n(latency, was_due);
            }
            409 => {
                tally.refused += u64::from(counts);
                self.totals.refused.saturating_record_n(latency, was_due);
            }
            status => *tally.failed.entry(status).or_default() += 1,
        }
        let size = match &self.plan.calls {
            Calls::ReserveLists { size, .. } => *size as u64,
            Calls::Get { .. } | Calls::Reserve { .. } | Calls::ReserveAndCancel { .. } => 1,
        };
        tally.booked += size * u64::from(answer.status == 201);
        tally.cancelled += u64::from(answer.status == 204);
        if let (Calls::ReserveAndCancel { .. }, Some(path)) = (&self.plan.calls, answer.location) {
            connection.made.push(path.to_owned());
        }
        connection.answer.clear();
        match &mut self.schedule {
            Some(schedule) => schedule.free.push_back(token),
            None if now < measured.end => self.send(token, now)?,
            None => {}
        }
        Ok(())
    }
}

/// The parts of an answer that matter here.
struct Answer<'a> {
    status: u16,
    location: Option<&'a str>,
}

impl<'a> Answer<'a> {
    /// `None` until the answer is complete.
    fn parse(bytes: &'a [u8]) -> io::Result<Option<Self>> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut parsed = httparse::Response::new(&mut headers);
        let head = parsed.parse(bytes).map_err(io::Error::other)?;
        let httparse::Status::Complete(head) = head else { return Ok(None) };
        let mut length = None;
        let mut location = None;
        for header in parsed.headers {
            let value = || str::from_utf8(header.value).map_err(io::Error::other);
            if header.name.eq_ignore_ascii_case("content-length") {
                length = Some(value()?.parse::<usize>().map_err(io::Error::other)?);
            } else if header.name.eq_ignore_ascii_case("location") {
                location = Some(value()?);
            }
        }
        let status = parsed.code.expect("a parsed head has one");
        let length = match (status, length) {
            (204, _) => 0,
            (_, Some(length)) => length,
            (_, None) => return Err(io::Error::other("an answer without a length")),
        };
        Ok((bytes.len() >= head + length).then_some(Self { status, location }))
    }
}

/// The cumulative distribution of ranks by Zipf's law.
fn zipf(count: usize, exponent: f64) -> Vec<f64> {
    let weights = (1..=count).map(|rank| (rank as f64).powf(-exponent));
    let total: f64 = weights.clone().sum();
    let mut sum = 0.0;
    let cumulative = weights.map(|weight| {
        sum += weight;
        sum / total
    });
    cumulative.collect()
}

/// Wakes an event loop often enough for its schedule, since the time-outs of `poll` are in whole
/// milliseconds.
struct Ticker(Arc<AtomicBool>);

impl Ticker {
    fn start(poll: &Poll) -> io::Result<Self> {
        let waker = Waker::new(poll.registry(), WAKE)?;
        let stopped = Arc::new(AtomicBool::new(false));
        let ticker = Self(Arc::clone(&stopped));
        thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) && waker.wake().is_ok() {
                thread::sleep(TICK);
            }
        });
        Ok(ticker)
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

//! The followers of an event's stream: a process of its own that keeps streams open, reads them as
//! fast as the data arrives, and reconnects like a browser when a stream ends.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::load::Latency;

const LAG_MAX_US: u64 = 60_000_000;
/// The delay before a reconnect unless the service names another.
const RETRY_DEFAULT: Duration = Duration::from_secs(1);
/// Time between two new streams, so that they do not all connect at the same moment.
const OPEN_EVERY: Duration = Duration::from_millis(1);

/// What to follow, and for how long.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub address: SocketAddr,
    pub event: String,
    pub streams: usize,
    pub time: Duration,
}

/// What was received.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Time from the moment a version was decided (its `at`, before the commit) until it arrived
    /// here; measured on the first stream, except after a reconnect, when it catches up.
    pub lag: Latency,
    pub bytes: u64,
    /// Streams that were ended with `behind`.
    pub behind: u64,
    pub seconds: f64,
}

/// Reads a plan from standard input, follows it, and writes the tally to standard output.
pub fn main() -> io::Result<()> {
    let plan: Plan = serde_json::from_reader(io::stdin()).map_err(io::Error::other)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let tally = runtime.block_on(follow(plan));
    serde_json::to_writer(io::stdout(), &tally).map_err(io::Error::other)
}

#[derive(Default)]
struct Counts {
    bytes: AtomicU64,
    behind: AtomicU64,
}

async fn follow(plan: Plan) -> Tally {
    let begin = Instant::now();
    let until = begin + plan.time;
    let counts = Arc::new(Counts::default());
    let first = Stream::new(&plan, &counts, true);
    let first = tokio::spawn(first.run(until));
    for _ in 1..plan.streams {
        sleep(OPEN_EVERY).await;
        tokio::spawn(Stream::new(&plan, &counts, false).run(until));
    }
    sleep_until(until).await;
    let lag = first.await.expect("a stream does not panic");
    Tally {
        lag: Latency {
            p50: lag.value_at_quantile(0.5),
            p99: lag.value_at_quantile(0.99),
            p999: lag.value_at_quantile(0.999),
            max: lag.max(),
        },
        bytes: counts.bytes.load(Ordering::Relaxed),
        behind: counts.behind.load(Ordering::Relaxed),
        seconds: begin.elapsed().as_secs_f64(),
    }
}

struct Stream {
    plan: Plan,
    counts: Arc<Counts>,
    measures: bool,
    last: Option<i64>,
    lag: Histogram<u64>,
}

impl Stream {
    fn new(plan: &Plan, counts: &Arc<Counts>, measures: bool) -> Self {
        let lag = Histogram::new_with_bounds(1, LAG_MAX_US, 3).expect("sane bounds");
        Self { plan: plan.clone(), counts: Arc::clone(counts), measures, last: None, lag }
    }

    async fn run(mut self, until: Instant) -> Histogram<u64> {
        while Instant::now() < until {
            let retry = match timeout_at(until, self.read_one()).await {
                Ok(Ok(retry)) => retry,
                Ok(Err(failure)) => {
                    eprintln!("a stream: {failure}");
                    RETRY_DEFAULT
                }
                Err(_elapsed) => break,
            };
            sleep_until(until.min(Instant::now() + retry)).await;
        }
        self.lag
    }

    /// Reads a stream to its end, and returns how long to wait before reconnecting.
    async fn read_one(&mut self) -> io::Result<Duration> {
        let mut stream = TcpStream::connect(self.plan.address).await?;
        let mut head =
            format!("GET /events/{}/stream HTTP/1.1\r\nhost: localhost\r\n", self.plan.event);
        let resumes = self.last.is_some();
        if let Some(last) = self.last {
            head += &format!("last-event-id: {last}\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes()).await?;
        let mut text = Vec::new();
        let mut chunk = vec![0; 64 * 1024];
        loop {
            let read = stream.read(&mut chunk).await?;
            self.counts.bytes.fetch_add(read as u64, Ordering::Relaxed);
            text.extend_from_slice(&chunk[..read]);
            let whole = text.windows(2).rposition(|pair| pair == b"\n\n").map_or(0, |at| at + 2);
            let events: Vec<u8> = text.drain(..whole).collect();
            let events = String::from_utf8_lossy(&events);
            if let Some(last) = events.rsplit("id: ").next().filter(|_| events.contains("id: ")) {
                self.last = last.lines().next().and_then(|id| id.parse().ok()).or(self.last);
            }
            if self.measures && !resumes {
                self.measure(&events);
            }
            if let Some((_, end)) = events.split_once("event: behind") {
                self.counts.behind.fetch_add(1, Ordering::Relaxed);
                let retry = end.lines().find_map(|line| line.strip_prefix("retry: "));
                let retry = retry.and_then(|ms| ms.parse().ok());
                return Ok(retry.map_or(RETRY_DEFAULT, Duration::from_millis));
            }
            if read == 0 {
                return Ok(RETRY_DEFAULT);
            }
        }
    }

    fn measure(&mut self, events: &str) {
        let now = OffsetDateTime::now_utc();
        for rest in events.split("\"at\":\"").skip(1) {
            let at = rest.split('"').next().and_then(|at| OffsetDateTime::parse(at, &Rfc3339).ok());
            let Some(at) = at else { continue };
            let lag = (now - at).whole_microseconds().clamp(1, LAG_MAX_US.into());
            self.lag.saturating_record(u64::try_from(lag).expect("it is clamped"));
        }
    }
}

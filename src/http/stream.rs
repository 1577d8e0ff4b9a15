//! Streams: the changes of events as they happen, as Server-Sent Events.
//!
//! Each event that is followed here has one tail, which reads the journal as soon as a commit is
//! announced, and encodes each version once. Streams only read from the tail, at their own pace:
//! one that is too slow finds that its position is gone, and tells its client where to continue.
//! Nothing ever waits for a stream.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::http::header;
use actix_web::web::{Data, Path};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, get};
use futures_util::stream;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use super::access::{HeldKey, Overseer};
use super::changes::{VERSION_MUST_BE, version};
use super::metrics::StreamMetrics;
use super::openapi::problems;
use super::problem::Problem;
use super::query::Query;
use super::{App, LargeReads, WasHead, event_id};
use crate::batching::LatestVersions;
use crate::domain::EventId;
use crate::store::{PostgresStore, Versions};

mod budget;
mod consumer;
mod tail;

use budget::Budget;
use consumer::Consumer;
use tail::{RECENT_MAX, Tail};

/// The maximum number of streams that are open at once.
pub const STREAMS_MAX: usize = 2_000;
/// The pause of a tail between two reads of the journal: it limits what a busy event costs. New
/// versions still reach the streams in well under 50 ms.
const TAIL_PAUSE: Duration = Duration::from_millis(20);
/// The pause after a read that failed.
const TAIL_RETRY: Duration = Duration::from_secs(1);
/// The maximum that a tail reads at once.
const TAIL_VERSIONS: i64 = 1_000;
const TAIL_CHANGES: i64 = 10_000;

/// The streams of this process, and the state that they share. Cheap to clone.
#[derive(Clone)]
pub struct Streams(Arc<Shared>);

struct Shared {
    store: Arc<PostgresStore>,
    latest: LatestVersions,
    /// Tails run here, not on the worker that received a request.
    runtime: Handle,
    request_timeout: Duration,
    recent_bytes_max: usize,
    budget: Budget,
    metrics: StreamMetrics,
    places: Arc<Semaphore>,
    /// Streams that begin in the past wait one after another: while they wait until they may send
    /// more, they must not take the places of other large reads.
    past_turn: Semaphore,
    large_reads: LargeReads,
    /// Cancelled when the service stops.
    stop: CancellationToken,
    followed: Mutex<HashMap<EventId, Followed>>,
}

/// An event that has at least one stream.
struct Followed {
    tail: Arc<Tail>,
    streams: usize,
    _reading: AbortOnDropHandle<()>,
}

impl Streams {
    /// All streams together send at most `bytes_per_second_max`; the bytes that are kept for each
    /// event are a fraction of that.
    pub fn new(
        store: Arc<PostgresStore>,
        latest: LatestVersions,
        runtime: Handle,
        request_timeout: Duration,
        bytes_per_second_max: u64,
        metrics: StreamMetrics,
        large_reads: LargeReads,
    ) -> Self {
        Self(Arc::new(Shared {
            store,
            latest,
            runtime,
            request_timeout,
            recent_bytes_max: usize::try_from(bytes_per_second_max / 4).unwrap_or(usize::MAX),
            budget: Budget::new(bytes_per_second_max),
            metrics,
            places: Arc::new(Semaphore::new(STREAMS_MAX)),
            past_turn: Semaphore::new(1),
            large_reads,
            stop: CancellationToken::new(),
            followed: Mutex::default(),
        }))
    }

    /// Ends all streams, including those that are opened from now on.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Opens a stream of the versions after `position`; `None` if too many are open. `latest` is a
    /// version that the event has reached. The stream ends when `key` is no longer valid.
    fn open(
        &self,
        event_id: &EventId,
        position: i64,
        latest: i64,
        key: Option<HeldKey>,
    ) -> Option<Consumer> {
        let place = Arc::clone(&self.0.places).try_acquire_owned().ok()?;
        let tail = self.0.follow(event_id, latest);
        Some(Consumer::new(Arc::clone(&self.0), event_id.clone(), tail, position, place, key))
    }
}

impl Shared {
    fn follow(self: &Arc<Self>, event_id: &EventId, latest: i64) -> Arc<Tail> {
        let mut followed = self.followed();
        let event = followed.entry(event_id.clone()).or_insert_with(|| {
            let tail = Arc::new(Tail::new(latest, self.recent_bytes_max));
            // Only streams keep the shared state alive; the task of the tail does not.
            let (store, newer) = (Arc::clone(&self.store), self.latest.watch(event_id, latest));
            let reading =
                read(Arc::clone(&tail), store, event_id.clone(), newer, self.request_timeout);
            let reading = AbortOnDropHandle::new(self.runtime.spawn(reading));
            Followed { tail, streams: 0, _reading: reading }
        });
        event.streams += 1;
        Arc::clone(&event.tail)
    }

    fn leave(&self, event_id: &EventId) {
        let mut followed = self.followed();
        let event = followed.get_mut(event_id).expect("it has a stream");
        event.streams -= 1;
        if event.streams == 0 {
            followed.remove(event_id);
            self.latest.forget(event_id);
        }
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<EventId, Followed>> {
        // Poisoning does not matter: no change of the map can panic half way.
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a tail up to date, as long as this future is polled.
async fn read(
    tail: Arc<Tail>,
    store: Arc<PostgresStore>,
    event_id: EventId,
    mut newer: watch::Receiver<i64>,
    request_timeout: Duration,
) {
    // Commits from before this task began to listen were not announced to it, so it reads first.
    let mut look = true;
    loop {
        let have = tail.latest();
        // This task ends with the last stream, not with the sender.
        if !look && timeout(RECENT_MAX, newer.wait_for(|latest| *latest > have)).await.is_err() {
            tail.forget();
            continue;
        }
        let (store, event_id) = (Arc::clone(&store), event_id.clone());
        let until = Instant::now() + request_timeout;
        // In a task of its own: the last stream may end in the middle of a read, which must not
        // cost a connection to the database.
        let reading = tokio::spawn(async move {
            store.changes(&event_id, have, TAIL_VERSIONS, TAIL_CHANGES, until).await
        });
        let pause = match reading.await {
            Ok(Ok(Some(Versions { versions, latest }))) => {
                tail.publish(&versions);
                look = tail.latest() < latest;
                if look { Duration::ZERO } else { TAIL_PAUSE }
            }
            Ok(Ok(None)) | Err(_) => TAIL_RETRY,
            Ok(Err(failure)) => {
                log::warn!("following an event failed: {}", crate::chain(&failure));
                TAIL_RETRY
            }
        };
        sleep(pause).await;
    }
}

/// Stream the changes of an event
///
/// The changes as they happen, as Server-Sent Events: the `data` of each is a version as `changes`
/// lists it, and the `id` is its number. Every version is sent once and in order, whichever replica
/// commits it. A stream begins after the version that `Last-Event-ID` names (a browser's
/// `EventSource` sends it by itself when it reconnects) or `after` names; without either, it begins
/// with the next change.
///
/// While nothing changes, a comment is sent every 15 seconds. A stream that does not keep up is
/// ended with an event `behind`, such as `data: {"after":7,"changes":"/events/e/changes?after=7"}`,
/// which says where to continue in the feed; its `retry` says when it is worth trying a stream
/// again. Streams end when the server stops. A stream begins with an `id` and no `data`: the
/// position from which to resume if it is cut off.
#[utoipa::path(
    tag = "changes",
    params(
        ("eventId" = String, Path, example = "node-meetup-2025"),
        ("after" = Option<i64>, Query, minimum = 0, maximum = 999_999_999_999_999_999i64,
            description = "The last version that the caller has seen."),
        ("Last-Event-ID" = Option<String>, Header, pattern = "^[0-9]{1,18}$",
            description = "The same as `after`, and takes precedence over it."),
    ),
    security(("key" = ["read", "operator"])),
    responses(
        (status = 200, description = "An endless stream of Server-Sent Events", body = String,
            content_type = "text/event-stream"),
        StreamProblems,
    ),
)]
#[get("/events/{eventId}/stream")]
pub async fn stream_changes(
    overseer: Overseer,
    app: Data<App>,
    path: Path<String>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let event_id = event_id(&path)?;
    let mut query = Query::of(&request)?;
    let after = query.take("after", VERSION_MUST_BE, version)?;
    query.end()?;
    let last_event_id = last_event_id(&request)?;
    let named = if last_event_id.is_some() { LAST_EVENT_ID } else { "after" };
    let latest = app.find_event(&event_id).await?.version;
    let position = last_event_id.or(after).unwrap_or(latest);
    if position > latest {
        return Err(Problem::not_had(named, latest));
    }
    let mut response = HttpResponse::Ok();
    response
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // Otherwise, nginx would hold events back until its buffer is full.
        .insert_header(("X-Accel-Buffering", "no"));
    // For a HEAD, the server would read the whole stream, and send nothing.
    if request.extensions().contains::<WasHead>() {
        return Ok(response.finish());
    }
    let consumer = app.streams.open(&event_id, position, latest, overseer.held(&app.access));
    let consumer = consumer.ok_or_else(Problem::too_many_streams)?;
    let events = stream::unfold(consumer, async |mut consumer| {
        let text = consumer.next().await?;
        Some((Ok::<_, Problem>(text), consumer))
    });
    Ok(response.streaming(Box::pin(events)))
}

const LAST_EVENT_ID: &str = "Last-Event-ID";

fn last_event_id(request: &HttpRequest) -> Result<Option<i64>, Problem> {
    let given = request.headers().get(LAST_EVENT_ID).filter(|given| !given.is_empty());
    let Some(given) = given else { return Ok(None) };
    let given = given.to_str().ok().and_then(version);
    given.map(Some).ok_or_else(|| Problem::wrong(LAST_EVENT_ID, VERSION_MUST_BE))
}

problems! {
    StreamProblems: ValidationFailed, EventNotFound, Internal, Overloaded, DatabaseUnavailable;
}

//! What changed, as it changes: Server-Sent Events.
//!
//! One tail for each event that is followed here reads the journal as soon as somebody says that
//! there is more, and encodes each version once. Streams only take from it, at their own pace: who
//! is too slow finds that his place is gone, and is told where to go on. Nobody waits for a stream.

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
use super::{App, WasHead, event_id};
use crate::batching::LatestVersions;
use crate::domain::EventId;
use crate::store::{PostgresStore, Versions};

mod budget;
mod consumer;
mod tail;

use budget::Budget;
use consumer::Consumer;
use tail::{RECENT_MAX, Tail};

/// Streams that are open at once.
pub const STREAMS_MAX: usize = 2_000;
/// From one look of a tail into the journal to the next, so that a busy event costs no more of
/// them. What is new is there for streams in well under 50 ms.
const TAIL_PAUSE: Duration = Duration::from_millis(20);
/// After a look that failed.
const TAIL_RETRY: Duration = Duration::from_secs(1);
/// What a tail reads at once.
const TAIL_VERSIONS: i64 = 1_000;
const TAIL_CHANGES: i64 = 10_000;

/// The streams of this process, and what they share. Cheap to clone.
#[derive(Clone)]
pub struct Streams(Arc<Shared>);

struct Shared {
    store: Arc<PostgresStore>,
    latest: LatestVersions,
    /// Tails run here, and not on the worker that got a request.
    runtime: Handle,
    request_timeout: Duration,
    recent_bytes_max: usize,
    budget: Budget,
    metrics: StreamMetrics,
    places: Arc<Semaphore>,
    /// Streams that begin in the past read one after the other: waiting for their bytes must not keep
    /// the places of everybody's large reads.
    past_turn: Semaphore,
    large_reads: Arc<Semaphore>,
    /// Cancelled when the service stops.
    stop: CancellationToken,
    followed: Mutex<HashMap<EventId, Followed>>,
}

/// An event that has a stream at least.
struct Followed {
    tail: Arc<Tail>,
    streams: usize,
    _reading: AbortOnDropHandle<()>,
}

impl Streams {
    /// `bytes_per_second_max` is what all streams send together, at most, and what they keep of an
    /// event is a part of it.
    pub fn new(
        store: Arc<PostgresStore>,
        latest: LatestVersions,
        runtime: Handle,
        request_timeout: Duration,
        bytes_per_second_max: u64,
        metrics: StreamMetrics,
        large_reads: Arc<Semaphore>,
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

    /// Ends all streams, and those that are opened from now on.
    pub fn stop(&self) {
        self.0.stop.cancel();
    }

    /// Opens a stream of what follows `position`; `None` if too many are open. `latest` is a version
    /// that the event has.
    /// It ends with the key that it was asked for with.
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
            // A stream alone keeps the service's state alive, and not its tail.
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
        // Nothing that can panic happens half way through a change of it.
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps a tail up to date, as long as it is polled.
async fn read(
    tail: Arc<Tail>,
    store: Arc<PostgresStore>,
    event_id: EventId,
    mut newer: watch::Receiver<i64>,
    request_timeout: Duration,
) {
    // What was committed before this began to listen was told to nobody: so it looks first.
    let mut look = true;
    loop {
        let have = tail.latest();
        // It ends with the last stream, not with the sender.
        if !look && timeout(RECENT_MAX, newer.wait_for(|latest| *latest > have)).await.is_err() {
            tail.forget();
            continue;
        }
        let (store, event_id) = (Arc::clone(&store), event_id.clone());
        let until = Instant::now() + request_timeout;
        // In a task of its own: the last stream may go in the middle of it, and that is no reason to
        // give up a connection.
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
                log::warn!("following an event: {}", crate::chain(&failure));
                TAIL_RETRY
            }
        };
        sleep(pause).await;
    }
}

/// What changes, as it changes
///
/// Server-Sent Events: the `data` of each is a version as `changes` lists it, and its `id` is the
/// version. Every version comes once and in order, whichever replica makes it. A stream begins
/// after the version that `Last-Event-ID` names (a browser's `EventSource` sends it by itself when
/// it comes back), or `after`, or else with what happens from now on.
///
/// Where nothing changes, a comment comes every 15 seconds. A stream that does not keep up is ended
/// with an event `behind`, as in `data: {"after":7,"changes":"/events/e/changes?after=7"}`: the place
/// in the feed to go on from; its `retry` says when a stream is worth another try. Streams end when
/// the server stops. The first event has an `id` and no `data`: where a stream that is cut off comes
/// back to.
#[utoipa::path(
    tag = "changes",
    params(
        ("eventId" = String, Path, example = "node-meetup-2025"),
        ("after" = Option<i64>, Query, minimum = 0, maximum = 999_999_999_999_999_999i64,
            description = "The last version that the caller has seen."),
        ("Last-Event-ID" = Option<String>, Header, pattern = "^[0-9]{1,18}$",
            description = "The same, and counts before it."),
    ),
    security(("key" = ["read", "operator"])),
    responses(
        (status = 200, description = "Server-Sent Events, without end", body = String,
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
        // nginx would keep events back until it has a buffer full of them.
        .insert_header(("X-Accel-Buffering", "no"));
    // The server would read all of it, and send nothing.
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

//! One stream: what it sends, and when it ends.

use std::sync::Arc;
use std::time::Duration;

use actix_web::web::Bytes;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, sleep, timeout_at};
use uuid::Uuid;

use super::Shared;
use super::budget::Share;
use super::tail::{self, After, Tail};
use crate::domain::EventId;
use crate::http::access::HeldKey;
use crate::store::Versions;

/// The maximum that a stream which begins in the past reads at once: it is in memory until the
/// client has taken it in.
const PAST_VERSIONS: i64 = 250;
const PAST_CHANGES: i64 = 250;
/// Such a stream is ended if it has fallen further behind over more than this many pages in a row,
/// since it will not catch up.
const PAST_PAGES_LOST_MAX: usize = 10;
/// The maximum time that such a stream waits until it may send more.
const PAST_WAIT_MAX: Duration = Duration::from_secs(5);
const PAST_WAIT_STEP: Duration = Duration::from_millis(50);
/// Proxies close a connection on which nothing happens, many after a minute.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// How long a stream may continue with a key that is no longer valid.
const KEY_PAUSE: Duration = Duration::from_secs(1);
/// When a client should reconnect: after the end of a stream, and after it was dropped.
const RETRY_MS: u64 = 1_000;
const BEHIND_RETRY_MS: u64 = 5_000;
const BEHIND_RETRY_SPREAD_MS: u64 = 10_000;

/// One stream.
pub struct Consumer {
    shared: Arc<Shared>,
    event_id: EventId,
    tail: Arc<Tail>,
    reached: watch::Receiver<i64>,
    share: Share,
    /// The last version that was sent.
    position: i64,
    /// Whether it has caught up with the tail.
    is_live: bool,
    /// In the past: how many versions are still to come, and over how many pages in a row that
    /// number has grown.
    distance: i64,
    pages_lost: usize,
    stage: Stage,
    /// The key that the stream was opened with.
    key: Option<HeldKey>,
    _place: OwnedSemaphorePermit,
}

#[derive(PartialEq, Eq)]
enum Stage {
    New,
    Open,
    Over,
}

impl Drop for Consumer {
    fn drop(&mut self) {
        self.shared.metrics.open.dec();
        self.shared.leave(&self.event_id);
    }
}

impl Consumer {
    /// A stream of the versions after `position`, with a place of its own.
    pub fn new(
        shared: Arc<Shared>,
        event_id: EventId,
        tail: Arc<Tail>,
        position: i64,
        place: OwnedSemaphorePermit,
        key: Option<HeldKey>,
    ) -> Self {
        shared.metrics.open.inc();
        Self {
            reached: tail.reached(),
            share: shared.budget.share(),
            shared,
            event_id,
            tail,
            position,
            is_live: false,
            distance: i64::MAX,
            pages_lost: 0,
            stage: Stage::New,
            key,
            _place: place,
        }
    }

    /// What to send next; `None` at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        match self.stage {
            Stage::New => {
                self.stage = Stage::Open;
                // An id without data is not an event, but tells a client that is cut off now where
                // to resume.
                return Some(format!("retry: {RETRY_MS}\nid: {}\n\n", self.position).into());
            }
            Stage::Open => {}
            Stage::Over => return None,
        }
        loop {
            if self.shared.stop.is_cancelled() || !is_good(self.key.as_ref()) {
                return None;
            }
            match self.tail.after(self.position) {
                After::Text(text, last) => {
                    self.is_live = true;
                    if !self.shared.budget.take(&mut self.share, text.len()) {
                        return Some(self.behind());
                    }
                    self.shared.metrics.bytes.inc_by(text.len() as u64);
                    self.position = last;
                    return Some(text);
                }
                After::Nothing => {
                    self.is_live = true;
                    let position = self.position;
                    let stop = self.shared.stop.clone();
                    tokio::select! {
                        _ = self.reached.wait_for(|latest| *latest > position) => {}
                        () = sleep(HEARTBEAT) => return Some(Bytes::from_static(b":\n\n")),
                        () = stop.cancelled() => return None,
                        () = ends(self.key.as_ref()) => return None,
                    }
                }
                After::Gone if self.is_live => return Some(self.behind()),
                After::Gone => {
                    let stop = self.shared.stop.clone();
                    return tokio::select! {
                        text = self.past() => text,
                        () = stop.cancelled() => None,
                    };
                }
            }
        }
    }

    /// The next versions of a stream that begins in the past.
    async fn past(&mut self) -> Option<Bytes> {
        // In line with all such streams: the last one to arrive waits longest.
        let (shared, wait_until) = (Arc::clone(&self.shared), Instant::now() + PAST_WAIT_MAX);
        let turn = async {
            let _past_turn = shared.past_turn.acquire().await;
            while !shared.budget.has_past() {
                sleep(PAST_WAIT_STEP).await;
            }
            // Such streams have one place in the line of all reads together.
            shared.large_reads.turn(None, wait_until).await
        };
        let Ok(Ok(turn)) = timeout_at(wait_until, turn).await else { return Some(self.behind()) };
        let (store, event_id) = (Arc::clone(&self.shared.store), self.event_id.clone());
        let (position, until) = (self.position, Instant::now() + self.shared.request_timeout);
        let read = async move {
            let _turn = turn;
            store.changes(&event_id, position, PAST_VERSIONS, PAST_CHANGES, until).await
        };
        // In a task of its own, so that a client that hangs up costs no connection to the database.
        let found = self.shared.runtime.spawn(read).await.ok()?;
        let Versions { versions, latest } = match found {
            Ok(found) => found?,
            Err(failure) => {
                log::warn!("a stream of event {} ends: {}", self.event_id, crate::chain(&failure));
                return None;
            }
        };
        let mut text = Vec::new();
        for version in &versions {
            tail::event(version, &mut text);
        }
        self.shared.budget.spend_past(text.len());
        self.shared.metrics.bytes.inc_by(text.len() as u64);
        self.position = versions.last()?.version;
        let distance = latest - self.position;
        self.pages_lost = if distance > self.distance { self.pages_lost + 1 } else { 0 };
        self.distance = distance;
        if self.pages_lost > PAST_PAGES_LOST_MAX {
            return Some([text, self.behind().to_vec()].concat().into());
        }
        Some(text.into())
    }

    /// The last event of a stream that does not keep up, or that there is no room for: it says
    /// where to continue, and when to try again.
    fn behind(&mut self) -> Bytes {
        self.stage = Stage::Over;
        self.shared.metrics.dropped.inc();
        let spread = Uuid::new_v4().as_u128() as u64 % BEHIND_RETRY_SPREAD_MS;
        let (event_id, after) = (&self.event_id, self.position);
        format!(
            "event: behind\nretry: {}\n\
             data: {{\"after\":{after},\"changes\":\"/events/{event_id}/changes?after={after}\"}}\n\n",
            BEHIND_RETRY_MS + spread,
        )
        .into()
    }
}

fn is_good(key: Option<&HeldKey>) -> bool {
    key.is_none_or(HeldKey::is_good)
}

/// Returns once the key is no longer valid.
async fn ends(key: Option<&HeldKey>) {
    while is_good(key) {
        sleep(KEY_PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::registry::Registry;
    use tokio::runtime::Handle;
    use tokio::time::advance;

    use super::super::Streams;
    use super::super::tail::RECENT_MAX;
    use super::super::tail::tests::versions;
    use super::*;
    use crate::batching::LatestVersions;
    use crate::http::{LargeReads, Metrics};
    use crate::store::{ConnectionLimits, PostgresStore};

    /// Streams on a database that does not exist: these tests need none.
    fn streams() -> Streams {
        let options = "postgres://nobody@127.0.0.1:1/none".parse().expect("a URL");
        let limits = ConnectionLimits { writes: 1, reads: 1 };
        let time = Duration::from_secs(1);
        let store = Arc::new(PostgresStore::new(options, limits, time, Handle::current()));
        let metrics = Metrics::new(Registry::default()).streams;
        let reads = LargeReads::new(1);
        let latest = LatestVersions::default();
        Streams::new(store, latest, Handle::current(), time, 1_000_000, metrics, reads)
    }

    fn open(streams: &Streams) -> Consumer {
        streams.open(&EventId::parse("e").expect("a slug"), 0, 0, None).expect("a place")
    }

    #[tokio::test(start_paused = true)]
    async fn a_comment_comes_where_nothing_changes() {
        let streams = streams();
        let mut consumer = open(&streams);
        assert_eq!(consumer.next().await.as_deref(), Some(&b"retry: 1000\nid: 0\n\n"[..]));
        for _ in 0..3 {
            let before = Instant::now();
            assert_eq!(consumer.next().await.as_deref(), Some(&b":\n\n"[..]));
            assert_eq!(before.elapsed(), HEARTBEAT);
        }
        streams.stop();
        assert_eq!(consumer.next().await, None);
    }

    /// The next part of a stream is not requested while its client does not read.
    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_is_dropped_and_harms_nobody() {
        let streams = streams();
        let (mut slow, mut other) = (open(&streams), open(&streams));
        let tail = Arc::clone(&slow.tail);
        tail.publish(&versions(1..=1, 1));
        for consumer in [&mut slow, &mut other] {
            consumer.next().await.expect("where it begins");
            consumer.next().await.expect("the first version");
            assert_eq!(consumer.position, 1);
        }
        tail.publish(&versions(2..=2, 1));
        other.next().await.expect("the second version");
        advance(RECENT_MAX + Duration::from_millis(1)).await;
        tail.publish(&versions(3..=3, 1));
        other.next().await.expect("the third version");
        assert_eq!(other.position, 3);
        let last = slow.next().await.expect("its last words");
        let last = std::str::from_utf8(&last).expect("text");
        assert!(last.starts_with("event: behind\nretry: "), "{last}");
        let hint = "data: {\"after\":1,\"changes\":\"/events/e/changes?after=1\"}\n\n";
        assert!(last.ends_with(hint), "{last}");
        assert_eq!(slow.next().await, None);
    }
}

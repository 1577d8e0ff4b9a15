//! The last versions of one event, each encoded once, for all of its streams.

use std::collections::VecDeque;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use actix_web::web::Bytes;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::http::changes::VersionBody;
use crate::store::Version;

/// A stream that is further behind than this is dropped.
pub const RECENT_MAX: Duration = Duration::from_secs(5);
/// Approximately what is written at once: a stream whose client does not read keeps this much in
/// memory.
const CHUNK_BYTES: usize = 16 * 1024;

/// The end of an event's journal, in the form in which it is sent.
pub struct Tail {
    recent: RwLock<Recent>,
    /// The newest version that can be sent.
    reached: watch::Sender<i64>,
}

struct Recent {
    chunks: VecDeque<Chunk>,
    bytes: usize,
    bytes_max: usize,
    /// The version that comes next.
    next: i64,
}

/// Some consecutive versions.
#[derive(Clone)]
struct Chunk {
    first: i64,
    text: Bytes,
    /// Where each version ends in the text.
    ends: Vec<usize>,
    made: Instant,
}

/// What there is to send to a stream.
#[derive(Debug, PartialEq, Eq)]
pub enum After {
    /// Versions, up to and including this one.
    Text(Bytes, i64),
    /// The stream has seen all versions.
    Nothing,
    /// The next version is no longer kept here.
    Gone,
}

impl Tail {
    /// Begins after `version`.
    pub fn new(version: i64, bytes_max: usize) -> Self {
        let recent = Recent { chunks: VecDeque::new(), bytes: 0, bytes_max, next: version + 1 };
        Self { recent: RwLock::new(recent), reached: watch::channel(version).0 }
    }

    /// Reports each new newest version.
    pub fn reached(&self) -> watch::Receiver<i64> {
        self.reached.subscribe()
    }

    /// The newest version that the tail has.
    pub fn latest(&self) -> i64 {
        *self.reached.borrow()
    }

    /// Adds the versions that follow those that it has.
    pub fn publish(&self, versions: &[Version]) {
        let chunks = encode(versions);
        let mut recent = self.recent.write().unwrap_or_else(PoisonError::into_inner);
        for chunk in chunks {
            debug_assert_eq!(chunk.first, recent.next);
            recent.next = chunk.last() + 1;
            recent.bytes += chunk.text.len();
            recent.chunks.push_back(chunk);
        }
        let latest = recent.next - 1;
        recent.forget();
        drop(recent);
        self.reached.send_replace(latest);
    }

    /// Drops what is too old.
    pub fn forget(&self) {
        self.recent.write().unwrap_or_else(PoisonError::into_inner).forget();
    }

    /// What follows `version`.
    pub fn after(&self, version: i64) -> After {
        let recent = self.recent.read().unwrap_or_else(PoisonError::into_inner);
        if version + 1 >= recent.next {
            return After::Nothing;
        }
        let at = recent.chunks.partition_point(|chunk| chunk.last() <= version);
        match recent.chunks.get(at).filter(|chunk| chunk.first <= version + 1) {
            Some(chunk) => After::Text(chunk.after(version), chunk.last()),
            None => After::Gone,
        }
    }
}

impl Recent {
    fn forget(&mut self) {
        let now = Instant::now();
        while let Some(oldest) = self.chunks.front()
            && (self.bytes > self.bytes_max || now.duration_since(oldest.made) > RECENT_MAX)
        {
            self.bytes -= oldest.text.len();
            self.chunks.pop_front();
        }
    }
}

impl Chunk {
    fn last(&self) -> i64 {
        self.first + self.ends.len() as i64 - 1
    }

    /// The text of its versions after `version`.
    fn after(&self, version: i64) -> Bytes {
        let seen = usize::try_from(version + 1 - self.first).unwrap_or(0);
        let start = if seen == 0 { 0 } else { self.ends[seen - 1] };
        self.text.slice(start..)
    }
}

/// Versions as Server-Sent Events.
fn encode(versions: &[Version]) -> Vec<Chunk> {
    let mut chunks = Vec::new();
    let (mut text, mut ends) = (Vec::new(), Vec::new());
    for (index, version) in versions.iter().enumerate() {
        event(version, &mut text);
        ends.push(text.len());
        if text.len() >= CHUNK_BYTES || index + 1 == versions.len() {
            chunks.push(Chunk {
                first: version.version + 1 - ends.len() as i64,
                text: Bytes::from(std::mem::take(&mut text)),
                ends: std::mem::take(&mut ends),
                made: Instant::now(),
            });
        }
    }
    chunks
}

/// One version as a Server-Sent Event.
pub fn event(version: &Version, text: &mut Vec<u8>) {
    text.extend_from_slice(format!("id: {}\ndata: ", version.version).as_bytes());
    serde_json::to_writer(&mut *text, &VersionBody::from(version)).expect("it is JSON");
    text.extend_from_slice(b"\n\n");
}

#[cfg(test)]
pub mod tests {
    use tokio::time::advance;

    use super::*;
    use crate::domain::{ChangeKind, Timestamp};
    use crate::store::ReservationChanged;

    /// Versions with this many changes each.
    pub fn versions(numbers: std::ops::RangeInclusive<i64>, changes: usize) -> Vec<Version> {
        let change = || ReservationChanged {
            kind: ChangeKind::Reserved,
            id: uuid::Uuid::nil(),
            partner_id: "abc-corp".into(),
            seats: 1,
            key_id: None,
        };
        let version = |version| Version {
            version,
            at: Timestamp::UNIX_EPOCH,
            changes: (0..changes).map(|_| change()).collect(),
            event_change: None,
            event_changed_by: None,
        };
        numbers.map(version).collect()
    }

    fn ids(text: &[u8]) -> Vec<i64> {
        let text = std::str::from_utf8(text).expect("text");
        let ids = text.lines().filter_map(|line| line.strip_prefix("id: "));
        ids.map(|id| id.parse().expect("a number")).collect()
    }

    /// All versions that a stream gets if it has seen `version`.
    fn followed(tail: &Tail, mut version: i64) -> Vec<i64> {
        let mut seen = Vec::new();
        while let After::Text(text, last) = tail.after(version) {
            seen.extend(ids(&text));
            version = last;
        }
        seen
    }

    #[tokio::test(start_paused = true)]
    async fn each_version_is_there_once_and_in_order_from_everywhere() {
        let tail = Tail::new(10, usize::MAX);
        tail.publish(&versions(11..=11, 1));
        tail.publish(&versions(12..=300, 3));
        tail.publish(&versions(301..=301, 500));
        for seen in 10..=301 {
            assert_eq!(followed(&tail, seen), (seen + 1..=301).collect::<Vec<_>>());
        }
        assert_eq!(tail.after(301), After::Nothing);
        assert_eq!(tail.after(302), After::Nothing);
        assert_eq!(tail.after(9), After::Gone);
        assert_eq!(tail.latest(), 301);
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_too_old_or_too_much_is_gone() {
        let tail = Tail::new(0, 100_000);
        tail.publish(&versions(1..=10, 10));
        advance(RECENT_MAX + Duration::from_millis(1)).await;
        tail.publish(&versions(11..=12, 10));
        assert_eq!(tail.after(9), After::Gone);
        assert_eq!(followed(&tail, 10), [11, 12]);
        for number in 13..=100 {
            tail.publish(&versions(number..=number, 100));
        }
        assert_eq!(tail.after(12), After::Gone);
        let kept: usize = tail.recent.read().expect("no panic").bytes;
        assert!(kept <= 100_000, "{kept}");
        assert_eq!(followed(&tail, 99), [100]);
        advance(RECENT_MAX + Duration::from_millis(1)).await;
        tail.forget();
        assert_eq!((tail.after(99), tail.after(100)), (After::Gone, After::Nothing));
    }
}

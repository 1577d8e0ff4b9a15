//! The latest versions of the events that are watched: announced by the batchers as they commit,
//! and polled from the database for commits of other replicas.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::domain::EventId;
use crate::store::PostgresStore;

/// How late commits of other replicas are noticed.
const PAUSE: Duration = Duration::from_millis(400);

/// The latest versions known here of the events that are watched. Cheap to clone.
#[derive(Clone, Default)]
pub struct LatestVersions(Arc<RwLock<HashMap<EventId, watch::Sender<i64>>>>);

impl LatestVersions {
    /// Announces versions after `version` as they become known, but not each of them: a slow
    /// receiver sees only the latest.
    pub fn watch(&self, event_id: &EventId, version: i64) -> watch::Receiver<i64> {
        let mut watched = self.0.write().unwrap_or_else(PoisonError::into_inner);
        let sender = watched.entry(event_id.clone()).or_insert_with(|| watch::channel(version).0);
        sender.subscribe()
    }

    /// Ends what [`Self::watch`] began.
    pub fn forget(&self, event_id: &EventId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(event_id);
    }

    /// Announces that an event has reached a version. Costs little if nobody watches it.
    pub fn reached(&self, event_id: &EventId, version: i64) {
        let watched = self.0.read().unwrap_or_else(PoisonError::into_inner);
        if let Some(sender) = watched.get(event_id) {
            sender.send_if_modified(|latest| {
                let is_newer = version > *latest;
                *latest = version.max(*latest);
                is_newer
            });
        }
    }

    fn watched(&self) -> Vec<EventId> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).keys().cloned().collect()
    }
}

/// Polls the database for versions that other replicas made, with one statement for all watched
/// events. Goes on as long as the future is polled.
pub async fn look_for_versions(
    store: Arc<PostgresStore>,
    latest: LatestVersions,
    request_timeout: Duration,
) {
    loop {
        sleep(PAUSE).await;
        let watched = latest.watched();
        if watched.is_empty() {
            continue;
        }
        match store.versions_of(&watched, Instant::now() + request_timeout).await {
            Ok(versions) => {
                for (id, version) in versions {
                    if let Some(id) = EventId::parse(&id) {
                        latest.reached(&id, version);
                    }
                }
            }
            // Watchers are told once the database is available again.
            Err(failure) => log::debug!("could not poll versions: {}", crate::chain(&failure)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_newer_is_told_and_only_to_those_who_watch() {
        let hot = EventId::parse("hot").expect("a slug");
        let latest = LatestVersions::default();
        let mut watched = latest.watch(&hot, 3);
        for version in [3, 2] {
            latest.reached(&hot, version);
            assert!(!watched.has_changed().expect("it is watched"), "{version}");
            assert_eq!(*watched.borrow(), 3);
        }
        latest.reached(&hot, 4);
        assert!(watched.has_changed().expect("it is watched"));
        assert_eq!(*watched.borrow_and_update(), 4);
        assert_eq!(latest.watched(), std::slice::from_ref(&hot));
        latest.forget(&hot);
        assert!(watched.has_changed().is_err());
        assert!(latest.watched().is_empty());
    }
}

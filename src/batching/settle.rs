//! Commits a batch, and settles one whose answer was lost.
//!
//! A lost connection leaves open whether the statement ran, and it may even run later. So the same
//! batch is sent again with the same version, which acts as a fence. If that succeeds, the first
//! attempt never happened and now never can. If it matches no row, the version has moved, and it
//! was us if and only if the journal's next version carries our batch id.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::batcher::Batcher;
use crate::store::{Batch, Commit, CommitError, Committed, Store, Unavailable};

/// Pauses between attempts to settle, doubling from `PAUSE_MIN` up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_millis(5);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// What became of a batch.
pub(super) enum Settled {
    /// With the event's counters, unless they have to be read again.
    Committed(Option<Committed>),
    /// Nothing happened and nothing will: another commit took the version.
    VersionMoved,
    /// Nothing happened: a key is taken.
    KeyTaken,
    /// Nothing happened: the database refuses a row.
    BadRow(sqlx::Error),
    /// Nothing was sent, or the database says that it did nothing.
    NotDone(Unavailable),
    /// Could not be determined in time.
    Unknown,
}

impl<S: Store> Batcher<S> {
    /// Commits `batch`, and settles it if its outcome is unknown.
    pub(super) async fn commit(&self, batch: &Batch, until: Instant) -> Settled {
        let sent = Instant::now();
        // Only half of the time, so that some is left for another attempt.
        let answer = self.shared.store.commit(batch, halfway(until)).await;
        self.shared.metrics.commit_seconds.observe(sent.elapsed().as_secs_f64());
        match answer {
            Ok(Commit::Committed(counters)) => Settled::Committed(Some(counters)),
            Ok(Commit::VersionMoved) => Settled::VersionMoved,
            Err(CommitError::KeyTaken) => Settled::KeyTaken,
            Err(CommitError::BadRow(failure)) => Settled::BadRow(failure),
            Err(CommitError::NotDone(unavailable)) => Settled::NotDone(unavailable),
            Err(failure @ CommitError::Unknown(_)) => {
                log::warn!("event {}: {}; settling it", self.event_id, crate::chain(&failure));
                self.settle(batch, until).await
            }
        }
    }

    async fn settle(&self, batch: &Batch, until: Instant) -> Settled {
        let settled = self.find_out(batch, until).await;
        self.shared.metrics.settled(match settled {
            Settled::Committed(_) => "committed",
            Settled::VersionMoved => "not_committed",
            Settled::KeyTaken | Settled::BadRow(_) => "refused",
            Settled::Unknown | Settled::NotDone(_) => "not_in_time",
        });
        settled
    }

    async fn find_out(&self, batch: &Batch, until: Instant) -> Settled {
        let mut pause = PAUSE_MIN;
        while Instant::now() < until {
            match self.shared.store.commit(batch, halfway(until)).await {
                Ok(Commit::Committed(counters)) => return Settled::Committed(Some(counters)),
                Ok(Commit::VersionMoved) => match self.was_ours(batch, until).await {
                    Ok(Some(true)) => return Settled::Committed(None),
                    Ok(Some(false)) => return Settled::VersionMoved,
                    Ok(None) => {}
                    Err(failure) => log::debug!("not settled yet: {}", crate::chain(&failure)),
                },
                // Same rows, same version: the first attempt fails in the same way.
                Err(CommitError::KeyTaken) => return Settled::KeyTaken,
                Err(CommitError::BadRow(failure)) => return Settled::BadRow(failure),
                // This is about the second statement. The outcome of the first is still open.
                Err(failure @ (CommitError::NotDone(_) | CommitError::Unknown(_))) => {
                    log::debug!("not settled yet: {}", crate::chain(&failure));
                }
            }
            sleep(pause.min(until.saturating_duration_since(Instant::now()))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
        Settled::Unknown
    }

    /// Whether our batch made the next version; `None` if that cannot be seen yet.
    ///
    /// A commit whose wait for a synchronous standby was interrupted is visible and may still be
    /// lost in a failover, so the answer is "ours" only after another commit has succeeded.
    async fn was_ours(&self, batch: &Batch, until: Instant) -> Result<Option<bool>, Unavailable> {
        let store = &self.shared.store;
        let made_by = store.batch_at(&batch.event_id, batch.base_version + 1, until).await?;
        let ours = made_by.map(|id| id == batch.id);
        if ours == Some(true) {
            store.fence(&batch.event_id, until).await?;
        }
        Ok(ours)
    }
}

/// Halfway from now to `until`.
fn halfway(until: Instant) -> Instant {
    let now = Instant::now();
    now + until.saturating_duration_since(now) / 2
}

//! Replicas that sell the same event take turns; this is a batcher's side of it.
//!
//! A replica that commits again and again knows the event's state, and another that wants to commit
//! would lose to it dozens of times. So as long as there are signs of another replica, a batcher
//! asks for the event's baton before it takes a batch, so that commands that arrive during the wait
//! are in the batch, too; and before it retries a batch that lost.

use std::time::Duration;

use tokio::time::Instant;

use super::batcher::{Batcher, Remembered};
use crate::domain::UsageByPartner;
use crate::store::{EventNow, Store};

/// How many times the baton is asked for after the last sign of another replica. Asking costs one
/// more round trip; losing to another replica costs a commit.
const ASKS_AFTER_SIGN: usize = 4;
/// The limit on asking for the baton, including the wait for a connection.
const BATON_TIMEOUT: Duration = Duration::from_millis(200);
/// If the baton does not come, the replica that has it may have stopped. It is then not asked for
/// again for some time, which doubles each time that it does not come.
const IMPATIENCE_MIN: Duration = Duration::from_millis(50);
const IMPATIENCE_MAX: Duration = Duration::from_secs(5);

/// What a batcher knows of its event's baton.
#[derive(Default)]
pub(super) struct Baton {
    /// As far as the batcher knows: the connection that has the baton may have broken.
    pub is_ours: bool,
    /// How many more times to ask for it, unless there are new signs of another replica.
    asks_left: usize,
    /// When to ask again at the earliest, and how long that pause is.
    impatient_until: Option<Instant>,
    impatience: Duration,
}

impl Baton {
    /// Our commit succeeded, which passed the baton on, or failed, which released it.
    pub fn used(&mut self) {
        self.is_ours = false;
    }

    /// There are signs of another replica: it committed before us, or is waiting for its turn.
    pub fn others_seen(&mut self) {
        self.asks_left = ASKS_AFTER_SIGN;
    }

    /// There was nothing to commit, so no replica is in another's way.
    pub fn not_needed(&mut self) {
        self.asks_left = 0;
    }

    /// Whether to ask for the baton now.
    pub fn is_wanted(&self) -> bool {
        let patient = self.impatient_until.is_none_or(|until| Instant::now() >= until);
        !self.is_ours && self.asks_left > 0 && patient
    }

    /// The baton came; with `event_untouched`, the event is still as we left it.
    fn came(&mut self, event_untouched: bool) {
        self.is_ours = true;
        self.impatience = Duration::ZERO;
        self.asks_left = if event_untouched { self.asks_left - 1 } else { ASKS_AFTER_SIGN };
    }

    fn did_not_come(&mut self) {
        self.impatience = (self.impatience * 2).clamp(IMPATIENCE_MIN, IMPATIENCE_MAX);
        self.impatient_until = Some(Instant::now() + self.impatience);
    }
}

impl<S: Store> Batcher<S> {
    /// Waits for the baton if there are signs of other replicas, but not past `until`.
    pub(super) async fn ask_for_baton(&mut self, until: Option<Instant>) {
        if !self.baton.is_wanted() {
            return;
        }
        let came = self.shared.store.take_baton(&self.event_id, within(until)).await;
        self.shared.metrics.asked_for_baton(matches!(came, Ok(Some(_))));
        match came {
            Ok(Some(EventNow { event, now })) => {
                let before = self.remembered.take();
                let version = before.as_ref().map(|before| before.event.version);
                self.baton.came(version == Some(event.version));
                let nobody = UsageByPartner::default();
                self.remembered = Some(Remembered::read(before, event, nobody, now));
            }
            Ok(None) => self.baton.did_not_come(),
            // Whatever the cause, the next statement meets it, too, and reports it to the caller.
            Err(unavailable) => {
                log::debug!("event {}: {}", self.event_id, crate::chain(&unavailable));
                self.baton.did_not_come();
            }
        }
    }

    /// Releases the baton, unless a commit has already done so.
    pub(super) async fn pass_baton(&mut self, until: Option<Instant>) {
        if self.baton.is_ours {
            self.baton.is_ours = false;
            self.shared.store.pass_baton(&self.event_id, within(until)).await;
        }
    }
}

/// The deadline for asking for the baton, or for passing it on.
fn within(until: Option<Instant>) -> Instant {
    let soon = Instant::now() + BATON_TIMEOUT;
    until.map_or(soon, |until| until.min(soon))
}

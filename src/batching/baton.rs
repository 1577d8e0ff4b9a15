//! The turns of the replicas that sell one event, as a batcher of one of them takes them.
//!
//! A replica that commits again and again knows the event's state, and another that wants to commit
//! would lose to it dozens of times. So as long as there are signs of another, a batcher asks for the
//! event's baton before it takes a batch, so that what arrives meanwhile is in the batch, too; and
//! before it tries again with one that lost.

use std::time::Duration;

use tokio::time::Instant;

use super::batcher::{Batcher, Remembered};
use crate::domain::UsageByPartner;
use crate::store::{EventNow, Store};

/// How often the baton is asked for after the last sign of another replica. To ask costs a round trip
/// more, and to be overtaken costs a commit.
const ASKS_AFTER_SIGN: usize = 4;
/// For the baton, with all that it may take to ask for it.
const BATON_TIMEOUT: Duration = Duration::from_millis(200);
/// Where the baton does not come, whoever has it may have been stopped. It is not asked for again for
/// some time, twice as long after each time that it did not come.
const IMPATIENCE_MIN: Duration = Duration::from_millis(50);
const IMPATIENCE_MAX: Duration = Duration::from_secs(5);

/// What a batcher knows of its event's baton.
#[derive(Default)]
pub(super) struct Baton {
    /// As far as it knows: the connection that has it may have broken.
    pub is_ours: bool,
    /// How often to ask for it yet, unless there are new signs of another replica.
    asks_left: usize,
    /// Until when not to ask, and how long that was.
    impatient_until: Option<Instant>,
    impatience: Duration,
}

impl Baton {
    /// A commit succeeded, which passed it on, or failed, which let go of it.
    pub fn used(&mut self) {
        self.is_ours = false;
    }

    /// There are signs of another replica: it committed before us, or is in line.
    pub fn others_seen(&mut self) {
        self.asks_left = ASKS_AFTER_SIGN;
    }

    /// There was nothing to commit: nobody is in anybody's way.
    pub fn not_needed(&mut self) {
        self.asks_left = 0;
    }

    /// Whether to ask for it.
    pub fn is_wanted(&self) -> bool {
        let patient = self.impatient_until.is_none_or(|until| Instant::now() >= until);
        !self.is_ours && self.asks_left > 0 && patient
    }

    /// With the event as we had left it, or not.
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
    /// Waits for the baton where there are signs of other replicas, but not past `until`.
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
            // Whatever it is, the next statement meets it, too, and says so to the caller.
            Err(unavailable) => {
                log::debug!("event {}: {}", self.event_id, crate::chain(&unavailable));
                self.baton.did_not_come();
            }
        }
    }

    /// Lets go of the baton, if no commit has.
    pub(super) async fn pass_baton(&mut self, until: Option<Instant>) {
        if self.baton.is_ours {
            self.baton.is_ours = false;
            self.shared.store.pass_baton(&self.event_id, within(until)).await;
        }
    }
}

/// By when to have asked for the baton, or passed it on.
fn within(until: Option<Instant>) -> Instant {
    let soon = Instant::now() + BATON_TIMEOUT;
    until.map_or(soon, |until| until.min(soon))
}

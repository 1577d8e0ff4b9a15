//! The batcher of one event: takes waiting commands, decides, commits, answers, and starts again.

use std::collections::VecDeque;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::time::{Instant, sleep};

use super::baton::Baton;
use super::settle::Settled;
use super::taking::BATCH_ROWS_MAX;
use super::turns::Turns;
use super::{Mailbox, Queued, Rejection, Shared};
use crate::domain::{
    Acceptance, Command, Decision, Event, EventId, Named, Refusal, Timestamp, UsageByPartner,
    Verdict, decide,
};
use crate::store::{Batch, Before, Committed, DatabaseClock, Snapshot, Store, Unavailable};

/// Each command has at least one row.
const BATCH_COMMANDS_MAX: usize = BATCH_ROWS_MAX;
/// Attempts at a batch before its commands are answered 409, if its time lasts that long. A batcher
/// that races a busy one can lose dozens of times in a row, since the winner knows the event's
/// state and the loser has to read it.
const COMMIT_ATTEMPTS_MAX: usize = 500;
/// Up to this many losses, a batcher that has the event's baton does not pause: one loss that made
/// it ask for the baton, and one to a commit that was under way when the baton came.
const LOSSES_WITH_BATON_MAX: usize = 2;
/// From this many losses on, the batcher waits for the commit in flight instead of racing it.
const LOSSES_BEFORE_FENCE: usize = 2;
/// The pause after a lost race is random, up to one step per loss and this many steps in all.
const BACKOFF_STEP: Duration = Duration::from_millis(2);
const BACKOFF_STEPS_MAX: usize = 4;

pub(super) struct Batcher<S> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) event_id: EventId,
    pub(super) mailbox: Arc<Mailbox>,
    /// The contents of the mailbox while they are taken in hand; empty at all other times.
    pub(super) swapped: Turns<Queued>,
    /// Deferred by an earlier batch: first in line for the next one, but not for all of it.
    pub(super) deferred: Turns<Queued>,
    /// The parts of a batch that the database refused, to be tried one by one before all else.
    pub(super) split: VecDeque<Queued>,
    /// The earliest deadline among all commands that are not in hand.
    pub(super) left_by: Option<Instant>,
    /// The commands of the batch that is being decided and committed.
    pub(super) in_hand: Vec<Queued>,
    /// The base version of the batch in hand, once it may have been sent.
    sent_from: Option<i64>,
    /// The event after the last commit. An acceptance may be based on it, a refusal never.
    pub(super) remembered: Option<Remembered>,
    /// How many commands to take at once. Halved to find a row that the database refuses.
    pub(super) limit: usize,
    /// There is no such event, so no mailbox is kept for it.
    pub(super) event_missing: bool,
    pub(super) baton: Baton,
}

pub(super) struct Remembered {
    pub event: Event,
    pub clock: DatabaseClock,
    pub usage: UsageByPartner,
}

impl Remembered {
    /// The event after a commit.
    fn after(mut event: Event, usage: UsageByPartner, batch: &Batch, counters: &Committed) -> Self {
        if let Some(change) = &batch.event_change {
            change.apply(&mut event);
        }
        event.version = counters.version;
        event.available_seats = counters.available_seats;
        event.held_seats = counters.held_seats;
        event.reservation_count = counters.reservation_count;
        let usage = usage.after(&event, &batch.changes);
        Self { event, clock: DatabaseClock::read(counters.now), usage }
    }

    /// What was read, combined with what was known `before` about partners at the same version.
    pub fn read(before: Option<Self>, event: Event, usage: UsageByPartner, now: Timestamp) -> Self {
        let before = before.filter(|before| before.event.version == event.version);
        let before = before.map(|before| before.usage);
        let before = before.unwrap_or_else(|| UsageByPartner::of_event(&event));
        Self { event, clock: DatabaseClock::read(now), usage: before.with(usage) }
    }

    /// Whether it may suffice for deciding this command.
    fn knows(&self, command: &Command) -> bool {
        let limited = command.limited_partner(&self.event);
        limited.is_none_or(|partner_id| self.usage.of(partner_id).is_some())
    }
}

/// How one attempt at the batch in hand went.
enum Attempt {
    /// Its commands are answered, or wait for the next batch.
    Concluded,
    /// Nothing happened: another replica's commit came first.
    VersionMoved,
    /// Nothing happened: a key is taken, by a reservation that a fresh read will show.
    KeyTaken,
}

/// The decision on the commands in hand, and what it was based on.
struct Decided {
    event: Event,
    now: Timestamp,
    decision: Decision,
}

impl<S: Store> Batcher<S> {
    pub fn new(shared: Arc<Shared<S>>, event_id: EventId, mailbox: Arc<Mailbox>) -> Self {
        Self {
            shared,
            event_id,
            mailbox,
            swapped: Turns::new(),
            deferred: Turns::new(),
            split: VecDeque::new(),
            left_by: None,
            in_hand: Vec::new(),
            sent_from: None,
            remembered: None,
            limit: BATCH_COMMANDS_MAX,
            event_missing: false,
            baton: Baton::default(),
        }
    }

    /// Runs until the mailbox is closed, or has been empty for a while. After a panic, the commands
    /// in hand are answered, and the batcher goes on with the mailbox.
    pub async fn run(mut self) {
        while AssertUnwindSafe(self.work()).catch_unwind().await.is_err() {
            log::error!("the batcher of event {} panicked, and continues", self.event_id);
            self.answer_after_panic();
        }
    }

    async fn work(&mut self) {
        // An earlier run that panicked may have left the baton with us.
        self.pass_baton(None).await;
        while self.take().await {
            self.step().await;
            self.sent_from = None;
            self.pass_baton(None).await;
        }
    }

    /// Brings the batch in hand to its end, with another attempt after each lost race.
    async fn step(&mut self) {
        let Some(until) = self.in_hand.iter().map(|queued| queued.answer_by).min() else {
            return;
        };
        let until = self.left_by.map_or(until, |left_by| until.min(left_by));
        let mut losses = 0;
        for _attempt in 0..COMMIT_ATTEMPTS_MAX {
            match self.attempt(until).await {
                Attempt::Concluded => return,
                Attempt::KeyTaken => {}
                Attempt::VersionMoved => {
                    losses += 1;
                    self.shared.metrics.version_conflicts.inc();
                    self.baton.others_seen();
                    self.ask_for_baton(Some(until)).await;
                    if !self.baton.is_ours || losses > LOSSES_WITH_BATON_MAX {
                        // The connection that has the baton may be the last one.
                        self.pass_baton(Some(until)).await;
                        self.back_off(losses, until).await;
                    }
                }
            }
            if Instant::now() >= until {
                break;
            }
        }
        self.answer_all(&Rejection::VersionConflict);
    }

    /// Decides and commits once.
    async fn attempt(&mut self, until: Instant) -> Attempt {
        let decided = match self.decide(until).await {
            Ok(Some(decided)) => decided,
            Ok(None) => {
                self.event_missing = true;
                self.answer_all(&Rejection::Refused(Refusal::EventNotFound));
                return Attempt::Concluded;
            }
            Err(unavailable) => {
                self.answer_unavailable(&unavailable);
                return Attempt::Concluded;
            }
        };
        self.event_missing = false;
        let Decided { event, now, decision } = decided;
        if !decision.writes() {
            self.baton.not_needed();
            self.pass_baton(Some(until)).await;
            self.conclude_unchanged(decision.verdicts, until).await;
            return Attempt::Concluded;
        }
        let batch = Batch {
            id: (self.shared.new_id)(),
            event_id: self.event_id.clone(),
            base_version: event.version,
            net_seats: decision.net_seats,
            net_held: decision.net_held,
            net_confirmed: decision.net_confirmed,
            at: now,
            changes: decision.changes,
            event_change: decision.event_change,
            event_changed_by: decision.event_changed_by,
        };
        self.sent_from = Some(batch.base_version);
        let settled = self.commit(&batch, until).await;
        let remembered = self.remembered.take();
        if !matches!(settled, Settled::VersionMoved) {
            self.baton.used();
        }
        match settled {
            Settled::Committed(counters) => {
                self.shared.latest_versions.reached(&self.event_id, batch.base_version + 1);
                self.shared.metrics.committed(&batch.changes);
                let usage = remembered.map(|remembered| remembered.usage).unwrap_or_default();
                if counters.as_ref().is_some_and(|counters| counters.others_in_line) {
                    self.baton.others_seen();
                }
                self.remembered =
                    counters.map(|counters| Remembered::after(event, usage, &batch, &counters));
                self.limit = (self.limit * 2).min(BATCH_COMMANDS_MAX);
                self.answer_verdicts(decision.verdicts);
            }
            Settled::VersionMoved => {
                self.sent_from = None;
                return Attempt::VersionMoved;
            }
            Settled::KeyTaken => {
                self.sent_from = None;
                return Attempt::KeyTaken;
            }
            Settled::BadRow(failure) => self.split(&failure),
            Settled::NotDone(unavailable) => self.answer_unavailable(&unavailable),
            Settled::Unknown => self.answer_unknown(decision.verdicts, batch.base_version),
        }
        Attempt::Concluded
    }

    /// Decides on the remembered state if that grants everything, and on a fresh read otherwise: a
    /// refusal must be true now, and so must an answer that shows what an earlier commit did.
    async fn decide(&mut self, until: Instant) -> Result<Option<Decided>, Unavailable> {
        let commands: Vec<&Command> = self.in_hand.iter().map(|queued| &queued.command).collect();
        let mut over_limit = false;
        if let Some(remembered) = &self.remembered
            && commands.iter().all(|command| remembered.knows(command))
        {
            let Remembered { event, clock, usage } = remembered;
            let now = clock.now();
            // Named reservations were not read; a verdict that would need one asks for a read.
            let decision = decide(event, &Named::default(), usage, now, &commands);
            if !decision.verdicts.iter().any(Verdict::needs_a_read) {
                return Ok(Some(Decided { event: event.clone(), now, decision }));
            }
            over_limit = decision.verdicts.iter().any(Verdict::is_over_limit);
        }
        loop {
            // The remembered usage of partners may be too high to refuse on.
            let before = self.remembered.as_ref().filter(|_| !over_limit);
            let before = before.map(|Remembered { event, usage, .. }| Before { event, usage });
            let store = &self.shared.store;
            let snapshot = store.snapshot(&self.event_id, &commands, before, until).await?;
            let Some(Snapshot { event, named, usage, now }) = snapshot else { return Ok(None) };
            let before = self.remembered.take();
            let known = self.remembered.insert(Remembered::read(before, event, usage, now));
            let decision = decide(&known.event, &named, &known.usage, now, &commands);
            if over_limit || !decision.verdicts.iter().any(Verdict::is_over_limit) {
                return Ok(Some(Decided { event: known.event.clone(), now, decision }));
            }
            over_limit = true;
        }
    }

    /// Answers a batch that writes nothing. A replay is an acknowledgement, and what it shows may
    /// come from a commit whose wait for a standby was interrupted, so it is answered only after
    /// another commit has succeeded.
    async fn conclude_unchanged(&mut self, verdicts: Vec<Verdict>, until: Instant) {
        let shows_what_was = verdicts.iter().any(|verdict| {
            matches!(verdict, Verdict::Accepted(acceptance) if acceptance.shows_what_was())
        });
        if shows_what_was
            && let Err(unavailable) = self.shared.store.fence(&self.event_id, until).await
        {
            log::error!("event {}: {}", self.event_id, crate::chain(&unavailable));
            self.remembered = None;
            for (queued, verdict) in self.in_hand.drain(..).zip(verdicts) {
                let rejection = match verdict {
                    Verdict::Accepted(acceptance) => unknown(&queued.command, &acceptance, None),
                    Verdict::Refused(refusal) => Rejection::Refused(refusal),
                    Verdict::Deferred => unreachable!("a batch without effect defers nothing"),
                };
                queued.answer(Err(rejection));
            }
            return;
        }
        self.answer_verdicts(verdicts);
    }

    /// Answers the batch in hand; deferred commands go to the head of the next one.
    fn answer_verdicts(&mut self, verdicts: Vec<Verdict>) {
        let mut deferred = Vec::new();
        for (queued, verdict) in self.in_hand.drain(..).zip(verdicts) {
            match verdict {
                Verdict::Accepted(acceptance) => queued.answer(Ok(acceptance)),
                Verdict::Refused(refusal) => queued.answer(Err(Rejection::Refused(refusal))),
                Verdict::Deferred => deferred.push(queued),
            }
        }
        self.defer(deferred);
    }

    /// Only what was granted depends on the batch whose outcome is unknown. A refusal may depend on
    /// seats that the batch takes, so it is not certain either; but the command did nothing.
    fn answer_unknown(&mut self, verdicts: Vec<Verdict>, base_version: i64) {
        let mut deferred = Vec::new();
        for (queued, verdict) in self.in_hand.drain(..).zip(verdicts) {
            match verdict {
                Verdict::Accepted(acceptance) => {
                    let unknown = unknown(&queued.command, &acceptance, Some(base_version));
                    queued.answer(Err(unknown));
                }
                Verdict::Refused(_) => queued.answer(Err(Rejection::DatabaseUnavailable)),
                Verdict::Deferred => deferred.push(queued),
            }
        }
        self.defer(deferred);
    }

    /// Commands that were deferred before keep their place; the others go behind all of those. As
    /// many may be deferred as may wait in the mailbox, so that commands that need a batch each
    /// cannot pile up.
    fn defer(&mut self, commands: Vec<Queued>) {
        let (again, new): (Vec<_>, Vec<_>) =
            commands.into_iter().partition(|queued| queued.deferred);
        again.into_iter().rev().for_each(|queued| self.deferred.push_front(queued));
        for queued in new {
            let queued = Queued { deferred: true, ..queued };
            let deferred_max = self.shared.settings.mailbox_commands_max;
            if let Some(refused) = self.deferred.push_back(queued, deferred_max) {
                refused.answer(Err(Rejection::Overloaded));
            }
        }
    }

    fn answer_unavailable(&mut self, unavailable: &Unavailable) {
        self.remembered = None;
        let rejection = match unavailable {
            Unavailable::Busy => Rejection::Overloaded,
            Unavailable::TimedOut | Unavailable::Connect(_) | Unavailable::Statement(_) => {
                let failure = crate::chain(unavailable);
                log::error!("event {}: {failure}", self.event_id);
                Rejection::DatabaseUnavailable
            }
        };
        self.answer_all(&rejection);
    }

    fn answer_all(&mut self, rejection: &Rejection) {
        for queued in self.in_hand.drain(..) {
            queued.answer(Err(rejection.clone()));
        }
    }

    fn answer_after_panic(&mut self) {
        self.remembered = None;
        let sent_from = self.sent_from.take();
        for queued in self.in_hand.drain(..) {
            let reservation_id = queued.command.reservation_id();
            queued.answer(Err(match sent_from {
                Some(_) => Rejection::OutcomeUnknown { reservation_id, base_version: sent_from },
                None => Rejection::Internal,
            }));
        }
    }

    /// One bad row fails the statement for all: the batch is halved until the culprit stands alone.
    fn split(&mut self, failure: &sqlx::Error) {
        if self.in_hand.len() == 1 {
            let failure = crate::chain(failure);
            log::error!("event {}: the database refused a row: {failure}", self.event_id);
            self.answer_all(&Rejection::Internal);
        } else {
            self.limit = self.in_hand.len() / 2;
            for queued in self.in_hand.drain(..).rev() {
                self.split.push_front(queued);
            }
        }
    }

    /// Leaves room for the winner of the last race. After some losses, waits in line behind it.
    async fn back_off(&self, losses: usize, until: Instant) {
        sleep(self.jitter(losses).min(until.saturating_duration_since(Instant::now()))).await;
        if losses >= LOSSES_BEFORE_FENCE
            && let Err(unavailable) = self.shared.store.fence(&self.event_id, until).await
        {
            // The read that follows fails in the same way, and reports it to the caller.
            log::debug!("event {}: {}", self.event_id, crate::chain(&unavailable));
        }
    }

    fn jitter(&self, losses: usize) -> Duration {
        let spread = BACKOFF_STEP.mul_f64(losses.min(BACKOFF_STEPS_MAX) as f64);
        // The low bits of an id are random, and seeded in simulations, as all ids are.
        let random = (self.shared.new_id)().as_u128() as u32;
        spread.mul_f64(f64::from(random) / f64::from(u32::MAX))
    }
}

/// The answer to a granted command whose outcome is unknown. For one that an earlier commit has
/// done already, what is unknown is whether that commit is permanent.
fn unknown(command: &Command, acceptance: &Acceptance, base_version: Option<i64>) -> Rejection {
    let (reservation_id, base_version) = match acceptance {
        Acceptance::Reserved(_)
        | Acceptance::Altered(_)
        | Acceptance::Cancelled
        | Acceptance::EventChanged(_)
        | Acceptance::Swept => (command.reservation_id(), base_version),
        Acceptance::Replayed(made) => {
            let first = made.first();
            (first.map(|made| made.id), first.map(|made| made.version - 1))
        }
        Acceptance::Unaltered(made) => (Some(made.id), Some(made.version - 1)),
        // The version is 0 if nobody has ever changed the event.
        Acceptance::EventUnchanged(event) => (None, Some((event.version - 1).max(0))),
    };
    Rejection::OutcomeUnknown { reservation_id, base_version }
}

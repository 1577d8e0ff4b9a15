//! Fills the next batch with waiting commands, in turns, as many as there is room for.

use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::batcher::Batcher;
use super::turns::Turns;
use super::{Queued, Rejection};
use crate::store::Store;

/// More rows in one statement gain nothing: past 128, the work per row dominates.
pub(super) const BATCH_ROWS_MAX: usize = 512;
/// An idle batcher ends after this time, since it costs a task and its memory of the event.
const IDLE_MAX: Duration = Duration::from_secs(10);

impl<S: Store> Batcher<S> {
    /// Takes the next batch in hand; `false` if there is nothing more to do.
    pub(super) async fn take(&mut self) -> bool {
        if self.split.is_empty() && self.deferred.is_empty() {
            let idle_max = if self.event_missing { Duration::ZERO } else { IDLE_MAX };
            match timeout(idle_max, self.mailbox.filled()).await {
                Ok(true) => {}
                Ok(false) => return false,
                Err(_elapsed) => return !self.shared.retire(&self.event_id, &self.mailbox),
            }
        }
        if self.baton.is_wanted() {
            let until = self.first_left(&self.mailbox.waiting(), |queued| queued.send_by);
            self.ask_for_baton(until).await;
        }
        let (now, late) = (Instant::now(), Vec::new());
        let mut filling = Filling { in_hand: &mut self.in_hand, rows: 0, now, late };
        if self.split.is_empty() {
            // Half of the batch for deferred commands: many commands that change the same thing,
            // and so need a batch each, must leave room for everyone else. They get all of it if no
            // others wait.
            filling.take_from(&mut self.deferred, self.limit.div_ceil(2));
            let (taken, late) = (filling.in_hand.len(), filling.late.len());
            if self.mailbox.swap(&mut self.swapped, self.limit - taken) {
                filling.take_from(&mut self.swapped, self.limit);
                // A command with more rows than there is room for stays the next one.
                self.mailbox.put_back(&mut self.swapped);
            } else {
                filling.take_from(&mut self.mailbox.waiting(), self.limit);
            }
            let new = filling.in_hand[taken..].iter().chain(&filling.late[late..]);
            new.for_each(|queued| self.shared.taken(queued));
            filling.take_from(&mut self.deferred, self.limit);
        } else {
            while filling.in_hand.len() < self.limit
                && let Some(queued) = self.split.pop_front()
            {
                if let Some(queued) = filling.add(queued) {
                    self.split.push_front(queued);
                    break;
                }
            }
        }
        let mut late = filling.late;
        self.left_by = self.look_at_what_is_left(now, &mut late);
        for queued in late {
            queued.answer(Err(Rejection::Overloaded));
        }
        self.shared.metrics.batch_commands.observe(self.in_hand.len() as f64);
        true
    }

    /// The earliest deadline among the commands that were left behind. The batch in hand must end
    /// by then, since some of them may have arrived first. Late commands are removed first, so that
    /// at least half of a request's time is left.
    fn look_at_what_is_left(&mut self, now: Instant, late: &mut Vec<Queued>) -> Option<Instant> {
        let is_late = |queued: &Queued| queued.send_by < now;
        let mut waiting = self.mailbox.waiting();
        if !waiting.is_empty() {
            let new = waiting.take_late(is_late);
            new.iter().for_each(|queued| self.shared.taken(queued));
            late.extend(new);
        }
        if !self.deferred.is_empty() {
            late.extend(self.deferred.take_late(is_late));
        }
        self.first_left(&waiting, |queued| queued.answer_by)
    }

    /// The earliest of these times among all commands that are not in hand.
    fn first_left(
        &self,
        waiting: &Turns<Queued>,
        by: impl Fn(&Queued) -> Instant,
    ) -> Option<Instant> {
        let left = waiting.firsts().chain(self.deferred.firsts()).chain(&self.split);
        left.map(by).min()
    }
}

/// A batch that is being filled.
struct Filling<'a> {
    in_hand: &'a mut Vec<Queued>,
    rows: usize,
    now: Instant,
    /// Commands that are past their `send_by`.
    late: Vec<Queued>,
}

impl Filling<'_> {
    /// Moves commands into the batch until it has `limit` of them.
    fn take_from(&mut self, turns: &mut Turns<Queued>, limit: usize) {
        while self.in_hand.len() < limit
            && let Some(queued) = turns.pop()
        {
            if let Some(queued) = self.add(queued) {
                turns.push_front(queued);
                return;
            }
        }
    }

    /// Returns the command if it no longer fits: the rows of one command are never split.
    fn add(&mut self, queued: Queued) -> Option<Queued> {
        let more = queued.command.rows();
        if queued.send_by < self.now {
            self.late.push(queued);
        } else if self.rows > 0 && self.rows + more > BATCH_ROWS_MAX {
            return Some(queued);
        } else {
            self.rows += more;
            self.in_hand.push(queued);
        }
        None
    }
}

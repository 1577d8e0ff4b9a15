//! How many bytes streams may send: all together, and each.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::STREAMS_MAX;

/// A small part is for versions that are read again for streams that begin in the past: these cost
/// the database as much as new ones, and serve one stream only. Half of the rest is shared out
/// evenly, so that a stream of a quiet event never suffers from a busy one; the other half is for
/// streams that need more than their share.
pub struct Budget {
    share: f64,
    common: Mutex<Bucket>,
    past: Mutex<Bucket>,
}

/// The part of the budget that is for the past.
const PAST_PART: f64 = 1.0 / 16.0;

/// The share of one stream.
pub struct Share(Bucket);

/// How long an unused share adds up: a large version must fit in.
const SHARE_MAX_S: f64 = 16.0;

impl Budget {
    pub fn new(bytes_per_second_max: u64) -> Self {
        let all = bytes_per_second_max as f64;
        let (past, half) = (all * PAST_PART, all * (1.0 - PAST_PART) / 2.0);
        Self {
            share: half / STREAMS_MAX as f64,
            common: Mutex::new(Bucket::new(half, half)),
            past: Mutex::new(Bucket::new(past, past)),
        }
    }

    pub fn share(&self) -> Share {
        // Empty at first, so that a client gains nothing by reconnecting again and again.
        Share(Bucket { bytes: 0.0, ..Bucket::new(self.share, self.share * SHARE_MAX_S) })
    }

    /// Whether this many bytes may be sent now; if so, they count as sent.
    pub fn take(&self, share: &mut Share, bytes: usize) -> bool {
        let bytes = bytes as f64;
        share.0.take(bytes)
            || self.common.lock().unwrap_or_else(PoisonError::into_inner).take(bytes)
    }

    /// Whether something of the past may be read and sent now.
    pub fn has_past(&self) -> bool {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).take(0.0)
    }

    /// Counts the bytes that were sent from the past. The next read waits until the budget has
    /// recovered from them.
    pub fn spend_past(&self, bytes: usize) {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).bytes -= bytes as f64;
    }
}

/// A token bucket.
struct Bucket {
    bytes: f64,
    bytes_max: f64,
    bytes_per_second: f64,
    filled: Instant,
}

impl Bucket {
    fn new(bytes_per_second: f64, bytes_max: f64) -> Self {
        Self { bytes: bytes_max, bytes_max, bytes_per_second, filled: Instant::now() }
    }

    fn take(&mut self, bytes: f64) -> bool {
        let now = Instant::now();
        let gained = now.duration_since(self.filled).as_secs_f64() * self.bytes_per_second;
        self.bytes = (self.bytes + gained).min(self.bytes_max);
        self.filled = now;
        let enough = self.bytes >= bytes;
        if enough {
            self.bytes -= bytes;
        }
        enough
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn all_streams_together_send_no_more_than_that() {
        let budget = Budget::new(2_000_000);
        let mut shares: Vec<Share> = (0..100).map(|_| budget.share()).collect();
        let mut sent = 0;
        for _ in 0..1_000 {
            // Half of the streams are opened again.
            shares[..50].fill_with(|| budget.share());
            for share in &mut shares {
                sent += if budget.take(share, 1_000) { 1_000 } else { 0 };
            }
            advance(Duration::from_millis(10)).await;
        }
        // Ten seconds of the common part and of a hundred shares, and what the common part starts
        // with.
        let shares_of_all = 100 * 470 * 10;
        assert!((9_375_000..=10_400_000 + shares_of_all).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_past_is_a_small_part() {
        let budget = Budget::new(16_000_000);
        let mut sent = 0;
        for _ in 0..1_000 {
            while budget.has_past() {
                budget.spend_past(30_000);
                sent += 30_000;
            }
            advance(Duration::from_millis(10)).await;
        }
        assert!((10_000_000..=11_000_000 + 60_000).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_within_his_share_is_never_refused() {
        let budget = Budget::new(2_000_000);
        let (mut greedy, mut modest) = (budget.share(), budget.share());
        for _ in 0..100 {
            advance(Duration::from_secs(1)).await;
            while budget.take(&mut greedy, 10_000) {}
            assert!(budget.take(&mut modest, 400));
        }
    }
}

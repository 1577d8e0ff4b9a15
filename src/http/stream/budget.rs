//! How many bytes streams may send, in all and each.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::STREAMS_MAX;

/// Half of it is shared out evenly, so that who follows a quiet event never suffers from a busy
/// one; the other half is for those who need more than their share. What is read again for a stream
/// that begins in the past is a small part more: it costs the database as much as what is new, and
/// serves one stream only.
pub struct Budget {
    share: f64,
    common: Mutex<Bucket>,
    past: Mutex<Bucket>,
}

/// Which part of it is for the past.
const PAST_PART: f64 = 1.0 / 16.0;

/// The share of one stream.
pub struct Share(Bucket);

/// How long a share that is not used adds up: a large version must fit in.
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
        // Empty at first: to come anew again and again gains nothing.
        Share(Bucket { bytes: 0.0, ..Bucket::new(self.share, self.share * SHARE_MAX_S) })
    }

    /// Whether so many bytes may be sent now: then they count as sent.
    pub fn take(&self, share: &mut Share, bytes: usize) -> bool {
        let bytes = bytes as f64;
        share.0.take(bytes)
            || self.common.lock().unwrap_or_else(PoisonError::into_inner).take(bytes)
    }

    /// Whether something of the past may be read and sent now.
    pub fn has_past(&self) -> bool {
        self.past.lock().unwrap_or_else(PoisonError::into_inner).take(0.0)
    }

    /// What it was. The next one waits until that is made up for.
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
            // Some come anew.
            shares[..50].fill_with(|| budget.share());
            for share in &mut shares {
                sent += if budget.take(share, 1_000) { 1_000 } else { 0 };
            }
            advance(Duration::from_millis(10)).await;
        }
        // Ten seconds of the common part and of a hundred shares, and what the common one begins with.
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

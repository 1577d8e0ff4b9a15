//! How many bytes streams may send, in all and each.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::STREAMS_MAX;

/// Half of it is shared out evenly, so that who follows a quiet event never suffers from a busy
/// one; the other half is for those who need more than their share.
pub struct Budget {
    share: f64,
    common: Mutex<Bucket>,
}

/// The share of one stream.
pub struct Share(Bucket);

/// How long a share that is not used adds up: a large version must fit in.
const SHARE_MAX_S: f64 = 8.0;

impl Budget {
    pub fn new(bytes_per_second_max: u64) -> Self {
        let half = bytes_per_second_max as f64 / 2.0;
        Self { share: half / STREAMS_MAX as f64, common: Mutex::new(Bucket::new(half, half)) }
    }

    pub fn share(&self) -> Share {
        Share(Bucket::new(self.share, self.share * SHARE_MAX_S))
    }

    /// Whether so many bytes may be sent now: then they count as sent.
    pub fn take(&self, share: &mut Share, bytes: usize) -> bool {
        let bytes = bytes as f64;
        share.0.take(bytes)
            || self.common.lock().unwrap_or_else(PoisonError::into_inner).take(bytes)
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
            for share in &mut shares {
                sent += if budget.take(share, 1_000) { 1_000 } else { 0 };
            }
            advance(Duration::from_millis(10)).await;
        }
        // Ten seconds of the common half and of a hundred shares, and what both begin with.
        let shares_of_all = 100 * 500 * (10 + 8);
        assert!((10_000_000..=11_000_000 + shares_of_all).contains(&sent), "{sent}");
    }

    #[tokio::test(start_paused = true)]
    async fn who_stays_within_his_share_is_never_refused() {
        let budget = Budget::new(2_000_000);
        let (mut greedy, mut modest) = (budget.share(), budget.share());
        for _ in 0..100 {
            while budget.take(&mut greedy, 10_000) {}
            assert!(budget.take(&mut modest, 500));
            advance(Duration::from_secs(1)).await;
        }
    }
}

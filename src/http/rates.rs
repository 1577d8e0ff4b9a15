//! How many requests one partner may send, by the generic cell rate algorithm.
//!
//! Each process counts for itself: what several replicas behind a load balancer allow adds up.

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use governor::Quota;
use governor::clock::{Clock as _, DefaultClock};
use tokio::time::sleep;
use uuid::Uuid;

use super::access::TurnedAway;
use super::problem::{Code, Problem};
use crate::access::Meter;

/// The name of the policy in `RateLimit` headers.
const POLICY: &str = "requests";
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// How long the answer to a request too many is held back, at least and at most. Not for the same
/// time each: all of a flood would come again in one moment, and everybody else would wait behind it.
const HELD_BACK_MIN: Duration = Duration::from_millis(250);
const HELD_BACK_MAX: Duration = Duration::from_millis(750);
const _: () = assert!(HELD_BACK_MIN.as_millis() < HELD_BACK_MAX.as_millis());

/// What is said of the limit: the same for everybody. All keys of one partner are counted together,
/// and every other key for itself.
pub struct Rates {
    clock: DefaultClock,
    per_second: NonZeroU32,
    burst: NonZeroU32,
    /// In every answer.
    policy: HeaderValue,
}

impl Rates {
    /// So many requests in a second, and so many in a burst.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let window_s = burst.get().div_ceil(per_second.get());
        let policy = format!("\"{POLICY}\";q={burst};w={window_s}");
        // Once for the process, so that no two answers share a count of who has it.
        let policy = HeaderValue::from_static(policy.leak());
        Self { clock: DefaultClock::default(), per_second, burst, policy }
    }

    /// As the meters of the keys count it.
    pub fn quota(&self) -> Quota {
        Quota::per_second(self.per_second).allow_burst(self.burst)
    }

    /// Counts a request, and says what is left.
    pub fn count(&self, meter: &Meter) -> Result<Allowance, Problem> {
        match meter.check() {
            Ok(state) => Ok(self.allowance(state.remaining_burst_capacity())),
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                let detail = format!(
                    "More than {} requests in a second, after {} at once; nothing happened",
                    self.per_second, self.burst
                );
                let mut problem =
                    Problem::turned_away(Code::RateLimited, detail, TurnedAway::TooOften)
                        // To the millisecond, and never "now".
                        .retry_after(Duration::from_millis(wait.as_millis() as u64 + 1));
                problem.more.allowance = Some(self.allowance(0));
                Err(problem)
            }
        }
    }

    fn allowance(&self, remaining: u32) -> Allowance {
        let missing = self.burst.get().saturating_sub(remaining);
        let reset_s = missing.div_ceil(self.per_second.get());
        Allowance { policy: self.policy.clone(), remaining, reset_s }
    }
}

/// A caller who does not wait before the next request is made to: otherwise, refusing a flood takes
/// as much of the machine as serving it.
pub async fn hold_back<T>(problem: Problem) -> Result<T, Problem> {
    sleep(held_back()).await;
    Err(problem)
}

fn held_back() -> Duration {
    // The low bits of such an id are random.
    let random = Uuid::new_v4().as_u128() as u32;
    let spread = HELD_BACK_MAX - HELD_BACK_MIN;
    HELD_BACK_MIN + spread.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// What a caller may still send.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// How many at once, and in which time so many are granted again.
    policy: HeaderValue,
    remaining: u32,
    /// Until all of it is there again.
    reset_s: u32,
}

impl Allowance {
    /// Says so, in the headers of draft-ietf-httpapi-ratelimit-headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        let Self { policy, remaining, reset_s } = self;
        // At once as long as it gets.
        let mut left = String::with_capacity(48);
        write!(left, "\"{POLICY}\";r={remaining};t={reset_s}").expect("it is a text");
        headers.insert(RATE_LIMIT_POLICY, policy.clone());
        headers.insert(RATE_LIMIT, HeaderValue::try_from(left).expect("it is ASCII"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// In each tenth of the time about as many.
    #[test]
    fn a_flood_does_not_come_again_in_one_moment() {
        let mut tenths = [0; 10];
        for _request in 0..10_000 {
            let late = held_back() - HELD_BACK_MIN;
            let tenth = 10.0 * late.div_duration_f64(HELD_BACK_MAX - HELD_BACK_MIN);
            tenths[(tenth as usize).min(9)] += 1;
        }
        assert!(tenths.iter().all(|count| (800..1_200).contains(count)), "{tenths:?}");
    }
}

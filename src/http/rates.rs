//! Limits how many requests one partner may send, by the generic cell rate algorithm.
//!
//! Each process counts for itself, so the limits of several replicas behind a load balancer add up.

use std::num::NonZeroU32;
use std::time::Duration;

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use governor::Quota;
use governor::clock::{Clock as _, DefaultClock};
use tokio::time::sleep;
use uuid::Uuid;

use super::access::TurnedAway;
use super::headers::joined;
use super::problem::{Code, Problem};
use crate::access::Meter;

/// The name of the policy in `RateLimit` headers.
const POLICY: &str = "requests";
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
/// The minimum and maximum delay of the answer to a request over the limit. The delay is random:
/// with a fixed one, all requests of a flood would return at the same moment, and everybody else
/// would wait behind them.
const HELD_BACK_MIN: Duration = Duration::from_millis(250);
const HELD_BACK_MAX: Duration = Duration::from_millis(750);
const _: () = assert!(HELD_BACK_MIN.as_millis() < HELD_BACK_MAX.as_millis());

/// The request limit, which is the same for everybody. All keys of one partner are counted
/// together, and every other key for itself.
pub struct Rates {
    clock: DefaultClock,
    per_second: NonZeroU32,
    burst: NonZeroU32,
    /// The value of `RateLimit-Policy` in every answer.
    policy: HeaderValue,
}

impl Rates {
    /// Allows `per_second` requests in a second, and `burst` at once.
    pub fn new(per_second: NonZeroU32, burst: NonZeroU32) -> Self {
        let window_s = burst.get().div_ceil(per_second.get());
        let policy = format!("\"{POLICY}\";q={burst};w={window_s}");
        // Leaked only once per process, so that answers do not share a reference count.
        let policy = HeaderValue::from_static(policy.leak());
        Self { clock: DefaultClock::default(), per_second, burst, policy }
    }

    /// The limit in the form in which the meters of the keys count it.
    pub fn quota(&self) -> Quota {
        Quota::per_second(self.per_second).allow_burst(self.burst)
    }

    /// Counts a request, and returns what is left.
    pub fn count(&self, meter: &Meter) -> Result<Allowance, Problem> {
        match meter.check() {
            Ok(state) => Ok(self.allowance(state.remaining_burst_capacity())),
            Err(until) => {
                let wait = until.wait_time_from(self.clock.now());
                let detail = format!(
                    "More than {} requests per second, after a burst of {}; nothing happened",
                    self.per_second, self.burst
                );
                let mut problem =
                    Problem::turned_away(Code::RateLimited, detail, TurnedAway::TooOften)
                        // In milliseconds, and never zero.
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

/// Delays a refusal, so that a caller that does not wait before its next request is made to:
/// otherwise, refusing a flood would take as much of the machine as serving it.
pub async fn hold_back<T>(problem: Problem) -> Result<T, Problem> {
    sleep(held_back()).await;
    Err(problem)
}

fn held_back() -> Duration {
    // The low bits of this id are random.
    let random = Uuid::new_v4().as_u128() as u32;
    let spread = HELD_BACK_MAX - HELD_BACK_MIN;
    HELD_BACK_MIN + spread.mul_f64(f64::from(random) / f64::from(u32::MAX))
}

/// How many requests a caller may still send.
#[derive(Clone, Debug)]
pub struct Allowance {
    /// How many requests are allowed at once, and in which time that many are granted again.
    policy: HeaderValue,
    remaining: u32,
    /// Seconds until the full number is available again.
    reset_s: u32,
}

impl Allowance {
    /// Writes the headers of draft-ietf-httpapi-ratelimit-headers.
    pub fn write(&self, headers: &mut HeaderMap) {
        let Self { policy, remaining, reset_s } = self;
        let (left, reset) = (&mut itoa::Buffer::new(), &mut itoa::Buffer::new());
        let (remaining, reset_s) = (left.format(*remaining), reset.format(*reset_s));
        headers.insert(RATE_LIMIT_POLICY, policy.clone());
        headers.insert(RATE_LIMIT, joined(["\"", POLICY, "\";r=", remaining, ";t=", reset_s]));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each tenth of the range gets about the same number of delays.
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

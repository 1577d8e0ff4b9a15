//! Large reads: pages of listings, exports and the feed, and the past of streams. Only a few of them
//! run at the same time, so that other reads find a connection, and callers take turns.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout_at};

use crate::access::Account;
use crate::store::Unavailable;

/// The line in which large reads wait. Cheap to clone.
#[derive(Clone)]
pub struct LargeReads(Arc<Semaphore>);

/// The permission for one statement of a large read.
pub type Turn = OwnedSemaphorePermit;

impl LargeReads {
    /// At most `at_once_max` run at the same time.
    pub fn new(at_once_max: usize) -> Self {
        Self(Arc::new(Semaphore::new(at_once_max)))
    }

    /// Waits for a turn; [`Unavailable::Busy`] if it has not come by `until`.
    ///
    /// A caller has one place in the line, and its other reads wait in a line of their own: so
    /// callers are served in turn, however much one of them asks for. Those whose account is not
    /// known, for example without access control, all wait in the same line.
    pub async fn turn(
        &self,
        caller: Option<&Account>,
        until: Instant,
    ) -> Result<Turn, Unavailable> {
        let turn = async {
            let _place = match caller {
                Some(account) => Some(account.place.lock().await),
                None => None,
            };
            Arc::clone(&self.0).acquire_owned().await.expect("the semaphore is never closed")
        };
        timeout_at(until, turn).await.map_err(|_elapsed| Unavailable::Busy)
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;
    use std::pin::pin;
    use std::time::Duration;

    use futures_util::FutureExt as _;
    use governor::Quota;

    use super::*;

    fn account() -> Account {
        Account::new(Quota::per_second(NonZeroU32::MIN))
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(1)
    }

    #[tokio::test(start_paused = true)]
    async fn callers_are_served_in_turn_however_much_one_of_them_asks_for() {
        let reads = LargeReads::new(2);
        let (much, little) = (account(), account());
        let ask = |account| reads.turn(Some(account), soon());
        // Alone, a caller has all places.
        let first = ask(&much).now_or_never().expect("it is free");
        let second = ask(&much).now_or_never().expect("it is free");
        let (mut third, mut fourth) = (pin!(ask(&much)), pin!(ask(&much)));
        let mut other = pin!(ask(&little));
        assert!(third.as_mut().now_or_never().is_none());
        assert!(fourth.as_mut().now_or_never().is_none());
        assert!(other.as_mut().now_or_never().is_none());
        drop((first, second));
        let _third = third.as_mut().now_or_never().expect("its turn").expect("in time");
        assert!(fourth.as_mut().now_or_never().is_none());
        let other = other.as_mut().now_or_never().expect("its turn").expect("in time");
        drop(other);
        assert!(fourth.as_mut().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn those_who_are_not_known_wait_in_one_line() {
        let reads = LargeReads::new(1);
        let turn = reads.turn(None, soon()).now_or_never().expect("it is free");
        let mut next = pin!(reads.turn(None, soon()));
        assert!(next.as_mut().now_or_never().is_none());
        drop(turn);
        assert!(next.as_mut().now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_too_long_is_told_so() {
        let (reads, account) = (LargeReads::new(1), account());
        let _turn = reads.turn(None, soon()).await;
        let too_late = |turn| matches!(turn, Err(Unavailable::Busy));
        assert!(too_late(reads.turn(None, soon()).await));
        // In the line of all, and behind it in the caller's own.
        let both = [reads.turn(Some(&account), soon()), reads.turn(Some(&account), soon())];
        assert!(futures_util::future::join_all(both).await.into_iter().all(too_late));
    }
}

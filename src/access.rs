//! Authentication: an in-memory cache of all API keys, so that no request has to query the
//! database.
//!
//! Changes made elsewhere are polled every second, and at once when an unknown key arrives; so a
//! new key works immediately, and a revoked one stops working on every replica within seconds. If
//! the database has been unreachable for longer than that, no key is accepted any more, except for
//! `/metrics`.
//!
//! Invariant: a secret is never kept. Only its hash is, and it is compared in constant time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use foldhash::HashMap;
use governor::clock::DefaultClock;
use governor::middleware::StateInformationMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use thiserror::Error;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::domain::{Key, KeyId, KeyName, NewKey, PartnerId, Scope, SecretHash, Timestamp};
use crate::store::{DatabaseClock, PostgresStore, SecretKey, Unavailable};

/// The pause between two polls, and so how long a revoked key still works.
const LOOK_PAUSE: Duration = Duration::from_secs(1);
/// The minimum time between two polls, however many unknown keys are tried.
const LOOK_PAUSE_MIN: Duration = Duration::from_millis(100);
const LOOK_MAX: Duration = Duration::from_secs(2);
/// Keys read longer ago than this are not trusted any more.
const STALE_MAX: Duration = Duration::from_secs(5);
/// How far each poll reaches back behind the last one: longer than any statement that writes a key
/// takes, so that its row is visible by then. A commit may take longer, if it waits for a standby
/// that is away, and the table may be changed by hand: so all keys are read again once in a while.
const OVERLAP: Duration = Duration::from_secs(60);
const ALL_PAUSE: Duration = Duration::from_secs(120);
/// How precisely it is known when a key was last used.
const USED_PAUSE: Duration = Duration::from_secs(10);
const _: () = assert!(LOOK_PAUSE.as_secs() + LOOK_MAX.as_secs() < STALE_MAX.as_secs());

const PREFIX: &str = "tb";
/// 160 random bits.
const SECRET_BYTES: usize = 20;

/// Why a key is not accepted. The caller gets the same answer for all reasons except the last.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum Denied {
    #[error("the key is malformed")]
    Malformed,
    #[error("the key is unknown")]
    Unknown,
    #[error("the key's secret is wrong")]
    WrongSecret,
    #[error("the key has expired")]
    Expired,
    #[error("the key was revoked")]
    Revoked,
    #[error("the database could not be queried in time")]
    Unavailable,
}

/// All keys. Cheap to clone.
#[derive(Clone)]
pub struct KeyRing(Arc<Shared>);

struct Shared {
    store: Arc<PostgresStore>,
    /// The request quota of each partner, and of each key that belongs to no partner.
    quota: Quota,
    /// Polls run here, so that they complete even if the request that caused one is gone.
    runtime: Handle,
    known: RwLock<Known>,
    /// The last poll. The lock is held during a poll.
    looked: AsyncMutex<Option<Looked>>,
}

struct Looked {
    began: Instant,
    ended: Instant,
    succeeded: bool,
}

/// Nobody but an operator adds to these maps, so that their hashes need not withstand an attack.
#[derive(Default)]
struct Known {
    by_id: HashMap<KeyId, Arc<KnownKey>>,
    accounts: HashMap<PartnerId, Arc<Account>>,
    /// The last poll that succeeded.
    last: Option<LastLook>,
}

struct LastLook {
    began: Instant,
    /// When all keys were last read, and not only those that had changed.
    read_all: Instant,
    at: Timestamp,
    clock: DatabaseClock,
}

/// The known key that a presented one matches, or why it is not accepted.
pub type Identification = Result<Arc<KnownKey>, Denied>;

/// Counts requests, by the generic cell rate algorithm.
pub type Meter = RateLimiter<NotKeyed, InMemoryState, DefaultClock, StateInformationMiddleware>;

/// What all keys of a partner share, and every other key has for itself.
pub struct Account {
    pub meter: Meter,
    /// The place in the line of large reads.
    pub place: AsyncMutex<()>,
}

impl Account {
    pub fn new(quota: Quota) -> Self {
        Self { meter: RateLimiter::direct(quota).with_middleware(), place: AsyncMutex::default() }
    }
}

/// A key with everything that is checked for each request, so that a request needs one lookup.
pub struct KnownKey {
    pub key: Key,
    pub account: Arc<Account>,
    secret_hash: SecretHash,
    /// Whether it was used since this was last recorded in the database.
    used: AtomicBool,
}

impl KeyRing {
    /// Reads all keys from the database.
    pub async fn open(
        store: Arc<PostgresStore>,
        runtime: Handle,
        quota: Quota,
    ) -> Result<Self, Unavailable> {
        let (known, looked) = (RwLock::default(), AsyncMutex::default());
        let shared = Shared { store, quota, runtime, known, looked };
        shared.look().await?;
        Ok(Self(Arc::new(shared)))
    }

    /// Identifies the presented key if that is possible at once: always, except for a key that is
    /// not known, and while the database is away.
    pub fn recall(&self, presented: &[u8]) -> Option<Identification> {
        self.recall_within(STALE_MAX, presented)
    }

    /// The same, using the last known keys however long the database has been away. For endpoints
    /// that show no caller's data, and are needed most just then.
    pub fn recall_last(&self, presented: &[u8]) -> Option<Identification> {
        self.recall_within(Duration::MAX, presented)
    }

    fn recall_within(&self, age_max: Duration, presented: &[u8]) -> Option<Identification> {
        let Some((id, secret)) = parse(presented) else { return Some(Err(Denied::Malformed)) };
        let hash = SecretHash::from(Sha256::digest(secret));
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let last = known.last.as_ref().filter(|last| last.began.elapsed() < age_max)?;
        let known = known.by_id.get(id)?;
        Some(known.check(&hash, &last.clock).map(|()| Arc::clone(known)))
    }

    /// The same, with a poll if necessary.
    pub async fn find(&self, presented: &[u8]) -> Identification {
        if let Some(found) = self.recall(presented) {
            return found;
        }
        self.look_again().await.map_err(|_logged| Denied::Unavailable)?;
        self.recall(presented).unwrap_or(Err(Denied::Unknown))
    }

    /// Whether a key that was accepted is still valid.
    pub fn still_takes(&self, id: &KeyId) -> bool {
        let known = self.0.known.read().unwrap_or_else(PoisonError::into_inner);
        let Some(last) = &known.last else { return false };
        known.by_id.get(id.as_str()).is_some_and(|known| known.ends(&last.clock).is_none())
    }

    /// Polls for what has changed until now.
    pub async fn look_again(&self) -> Result<(), NotSeen> {
        let (shared, asked) = (Arc::clone(&self.0), Instant::now());
        let looking = self.0.runtime.spawn(async move { shared.look_after(asked).await });
        match timeout(LOOK_MAX, looking).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(_)) | Err(_) => Err(NotSeen),
        }
    }

    /// Records which keys were used since this was last done.
    pub async fn close(&self) {
        self.0.write_down_what_was_used().await;
    }

    /// Keeps the keys up to date, as long as this future is polled.
    pub async fn keep(self) {
        let mut written = Instant::now();
        loop {
            sleep(LOOK_PAUSE).await;
            // Already logged; the next poll may succeed.
            let _ = self.0.look_after(Instant::now()).await;
            if written.elapsed() >= USED_PAUSE {
                written = Instant::now();
                self.0.write_down_what_was_used().await;
            }
        }
    }
}

/// The database could not be queried. Already logged.
#[derive(Clone, Copy, Debug, Error)]
#[error("the database could not be queried for keys")]
pub struct NotSeen;

impl Shared {
    /// Returns after a poll that began after `asked`. All waiting callers share one poll.
    async fn look_after(&self, asked: Instant) -> Result<(), NotSeen> {
        let mut looked = self.looked.lock().await;
        if let Some(Looked { began, ended, succeeded }) = *looked {
            if succeeded && began >= asked {
                return Ok(());
            }
            // One failed poll is enough for all callers that waited for it.
            if !succeeded && ended >= asked {
                return Err(NotSeen);
            }
            sleep_until(began + LOOK_PAUSE_MIN).await;
        }
        let went_well = looked.as_ref().is_none_or(|before| before.succeeded);
        let began = Instant::now();
        let seen = self.look().await;
        let succeeded = seen.is_ok();
        *looked = Some(Looked { began, ended: Instant::now(), succeeded });
        match seen {
            Ok(()) if !went_well => log::info!("keys can be read from the database again"),
            Ok(()) => {}
            // Only the first failure is a warning, since the poll is repeated every second.
            Err(failure) if went_well => {
                log::warn!("could not read the keys: {}; retrying", crate::chain(&failure));
            }
            Err(failure) => log::debug!("could not read the keys: {}", crate::chain(&failure)),
        }
        if succeeded { Ok(()) } else { Err(NotSeen) }
    }

    async fn look(&self) -> Result<(), Unavailable> {
        let began = Instant::now();
        let (since, read_all) = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            match &known.last {
                Some(last) if last.read_all.elapsed() < ALL_PAUSE => {
                    (last.at - OVERLAP, last.read_all)
                }
                Some(_) | None => (OffsetDateTime::UNIX_EPOCH, began),
            }
        };
        let changed = self.store.keys_changed(since, began + LOOK_MAX).await?;
        let known = &mut *self.known.write().unwrap_or_else(PoisonError::into_inner);
        let (at, clock) = (changed.now, DatabaseClock::read(changed.now));
        known.last = Some(LastLook { began, read_all, at, clock });
        for SecretKey { key, secret_hash } in changed.keys {
            let before = known.by_id.get(key.id.as_str());
            let used = before.is_some_and(|before| before.used.load(Ordering::Relaxed));
            let account = match (before, &key.scope) {
                (Some(before), _) => Arc::clone(&before.account),
                (None, Scope::Partner(partner_id)) => {
                    let of_partner = known.accounts.entry(partner_id.clone());
                    Arc::clone(of_partner.or_insert_with(|| self.account()))
                }
                (None, Scope::Read | Scope::Operator) => self.account(),
            };
            let (id, used) = (key.id.clone(), AtomicBool::new(used));
            known.by_id.insert(id, Arc::new(KnownKey { key, account, secret_hash, used }));
        }
        Ok(())
    }

    fn account(&self) -> Arc<Account> {
        Arc::new(Account::new(self.quota))
    }

    async fn write_down_what_was_used(&self) {
        let used: Vec<KeyId> = {
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            let used =
                known.by_id.values().filter(|entry| entry.used.swap(false, Ordering::Relaxed));
            used.map(|entry| entry.key.id.clone()).collect()
        };
        if used.is_empty() {
            return;
        }
        if let Err(failure) = self.store.mark_used(&used, Instant::now() + LOOK_MAX).await {
            log::warn!("could not record which keys were used: {}", crate::chain(&failure));
            let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
            for entry in used.iter().filter_map(|id| known.by_id.get(id.as_str())) {
                entry.used.store(true, Ordering::Relaxed);
            }
        }
    }
}

impl KnownKey {
    fn check(&self, hash: &SecretHash, clock: &DatabaseClock) -> Result<(), Denied> {
        if !bool::from(self.secret_hash[..].ct_eq(&hash[..])) {
            return Err(Denied::WrongSecret);
        }
        if let Some(denied) = self.ends(clock) {
            return Err(denied);
        }
        // Read first: a write would take the cache line away from all other threads.
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Why it is not valid any more, if so.
    fn ends(&self, clock: &DatabaseClock) -> Option<Denied> {
        if self.key.revoked_at.is_some() {
            Some(Denied::Revoked)
        } else if self.key.expires_at.is_some_and(|end| end <= clock.now()) {
            Some(Denied::Expired)
        } else {
            None
        }
    }
}

/// A new key to be stored, and its text, which is shown to its owner once.
pub fn new_key(
    name: KeyName,
    scope: Scope,
    expires_at: Option<Timestamp>,
    made_by: Option<KeyId>,
) -> Result<(NewKey, String), getrandom::Error> {
    let id = random_hex::<{ KeyId::LENGTH / 2 }>()?;
    let secret = random_hex::<SECRET_BYTES>()?;
    let text = format!("{PREFIX}_{id}_{secret}");
    let id = KeyId::parse(&id).expect("it has the length and the digits of an id");
    let secret_hash = Sha256::digest(secret).into();
    Ok((NewKey { id, secret_hash, name, scope, expires_at, made_by }, text))
}

fn random_hex<const BYTES: usize>() -> Result<String, getrandom::Error> {
    let mut bytes = [0; BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The id and the secret of a presented key.
fn parse(presented: &[u8]) -> Option<(&str, &[u8])> {
    let rest = presented.strip_prefix(PREFIX.as_bytes())?.strip_prefix(b"_")?;
    let (id, rest) = rest.split_at_checked(KeyId::LENGTH)?;
    let secret = rest.strip_prefix(b"_")?;
    let id = str::from_utf8(id).ok()?;
    (secret.len() == 2 * SECRET_BYTES).then_some((id, secret))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_as_it_was_made() {
        let name = KeyName::parse("ours").expect("a name");
        let (key, text) = new_key(name, Scope::Operator, None, None).expect("random numbers");
        assert_eq!(text.len(), 60);
        let [longer, other] = [format!("{text}0"), text.replace('_', "-")];
        let (longer, other, text) = (longer.as_bytes(), other.as_bytes(), text.as_bytes());
        let (id, secret) = parse(text).expect("a key");
        assert_eq!(id, key.id.as_str());
        assert_eq!(SecretHash::from(Sha256::digest(secret)), key.secret_hash);
        for wrong in [&b""[..], b"tb", b"tb_", b"tb__", &text[1..], &text[..59], longer, other] {
            assert_eq!(parse(wrong), None, "{wrong:?}");
        }
    }
}

//! Keys at the command line: for the first operator, and for who has lost his.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::{At, ServeError, beside};
use crate::access::new_key;
use crate::config::Config;
use crate::domain::{Key, KeyId, KeyName, Scope, Timestamp};
use crate::store::{ConnectionLimits, PostgresStore};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Keys that are read at once.
const PAGE: i64 = 500;

/// Makes a key, and returns it with its text.
pub async fn make(
    config: &Config,
    name: KeyName,
    scope: Scope,
    expires_at: Option<Timestamp>,
) -> Result<(Key, String), ServeError> {
    let (new, text) = new_key(name, scope, expires_at, None).map_err(ServeError::Random)?;
    let mut made = None;
    with_store(config, async |store| {
        let key = store.make_key(&new, Instant::now() + TIMEOUT).await;
        made = Some(key.map_err(ServeError::Keys)?);
        Ok(())
    })
    .await?;
    Ok((made.expect("it was made"), text))
}

/// Shows every key.
pub async fn list(config: &Config, mut show: impl FnMut(&Key)) -> Result<(), ServeError> {
    with_store(config, async |store| {
        let mut after = String::new();
        loop {
            let page = store.keys_after(&after, PAGE, Instant::now() + TIMEOUT).await;
            let page = page.map_err(ServeError::Keys)?;
            page.iter().for_each(&mut show);
            match page.last() {
                Some(last) => after = last.id.to_string(),
                None => return Ok(()),
            }
        }
    })
    .await
}

/// Revokes a key.
pub async fn revoke(config: &Config, id: KeyId) -> Result<(), ServeError> {
    with_store(config, async |store| {
        let found = store.revoke_key(&id, None, Instant::now() + TIMEOUT).await;
        if found.map_err(ServeError::Keys)? { Ok(()) } else { Err(ServeError::NoSuchKey { id }) }
    })
    .await
}

/// On a schema that is up to date: a key may be the first thing that is made.
async fn with_store(
    config: &Config,
    work: impl AsyncFnOnce(Arc<PostgresStore>) -> Result<(), ServeError>,
) -> Result<(), ServeError> {
    beside(config, async |at| {
        if let At::Own(database) = &at
            && config.migrate_on_start
        {
            database.migrate().await?;
        }
        let limits = ConnectionLimits { writes: 1, reads: 1 };
        let options = at.options().clone();
        work(Arc::new(PostgresStore::new(options, limits, TIMEOUT, Handle::current()))).await
    })
    .await
}

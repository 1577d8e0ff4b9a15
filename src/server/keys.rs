//! Keys at the command line: for the first operator, and for operators who have lost theirs.

use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::Instant;

use super::ServeError;
use super::commands::{At, beside, must_exist};
use super::database::wait_for_database;
use crate::access::new_key;
use crate::config::Config;
use crate::domain::{Key, KeyId, KeyName, Scope, Timestamp};
use crate::store::{ConnectionLimits, PostgresStore, schema};

const TIMEOUT: Duration = Duration::from_secs(10);
/// Keys that one statement reads.
const PAGE: i64 = 500;

/// Creates a key, and returns it with its text and a description of its database.
pub async fn make(
    config: &Config,
    name: KeyName,
    scope: Scope,
    expires_at: Option<Timestamp>,
) -> Result<(Key, String, String), ServeError> {
    let (new, text) = new_key(name, scope, expires_at, None).map_err(ServeError::Random)?;
    let mut made = None;
    let mut place = String::new();
    with_store(config, Schema::MayBeMade, async |store, at| {
        let key = store.make_key(&new, Instant::now() + TIMEOUT).await;
        made = Some(key.map_err(ServeError::Keys)?);
        place = at.describe();
        Ok(())
    })
    .await?;
    Ok((made.expect("the key was created"), text, place))
}

/// All keys.
pub async fn list(config: &Config) -> Result<Vec<Key>, ServeError> {
    must_exist(config)?;
    let mut all = Vec::new();
    with_store(config, Schema::MustBeThere, async |store, _| {
        let mut after = String::new();
        loop {
            let page = store.keys_after(&after, PAGE, Instant::now() + TIMEOUT).await;
            let page = page.map_err(ServeError::Keys)?;
            match page.last() {
                Some(last) => after = last.id.to_string(),
                None => return Ok(()),
            }
            all.extend(page);
        }
    })
    .await?;
    Ok(all)
}

/// Revokes a key.
pub async fn revoke(config: &Config, id: KeyId) -> Result<(), ServeError> {
    must_exist(config)?;
    with_store(config, Schema::MustBeThere, async |store, _| {
        let found = store.revoke_key(&id, None, Instant::now() + TIMEOUT).await;
        if found.map_err(ServeError::Keys)? { Ok(()) } else { Err(ServeError::NoSuchKey { id }) }
    })
    .await
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Schema {
    /// A database that has no schema gets one: a key may be the first thing in it.
    MayBeMade,
    MustBeThere,
}

/// Runs `work` on a schema that is up to date. One that is not is left alone: listing keys with a
/// new binary is no request to migrate.
async fn with_store(
    config: &Config,
    schema: Schema,
    work: impl AsyncFnOnce(Arc<PostgresStore>, &At<'_>) -> Result<(), ServeError>,
) -> Result<(), ServeError> {
    beside(config, async |at| {
        let may_be_made = schema == Schema::MayBeMade && config.migrate_on_start;
        match (wait_for_database(|| schema::check(at.options())).await, &at) {
            (Err(ServeError::Schema(failure)), At::Own(database))
                if failure.is_no_schema() && may_be_made =>
            {
                database.migrate().await?;
            }
            (checked, _) => checked?,
        }
        let limits = ConnectionLimits { writes: 1, reads: 1 };
        let options = at.options().clone();
        let store = PostgresStore::new(options, limits, TIMEOUT, Handle::current());
        work(Arc::new(store), &at).await
    })
    .await
}

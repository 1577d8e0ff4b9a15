//! API keys: the table that says who may call.

use sqlx::PgConnection;

use crate::domain::{Key, KeyId, KeyName, NewKey, PartnerId, Scope, SecretHash, Timestamp};

/// A key together with the hash that its secret is checked against.
#[derive(Debug)]
pub struct SecretKey {
    pub key: Key,
    pub secret_hash: SecretHash,
}

/// The keys that have changed.
#[derive(Debug)]
pub struct KeysChanged {
    pub keys: Vec<SecretKey>,
    /// The database's clock.
    pub now: Timestamp,
}

/// A row of `keys`, as stored.
struct KeyRow {
    id: String,
    name: String,
    scope: String,
    partner_id: Option<String>,
    created_at: Timestamp,
    made_by: Option<String>,
    expires_at: Option<Timestamp>,
    revoked_at: Option<Timestamp>,
    revoked_by: Option<String>,
    last_used_at: Option<Timestamp>,
}

impl TryFrom<KeyRow> for Key {
    type Error = sqlx::Error;

    /// Fails on values that this version of the service cannot have written.
    fn try_from(row: KeyRow) -> Result<Self, sqlx::Error> {
        let unreadable = |column: &str| {
            sqlx::Error::Decode(format!("key {}: unreadable {column}", row.id).into())
        };
        let partner_id = row
            .partner_id
            .as_deref()
            .map(|text| PartnerId::parse(text).ok_or_else(|| unreadable("partner_id")));
        let key_id = |text: Option<&str>| text.and_then(KeyId::parse);
        Ok(Self {
            id: KeyId::parse(&row.id).ok_or_else(|| unreadable("id"))?,
            name: KeyName::parse(&row.name).ok_or_else(|| unreadable("name"))?,
            scope: Scope::of(&row.scope, partner_id.transpose()?)
                .ok_or_else(|| unreadable("scope"))?,
            created_at: row.created_at,
            made_by: key_id(row.made_by.as_deref()),
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            revoked_by: key_id(row.revoked_by.as_deref()),
            last_used_at: row.last_used_at,
        })
    }
}

/// Ids are random: if the id is taken, this very statement created the key, and its answer was
/// lost.
pub(super) async fn make_key(
    connection: &mut PgConnection,
    new: &NewKey,
) -> Result<Key, sqlx::Error> {
    let partner_id = match &new.scope {
        Scope::Partner(partner_id) => Some(partner_id.as_str()),
        Scope::Read | Scope::Operator => None,
    };
    let row = sqlx::query_as!(
        KeyRow,
        r#"-- make_key
        insert into keys (id, secret_sha256, name, scope, partner_id, made_by, expires_at)
        values ($1, $2, $3, $4, $5::text, $6, $7)
            on conflict (id) do update set changed_at = clock_timestamp()
               where keys.secret_sha256 = excluded.secret_sha256
        returning id, name, scope, partner_id, created_at, made_by, expires_at, revoked_at,
                  revoked_by, last_used_at"#,
        new.id.as_str(),
        &new.secret_hash[..],
        new.name.as_str(),
        new.scope.as_str(),
        partner_id,
        new.made_by.as_ref().map(KeyId::as_str),
        new.expires_at,
    )
    .fetch_one(connection)
    .await?;
    row.try_into()
}

pub(super) async fn keys_after(
    connection: &mut PgConnection,
    after: &str,
    count: i64,
) -> Result<Vec<Key>, sqlx::Error> {
    let rows = sqlx::query_as!(
        KeyRow,
        "-- page_of_keys
        select id, name, scope, partner_id, created_at, made_by, expires_at, revoked_at,
               revoked_by, last_used_at
          from keys
         where id > $1
         order by id
         limit $2",
        after,
        count,
    )
    .fetch_all(connection)
    .await?;
    rows.into_iter().map(Key::try_from).collect()
}

/// If a key is revoked again, the first revocation is kept.
pub(super) async fn revoke_key(
    connection: &mut PgConnection,
    id: &KeyId,
    by: Option<&KeyId>,
) -> Result<bool, sqlx::Error> {
    let found = sqlx::query_scalar!(
        r#"-- revoke_key
        update keys
           set revoked_at = coalesce(revoked_at, clock_timestamp()),
               revoked_by = case when revoked_at is null then $2 else revoked_by end,
               changed_at = clock_timestamp()
         where id = $1
        returning 1 as "there!""#,
        id.as_str(),
        by.map(KeyId::as_str),
    )
    .fetch_optional(connection)
    .await?;
    Ok(found.is_some())
}

/// The clock is returned even if nothing has changed.
pub(super) async fn keys_changed(
    connection: &mut PgConnection,
    since: Timestamp,
) -> Result<KeysChanged, sqlx::Error> {
    let rows = sqlx::query!(
        r#"-- keys_changed
        select clock.now as "now!", keys.id as "id?", keys.secret_sha256 as "secret_sha256?",
               keys.name as "name?", keys.scope as "scope?", keys.partner_id as "partner_id?",
               keys.created_at as "created_at?", keys.made_by, keys.expires_at, keys.revoked_at,
               keys.revoked_by, keys.last_used_at
          from (select clock_timestamp() as now) as clock
          left join keys on keys.changed_at > $1"#,
        since,
    )
    .fetch_all(connection)
    .await?;
    let now = rows.first().map(|row| row.now).ok_or(sqlx::Error::RowNotFound)?;
    let keys = rows.into_iter().filter_map(|row| {
        let hash = row.secret_sha256?;
        let row = KeyRow {
            id: row.id?,
            name: row.name?,
            scope: row.scope?,
            partner_id: row.partner_id,
            created_at: row.created_at?,
            made_by: row.made_by,
            expires_at: row.expires_at,
            revoked_at: row.revoked_at,
            revoked_by: row.revoked_by,
            last_used_at: row.last_used_at,
        };
        Some((row, hash))
    });
    let keys = keys.filter_map(|(row, hash)| {
        let id = row.id.clone();
        match (Key::try_from(row), SecretHash::try_from(hash)) {
            (Ok(key), Ok(secret_hash)) => Some(SecretKey { key, secret_hash }),
            // A newer version of the service may have more scopes. A key with one must not lock out
            // all other keys.
            (Err(_), _) | (_, Err(_)) => {
                log::error!("key {id} cannot be read, and is not accepted");
                None
            }
        }
    });
    Ok(KeysChanged { keys: keys.collect(), now })
}

pub(super) async fn mark_used(
    connection: &mut PgConnection,
    ids: &[KeyId],
) -> Result<(), sqlx::Error> {
    let ids: Vec<&str> = ids.iter().map(KeyId::as_str).collect();
    sqlx::query!(
        "-- mark_used
        update keys set last_used_at = clock_timestamp()
         where id = any ($1::text[]) and revoked_at is null",
        &ids as &[&str],
    )
    .execute(connection)
    .await?;
    Ok(())
}

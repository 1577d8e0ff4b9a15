//! Reads of the journal: what changed, version by version.

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::{ChangeKind, EventId, Timestamp};

/// What one commit changed.
#[derive(Debug)]
pub struct Version {
    pub version: i64,
    pub at: Timestamp,
    pub changes: Vec<ReservationChanged>,
    /// The change of the event itself, as recorded in the journal.
    pub event_change: Option<serde_json::Value>,
    /// The operator's key with which it was requested.
    pub event_changed_by: Option<String>,
}

/// What a version changed in a reservation.
#[derive(Debug)]
pub struct ReservationChanged {
    pub kind: ChangeKind,
    pub id: Uuid,
    pub partner_id: String,
    /// Seats taken, given back, or kept, depending on the kind.
    pub seats: i32,
    /// The operator's key with which it was requested.
    pub key_id: Option<String>,
}

/// Versions of an event, without gaps, oldest first.
#[derive(Debug)]
pub struct Versions {
    pub versions: Vec<Version>,
    /// The event's version at the moment of the read.
    pub latest: i64,
}

/// At most `count` versions after `after`, and fewer if they have more than about `changes`
/// changes; `None` if there is no such event.
pub(super) async fn changes(
    connection: &mut PgConnection,
    event_id: &EventId,
    after: i64,
    count: i64,
    changes: i64,
) -> Result<Option<Versions>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"-- changes
        select events.version::bigint as "latest!", page.version as "version?", page.at as "at?",
               page.kinds as "kinds?: Vec<i16>", page.reservation_ids as "reservation_ids?",
               page.partner_ids as "partner_ids?", page.seats as "seats?",
               page.event_change as "event_change?",
               page.key_ids as "key_ids?: Vec<Option<String>>"
          from events
          left join lateral (
                select version::bigint as version, at, kinds::smallint[] as kinds,
                       reservation_ids, partner_ids, seats, event_change, key_ids,
                       sum(change_count) over (order by version rows unbounded preceding)
                           - change_count as earlier
                  from journal
                 where event_id = $1 and version > $2
                 order by version
                 limit $3
               ) as page on page.earlier < $4
         where events.id = $1
         order by page.version"#,
        event_id.as_str(),
        after,
        count,
        changes,
    )
    .fetch_all(connection)
    .await?;
    let Some(latest) = rows.first().map(|row| row.latest) else { return Ok(None) };
    let versions = rows.into_iter().filter_map(|row| {
        let (version, at) = (row.version?, row.at?);
        let kinds = row.kinds?.into_iter().map(ChangeKind::parse);
        let rest = row.reservation_ids?.into_iter().zip(row.partner_ids?).zip(row.seats?);
        let unreadable = || {
            let what = format!("event {event_id}, version {version}: unreadable kinds");
            sqlx::Error::Decode(what.into())
        };
        // Null if no operator's key was used.
        let mut key_ids = row.key_ids.into_iter().flatten();
        let changes = kinds.zip(rest).map(|(kind, ((id, partner_id), seats))| {
            let (kind, key_id) = (kind.ok_or_else(unreadable)?, key_ids.next().flatten());
            Ok(ReservationChanged { kind, id, partner_id, seats, key_id })
        });
        let changes = changes.collect::<Result<_, sqlx::Error>>();
        let (event_change, event_changed_by) = (row.event_change, key_ids.next().flatten());
        let version = |changes| Version { version, at, changes, event_change, event_changed_by };
        Some(changes.map(version))
    });
    Ok(Some(Versions { versions: versions.collect::<Result<_, _>>()?, latest }))
}

/// The current version of each event.
pub(super) async fn versions_of(
    connection: &mut PgConnection,
    event_ids: &[EventId],
) -> Result<Vec<(String, i64)>, sqlx::Error> {
    let ids: Vec<&str> = event_ids.iter().map(EventId::as_str).collect();
    let rows = sqlx::query!(
        r#"-- versions_of
        select id, version::bigint as "version!" from events where id = any ($1::text[])"#,
        &ids as &[&str],
    )
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.version)).collect())
}

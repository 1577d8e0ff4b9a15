//! The reservations of an event in order of creation, newest first.
//!
//! The journal is that order: it is gapless and never changes, so a listing that continues from a
//! position in it skips nothing and repeats nothing, whatever is added meanwhile. A read is bounded
//! by the changes that it examines, not by those that match.

use sqlx::PgConnection;

use super::reservations::ReservationRow;
use crate::domain::{EventId, PartnerId, Reference, Reservation, Status};

/// Which reservations to list: a field that is `None` excludes none.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    pub partner_id: Option<PartnerId>,
    pub status: Option<Status>,
    pub reference: Option<Reference>,
}

/// A position in the journal: what was made before it is still to be listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    pub version: i64,
    /// Position within the version, counted from 1.
    pub place: i64,
}

impl Position {
    /// From here, everything is still to be listed.
    pub const NEWEST: Self = Self { version: i64::MAX, place: i64::MAX };

    /// From here, everything that was made before `version` is still to be listed.
    fn before(version: i64) -> Self {
        Self { version: version - 1, place: i64::MAX }
    }
}

/// One page of a listing.
#[derive(Debug, Default)]
pub struct Page {
    pub reservations: Vec<Reservation>,
    /// Where the next page starts; `None` at the end.
    pub next: Option<Position>,
}

/// Lists up to `count` reservations, examining about `changes` changes of the journal.
pub(super) async fn list(
    connection: &mut PgConnection,
    event_id: &EventId,
    filter: &Filter,
    from: Position,
    count: i64,
    changes: i64,
) -> Result<Page, sqlx::Error> {
    let oldest = oldest_of_page(connection, event_id, from, changes).await?;
    let Some(oldest) = oldest else { return Ok(Page::default()) };
    let rows = sqlx::query!(
        r#"-- page_of_reservations
        select made.version as made_at, made.place as "place!", reservation.*
          from (
                select journal.version, change.id, change.place
                  from journal,
                       lateral unnest(kinds::smallint[], reservation_ids, partner_ids)
                            with ordinality as change (kind, id, partner_id, place)
                 where event_id = $1 and version >= $2 and version <= $3
                   and (version < $3 or change.place < $4)
                   and change.kind in (1, 2)
                   and ($5::text is null or change.partner_id = $5)
               ) as made,
               lateral (
                select id as "id!", event_id as "event_id!", partner_id as "partner_id!",
                       seats as "seats!", status as "status!", hold_expires_at, reference,
                       version as "version!", created_at as "created_at!", idempotency_key,
                       request_fingerprint, item as "item!"
                  from reservations
                 where id = made.id and event_id = $1
                   and ($6::text is null or status = $6)
                   and ($7::text is null or reference = $7)
                offset 0
               ) as reservation
         order by made.version desc, made.place desc
         limit $8"#,
        event_id.as_str(),
        oldest,
        from.version,
        from.place,
        filter.partner_id.as_ref().map(PartnerId::as_str),
        filter.status.map(Status::as_str),
        filter.reference.as_ref().map(Reference::as_str),
        count,
    )
    .fetch_all(connection)
    .await?;

    let last = rows.last().map(|row| Position { version: row.made_at, place: row.place });
    let is_full = i64::try_from(rows.len()).is_ok_and(|rows| rows == count);
    let next = match last {
        Some(last) if is_full && last.place > 1 => Some(last),
        Some(last) if is_full => (last.version > 1).then_some(Position::before(last.version)),
        // The journal begins with version 1.
        Some(_) | None => (oldest > 1).then_some(Position::before(oldest)),
    };
    let reservations = rows.into_iter().map(|row| {
        Reservation::try_from(ReservationRow {
            id: row.id,
            event_id: row.event_id,
            partner_id: row.partner_id,
            seats: row.seats,
            status: row.status,
            hold_expires_at: row.hold_expires_at,
            reference: row.reference,
            version: row.version,
            created_at: row.created_at,
            idempotency_key: row.idempotency_key,
            request_fingerprint: row.request_fingerprint,
            item: row.item,
        })
    });
    Ok(Page { reservations: reservations.collect::<Result<_, _>>()?, next })
}

/// The version down to which there are about `changes` changes; `None` if there are no more
/// versions.
async fn oldest_of_page(
    connection: &mut PgConnection,
    event_id: &EventId,
    from: Position,
    changes: i64,
) -> Result<Option<i64>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"-- oldest_of_page
        select min(version) as "version?"
          from (
                select version::bigint as version,
                       sum(change_count) over (order by version desc) - change_count as newer
                  from journal
                 where event_id = $1 and version <= $2
                 order by version desc
                 limit $3
               ) as counted
         where newer < $3"#,
        event_id.as_str(),
        from.version,
        changes,
    )
    .fetch_one(connection)
    .await
}

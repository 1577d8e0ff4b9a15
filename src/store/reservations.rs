//! Reads of reservations, and the only conversion from a row to a [`Reservation`].

use sqlx::PgConnection;
use uuid::Uuid;

use crate::domain::{
    EventId, IdempotencyKey, KeyedRequest, PartnerId, Reference, Reservation, ReservationId,
    Status, Timestamp,
};

/// A row of `reservations`, as stored.
pub(super) struct ReservationRow {
    pub id: Uuid,
    pub event_id: String,
    pub partner_id: String,
    pub seats: i32,
    pub status: String,
    pub hold_expires_at: Option<Timestamp>,
    pub reference: Option<String>,
    pub version: i64,
    pub created_at: Timestamp,
    pub idempotency_key: Option<String>,
    pub request_fingerprint: Option<String>,
    pub item: i16,
}

impl TryFrom<ReservationRow> for Reservation {
    type Error = sqlx::Error;

    /// Fails on values that this version of the service cannot have written.
    fn try_from(row: ReservationRow) -> Result<Self, sqlx::Error> {
        let unreadable = |column: &str| {
            sqlx::Error::Decode(format!("reservation {}: unreadable {column}", row.id).into())
        };
        let keyed = match (&row.idempotency_key, row.request_fingerprint) {
            (Some(key), Some(fingerprint)) => Some(KeyedRequest {
                key: IdempotencyKey::parse(key).ok_or_else(|| unreadable("idempotency_key"))?,
                fingerprint: fingerprint.into(),
            }),
            _ => None,
        };
        let reference = match &row.reference {
            Some(text) => Some(Reference::parse(text).ok_or_else(|| unreadable("reference"))?),
            None => None,
        };
        Ok(Self {
            id: ReservationId(row.id),
            event_id: EventId::parse(&row.event_id).ok_or_else(|| unreadable("event_id"))?,
            partner_id: PartnerId::parse(&row.partner_id)
                .ok_or_else(|| unreadable("partner_id"))?,
            seats: row.seats,
            status: Status::parse(&row.status).ok_or_else(|| unreadable("status"))?,
            hold_expires_at: row.hold_expires_at,
            reference,
            version: row.version,
            created_at: row.created_at,
            keyed,
            item: row.item,
        })
    }
}

pub(super) async fn reservation(
    connection: &mut PgConnection,
    id: ReservationId,
    event_id: Option<&EventId>,
) -> Result<Option<Reservation>, sqlx::Error> {
    let row = match event_id {
        Some(event_id) => {
            sqlx::query_as!(
                ReservationRow,
                "-- reservation_of_event
                select id, event_id, partner_id, seats, status, hold_expires_at, reference,
                       version, created_at, idempotency_key, request_fingerprint, item
                  from reservations
                 where id = $1 and event_id = $2",
                id.0,
                event_id.as_str(),
            )
            .fetch_optional(connection)
            .await?
        }
        None => {
            sqlx::query_as!(
                ReservationRow,
                "-- reservation
                select id, event_id, partner_id, seats, status, hold_expires_at, reference,
                       version, created_at, idempotency_key, request_fingerprint, item
                  from reservations
                 where id = $1",
                id.0,
            )
            .fetch_optional(connection)
            .await?
        }
    };
    row.map(Reservation::try_from).transpose()
}

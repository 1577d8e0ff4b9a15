//! What callers ask of an event, already validated.

use std::sync::Arc;

use super::{PartnerId, ReservationId, SeatCount};

/// One request to change an event.
#[derive(Clone, Debug)]
pub enum Command {
    Reserve(Reserve),
    /// Gives a reservation's seats back.
    Cancel(ReservationId),
}

impl Command {
    /// The reservation it makes or changes.
    pub fn reservation_id(&self) -> ReservationId {
        match self {
            Self::Reserve(reserve) => reserve.id,
            Self::Cancel(id) => *id,
        }
    }
}

/// Takes seats for a partner.
#[derive(Clone, Debug)]
pub struct Reserve {
    /// Fixed before anything is sent: whatever is sent again makes the same reservation.
    pub id: ReservationId,
    pub partner_id: PartnerId,
    pub seats: SeatCount,
    pub key: Option<IdempotencyKey>,
}

impl Reserve {
    /// The key together with what was asked under it; `None` without a key.
    pub fn keyed(&self) -> Option<KeyedRequest> {
        self.key.clone().map(|key| KeyedRequest { key, fingerprint: self.fingerprint() })
    }

    /// The request as parsed, in a canonical text: equal texts are the same request. Event and
    /// partner are not in it, since the key is scoped to them. A field that is added later appears
    /// only where it is given, so that fingerprints already stored keep their meaning.
    fn fingerprint(&self) -> Arc<str> {
        format!("seats={}", self.seats.get()).into()
    }
}

/// The caller's name for a request that may be sent more than once: 1 to 255 visible ASCII
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    pub const LENGTH_MAX: usize = 255;

    /// `None` if it is empty, too long, or has anything but visible ASCII in it.
    pub fn parse(text: &str) -> Option<Self> {
        let sane = (1..=Self::LENGTH_MAX).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_graphic());
        sane.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// An idempotency key and the request it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyedRequest {
    pub key: IdempotencyKey,
    /// See [`Reserve::keyed`].
    pub fingerprint: Arc<str>,
}

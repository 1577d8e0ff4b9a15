//! The reservation and the values it is made of. Each type carries its proof: it cannot be built
//! from a value that the contract refuses.

use std::sync::Arc;

use uuid::Uuid;

use super::{EventId, KeyedRequest, Timestamp};

/// A UUIDv7, made by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReservationId(pub Uuid);

/// Who books: 1 to 128 characters, not blank, without control characters. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartnerId(Arc<str>);

impl PartnerId {
    /// Unicode scalar values, not bytes.
    pub const LENGTH_MAX: usize = 128;

    /// `None` if the text is blank, too long, or has a control character in it (NUL among them,
    /// which PostgreSQL could not store).
    pub fn parse(text: &str) -> Option<Self> {
        let sane = !text.trim().is_empty()
            && text.chars().count() <= Self::LENGTH_MAX
            && !text.chars().any(char::is_control);
        sane.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Seats of one reservation, 1 to [`SeatCount::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeatCount(i32);

impl SeatCount {
    pub const MAX: i32 = 10;

    /// `None` outside 1 to [`SeatCount::MAX`].
    pub fn new(seats: i64) -> Option<Self> {
        let seats = i32::try_from(seats).ok()?;
        (1..=Self::MAX).contains(&seats).then_some(Self(seats))
    }

    /// Always positive.
    pub fn get(self) -> i32 {
        self.0
    }
}

/// What has become of a reservation. Held and confirmed ones own their seats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Status {
    Held,
    Confirmed,
    Cancelled,
    Expired,
}

impl Status {
    pub const ALL: [Self; 4] = [Self::Held, Self::Confirmed, Self::Cancelled, Self::Expired];

    /// The word in the API and in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Confirmed => "confirmed",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// Whether seats are taken by a reservation in this status.
    pub fn owns_seats(self) -> bool {
        match self {
            Self::Held | Self::Confirmed => true,
            Self::Cancelled | Self::Expired => false,
        }
    }
}

/// A reservation as it stood at one version of its event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reservation {
    pub id: ReservationId,
    pub event_id: EventId,
    pub partner_id: PartnerId,
    /// Those it was made with; a cancelled one keeps the number.
    pub seats: i32,
    pub status: Status,
    /// The event's version at which it last changed.
    pub version: i64,
    pub created_at: Timestamp,
    /// The idempotency key it was made with, and the request that the key stands for.
    pub keyed: Option<KeyedRequest>,
}

/// What a version did to a reservation, as the journal's `kinds` record it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum ChangeKind {
    Reserved = 1,
    Cancelled = 6,
}

impl ChangeKind {
    pub const ALL: [Self; 2] = [Self::Reserved, Self::Cancelled];

    pub fn parse(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i16 == number)
    }

    /// What a reservation has become by it.
    pub fn status(self) -> Status {
        match self {
            Self::Reserved => Status::Confirmed,
            Self::Cancelled => Status::Cancelled,
        }
    }

    /// How many of the event's seats it takes; less than none if it gives them back.
    pub fn seats_taken(self, seats: i64) -> i64 {
        match self {
            Self::Reserved => seats,
            Self::Cancelled => -seats,
        }
    }
}

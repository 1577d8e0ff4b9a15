//! The reservation and the values it is made of. Each type is valid by construction: it cannot be
//! built from a value that the contract refuses.

use std::sync::Arc;

use uuid::Uuid;

use super::{EventId, KeyedRequest, Reference, Timestamp, is_line};

/// A UUIDv7, made by the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReservationId(pub Uuid);

/// The id of a partner: 1 to 128 characters, not blank, without control characters. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PartnerId(Arc<str>);

impl PartnerId {
    /// Unicode scalar values, not bytes.
    pub const LENGTH_MAX: usize = 128;

    /// `None` if the text is blank, too long, or contains a control character.
    pub fn parse(text: &str) -> Option<Self> {
        (is_line(text, Self::LENGTH_MAX) && !text.trim().is_empty()).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The number of seats of one reservation, 1 to [`SeatCount::MAX`]. An event may allow fewer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SeatCount(i32);

impl SeatCount {
    pub const MAX: i32 = 10_000;
    /// The maximum of an event that does not specify one.
    pub const DEFAULT_MAX: Self = Self(10);

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

/// What has become of a reservation. Held and confirmed reservations own their seats.
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
    /// The seats it owns; if cancelled or expired, those it owned last.
    pub seats: i32,
    pub status: Status,
    /// When the hold ends or was to end; `None` if it was never a hold.
    pub hold_expires_at: Option<Timestamp>,
    pub reference: Option<Reference>,
    /// The event's version at which it last changed.
    pub version: i64,
    pub created_at: Timestamp,
    /// The idempotency key it was made with, and the request that the key stands for.
    pub keyed: Option<KeyedRequest>,
    /// Its position in that request.
    pub item: i16,
}

impl Reservation {
    /// When it expires, or has expired. A confirmed reservation does not expire.
    pub fn ends_at(&self) -> Option<Timestamp> {
        match self.status {
            Status::Held | Status::Expired => self.hold_expires_at,
            Status::Confirmed | Status::Cancelled => None,
        }
    }

    /// Whether it is a hold whose time is over.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.status == Status::Held && self.hold_expires_at.is_some_and(|end| end <= now)
    }
}

/// What a version did to a reservation, as the journal's `kinds` record it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum ChangeKind {
    Reserved = 1,
    Held = 2,
    Confirmed = 3,
    Extended = 4,
    Shrunk = 5,
    Cancelled = 6,
    Expired = 7,
}

impl ChangeKind {
    pub const ALL: [Self; 7] = [
        Self::Reserved,
        Self::Held,
        Self::Confirmed,
        Self::Extended,
        Self::Shrunk,
        Self::Cancelled,
        Self::Expired,
    ];

    /// The word in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Reserved => "reserved",
            Self::Held => "held",
            Self::Confirmed => "confirmed",
            Self::Extended => "extended",
            Self::Shrunk => "shrunk",
            Self::Cancelled => "cancelled",
            Self::Expired => "expired",
        }
    }

    pub fn parse(number: i16) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| *kind as i16 == number)
    }

    /// The reservation's status after the change; `None` if that stays as it was.
    pub fn status(self) -> Option<Status> {
        match self {
            Self::Reserved | Self::Confirmed => Some(Status::Confirmed),
            Self::Held | Self::Extended => Some(Status::Held),
            Self::Shrunk => None,
            Self::Cancelled => Some(Status::Cancelled),
            Self::Expired => Some(Status::Expired),
        }
    }

    /// How many of the event's seats it takes; negative if it gives them back. `seats` is the
    /// number in the journal: the seats that were taken, given back or kept.
    pub fn seats_taken(self, seats: i64) -> i64 {
        match self {
            Self::Reserved | Self::Held => seats,
            Self::Confirmed | Self::Extended => 0,
            Self::Shrunk | Self::Cancelled | Self::Expired => -seats,
        }
    }
}

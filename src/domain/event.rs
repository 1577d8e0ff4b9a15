//! The event: the aggregate that every write goes through.

use std::fmt;
use std::sync::Arc;

use super::{SeatCount, Timestamp, is_line};

/// The public slug of an event: 1 to 64 lower-case letters, digits and inner hyphens. Cheap to
/// clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Arc<str>);

impl EventId {
    /// In bytes, which for a slug are characters.
    pub const LENGTH_MAX: usize = 64;

    /// `None` unless the text matches `^[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?$`.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let slug = bytes.len() <= Self::LENGTH_MAX
            && bytes.first().is_some_and(alphanumeric)
            && bytes.last().is_some_and(alphanumeric)
            && bytes.iter().all(|byte| alphanumeric(byte) || *byte == b'-');
        slug.then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The display name of an event: 1 to 200 characters, not blank, without control characters. Cheap
/// to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventName(Arc<str>);

impl EventName {
    /// Unicode scalar values, not bytes.
    pub const LENGTH_MAX: usize = 200;

    /// `None` if the text is blank, too long, or contains a control character.
    pub fn parse(text: &str) -> Option<Self> {
        (is_line(text, Self::LENGTH_MAX) && !text.trim().is_empty()).then(|| Self(text.into()))
    }

    /// Accepts any name from the table, since it may have been put there by hand.
    pub fn stored(text: &str) -> Self {
        Self(text.into())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The number of seats of an event, 1 to [`TotalSeats::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TotalSeats(i32);

impl TotalSeats {
    pub const MAX: i32 = 10_000_000;

    /// `None` outside 1 to [`TotalSeats::MAX`].
    pub fn new(seats: i64) -> Option<Self> {
        let seats = i32::try_from(seats).ok()?;
        (1..=Self::MAX).contains(&seats).then_some(Self(seats))
    }

    pub fn get(self) -> i32 {
        self.0
    }
}

/// Whether an event is selling.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventStatus {
    OnSale,
    Paused,
    Closed,
    /// On sale, but the sales have reached their end, and a caller has been told so. Setting
    /// another end puts the event on sale again. Callers see it as closed.
    Ended,
}

impl EventStatus {
    pub const ALL: [Self; 4] = [Self::OnSale, Self::Paused, Self::Closed, Self::Ended];

    /// The word in the table.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OnSale => "on_sale",
            Self::Paused => "paused",
            Self::Closed => "closed",
            Self::Ended => "ended",
        }
    }

    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|status| status.as_str() == word)
    }

    /// The word in the API.
    pub fn shown(self) -> &'static str {
        match self {
            Self::Ended => Self::Closed.as_str(),
            Self::OnSale | Self::Paused | Self::Closed => self.as_str(),
        }
    }
}

/// An event as it stood at one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    pub name: EventName,
    pub total_seats: i32,
    pub available_seats: i32,
    /// Seats of holds, including those past their time until they are expired.
    pub held_seats: i32,
    /// The number of confirmed reservations.
    pub reservation_count: i64,
    /// How many seats one reservation may have. Never changes.
    pub seats_per_reservation_max: i32,
    /// How many seats one partner may have, held and booked together. Never changes.
    pub seats_per_partner_max: Option<i32>,
    pub status: EventStatus,
    pub sales_open_at: Option<Timestamp>,
    pub sales_close_at: Option<Timestamp>,
    pub version: i64,
    pub created_at: Timestamp,
}

/// An event to make.
#[derive(Clone, Debug)]
pub struct NewEvent {
    pub id: EventId,
    pub name: EventName,
    pub total_seats: TotalSeats,
    pub seats_per_reservation_max: SeatCount,
    pub seats_per_partner_max: Option<TotalSeats>,
    pub sales_open_at: Option<Timestamp>,
    pub sales_close_at: Option<Timestamp>,
}

/// What a version changes of the event itself; fields that are `None` stay as they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventChange {
    pub name: Option<EventName>,
    pub total_seats: Option<i32>,
    pub status: Option<EventStatus>,
    pub sales_open_at: Option<Option<Timestamp>>,
    pub sales_close_at: Option<Option<Timestamp>>,
}

impl EventChange {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Applies the change to everything except the counters: the decision sets `available_seats`.
    pub fn apply(&self, event: &mut Event) {
        let Self { name, total_seats, status, sales_open_at, sales_close_at } = self.clone();
        event.name = name.unwrap_or_else(|| event.name.clone());
        event.total_seats = total_seats.unwrap_or(event.total_seats);
        event.status = status.unwrap_or(event.status);
        event.sales_open_at = sales_open_at.unwrap_or(event.sales_open_at);
        event.sales_close_at = sales_close_at.unwrap_or(event.sales_close_at);
    }
}

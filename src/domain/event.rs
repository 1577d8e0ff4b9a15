//! The event: the aggregate that every write goes through.

use std::fmt;
use std::sync::Arc;

use super::Timestamp;

/// The public slug of an event: 1 to 64 lower-case letters, digits and inner hyphens. Cheap to
/// clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EventId(Arc<str>);

impl EventId {
    /// Bytes, which for a slug are characters.
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

/// An event as it stood at one version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub id: EventId,
    pub name: Arc<str>,
    pub total_seats: i32,
    pub available_seats: i32,
    /// Confirmed reservations.
    pub reservation_count: i64,
    pub version: i64,
    pub created_at: Timestamp,
}

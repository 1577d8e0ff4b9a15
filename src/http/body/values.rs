//! The types of the fields of bodies: how each is parsed, and what it must be.

use std::borrow::Cow;

use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::FromJson;
use crate::domain::{
    EventId, EventName, EventStatus, HoldTime, PartnerId, Reference, SeatCount, Timestamp,
    TotalSeats,
};

impl FromJson for PartnerId {
    const MUST_BE: &'static str =
        "must be a string of 1 to 128 characters, not blank and without control characters";

    fn from_json(json: &str) -> Option<Self> {
        Self::parse(&text(json)?)
    }
}

impl FromJson for SeatCount {
    const MUST_BE: &'static str =
        "must be a whole number from 1 to the event's maxSeatsPerReservation, such as 3";

    fn from_json(json: &str) -> Option<Self> {
        Self::new(whole_number(json)?)
    }
}

impl FromJson for TotalSeats {
    const MUST_BE: &'static str = "must be a whole number from 1 to 10000000";

    fn from_json(json: &str) -> Option<Self> {
        Self::new(whole_number(json)?)
    }
}

impl FromJson for HoldTime {
    const MUST_BE: &'static str = "must be a whole number from 10 to 86400";

    fn from_json(json: &str) -> Option<Self> {
        Self::new(whole_number(json)?)
    }
}

impl FromJson for Reference {
    const MUST_BE: &'static str =
        "must be a string of 1 to 128 characters without control characters";

    fn from_json(json: &str) -> Option<Self> {
        Self::parse(&text(json)?)
    }
}

impl FromJson for EventId {
    const MUST_BE: &'static str =
        "must be 1 to 64 lower-case letters, digits and hyphens, without a hyphen at either end";

    fn from_json(json: &str) -> Option<Self> {
        Self::parse(&text(json)?)
    }
}

impl FromJson for EventName {
    const MUST_BE: &'static str =
        "must be a string of 1 to 200 characters, not blank and without control characters";

    fn from_json(json: &str) -> Option<Self> {
        Self::parse(&text(json)?)
    }
}

impl FromJson for EventStatus {
    const MUST_BE: &'static str = "must be on_sale, paused or closed";

    fn from_json(json: &str) -> Option<Self> {
        Self::parse(&text(json)?).filter(|status| *status != Self::Ended)
    }
}

/// A time, or `null`.
impl FromJson for Option<Timestamp> {
    const MUST_BE: &'static str =
        "must be null or a time such as 2026-01-31T12:00:00Z (RFC 3339, years 1970 to 9000)";

    fn from_json(json: &str) -> Option<Self> {
        if json == "null" {
            return Some(None);
        }
        let time = OffsetDateTime::parse(&text(json)?, &Rfc3339).ok()?;
        let time = time.checked_to_offset(UtcOffset::UTC)?;
        let sane = (1970..=9000).contains(&time.year());
        // The database keeps no more digits.
        sane.then(|| Some(time.truncate_to_microsecond()))
    }
}

/// Accepts plain integers only: 2.0 and 1e2 are not whole numbers here.
fn whole_number(json: &str) -> Option<i64> {
    json.parse().ok()
}

/// Also fails on lone surrogates, since they are not characters.
pub fn text(json: &str) -> Option<Cow<'_, str>> {
    serde_json::from_str(json).ok()
}

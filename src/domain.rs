//! The decisions of the service, and nothing else.
//!
//! `decide` turns the state of an event and the waiting commands into rows to write and one verdict
//! per command. It is separate so that it can be read, tested and simulated on its own.
//!
//! Invariant: nothing below this module does I/O, reads a clock or draws a random number; time and
//! ids come in as arguments.

use std::iter;

use time::format_description::well_known::Rfc3339;

mod command;
mod decide;
mod decision;
mod event;
mod key;
mod named;
mod reservation;
#[cfg(test)]
mod tests;
mod usage;

pub use command::{
    Action, Alter, ChangeEvent, Command, HoldTime, IdempotencyKey, Item, KeyedRequest,
    PartnerLimits, Precondition, Reference, Reserve,
};
pub use decide::decide;
pub use decision::{Acceptance, Change, Decision, Refusal, Verdict};
pub use event::{Event, EventChange, EventId, EventName, EventStatus, NewEvent, TotalSeats};
pub use key::{Caller, Key, KeyId, KeyName, NewKey, Scope, SecretHash};
pub use named::{DUE_HOLDS_MAX, Named};
pub use reservation::{ChangeKind, PartnerId, Reservation, ReservationId, SeatCount, Status};
pub use usage::{Usage, UsageByPartner};

/// A point in time, in UTC, to the microsecond: the precision that the database stores, so that a
/// later read returns exactly what was answered.
pub type Timestamp = time::OffsetDateTime;

/// The format of all output, always with six decimals: if trailing zeros were dropped, the texts
/// would not sort in order of time, and some clients cannot parse a time without decimals.
pub fn rfc3339(at: Timestamp) -> String {
    const LENGTH: usize = "2026-01-31T12:00:00.123456Z".len();
    let mut text = at.format(&Rfc3339).expect("years of the database's clock have four digits");
    if text.len() < LENGTH {
        text.pop();
        if at.microsecond() == 0 {
            text.push('.');
        }
        text.extend(iter::repeat_n('0', LENGTH - 1 - text.len()));
        text.push('Z');
    }
    text
}

/// Whether a text has at most `length_max` characters (Unicode scalar values, not bytes) and no
/// control characters, among them NUL, which PostgreSQL could not store.
fn is_line(text: &str, length_max: usize) -> bool {
    text.chars().count() <= length_max && !text.chars().any(char::is_control)
}

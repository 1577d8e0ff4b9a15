//! What the service decides, and nothing else.
//!
//! `decide` turns the state of an event and the commands that wait for it into rows to write and
//! one verdict each. It is separate so that it can be read, tested and simulated alone.
//!
//! Invariant: nothing below this module does I/O, reads a clock or draws a random number; time and
//! ids come in as arguments.

mod command;
mod decide;
mod decision;
mod event;
mod named;
mod reservation;

pub use command::{
    Action, Alter, ChangeEvent, Command, HoldTime, IdempotencyKey, Item, KeyedRequest,
    Precondition, Reference, Reserve,
};
pub use decide::decide;
pub use decision::{Acceptance, Change, Decision, Refusal, Verdict};
pub use event::{Event, EventChange, EventId, EventName, EventStatus, NewEvent, TotalSeats};
pub use named::{DUE_HOLDS_MAX, Named};
pub use reservation::{ChangeKind, PartnerId, Reservation, ReservationId, SeatCount, Status};

/// A moment, to the microsecond, in UTC. The database stores no more than that, so that what is
/// answered is what is found later.
pub type Timestamp = time::OffsetDateTime;

//! What a decision says: rows to write, and a verdict for each command.

use super::{ChangeKind, Event, EventChange, EventStatus, KeyId, Reservation, Status, Timestamp};

/// What to write, and what to answer once it is written.
#[derive(Debug, Default)]
pub struct Decision {
    pub changes: Vec<Change>,
    pub event_change: Option<EventChange>,
    /// The key of the operator who changed the event.
    pub event_changed_by: Option<KeyId>,
    /// Seats taken minus seats given back, where seats that the event gains are given back.
    pub net_seats: i32,
    /// By how much the seats of holds move.
    pub net_held: i32,
    /// By how much the number of confirmed reservations moves.
    pub net_confirmed: i64,
    /// One for each command, in their order.
    pub verdicts: Vec<Verdict>,
}

impl Decision {
    /// Whether there is anything to commit.
    pub fn writes(&self) -> bool {
        !self.changes.is_empty() || self.event_change.is_some()
    }
}

/// A row of `reservations` to write.
#[derive(Clone, Debug)]
pub struct Change {
    pub kind: ChangeKind,
    /// Seats taken, given back, or kept, as the kind has it.
    pub seats: i32,
    /// As it is afterwards.
    pub reservation: Reservation,
    /// The version that the row must be at; `None` for a new one.
    pub previous_version: Option<i64>,
    /// The key of the operator who asked for it.
    pub by: Option<KeyId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Holds once the decision is committed.
    Accepted(Acceptance),
    /// The same, where it rests on the clock: then a change that fixes it is part of the decision.
    Refused(Refusal),
    /// Needs an effect of this batch: belongs at the head of the next one.
    Deferred,
}

impl Verdict {
    /// Whether it is true only of a state that was read, and not of one that is remembered: no
    /// version guards it, since it writes nothing, or it needs what is not remembered.
    pub fn needs_a_read(&self) -> bool {
        match self {
            Self::Accepted(acceptance) => acceptance.shows_what_was() || acceptance.is_sweep(),
            Self::Refused(_) => true,
            Self::Deferred => false,
        }
    }

    /// Whether it was refused for what a partner has.
    pub fn is_over_limit(&self) -> bool {
        use Refusal::{TooManyHolds, TooManySeatsOfPartner};
        matches!(self, Self::Refused(TooManyHolds { .. } | TooManySeatsOfPartner { .. }))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// As many as items were asked for, in their order.
    Reserved(Vec<Reservation>),
    /// An earlier request with the same key made these; shown as they are now.
    Replayed(Vec<Reservation>),
    /// Confirmed, extended or shrunk.
    Altered(Reservation),
    /// It was so before: somebody asked twice.
    Unaltered(Reservation),
    Cancelled,
    EventChanged(Event),
    /// It was so before.
    EventUnchanged(Event),
    Swept,
}

impl Acceptance {
    /// Whether it acknowledges what an earlier commit did.
    pub fn shows_what_was(&self) -> bool {
        match self {
            Self::Replayed(_) | Self::Unaltered(_) | Self::EventUnchanged(_) => true,
            Self::Reserved(_)
            | Self::Altered(_)
            | Self::Cancelled
            | Self::EventChanged(_)
            | Self::Swept => false,
        }
    }

    fn is_sweep(&self) -> bool {
        *self == Self::Swept
    }
}

/// Why a command is not granted. Expected, and final for this command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// The event has no such slug behind it.
    EventNotFound,
    /// Fewer seats are left than were asked for.
    InsufficientSeats {
        available_seats: i32,
        /// When the next hold ends, whose seats may come back then.
        next_hold_expires_at: Option<Timestamp>,
    },
    /// The event sells nothing now.
    SalesClosed {
        status: EventStatus,
        sales_open_at: Option<Timestamp>,
        sales_close_at: Option<Timestamp>,
    },
    /// More than one reservation of this event may have.
    TooManySeats {
        /// Which of the items of a list asks for more; `None` where it is no list.
        item: Option<usize>,
        seats_max: i32,
    },
    /// The partner would have more holds than it may have.
    TooManyHolds { used: i64, max: i64 },
    /// The partner would have more seats than the event lets one have.
    TooManySeatsOfPartner { used: i64, max: i64 },
    /// Unknown in this event; for a cancel also: no longer active.
    ReservationNotFound,
    /// A hold whose time was over before it was confirmed.
    HoldExpired,
    /// The status does not allow it.
    ReservationNotActive { status: Status },
    /// A reservation can only get smaller.
    CannotGrow { seats: i32 },
    /// More seats than that are sold or held.
    CapacityBelowSold { taken_seats: i32 },
    /// The end of the sales is not after their beginning.
    SalesWindowEmpty,
    /// It is at another version than the caller wants it to be.
    PreconditionFailed { version: i64 },
    /// The key was used for another request.
    IdempotencyKeyReused,
}

//! The result of a decision: rows to write, and a verdict for each command.

use super::{ChangeKind, Event, EventChange, EventStatus, KeyId, Reservation, Status, Timestamp};

/// What to write, and what to answer once it is written.
#[derive(Debug, Default)]
pub struct Decision {
    pub changes: Vec<Change>,
    pub event_change: Option<EventChange>,
    /// The key of the operator who changed the event.
    pub event_changed_by: Option<KeyId>,
    /// Seats taken minus seats given back; seats that the event gains count as given back.
    pub net_seats: i32,
    /// The change in the number of held seats.
    pub net_held: i32,
    /// The change in the number of confirmed reservations.
    pub net_confirmed: i64,
    /// One for each command, in the order of the commands.
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
    /// Seats taken, given back or kept, depending on the kind.
    pub seats: i32,
    /// The reservation after the change.
    pub reservation: Reservation,
    /// The version at which the row must still be; `None` for a new row.
    pub previous_version: Option<i64>,
    /// The key of the operator who asked for it.
    pub by: Option<KeyId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// True once the decision is committed.
    Accepted(Acceptance),
    /// Likewise, if it depends on the clock: the decision then includes the change that makes it
    /// permanent.
    Refused(Refusal),
    /// Needs an effect of this batch, so it belongs at the head of the next one.
    Deferred,
}

impl Verdict {
    /// Whether it requires a state that was read, not one that is remembered: it writes nothing, so
    /// no version guards it, or it needs something that is not remembered.
    pub fn needs_a_read(&self) -> bool {
        match self {
            Self::Accepted(acceptance) => acceptance.shows_what_was() || acceptance.is_sweep(),
            Self::Refused(_) => true,
            Self::Deferred => false,
        }
    }

    /// Whether it was refused because of what the partner already has.
    pub fn is_over_limit(&self) -> bool {
        use Refusal::{TooManyHolds, TooManySeatsOfPartner};
        matches!(self, Self::Refused(TooManyHolds { .. } | TooManySeatsOfPartner { .. }))
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Acceptance {
    /// One reservation for each item, in the order of the items.
    Reserved(Vec<Reservation>),
    /// Made by an earlier request with the same key; shown as they are now.
    Replayed(Vec<Reservation>),
    /// Confirmed, extended or shrunk.
    Altered(Reservation),
    /// It was already as requested: the request was repeated.
    Unaltered(Reservation),
    Cancelled,
    EventChanged(Event),
    /// The event was already as requested.
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
    /// There is no event with this id.
    EventNotFound,
    /// Fewer seats are left than were asked for.
    InsufficientSeats {
        available_seats: i32,
        /// When the next hold ends, whose seats may then become available.
        next_hold_expires_at: Option<Timestamp>,
    },
    /// The event is not selling now.
    SalesClosed {
        status: EventStatus,
        sales_open_at: Option<Timestamp>,
        sales_close_at: Option<Timestamp>,
    },
    /// More seats than one reservation of this event may have.
    TooManySeats {
        /// Which item of a list asks for too many; `None` if the request is not a list.
        item: Option<usize>,
        seats_max: i32,
    },
    /// The partner would have more holds than it may have at once.
    TooManyHolds { used: i64, max: i64 },
    /// The partner would have more seats than the event allows one partner.
    TooManySeatsOfPartner { used: i64, max: i64 },
    /// No such reservation in this event; for a cancel, also one that is no longer active.
    ReservationNotFound,
    /// The hold's time was over before it was confirmed.
    HoldExpired,
    /// The reservation's status does not allow the change.
    ReservationNotActive { status: Status },
    /// A reservation can only shrink.
    CannotGrow { seats: i32 },
    /// More seats are sold or held than the event would have.
    CapacityBelowSold { taken_seats: i32 },
    /// Sales would not end after they begin.
    SalesWindowEmpty,
    /// The current version is not one that the caller named.
    PreconditionFailed { version: i64 },
    /// The key was used for a different request.
    IdempotencyKeyReused,
}

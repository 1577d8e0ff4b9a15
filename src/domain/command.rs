//! What callers ask of an event, already validated.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use super::{
    Caller, Event, EventName, EventStatus, PartnerId, ReservationId, SeatCount, Timestamp,
    TotalSeats, is_line,
};

/// One request to change an event.
#[derive(Clone, Debug)]
pub enum Command {
    Reserve(Reserve),
    Alter(Alter),
    ChangeEvent(ChangeEvent),
    /// Expires holds that are past their time. Only housekeeping: a decision that needs their seats
    /// expires them itself.
    Sweep,
}

impl Command {
    /// The reservation that the command makes (the first of several) or alters.
    pub fn reservation_id(&self) -> Option<ReservationId> {
        match self {
            Self::Reserve(reserve) => reserve.items.first().map(|item| item.id),
            Self::Alter(alter) => Some(alter.id),
            Self::ChangeEvent(_) | Self::Sweep => None,
        }
    }

    /// The caller that the command comes from.
    pub fn caller(&self) -> &Caller {
        match self {
            Self::Reserve(Reserve { by, .. })
            | Self::Alter(Alter { by, .. })
            | Self::ChangeEvent(ChangeEvent { by, .. }) => by,
            Self::Sweep => &Caller::Anybody,
        }
    }

    /// The partner whose usage must be known to decide this command, if any.
    pub fn limited_partner(&self, event: &Event) -> Option<&PartnerId> {
        match self {
            Self::Reserve(reserve) => reserve.limited_partner(event),
            Self::Alter(_) | Self::ChangeEvent(_) | Self::Sweep => None,
        }
    }

    /// Rows that it counts for in a batch and in turns; holds that it expires do not count.
    pub fn rows(&self) -> usize {
        match self {
            Self::Reserve(reserve) => reserve.items.len(),
            Self::Alter(_) | Self::ChangeEvent(_) | Self::Sweep => 1,
        }
    }

    /// The most seats it may need from those that are available: if there are fewer, holds past
    /// their time have to cover the rest.
    pub fn seats_wanted(&self) -> i64 {
        match self {
            Self::Reserve(reserve) => reserve.seats().into(),
            Self::Alter(_) => 0,
            // Neither the seats that the event loses nor those of due holds are known here.
            Self::ChangeEvent(change) => change.total_seats.map_or(0, |_| i64::MAX),
            Self::Sweep => i64::MAX,
        }
    }
}

/// Takes seats for a partner, for all items or for none.
#[derive(Clone, Debug)]
pub struct Reserve {
    pub partner_id: PartnerId,
    /// At least one.
    pub items: Vec<Item>,
    /// Whether the request was a list: a list of one item is not the same request as that item
    /// alone.
    pub is_list: bool,
    pub key: Option<IdempotencyKey>,
    /// Compared with the version of the event.
    pub precondition: Precondition,
    pub by: Caller,
    /// The limits of the partner; `None` without access control, where anyone can use any partner
    /// id.
    pub limits: Option<PartnerLimits>,
}

/// Limits on what one partner may have of an event, in addition to the event's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartnerLimits {
    /// Holds that have not ended.
    pub open_holds_max: u32,
}

/// A reservation to make.
#[derive(Clone, Debug)]
pub struct Item {
    /// Fixed before the first send, so that a batch that is resent makes the same reservation.
    pub id: ReservationId,
    pub seats: SeatCount,
    /// How long to hold the seats; `None` books them.
    pub hold: Option<HoldTime>,
    pub reference: Option<Reference>,
}

impl Reserve {
    /// The total of all items.
    pub fn seats(&self) -> i32 {
        self.items.iter().map(|item| item.seats.get()).sum()
    }

    /// The partner, if its usage must be known to decide this.
    pub fn limited_partner(&self, event: &Event) -> Option<&PartnerId> {
        self.limits?;
        let counts = event.seats_per_partner_max.is_some() || self.has_holds();
        counts.then_some(&self.partner_id)
    }

    pub fn has_holds(&self) -> bool {
        self.items.iter().any(|item| item.hold.is_some())
    }

    /// The idempotency key together with the request it stands for; `None` without a key.
    pub fn keyed(&self) -> Option<KeyedRequest> {
        self.key.clone().map(|key| KeyedRequest { key, fingerprint: self.fingerprint() })
    }

    /// The request as parsed, as a canonical text: equal texts are the same request. Event and
    /// partner are left out, since the key is scoped to them. A field that is added later must
    /// appear only where it is given, so that fingerprints already stored keep their meaning.
    fn fingerprint(&self) -> Arc<str> {
        let mut text = if self.is_list { "items".to_owned() } else { String::new() };
        for item in &self.items {
            let separator = if text.is_empty() { "" } else { ";" };
            write!(text, "{separator}seats={}", item.seats.get()).expect("it is a text");
            if let Some(hold) = item.hold {
                write!(text, ",hold={}", hold.seconds()).expect("it is a text");
            }
            if let Some(reference) = &item.reference {
                // With its length, since the text may contain the separators.
                let reference = reference.as_str();
                write!(text, ",reference={}:{reference}", reference.len()).expect("it is a text");
            }
        }
        text.into()
    }
}

/// Changes a reservation.
#[derive(Clone, Debug)]
pub struct Alter {
    pub id: ReservationId,
    pub action: Action,
    /// Compared with the reservation's own version.
    pub precondition: Precondition,
    pub by: Caller,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Turns a hold into a booking.
    Confirm,
    /// Moves the end of a hold to this long from now.
    Extend(HoldTime),
    /// Keeps this many seats and gives the rest back.
    Shrink(SeatCount),
    /// Gives all seats back.
    Cancel,
}

/// Changes the event itself. Fields that are `None` stay as they are.
#[derive(Clone, Debug, Default)]
pub struct ChangeEvent {
    pub name: Option<EventName>,
    pub total_seats: Option<TotalSeats>,
    pub status: Option<EventStatus>,
    /// `Some(None)` removes the limit.
    pub sales_open_at: Option<Option<Timestamp>>,
    /// `Some(None)` removes the limit.
    pub sales_close_at: Option<Option<Timestamp>>,
    /// Compared with the version of the event.
    pub precondition: Precondition,
    pub by: Caller,
}

impl ChangeEvent {
    /// Whether no change is requested.
    pub fn is_empty(&self) -> bool {
        self.name.is_none()
            && self.total_seats.is_none()
            && self.status.is_none()
            && self.sales_open_at.is_none()
            && self.sales_close_at.is_none()
    }
}

/// The versions at which a change is wanted at all (RFC 9110, `If-Match`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Precondition {
    /// Any version.
    #[default]
    Any,
    /// One of these versions.
    Versions(Arc<[i64]>),
}

impl Precondition {
    pub fn allows(&self, version: i64) -> bool {
        match self {
            Self::Any => true,
            Self::Versions(versions) => versions.contains(&version),
        }
    }
}

/// How long seats are held: 10 seconds to a day.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HoldTime(u32);

impl HoldTime {
    pub const SECONDS_MIN: u32 = 10;
    pub const SECONDS_MAX: u32 = 86_400;

    /// `None` outside [`HoldTime::SECONDS_MIN`] to [`HoldTime::SECONDS_MAX`].
    pub fn new(seconds: i64) -> Option<Self> {
        let seconds = u32::try_from(seconds).ok()?;
        (Self::SECONDS_MIN..=Self::SECONDS_MAX).contains(&seconds).then_some(Self(seconds))
    }

    pub fn seconds(self) -> u32 {
        self.0
    }

    pub fn duration(self) -> Duration {
        Duration::from_secs(self.0.into())
    }
}

/// The partner's own text on a reservation: 1 to 128 characters without control characters. Cheap
/// to clone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference(Arc<str>);

impl Reference {
    /// Unicode scalar values, not bytes.
    pub const LENGTH_MAX: usize = 128;

    /// `None` if the text is empty, too long, or contains a control character.
    pub fn parse(text: &str) -> Option<Self> {
        (is_line(text, Self::LENGTH_MAX) && !text.is_empty()).then(|| Self(text.into()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The caller's name for a request that may be sent more than once: 1 to 255 visible ASCII
/// characters.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(Arc<str>);

impl IdempotencyKey {
    pub const LENGTH_MAX: usize = 255;

    /// `None` if the text is empty, too long, or contains anything but visible ASCII.
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
    /// See [`Reserve::keyed`]. Of the reservations of one request, the first has it; it is empty in
    /// the others.
    pub fingerprint: Arc<str>,
}

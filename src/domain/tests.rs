//! Values at their limits, and the meaning of words, kinds and commands. Decisions are tested
//! beside `decide`.

use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::*;

const NOW: Timestamp = OffsetDateTime::UNIX_EPOCH;
const LATE: Timestamp = NOW.saturating_add(Duration::hours(1));

/// A text of this many characters, of two bytes each.
fn long(characters: usize) -> String {
    "ä".repeat(characters)
}

pub(super) fn partner(name: &str) -> PartnerId {
    PartnerId::parse(name).expect("a partner id")
}

fn key_id(digit: char) -> KeyId {
    KeyId::parse(&digit.to_string().repeat(KeyId::LENGTH)).expect("an id of a key")
}

pub(super) fn event() -> Event {
    Event {
        id: EventId::parse("hot").expect("a slug"),
        name: EventName::parse("Hot").expect("a name"),
        total_seats: 10,
        available_seats: 6,
        held_seats: 1,
        reservation_count: 3,
        seats_per_reservation_max: 10,
        seats_per_partner_max: None,
        status: EventStatus::OnSale,
        sales_open_at: Some(NOW),
        sales_close_at: Some(LATE),
        version: 5,
        created_at: NOW,
    }
}

fn item(number: u128, seats: i64) -> Item {
    let seats = SeatCount::new(seats).expect("a seat count");
    Item { id: ReservationId(Uuid::from_u128(number)), seats, hold: None, reference: None }
}

fn reserve(items: Vec<Item>) -> Reserve {
    Reserve {
        partner_id: partner("abc-corp"),
        items,
        is_list: false,
        key: IdempotencyKey::parse("order-1"),
        precondition: Precondition::Any,
        by: Caller::Partner(partner("abc-corp")),
        limits: None,
    }
}

pub(super) fn hold_of(name: &str) -> Reservation {
    Reservation {
        id: ReservationId(Uuid::from_u128(1)),
        event_id: event().id,
        partner_id: partner(name),
        seats: 1,
        status: Status::Held,
        hold_expires_at: Some(LATE),
        reference: None,
        version: 1,
        created_at: NOW,
        keyed: None,
        item: 0,
    }
}

#[test]
fn moments_are_shown_in_one_form() {
    let cases = [
        (0, "1970-01-01T00:00:00.000000Z"),
        (1, "1970-01-01T00:00:00.000001Z"),
        (500_000, "1970-01-01T00:00:00.500000Z"),
        (1_000_010, "1970-01-01T00:00:01.000010Z"),
        (1_123_456, "1970-01-01T00:00:01.123456Z"),
    ];
    for (microseconds, shown) in cases {
        assert_eq!(rfc3339(NOW + Duration::microseconds(microseconds)), shown);
    }
}

#[test]
fn texts_have_limits_in_characters() {
    type Text = (fn(&str) -> Option<String>, usize);
    let texts: [Text; 4] = [
        (|text| Some(PartnerId::parse(text)?.as_str().into()), PartnerId::LENGTH_MAX),
        (|text| Some(EventName::parse(text)?.as_str().into()), EventName::LENGTH_MAX),
        (|text| Some(KeyName::parse(text)?.as_str().into()), KeyName::LENGTH_MAX),
        (|text| Some(Reference::parse(text)?.as_str().into()), Reference::LENGTH_MAX),
    ];
    for (parse, length_max) in texts {
        for text in ["a", " a b ", &long(length_max)] {
            assert_eq!(parse(text).as_deref(), Some(text));
        }
        for text in ["", "a\0", "a\nb", "\u{7f}", &long(length_max + 1)] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }
    let blank = " \u{3000}";
    assert_eq!(PartnerId::parse(blank), None);
    assert_eq!(EventName::parse(blank), None);
    assert_eq!(KeyName::parse(blank), None);
    assert!(Reference::parse(blank).is_some());
    // A name that was put into the table by hand is shown as it is.
    assert_eq!(EventName::stored("a\nb").as_str(), "a\nb");
}

#[test]
fn slugs_and_keys_are_of_few_characters() {
    for text in ["a", "7", "a-7", "a--b", &"z".repeat(64)] {
        let id = EventId::parse(text).expect(text);
        assert_eq!((id.as_str(), id.to_string().as_str()), (text, text));
    }
    for text in ["", "-", "-a", "a-", "A", "a_b", "a b", "ä", &"z".repeat(65)] {
        assert_eq!(EventId::parse(text), None, "{text:?}");
    }
    for text in ["!", "~", &"k".repeat(255)] {
        assert_eq!(IdempotencyKey::parse(text).expect(text).as_str(), text);
    }
    for text in ["", " ", "a b", "\u{7f}", "ä", &"k".repeat(256)] {
        assert_eq!(IdempotencyKey::parse(text), None, "{text:?}");
    }
    let text = "0123456789abcdef";
    let id = KeyId::parse(text).expect(text);
    assert_eq!((id.as_str(), id.to_string().as_str()), (text, text));
    for text in ["", "0123456789abcde", "0123456789abcdef0", "0123456789abcdeg", "0123456789ABCDEF"]
    {
        assert_eq!(KeyId::parse(text), None, "{text:?}");
    }
}

#[test]
fn numbers_have_limits() {
    let beyond = i64::from(u32::MAX) + 11;
    for (seconds, parsed) in [(9, None), (10, Some(10)), (86_400, Some(86_400)), (86_401, None)] {
        assert_eq!(HoldTime::new(seconds).map(HoldTime::seconds), parsed);
    }
    assert_eq!(HoldTime::new(90).map(HoldTime::duration), Some(std::time::Duration::from_secs(90)));
    for (seats, parsed) in [(0, None), (1, Some(1)), (10_000, Some(10_000)), (10_001, None)] {
        assert_eq!(SeatCount::new(seats).map(SeatCount::get), parsed);
    }
    for (seats, parsed) in [(0, None), (1, Some(1)), (10_000_000, Some(10_000_000))] {
        assert_eq!(TotalSeats::new(seats).map(TotalSeats::get), parsed);
    }
    assert_eq!(TotalSeats::new(10_000_001), None);
    for beyond in [-10, beyond, i64::MAX] {
        assert_eq!(HoldTime::new(beyond), None);
        assert_eq!(SeatCount::new(beyond), None);
        assert_eq!(TotalSeats::new(beyond), None);
    }
}

#[test]
fn words_stand_for_one_thing_each() {
    let words = EventStatus::ALL.map(EventStatus::as_str);
    assert_eq!(words, ["on_sale", "paused", "closed", "ended"]);
    assert_eq!(words.map(EventStatus::parse), EventStatus::ALL.map(Some));
    assert_eq!(EventStatus::ALL.map(EventStatus::shown), ["on_sale", "paused", "closed", "closed"]);
    assert_eq!(EventStatus::parse("sold_out"), None);

    let words = Status::ALL.map(Status::as_str);
    assert_eq!(words, ["held", "confirmed", "cancelled", "expired"]);
    assert_eq!(words.map(Status::parse), Status::ALL.map(Some));
    assert_eq!(Status::ALL.map(Status::owns_seats), [true, true, false, false]);
    assert_eq!(Status::parse("booked"), None);

    let abc = || Some(partner("abc-corp"));
    for (word, partner_id) in Scope::WORDS.into_iter().zip([abc(), None, None]) {
        assert_eq!(Scope::of(word, partner_id).expect(word).as_str(), word);
    }
    for (word, partner_id) in
        [("partner", None), ("read", abc()), ("operator", abc()), ("root", None)]
    {
        assert_eq!(Scope::of(word, partner_id), None, "{word}");
    }
}

#[test]
fn kinds_say_what_they_do() {
    use ChangeKind::*;
    let kinds = [
        (1, Reserved, "reserved", Some(Status::Confirmed), 3),
        (2, Held, "held", Some(Status::Held), 3),
        (3, Confirmed, "confirmed", Some(Status::Confirmed), 0),
        (4, Extended, "extended", Some(Status::Held), 0),
        (5, Shrunk, "shrunk", None, -3),
        (6, Cancelled, "cancelled", Some(Status::Cancelled), -3),
        (7, Expired, "expired", Some(Status::Expired), -3),
    ];
    assert_eq!(kinds.map(|(_, kind, ..)| kind), ChangeKind::ALL);
    for (number, kind, word, status, seats) in kinds {
        assert_eq!(ChangeKind::parse(number), Some(kind));
        assert_eq!((kind.as_str(), kind.status(), kind.seats_taken(3)), (word, status, seats));
    }
    assert_eq!((ChangeKind::parse(0), ChangeKind::parse(8)), (None, None));
}

#[test]
fn callers_touch_what_is_theirs() {
    let abc = partner("abc-corp");
    let callers = [
        (Caller::Anybody, true, None),
        (Caller::Partner(abc.clone()), true, None),
        (Caller::Partner(partner("other")), false, None),
        (Caller::Operator(key_id('a')), true, Some(key_id('a'))),
    ];
    for (caller, may_touch, key) in callers {
        assert_eq!(caller.may_touch(&abc), may_touch, "{caller:?}");
        assert_eq!(caller.operator_key(), key.as_ref());
    }
}

#[test]
fn preconditions_name_versions() {
    assert!(Precondition::Any.allows(7));
    let two = Precondition::Versions([5, 7].into());
    assert!(two.allows(5) && two.allows(7) && !two.allows(6));
    assert!(!Precondition::Versions([].into()).allows(0));
}

#[test]
fn commands_say_what_they_need() {
    let by = Caller::Partner(partner("abc-corp"));
    let two = Command::Reserve(reserve(vec![item(1, 3), item(2, 4)]));
    let id = ReservationId(Uuid::from_u128(1));
    let alter = Command::Alter(Alter {
        id,
        action: Action::Cancel,
        precondition: Precondition::Any,
        by: by.clone(),
    });
    let change = |total_seats| {
        let by = Caller::Operator(key_id('a'));
        Command::ChangeEvent(ChangeEvent { total_seats, by, ..ChangeEvent::default() })
    };
    let (resize, rename) = (change(TotalSeats::new(5)), change(None));
    let operator = Caller::Operator(key_id('a'));
    let needs = [
        (two, Some(id), by.clone(), 2, 7),
        (alter, Some(id), by, 1, 0),
        (resize, None, operator.clone(), 1, i64::MAX),
        (rename, None, operator, 1, 0),
        (Command::Sweep, None, Caller::Anybody, 1, i64::MAX),
    ];
    for (command, id, caller, rows, seats) in needs {
        assert_eq!(command.reservation_id(), id, "{command:?}");
        assert_eq!(command.caller(), &caller);
        assert_eq!((command.rows(), command.seats_wanted()), (rows, seats), "{command:?}");
        assert_eq!(command.limited_partner(&event()), None);
    }
}

/// Only with access control, and only if the event limits partners or the request has a hold.
#[test]
fn what_a_partner_has_counts_where_it_is_limited() {
    let limits = Some(PartnerLimits { open_holds_max: 1 });
    let limiting = Event { seats_per_partner_max: Some(4), ..event() };
    let hold = Item { hold: HoldTime::new(60), ..item(2, 1) };
    let (booking, hold) = (reserve(vec![item(1, 1)]), reserve(vec![item(1, 1), hold]));
    assert!(!booking.has_holds() && hold.has_holds());
    let abc = partner("abc-corp");
    for (reserve, limits, event, partner_id) in [
        (&booking, limits, &limiting, Some(&abc)),
        (&booking, limits, &event(), None),
        (&booking, None, &limiting, None),
        (&hold, limits, &event(), Some(&abc)),
        (&hold, None, &limiting, None),
    ] {
        let command = Command::Reserve(Reserve { limits, ..reserve.clone() });
        assert_eq!(command.limited_partner(event), partner_id, "{command:?}");
    }
}

/// Fingerprints are stored: a request from years ago must give the same text today.
#[test]
fn fingerprints_tell_requests_apart() {
    let full = Item { hold: HoldTime::new(60), reference: Reference::parse("ä;1"), ..item(2, 4) };
    let list = |items| Reserve { is_list: true, ..reserve(items) };
    for (reserve, fingerprint) in [
        (reserve(vec![item(1, 3)]), "seats=3"),
        (list(vec![item(1, 3)]), "items;seats=3"),
        (reserve(vec![full.clone()]), "seats=4,hold=60,reference=4:ä;1"),
        (list(vec![item(1, 3), full]), "items;seats=3;seats=4,hold=60,reference=4:ä;1"),
    ] {
        let keyed = reserve.keyed().expect("it has a key");
        assert_eq!((keyed.key.as_str(), &*keyed.fingerprint), ("order-1", fingerprint));
    }
    assert_eq!(Reserve { key: None, ..reserve(vec![item(1, 3)]) }.keyed(), None);
}

#[test]
fn changes_of_an_event_leave_the_rest_as_it_is() {
    let unchanged = |change: EventChange, expected: Event| {
        let mut event = event();
        change.apply(&mut event);
        assert_eq!(event, expected);
        change.is_empty()
    };
    assert!(unchanged(EventChange::default(), event()));
    let name = EventName::parse("Cold");
    let renamed = Event { name: name.clone().expect("a name"), ..event() };
    assert!(!unchanged(EventChange { name, ..EventChange::default() }, renamed));
    let paused = Some(EventStatus::Paused);
    let change = EventChange {
        total_seats: Some(20),
        status: paused,
        sales_open_at: Some(None),
        sales_close_at: Some(Some(NOW)),
        ..EventChange::default()
    };
    let changed = Event {
        total_seats: 20,
        status: EventStatus::Paused,
        sales_open_at: None,
        sales_close_at: Some(NOW),
        ..event()
    };
    assert!(!unchanged(change, changed));

    assert!(ChangeEvent::default().is_empty());
    for change in [
        ChangeEvent { name: EventName::parse("Cold"), ..ChangeEvent::default() },
        ChangeEvent { total_seats: TotalSeats::new(5), ..ChangeEvent::default() },
        ChangeEvent { status: paused, ..ChangeEvent::default() },
        ChangeEvent { sales_open_at: Some(None), ..ChangeEvent::default() },
        ChangeEvent { sales_close_at: Some(None), ..ChangeEvent::default() },
    ] {
        assert!(!change.is_empty(), "{change:?}");
    }
}

#[test]
fn holds_end_and_bookings_last() {
    let hold = hold_of("abc-corp");
    let before = LATE.saturating_sub(Duration::microseconds(1));
    for (status, ends, is_due) in [
        (Status::Held, true, true),
        (Status::Confirmed, false, false),
        (Status::Cancelled, false, false),
        (Status::Expired, true, false),
    ] {
        let reservation = Reservation { status, ..hold.clone() };
        assert_eq!(reservation.ends_at(), ends.then_some(LATE), "{status:?}");
        assert!(!reservation.is_due(before));
        assert_eq!(reservation.is_due(LATE), is_due, "{status:?}");
    }
}

#[test]
fn what_a_key_has_made_is_in_the_order_of_its_items() {
    let mut named = Named::default();
    let made = |number: i16| Reservation {
        id: ReservationId(Uuid::from_u128(7 - number as u128)),
        item: number,
        keyed: reserve(vec![item(1, 1)]).keyed(),
        ..hold_of("abc-corp")
    };
    for number in [2, 0, 3, 1, 2, 0] {
        named.insert(made(number));
    }
    let key = IdempotencyKey::parse("order-1").expect("a key");
    let items = named.by_key(&partner("abc-corp"), &key);
    assert_eq!(items, [0, 1, 2, 3].map(made).iter().collect::<Vec<_>>());
    assert!(named.by_key(&partner("other"), &key).is_empty());
    assert_eq!(named.by_id(made(3).id), Some(&made(3)));
    // Oldest first; holds that end at the same time are in the order of their ids.
    let due: Vec<i16> = named.due(LATE).iter().map(|hold| hold.item).collect();
    assert_eq!(due, [3, 2, 1, 0]);
    assert!(named.due(NOW).is_empty());
}

/// Remembered state is good enough for what the version guards, and for nothing else.
#[test]
fn what_writes_needs_no_read() {
    use Acceptance::*;
    for (verdict, needs_a_read) in [
        (Verdict::Accepted(Reserved(vec![hold_of("abc-corp")])), false),
        (Verdict::Accepted(Altered(hold_of("abc-corp"))), false),
        (Verdict::Accepted(Cancelled), false),
        (Verdict::Accepted(EventChanged(event())), false),
        (Verdict::Deferred, false),
        (Verdict::Accepted(Replayed(vec![hold_of("abc-corp")])), true),
        (Verdict::Accepted(Unaltered(hold_of("abc-corp"))), true),
        (Verdict::Accepted(EventUnchanged(event())), true),
        (Verdict::Accepted(Swept), true),
        (Verdict::Refused(Refusal::EventNotFound), true),
    ] {
        assert_eq!(verdict.needs_a_read(), needs_a_read, "{verdict:?}");
    }
}

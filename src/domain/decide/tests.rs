//! Table-driven tests of single decisions, and properties of all decisions.

use proptest::prelude::*;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::*;
use crate::domain::{
    Action, Alter, ChangeEvent, EventChange, EventId, EventName, EventStatus, HoldTime, Item,
    Reference, SeatCount, TotalSeats,
};

mod access;
mod event;
mod properties;

const NOW: Timestamp = OffsetDateTime::UNIX_EPOCH;
const SOON: Timestamp = NOW.saturating_add(Duration::seconds(1));
const LATE: Timestamp = NOW.saturating_add(Duration::hours(1));
const PAST: Timestamp = NOW.saturating_sub(Duration::seconds(1));

fn event(available_seats: i32) -> Event {
    Event {
        id: EventId::parse("hot").expect("a slug"),
        name: EventName::parse("Hot").expect("a name"),
        total_seats: 1000,
        available_seats,
        held_seats: 100,
        reservation_count: 70,
        seats_per_reservation_max: 10,
        seats_per_partner_max: None,
        status: EventStatus::OnSale,
        sales_open_at: None,
        sales_close_at: None,
        version: 41,
        created_at: PAST,
    }
}

fn id(number: u128) -> ReservationId {
    ReservationId(Uuid::from_u128(number))
}

fn partner(name: &str) -> PartnerId {
    PartnerId::parse(name).expect("a partner id")
}

fn item(number: u128, seats: i32) -> Item {
    let seats = SeatCount::new(seats.into()).expect("a seat count");
    Item { id: id(1_000_000 + number), seats, hold: None, reference: None }
}

/// A booking, with ids that no earlier reservation has.
fn reserve_all(items: Vec<Item>, key: Option<&str>, precondition: Precondition) -> Command {
    Command::Reserve(Reserve {
        partner_id: partner("abc-corp"),
        is_list: items.len() > 1,
        items,
        key: key.map(|key| IdempotencyKey::parse(key).expect("a key")),
        precondition,
        by: Caller::Anybody,
        limits: None,
    })
}

fn reserve(number: u128, seats: i32, key: Option<&str>) -> Command {
    reserve_all(vec![item(number, seats)], key, Precondition::Any)
}

fn hold(number: u128, seats: i32) -> Command {
    let hold = HoldTime::new(60);
    reserve_all(vec![Item { hold, ..item(number, seats) }], None, Precondition::Any)
}

fn at_version(version: i64) -> Precondition {
    Precondition::Versions([version].into())
}

fn alter(number: u128, action: Action) -> Command {
    Command::Alter(Alter {
        id: id(number),
        action,
        precondition: Precondition::Any,
        by: Caller::Anybody,
    })
}

fn cancel(number: u128) -> Command {
    alter(number, Action::Cancel)
}

fn confirm(number: u128) -> Command {
    alter(number, Action::Confirm)
}

fn extend(number: u128, seconds: i64) -> Command {
    alter(number, Action::Extend(HoldTime::new(seconds).expect("a hold time")))
}

fn shrink(number: u128, seats: i64) -> Command {
    alter(number, Action::Shrink(SeatCount::new(seats).expect("a seat count")))
}

fn resize(seats: i64) -> Command {
    let total_seats = TotalSeats::new(seats);
    Command::ChangeEvent(ChangeEvent { total_seats, ..ChangeEvent::default() })
}

fn switch(status: EventStatus) -> Command {
    Command::ChangeEvent(ChangeEvent { status: Some(status), ..ChangeEvent::default() })
}

fn stored(number: u128, seats: i32, status: Status, key: Option<&str>) -> Reservation {
    Reservation {
        id: id(number),
        event_id: event(0).id,
        partner_id: partner("abc-corp"),
        seats,
        status,
        hold_expires_at: (status == Status::Held).then_some(LATE),
        reference: None,
        version: 40,
        created_at: PAST,
        keyed: key.map(|key| KeyedRequest {
            key: IdempotencyKey::parse(key).expect("a key"),
            fingerprint: format!("seats={seats}").into(),
        }),
        item: 0,
    }
}

fn held_until(number: u128, seats: i32, end: Timestamp) -> Reservation {
    Reservation { hold_expires_at: Some(end), ..stored(number, seats, Status::Held, None) }
}

fn named(reservations: &[Reservation]) -> Named {
    let mut named = Named::default();
    for reservation in reservations {
        named.insert(reservation.clone());
    }
    named
}

fn decided_on(event: &Event, stored: &[Reservation], commands: &[Command]) -> Decision {
    let commands: Vec<&Command> = commands.iter().collect();
    decide(event, &named(stored), &UsageByPartner::default(), NOW, &commands)
}

fn decided(available_seats: i32, stored: &[Reservation], commands: &[Command]) -> Decision {
    decided_on(&event(available_seats), stored, commands)
}

/// Decides, and compares the net seats and the verdicts in short form (see [`short`]).
fn check_on(
    event: &Event,
    stored: &[Reservation],
    commands: &[Command],
    verdicts: &str,
    net_seats: i32,
) -> Decision {
    let decision = decided_on(event, stored, commands);
    let found: Vec<String> = decision.verdicts.iter().map(short).collect();
    assert_eq!(found.join(" "), verdicts);
    assert_eq!(decision.net_seats, net_seats);
    decision
}

fn check(
    available_seats: i32,
    stored: &[Reservation],
    commands: &[Command],
    verdicts: &str,
    net_seats: i32,
) -> Decision {
    check_on(&event(available_seats), stored, commands, verdicts, net_seats)
}

fn short(verdict: &Verdict) -> String {
    let seats = |made: &[Reservation]| {
        made.iter().map(|made| made.seats.to_string()).collect::<Vec<_>>().join("+")
    };
    match verdict {
        Verdict::Accepted(acceptance) => match acceptance {
            Acceptance::Reserved(made) => format!("made:{}", seats(made)),
            Acceptance::Replayed(made) => format!("replayed:{}", made[0].status.as_str()),
            Acceptance::Altered(made) => format!("{}:{}", made.status.as_str(), made.seats),
            Acceptance::Unaltered(_) => "unaltered".into(),
            Acceptance::Cancelled => "cancelled".into(),
            Acceptance::EventChanged(event) => {
                format!("event:{}/{}", event.available_seats, event.total_seats)
            }
            Acceptance::EventUnchanged(_) => "event-unchanged".into(),
            Acceptance::Swept => "swept".into(),
        },
        Verdict::Refused(refusal) => match refusal {
            Refusal::EventNotFound => "no-event".into(),
            Refusal::InsufficientSeats { available_seats, .. } => {
                format!("short:{available_seats}")
            }
            Refusal::SalesClosed { status, .. } => format!("closed:{}", status.as_str()),
            Refusal::TooManySeats { seats_max, .. } => format!("at-most:{seats_max}"),
            Refusal::TooManyHolds { used, max } => format!("holds:{used}/{max}"),
            Refusal::TooManySeatsOfPartner { used, max } => format!("seats:{used}/{max}"),
            Refusal::ReservationNotFound => "not-found".into(),
            Refusal::HoldExpired => "hold-expired".into(),
            Refusal::ReservationNotActive { status } => format!("is-{}", status.as_str()),
            Refusal::CannotGrow { seats } => format!("has-only:{seats}"),
            Refusal::CapacityBelowSold { taken_seats } => format!("taken:{taken_seats}"),
            Refusal::SalesWindowEmpty => "window-empty".into(),
            Refusal::PreconditionFailed { version } => format!("is-at:{version}"),
            Refusal::IdempotencyKeyReused => "reused".into(),
        },
        Verdict::Deferred => "deferred".into(),
    }
}

/// The rows to write, in short form: kinds and ids.
fn written(decision: &Decision) -> String {
    let each = decision.changes.iter();
    let each =
        each.map(|change| format!("{:?}:{}", change.kind, change.reservation.id.0.as_u128()));
    each.collect::<Vec<_>>().join(" ")
}

#[test]
fn accepts_while_seats_last() {
    check(10, &[], &[reserve(1, 4, None), reserve(2, 6, None)], "made:4 made:6", 10);
}

#[test]
fn refuses_when_sold_out() {
    check(0, &[], &[reserve(1, 1, None)], "short:0", 0);
    check(3, &[], &[reserve(1, 4, None)], "short:3", 0);
}

#[test]
fn a_smaller_request_behind_one_that_does_not_fit_may_fit() {
    let commands = [reserve(1, 3, None), reserve(2, 3, None), reserve(3, 2, None)];
    check(5, &[], &commands, "made:3 short:2 made:2", 5);
}

#[test]
fn a_made_reservation_is_confirmed_at_the_next_version() {
    let decision = decided(10, &[], &[reserve(1, 4, Some("k"))]);
    let [Change { kind: ChangeKind::Reserved, reservation: made, previous_version: None, .. }] =
        &decision.changes[..]
    else {
        panic!("{decision:?}")
    };
    assert_eq!((made.version, made.status, made.seats), (42, Status::Confirmed, 4));
    assert_eq!(made.id, id(1_000_001));
    assert_eq!(made.keyed.as_ref().map(|keyed| &*keyed.fingerprint), Some("seats=4"));
    assert_eq!(decision.net_confirmed, 1);
}

#[test]
fn a_cancel_gives_back_what_was_owned() {
    let stored = [stored(1, 3, Status::Confirmed, None), stored(2, 4, Status::Held, None)];
    let decision = decided(0, &stored, &[cancel(1), cancel(2)]);
    assert_eq!(decision.net_seats, -7);
    assert_eq!(decision.net_confirmed, -1, "a hold was not counted");
    assert_eq!(decision.net_held, -4);
    for change in &decision.changes {
        assert_eq!(change.kind, ChangeKind::Cancelled);
        assert_eq!(change.reservation.status, Status::Cancelled);
        assert_eq!((change.previous_version, change.reservation.version), (Some(40), 42));
    }
}

#[test]
fn cancels_only_what_is_active() {
    let stored = [stored(1, 3, Status::Cancelled, None), stored(2, 4, Status::Expired, None)];
    let commands = [cancel(1), cancel(2), cancel(3)];
    check(5, &stored, &commands, "not-found not-found not-found", 0);
}

#[test]
fn a_second_cancel_waits_for_the_next_batch() {
    let active = [stored(1, 3, Status::Confirmed, None)];
    check(5, &active, &[cancel(1), cancel(1), cancel(1)], "cancelled deferred deferred", -3);
    let cancelled = [stored(1, 3, Status::Cancelled, None)];
    check(8, &cancelled, &[cancel(1), cancel(1)], "not-found not-found", 0);
}

#[test]
fn freed_seats_are_sold_in_the_next_batch() {
    let active = [stored(1, 3, Status::Confirmed, None)];
    let commands = [cancel(1), reserve(1, 2, None), reserve(2, 1, None)];
    check(1, &active, &commands, "cancelled deferred made:1", -2);
    // A command that came before the cancel does not wait for it.
    let commands = [reserve(1, 2, None), cancel(1)];
    check(1, &active, &commands, "short:1 cancelled", -3);
}

#[test]
fn a_key_is_looked_up_before_every_other_check() {
    let made = [stored(1, 3, Status::Confirmed, Some("k"))];
    check(0, &made, &[reserve(1, 3, Some("k"))], "replayed:confirmed", 0);
    check(9, &made, &[reserve(1, 4, Some("k"))], "reused", 0);
    let gone = [stored(1, 3, Status::Cancelled, Some("k"))];
    check(9, &gone, &[reserve(1, 3, Some("k"))], "replayed:cancelled", 0);
}

#[test]
fn one_key_twice_in_a_batch_waits() {
    let commands = [reserve(1, 3, Some("k")), reserve(2, 3, Some("k")), reserve(3, 3, Some("l"))];
    check(9, &[], &commands, "made:3 deferred made:3", 6);
    // A refused request does not use up its key.
    let commands = [reserve(1, 3, Some("k")), reserve(2, 2, Some("k"))];
    check(2, &[], &commands, "short:2 made:2", 2);
}

#[test]
fn a_replay_of_what_the_batch_cancels_waits() {
    let made = [stored(1, 3, Status::Confirmed, Some("k"))];
    let commands = [reserve(1, 3, Some("k")), cancel(1), reserve(2, 3, Some("k"))];
    check(9, &made, &commands, "replayed:confirmed cancelled deferred", -3);
}

#[test]
fn a_hold_owns_its_seats_until_its_end() {
    let decision = check(10, &[], &[hold(1, 4)], "made:4", 4);
    assert_eq!((decision.net_held, decision.net_confirmed), (4, 0));
    let made = &decision.changes[0].reservation;
    assert_eq!((made.status, made.hold_expires_at), (Status::Held, Some(NOW + Duration::MINUTE)));
    check(0, &[held_until(1, 4, SOON)], &[reserve(1, 1, None)], "short:0", 0);
}

#[test]
fn confirms_a_hold_once_and_says_so_twice() {
    let held = [held_until(1, 4, SOON)];
    let decision = check(5, &held, &[confirm(1), confirm(1)], "confirmed:4 deferred", 0);
    assert_eq!((decision.net_held, decision.net_confirmed), (-4, 1));
    let confirmed = [stored(1, 4, Status::Confirmed, None)];
    let decision = check(5, &confirmed, &[confirm(1), confirm(1)], "unaltered unaltered", 0);
    assert!(!decision.writes());
}

/// A hold is over at the very moment of its end.
#[test]
fn what_is_said_of_a_hold_past_its_time_is_written() {
    for end in [NOW, PAST] {
        for (command, verdict) in [
            (confirm(1), "hold-expired"),
            (extend(1, 60), "hold-expired"),
            (shrink(1, 1), "hold-expired"),
            (cancel(1), "not-found"),
        ] {
            let commands = [command.clone(), command];
            let held = [held_until(1, 4, end)];
            let decision = check(5, &held, &commands, &format!("{verdict} deferred"), -4);
            assert_eq!(written(&decision), "Expired:1");
            assert_eq!(decision.net_held, -4);
        }
    }
}

#[test]
fn what_has_expired_stays_so_without_a_word() {
    let expired = [stored(1, 4, Status::Expired, None)];
    let commands = [confirm(1), extend(1, 60), shrink(1, 1), cancel(1)];
    let said = "hold-expired hold-expired hold-expired not-found";
    assert!(!check(5, &expired, &commands, said, 0).writes());
}

#[test]
fn holds_past_their_time_make_room_oldest_first() {
    let earlier = PAST - Duration::SECOND;
    let held = [held_until(1, 2, PAST), held_until(2, 3, earlier), held_until(3, 4, SOON)];
    let decision = check(1, &held, &[reserve(1, 4, None)], "made:4", 1);
    assert_eq!(written(&decision), "Expired:2 Reserved:1000001");
    let decision = check(1, &held, &[reserve(1, 4, None), hold(2, 2)], "made:4 made:2", 1);
    assert_eq!(written(&decision), "Expired:2 Reserved:1000001 Expired:1 Held:1000002");
    // Together they are not enough, and no answer depends on the clock: nothing is written.
    assert!(!check(1, &held, &[reserve(1, 7, None)], "short:6", 0).writes());
    let swept = check(1, &held, &[Command::Sweep], "swept", -5);
    assert_eq!(written(&swept), "Expired:2 Expired:1");
    assert!(swept.verdicts[0].needs_a_read(), "what is remembered has no holds");
}

#[test]
fn holds_that_were_not_read_wait_for_the_next_batch() {
    let count = DUE_HOLDS_MAX as u128;
    let due: Vec<_> = (0..count).map(|number| held_until(number, 1, PAST)).collect();
    let mut event = event(0);
    event.seats_per_reservation_max = 10_000;
    let wanted = reserve(1, DUE_HOLDS_MAX as i32 + 1, None);
    let commands = [wanted.clone(), wanted];
    let decision = decided_on(&event, &due, &commands);
    assert_eq!(decision.changes.len(), DUE_HOLDS_MAX);
    assert_eq!(decision.verdicts, [Verdict::Deferred, Verdict::Deferred]);
}

#[test]
fn a_refusal_says_when_seats_may_come_back() {
    let mut named = Named::default();
    named.next_hold_expires_at = Some(SOON);
    let usage = UsageByPartner::default();
    let decision = decide(&event(2), &named, &usage, NOW, &[&reserve(1, 3, None)]);
    let short = Refusal::InsufficientSeats { available_seats: 2, next_hold_expires_at: Some(SOON) };
    assert_eq!(decision.verdicts, [Verdict::Refused(short)]);
}

#[test]
fn extends_from_now_and_seven_days_at_most() {
    let held = [held_until(1, 4, SOON)];
    let decision = check(5, &held, &[extend(1, 60)], "held:4", 0);
    let after = &decision.changes[0].reservation;
    assert_eq!(after.hold_expires_at, Some(NOW + Duration::MINUTE));
    let old =
        Reservation { created_at: NOW - Duration::days(7) + Duration::SECOND, ..held[0].clone() };
    let decision = check(5, &[old], &[extend(1, 60)], "held:4", 0);
    assert_eq!(decision.changes[0].reservation.hold_expires_at, Some(SOON));
}

#[test]
fn gives_a_part_back_and_never_grows() {
    let made = [stored(1, 4, Status::Confirmed, None), held_until(2, 4, SOON)];
    let decision = check(0, &made, &[shrink(1, 3), shrink(2, 1)], "confirmed:3 held:1", -4);
    assert_eq!((decision.net_held, decision.net_confirmed), (-3, 0));
    assert_eq!(decision.changes[1].seats, 3, "the journal has what was given back");
    check(0, &made, &[shrink(1, 5), shrink(1, 4)], "has-only:4 unaltered", 0);
    check(0, &made, &[shrink(1, 3), reserve(1, 1, None)], "confirmed:3 deferred", -1);
}

#[test]
fn refuses_what_the_status_does_not_allow() {
    let made = [stored(1, 4, Status::Cancelled, None), stored(2, 4, Status::Confirmed, None)];
    let commands = [confirm(1), extend(1, 60), shrink(1, 1), extend(2, 60), confirm(9)];
    let said = "is-cancelled is-cancelled is-cancelled is-confirmed not-found";
    check(0, &made, &commands, said, 0);
}

#[test]
fn makes_all_or_nothing() {
    let three = || vec![item(1, 3), Item { hold: HoldTime::new(60), ..item(2, 4) }, item(3, 2)];
    let decision =
        check(9, &[], &[reserve_all(three(), Some("k"), Precondition::Any)], "made:3+4+2", 9);
    assert_eq!((decision.net_held, decision.net_confirmed), (4, 2));
    let keyed = |place: usize| decision.changes[place].reservation.keyed.clone().expect("a key");
    assert_eq!(&*keyed(0).fingerprint, "items;seats=3;seats=4,hold=60;seats=2");
    assert_eq!((&*keyed(1).fingerprint, &*keyed(2).fingerprint), ("", ""));
    let items: Vec<i16> = decision.changes.iter().map(|change| change.reservation.item).collect();
    assert_eq!(items, [0, 1, 2]);

    let commands = [reserve_all(three(), None, Precondition::Any), reserve(4, 8, None)];
    check(8, &[], &commands, "short:8 made:8", 8);

    // Sent again, the request shows the same reservations as they are now, in the request's order.
    let mut made: Vec<Reservation> =
        decision.changes.into_iter().map(|change| change.reservation).collect();
    made.reverse();
    let again = decided(0, &made, &[reserve_all(three(), Some("k"), Precondition::Any)]);
    let [Verdict::Accepted(Acceptance::Replayed(replayed))] = &again.verdicts[..] else {
        panic!("{again:?}")
    };
    assert_eq!(replayed.iter().map(|made| made.seats).collect::<Vec<_>>(), [3, 4, 2]);
    check(0, &made, &[reserve(1, 3, Some("k"))], "reused", 0);
}

#[test]
fn a_request_is_the_same_only_in_all_of_it() {
    let text = |items: Vec<Item>| match reserve_all(items, Some("k"), Precondition::Any) {
        Command::Reserve(reserve) => reserve.keyed().expect("a key").fingerprint,
        other => panic!("{other:?}"),
    };
    let hold = HoldTime::new(60);
    let reference = |text| Reference::parse(text);
    let texts = [
        text(vec![item(1, 3)]),
        text(vec![item(1, 4)]),
        text(vec![Item { hold, ..item(1, 3) }]),
        text(vec![Item { reference: reference("a"), ..item(1, 3) }]),
        text(vec![Item { reference: reference("a,hold=60"), ..item(1, 3) }]),
        text(vec![Item { reference: reference("a"), hold, ..item(1, 3) }]),
        text(vec![item(1, 3), item(2, 4)]),
        text(vec![Item { reference: reference("a;seats=4"), ..item(1, 3) }, item(2, 4)]),
        text(vec![Item { reference: reference("a"), ..item(1, 3) }, item(2, 4), item(3, 4)]),
    ];
    let different: std::collections::BTreeSet<_> = texts.iter().collect();
    assert_eq!(different.len(), texts.len(), "{texts:?}");
}

#[test]
fn one_of_those_who_name_a_version_wins() {
    let at_41 = |number| reserve_all(vec![item(number, 1)], None, at_version(41));
    let commands = [at_41(1), at_41(2), reserve(3, 1, None)];
    check(9, &[], &commands, "made:1 deferred made:1", 2);
    let stale = reserve_all(vec![item(1, 1)], None, at_version(40));
    check(9, &[], &[stale], "is-at:41", 0);

    let at = |version, action| {
        Command::Alter(Alter {
            id: id(1),
            action,
            precondition: at_version(version),
            by: Caller::Anybody,
        })
    };
    let made = [stored(1, 4, Status::Confirmed, None)];
    let commands = [at(40, Action::Cancel), at(40, Action::Cancel)];
    check(9, &made, &commands, "cancelled deferred", -4);
    check(9, &made, &[at(41, Action::Cancel)], "is-at:40", 0);
}

/// Whatever else would refuse a new request.
#[test]
fn a_replay_wins_over_everything() {
    let made = [stored(1, 3, Status::Confirmed, Some("k"))];
    let again = reserve_all(vec![item(1, 3)], Some("k"), at_version(7));
    let closed = Event { status: EventStatus::Paused, ..event(0) };
    check_on(&closed, &made, &[again], "replayed:confirmed", 0);
}

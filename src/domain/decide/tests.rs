//! Tables for single decisions, and properties of all of them.

use proptest::prelude::*;
use time::OffsetDateTime;
use uuid::Uuid;

use super::*;
use crate::domain::{EventId, KeyedRequest, SeatCount};

fn event(available_seats: i32) -> Event {
    Event {
        id: EventId::parse("hot").expect("a slug"),
        name: "Hot".into(),
        total_seats: 1000,
        available_seats,
        reservation_count: 7,
        version: 41,
        created_at: OffsetDateTime::UNIX_EPOCH,
    }
}

fn id(number: u128) -> ReservationId {
    ReservationId(Uuid::from_u128(number))
}

fn partner(name: &str) -> PartnerId {
    PartnerId::parse(name).expect("a partner id")
}

/// A booking whose id is no earlier reservation's.
fn reserve(number: u128, seats: i32, key: Option<&str>) -> Command {
    Command::Reserve(Reserve {
        id: id(1_000_000 + number),
        partner_id: partner("abc-corp"),
        seats: SeatCount::new(seats.into()).expect("a seat count"),
        key: key.map(|key| IdempotencyKey::parse(key).expect("a key")),
    })
}

fn cancel(number: u128) -> Command {
    Command::Cancel(id(number))
}

fn stored(number: u128, seats: i32, status: Status, key: Option<&str>) -> Reservation {
    Reservation {
        id: id(number),
        event_id: event(0).id,
        partner_id: partner("abc-corp"),
        seats,
        status,
        version: 40,
        created_at: OffsetDateTime::UNIX_EPOCH,
        keyed: key.map(|key| KeyedRequest {
            key: IdempotencyKey::parse(key).expect("a key"),
            fingerprint: format!("seats={seats}").into(),
        }),
    }
}

fn named(reservations: &[Reservation]) -> Named {
    let mut named = Named::default();
    for reservation in reservations {
        named.insert(reservation.clone());
    }
    named
}

fn decided(available_seats: i32, stored: &[Reservation], commands: &[Command]) -> Decision {
    let commands: Vec<&Command> = commands.iter().collect();
    decide(&event(available_seats), &named(stored), OffsetDateTime::UNIX_EPOCH, &commands)
}

/// Decides, and compares the verdicts in short (see [`short`]) and the net seats.
fn check(
    available_seats: i32,
    stored: &[Reservation],
    commands: &[Command],
    verdicts: &str,
    net_seats: i32,
) {
    let decision = decided(available_seats, stored, commands);
    let found: Vec<String> = decision.verdicts.iter().map(short).collect();
    assert_eq!(found.join(" "), verdicts);
    assert_eq!(decision.net_seats, net_seats);
}

fn short(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Accepted(Acceptance::Reserved(made)) => format!("made:{}", made.seats),
        Verdict::Accepted(Acceptance::Replayed(made)) => {
            format!("replayed:{}", made.status.as_str())
        }
        Verdict::Accepted(Acceptance::Cancelled) => "cancelled".into(),
        Verdict::Refused(Refusal::EventNotFound) => "no-event".into(),
        Verdict::Refused(Refusal::InsufficientSeats { available_seats }) => {
            format!("short:{available_seats}")
        }
        Verdict::Refused(Refusal::ReservationNotFound) => "not-found".into(),
        Verdict::Refused(Refusal::IdempotencyKeyReused) => "reused".into(),
        Verdict::Deferred => "deferred".into(),
    }
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
    let [Change::Insert(made)] = &decision.changes[..] else { panic!("{decision:?}") };
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
    for change in &decision.changes {
        let Change::Alter { previous_version: 40, status: Status::Cancelled, .. } = change else {
            panic!("{change:?}");
        };
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
    // What came before the cancel does not wait for it.
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
    // A refused request does not use its key up.
    let commands = [reserve(1, 3, Some("k")), reserve(2, 2, Some("k"))];
    check(2, &[], &commands, "short:2 made:2", 2);
}

#[test]
fn a_replay_of_what_the_batch_cancels_waits() {
    let made = [stored(1, 3, Status::Confirmed, Some("k"))];
    let commands = [reserve(1, 3, Some("k")), cancel(1), reserve(2, 3, Some("k"))];
    check(9, &made, &commands, "replayed:confirmed cancelled deferred", -3);
}

#[derive(Clone, Debug)]
struct Case {
    available_seats: i32,
    stored: Vec<Reservation>,
    commands: Vec<Command>,
}

/// Few ids and keys, so that commands meet each other.
fn case() -> impl Strategy<Value = Case> {
    let key = prop_oneof![
        3 => Just(None),
        2 => prop::sample::select(vec![Some("a"), Some("b"), Some("c")]),
    ];
    let status = prop::sample::select(Status::ALL.to_vec());
    // Stored reservations have ids from 0, and each key at most once.
    let stored = prop::collection::vec((1..=10, status), 0..6).prop_map(|rows| {
        let keys = [None, Some("a"), None, Some("b"), None, None];
        let numbered = rows.into_iter().enumerate();
        let row = |(number, (seats, status))| stored(number as u128, seats, status, keys[number]);
        numbered.map(row).collect::<Vec<_>>()
    });
    let command = prop_oneof![
        3 => (1..=10, key).prop_map(|(seats, key)| reserve(0, seats, key)),
        2 => (0_u128..8).prop_map(cancel),
    ];
    let commands = prop::collection::vec(command, 0..40).prop_map(|mut commands| {
        for (number, command) in commands.iter_mut().enumerate() {
            if let Command::Reserve(reserve) = command {
                reserve.id = id(1_000_000 + number as u128);
            }
        }
        commands
    });
    (0..60, stored, commands).prop_map(|(available_seats, stored, commands)| Case {
        available_seats,
        stored,
        commands,
    })
}

/// The verdict that the rules demand, found by another road: from what the earlier commands of the
/// batch were granted, and not from running counters.
fn demanded(case: &Case, verdicts: &[Verdict], index: usize) -> String {
    let earlier = || case.commands[..index].iter().zip(&verdicts[..index]);
    let granted = |verdict: &Verdict| {
        matches!(verdict, Verdict::Accepted(Acceptance::Reserved(_) | Acceptance::Cancelled))
    };
    let cancelled_before = |wanted: ReservationId| {
        earlier().any(|(command, verdict)| {
            matches!(command, Command::Cancel(id) if *id == wanted) && granted(verdict)
        })
    };
    match &case.commands[index] {
        Command::Cancel(wanted) => {
            let made = case.stored.iter().find(|made| made.id == *wanted);
            match made {
                Some(_) if cancelled_before(*wanted) => "deferred".into(),
                Some(made) if made.status.owns_seats() => "cancelled".into(),
                Some(_) | None => "not-found".into(),
            }
        }
        Command::Reserve(wanted) => {
            let made = case.stored.iter().find(|made| {
                made.keyed.as_ref().is_some_and(|keyed| Some(&keyed.key) == wanted.key.as_ref())
            });
            if let Some(made) = made {
                return if made.seats != wanted.seats.get() {
                    "reused".into()
                } else if cancelled_before(made.id) {
                    "deferred".into()
                } else {
                    format!("replayed:{}", made.status.as_str())
                };
            }
            let mut taken = 0;
            let (mut freed, mut same_key) = (false, false);
            for (command, _) in earlier().filter(|(_, verdict)| granted(verdict)) {
                match command {
                    Command::Reserve(other) => {
                        taken += other.seats.get();
                        same_key |= other.key.is_some() && other.key == wanted.key;
                    }
                    Command::Cancel(_) => freed = true,
                }
            }
            let left = case.available_seats - taken;
            if same_key {
                "deferred".into()
            } else if wanted.seats.get() <= left {
                format!("made:{}", wanted.seats.get())
            } else if freed {
                "deferred".into()
            } else {
                format!("short:{left}")
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4000, ..ProptestConfig::default() })]

    #[test]
    fn every_outcome_is_explained(case in case()) {
        let decision = decided(case.available_seats, &case.stored, &case.commands);
        prop_assert_eq!(decision.verdicts.len(), case.commands.len());
        for (index, verdict) in decision.verdicts.iter().enumerate() {
            let demanded = demanded(&case, &decision.verdicts, index);
            prop_assert_eq!(short(verdict), demanded, "command {}", index);
        }
    }

    #[test]
    fn what_is_written_is_what_was_granted_in_order(case in case()) {
        let decision = decided(case.available_seats, &case.stored, &case.commands);
        let granted = case.commands.iter().zip(&decision.verdicts).filter(|(_, verdict)| {
            matches!(
                verdict,
                Verdict::Accepted(Acceptance::Reserved(_) | Acceptance::Cancelled)
            )
        });
        let granted: Vec<ReservationId> =
            granted.map(|(command, _)| command.reservation_id()).collect();
        let (mut written, mut net_seats, mut net_confirmed) = (Vec::new(), 0, 0);
        for change in &decision.changes {
            match change {
                Change::Insert(made) => {
                    prop_assert_eq!(made.version, 42);
                    written.push(made.id);
                    net_seats += made.seats;
                    net_confirmed += 1;
                }
                Change::Alter { id, seats, status, previous_version, .. } => {
                    let before = case.stored.iter().find(|made| made.id == *id).expect("stored");
                    prop_assert_eq!((*seats, *previous_version), (before.seats, before.version));
                    prop_assert!(before.status.owns_seats() && !status.owns_seats());
                    written.push(*id);
                    net_seats -= seats;
                    net_confirmed -= i64::from(before.status == Status::Confirmed);
                }
            }
        }
        prop_assert_eq!(written, granted);
        prop_assert_eq!(decision.net_seats, net_seats);
        prop_assert_eq!(decision.net_confirmed, net_confirmed);
    }

    /// Batch after batch, as the batcher runs them: seats are conserved at every version, never
    /// below zero, and everything is answered in the end.
    #[test]
    fn seats_are_conserved_until_everything_is_answered(case in case()) {
        let owned = |made: &[Reservation]| -> i32 {
            made.iter().filter(|made| made.status.owns_seats()).map(|made| made.seats).sum()
        };
        let mut event = event(case.available_seats);
        let mut made = case.stored.clone();
        let total = event.available_seats + owned(&made);
        let mut waiting = case.commands.clone();
        while !waiting.is_empty() {
            let commands: Vec<&Command> = waiting.iter().collect();
            let decision =
                decide(&event, &named(&made), OffsetDateTime::UNIX_EPOCH, &commands);
            event.available_seats -= decision.net_seats;
            event.version += 1;
            for change in decision.changes {
                match change {
                    Change::Insert(new) => made.push(new),
                    Change::Alter { id, status, .. } => {
                        let altered = made.iter_mut().find(|made| made.id == id);
                        altered.expect("it was stored").status = status;
                    }
                }
            }
            prop_assert!(event.available_seats >= 0);
            prop_assert_eq!(event.available_seats + owned(&made), total);
            let before = waiting.len();
            let verdicts = decision.verdicts.into_iter();
            waiting = waiting
                .into_iter()
                .zip(verdicts)
                .filter(|(_, verdict)| *verdict == Verdict::Deferred)
                .map(|(command, _)| command)
                .collect();
            prop_assert!(waiting.len() < before, "each batch answers someone");
        }
    }
}

//! Which caller may touch what, and how much a partner may have.

use super::*;
use crate::domain::{KeyId, PartnerLimits, Usage};

const HOLDS_MAX: u32 = 2;

fn ours() -> Caller {
    Caller::Partner(partner("abc-corp"))
}

/// The same command, from a caller who is known.
fn known(command: Command, by: Caller) -> Command {
    match command {
        Command::Reserve(reserve) => Command::Reserve(Reserve {
            by,
            limits: Some(PartnerLimits { open_holds_max: HOLDS_MAX }),
            ..reserve
        }),
        Command::Alter(alter) => Command::Alter(Alter { by, ..alter }),
        Command::ChangeEvent(change) => Command::ChangeEvent(ChangeEvent { by, ..change }),
        Command::Sweep => Command::Sweep,
    }
}

/// Decides on an event that allows a partner `seats_max` seats, of which it has `used`.
fn check_limits(
    seats_max: Option<i32>,
    used: Option<Usage>,
    stored: &[Reservation],
    commands: &[Command],
    verdicts: &str,
) -> Decision {
    let event = Event { seats_per_partner_max: seats_max, ..event(100) };
    let mut usage = UsageByPartner::default();
    if let Some(used) = used {
        usage.insert(partner("abc-corp"), used);
    }
    let commands: Vec<&Command> = commands.iter().collect();
    let decision = decide(&event, &named(stored), &usage, NOW, &commands);
    let found: Vec<String> = decision.verdicts.iter().map(short).collect();
    assert_eq!(found.join(" "), verdicts);
    decision
}

#[test]
fn a_partner_has_no_more_than_it_may() {
    let book = |number, seats| known(reserve(number, seats, None), ours());
    let hold = |number, seats| known(hold(number, seats), ours());
    let used = |seats, holds| Some(Usage { seats, holds });
    let many = |count: u128| {
        let hold = HoldTime::new(60);
        let items = (0..count).map(|number| Item { hold, ..item(number, 1) }).collect();
        known(reserve_all(items, None, Precondition::Any), ours())
    };
    let cases: [(_, _, &[Command], _); 11] = [
        (Some(5), used(3, 0), &[book(1, 2)], "made:2"),
        (Some(5), used(3, 0), &[book(1, 3), book(2, 2)], "seats:3/5 made:2"),
        (Some(5), used(3, 0), &[book(1, 2), book(2, 1)], "made:2 seats:5/5"),
        (Some(5), used(7, 0), &[book(1, 1)], "seats:7/5"),
        (Some(5), used(4, 0), &[hold(1, 1), hold(2, 1)], "made:1 seats:5/5"),
        (None, used(0, 1), &[hold(1, 1), hold(2, 1)], "made:1 holds:2/2"),
        // The partner has more holds than it may, but the booking adds none.
        (Some(5), used(3, 3), &[book(1, 1), hold(2, 1)], "made:1 holds:3/2"),
        (None, used(0, 0), &[many(3), many(2)], "holds:0/2 made:1+1"),
        (None, used(0, 2), &[book(1, 9), hold(2, 1)], "made:9 holds:2/2"),
        // The partner's usage need not be known.
        (None, None, &[book(1, 9)], "made:9"),
        // The caller is not known, so nobody is limited.
        (Some(1), None, &[reserve(1, 9, None), super::hold(2, 9)], "made:9 made:9"),
    ];
    for (seats_max, used, commands, verdicts) in cases {
        check_limits(seats_max, used, &[], commands, verdicts);
    }
}

/// From the next version on, as with seats that are given back.
#[test]
fn what_a_partner_gives_back_it_may_have_again() {
    let used = Some(Usage { seats: 5, holds: HOLDS_MAX.into() });
    let booked = [stored(1, 3, Status::Confirmed, None)];
    let held = [stored(1, 3, Status::Held, None)];
    let again = known(reserve(2, 1, None), ours());
    let hold_again = known(hold(2, 1), ours());
    let max = Some(5);
    let commands = [again.clone(), known(cancel(1), ours()), again.clone()];
    check_limits(max, used, &booked, &commands, "seats:5/5 cancelled deferred");
    check_limits(max, used, &booked, &[shrink(1, 1), again.clone()], "confirmed:1 deferred");
    check_limits(None, used, &held, &[confirm(1), hold_again.clone()], "confirmed:3 deferred");
    check_limits(None, used, &held, &[extend(1, 60), hold_again], "held:3 holds:2/2");
    // What another partner gives back does not count for this one.
    let others = Reservation { partner_id: partner("other"), ..booked[0].clone() };
    check_limits(max, used, &[others], &[cancel(1), again], "cancelled seats:5/5");
}

#[test]
fn a_replay_is_limited_by_nothing() {
    let used = Some(Usage { seats: 5, holds: 0 });
    let before = [stored(1, 3, Status::Confirmed, Some("k"))];
    let again = known(reserve(2, 3, Some("k")), ours());
    check_limits(Some(5), used, &before, &[again], "replayed:confirmed");
}

/// Whatever its status; and the request changes nothing.
#[test]
fn what_is_another_partners_is_not_found() {
    let theirs = Caller::Partner(partner("other"));
    let actions = [cancel(1), confirm(1), extend(1, 60), shrink(1, 1)];
    for stored in [
        stored(1, 3, Status::Held, None),
        stored(1, 3, Status::Confirmed, None),
        stored(1, 3, Status::Cancelled, None),
        held_until(1, 3, PAST),
    ] {
        for action in &actions {
            let commands = [known(action.clone(), theirs.clone())];
            let decision = check(9, std::slice::from_ref(&stored), &commands, "not-found", 0);
            assert!(!decision.writes(), "{decision:?}");
        }
    }
    let stored = [stored(1, 3, Status::Held, None)];
    check(9, &stored, &[known(cancel(1), ours())], "cancelled", -3);
}

#[test]
fn only_an_operators_key_is_written_down() {
    let key = KeyId::parse("0123456789abcdef").expect("a key's id");
    let operator = || Caller::Operator(key.clone());
    let held = [stored(1, 3, Status::Held, None), held_until(2, 3, PAST)];
    let commands =
        [known(confirm(1), operator()), known(reserve(3, 5, None), ours()), Command::Sweep];
    let decision = check(2, &held, &commands, "confirmed:3 made:5 swept", 2);
    let by: Vec<_> = decision.changes.iter().map(|change| change.by.as_ref()).collect();
    assert_eq!(written(&decision), "Confirmed:1 Expired:2 Reserved:1000003");
    assert_eq!(by, [Some(&key), None, None]);
    let decision =
        check(9, &[], &[known(switch(EventStatus::Paused), operator())], "event:9/1000", 0);
    assert_eq!(decision.event_changed_by, Some(key));
}

use super::*;
use crate::domain::tests::{event, hold_of, partner};

/// An event that limits its partners, with this many of its ten seats available.
fn limiting(available_seats: i32) -> Event {
    Event { available_seats, seats_per_partner_max: Some(9), ..event() }
}

/// Usage as read, from each partner's name, seats and holds.
fn read(partners: &[(&str, i64, i64)]) -> UsageByPartner {
    let mut usage = UsageByPartner::default();
    for (name, seats, holds) in partners {
        usage.insert(partner(name), Usage { seats: *seats, holds: *holds });
    }
    usage
}

fn change(name: &str, kind: ChangeKind, seats: i32) -> Change {
    Change { kind, seats, reservation: hold_of(name), previous_version: None, by: None }
}

/// Compares the seats and holds of each partner; `None` is unknown.
fn check(usage: &UsageByPartner, expected: &[(&str, Option<(i64, i64)>)]) {
    for (name, expected) in expected {
        let used = usage.of(&partner(name)).map(|used| (used.seats, used.holds));
        assert_eq!(used, *expected, "{name}");
    }
}

/// Enough to grant on, since nobody has more. Partners that were never read stay unknown.
#[test]
fn what_partners_have_is_known_after_a_commit() {
    let changes = [
        change("books", ChangeKind::Reserved, 3),
        change("books", ChangeKind::Held, 4),
        change("cancels", ChangeKind::Reserved, 1),
        change("cancels", ChangeKind::Cancelled, 1),
        change("confirms", ChangeKind::Confirmed, 2),
        change("is new", ChangeKind::Reserved, 5),
    ];
    let before =
        || read(&[("books", 2, 1), ("cancels", 4, 0), ("confirms", 2, 1), ("sleeps", 1, 1)]);
    let unchanged =
        [("confirms", Some((2, 1))), ("sleeps", Some((1, 1))), ("is new", None), ("nobody", None)];
    let after = before().after(&limiting(6), &changes);
    check(&after, &[("books", Some((9, 2))), ("cancels", Some((5, 0)))]);
    check(&after, &unchanged);
    // If the event does not limit seats, it still limits holds.
    let after = before().after(&event(), &changes);
    check(&after, &[("books", Some((6, 2))), ("cancels", Some((4, 0)))]);
    check(&after, &unchanged);
}

#[test]
fn while_all_seats_are_available_nobody_has_any() {
    let nobody = ("abc-corp", Some((0, 0)));
    check(&UsageByPartner::of_event(&limiting(9)), &[("abc-corp", None)]);
    let usage = UsageByPartner::of_event(&limiting(10));
    check(&usage, &[nobody]);
    let usage = usage.after(
        &limiting(10),
        &[
            change("books", ChangeKind::Reserved, 3),
            change("books", ChangeKind::Reserved, 2),
            change("holds", ChangeKind::Held, 1),
        ],
    );
    check(&usage, &[nobody, ("books", Some((5, 0))), ("holds", Some((1, 1)))]);
    // It stays complete when what was read is added.
    let usage = usage.with(read(&[("books", 4, 0)]));
    check(&usage, &[nobody, ("books", Some((4, 0))), ("holds", Some((1, 1)))]);
}

#[test]
fn what_is_read_of_partners_is_added_to_what_is_known() {
    let usage = read(&[("abc-corp", 1, 0), ("other", 3, 0)]).with(read(&[("abc-corp", 2, 1)]));
    check(&usage, &[("abc-corp", Some((2, 1))), ("other", Some((3, 0)))]);
}

/// The number of remembered partners is bounded.
#[test]
fn so_many_partners_are_remembered() {
    let books = |number: usize| change(&number.to_string(), ChangeKind::Reserved, 1);
    let booked = |count| {
        let changes: Vec<_> = (0..count).map(books).collect();
        UsageByPartner::of_event(&limiting(10)).after(&limiting(10), &changes)
    };
    let one = ("0", Some((1, 0)));
    check(&booked(PARTNERS_MAX), &[one, ("nobody", Some((0, 0)))]);
    let many = booked(PARTNERS_MAX + 1);
    assert_eq!(many.partners.len(), PARTNERS_MAX);
    check(&many, &[one, ("nobody", None)]);

    let read = || read(&[("is read", 2, 1)]);
    check(&booked(PARTNERS_MAX - 1).with(read()), &[one, ("is read", Some((2, 1)))]);
    check(&booked(PARTNERS_MAX).with(read()), &[("0", None), ("is read", Some((2, 1)))]);
    // Nothing is forgotten for nothing: what is decided next may rest on it.
    check(&booked(PARTNERS_MAX).with(UsageByPartner::default()), &[one]);
}

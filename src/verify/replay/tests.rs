//! Changes that happen between two pages.

use super::*;

/// Five of ten seats were taken by version 1, and two of them given back by version 2.
fn found() -> Counters {
    Counters {
        initial_seats: 10,
        total_seats: 10,
        available_seats: 7,
        held_seats: 0,
        reservation_count: 1,
        version: 2,
        last_journalled: Some(2),
    }
}

fn entry(version: i64, kind: ChangeKind, seats: i32, stored: (i64, Status)) -> JournalEntry {
    JournalEntry {
        version,
        total_seats: None,
        kind: Some(kind as i16),
        reservation_id: Some(Uuid::nil()),
        partner_id: Some("p".into()),
        seats: Some(seats),
        stored_version: Some(stored.0),
        stored_partner_id: Some("p".into()),
        stored_seats: Some(3),
        stored_status: Some(stored.1.as_str().into()),
    }
}

/// The first page is read before version 3 cancels the reservation, the second one after it.
#[test]
fn what_is_changed_between_two_pages_is_no_damage() {
    for recalled in [true, false] {
        let mut wrong = Vec::new();
        let mut replay = Replay::new("e", found(), Vec::new());
        let first = entry(1, ChangeKind::Reserved, 5, (2, Status::Confirmed));
        assert!(replay.forgotten(std::slice::from_ref(&first)).is_empty());
        replay.entry(&first, &mut wrong);
        let second = entry(2, ChangeKind::Shrunk, 2, (3, Status::Cancelled));
        assert_eq!(replay.forgotten(std::slice::from_ref(&second)), [Uuid::nil()]);
        if recalled {
            let kind = ChangeKind::Reserved as i16;
            replay.remember(&Deed { kind, reservation_id: Uuid::nil(), seats: 5 });
            assert!(replay.forgotten(std::slice::from_ref(&second)).is_empty());
        }
        replay.entry(&second, &mut wrong);
        replay.end(&mut wrong);
        assert_eq!(wrong.is_empty(), recalled, "{wrong:?}");
    }
}

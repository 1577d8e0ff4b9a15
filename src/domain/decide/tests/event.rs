//! The event itself: whether it is selling, and changes of it.

use super::*;

#[test]
fn sells_only_while_it_is_on_sale() {
    let made = [held_until(1, 4, SOON), held_until(2, 4, SOON), held_until(3, 4, SOON)];
    for status in [EventStatus::Paused, EventStatus::Closed, EventStatus::Ended] {
        let event = Event { status, ..event(9) };
        let said = format!("closed:{0} closed:{0} confirmed:4 held:1 cancelled", status.as_str());
        let commands = [reserve(1, 1, None), hold(2, 1), confirm(1), shrink(2, 1), cancel(3)];
        check_on(&event, &made, &commands, &said, -7);
    }
    let not_yet = Event { sales_open_at: Some(SOON), ..event(9) };
    assert!(!check_on(&not_yet, &[], &[reserve(1, 1, None)], "closed:on_sale", 0).writes());
    let open = Event { sales_open_at: Some(NOW), sales_close_at: Some(SOON), ..event(9) };
    check_on(&open, &[], &[reserve(1, 1, None)], "made:1", 1);
}

/// Nothing decided before the end of sales may be committed after a refusal because of it.
#[test]
fn the_end_of_sales_is_written_before_it_is_told() {
    let over = Event { sales_close_at: Some(NOW), ..event(9) };
    let commands = [reserve(1, 1, None), cancel(1)];
    let decision = check_on(&over, &[], &commands, "closed:ended deferred", 0);
    let ended = EventChange { status: Some(EventStatus::Ended), ..EventChange::default() };
    assert_eq!(decision.event_change, Some(ended));
    let made = [stored(1, 4, Status::Confirmed, None)];
    check_on(&over, &made, &[cancel(1), reserve(1, 1, None)], "cancelled deferred", -4);
}

#[test]
fn another_end_reopens_sales_that_had_ended() {
    let over = Event { sales_close_at: Some(PAST), status: EventStatus::Ended, ..event(9) };
    let later = ChangeEvent { sales_close_at: Some(Some(LATE)), ..ChangeEvent::default() };
    let decision = decided_on(&over, &[], &[Command::ChangeEvent(later.clone())]);
    let change = decision.event_change.expect("it changes");
    assert_eq!(change.status, Some(EventStatus::OnSale));
    let closed = Event { status: EventStatus::Closed, ..over };
    let decision = decided_on(&closed, &[], &[Command::ChangeEvent(later)]);
    assert_eq!(decision.event_change.expect("it changes").status, None);
}

#[test]
fn an_event_never_has_fewer_seats_than_are_taken() {
    let decision = check(10, &[], &[resize(990)], "event:0/990", 10);
    assert_eq!(decision.event_change.and_then(|change| change.total_seats), Some(990));
    check(10, &[], &[resize(989)], "taken:990", 0);
    check(10, &[], &[resize(1010)], "event:20/1010", -10);
    // Holds past their time do not count.
    let held = [held_until(1, 4, PAST), held_until(2, 4, SOON)];
    let decision = check(10, &held, &[resize(987)], "event:1/987", 9);
    assert_eq!(written(&decision), "Expired:1");
    check(10, &held, &[resize(985)], "taken:986", 0);
}

#[test]
fn a_change_of_the_event_has_a_version_of_its_own() {
    let commands = [reserve(1, 1, None), switch(EventStatus::Paused), reserve(2, 1, None)];
    check(9, &[], &commands, "made:1 deferred made:1", 2);
    let commands = [switch(EventStatus::Paused), reserve(1, 1, None), switch(EventStatus::Closed)];
    let decision = check(9, &[], &commands, "event:9/1000 deferred deferred", 0);
    let Verdict::Accepted(Acceptance::EventChanged(after)) = &decision.verdicts[0] else {
        panic!("it is changed");
    };
    assert_eq!((after.version, after.status), (event(9).version + 1, EventStatus::Paused));
    let decision = check(9, &[], &[switch(EventStatus::OnSale)], "event-unchanged", 0);
    assert!(decision.verdicts[0].needs_a_read());
}

/// Setting a value that is already set is not a change.
#[test]
fn changes_of_the_event_are_what_is_not_so_yet() {
    let opened = Event { sales_open_at: Some(PAST), sales_close_at: Some(LATE), ..event(9) };
    let as_it_is = ChangeEvent {
        name: Some(opened.name.clone()),
        total_seats: TotalSeats::new(opened.total_seats.into()),
        status: Some(opened.status),
        sales_open_at: Some(Some(PAST)),
        sales_close_at: Some(Some(LATE)),
        ..ChangeEvent::default()
    };
    let change = |wanted: ChangeEvent| {
        decided_on(&opened, &[], &[Command::ChangeEvent(wanted)]).event_change
    };
    assert_eq!(change(as_it_is.clone()), None);
    let (name, status) = (EventName::parse("Cold"), Some(EventStatus::Paused));
    let nothing = EventChange::default;
    for (wanted, found) in [
        (ChangeEvent { name: name.clone(), ..as_it_is.clone() }, EventChange { name, ..nothing() }),
        (
            ChangeEvent { total_seats: TotalSeats::new(1001), ..as_it_is.clone() },
            EventChange { total_seats: Some(1001), ..nothing() },
        ),
        (ChangeEvent { status, ..as_it_is.clone() }, EventChange { status, ..nothing() }),
        (
            ChangeEvent { sales_open_at: Some(None), ..as_it_is.clone() },
            EventChange { sales_open_at: Some(None), ..nothing() },
        ),
        (
            ChangeEvent { sales_close_at: Some(Some(SOON)), ..as_it_is },
            EventChange { sales_close_at: Some(Some(SOON)), ..nothing() },
        ),
    ] {
        assert_eq!(change(wanted), Some(found));
    }
}

#[test]
fn a_change_of_the_event_tells_what_is_held_after_it() {
    let decision = check(2, &[held_until(1, 5, PAST)], &[resize(993)], "event:0/993", 2);
    let Verdict::Accepted(Acceptance::EventChanged(after)) = &decision.verdicts[0] else {
        panic!("it is changed");
    };
    assert_eq!(after.held_seats, event(2).held_seats - 5);
}

#[test]
fn refuses_more_seats_than_the_event_allows() {
    let event = Event { seats_per_reservation_max: 2, ..event(9) };
    check_on(&event, &[], &[reserve(1, 3, None), reserve(2, 2, None)], "at-most:2 made:2", 2);
}

#[test]
fn sales_end_after_they_begin() {
    let window = |open, close| {
        Command::ChangeEvent(ChangeEvent {
            sales_open_at: Some(open),
            sales_close_at: Some(close),
            ..ChangeEvent::default()
        })
    };
    check(9, &[], &[window(Some(LATE), Some(LATE))], "window-empty", 0);
    check(9, &[], &[window(Some(SOON), Some(LATE))], "event:9/1000", 0);
    let event = Event { sales_open_at: Some(LATE), ..event(9) };
    check_on(&event, &[], &[window(None, Some(SOON))], "event:9/1000", 0);
}

//! Tests of the auditor: on a run in which all is well, and on that run with each promise broken.

use super::*;

/// A run in which all is well: 6 seats, later 4, and what the callers were told.
struct Run {
    start: Start,
    calls: Vec<Call>,
    versions: Vec<Version>,
    found: Final,
}

const FIRST: Uuid = Uuid::from_u128(1);
const HELD: Uuid = Uuid::from_u128(2);
const SECOND: Uuid = Uuid::from_u128(3);
const REFUSED: Uuid = Uuid::from_u128(4);
const RETRY: Uuid = Uuid::from_u128(5);
const PARTNER: &str = "abc-corp";
/// When the hold ends, after it was extended.
const END: Time = 130;

fn item(id: Uuid, seats: i32, hold: Option<Time>) -> Item {
    Item { id, seats, hold }
}

fn reserve(items: Vec<Item>, key: Option<&str>) -> Request {
    let (partner, key) = (PARTNER.to_owned(), key.map(str::to_owned));
    Request::Reserve(Booking { partner, items, key, at_version: None })
}

fn one(id: Uuid, seats: i32, key: Option<&str>) -> Request {
    reserve(vec![item(id, seats, None)], key)
}

fn alter(id: Uuid, action: Action) -> Request {
    Request::Alter { id, action, at_version: None }
}

fn resize(total: i32) -> Request {
    Request::ChangeEvent { total: Some(total), sales: None, at_version: None }
}

fn shown(id: Uuid, seats: i32, status: Status, version: i64) -> Shown {
    Shown { id, partner: PARTNER.to_owned(), seats, status, expires: None, version }
}

fn held(status: Status, expires: Time, version: i64) -> Shown {
    Shown { expires: Some(expires), ..shown(HELD, 1, status, version) }
}

fn version(at: Time, changes: &[(Kind, Uuid, i32)]) -> Version {
    let change = |(kind, id, seats): &(Kind, Uuid, i32)| Change {
        kind: *kind,
        id: *id,
        partner: PARTNER.to_owned(),
        seats: *seats,
    };
    Version { at, changes: changes.iter().map(change).collect(), event: None }
}

/// The positions of the calls in [`run`].
const BOOKS: usize = 0;
const EXTENDS: usize = 2;
const CANCELS: usize = 3;
const RESIZES: usize = 4;
const TOO_MANY: usize = 5;
const BOOKS_ALL: usize = 6;
const CONFIRMS: usize = 7;
const REPLAYS: usize = 8;

fn run() -> Run {
    use Status::{Cancelled, Confirmed, Expired, Held};
    let event = ShownEvent { total: 4, available: 3, sales: Sales::On, version: 5 };
    let calls = vec![
        (10, one(FIRST, 2, Some("order-1")), Answer::Reserved(vec![shown(FIRST, 2, Confirmed, 1)])),
        (20, reserve(vec![item(HELD, 1, Some(90))], None), {
            Answer::Reserved(vec![held(Held, 110, 2)])
        }),
        (30, alter(HELD, Action::Extend(100)), Answer::Altered(held(Held, END, 3))),
        (40, alter(FIRST, Action::Cancel), Answer::Cancelled),
        (50, resize(4), Answer::EventChanged(event)),
        (60, one(REFUSED, 4, None), Answer::InsufficientSeats { available: 3 }),
        (140, one(SECOND, 4, None), Answer::Reserved(vec![shown(SECOND, 4, Confirmed, 6)])),
        (150, alter(HELD, Action::Confirm), Answer::HoldExpired),
        (160, one(RETRY, 2, Some("order-1")), {
            Answer::Replayed(vec![shown(FIRST, 2, Cancelled, 4)])
        }),
    ];
    let call = |(number, (at, request, answer)): (usize, (Time, Request, Answer))| Call {
        called: 2 * number,
        answered: Some((2 * number + 1, answer)),
        request,
        between: (at - 1, at + 1),
    };
    let mut versions = vec![
        version(10, &[(Kind::Reserved, FIRST, 2)]),
        version(20, &[(Kind::Held, HELD, 1)]),
        version(30, &[(Kind::Extended, HELD, 1)]),
        version(40, &[(Kind::Cancelled, FIRST, 2)]),
        version(50, &[]),
        version(140, &[(Kind::Expired, HELD, 1), (Kind::Reserved, SECOND, 4)]),
    ];
    versions[4].event = Some(EventChange { total: Some(4), sales: None });
    Run {
        start: Start { seats: 6, sales_end: None, limits: Some(Has { seats: 4, holds: 1 }) },
        calls: calls.into_iter().enumerate().map(call).collect(),
        versions,
        found: Final {
            total_seats: 4,
            available_seats: 0,
            held_seats: 0,
            reservation_count: 1,
            version: 6,
            reservations: vec![
                shown(FIRST, 2, Cancelled, 4),
                held(Expired, END, 6),
                shown(SECOND, 4, Confirmed, 6),
            ],
        },
    }
}

fn told(run: &mut Run, call: usize, answer: Answer) {
    run.calls[call].answered.as_mut().expect("it was").1 = answer;
}

fn wrong(run: &Run) -> Vec<String> {
    audit(run.start, &run.calls, &run.versions, &run.found)
}

#[test]
fn sees_nothing_wrong_where_nothing_is() {
    assert_eq!(wrong(&run()), Vec::<String>::new());
}

type Lie = (&'static str, fn(&mut Run));

const LIES_OF_BOOKINGS: &[Lie] = &[
    ("a seat is sold twice", |run| {
        run.versions[5].changes.remove(0);
        run.found.held_seats = 1;
        run.found.reservations[1] = held(Status::Held, END, 3);
        run.found.available_seats = -1;
    }),
    ("an acknowledged booking is lost", |run| {
        run.versions[5].changes.pop();
        run.found.reservations.pop();
        (run.found.available_seats, run.found.reservation_count) = (4, 0);
    }),
    ("seats are given back twice", |run| {
        run.versions.push(version(150, &[(Kind::Cancelled, FIRST, 2)]));
        (run.found.available_seats, run.found.version) = (2, 7);
    }),
    ("the table and the journal differ", |run| run.found.reservations[2].seats = 3),
    ("the counter is off", |run| run.found.available_seats = 1),
    ("nobody asked for it", |run| run.calls.truncate(1)),
    ("a refusal left something behind", |run| {
        told(run, BOOKS_ALL, Answer::InsufficientSeats { available: 3 });
    }),
    ("a 503 that did something", |run| {
        told(run, BOOKS_ALL, Answer::NothingHappened("overloaded"));
    }),
    ("sold out, and it never was", |run| {
        told(run, TOO_MANY, Answer::InsufficientSeats { available: 2 });
    }),
    ("sold out, where there was enough", |run| {
        run.calls[TOO_MANY].request = one(REFUSED, 3, None);
    }),
    ("cancelled by two", |run| run.calls.push(run.calls[CANCELS].clone())),
    ("not there to be cancelled, and it is", |run| {
        run.calls[CONFIRMS].request = alter(SECOND, Action::Cancel);
        told(run, CONFIRMS, Answer::ReservationNotFound);
    }),
    ("made before it was asked for", |run| {
        run.calls[BOOKS].called = 20;
        run.calls[BOOKS].answered.as_mut().expect("it was").0 = 21;
    }),
    ("shown otherwise than it is", |run| {
        told(run, BOOKS_ALL, Answer::Reserved(vec![shown(SECOND, 3, Status::Confirmed, 6)]));
    }),
    ("a replay of what is no longer so", |run| {
        told(run, REPLAYS, Answer::Replayed(vec![shown(FIRST, 2, Status::Confirmed, 1)]));
    }),
    ("a replay under another key", |run| {
        run.calls[REPLAYS].request = one(RETRY, 2, Some("order-2"));
    }),
    ("refused, and the key is known", |run| {
        run.calls[TOO_MANY].request = one(REFUSED, 4, Some("order-1"));
    }),
    ("a mix-up where there is none", |run| told(run, REPLAYS, Answer::KeyReused)),
    ("two of one key", |run| {
        run.calls[BOOKS_ALL].request = one(SECOND, 4, Some("order-1"));
    }),
    ("unknown at another version", |run| {
        told(run, BOOKS_ALL, Answer::Unknown { id: Some(SECOND), base_version: Some(3) });
    }),
    ("a part of what was asked for", |run| {
        let items = vec![item(SECOND, 4, None), item(REFUSED, 1, None)];
        run.calls[BOOKS_ALL].request = reserve(items, None);
    }),
];

const LIES_OF_HOLDS: &[Lie] = &[
    ("a hold is expired before its end", |run| run.versions[5].at = END - 1),
    ("a hold lasts longer than was asked for", |run| {
        told(run, EXTENDS, Answer::Altered(held(Status::Held, END + 1, 3)));
    }),
    ("a hold is extended past its end", |run| {
        for version in &mut run.versions[2..5] {
            version.at += 80;
        }
    }),
    ("time runs backwards", |run| run.versions[1].at = 9),
    ("expired, and it is not", |run| {
        run.calls[CONFIRMS].request = alter(SECOND, Action::Confirm);
    }),
    ("confirmed, and it is not", |run| {
        told(run, CONFIRMS, Answer::Altered(held(Status::Confirmed, END, 6)));
    }),
    ("an extension that nobody asked for", |run| {
        run.calls[EXTENDS].request = alter(HELD, Action::Confirm);
    }),
    ("sold out, where a hold was over", |run| {
        run.calls[TOO_MANY].between = (END + 1, END + 3);
    }),
    ("available are those of a hold that is not over", |run| {
        told(run, TOO_MANY, Answer::InsufficientSeats { available: 4 });
    }),
    ("the held seats are off", |run| run.found.held_seats = 1),
    ("a reservation is not active, and it is", |run| {
        told(run, CONFIRMS, Answer::NotActive(Status::Cancelled));
    }),
];

const LIES_OF_EVENTS: &[Lie] = &[
    ("two at one version", |run| {
        let at_version = Some(0);
        let Request::Reserve(first) = &mut run.calls[BOOKS].request else { unreachable!() };
        first.at_version = at_version;
        let Request::Reserve(other) = &mut run.calls[1].request else { unreachable!() };
        other.at_version = at_version;
    }),
    ("a version that it is not at", |run| {
        told(run, TOO_MANY, Answer::PreconditionFailed { version: 5 });
    }),
    ("the event has other seats than it was given", |run| {
        run.calls[RESIZES].request = resize(5);
    }),
    ("nobody changed the event", |run| {
        run.calls[RESIZES].request = Request::Sweep;
        told(run, RESIZES, Answer::Swept);
    }),
    ("fewer seats than are taken", |run| {
        run.versions[4].event = Some(EventChange { total: Some(0), sales: None });
    }),
    ("capacity below what is sold, and it is not", |run| {
        told(run, RESIZES, Answer::CapacityBelowSold { taken: 2 });
    }),
    ("closed, and it is on sale", |run| {
        told(run, TOO_MANY, Answer::SalesClosed(Sales::Ended));
    }),
    ("sold after the end of the sales", |run| run.start.sales_end = Some(140)),
    ("sales end before their end", |run| {
        run.versions[4].event = Some(EventChange { total: Some(4), sales: Some(Sales::Ended) });
    }),
];

const LIES_OF_LIMITS: &[Lie] = &[
    ("a partner has more seats than it may", |run| {
        run.start.limits = Some(Has { seats: 3, holds: 1 });
    }),
    ("a partner has more holds than it may", |run| {
        run.start.limits = Some(Has { seats: 4, holds: 0 });
    }),
    ("a partner is said to have more than it has", |run| {
        told(run, TOO_MANY, Answer::TooManySeats { used: 2 });
    }),
    ("too many holds, and none was asked for", |run| {
        told(run, TOO_MANY, Answer::TooManyHolds { used: 1 });
    }),
    ("limited, where nobody is", |run| {
        told(run, TOO_MANY, Answer::TooManySeats { used: 1 });
        run.start.limits = None;
    }),
];

#[test]
fn sees_each_broken_promise() {
    let lies = [LIES_OF_BOOKINGS, LIES_OF_HOLDS, LIES_OF_EVENTS, LIES_OF_LIMITS].concat();
    for (lie, tell) in lies {
        let mut run = run();
        tell(&mut run);
        assert!(!wrong(&run).is_empty(), "not seen: {lie}");
    }
}

//! The auditor, on a run in which all is well, and on what each broken promise would look like.

use super::*;

/// A run in which all is well: 3 seats, and what was told of them.
struct Run {
    calls: Vec<Call>,
    versions: Vec<Version>,
    found: Final,
}

const FIRST: Uuid = Uuid::from_u128(1);
const SECOND: Uuid = Uuid::from_u128(2);
const REFUSED: Uuid = Uuid::from_u128(3);
const RETRY: Uuid = Uuid::from_u128(4);
const PARTNER: &str = "abc-corp";

fn reserve(id: Uuid, seats: i32, key: Option<&str>) -> Request {
    Request::Reserve { id, partner: PARTNER.to_owned(), seats, key: key.map(str::to_owned) }
}

fn shown(id: Uuid, seats: i32, active: bool, version: i64) -> Shown {
    Shown { id, partner: PARTNER.to_owned(), seats, active, version }
}

fn change(cancels: bool, id: Uuid, seats: i32) -> Change {
    Change { cancels, id, partner: PARTNER.to_owned(), seats }
}

fn run() -> Run {
    let calls = vec![
        (0, 1, reserve(FIRST, 2, Some("order-1")), Answer::Reserved(shown(FIRST, 2, true, 1))),
        (2, 4, reserve(SECOND, 1, None), Answer::Reserved(shown(SECOND, 1, true, 2))),
        (3, 5, Request::Cancel { id: FIRST }, Answer::Cancelled),
        (6, 7, reserve(REFUSED, 3, None), Answer::InsufficientSeats { available: 2 }),
        (8, 9, reserve(RETRY, 2, Some("order-1")), { Answer::Replayed(shown(FIRST, 2, false, 3)) }),
    ];
    let call =
        |(called, at, request, answer)| Call { called, answered: Some((at, answer)), request };
    let version = |change| Version { changes: vec![change] };
    Run {
        calls: calls.into_iter().map(call).collect(),
        versions: vec![
            version(change(false, FIRST, 2)),
            version(change(false, SECOND, 1)),
            version(change(true, FIRST, 2)),
        ],
        found: Final {
            total_seats: 3,
            available_seats: 2,
            reservation_count: 1,
            version: 3,
            reservations: vec![shown(FIRST, 2, false, 3), shown(SECOND, 1, true, 2)],
        },
    }
}

fn told(run: &mut Run, call: usize, answer: Answer) {
    run.calls[call].answered.as_mut().expect("it was").1 = answer;
}

#[test]
fn sees_nothing_wrong_where_nothing_is() {
    let Run { calls, versions, found } = run();
    assert_eq!(audit(&calls, &versions, &found), Vec::<String>::new());
}

#[test]
fn sees_each_broken_promise() {
    type Lie = (&'static str, fn(&mut Run));
    let lies: &[Lie] = &[
        ("a seat is sold twice", |run| run.found.total_seats = 2),
        ("an acknowledged booking is lost", |run| {
            run.versions.remove(1);
            run.found.reservations = vec![shown(FIRST, 2, false, 2)];
            run.found.available_seats = 3;
            (run.found.reservation_count, run.found.version) = (0, 2);
        }),
        ("seats are given back twice", |run| {
            run.versions.push(Version { changes: vec![change(true, FIRST, 2)] });
            (run.found.available_seats, run.found.version) = (4, 4);
        }),
        ("the table and the journal differ", |run| run.found.reservations[1].seats = 2),
        ("the counter is off", |run| run.found.available_seats = 1),
        ("nobody asked for it", |run| run.calls.truncate(1)),
        ("a refusal left something behind", |run| {
            told(run, 1, Answer::InsufficientSeats { available: 0 });
        }),
        ("a 503 that did something", |run| {
            told(run, 1, Answer::NothingHappened("overloaded"));
        }),
        ("sold out, and it never was", |run| {
            told(run, 3, Answer::InsufficientSeats { available: 1 });
        }),
        ("sold out, and it is not any more", |run| {
            told(run, 3, Answer::InsufficientSeats { available: 0 });
        }),
        ("sold out, where there was enough", |run| {
            run.calls[3].request = reserve(REFUSED, 2, None);
        }),
        ("cancelled by two", |run| run.calls.push(run.calls[2].clone())),
        ("not there to be cancelled, and it is", |run| {
            run.calls[3].request = Request::Cancel { id: SECOND };
            told(run, 3, Answer::ReservationNotFound);
        }),
        ("made before it was asked for", |run| {
            run.calls[1].called = 10;
            run.calls[1].answered.as_mut().expect("it was").0 = 11;
        }),
        ("shown otherwise than it is", |run| {
            told(run, 1, Answer::Reserved(shown(SECOND, 2, true, 2)));
        }),
        ("a replay of what is no longer so", |run| {
            told(run, 4, Answer::Replayed(shown(FIRST, 2, true, 1)));
        }),
        ("a replay under another key", |run| {
            run.calls[4].request = reserve(RETRY, 2, Some("order-2"));
        }),
        ("refused, and the key is known", |run| {
            run.calls[3].request = reserve(REFUSED, 3, Some("order-1"));
        }),
        ("a mix-up where there is none", |run| told(run, 4, Answer::KeyReused)),
        ("two of one key", |run| run.calls[1].request = reserve(SECOND, 1, Some("order-1"))),
        ("unknown at another version", |run| {
            told(run, 1, Answer::Unknown { id: SECOND, base_version: Some(0) });
        }),
    ];
    for (lie, tell) in lies {
        let mut run = run();
        tell(&mut run);
        let wrong = audit(&run.calls, &run.versions, &run.found);
        assert!(!wrong.is_empty(), "not seen: {lie}");
    }
}

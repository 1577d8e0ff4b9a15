//! `ticketboss verify` detects what is wrong, and reports nothing else.

use std::cell::Cell;

use serde_json::json;

use crate::support::binary::{self, Binary};
use crate::support::{TestDatabase, with_app};

/// Four reservations of one event: the first is cancelled (by version 4), the third keyed, the last
/// a hold (5) that was shrunk (6). Version 7 gave the event two more seats.
pub const SOUND: &str = "
insert into events (id, name, initial_seats, total_seats, available_seats)
     values ('e', 'E', 10, 10, 10), ('other', 'Other', 10, 10, 10);
update events set total_seats = 12, available_seats = 5, held_seats = 1, reservation_count = 2,
                  version = 7 where id = 'e';
insert into reservations (id, created_at, version, seats, event_id, partner_id, status,
                          idempotency_key, request_fingerprint, hold_expires_at)
     values ('00000000-0000-7000-8000-000000000001', now(), 4, 1, 'e', 'p', 'cancelled',
             null, null, null),
            ('00000000-0000-7000-8000-000000000002', now(), 2, 2, 'e', 'p', 'confirmed',
             null, null, null),
            ('00000000-0000-7000-8000-000000000003', now(), 3, 4, 'e', 'p', 'confirmed',
             'k', 'f', null),
            ('00000000-0000-7000-8000-000000000004', now(), 6, 1, 'e', 'p', 'held',
             null, null, now());
insert into journal (event_id, version, at, batch_id, change_count,
                     kinds, reservation_ids, partner_ids, seats)
select 'e', version, now(), gen_random_uuid(), 1, array[kind]::smallint[],
       array[('00000000-0000-7000-8000-00000000000' || id)::uuid], '{p}', array[seats]
  from (values (1, 1, 1, 1), (2, 1, 2, 2), (3, 1, 3, 4), (4, 6, 1, 1), (5, 2, 4, 2), (6, 5, 4, 1))
       as made (version, kind, id, seats);
insert into journal (event_id, version, at, batch_id, change_count,
                     kinds, reservation_ids, partner_ids, seats, event_change)
values ('e', 7, now(), gen_random_uuid(), 0, '{}', '{}', '{}', '{}', '{\"totalSeats\": 12}');
";

/// What the partner has, summed up to version 5.
const SUMS: &str = "
insert into usage_versions (event_id, version) values ('e', 5);
insert into usage (event_id, partner_id, seats) values ('e', 'p', 8);
";

const EMPTY: &str = "truncate events, reservations, journal, usage_versions, usage";

/// Kinds of damage, by name. Each is detected by `verify`, and, except for an event that is gone,
/// by the audit statement of the tests, too.
const DAMAGE: &[(&str, &str)] = &[
    ("a seat is stranded", "update events set available_seats = 4 where id = 'e'"),
    ("a seat is there twice", "update events set available_seats = 6 where id = 'e'"),
    (
        "seats are sold that are not there",
        "alter table events drop constraint events_available_seats_not_negative;
         update events set total_seats = 5, available_seats = -1 where id = 'e'",
    ),
    ("the count is off", "update events set reservation_count = 3 where id = 'e'"),
    ("a version is missing", "delete from journal where version = 2"),
    ("the first version is missing", "delete from journal where version = 1"),
    ("the last version is missing", "delete from journal where version = 7"),
    ("the event is behind its journal", "update events set version = 6 where id = 'e'"),
    (
        "the journal is ahead of the event",
        "insert into journal (event_id, version, at, batch_id, change_count,
                              kinds, reservation_ids, partner_ids, seats, event_change)
         values ('e', 8, now(), gen_random_uuid(), 0, '{}', '{}', '{}', '{}', '{}')",
    ),
    ("the event is gone", "delete from events where id = 'e'"),
    ("a reservation is missing", "delete from reservations where version = 2"),
    (
        "a reservation is there that nobody made",
        "insert into reservations (id, created_at, version, seats, event_id, partner_id, status)
         values ('00000000-0000-7000-8000-000000000009', now(), 2, 2, 'e', 'p', 'cancelled')",
    ),
    (
        "a reservation belongs to no event",
        "insert into reservations (id, created_at, version, seats, event_id, partner_id, status)
         values ('00000000-0000-7000-8000-000000000009', now(), 2, 2, 'none', 'p', 'confirmed')",
    ),
    ("a cancel was not done", "update reservations set status = 'confirmed' where version = 4"),
    ("a cancel was done twice", "
        update events set available_seats = 6, version = 8 where id = 'e';
        insert into journal (event_id, version, at, batch_id, change_count,
                             kinds, reservation_ids, partner_ids, seats)
        values ('e', 8, now(), gen_random_uuid(), 1, '{6}',
                '{00000000-0000-7000-8000-000000000001}', '{p}', '{1}');
        update reservations set version = 8 where version = 4"),
    ("the held seats are off", "update events set held_seats = 0 where id = 'e'"),
    ("a part was not given back", "update reservations set seats = 2 where version = 6"),
    (
        "an expired hold was not journalled",
        "update reservations set status = 'expired' where version = 6;
         update events set held_seats = 0, available_seats = 6 where id = 'e'",
    ),
    (
        "the event has seats that nobody gave it",
        "update events set total_seats = 13, available_seats = 6 where id = 'e'",
    ),
    (
        "a change of the event was not done",
        "update events set total_seats = 10, available_seats = 3 where id = 'e'",
    ),
    ("a cancel was not journalled", "update reservations set status = 'cancelled' where version = 2"),
    ("a reservation is at another version", "update reservations set version = 1 where version = 2"),
    ("a reservation has other seats", "update reservations set seats = 3 where version = 2"),
    ("a reservation has another owner", "update reservations set partner_id = 'q' where version = 2"),
    ("a sum is off", "update usage set seats = 7"),
    ("a sum is missing", "delete from usage"),
    ("a sum is there twice", "insert into usage values ('e', 'q', 8)"),
    ("the sums are those of another version", "update usage_versions set version = 3"),
    (
        "the sums are ahead of the event",
        "update usage_versions set version = 8; update usage set seats = 7",
    ),
    (
        "two reservations have one key",
        "drop index reservations_idempotency_key;
         update reservations set idempotency_key = 'k', request_fingerprint = 'f' where version = 2",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_kind_of_damage_is_seen() {
    let database = TestDatabase::create().await;
    for (what, damage) in DAMAGE {
        database.execute(EMPTY).await;
        database.execute(format!("{SOUND}{SUMS}")).await;
        database.audit().await;
        database.execute(*damage).await;
        let (by_statement, by_verify) = database.problems().await;
        let gone = *what == "the event is gone";
        assert!(!by_statement.is_empty() || gone, "not seen by the statement: {what}");
        assert!(!by_verify.is_empty(), "not seen by verify: {what}");
        database.execute(EMPTY).await;
        database
            .execute(
                "alter table events drop constraint if exists events_available_seats_not_negative;
             alter table events add constraint events_available_seats_not_negative
                   check (available_seats >= 0);
             create unique index if not exists reservations_idempotency_key
                 on reservations (event_id, partner_id, idempotency_key, item)
              where idempotency_key is not null",
            )
            .await;
    }
}

/// `verify` runs while seats are booked and given back all the time.
#[tokio::test(flavor = "multi_thread")]
async fn what_changes_meanwhile_is_no_damage() {
    with_app(async |app| {
        let enough = Cell::new(false);
        let selling = async {
            let mut made = Vec::new();
            while !enough.get() {
                let held = json!({"partnerId": "abc-corp", "seats": 2, "holdSeconds": 60});
                for order in [held, json!({"partnerId": "abc-corp", "seats": 1})] {
                    let booked = app.post("/reservations", order).await.made();
                    made.push(booked["reservationId"].as_str().expect("an id").to_owned());
                }
                let path = format!("/reservations/{}", made[made.len() / 2 * 2 - 2]);
                app.patch(&path, "*", json!({"seats": 1})).await.json();
                app.post(&format!("{path}/confirm"), json!(null)).await.json();
                while made.len() > 100 {
                    // An old one, which `verify` may have passed already.
                    let id = made.remove(made.len() / 3);
                    assert_eq!(app.delete(&format!("/reservations/{id}")).await.status, 204);
                }
            }
        };
        let looking = async {
            for _ in 0..20 {
                let (_, by_verify) = app.database.problems().await;
                assert_eq!(by_verify, Vec::<String>::new());
            }
            enough.set(true);
        };
        futures_util::future::join(selling, looking).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_says_what_is_wrong() {
    let database = TestDatabase::create().await;
    database.execute(SOUND).await;
    let verify = async || {
        let mut command = binary::command(&["verify"], &[("DATABASE_URL", &database.url)]);
        let output = command.output().await.expect("it runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("text"))
    };
    let fine = "2 events, 7 versions, 4 reservations: nothing is wrong\n";
    assert_eq!(verify().await, (Some(0), fine.into()));

    database.execute("update events set available_seats = 4 where id = 'e'").await;
    let said = "event e: 4 available + 7 owned <> 12 in total\n\
                event e: replaying its journal leaves 5 seats available, not 4\n\
                2 events, 7 versions, 4 reservations: 2 problems\n";
    assert_eq!(verify().await, (Some(1), said.into()));

    database.execute("drop table journal").await;
    assert_eq!(verify().await, (Some(1), String::new()));
}

/// The private database of a running service is verified as it is.
#[tokio::test(flavor = "multi_thread")]
async fn the_command_works_beside_a_service_with_a_private_database() {
    let directory = binary::TemporaryDirectory::new();
    let environment = [("DATA_DIR", directory.as_str())];
    let verify = async || {
        let output = binary::command(&["verify"], &environment).output().await.expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        String::from_utf8(output.stdout).expect("text")
    };
    // The command makes no database where there is none.
    let nothing = binary::command(&["verify"], &environment).output().await.expect("it runs");
    assert_eq!(nothing.status.code(), Some(2), "{nothing:?}");
    assert!(String::from_utf8_lossy(&nothing.stderr).contains("there is no database in DATA_DIR"));
    let service = Binary::serve(&environment).await;
    let body = json!({"partnerId": "abc-corp", "seats": 1});
    let client = reqwest::Client::new();
    let answer = client.post(format!("{}/reservations", service.base)).json(&body).send().await;
    assert_eq!(answer.expect("an answer").status(), 201);
    assert_eq!(verify().await, "1 event, 1 version, 1 reservation: nothing is wrong\n");
    let (code, log) = service.stop().await;
    assert_eq!(code, Some(0), "{log:?}");
    // The command also works while the service is stopped.
    assert_eq!(verify().await, "1 event, 1 version, 1 reservation: nothing is wrong\n");
}

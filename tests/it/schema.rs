//! Writes that bypass the service: the schema itself refuses what must never be stored.

use sqlx::raw_sql;

use crate::support::TestDatabase;

/// An event, a reservation and its journal row, as the service writes them.
const SOUND: &str = "
insert into events (id, name, initial_seats, total_seats, available_seats)
     values ('e', 'E', 10, 10, 10);
update events set available_seats = 7, reservation_count = 1, version = 1 where id = 'e';
insert into reservations (id, created_at, version, seats, event_id, partner_id, status,
                          idempotency_key, request_fingerprint)
     values ('00000000-0000-7000-8000-000000000001', now(), 1, 3, 'e', 'p', 'confirmed',
             'k', 'seats=3');
insert into journal (event_id, version, at, batch_id, change_count,
                     kinds, reservation_ids, partner_ids, seats)
     values ('e', 1, now(), gen_random_uuid(), 1,
             '{1}', '{00000000-0000-7000-8000-000000000001}', '{p}', '{3}');
insert into keys (id, secret_sha256, name, scope)
     values ('0123456789abcdef', sha256('secret'), 'n', 'operator');
insert into usage_versions (event_id, version) values ('e', 1);
insert into usage (event_id, partner_id, seats) values ('e', 'p', 3);
";

/// Makes an event with this id and this many seats.
macro_rules! made {
    ($id:literal, $seats:literal) => {
        concat!(
            "insert into events (id, name, initial_seats, total_seats, available_seats) values (",
            $id,
            ", 'F', ",
            $seats,
            ", ",
            $seats,
            ", ",
            $seats,
            ")"
        )
    };
}

/// Every constraint of the schema, with statements that it alone must refuse.
const REFUSED: &[(&str, &[&str])] = &[
    (
        "events_pkey",
        &["insert into events (id, name, initial_seats, total_seats, available_seats)
           values ('e', 'Again', 1, 1, 1)"],
    ),
    (
        "events_id_is_a_slug",
        &[
            made!("''", 1),
            made!("'Upper'", 1),
            made!("'-dash'", 1),
            made!("'dash-'", 1),
            made!("'a b'", 1),
            made!("repeat('a', 65)", 1),
            made!("e'line\\n'", 1),
        ],
    ),
    (
        "event_name_is_sane",
        &["update events set name = ''", "update events set name = repeat('n', 201)"],
    ),
    ("events_initial_seats_in_range", &[made!("'f'", 0), made!("'f'", 10000001)]),
    (
        "events_available_seats_not_negative",
        &["update events set available_seats = available_seats - 8, version = version + 1"],
    ),
    (
        "events_available_seats_within_total",
        &[
            "update events set available_seats = available_seats + 4, version = version + 1",
            "update events set held_seats = 4, version = version + 1",
        ],
    ),
    ("held_seats_not_negative", &["update events set held_seats = -1"]),
    ("event_status_known", &["update events set status = 'sold'"]),
    (
        "counter_not_negative",
        &[
            "update events set reservation_count = -1",
            "update events set version = -1",
            "update usage_versions set version = -1",
        ],
    ),
    (
        "events_start_untouched",
        &[
            "insert into events (id, name, initial_seats, total_seats, available_seats)
             values ('f', 'F', 10, 10, 9)",
            "insert into events (id, name, initial_seats, total_seats, available_seats)
             values ('f', 'F', 10, 12, 12)",
            "insert into events (id, name, initial_seats, total_seats, available_seats,
                                 reservation_count)
             values ('f', 'F', 10, 10, 10, 1)",
        ],
    ),
    (
        "reservations_pkey",
        &["insert into reservations (id, created_at, version, seats, event_id, partner_id, status)
           values ('00000000-0000-7000-8000-000000000001', now(), 1, 3, 'e', 'q', 'confirmed')"],
    ),
    (
        "seat_count_positive",
        &["update reservations set seats = 0", "update reservations set seats = -1"],
    ),
    (
        "reservation_status_known",
        &["update reservations set status = 'sold'", "update reservations set status = ''"],
    ),
    ("reservations_hold_has_an_end", &["update reservations set status = 'held'"]),
    (
        "version_made_positive",
        &["update reservations set version = 0", "update journal set version = 0"],
    ),
    (
        "partner_id_length",
        &[
            "update reservations set partner_id = ''",
            "update reservations set partner_id = repeat('p', 129)",
        ],
    ),
    ("item_number_not_negative", &["update reservations set item = -1"]),
    (
        "idempotency_key_length",
        &[
            "update reservations set idempotency_key = ''",
            "update reservations set idempotency_key = repeat('k', 256)",
        ],
    ),
    (
        "reservations_key_with_fingerprint",
        &[
            "update reservations set idempotency_key = null",
            "update reservations set request_fingerprint = null",
        ],
    ),
    (
        "reservations_idempotency_key",
        &["insert into reservations (id, created_at, version, seats, event_id, partner_id, status,
                                     idempotency_key, request_fingerprint)
           values (gen_random_uuid(), now(), 1, 3, 'e', 'p', 'confirmed', 'k', 'seats=3')"],
    ),
    (
        "journal_pkey",
        &["insert into journal (event_id, version, at, batch_id, change_count,
                                kinds, reservation_ids, partner_ids, seats)
           values ('e', 1, now(), gen_random_uuid(), 1,
                   '{1}', '{00000000-0000-7000-8000-000000000002}', '{p}', '{3}')"],
    ),
    (
        "journal_changes_complete",
        &[
            "update journal set change_count = 2",
            "update journal set kinds = '{1,1}'",
            "update journal set reservation_ids = '{}'",
            "update journal set partner_ids = '{p,p}'",
            "update journal set seats = '{}'",
        ],
    ),
    (
        "journal_says_what_changed",
        &["update journal set change_count = 0, kinds = '{}', reservation_ids = '{}',
                              partner_ids = '{}', seats = '{}'"],
    ),
    (
        "change_kinds_known",
        &["update journal set kinds = '{0}'", "update journal set kinds = '{8}'"],
    ),
    (
        "keys_pkey",
        &["insert into keys (id, secret_sha256, name, scope)
           values ('0123456789abcdef', sha256('another'), 'n', 'read')"],
    ),
    (
        "keys_id_is_hexadecimal",
        &["update keys set id = ''", "update keys set id = '0123456789ABCDEF'"],
    ),
    (
        "keys_secret_is_a_sha256",
        &["update keys set secret_sha256 = ''", "update keys set secret_sha256 = 'secret'"],
    ),
    (
        "keys_name_is_sane",
        &["update keys set name = ''", "update keys set name = repeat('n', 129)"],
    ),
    ("keys_scope_known", &["update keys set scope = 'admin'"]),
    (
        "keys_partner_has_an_id",
        &["update keys set scope = 'partner'", "update keys set partner_id = 'p'"],
    ),
    ("usage_pkey", &["insert into usage (event_id, partner_id, seats) values ('e', 'p', 0)"]),
    ("usage_versions_pkey", &["insert into usage_versions (event_id, version) values ('e', 2)"]),
    ("keys_revoked_by_when", &["update keys set revoked_by = '0123456789abcdef'"]),
];

#[tokio::test(flavor = "multi_thread")]
async fn each_constraint_refuses_what_it_must() {
    let database = TestDatabase::create().await;
    database.execute(SOUND).await;
    database.audit().await;
    let mut connection = database.connect().await;
    for (constraint, statements) in REFUSED {
        for statement in *statements {
            let failure = raw_sql(*statement).execute(&mut connection).await.expect_err(statement);
            let failure = failure.into_database_error().expect("the database refused it");
            assert_eq!(failure.constraint(), Some(*constraint), "{statement}: {failure}");
        }
    }
    database.audit().await;
}

/// The other direction: each constraint, a trigger's included, has a statement that shows it at
/// work.
#[tokio::test(flavor = "multi_thread")]
async fn no_constraint_is_left_out() {
    let database = TestDatabase::create().await;
    let named: Vec<String> = sqlx::query_scalar(
        "select conname::text from pg_constraint
           left join pg_class on pg_class.oid = conrelid
           left join pg_type on pg_type.oid = contypid
          where (relname in ('events', 'reservations', 'journal', 'keys', 'usage', 'usage_versions') and contype <> 'n')
             or typnamespace = 'public'::regnamespace
          union
         select (regexp_matches(prosrc, 'then ''(\\w+)''', 'g'))[1]
           from pg_trigger join pg_proc on pg_proc.oid = tgfoid
          where not tgisinternal
          union
         select indexrelid::regclass::text from pg_index
           join pg_class on pg_class.oid = indrelid
          where relname in ('events', 'reservations', 'journal', 'keys', 'usage', 'usage_versions') and indisunique",
    )
    .fetch_all(&mut database.connect().await)
    .await
    .expect("the catalogue is readable");
    for name in &named {
        assert!(REFUSED.iter().any(|(constraint, _)| constraint == name), "{name} is not shown");
    }
    assert_eq!(named.len(), REFUSED.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn required_columns_are_required() {
    let database = TestDatabase::create().await;
    database.execute(SOUND).await;
    let nullable: Vec<String> = sqlx::query_scalar(
        "select table_name || '.' || column_name from information_schema.columns
          where table_name in ('events', 'reservations', 'journal', 'keys', 'usage', 'usage_versions') and is_nullable = 'YES'
          order by 1",
    )
    .fetch_all(&mut database.connect().await)
    .await
    .expect("the catalogue is readable");
    let expected = [
        "events.made_by",
        "events.made_by_key",
        "events.sales_close_at",
        "events.sales_open_at",
        "events.seats_per_partner_max",
        "journal.event_change",
        "journal.key_ids",
        "keys.expires_at",
        "keys.last_used_at",
        "keys.made_by",
        "keys.partner_id",
        "keys.revoked_at",
        "keys.revoked_by",
        "reservations.hold_expires_at",
        "reservations.idempotency_key",
        "reservations.limited",
        "reservations.reference",
        "reservations.request_fingerprint",
    ];
    assert_eq!(nullable, expected);
}

/// The audit with which the other tests end can fail: it detects each of these kinds of damage.
#[tokio::test(flavor = "multi_thread")]
async fn the_audit_sees_each_kind_of_damage() {
    let damages = [
        ("1", "update events set available_seats = 6"),
        ("1", "update reservations set status = 'cancelled'"),
        ("2", "update events set reservation_count = 2"),
        ("2", "update events set held_seats = 1"),
        ("3", "update events set version = 2"),
        ("3", "delete from journal"),
        ("4", "update journal set seats = '{2}'"),
        ("4", "update reservations set partner_id = 'q'"),
        ("4", "update reservations set seats = 2; update events set available_seats = 8"),
        ("4", "update events set total_seats = 11, available_seats = 8"),
        ("4", "update journal set event_change = '{\"totalSeats\": 11}'"),
        ("4", "delete from reservations"),
        ("4", "update reservations set version = 2"),
        ("4", "update usage set seats = 4"),
        ("4", "delete from usage"),
        ("4", "insert into usage (event_id, partner_id, seats) values ('e', 'q', 1)"),
        ("4", "update usage_versions set version = 0"),
        ("4", "update usage_versions set version = 2"),
    ];
    for (invariant, damage) in damages {
        let database = TestDatabase::create().await;
        database.execute(SOUND).await;
        database.execute(damage).await;
        let problems: Vec<String> = sqlx::query_scalar(include_str!("../audit.sql"))
            .fetch_all(&mut database.connect().await)
            .await
            .expect("the audit runs");
        let seen = problems.iter().any(|problem| problem.starts_with(invariant));
        assert!(seen, "{damage}: {problems:?}");
    }
}

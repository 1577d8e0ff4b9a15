//! The two stores to which batches are committed, checked against the same rules: what tests show
//! of the batcher on the simulated store then also holds on the real one.

use std::collections::BTreeMap;
use std::time::Duration;

use ticketboss::domain::{
    Action, Change, ChangeKind, Command, Event, EventId, HoldTime, IdempotencyKey, KeyedRequest,
    Reservation, ReservationId, Status, Usage, UsageByPartner, decide,
};
use ticketboss::store::{
    Batch, Before, Commit, CommitError, ConnectionLimits, PostgresStore, Snapshot, Store,
};
use time::OffsetDateTime;
use time::macros::datetime;
use tokio::runtime::Handle;
use tokio::time::Instant;
use uuid::Uuid;

use crate::support::simulated::Simulated;
use crate::support::{TestDatabase, alter, eventually, limited, partner, reserve_as};

pub const TIMEOUT: Duration = Duration::from_secs(10);

#[tokio::test(flavor = "multi_thread")]
async fn both_stores_keep_the_same_rules() {
    let event = EventId::parse("hot").expect("a slug");
    store_rules(&Simulated::with_seats(&event, 10), &event).await;

    let database = TestDatabase::create().await;
    database.insert_event("hot", 10).await;
    let limits = ConnectionLimits { writes: 2, reads: 1 };
    let options = database.options.clone();
    let store = PostgresStore::new(options, limits, TIMEOUT, Handle::current());
    store_rules(&store, &event).await;
    for (name, limit) in [("open", None), ("limited", Some(8))] {
        let event = EventId::parse(name).expect("a slug");
        let simulated = Simulated::with_seats(&event, 10);
        simulated.limit_partners(limit);
        limit_rules(&simulated, &event).await;
        database.insert_event(name, 10).await;
        if limit.is_some() {
            database
                .execute("update events set seats_per_partner_max = 8 where id = 'limited'")
                .await;
        }
        limit_rules(&store, &event).await;
    }
    database.audit().await;
}

/// Forty versions, each of a thousand bookings: more than a reader adds up.
const MUCH: &str = "
insert into events (id, name, initial_seats, total_seats, available_seats, seats_per_partner_max)
     values ('much', 'Much', 100000, 100000, 100000, 90000);
insert into reservations (id, created_at, version, seats, event_id, partner_id, status, limited)
select ('00000000-0000-7000-8000-' || lpad(number::text, 12, '0'))::uuid, now(), number / 1000, 2,
       'much', 'abc-corp', 'confirmed', true
  from generate_series(1000, 40999) as number;
insert into journal (event_id, version, at, batch_id, change_count, kinds, reservation_ids,
                     partner_ids, seats)
select 'much', version, now(), gen_random_uuid(), 1000, array_fill(1, array[1000])::smallint[],
       array_agg(id), array_fill('abc-corp'::text, array[1000]), array_fill(2, array[1000])
  from reservations
 where event_id = 'much'
 group by version;
update events set available_seats = 20000, reservation_count = 40000, version = 40
 where id = 'much';
";

/// It makes no difference to what a partner has: by whom it is summed up, when, and by how many.
#[tokio::test(flavor = "multi_thread")]
async fn what_partners_have_is_summed_up() {
    let database = TestDatabase::create().await;
    database.insert_event("hot", 1_000).await;
    database.execute("update events set seats_per_partner_max = 900").await;
    let limits = ConnectionLimits { writes: 4, reads: 2 };
    let options = database.options.clone();
    let store = PostgresStore::new(options, limits, TIMEOUT, Handle::current());
    let summed_to = async |event: &EventId| {
        let version = "select version::bigint from usage_versions where event_id = $1";
        let version = sqlx::query_scalar::<_, i64>(version).bind(event.as_str());
        version.fetch_optional(&mut database.connect().await).await.expect("it is there")
    };
    let booking = limited(reserve_as("abc-corp", 1, None), 9);
    let used = async |event: &EventId| {
        let until = Instant::now() + TIMEOUT;
        let read = store.snapshot(event, &[&booking], None, until).await.expect("it answers");
        let used = read.expect("the event is there").usage.of(&partner("abc-corp"));
        used.expect("it was asked for").seats
    };

    let hot = EventId::parse("hot").expect("a slug");
    // The number of the batch decides whether the sums are due.
    for (version, id) in [(0, 100), (1, 0), (2, 100)] {
        let mut batch = insert(&hot, version, 2, None);
        batch.id = Uuid::from_u128(id);
        let committed = store.commit(&batch, Instant::now() + TIMEOUT).await;
        assert!(matches!(committed, Ok(Commit::Committed(_))), "{committed:?}");
        if id == 0 {
            eventually("it is summed up", async || summed_to(&hot).await == Some(2)).await;
        }
    }
    assert_eq!((summed_to(&hot).await, used(&hot).await), (Some(2), 6));

    database.execute(MUCH).await;
    let much = EventId::parse("much").expect("a slug");
    assert_eq!((used(&much).await, summed_to(&much).await), (80_000, Some(40)));
    database.audit().await;
    // A few at once, each with a connection of its own.
    for _ in 0..5 {
        database.execute("truncate usage_versions, usage").await;
        let all = tokio::join!(used(&much), used(&much), used(&much));
        assert_eq!(all, (80_000, 80_000, 80_000));
        database.audit().await;
    }
}

/// Migration 6 changed the types of columns, which invalidates statements that are already
/// prepared. A replica that runs meanwhile has to survive that, whether or not its sessions are
/// ended.
#[tokio::test(flavor = "multi_thread")]
async fn commits_go_on_across_a_migration_that_changes_types() {
    let database = TestDatabase::create().await;
    database.insert_event("hot", 10).await;
    let event = EventId::parse("hot").expect("a slug");
    let limits = ConnectionLimits { writes: 1, reads: 1 };
    let options = database.options.clone();
    let store = PostgresStore::new(options, limits, TIMEOUT, Handle::current());
    let until = Instant::now() + TIMEOUT;
    let before = store.commit(&insert(&event, 0, 1, None), until).await;
    assert!(matches!(before, Ok(Commit::Committed(_))), "{before:?}");

    database.execute("alter table events alter version type bigint").await;
    let batch = insert(&event, 1, 1, None);
    let refused = store.commit(&batch, until).await;
    assert!(matches!(refused, Err(CommitError::NotDone(_))), "{refused:?}");
    let after = store.commit(&batch, until).await;
    assert!(matches!(after, Ok(Commit::Committed(_))), "{after:?}");

    database
        .execute(
            "alter table events alter version type counter;
             select pg_terminate_backend(pid) from pg_stat_activity
              where application_name = 'ticketboss' and datname = current_database()",
        )
        .await;
    let batch = insert(&event, 2, 1, None);
    let after = match store.commit(&batch, until).await {
        // Its session was ended. Resending the batch settles it.
        Err(CommitError::Unknown(_)) => store.commit(&batch, until).await,
        other => other,
    };
    assert!(matches!(after, Ok(Commit::Committed(_))), "{after:?}");
    database.audit().await;
}

/// A failure means for a commit what its SQLSTATE says, whatever its message.
#[tokio::test(flavor = "multi_thread")]
async fn a_failure_means_what_its_sqlstate_says() {
    let database = TestDatabase::create().await;
    database.insert_event("hot", 10).await;
    database
        .execute(
            "create table failing (code text);
             create function fail() returns trigger language plpgsql as $$
             begin
                 raise exception 'planned' using errcode = (select code from failing);
             end $$;
             create trigger fails before update on events
                 for each row execute function fail();",
        )
        .await;
    let limits = ConnectionLimits { writes: 1, reads: 1 };
    let options = database.options.clone();
    let store = PostgresStore::new(options, limits, TIMEOUT, Handle::current());
    let event = EventId::parse("hot").expect("a slug");
    let cases = [
        ("40001", "Ok(VersionMoved)"),
        ("23505", "Err(KeyTaken)"),
        ("22003", "Err(BadRow("),
        ("23514", "Err(BadRow("),
        ("25006", "Err(NotDone("),
        ("0A000", "Err(NotDone("),
        ("40P01", "Err(NotDone("),
        ("53100", "Err(NotDone("),
        ("55P03", "Err(NotDone("),
        ("57014", "Err(NotDone("),
        ("XX000", "Err(NotDone("),
        ("08006", "Err(Unknown("),
        ("57P01", "Err(Unknown("),
    ];
    for (code, meaning) in cases {
        sqlx::query("delete from failing")
            .execute(&mut database.connect().await)
            .await
            .expect("it runs");
        sqlx::query("insert into failing values ($1)")
            .bind(code)
            .execute(&mut database.connect().await)
            .await
            .expect("it runs");
        let until = Instant::now() + TIMEOUT;
        let failure = store.commit(&insert(&event, 0, 1, None), until).await;
        let said = format!("{failure:?}");
        assert!(said.starts_with(meaning), "{code}: {said}");
    }
}

/// A partner's usage is read if a command needs it, and counts the reservations that have not
/// ended.
async fn limit_rules<S: Store>(store: &S, event: &EventId) {
    let until = Instant::now() + TIMEOUT;
    let hold = |base, seats, end| {
        let mut batch = insert(event, base, seats, None);
        (batch.net_held, batch.net_confirmed) = (seats, 0);
        let change = &mut batch.changes[0];
        change.kind = ChangeKind::Held;
        change.reservation.status = Status::Held;
        change.reservation.hold_expires_at = Some(end);
        batch
    };
    let (ended, later) = (OffsetDateTime::UNIX_EPOCH, datetime!(2100-01-01 0:00 UTC));
    let batches = [insert(event, 0, 3, None), hold(1, 2, later), hold(2, 1, ended)];
    for batch in batches {
        let committed = store.commit(&batch, until).await;
        assert!(matches!(committed, Ok(Commit::Committed(_))), "{committed:?}");
    }
    let booking = |partner| limited(reserve_as(partner, 1, None), 9);
    let holding = |partner| {
        let Command::Reserve(mut hold) = booking(partner) else { unreachable!("it books") };
        hold.items[0].hold = HoldTime::new(60);
        Command::Reserve(hold)
    };
    let read = async |commands: &[&Command], before: Option<Before<'_>>| {
        let snapshot = store.snapshot(event, commands, before, until).await.expect("it answers");
        let Snapshot { event, usage, .. } = snapshot.expect("the event is there");
        let used: BTreeMap<_, _> = ["abc-corp", "other"]
            .into_iter()
            .filter_map(|name| Some((name, usage.of(&partner(name))?)))
            .map(|(name, used)| (name.to_owned(), (used.seats, used.holds)))
            .collect();
        (event, used)
    };
    let used = async |commands: &[&Command]| {
        let (event, used) = read(commands, None).await;
        // Usage that is not known is read, and so is usage that is known of another version.
        let nobody = UsageByPartner::default();
        let before = Before { event: &event, usage: &nobody };
        assert_eq!(read(commands, Some(before)).await.1, used);
        let mut nothing = UsageByPartner::default();
        for name in ["abc-corp", "other"] {
            nothing.insert(partner(name), Usage::default());
        }
        let earlier = Event { version: event.version - 1, ..event.clone() };
        let before = Before { event: &earlier, usage: &nothing };
        assert_eq!(read(commands, Some(before)).await.1, used);
        (event.seats_per_partner_max, used)
    };
    let (limit, both) = used(&[&booking("abc-corp"), &holding("other")]).await;
    let (_, one) = used(&[&booking("abc-corp"), &holding("abc-corp")]).await;
    let (_, no_hold) = used(&[&booking("abc-corp")]).await;
    let of = |name: &str, used: (i64, i64)| (name.to_owned(), used);
    match limit {
        // Without a limit on seats, a booking needs no usage, and none is reported.
        None => {
            assert_eq!(both, BTreeMap::from([of("other", (0, 0))]));
            assert_eq!(one, BTreeMap::from([of("abc-corp", (0, 1))]));
            assert_eq!(no_hold, BTreeMap::new());
        }
        Some(_) => {
            assert_eq!(both, BTreeMap::from([of("abc-corp", (5, 1)), of("other", (0, 0))]));
            assert_eq!(one, BTreeMap::from([of("abc-corp", (5, 1))]));
            assert_eq!(no_hold, one);
        }
    }
    assert_eq!(used(&[&reserve_as("abc-corp", 1, None)]).await.1, BTreeMap::new());
}

async fn store_rules<S: Store>(store: &S, event: &EventId) {
    let until = Instant::now() + TIMEOUT;
    let committed = |commit: Result<Commit, CommitError>| match commit {
        Ok(Commit::Committed(counters)) => {
            (counters.version, counters.available_seats, counters.reservation_count)
        }
        other => panic!("not committed: {other:?}"),
    };
    let missing = EventId::parse("missing").expect("a slug");
    assert!(store.snapshot(&missing, &[], None, until).await.expect("it answers").is_none());

    let first = insert(event, 0, 3, Some("order-1"));
    assert_eq!(committed(store.commit(&first, until).await), (1, 7, 1));
    assert_eq!(store.batch_at(event, 1, until).await.expect("it answers"), Some(first.id));
    assert_eq!(store.batch_at(event, 2, until).await.expect("it answers"), None);

    // Resent, it matches no row.
    let again = store.commit(&first, until).await;
    assert!(matches!(again, Ok(Commit::VersionMoved)), "{again:?}");
    // A batch that takes more seats than are left matches no row, either.
    let mut too_many = insert(event, 1, 8, None);
    too_many.net_seats = 8;
    let refused = store.commit(&too_many, until).await;
    assert!(matches!(refused, Ok(Commit::VersionMoved)), "{refused:?}");
    // A taken key fails the whole batch.
    let taken = store.commit(&insert(event, 1, 1, Some("order-1")), until).await;
    assert!(matches!(taken, Err(CommitError::KeyTaken)), "{taken:?}");
    store.fence(event, until).await.expect("it answers");

    // The reservations that commands name are found, by id and by key.
    let made = &first.changes[0].reservation;
    let cancel = alter(made.id, Action::Cancel);
    let retry = reserve_as("abc-corp", 3, Some("order-1"));
    for command in [&cancel, &retry] {
        let snapshot = store.snapshot(event, &[command], None, until).await.expect("it answers");
        let snapshot = snapshot.expect("the event is there");
        let counters = (snapshot.event.version, snapshot.event.available_seats);
        assert_eq!(counters, (1, 7));
        let decision =
            decide(&snapshot.event, &snapshot.named, &snapshot.usage, snapshot.now, &[command]);
        let verdict = format!("{:?}", decision.verdicts[0]);
        assert!(verdict.starts_with("Accepted"), "{verdict}");
    }

    // A row that is not at its previous version fails the whole statement, the seats included.
    let stale = store.commit(&cancel_of(made, event, 1, 7), until).await;
    assert!(matches!(stale, Err(CommitError::BadRow(_))), "{stale:?}");
    assert_eq!(committed(store.commit(&cancel_of(made, event, 1, 1), until).await), (2, 10, 0));
    // The same cancel from another replica, based on the same state.
    let twice = store.commit(&cancel_of(made, event, 1, 1), until).await;
    assert!(matches!(twice, Ok(Commit::VersionMoved)), "{twice:?}");
}

fn batch(event: &EventId, base_version: i64, net_seats: i32, change: Change) -> Batch {
    Batch {
        id: Uuid::now_v7(),
        event_id: event.clone(),
        base_version,
        net_seats,
        net_held: 0,
        net_confirmed: net_seats.signum().into(),
        event_changed_by: None,
        at: OffsetDateTime::UNIX_EPOCH,
        changes: vec![change],
        event_change: None,
    }
}

pub fn insert(event: &EventId, base_version: i64, seats: i32, key: Option<&str>) -> Batch {
    let keyed = key.map(|key| KeyedRequest {
        key: IdempotencyKey::parse(key).expect("a key"),
        fingerprint: format!("seats={seats}").into(),
    });
    let reservation = Reservation {
        id: ReservationId(Uuid::now_v7()),
        event_id: event.clone(),
        partner_id: partner("abc-corp"),
        seats,
        status: Status::Confirmed,
        hold_expires_at: None,
        reference: None,
        version: base_version + 1,
        created_at: OffsetDateTime::UNIX_EPOCH,
        keyed,
        item: 0,
    };
    let kind = ChangeKind::Reserved;
    let change = Change { kind, seats, reservation, previous_version: None, by: None };
    batch(event, base_version, seats, change)
}

fn cancel_of(
    made: &Reservation,
    event: &EventId,
    base_version: i64,
    previous_version: i64,
) -> Batch {
    let change = Change {
        kind: ChangeKind::Cancelled,
        seats: made.seats,
        reservation: Reservation { status: Status::Cancelled, ..made.clone() },
        previous_version: Some(previous_version),
        by: None,
    };
    batch(event, base_version, -made.seats, change)
}

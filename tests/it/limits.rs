//! How much one partner may have, how often it may call, and what it may keep from others.

use futures_util::future::{join, join_all};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use sqlx::AssertSqlSafe;
use ticketboss::domain::Scope;

use crate::access::{Holders, KEYS};
use crate::support::binary::Binary;
use crate::support::{Answer, DEFAULT_EVENT, TestDatabase, eventually, partner, with_settings};

/// Whichever replicas are asked, the last seat or hold below the limit is granted once.
#[tokio::test(flavor = "multi_thread")]
async fn two_replicas_grant_a_partner_no_more_than_it_may_have() {
    const HOLDS_MAX: usize = 7;
    const SEATS_MAX: usize = 20;
    let settings = [&KEYS[..], &[("PARTNER_HOLDS_MAX", "7")]].concat();
    let database = TestDatabase::create().await;
    let environment = [&[("DATABASE_URL", database.url.as_str())][..], &settings].concat();
    let other = Binary::serve(&environment).await;
    crate::support::with_database(database, &settings, async |app| {
        let Holders { ours, theirs, operator, .. } = Holders::of(app).await;
        let event = json!({"eventId": "e", "name": "E", "totalSeats": 1000,
            "maxSeatsPerPartner": SEATS_MAX});
        let made = app.send_as(&operator, Method::POST, "/events", event).await;
        assert_eq!(made.json()["maxSeatsPerPartner"], SEATS_MAX);
        let client = Client::new();
        let flood = async |event: &str, body: Value| {
            let asked = (0..60).map(|number| {
                let base = if number % 2 == 0 { &app.base } else { &other.base };
                let request = client.post(format!("{base}/events/{event}/reservations"));
                let request = request.bearer_auth(&ours).json(&body);
                async { Answer::of(request.send().await.expect("an answer")).await }
            });
            join_all(asked).await
        };
        let check = |answers: Vec<Answer>, granted: usize, limit: &str| {
            let (made, refused): (Vec<_>, Vec<_>) =
                answers.into_iter().partition(|answer| answer.status == 201);
            assert_eq!(made.len(), granted);
            for answer in refused {
                let problem = answer.problem(409, "partner_limit_exceeded");
                assert_eq!(problem["limit"], limit, "{problem}");
                assert_eq!(problem["limitUsed"], granted, "{problem}");
                assert_eq!(problem["limitMax"], granted, "{problem}");
            }
            made
        };
        check(flood("e", json!({"seats": 1})).await, SEATS_MAX, "maxSeatsPerPartner");
        let hold = json!({"seats": 1, "holdSeconds": 600});
        let held = flood(DEFAULT_EVENT, hold.clone()).await;
        let held = check(held, HOLDS_MAX, "openHolds");
        // Expired holds no longer count, nor do confirmed ones; and other partners are not
        // affected.
        let first =
            format!("/reservations/{}", held[0].json()["reservationId"].as_str().expect("an id"));
        let confirm = format!("{first}/confirm");
        assert_eq!(app.send_as(&ours, Method::POST, &confirm, Value::Null).await.status, 200);
        let again = flood(DEFAULT_EVENT, hold.clone()).await;
        assert_eq!(again.iter().filter(|answer| answer.status == 201).count(), 1);
        app.end_holds().await;
        check(flood(DEFAULT_EVENT, hold).await, HOLDS_MAX, "openHolds");
        let path = "/events/e/reservations";
        app.send_as(&theirs, Method::POST, path, json!({"seats": 10})).await.made();
        let for_ours = json!({"seats": 1, "partnerId": "abc-corp"});
        let answer = app.send_as(&operator, Method::POST, path, for_ours).await;
        answer.problem(409, "partner_limit_exceeded");
    })
    .await;
    assert_eq!(other.stop().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partner_that_asks_too_often_is_told_when_to_come_back() {
    let settings = [KEYS[0], ("PARTNER_REQUESTS_PER_S", "1"), ("PARTNER_REQUESTS_BURST", "5")];
    with_settings(&settings, async |app| {
        let Holders { ours, theirs, .. } = Holders::of(app).await;
        let second = app.key(Scope::Partner(partner("abc-corp"))).await.1;
        let ask =
            async |key: &str| app.send_as(key, Method::GET, "/reservations", Value::Null).await;
        let first = ask(&ours).await;
        assert_eq!(first.header("ratelimit-policy"), Some("\"requests\";q=5;w=5"));
        assert_eq!(first.header("ratelimit"), Some("\"requests\";r=4;t=1"));
        // The requests of all keys of a partner count together, even those that are refused.
        for _ in 0..4 {
            let answer = app.send_as(&second, Method::GET, "/metrics", Value::Null).await;
            assert_eq!(answer.status, 403, "{answer:?}");
        }
        let refused = loop {
            let answer = ask(&ours).await;
            if answer.status != 200 {
                break answer;
            }
        };
        let problem = refused.problem(429, "rate_limited");
        assert_eq!(refused.header("retry-after"), Some("1"));
        assert!(problem["retryAfterMs"].as_u64().is_some_and(|ms| (1..=1001).contains(&ms)));
        assert_eq!(refused.header("ratelimit"), Some("\"requests\";r=0;t=5"));
        assert_eq!(ask(&theirs).await.status, 200);
        // Looking for a new key reads all recent keys again, which must not reset the rate.
        let third = app.key(Scope::Partner(partner("abc-corp"))).await.1;
        for key in [&third, &ours] {
            assert_ne!(ask(key).await.header("ratelimit"), first.header("ratelimit"));
        }
        assert_eq!(app.get("/health").await.header("ratelimit"), None);
    })
    .await;
}

/// What a partner has is the same whether it is summed up already or has to be added.
#[tokio::test(flavor = "multi_thread")]
async fn all_that_a_partner_took_and_gave_back_is_summed_up() {
    with_settings(&KEYS, async |app| {
        let Holders { ours, theirs, operator, .. } = Holders::of(app).await;
        let event = json!({"eventId": "e", "name": "E", "totalSeats": 10_000,
            "maxSeatsPerPartner": 1_040});
        app.send_as(&operator, Method::POST, "/events", event).await.json();
        let path = "/events/e/reservations";
        let book = async |key: &str, body| app.send_as(key, Method::POST, path, body).await;
        let id = |made: Answer| made.made()["reservationId"].as_str().expect("an id").to_owned();
        let mut ids = Vec::new();
        for _ in 0..15 {
            ids.push(id(book(&ours, json!({"seats": 2})).await));
        }
        for _ in 0..10 {
            let list = json!({"items": vec![json!({"seats": 1}); 100]});
            let path = format!("{path}/batch");
            app.send_as(&ours, Method::POST, &path, list).await.made();
        }
        book(&theirs, json!({"seats": 7})).await.made();
        for (id, method, body, status) in [
            (&ids[0], Method::DELETE, Value::Null, 204),
            (&ids[1], Method::PATCH, json!({"seats": 1}), 200),
        ] {
            let answer = app.send_as(&ours, method, &format!("{path}/{id}"), body).await;
            assert_eq!(answer.status, status, "{answer:?}");
        }
        book(&ours, json!({"seats": 3, "holdSeconds": 600})).await.made();
        app.end_holds().await;
        let is = async |condition: &str| {
            let condition = format!(
                "select {condition} from usage_versions right join events on id = event_id
                  where id = 'e'"
            );
            let mut connection = app.database.connect().await;
            let is = sqlx::query_scalar(AssertSqlSafe(condition)).fetch_one(&mut connection).await;
            is.expect("the event is there")
        };
        eventually("the hold is expired", async || is("held_seats = 0").await).await;
        let hold = id(book(&ours, json!({"seats": 4, "holdSeconds": 600})).await);
        let confirm = format!("{path}/{hold}/confirm");
        assert_eq!(app.send_as(&ours, Method::POST, &confirm, Value::Null).await.status, 200);
        book(&ours, json!({"seats": 5, "holdSeconds": 600})).await.made();
        // 15 times 2, less 2 and 1; 10 times 100; 4 and 5.
        let is_full = async || {
            let problem = book(&ours, json!({"seats": 5})).await;
            let problem = problem.problem(409, "partner_limit_exceeded");
            assert_eq!(problem["limitUsed"], 1_036, "{problem}");
        };
        // Otherwise a commit may have summed up a part, so that too little is left for a reader.
        app.database.execute("truncate usage_versions, usage").await;
        eventually("all of it is summed up", async || {
            is_full().await;
            is("coalesce(usage_versions.version = events.version, false)").await
        })
        .await;
        is_full().await;
        // Replicas of an earlier version count what is marked.
        let unmarked =
            "select from reservations where event_id = events.id and limited is not true";
        assert!(is(&format!("not exists ({unmarked})")).await);
        app.database.execute("truncate usage_versions, usage").await;
        is_full().await;
        app.end_holds().await;
        book(&ours, json!({"seats": 9})).await.made();
        book(&ours, json!({"seats": 1})).await.problem(409, "partner_limit_exceeded");
    })
    .await;
}

/// The index of partners' holds identifies a partner by a 32-bit hash.
#[tokio::test(flavor = "multi_thread")]
async fn partners_with_the_same_number_are_told_apart() {
    const SAME: [&str; 2] = ["partner-19", "partner-54704"];
    let settings = [&KEYS[..], &[("PARTNER_HOLDS_MAX", "1")]].concat();
    with_settings(&settings, async |app| {
        let mut connection = app.database.connect().await;
        let same: bool = sqlx::query_scalar("select hashtext($1) = hashtext($2)")
            .bind(SAME[0])
            .bind(SAME[1])
            .fetch_one(&mut connection)
            .await
            .expect("the database is there");
        assert!(same);
        for name in SAME {
            let (_, key) = app.key(Scope::Partner(partner(name))).await;
            let hold = async || {
                let body = json!({"seats": 2, "holdSeconds": 600});
                app.send_as(&key, Method::POST, "/reservations", body).await
            };
            hold().await.made();
            let problem = hold().await.problem(409, "partner_limit_exceeded");
            assert_eq!(problem["limitUsed"], 1, "{problem}");
        }
    })
    .await;
}

/// A booking does not need the number of open holds. Not knowing it must not be taken for zero.
#[tokio::test(flavor = "multi_thread")]
async fn a_booking_does_not_make_holds_forgotten() {
    let settings = [&KEYS[..], &[("PARTNER_HOLDS_MAX", "2")]].concat();
    with_settings(&settings, async |app| {
        let (_, ours) = app.key(Scope::Partner(partner("abc-corp"))).await;
        let post = async |body| app.send_as(&ours, Method::POST, "/reservations", body).await;
        let hold = || json!({"seats": 1, "holdSeconds": 600});
        for _ in 0..2 {
            post(hold()).await.made();
        }
        // This booking is refused on a fresh read, which the batcher remembers.
        let authorization = format!("Bearer {ours}");
        let headers = [("authorization", authorization.as_str()), ("if-match", "\"0\"")];
        let stale = json!({"seats": 1}).to_string();
        let stale = app.send(Method::POST, "/reservations", &headers, Some(stale)).await;
        stale.problem(412, "precondition_failed");
        post(hold()).await.problem(409, "partner_limit_exceeded");
        post(json!({"seats": 1})).await.made();
        post(hold()).await.problem(409, "partner_limit_exceeded");
    })
    .await;
}

/// With all places for large reads taken, and many more listings of the same caller in line, another
/// caller has the next turn but one at most; and the same with the feed.
#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_much_keeps_nobody_from_reading() {
    const PLACES: usize = 2;
    // No statement may end by itself while it waits for the lock.
    let settings = [&KEYS[..], &[("REQUEST_TIMEOUT_MS", "25000")]].concat();
    with_settings(&settings, async |app| {
        let Holders { ours, operator, .. } = Holders::of(app).await;
        let get = async |(key, what): (&str, &str)| {
            let path = format!("/events/{DEFAULT_EVENT}/{what}");
            app.send_as(key, Method::GET, &path, Value::Null).await.status.as_u16()
        };
        let (listing, feed) = ((&*ours, "reservations"), (&*operator, "changes"));
        for read in [listing, feed] {
            // From now on, the key is known.
            assert_eq!(get(read).await, 200);
        }
        for (much, little) in [(listing, feed), (feed, listing)] {
            let mut transaction = app.database.connect().await;
            let lock = sqlx::raw_sql("begin; lock table journal in access exclusive mode");
            lock.execute(&mut transaction).await.expect("nobody else has it");
            let flood = join_all((0..60).map(|_| get(much)));
            let other = async {
                let mut running = Running(app.database.connect().await);
                running.reach(PLACES).await;
                let turn = async {
                    while !running.has_both().await {
                        running.end().await;
                        running.reach(PLACES).await;
                    }
                    drop(transaction);
                };
                join(get(little), turn).await.0
            };
            let (flood, other) = join(flood, other).await;
            assert_eq!(other, 200);
            assert!(flood.contains(&200), "{flood:?}");
        }
    })
    .await;
}

/// The reads that wait for a lock in the database.
struct Running(sqlx::PgConnection);

impl Running {
    /// Their statements, by the names that these begin with, each with its session and its begin.
    async fn statements(&mut self) -> Vec<(String, i32, String)> {
        let query = "select split_part(split_part(query, E'\n', 1), ' ', 2), pid, query_start::text
                       from pg_stat_activity
                      where datname = current_database() and wait_event_type = 'Lock'
                      order by 1";
        sqlx::query_as(query).fetch_all(&mut self.0).await.expect("the database is there")
    }

    async fn reach(&mut self, count: usize) {
        let reached = async || self.statements().await.len() == count;
        eventually("all places are taken", reached).await;
    }

    async fn has_both(&mut self) -> bool {
        let names = self.statements().await.into_iter().map(|(name, ..)| name);
        names.collect::<Vec<_>>() == ["changes", "oldest_of_page"]
    }

    /// Ends them, so that the next ones in line run.
    async fn end(&mut self) {
        let before = self.statements().await;
        for (_, session, _) in &before {
            let cancel = sqlx::query("select pg_cancel_backend($1)").bind(session);
            cancel.execute(&mut self.0).await.expect("the database is there");
        }
        let ended =
            async || !self.statements().await.iter().any(|running| before.contains(running));
        eventually("what ran has ended", ended).await;
    }
}

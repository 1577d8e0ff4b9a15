//! Deterministic simulation: the real engine, on a database, a network, clients and a clock that
//! are all decided by one seed.
//!
//! Some replicas serve some clients, while connections break at every possible moment, statements
//! land late, the server restarts, loses its standby or is replaced by it, and replicas are killed.
//! [`crate::auditor`] judges what the clients were told. Everything runs on one thread with time
//! paused, so that a seed replays exactly.
//!
//! `make simulate SEEDS=100000` runs many seeds from a new start each time, `make simulate SEED=7`
//! shows one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use ticketboss::batching::{Batching, Settings};
use ticketboss::domain::EventId;
use time::OffsetDateTime;
use tokio::runtime::Handle;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::auditor::{
    Answer, Booking, Change, EventChange, Final, Has, Item, Kind, Request, Start, Time, Version,
    audit,
};
use crate::support::simulated::{Database, Journalled};

mod clients;
mod dice;
mod network;
mod server;
mod trace;

use clients::{Crowd, Habits, Replica, again, micros, sales, show};
use dice::{Dice, new_id, seed_ids};
use network::{Network, Remote, Weather};
use server::Server;
use trace::{Trace, What};

/// The time-out of a request.
const TIMEOUT: Duration = Duration::from_secs(4);
/// One second of the database's clock, in microseconds.
const SECOND: i64 = 1_000_000;
/// A partner whose rows the database refuses.
const CULPRIT: &str = "culprit";
/// How many seeds each run of the tests simulates.
const SEEDS: u64 = 10_000;

/// Seeds that failed once, with what they found.
const REGRESSIONS: &[(u64, &str)] = &[];

#[test]
fn no_seed_breaks_a_promise() {
    let number = |name: &str| {
        let given = std::env::var(name).ok().filter(|given| !given.is_empty())?;
        Some(given.parse().unwrap_or_else(|_| panic!("{name} is {given:?}, and not a number")))
    };
    if let Some(seed) = number("SEED") {
        let (trace, wrong) = run(seed);
        println!("{trace}");
        assert!(wrong.is_empty(), "{}", report(seed, &wrong));
        return;
    }
    let from = number("FROM").unwrap_or(0);
    let seeds = from..from + number("SEEDS").unwrap_or(SEEDS);
    println!("simulating the seeds {seeds:?}");
    for (seed, _found) in REGRESSIONS {
        let (_, wrong) = run(*seed);
        assert!(wrong.is_empty(), "{}", report(*seed, &wrong));
    }
    let seen = run_all(seeds);
    println!("answers: {seen:?}");
    for answer in ANSWERS {
        assert!(seen.contains_key(*answer), "no client was ever told {answer}");
    }
}

#[test]
fn a_seed_replays_exactly() {
    for seed in 0..20 {
        let ((first, _), (second, _)) = (run(seed), run(seed));
        assert!(first.len() > 20, "{first}");
        let differs = first.lines().into_iter().zip(second.lines()).find(|(one, two)| one != two);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!(first.len(), second.len(), "seed {seed}");
    }
}

/// Each of these answers must be given to some client in a run of the tests.
const ANSWERS: &[&str] = &[
    "Reserved",
    "Replayed",
    "Altered",
    "Unaltered",
    "Cancelled",
    "EventChanged",
    "EventUnchanged",
    "Swept",
    "InsufficientSeats",
    "SalesClosed(Paused",
    "SalesClosed(Ended",
    "ReservationNotFound",
    "HoldExpired",
    "NotActive(Cancelled",
    "NotActive(Confirmed",
    "CannotGrow",
    "CapacityBelowSold",
    "PreconditionFailed",
    "KeyReused",
    "TooManySeats",
    "TooManyHolds",
    "NothingHappened(\"overloaded",
    "NothingHappened(\"database_unavailable",
    "NothingHappened(\"internal",
    "Unknown",
];

/// Runs the seeds on all cores, up to the first failure. Returns how often each answer was given.
fn run_all(seeds: std::ops::Range<u64>) -> BTreeMap<&'static str, usize> {
    let seen = Mutex::new(BTreeMap::new());
    let next = AtomicU64::new(seeds.start);
    let failures = Mutex::new(Vec::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let wrong = match catch_unwind(AssertUnwindSafe(|| run(seed))) {
                        Ok((trace, wrong)) if wrong.is_empty() => {
                            count_answers(&trace, &mut seen.lock().expect("no panic"));
                            continue;
                        }
                        Ok((_, wrong)) => report(seed, &wrong),
                        Err(_) => report(seed, &["it panicked; see above".to_owned()]),
                    };
                    failures.lock().expect("no panic under the lock").push(wrong);
                    next.store(seeds.end, Ordering::Relaxed);
                }
            });
        }
    });
    let failures = failures.into_inner().expect("no panic under the lock");
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    seen.into_inner().expect("no panic under the lock")
}

fn count_answers(trace: &Trace, seen: &mut BTreeMap<&'static str, usize>) {
    for (_, what) in trace.lines() {
        if let What::Answered(_, answer) = what {
            let said = format!("{answer:?}");
            let known = ANSWERS.iter().find(|known| said.starts_with(**known));
            *seen.entry(known.unwrap_or(&"others")).or_default() += 1;
        }
    }
}

fn report(seed: u64, wrong: &[String]) -> String {
    let mut text = format!("seed {seed} breaks a promise; see it with `make simulate SEED={seed}`");
    for line in wrong {
        write!(text, "\n  {line}").expect("it is a text");
    }
    text
}

/// Everything that a seed decides about a run beforehand. Each run has its own mix: what is rare in
/// one run is the rule in another.
struct Scenario {
    seats: i32,
    /// When the event's sales end.
    sales_end: Option<Time>,
    /// What one partner may have.
    limits: Option<Has>,
    replicas: usize,
    clients: usize,
    calls: usize,
    habits: Habits,
    storm: Weather,
    disasters: usize,
}

impl Scenario {
    fn of(dice: &Dice) -> Self {
        let sometimes = |likely: f64| if dice.chance(0.5) { likely } else { 0.0 };
        let seats = i32::try_from(dice.between(3, 40)).expect("few");
        let few = |most| i32::try_from(dice.between(1, most)).expect("few");
        let limits = dice.chance(0.3).then(|| Has { seats: few(16), holds: few(5) });
        Self {
            limits,
            seats,
            sales_end: dice.chance(0.2).then(|| dice.between(1, 20_000) as i64 * SECOND / 1_000),
            replicas: dice.between(1, 4),
            clients: dice.between(2, 9),
            calls: dice.between(3, 14),
            habits: Habits {
                alters: if dice.chance(0.8) { 0.4 } else { 0.0 },
                holds: if dice.chance(0.6) { 0.6 } else { 0.0 },
                lingers: sometimes(0.15),
                lists: sometimes(0.2),
                conditions: sometimes(0.15),
                operates: sometimes(0.05),
                sweeps: sometimes(0.05),
                keyed: if dice.chance(0.7) { 0.5 } else { 0.0 },
                mixes_up: 0.1,
                hangs_up: sometimes(0.1),
                pause_max_ms: [0, 5, 50, 1_000, 6_000][dice.between(0, 5)],
                seats_max: dice.between(1, 6),
                seats_of_event: seats,
                limits,
            },
            storm: Weather {
                refused: sometimes(0.1),
                error: sometimes(0.1),
                lost: sometimes(0.2),
                answer_lost: sometimes(0.2),
                late: sometimes(0.2),
                silent: sometimes(0.05),
                latency_max_ms: [1, 10, 100, 1_500][dice.between(0, 4)],
                late_max_ms: [5, 100, 2_000, 8_000][dice.between(0, 4)],
            },
            disasters: if dice.chance(0.5) { dice.between(1, 6) } else { 0 },
        }
    }
}

/// Runs a seed. Returns everything that happened, and what is wrong with it.
fn run(seed: u64) -> (Trace, Vec<String>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(simulate(seed))
}

async fn simulate(seed: u64) -> (Trace, Vec<String>) {
    seed_ids(seed);
    let dice = Dice::seeded(seed);
    let scenario = Scenario::of(&dice);
    let trace = Trace::start();
    let event = EventId::parse("hot").expect("a slug");
    let mut database = Database::with_seats(&event, scenario.seats);
    database.refused_partner = Some(CULPRIT);
    database.event.seats_per_partner_max = scenario.limits.map(|limits| limits.seats);
    database.event.sales_close_at = scenario
        .sales_end
        .map(|end| OffsetDateTime::UNIX_EPOCH + time::Duration::microseconds(end));
    let network = Arc::new(Network {
        server: Server::new(database),
        dice: dice.clone(),
        weather: Mutex::new(Weather::CALM),
        trace: trace.clone(),
    });
    let crowd = Crowd::new(event, dice.clone(), trace.clone(), scenario.habits);
    let start = || start_replica(&network);
    *crowd.replicas.lock().expect("no panic") = (0..scenario.replicas).map(|_| start()).collect();

    let disasters = tokio::spawn(disasters(
        Arc::clone(&network),
        Arc::clone(&crowd),
        scenario.storm,
        scenario.disasters,
    ));
    let clients = (0..scenario.clients)
        .map(|_| tokio::spawn(Arc::clone(&crowd).client(scenario.calls)))
        .collect::<Vec<_>>();
    for client in clients {
        client.await.expect("a client does not panic");
    }
    disasters.await.expect("it ends");
    recover(&network, &crowd).await;

    let start =
        Start { seats: scenario.seats, sales_end: scenario.sales_end, limits: scenario.limits };
    let wrong = audit(start, &crowd.calls(), &versions(&network), &what_is_there(&network));
    (trace, wrong)
}

fn start_replica(network: &Arc<Network>) -> Replica {
    let killed = CancellationToken::new();
    let store = Remote::new(Arc::clone(network), killed.clone());
    let settings = Settings { request_timeout: TIMEOUT, mailbox_commands_max: 6 };
    Replica {
        batching: Batching::new(Arc::new(store), settings, new_id, Handle::current()),
        killed,
    }
}

/// Storms, and faults that affect more than one statement.
async fn disasters(network: Arc<Network>, crowd: Arc<Crowd>, storm: Weather, count: usize) {
    let dice = &network.dice;
    let tell = |what: String| network.trace.add(What::Happened(what));
    let set = |weather| *network.weather.lock().expect("no panic under the lock") = weather;
    let server = &network.server;
    sleep(dice.pause(20)).await;
    set(storm);
    for _ in 0..count {
        sleep(dice.pause(400)).await;
        match dice.between(0, 4) {
            0 => {
                tell("the server crashes".into());
                server.crash();
                sleep(dice.pause(500)).await;
                tell("the server starts".into());
                server.start();
            }
            1 => {
                tell("the standby is lost".into());
                server.lose_standby();
                sleep(dice.pause(3_000)).await;
                if dice.chance(0.3) {
                    tell("the server crashes and starts".into());
                    server.crash();
                    server.start();
                    sleep(dice.pause(1_000)).await;
                }
                if dice.chance(0.5) {
                    tell("the standby takes over".into());
                    server.fail_over();
                } else {
                    tell("the standby is back".into());
                    server.find_standby();
                }
            }
            2 => {
                let fresh = start_replica(&network);
                let mut replicas = crowd.replicas.lock().expect("no panic under the lock");
                let chosen = dice.between(0, replicas.len());
                tell(format!("replica {chosen} is killed"));
                std::mem::replace(&mut replicas[chosen], fresh).killed.cancel();
            }
            _ => {
                tell("the weather is good for a while".into());
                set(Weather::CALM);
                sleep(dice.pause(500)).await;
                set(storm);
            }
        }
    }
    sleep(dice.pause(3_000)).await;
}

/// The weather is good again, and the service has to recover.
async fn recover(network: &Network, crowd: &Crowd) {
    *network.weather.lock().expect("no panic under the lock") = Weather::CALM;
    network.trace.add(What::Happened("all is well again".into()));
    // Long enough for the latest statement to land, and for the longest wait to end.
    sleep(TIMEOUT * 4).await;
    let unsettled = crowd.calls().into_iter().map(|call| call.request);
    let keyed: BTreeMap<_, Request> = unsettled
        .filter_map(|request| match &request {
            Request::Reserve(Booking { key: Some(key), partner, .. }) if partner != CULPRIT => {
                Some(((partner.clone(), key.clone()), request))
            }
            _ => None,
        })
        .collect();
    let probe = Request::Reserve(Booking {
        partner: "abc-corp".into(),
        items: vec![Item { id: new_id(), seats: 1, hold: None }],
        key: None,
        at_version: None,
    });
    for request in keyed.values().map(again).chain([probe]) {
        crowd.call(request, false).await;
        let calls = crowd.calls();
        let last = calls.last().expect("it was made");
        let answer = last.answered.as_ref().map(|(_, answer)| answer);
        let clear =
            !matches!(answer, None | Some(Answer::NothingHappened(_) | Answer::Unknown { .. }));
        assert!(clear, "not served after all is well: {last:?}");
    }
    let replicas = crowd.replicas.lock().expect("no panic under the lock").clone();
    for replica in replicas {
        replica.batching.drain().await;
    }
}

/// The journal, as the auditor reads it.
fn versions(network: &Network) -> Vec<Version> {
    let version = |journalled: Journalled| Version {
        at: micros(journalled.at),
        changes: journalled
            .changes
            .into_iter()
            .map(|change| Change {
                kind: Kind::of(change.kind as i16),
                id: change.id.0,
                partner: change.partner_id,
                seats: change.seats,
            })
            .collect(),
        event: journalled.event_change.map(|change| EventChange {
            total: change.total_seats,
            sales: change.status.map(sales),
        }),
    };
    network.server.database().journal.into_iter().map(version).collect()
}

fn what_is_there(network: &Network) -> Final {
    let database = network.server.database();
    Final {
        total_seats: database.event.total_seats,
        available_seats: database.event.available_seats,
        held_seats: database.event.held_seats,
        reservation_count: database.event.reservation_count,
        version: database.event.version,
        reservations: database.reservations.values().map(show).collect(),
    }
}

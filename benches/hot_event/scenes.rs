//! What is measured: ten scenes, each in rounds, with everything that is compared in each round.

use std::time::Duration;

use crate::contenders::Way;
use crate::follow;
use crate::hostile;
use crate::lab::{self, Database, Lab, SEATS, Server};
use crate::load::{Calls, Plan, Tally};
use crate::results::{Counts, Results, Sample};

pub mod access;

pub const OURS: &str = "TicketBoss";
pub const KEYED: &str = "TicketBoss, with idempotency keys";
pub const HEALTH: &str = "GET /health (the HTTP ceiling)";
pub const VERSION_CHECK: &str = Way::VersionCheck.name();
pub const VERSION_RETRY: &str = Way::VersionRetry.name();
pub const FOR_UPDATE: &str = Way::ForUpdate.name();
pub const ATOMIC: &str = Way::Atomic.name();
pub const STATEMENT: &str = "PostgreSQL alone, our statement";
pub const UNIFORM: &str = "1,000 events, uniform";
pub const ZIPF: &str = "1,000 events, Zipf 1.0";
pub const ONE_HOT: &str = "one replica, one event";
pub const TWO_HOT: &str = "two replicas, one event";
pub const ONE_MANY: &str = "one replica, 1,000 events";
pub const TWO_MANY: &str = "two replicas, 1,000 events";
pub const EMPTY: &str = "an empty event";
pub const LARGE: &str = "1 million reservations there";
pub const IDLE: &str = "5,000 connections, all idle";
pub const BUSY_64: &str = "5,000 connections, 64 busy";
pub const ALONE_64: &str = "64 connections, all busy";
pub const BESIDE_IDLE: &str = "the same, beside 10,000 idle ones";
pub const BESIDE_BOTH: &str = "the same, beside 10,000 idle ones and 1,000 that mean no good";
pub const HOSTILE_64: &str = "the same, beside 10,000 that mean no good";

pub const NOT_FOLLOWED: &str = "one event, nobody follows it";
pub const FOLLOWED: &str = "one event, 1,000 streams open";
pub const LAG_HERE: &str = "20 bookings a second: until a stream has them";
pub const LAG_THERE: &str = "the same, at another replica";
pub const LAG_HOT: &str = "one event, 1 stream open: until it has them";

const STREAMS: usize = 1_000;
const QUIET_RATE: f64 = 20.0;
/// Until the process that follows has its first stream.
const FOLLOWERS_START: Duration = Duration::from_millis(300);
/// To open them, and to see what has dropped out.
const STREAMS_SETTLE: Duration = Duration::from_secs(3);
const MANY_EVENTS: usize = 1_000;
const OPEN_CONNECTIONS: usize = 5_000;
const MANY_CONNECTIONS: usize = 10_000;
/// As many as those tools open that hold up servers with slow requests, unless they are told otherwise.
const HOSTILE_CONNECTIONS: usize = 1_000;
/// Until they are open, and the first of them have been closed and come again.
const HOSTILE_START: Duration = Duration::from_secs(7);
/// And until the idle ones beside them are open, too.
const IDLE_START_MAX: Duration = Duration::from_secs(5);

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    pub measured: Duration,
    pub warm_up: Duration,
    /// Everything, or what everyday use needs.
    pub full: bool,
}

pub struct Bench<'a> {
    pub lab: &'a Lab,
    pub effort: Effort,
    pub results: Results,
}

/// Where a scene plays.
struct Stage<'a> {
    /// Before the database, so that it is gone first.
    server: Server,
    database: Database<'a>,
}

impl<'a> Stage<'a> {
    fn of_service(lab: &'a Lab) -> Self {
        Self::with_settings(lab, &[])
    }

    fn with_settings(lab: &'a Lab, settings: &[(&str, &str)]) -> Self {
        let database = lab.database();
        let server = database.service(settings);
        Self { server, database }
    }
}

impl Bench<'_> {
    pub fn run(&mut self, scenes: &[u8]) {
        for scene in scenes {
            eprintln!("scene {scene}");
            match scene {
                1 => self.hot_event(),
                2 => self.sold_out(),
                3 => self.summaries(),
                4 => self.mixed(),
                5 => self.many_events(),
                6 => self.replicas(),
                7 => self.growth(),
                8 => self.open_connections(),
                9 => self.streams(),
                10 => self.access(),
                _ => unreachable!("the command line knows ten"),
            }
        }
    }

    fn hot_event(&mut self) {
        let stage = Stage::of_service(self.lab);
        let contenders: Vec<(Way, Stage<'_>)> = Way::ALL
            .iter()
            .map(|way| {
                let database = self.lab.database();
                let server = database.contender(*way);
                (*way, Stage { server, database })
            })
            .collect();
        let all: &[usize] = if self.effort.full { &[1, 16, 64, 256, 1024] } else { &[1, 64, 256] };
        let sizes: &[usize] = if self.effort.full { &[1, 8, 32, 128, 512] } else { &[128] };
        for _round in 0..self.effort.rounds {
            for connections in all {
                self.health(&stage, 1, *connections);
                self.hot(1, OURS, &stage.database, &[&stage.server], *connections, false);
                if *connections > 64 && !self.effort.full {
                    continue;
                }
                for (way, contender) in &contenders {
                    let servers = [&contender.server];
                    let database = &contender.database;
                    self.hot(1, way.name(), database, &servers, *connections, false);
                }
            }
            self.hot(1, KEYED, &stage.database, &[&stage.server], 64, true);
            for size in sizes {
                let per_second =
                    stage.database.statement(*size, self.effort.warm_up, self.effort.measured);
                let sample = Sample { per_second, ..Sample::default() };
                self.results.add(1, STATEMENT, *size, Ok(sample));
            }
        }
        let peak = all.iter().filter_map(|connections| self.results.rate(1, OURS, *connections));
        let peak = peak.fold(0.0, f64::max);
        for _round in 0..self.effort.rounds {
            for percent in [25, 50, 80] {
                let rate = peak * f64::from(percent) / 100.0;
                let what = format!("open loop at {percent} % of the peak");
                let events = stage.database.events(1, SEATS);
                let calls = Calls::Reserve { events: events.clone(), zipf: None, keyed: false };
                let plan = Plan { rate: Some(rate), ..self.plan(&[&stage.server], 256, calls) };
                self.measure(1, &what, &plan, Some((&stage.database, &events, 0)));
            }
        }
        self.audit(1, &stage.database);
    }

    fn sold_out(&mut self) {
        let stage = Stage::of_service(self.lab);
        let event = stage.database.events(1, 1);
        stage.database.fill(&event[0], 1);
        for _round in 0..self.effort.rounds {
            for connections in [64, 256] {
                self.health(&stage, 2, connections);
                let calls = Calls::Reserve { events: event.clone(), zipf: None, keyed: false };
                let plan = self.plan(&[&stage.server], connections, calls);
                let to_check = Some((&stage.database, event.as_slice(), 1));
                self.measure_counting(Counts::Refused, 2, OURS, &plan, to_check);
            }
        }
        self.audit(2, &stage.database);
    }

    fn summaries(&mut self) {
        let stage = Stage::of_service(self.lab);
        let event = stage.database.events(1, SEATS).remove(0);
        for _round in 0..self.effort.rounds {
            for connections in [64, 256] {
                self.health(&stage, 3, connections);
                let calls = Calls::Get { path: format!("/events/{event}") };
                let plan = self.plan(&[&stage.server], connections, calls);
                self.measure(3, OURS, &plan, None);
            }
        }
        self.audit(3, &stage.database);
    }

    fn mixed(&mut self) {
        let stage = Stage::of_service(self.lab);
        for _round in 0..self.effort.rounds {
            for connections in [64, 256] {
                let events = stage.database.events(1, SEATS);
                let calls = Calls::ReserveAndCancel { event: events[0].clone(), cancelled: 0.3 };
                let plan = self.plan(&[&stage.server], connections, calls);
                self.measure(4, OURS, &plan, Some((&stage.database, &events, 0)));
            }
        }
        self.audit(4, &stage.database);
    }

    fn many_events(&mut self) {
        let stage = Stage::of_service(self.lab);
        for _round in 0..self.effort.rounds {
            for (what, zipf) in [(UNIFORM, None), (ZIPF, Some(1.0))] {
                for connections in [64, 256] {
                    let events = stage.database.events(MANY_EVENTS, SEATS);
                    let calls = Calls::Reserve { events: events.clone(), zipf, keyed: false };
                    let plan = self.plan(&[&stage.server], connections, calls);
                    self.measure(5, what, &plan, Some((&stage.database, &events, 0)));
                }
            }
        }
        self.audit(5, &stage.database);
    }

    fn replicas(&mut self) {
        let stage = Stage::of_service(self.lab);
        let other = stage.database.service(&[]);
        for _round in 0..self.effort.rounds {
            let one: &[&Server] = &[&stage.server];
            let two = &[&stage.server, &other];
            for connections in [64, 256] {
                self.hot(6, ONE_HOT, &stage.database, one, connections, false);
                self.hot(6, TWO_HOT, &stage.database, two, connections, false);
            }
            let many = [(ONE_MANY, one), (TWO_MANY, two)];
            for (what, servers) in many.into_iter().filter(|_| self.effort.full) {
                let events = stage.database.events(MANY_EVENTS, SEATS);
                let calls = Calls::Reserve { events: events.clone(), zipf: None, keyed: false };
                let plan = self.plan(servers, 64, calls);
                self.measure(6, what, &plan, Some((&stage.database, &events, 0)));
            }
        }
        self.audit(6, &stage.database);
    }

    fn growth(&mut self) {
        let filled = |count: i32| {
            let stage = Stage::of_service(self.lab);
            let events = stage.database.events(1, SEATS);
            stage.database.fill(&events[0], count);
            (stage, events, count)
        };
        let mut stages = vec![(LARGE, filled(1_000_000))];
        for round in 0..self.effort.rounds {
            // The small ones anew in each round, since the last one filled them.
            stages.truncate(1);
            stages.push((EMPTY, filled(0)));
            if self.effort.full {
                stages.push(("100 thousand reservations there", filled(100_000)));
            }
            if round % 2 == 1 {
                stages.reverse();
            }
            for (what, (stage, events, there)) in &mut stages {
                let calls = Calls::Reserve { events: events.clone(), zipf: None, keyed: false };
                let plan = self.plan(&[&stage.server], 64, calls);
                let before = u64::try_from(*there).expect("a count");
                let tally = self.measure(7, what, &plan, Some((&stage.database, events, before)));
                *there += i32::try_from(tally.map_or(0, |tally| tally.booked)).expect("few");
            }
            stages.sort_by_key(|(what, _)| *what != LARGE);
            let last = round + 1 == self.effort.rounds;
            for (_, (stage, ..)) in &stages[usize::from(!last)..] {
                self.audit(7, &stage.database);
            }
        }
    }

    fn open_connections(&mut self) {
        for _round in 0..self.effort.rounds {
            let stage = Stage::of_service(self.lab);
            let nothing = Calls::Get { path: "/health".into() };
            let plan = Plan {
                idle_connections: OPEN_CONNECTIONS,
                ..self.plan(&[&stage.server], 0, nothing)
            };
            let (resident, ran) = stage.server.resident_during(|| checked(&plan, None));
            let idle = ran.map(|_| Sample { resident, ..Sample::default() });
            self.results.add(8, IDLE, 0, idle);

            let beside =
                [(ALONE_64, 0), (BUSY_64, OPEN_CONNECTIONS - 64), (BESIDE_IDLE, MANY_CONNECTIONS)];
            for (what, idle_connections) in beside {
                let events = stage.database.events(1, SEATS);
                let calls = Calls::Reserve { events: events.clone(), zipf: None, keyed: false };
                let plan = Plan { idle_connections, ..self.plan(&[&stage.server], 64, calls) };
                let (resident, tally) = stage
                    .server
                    .resident_during(|| checked(&plan, Some((&stage.database, &events, 0))));
                let sample =
                    tally.map(|tally| Sample { resident, ..Sample::of(&tally, Counts::Accepted) });
                self.results.add(8, what, 64, sample);
            }
            self.beside_hostile(&stage, BESIDE_BOTH, HOSTILE_CONNECTIONS, MANY_CONNECTIONS);
            self.beside_hostile(&stage, HOSTILE_64, MANY_CONNECTIONS, 0);
            self.audit(8, &stage.database);
        }
    }

    fn beside_hostile(
        &mut self,
        stage: &Stage<'_>,
        what: &'static str,
        hostile: usize,
        idle: usize,
    ) {
        let events = stage.database.events(1, SEATS);
        let calls = Calls::Reserve { events: events.clone(), zipf: None, keyed: false };
        let plan = Plan { idle_connections: idle, ..self.plan(&[&stage.server], 64, calls) };
        let hostile = lab::bother(&hostile::Plan {
            address: stage.server.address,
            connections: hostile,
            time: HOSTILE_START + IDLE_START_MAX + plan.warm_up + plan.measured,
        });
        let hostile = hostile.expect("a process can be started");
        std::thread::sleep(HOSTILE_START);
        let (resident, tally) =
            stage.server.resident_during(|| checked(&plan, Some((&stage.database, &events, 0))));
        let hostile = hostile.end::<hostile::Tally>().map_err(|failure| failure.to_string());
        let sample = hostile.and_then(|hostile| {
            eprintln!(
                "  beside it: open after {:.1} s, {} were closed and came again",
                hostile.opened_s, hostile.reopened
            );
            Ok(Sample { resident, ..Sample::of(&tally?, Counts::Accepted) })
        });
        self.results.add(8, what, 64, sample);
    }

    fn streams(&mut self) {
        let stage = Stage::of_service(self.lab);
        let other = stage.database.service(&[]);
        for _round in 0..self.effort.rounds {
            self.hot(9, NOT_FOLLOWED, &stage.database, &[&stage.server], 64, false);
            self.followed(&stage, &stage.server, (FOLLOWED, false), STREAMS, 64, None);
            let hot = (LAG_HOT, true);
            self.followed(&stage, &stage.server, hot, 1, 64, None);
            for (what, server) in [(LAG_HERE, &stage.server), (LAG_THERE, &other)] {
                self.followed(&stage, server, (what, true), 1, 1, Some(QUIET_RATE));
            }
        }
        self.audit(9, &stage.database);
    }

    /// Books a new event at the stage's server while it is followed at `server`. The latency is that
    /// of the bookings, or of the stream.
    fn followed(
        &mut self,
        stage: &Stage<'_>,
        server: &Server,
        (what, is_lag): (&str, bool),
        streams: usize,
        connections: usize,
        rate: Option<f64>,
    ) {
        let events = stage.database.events(1, SEATS);
        let calls = Calls::Reserve { events: events.clone(), zipf: None, keyed: false };
        let mut plan = Plan { rate, ..self.plan(&[&stage.server], connections, calls) };
        let mut time = plan.warm_up + plan.measured;
        if streams > 1 {
            plan.warm_up += STREAMS_SETTLE;
            time += STREAMS_SETTLE;
        }
        let following = follow::Plan {
            address: server.address,
            event: events[0].clone(),
            streams,
            time: time + Duration::from_millis(200),
        };
        let following = lab::follow(&following).expect("a process can be started");
        // It is there before the first booking: the streams are opened while there are none.
        std::thread::sleep(FOLLOWERS_START);
        let (resident, tally) =
            stage.server.resident_during(|| checked(&plan, Some((&stage.database, &events, 0))));
        let sample = following.end().map_err(|failure| failure.to_string()).and_then(
            |followed: follow::Tally| {
                let mut sample = Sample::of(&tally?, Counts::Accepted);
                eprintln!(
                    "  {streams} streams: {:.1} MB/s, {} ended as behind",
                    followed.bytes as f64 / 1e6 / followed.seconds,
                    followed.behind
                );
                sample.resident = resident;
                if is_lag {
                    sample.latency = followed.lag;
                }
                Ok(sample)
            },
        );
        self.results.add(9, what, connections, sample);
    }

    fn health(&mut self, stage: &Stage<'_>, scene: u8, connections: usize) {
        let calls = Calls::Get { path: "/health".into() };
        let plan = self.plan(&[&stage.server], connections, calls);
        self.measure(scene, HEALTH, &plan, None);
    }

    /// A new event that everybody books.
    fn hot(
        &mut self,
        scene: u8,
        what: &str,
        database: &Database<'_>,
        servers: &[&Server],
        connections: usize,
        keyed: bool,
    ) {
        let events = database.events(1, SEATS);
        let calls = Calls::Reserve { events: events.clone(), zipf: None, keyed };
        let plan = self.plan(servers, connections, calls);
        self.measure(scene, what, &plan, Some((database, &events, 0)));
    }

    fn plan(&self, servers: &[&Server], connections: usize, calls: Calls) -> Plan {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Plan {
            addresses: servers.iter().map(|server| server.address).collect(),
            connections,
            idle_connections: 0,
            threads: (cores / 2).clamp(1, connections.max(1)),
            warm_up: self.effort.warm_up,
            measured: self.effort.measured,
            rate: None,
            calls,
            keys: Vec::new(),
            seed: 1,
        }
    }

    fn measure(
        &mut self,
        scene: u8,
        what: &str,
        plan: &Plan,
        to_check: Option<(&Database<'_>, &[String], u64)>,
    ) -> Option<Tally> {
        self.measure_counting(Counts::Accepted, scene, what, plan, to_check)
    }

    fn measure_counting(
        &mut self,
        counts: Counts,
        scene: u8,
        what: &str,
        plan: &Plan,
        to_check: Option<(&Database<'_>, &[String], u64)>,
    ) -> Option<Tally> {
        let tally = checked(plan, to_check);
        let sample = tally.as_ref().map(|tally| Sample::of(tally, counts)).map_err(Clone::clone);
        self.results.add(scene, what, plan.connections, sample);
        tally.ok()
    }

    fn audit(&mut self, scene: u8, database: &Database<'_>) {
        let problems = database.audit();
        if !problems.is_empty() {
            self.results.add(scene, "audit", 0, Err(problems.join("\n")));
        }
    }
}

/// Runs a plan, and compares what the database has with what the answers said.
fn checked(
    plan: &Plan,
    to_check: Option<(&Database<'_>, &[String], u64)>,
) -> Result<Tally, String> {
    let tally = lab::run(plan).map_err(|failure| failure.to_string())?;
    if !tally.failed.is_empty() {
        return Err(format!(
            "answers that were neither 2xx nor 409, by status: {:?}",
            tally.failed
        ));
    }
    if let Some((database, events, before)) = to_check {
        database.check(events, before, &tally)?;
    }
    Ok(tally)
}

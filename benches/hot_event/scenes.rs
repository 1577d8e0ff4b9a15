//! What is measured: ten scenes, each in several rounds; each round measures everything that is
//! compared.

use std::time::Duration;

use crate::contenders::Way;
use crate::lab::{self, Database, Lab, SEATS, Server};
use crate::load::{Calls, Plan, Tally};
use crate::results::{Counts, Results, Sample};

pub mod access;
pub mod connections;

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

const MANY_EVENTS: usize = 1_000;

/// How much is measured.
#[derive(Clone, Copy)]
pub struct Effort {
    pub rounds: usize,
    pub measured: Duration,
    pub warm_up: Duration,
    /// Whether to measure everything, or only what everyday use needs.
    pub full: bool,
}

pub struct Bench<'a> {
    pub lab: &'a Lab,
    pub effort: Effort,
    pub results: Results,
}

/// The things to compare, in a different order in each round, so that a different one comes first,
/// and none always runs right behind the same other one, which may leave the machine busy.
fn in_turns<T: Copy>(things: &[T], round: usize) -> Vec<T> {
    let (last, first) = things.split_at(round % things.len());
    let mut things = [first, last].concat();
    if round % 2 == 1 {
        things[1..].reverse();
    }
    things
}

/// The rivals that are measured on one event, with the same number of connections.
#[derive(Clone, Copy)]
enum Rival<'a> {
    Health,
    Ours,
    Other(&'a (Way, Stage<'a>)),
}

/// A server and its database, on which a scene runs.
struct Stage<'a> {
    /// Declared before the database, so that it is dropped first.
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
        let mut rivals = vec![Rival::Health, Rival::Ours];
        rivals.extend(contenders.iter().map(Rival::Other));
        for round in 0..self.effort.rounds {
            for connections in all {
                let few = *connections > 64 && !self.effort.full;
                let rivals = if few { &rivals[..2] } else { &rivals };
                for rival in in_turns(rivals, round) {
                    self.rival(rival, &stage, *connections);
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

    fn rival(&mut self, rival: Rival<'_>, ours: &Stage<'_>, connections: usize) {
        let (what, stage) = match rival {
            Rival::Health => return self.health(ours, 1, connections),
            Rival::Ours => (OURS, ours),
            Rival::Other((way, stage)) => (way.name(), stage),
        };
        self.hot(1, what, &stage.database, &[&stage.server], connections, false);
    }

    fn sold_out(&mut self) {
        let stage = Stage::of_service(self.lab);
        let event = stage.database.events(1, 1);
        stage.database.fill(&event[0], 1);
        for round in 0..self.effort.rounds {
            for connections in [64, 256] {
                for what in in_turns(&[HEALTH, OURS], round) {
                    if what == HEALTH {
                        self.health(&stage, 2, connections);
                        continue;
                    }
                    let calls = Calls::Reserve { events: event.clone(), zipf: None, keyed: false };
                    let plan = self.plan(&[&stage.server], connections, calls);
                    let to_check = Some((&stage.database, event.as_slice(), 1));
                    self.measure_counting(Counts::Refused, 2, OURS, &plan, to_check);
                }
            }
        }
        self.audit(2, &stage.database);
    }

    fn summaries(&mut self) {
        let stage = Stage::of_service(self.lab);
        let event = stage.database.events(1, SEATS).remove(0);
        let paths = [(HEALTH, "/health".to_owned()), (OURS, format!("/events/{event}"))];
        for round in 0..self.effort.rounds {
            for connections in [64, 256] {
                for (what, path) in in_turns(&[&paths[0], &paths[1]], round) {
                    let calls = Calls::Get { path: path.clone() };
                    let plan = self.plan(&[&stage.server], connections, calls);
                    self.measure(3, what, &plan, None);
                }
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
        for round in 0..self.effort.rounds {
            let one: &[&Server] = &[&stage.server];
            let two: &[&Server] = &[&stage.server, &other];
            for connections in [64, 256] {
                for (what, servers) in in_turns(&[(ONE_HOT, one), (TWO_HOT, two)], round) {
                    self.hot(6, what, &stage.database, servers, connections, false);
                }
            }
            let many = in_turns(&[(ONE_MANY, one), (TWO_MANY, two)], round);
            let many = if self.effort.full { &many[..] } else { &[] };
            for (what, servers) in many {
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
            // The small stages are set up anew for each round, since the last round filled them.
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

    fn health(&mut self, stage: &Stage<'_>, scene: u8, connections: usize) {
        let calls = Calls::Get { path: "/health".into() };
        let plan = self.plan(&[&stage.server], connections, calls);
        self.measure(scene, HEALTH, &plan, None);
    }

    /// Measures bookings of one new event.
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

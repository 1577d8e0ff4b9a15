//! Scenes 8 and 9: many connections that book nothing (idle ones, hostile ones, streams), and what
//! they cost the connections that book.

use std::time::{Duration, Instant};

use super::{Bench, Counts, SEATS, Sample, Server, Stage, checked, in_turns};
use crate::load::{Calls, Plan};
use crate::{follow, hostile, lab};

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
/// Time for the follower process to open its first stream.
const FOLLOWERS_START: Duration = Duration::from_millis(300);
/// Time to open all streams, and to see which of them drop out.
const STREAMS_SETTLE: Duration = Duration::from_secs(3);
const OPEN_CONNECTIONS: usize = 5_000;
const MANY_CONNECTIONS: usize = 10_000;
/// As many as the usual tools for slow-request attacks open.
const HOSTILE_CONNECTIONS: usize = 1_000;
/// Time until the hostile connections are open.
const HOSTILE_START: Duration = Duration::from_secs(2);
/// Further time until the idle connections beside them are open, too.
const IDLE_START_MAX: Duration = Duration::from_secs(5);

impl Bench<'_> {
    pub fn open_connections(&mut self) {
        for round in 0..self.effort.rounds {
            let stage = Stage::of_service(self.lab);
            let nothing = Calls::Get { path: "/health".into() };
            let plan = Plan {
                idle_connections: OPEN_CONNECTIONS,
                ..self.plan(&[&stage.server], 0, nothing)
            };
            let (resident, ran) = stage.server.resident_during(|| checked(&plan, None));
            let idle = ran.map(|_| Sample { resident, ..Sample::default() });
            self.results.add(8, IDLE, 0, idle);

            // The numbers of idle and of hostile connections beside the busy ones. The many come
            // after the few, since connections cost memory that is not given back at once.
            let few = [(ALONE_64, 0, 0), (BUSY_64, OPEN_CONNECTIONS - 64, 0)];
            let many = [
                (BESIDE_IDLE, MANY_CONNECTIONS, 0),
                (BESIDE_BOTH, MANY_CONNECTIONS, HOSTILE_CONNECTIONS),
                (HOSTILE_64, 0, MANY_CONNECTIONS),
            ];
            let all = in_turns(&few, round).into_iter().chain(many);
            for (what, idle, hostile) in all {
                self.beside(&stage, what, idle, hostile);
            }
            self.audit(8, &stage.database);
        }
    }

    fn beside(&mut self, stage: &Stage<'_>, what: &'static str, idle: usize, hostile: usize) {
        let events = stage.database.events(1, SEATS);
        let calls = Calls::Reserve { events: events.clone(), zipf: None, keyed: false };
        let plan = Plan { idle_connections: idle, ..self.plan(&[&stage.server], 64, calls) };
        let time = HOSTILE_START + IDLE_START_MAX + plan.warm_up + plan.measured;
        let begin = Instant::now();
        let hostile = (hostile > 0).then(|| {
            let address = stage.server.address;
            let plan = hostile::Plan { address, connections: hostile, time };
            let bothering = lab::bother(&plan).expect("a process can be started");
            std::thread::sleep(HOSTILE_START);
            bothering
        });
        let (resident, tally) =
            stage.server.resident_during(|| checked(&plan, Some((&stage.database, &events, 0))));
        let was_alone = begin.elapsed() >= time;
        let hostile = hostile.map(|it| it.end::<hostile::Tally>().map_err(|it| it.to_string()));
        let sample = hostile.transpose().and_then(|hostile| {
            if let Some(hostile::Tally { opened_s, reopened }) = hostile {
                if was_alone {
                    return Err("those beside it were gone before it was over".to_owned());
                }
                eprintln!(
                    "  beside it: open after {opened_s:.1} s, {reopened} were closed and came again"
                );
            }
            Ok(Sample { resident, ..Sample::of(&tally?, Counts::Accepted) })
        });
        self.results.add(8, what, 64, sample);
    }

    pub fn streams(&mut self) {
        let stage = Stage::of_service(self.lab);
        let other = stage.database.service(&[]);
        for round in 0..self.effort.rounds {
            for streams in in_turns(&[0, STREAMS], round) {
                if streams == 0 {
                    self.hot(9, NOT_FOLLOWED, &stage.database, &[&stage.server], 64, false);
                } else {
                    self.followed(&stage, &stage.server, (FOLLOWED, false), streams, 64, None);
                }
            }
            let hot = (LAG_HOT, true);
            self.followed(&stage, &stage.server, hot, 1, 64, None);
            for (what, server) in [(LAG_HERE, &stage.server), (LAG_THERE, &other)] {
                self.followed(&stage, server, (what, true), 1, 1, Some(QUIET_RATE));
            }
        }
        self.audit(9, &stage.database);
    }

    /// Books a new event through the stage's server while `server` streams it. The latency is that
    /// of the bookings, or, if `is_lag`, that of the stream.
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
        // The followers start before the first booking, so that the streams are opened while there
        // are none.
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
}

//! Scene 10: what access control and limits cost, and what one partner's flood does to another.

use std::thread;
use std::time::Duration;

use super::{Bench, Counts, SEATS, Sample, Stage, in_turns};
use crate::lab;
use crate::load::{Calls, Plan, Tally};

pub const OFF: &str = "one event, access control off";
pub const ON: &str = "one event, 1,000 partners with keys";
pub const LIMITED: &str = "the same, and the event limits what a partner may have";
pub const ALONE: &str = "300 bookings a second of a small partner, alone";
pub const TURNS: &str = "the same, beside a partner who books lists of 100 on 300 connections";
pub const LINE: &str = "the same, all in one line (access control off)";
pub const RATED: &str =
    "beside a partner with 2,000 connections, who may send 1,000 a second (the default)";

const PARTNERS: usize = 1_000;
/// What is compared with and without access control differs by less than one measurement from the
/// next, so it is measured this many times in each round.
const ROUNDS_COMPARED: usize = 3;
const KEYS: (&str, &str) = ("ACCESS_CONTROL", "keys");
/// So high that the rate limits nobody.
const NO_RATE: [(&str, &str); 2] =
    [("PARTNER_REQUESTS_PER_S", "1000000"), ("PARTNER_REQUESTS_BURST", "1000000")];
const SMALL_RATE: f64 = 300.0;
const SMALL_CONNECTIONS: usize = 64;
const FLOOD_CONNECTIONS: usize = 2_000;
const LIST_CONNECTIONS: usize = 300;
const LIST: usize = 100;
/// Time for the flood to open its connections and to fill the mailbox.
const FLOOD_START: Duration = Duration::from_millis(1_500);

impl Bench<'_> {
    pub fn access(&mut self) {
        let off = Stage::of_service(self.lab);
        let on = Stage::with_settings(self.lab, &[KEYS, NO_RATE[0], NO_RATE[1]]);
        let rated = Stage::with_settings(self.lab, &[KEYS]);
        let partners = on.database.keys(PARTNERS);
        let few = rated.database.keys(2);
        let compared = [(OFF, None), (ON, None), (LIMITED, Some(SEATS))];
        let flooded = [
            (ALONE, &on, &partners[..], None),
            (TURNS, &on, &partners, Some(LIST_CONNECTIONS)),
            (LINE, &off, &[], Some(LIST_CONNECTIONS)),
            (RATED, &rated, &few, Some(FLOOD_CONNECTIONS)),
        ];
        for round in 0..self.effort.rounds {
            for round in ROUNDS_COMPARED * round..ROUNDS_COMPARED * (round + 1) {
                for (what, limit) in in_turns(&compared, round) {
                    let (stage, keys) =
                        if what == OFF { (&off, &[][..]) } else { (&on, &partners[..]) };
                    let events = stage.database.limited_events(1, SEATS, limit);
                    let calls = Calls::Reserve { events: events.clone(), zipf: None, keyed: false };
                    let plan = self.plan(&[&stage.server], 64, calls);
                    let plan = Plan { keys: keys.to_vec(), ..plan };
                    self.measure(10, what, &plan, Some((&stage.database, &events, 0)));
                }
            }
            for (what, stage, keys, flood) in in_turns(&flooded, round) {
                self.small(what, stage, keys, flood);
            }
        }
        for stage in [&off, &on, &rated] {
            self.audit(10, &stage.database);
        }
    }

    /// Books for a small partner at a fixed rate, beside another partner's flood or alone.
    fn small(&mut self, what: &str, stage: &Stage<'_>, keys: &[String], flood: Option<usize>) {
        let events = stage.database.events(1, SEATS);
        let calls = Calls::Reserve { events: events.clone(), zipf: None, keyed: false };
        let key = |number: usize| keys.get(number).cloned().into_iter().collect::<Vec<_>>();
        let servers = [&stage.server];
        let plan = self.plan(&servers, SMALL_CONNECTIONS, calls.clone());
        let plan = Plan { keys: key(0), rate: Some(SMALL_RATE), ..plan };
        let time = FLOOD_START + plan.warm_up + plan.measured + FLOOD_START;
        let flooded = flood.is_some();
        let flood = flood.map(|connections| {
            let calls = match connections {
                LIST_CONNECTIONS => Calls::ReserveLists { event: events[0].clone(), size: LIST },
                _ => calls,
            };
            let flood = Plan { keys: key(1), ..self.plan(&servers, connections, calls) };
            let flood = Plan { measured: time, warm_up: Duration::ZERO, ..flood };
            lab::load(&flood).expect("a process can be started")
        });
        if flooded {
            thread::sleep(FLOOD_START);
        }
        let tally = lab::run(&plan).map_err(|failure| failure.to_string());
        let flood = flood.map(|flood| flood.end::<Tally>().map_err(|it| it.to_string()));
        let sample = tally.and_then(|tally| {
            let flood = flood.transpose()?.unwrap_or_default();
            let rated = flood.failed.keys().all(|status| *status == 429);
            if !rated || !tally.failed.is_empty() {
                return Err(format!("failed: {:?}, {:?}", tally.failed, flood.failed));
            }
            if flooded {
                let per_second = flood.booked as f64 / flood.seconds;
                eprintln!("  beside it {per_second:.0}/s, {:?} refused", flood.failed);
            }
            stage.database.check(&events, flood.booked - flood.cancelled, &tally)?;
            Ok(Sample::of(&tally, Counts::Accepted))
        });
        self.results.add(10, what, SMALL_CONNECTIONS, sample);
    }
}

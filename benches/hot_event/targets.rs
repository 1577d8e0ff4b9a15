//! The performance targets of the service, mostly as ratios within one run.

use crate::results::{Results, Sample, Spread};
use crate::scenes::access::{ALONE, LIMITED, LINE, OFF, ON, RATED, TURNS};
use crate::scenes::connections::{
    ALONE_64, BESIDE_BOTH, BESIDE_IDLE, BUSY_64, FOLLOWED, HOSTILE_64, IDLE, LAG_HERE, LAG_THERE,
    NOT_FOLLOWED,
};
use crate::scenes::{
    ATOMIC, EMPTY, FOR_UPDATE, HEALTH, LARGE, ONE_HOT, OURS, STATEMENT, TWO_HOT, VERSION_CHECK,
    VERSION_RETRY,
};

/// A target, and the measurement that is compared with it.
pub struct Target {
    pub what: &'static str,
    pub at_least: f64,
    pub reach: f64,
    /// Printed behind each number.
    pub unit: &'static str,
    less_is_better: bool,
    /// `None` if the scene was not run, or something in it failed.
    pub measured: Option<Spread>,
}

impl Target {
    fn more(what: &'static str, at_least: f64, reach: f64, measured: Option<Spread>) -> Self {
        Self { what, at_least, reach, unit: "", less_is_better: false, measured }
    }

    fn less(what: &'static str, at_most: f64, reach: f64, measured: Option<Spread>) -> Self {
        Self { less_is_better: true, ..Self::more(what, at_most, reach, measured) }
    }

    fn in_unit(self, unit: &'static str) -> Self {
        Self { unit, ..self }
    }

    /// Whether a value is as good as `bound`, or better.
    pub fn meets(&self, value: f64, bound: f64) -> bool {
        if self.less_is_better { value <= bound } else { value >= bound }
    }
}

pub fn of(results: &Results) -> Vec<Target> {
    [of_hot_event(results), of_limits(results), of_other_scenes(results), of_access(results)]
        .into_iter()
        .flatten()
        .collect()
}

fn rate(sample: &Sample) -> f64 {
    sample.per_second
}

fn p50(sample: &Sample) -> f64 {
    sample.latency.p50 as f64
}

fn p99(sample: &Sample) -> f64 {
    sample.latency.p99 as f64
}

fn against_health(results: &Results, scene: u8, connections: usize) -> Option<Spread> {
    results.ratio((scene, OURS, connections), (scene, HEALTH, connections), rate)
}

fn of_hot_event(results: &Results) -> Vec<Target> {
    let times = |what, at_least, reach, other| {
        let measured = results.ratio((1, OURS, 64), (1, other, 64), rate);
        Target::more(what, at_least, reach, measured).in_unit("x")
    };
    vec![
        times(
            "against the version check without retry, 64 connections",
            60.0,
            150.0,
            VERSION_CHECK,
        ),
        times("against the version check with retry, 64", 60.0, 150.0, VERSION_RETRY),
        times("against `select ... for update`, 64", 30.0, 60.0, FOR_UPDATE),
        times("against one atomic statement, 64", 15.0, 30.0, ATOMIC),
        Target::less(
            "one connection: p50 against one atomic statement",
            1.10,
            1.0,
            results.ratio((1, OURS, 1), (1, ATOMIC, 1), p50),
        ),
    ]
}

fn of_limits(results: &Results) -> Vec<Target> {
    // Each connection always has one request under way, so that the mean latency is 256 /
    // throughput.
    let tail = |sample: &Sample| p99(sample) * sample.per_second / 256e6;
    vec![
        Target::more(
            "accepted/s against our own `/health`, 64 connections",
            0.35,
            0.55,
            against_health(results, 1, 64),
        ),
        Target::more("the same, 256 connections", 0.35, 0.55, against_health(results, 1, 256)),
        Target::more(
            "256 connections against PostgreSQL alone with our statement, batches of 128",
            0.5,
            0.8,
            results.ratio((1, OURS, 256), (1, STATEMENT, 128), rate),
        ),
        Target::less(
            "p99 at 256 connections against 256 / throughput",
            3.0,
            2.0,
            results.spread((1, OURS, 256), tail),
        ),
        Target::more(
            "sold out: refusals/s against `/health`, 64",
            0.5,
            0.8,
            against_health(results, 2, 64),
        ),
        Target::more("summaries/s against `/health`, 64", 0.5, 0.8, against_health(results, 3, 64)),
    ]
}

fn of_other_scenes(results: &Results) -> Vec<Target> {
    let two_against_one =
        |connections| results.ratio((6, TWO_HOT, connections), (6, ONE_HOT, connections), rate);
    let share =
        |connections| results.spread((6, TWO_HOT, connections), |sample| sample.share * 100.0);
    let grown = results.ratio((7, LARGE, 64), (7, EMPTY, 64), rate);
    let idle = results.spread((8, IDLE, 0), Sample::resident_mb);
    let busy = results.spread((8, BUSY_64, 64), Sample::resident_mb);
    let followed = results.ratio((9, FOLLOWED, 64), (9, NOT_FOLLOWED, 64), rate);
    let lag = |what| results.spread((9, what, 1), |sample| sample.latency.p99 as f64 / 1000.0);
    let beside_idle = results.ratio((8, BUSY_64, 64), (8, ALONE_64, 64), p99);
    vec![
        Target::more("two replicas on one event against one, 64", 0.9, 1.2, two_against_one(64)),
        Target::more("the weaker replica's share, 64", 30.0, 40.0, share(64)).in_unit(" %"),
        Target::more("two replicas on one event against one, 256", 0.9, 1.2, two_against_one(256)),
        Target::more("the weaker replica's share, 256", 30.0, 40.0, share(256)).in_unit(" %"),
        Target::more("1 million reservations there, against an empty event", 0.9, 1.0, grown),
        Target::less("resident memory, 5,000 connections idle", 120.0, 85.0, idle).in_unit(" MB"),
        Target::less("the same, 64 of them busy", 150.0, 110.0, busy).in_unit(" MB"),
        Target::less(
            "p99 of 64 connections: beside 4,936 idle ones or alone",
            1.5,
            1.0,
            beside_idle,
        ),
        Target::more(
            "64 connections beside 10,000 idle ones, against alone",
            0.9,
            1.0,
            results.ratio((8, BESIDE_IDLE, 64), (8, ALONE_64, 64), rate),
        ),
        Target::more(
            "the same beside 10,000 idle ones and 1,000 that mean no good",
            0.9,
            1.0,
            results.ratio((8, BESIDE_BOTH, 64), (8, ALONE_64, 64), rate),
        ),
        Target::more(
            "the same beside 10,000 that mean no good",
            0.9,
            1.0,
            results.ratio((8, HOSTILE_64, 64), (8, ALONE_64, 64), rate),
        ),
        Target::more("1,000 streams open on the event, against none, 64", 0.7, 0.9, followed),
        Target::less("until a stream has a booking, p99", 50.0, 25.0, lag(LAG_HERE)).in_unit(" ms"),
        Target::less("the same, at another replica, p99", 1000.0, 500.0, lag(LAG_THERE))
            .in_unit(" ms"),
    ]
}

fn of_access(results: &Results) -> Vec<Target> {
    let access = |what| results.ratio((10, what, 64), (10, OFF, 64), rate);
    let beside = |what, other, each: fn(&Sample) -> f64| {
        results.ratio((10, what, 64), (10, other, 64), each)
    };
    vec![
        Target::more("access control and limits on, against off, 64", 0.9, 1.0, access(ON)),
        Target::more("the same, on an event that limits its partners", 0.9, 1.0, access(LIMITED)),
        Target::more(
            "a small partner's bookings beside a flood, against alone",
            0.99,
            1.0,
            beside(RATED, ALONE, rate),
        ),
        Target::less(
            "the p99 of their latency, against alone",
            10.0,
            3.0,
            beside(RATED, ALONE, p99),
        ),
        Target::less(
            "the same with no limit on the rate: in turns, against one line",
            1.0,
            0.5,
            beside(TURNS, LINE, p99),
        ),
    ]
}

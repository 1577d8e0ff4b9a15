//! Samples and their summary: medians with their range, and ratios taken round by round.

use crate::load::{Latency, Tally};

/// One measurement.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sample {
    /// What the scene counts.
    pub per_second: f64,
    pub refused_per_second: f64,
    pub latency: Latency,
    /// The weakest server's share of the accepted requests, from 0 to 1.
    pub share: f64,
    pub resident: Option<u64>,
}

/// What a scene counts.
#[derive(Clone, Copy, Debug)]
pub enum Counts {
    Accepted,
    Refused,
}

impl Sample {
    pub fn of(tally: &Tally, counts: Counts) -> Self {
        let accepted: u64 = tally.accepted.iter().sum();
        let weakest = tally.accepted.iter().min().copied().unwrap_or_default();
        let (counted, latency) = match counts {
            Counts::Accepted => (accepted, tally.accepted_latency),
            Counts::Refused => (tally.refused, tally.refused_latency),
        };
        Self {
            per_second: counted as f64 / tally.seconds,
            refused_per_second: tally.refused as f64 / tally.seconds,
            latency,
            share: weakest as f64 / accepted as f64,
            resident: None,
        }
    }

    /// In MB; 0 where it is unknown.
    pub fn resident_mb(&self) -> f64 {
        self.resident.unwrap_or_default() as f64 / 1e6
    }
}

/// All measurements of one thing, one for each round.
pub struct Series {
    pub scene: u8,
    pub what: String,
    /// Connections of the load generator; the batch size where there is no load.
    pub connections: usize,
    pub samples: Vec<Sample>,
    /// A series with a failure reports no figures.
    pub failures: Vec<String>,
}

#[derive(Default)]
pub struct Results(pub Vec<Series>);

/// The median of several rounds, and their range.
#[derive(Clone, Copy, Debug)]
pub struct Spread {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Spread {
    /// `None` if there are no values.
    pub fn of(values: impl Iterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.collect();
        values.sort_by(f64::total_cmp);
        let (min, max) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            values[middle]
        } else {
            f64::midpoint(values[middle - 1], values[middle])
        };
        Some(Self { median, min, max })
    }
}

impl Results {
    pub fn add(
        &mut self,
        scene: u8,
        what: &str,
        connections: usize,
        sample: Result<Sample, String>,
    ) {
        let known = self.0.iter().position(|series| series.is(scene, what, connections));
        let at = known.unwrap_or_else(|| {
            let what = what.to_owned();
            let (samples, failures) = (Vec::new(), Vec::new());
            self.0.push(Series { scene, what, connections, samples, failures });
            self.0.len() - 1
        });
        match sample {
            Ok(sample) => {
                let Sample { per_second, latency, .. } = sample;
                eprintln!(
                    "  {what}, {connections}: {per_second:.0}/s, p50 {} us, p99 {} us",
                    latency.p50, latency.p99
                );
                self.0[at].samples.push(sample);
            }
            Err(failure) => {
                eprintln!("  {what}, {connections}: FAILED: {failure}");
                self.0[at].failures.push(failure);
            }
        }
    }

    pub fn failed(&self) -> bool {
        self.0.iter().any(|series| !series.failures.is_empty())
    }

    pub fn failed_at(&self, (scene, what, connections): (u8, &str, usize)) -> bool {
        let found = self.0.iter().find(|series| series.is(scene, what, connections));
        found.is_some_and(|series| !series.failures.is_empty())
    }

    fn series(&self, scene: u8, what: &str, connections: usize) -> Option<&Series> {
        let found = self.0.iter().find(|series| series.is(scene, what, connections))?;
        found.failures.is_empty().then_some(found)
    }

    /// The median rate.
    pub fn rate(&self, scene: u8, what: &str, connections: usize) -> Option<f64> {
        let spread = self.spread((scene, what, connections), |sample| sample.per_second)?;
        Some(spread.median)
    }

    pub fn spread(
        &self,
        (scene, what, connections): (u8, &str, usize),
        value: impl Fn(&Sample) -> f64,
    ) -> Option<Spread> {
        Spread::of(self.series(scene, what, connections)?.samples.iter().map(value))
    }

    /// The ratio of two series, round by round: on a busy machine, only measurements of the same
    /// round are comparable.
    pub fn ratio(
        &self,
        above: (u8, &str, usize),
        below: (u8, &str, usize),
        value: impl Fn(&Sample) -> f64,
    ) -> Option<Spread> {
        let above = self.series(above.0, above.1, above.2)?;
        let below = self.series(below.0, below.1, below.2)?;
        let rounds = above.samples.iter().zip(&below.samples);
        Spread::of(rounds.map(|(above, below)| value(above) / value(below)))
    }
}

impl Series {
    fn is(&self, scene: u8, what: &str, connections: usize) -> bool {
        self.scene == scene && self.what == what && self.connections == connections
    }
}

//! Everything that happened in a run, in order: it is compared with that of a replay, and read when
//! a seed fails.

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::network::Fate;
use crate::auditor::{Answer, Request, Time};

#[derive(Clone, Debug, PartialEq)]
pub enum What {
    /// A client's call, by its number, at a replica.
    Called(usize, usize, Request),
    Answered(usize, Answer),
    /// A batch was sent, based on a version.
    Sent(Uuid, i64, Fate),
    /// A batch ran, with this answer of the server.
    Ran(Uuid, String),
    /// A fault that affects more than one statement.
    Happened(String),
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Trace {
    started: Instant,
    lines: Arc<Mutex<Vec<(Duration, What)>>>,
}

impl Trace {
    pub fn start() -> Self {
        Self { started: Instant::now(), lines: Arc::default() }
    }

    pub fn add(&self, what: What) {
        self.locked(|lines| lines.push((self.started.elapsed(), what)));
    }

    /// How much has happened: a clock that never shows the same time for two events.
    pub fn len(&self) -> usize {
        self.locked(|lines| lines.len())
    }

    /// The time since the run began, which is what the server's clock shows.
    pub fn micros(&self) -> Time {
        i64::try_from(self.started.elapsed().as_micros()).expect("a run is short")
    }

    pub fn lines(&self) -> Vec<(Duration, What)> {
        self.locked(|lines| lines.clone())
    }

    fn locked<T>(&self, work: impl FnOnce(&mut Vec<(Duration, What)>) -> T) -> T {
        work(&mut self.lines.lock().expect("no panic under the lock"))
    }
}

impl fmt::Display for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, what) in self.lines() {
            writeln!(f, "{:>10.6} s  {what:?}", at.as_secs_f64())?;
        }
        Ok(())
    }
}

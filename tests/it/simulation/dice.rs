//! All randomness of a run, from one seed.

use std::cell::RefCell;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use uuid::Uuid;

thread_local! {
    /// For ids, which the engine gets from a function without arguments.
    static IDS: RefCell<StdRng> = RefCell::new(StdRng::seed_from_u64(0));
}

/// Seeds the ids of the run on this thread.
pub fn seed_ids(seed: u64) {
    IDS.set(StdRng::seed_from_u64(seed));
}

pub fn new_id() -> Uuid {
    IDS.with_borrow_mut(|ids| Uuid::from_u128(ids.random()))
}

/// Cheap to clone; all clones draw from one sequence.
#[derive(Clone)]
pub struct Dice(Arc<Mutex<StdRng>>);

impl Dice {
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(StdRng::seed_from_u64(seed))))
    }

    pub fn chance(&self, of_one: f64) -> bool {
        self.locked(|random| random.random_bool(of_one))
    }

    /// From the first, inclusive, to the second, exclusive.
    pub fn between(&self, from: usize, to: usize) -> usize {
        self.locked(|random| random.random_range(from..to))
    }

    /// Up to this many milliseconds, with a resolution of a microsecond.
    pub fn pause(&self, max_ms: u64) -> Duration {
        Duration::from_micros(self.locked(|random| random.random_range(0..=max_ms * 1_000)))
    }

    pub fn pick<'a, T>(&self, from: &'a [T]) -> Option<&'a T> {
        if from.is_empty() { None } else { from.get(self.between(0, from.len())) }
    }

    fn locked<T>(&self, work: impl FnOnce(&mut StdRng) -> T) -> T {
        work(&mut self.0.lock().expect("no panic under the lock"))
    }
}

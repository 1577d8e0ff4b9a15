//! The database's clock, as known in this process.

use std::time::Duration;

use tokio::time::Instant;

use crate::domain::Timestamp;

/// The last reading of the database's clock, carried forward by the local monotonic clock. The
/// local time of day does not matter.
#[derive(Clone, Copy, Debug)]
pub struct DatabaseClock {
    reading: Timestamp,
    read_at: Instant,
}

impl DatabaseClock {
    pub fn read(reading: Timestamp) -> Self {
        Self { reading, read_at: Instant::now() }
    }

    /// Precise to the microsecond, like the times that the database stores.
    pub fn now(&self) -> Timestamp {
        let elapsed = self.read_at.elapsed().as_micros();
        self.reading + Duration::from_micros(u64::try_from(elapsed).unwrap_or(u64::MAX))
    }
}

//! The store's metrics, for each of its sets of connections.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::connections::PoolMetrics;

pub(super) struct Metrics {
    lent: Family<PoolLabels, Gauge>,
    connections_max: Family<PoolLabels, Gauge>,
    wait_seconds: Family<PoolLabels, Histogram, fn() -> Histogram>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    pool: &'static str,
}

impl Metrics {
    pub fn new() -> Self {
        // 0.1 ms to 3.3 s.
        let buckets = || Histogram::new(exponential_buckets(0.000_1, 2.0, 16));
        Self {
            lent: Family::default(),
            connections_max: Family::default(),
            wait_seconds: Family::new_with_constructor(buckets as fn() -> Histogram),
        }
    }

    /// The metrics of one set, which may have up to `connections_max` connections.
    pub fn of_pool(&self, pool: &'static str, connections_max: usize) -> PoolMetrics {
        let labels = PoolLabels { pool };
        self.connections_max.get_or_create(&labels).set(connections_max as i64);
        PoolMetrics {
            lent: self.lent.get_or_create_owned(&labels),
            wait_seconds: self.wait_seconds.get_or_create_owned(&labels),
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "connections_lent",
            "Connections to the database that are in use",
            self.lent.clone(),
        );
        registry.register(
            "connections_max",
            "Connections to the database that may be open",
            self.connections_max.clone(),
        );
        registry.register_with_unit(
            "connection_wait",
            "Time until a connection to the database was available, or the wait timed out",
            Unit::Seconds,
            self.wait_seconds.clone(),
        );
    }
}

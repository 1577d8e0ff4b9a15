//! Metrics for Prometheus: those of requests are defined here, those of the layers below are added.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use actix_web::http::{Method, StatusCode};
use actix_web::web::Data;
use actix_web::{HttpResponse, get};
use matchit::Router;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Registry, Unit};
use time::OffsetDateTime;

use super::App;
use super::access::{Monitor, TurnedAway};
use super::openapi::problems;
use super::problem::Problem;

mod process;

/// The prefix of all names, except those of the process.
pub const PREFIX: &str = "ticketboss";

const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

pub struct Metrics {
    registry: Registry,
    process: Registry,
    requests: Family<RequestLabels, Counter>,
    request_seconds: Family<RouteLabels, Histogram, fn() -> Histogram>,
    internal_errors: Counter,
    turned_away: Family<ReasonLabels, Counter>,
    pub ready: Gauge,
    pub streams: StreamMetrics,
}

/// The metrics of streams.
#[derive(Clone, Default)]
pub struct StreamMetrics {
    pub open: Gauge,
    pub bytes: Counter,
    pub dropped: Counter,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    method: &'static str,
    route: &'static str,
    status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabels {
    method: &'static str,
    route: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

impl Metrics {
    /// Adds to the metrics that `registry` already has.
    pub fn new(mut registry: Registry) -> Self {
        let build = Info::new([("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The service", build);
        let requests = Family::default();
        registry.register("http_requests", "Requests that were answered", requests.clone());
        // 0.25 ms to 8.2 s.
        let buckets = || Histogram::new(exponential_buckets(0.000_25, 2.0, 16));
        let request_seconds = Family::new_with_constructor(buckets as fn() -> Histogram);
        registry.register_with_unit(
            "http_request_duration",
            "From the head of a request to the head of its answer",
            Unit::Seconds,
            request_seconds.clone(),
        );
        let internal_errors = Counter::default();
        registry.register(
            "internal_errors",
            "Requests that met a defect, answered 500",
            internal_errors.clone(),
        );
        let turned_away = Family::default();
        // Present from the start, so that the first rejection is seen as an increase.
        for reason in TurnedAway::ALL.map(TurnedAway::as_str) {
            drop(turned_away.get_or_create(&ReasonLabels { reason }));
        }
        registry.register(
            "turned_away",
            "Requests that were turned away by access control",
            turned_away.clone(),
        );
        let ready = Gauge::default();
        ready.set(1);
        registry.register("ready", "The last answer of /ready: 1 for yes, 0 for no", ready.clone());
        let started: Gauge = Gauge::default();
        started.set(OffsetDateTime::now_utc().unix_timestamp());
        registry.register_with_unit("start_time", "Process start time", Unit::Seconds, started);
        let streams = StreamMetrics::default();
        registry.register("streams", "Event streams that are open", streams.open.clone());
        registry.register_with_unit(
            "stream_sent",
            "Bytes sent on event streams",
            Unit::Bytes,
            streams.bytes.clone(),
        );
        registry.register(
            "streams_behind",
            "Event streams that were ended because they did not keep up",
            streams.dropped.clone(),
        );
        Self {
            registry,
            process: process::registry(),
            requests,
            request_seconds,
            internal_errors,
            turned_away,
            ready,
            streams,
        }
    }

    /// Counts a request that was answered.
    pub fn answered(
        &self,
        method: &'static str,
        route: &'static str,
        status: StatusCode,
        took: Duration,
    ) {
        let labels = RequestLabels { method, route, status: status.as_u16() };
        self.requests.get_or_create(&labels).inc();
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            self.internal_errors.inc();
        }
        let labels = RouteLabels { method, route };
        self.request_seconds.get_or_create(&labels).observe(took.as_secs_f64());
    }

    /// Counts a caller that was turned away.
    pub fn turned_away(&self, why: TurnedAway) {
        self.turned_away.get_or_create(&ReasonLabels { reason: why.as_str() }).inc();
    }

    fn text(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        text::encode_registry(&mut text, &self.process)?;
        text::encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// A method as a label value; `other` for those that a client makes up.
pub fn method(method: &Method) -> &'static str {
    let known = ["GET", "POST", "PATCH", "DELETE", "HEAD", "PUT", "OPTIONS"];
    known.into_iter().find(|known| method.as_str() == *known).unwrap_or("other")
}

/// A path as a label value: its pattern in the OpenAPI document, or `none`.
pub fn route(path: &str) -> &'static str {
    ROUTES.at(path).map_or("none", |found| *found.value)
}

static ROUTES: LazyLock<Router<&'static str>> = LazyLock::new(|| {
    let mut routes = Router::new();
    let document = super::document();
    // Leaked only once per process.
    let known = document.paths.paths.into_keys().map(|path| &*path.leak());
    for path in known.chain(["/", "/console/{file}", "/docs/{*file}"]) {
        routes.insert(path, path).expect("paths of a document differ");
    }
    routes
});

/// Read the metrics
///
/// The metrics of this process alone, for Prometheus, in the OpenMetrics text format. Does not
/// touch the database; while that is unavailable, the keys that were valid when it was last reached
/// are accepted.
#[utoipa::path(
    tag = "service",
    security(("key" = ["read", "operator"])),
    responses(
        (status = 200, description = "The metrics", body = String,
            content_type = "application/openmetrics-text"),
        MetricsProblems,
    ),
)]
#[get("/metrics")]
pub async fn read_metrics(_monitor: Monitor, app: Data<App>) -> Result<HttpResponse, Problem> {
    let text = app.metrics.text().map_err(|_nothing_to_say| Problem::internal())?;
    Ok(HttpResponse::Ok().content_type(CONTENT_TYPE).body(text))
}

problems! {
    MetricsProblems: Internal, DatabaseUnavailable;
}

//! The engine's metrics.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use super::{Outcome, Rejection};
use crate::domain::{Acceptance, Action, Change, ChangeKind, Command, Refusal};

#[derive(Debug)]
pub(super) struct Metrics {
    commands: Family<CommandLabels, Counter>,
    changes: Family<ChangeLabels, Counter>,
    /// Commands in all mailboxes that have not been taken into a batch yet.
    pub waiting: Gauge,
    pub wait_seconds: Histogram,
    pub batch_commands: Histogram,
    pub commit_seconds: Histogram,
    pub version_conflicts: Counter,
    batons: Family<BatonLabels, Counter>,
    unknown_outcomes: Family<SettledLabels, Counter>,
    pub events_with_due_holds: Gauge,
    /// Seconds since 1970.
    pub sweeper_looked: Gauge,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CommandLabels {
    command: &'static str,
    outcome: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ChangeLabels {
    r#type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BatonLabels {
    came: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SettledLabels {
    settled: &'static str,
}

impl Metrics {
    pub fn new() -> Self {
        Self {
            commands: Family::default(),
            changes: Family::default(),
            waiting: Gauge::default(),
            // 0.1 ms to 3.3 s.
            wait_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            batch_commands: Histogram::new(exponential_buckets(1.0, 2.0, 10)),
            commit_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 16)),
            version_conflicts: Counter::default(),
            batons: Family::default(),
            unknown_outcomes: Family::default(),
            events_with_due_holds: Gauge::default(),
            sweeper_looked: Gauge::default(),
        }
    }

    pub fn register(&self, registry: &mut Registry) {
        self.start_at_zero();
        registry.register("commands", "Requested changes, by outcome", self.commands.clone());
        registry.register(
            "reservation_changes",
            "Committed changes of reservations, by kind",
            self.changes.clone(),
        );
        registry.register(
            "mailbox_commands",
            "Commands waiting to be taken into a batch",
            self.waiting.clone(),
        );
        registry.register_with_unit(
            "mailbox_wait",
            "Time from a request's arrival until its command is taken into a batch",
            Unit::Seconds,
            self.wait_seconds.clone(),
        );
        registry.register(
            "batch_commands",
            "Commands taken into one batch",
            self.batch_commands.clone(),
        );
        registry.register_with_unit(
            "commit_duration",
            "Duration of the guarded statement, including the wait for a connection",
            Unit::Seconds,
            self.commit_seconds.clone(),
        );
        registry.register(
            "version_conflicts",
            "Commits that lost to another replica's; each is tried again",
            self.version_conflicts.clone(),
        );
        registry.register(
            "batons",
            "Waits for the turn to change an event that other replicas are changing too",
            self.batons.clone(),
        );
        registry.register(
            "unknown_outcomes",
            "Commits whose answer was lost, by how they were settled",
            self.unknown_outcomes.clone(),
        );
        registry.register(
            "events_with_due_holds",
            "Events with holds past their end that the sweeper has not got to (100 at most)",
            self.events_with_due_holds.clone(),
        );
        registry.register_with_unit(
            "sweeper_looked_timestamp",
            "When the sweeper last looked for holds past their end",
            Unit::Seconds,
            self.sweeper_looked.clone(),
        );
    }

    /// Creates the counters at once, so that their first count is seen as an increase.
    fn start_at_zero(&self) {
        for kind in ChangeKind::ALL {
            drop(self.changes.get_or_create(&ChangeLabels { r#type: kind.as_str() }));
        }
        for command in ["reserve", "confirm", "extend", "shrink", "cancel", "change_event"] {
            for outcome in ["done", "overloaded", "database_unavailable", "outcome_unknown"] {
                drop(self.commands.get_or_create(&CommandLabels { command, outcome }));
            }
        }
        for came in ["in_time", "not_in_time"] {
            drop(self.batons.get_or_create(&BatonLabels { came }));
        }
        for settled in ["committed", "not_committed", "refused", "not_in_time"] {
            drop(self.unknown_outcomes.get_or_create(&SettledLabels { settled }));
        }
    }

    /// A command was answered.
    pub fn answered(&self, command: &Command, outcome: &Outcome) {
        let labels = CommandLabels { command: name_of(command), outcome: word_for(outcome) };
        self.commands.get_or_create(&labels).inc();
    }

    /// A command was taken into its first batch.
    pub fn taken(&self, waited: Duration) {
        self.waiting.dec();
        self.wait_seconds.observe(waited.as_secs_f64());
    }

    /// A batch was committed.
    pub fn committed(&self, changes: &[Change]) {
        for kind in ChangeKind::ALL {
            let count = changes.iter().filter(|change| change.kind == kind).count() as u64;
            if count > 0 {
                let labels = ChangeLabels { r#type: kind.as_str() };
                self.changes.get_or_create(&labels).inc_by(count);
            }
        }
    }

    /// A batcher waited for its event's baton.
    pub fn asked_for_baton(&self, came: bool) {
        let came = if came { "in_time" } else { "not_in_time" };
        self.batons.get_or_create(&BatonLabels { came }).inc();
    }

    /// A commit whose answer was lost was settled, or could not be settled in time.
    pub fn settled(&self, settled: &'static str) {
        self.unknown_outcomes.get_or_create(&SettledLabels { settled }).inc();
    }
}

fn name_of(command: &Command) -> &'static str {
    match command {
        Command::Reserve(_) => "reserve",
        Command::Alter(alter) => match alter.action {
            Action::Confirm => "confirm",
            Action::Extend(_) => "extend",
            Action::Shrink(_) => "shrink",
            Action::Cancel => "cancel",
        },
        Command::ChangeEvent(_) => "change_event",
        Command::Sweep => "sweep",
    }
}

/// For refusals, the code that the caller sees.
fn word_for(outcome: &Outcome) -> &'static str {
    match outcome {
        Ok(acceptance) => match acceptance {
            Acceptance::Reserved(_)
            | Acceptance::Altered(_)
            | Acceptance::Cancelled
            | Acceptance::EventChanged(_)
            | Acceptance::Swept => "done",
            Acceptance::Replayed(_) | Acceptance::Unaltered(_) | Acceptance::EventUnchanged(_) => {
                "done_before"
            }
        },
        Err(Rejection::Refused(refusal)) => match refusal {
            Refusal::EventNotFound => "event_not_found",
            Refusal::InsufficientSeats { .. } => "insufficient_seats",
            Refusal::SalesClosed { .. } => "sales_closed",
            Refusal::TooManySeats { .. }
            | Refusal::CannotGrow { .. }
            | Refusal::SalesWindowEmpty => "validation_failed",
            Refusal::TooManyHolds { .. } | Refusal::TooManySeatsOfPartner { .. } => {
                "partner_limit_exceeded"
            }
            Refusal::ReservationNotFound => "reservation_not_found",
            Refusal::HoldExpired => "hold_expired",
            Refusal::ReservationNotActive { .. } => "reservation_not_active",
            Refusal::CapacityBelowSold { .. } => "capacity_below_sold",
            Refusal::PreconditionFailed { .. } => "precondition_failed",
            Refusal::IdempotencyKeyReused => "idempotency_key_reused",
        },
        Err(Rejection::VersionConflict) => "version_conflict",
        Err(Rejection::Overloaded) => "overloaded",
        Err(Rejection::DatabaseUnavailable) => "database_unavailable",
        Err(Rejection::OutcomeUnknown { .. }) => "outcome_unknown",
        Err(Rejection::Internal) => "internal",
    }
}

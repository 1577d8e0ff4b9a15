//! The rules that a batch keeps, each with the edit that breaks it.

mod access;
mod baton;
mod holds;

/// One rule, named by what is wrong once it is broken.
pub struct Rule {
    pub name: &'static str,
    /// File, the text that occurs there exactly once, and its replacement.
    pub edits: &'static [(&'static str, &'static str, &'static str)],
    /// The edit changes a query, so that `sqlx-data.json` has to follow.
    pub in_sql: bool,
}

const DECIDE: &str = "src/domain/decide.rs";
const ALTER: &str = "src/domain/decide/alter.rs";
const EVENT: &str = "src/domain/decide/event.rs";
const DECISION: &str = "src/domain/decision.rs";
const RESERVATION: &str = "src/domain/reservation.rs";
const BATCHER: &str = "src/batching/batcher.rs";
const TAKING: &str = "src/batching/taking.rs";
const SETTLE: &str = "src/batching/settle.rs";
const BATCHING: &str = "src/batching.rs";
const COMMIT: &str = "src/store/commit.rs";
const SNAPSHOT: &str = "src/store/snapshot.rs";
const USAGE: &str = "src/domain/usage.rs";
const SUMS: &str = "src/store/usage.rs";
const FAILURES: &str = "src/store/error.rs";
const LIMITS: &str = "src/domain/decide/limits.rs";
const TURNS: &str = "src/batching/turns.rs";
const KEYS: &str = "src/access.rs";
const CALLERS: &str = "src/http/access.rs";
const FEED: &str = "src/http/changes.rs";
const LISTING: &str = "src/http/reservations/list.rs";
const ASKS: &str = "src/batching/baton.rs";
const POSTGRES: &str = "src/store/postgres.rs";
const CONNECTIONS: &str = "src/store/connections.rs";

const fn rule(
    name: &'static str,
    edits: &'static [(&'static str, &'static str, &'static str)],
) -> Rule {
    Rule { name, edits, in_sql: false }
}

const fn sql(
    name: &'static str,
    edits: &'static [(&'static str, &'static str, &'static str)],
) -> Rule {
    Rule { name, edits, in_sql: true }
}

/// All rules.
pub fn all() -> impl Iterator<Item = &'static Rule> {
    RULES.iter().chain(holds::RULES).chain(access::RULES).chain(baton::RULES)
}

const RULES: &[Rule] = &[
    // Decisions
    rule(
        "seats freed in a batch are sold in it",
        &[(
            ALTER,
            "self.freed_seats += found.seats;",
            "self.freed_seats += 0; self.available_seats += found.seats;",
        )],
    ),
    rule(
        "a batch that frees seats refuses for want of them",
        &[(DECIDE, "if self.freed_seats > 0 {", "if self.freed_seats < 0 {")],
    ),
    rule(
        "seats taken earlier in the batch are counted as free",
        &[(DECIDE, "self.available_seats -= seats;", "self.available_seats -= 0;")],
    ),
    rule(
        "the seats are looked at before the key",
        &[(
            DECIDE,
            "        if let Some(key) = &reserve.key {\n            let made",
            "        if let Some(key) = &reserve.key\n            \
             && reserve.seats() <= self.available_seats\n        {\n            let made",
        )],
    ),
    rule(
        "one key twice in a batch is granted twice",
        &[(
            DECIDE,
            "self.used_keys.insert((&reserve.partner_id, key));",
            "let _ = (&mut self.used_keys, key);",
        )],
    ),
    rule(
        "a key stands for any request",
        &[(DECIDE, "first.keyed == keyed)", "first.keyed.is_some())")],
    ),
    rule(
        "a second cancel of a batch is granted, too",
        &[(ALTER, "if self.altered.contains(id) {", "if self.altered.len() > 1_000 {")],
    ),
    rule(
        "a cancelled reservation is cancelled again",
        &[
            (ALTER, "(Status::Held | Status::Confirmed, Action::Cancel)", "(_, Action::Cancel)"),
            (
                ALTER,
                "            (Status::Cancelled | Status::Expired, Action::Cancel) => {\n                \
             Verdict::Refused(Refusal::ReservationNotFound)\n            }\n",
                "",
            ),
        ],
    ),
    // The batcher
    rule(
        "it is acknowledged before it is committed",
        &[(
            BATCHER,
            "        self.sent_from = Some(batch.base_version);\n",
            "        self.sent_from = Some(batch.base_version);\n        \
             let early = decision.verdicts.clone();\n        \
             self.answer_verdicts(early);\n",
        )],
    ),
    rule(
        "a refusal rests on remembered state",
        &[(
            BATCHER,
            "if !decision.verdicts.iter().any(Verdict::needs_a_read) {",
            "if !decision.verdicts.is_empty() {",
        )],
    ),
    rule(
        "what is remembered outlives a lost race",
        &[(
            BATCHER,
            "let remembered = self.remembered.take();",
            "let remembered: Option<Remembered> = None;",
        )],
    ),
    rule(
        "a replay does not wait for a commit that succeeds",
        &[(BATCHER, "if shows_what_was", "if shows_what_was && self.limit == 0")],
    ),
    rule(
        "what is past its time is sent",
        &[(TAKING, "if queued.send_by < self.now {", "if queued.answer_by < queued.send_by {")],
    ),
    rule(
        "a bad row fails the batch for everyone",
        &[(BATCHER, "if self.in_hand.len() == 1 {", "if !self.in_hand.is_empty() {")],
    ),
    rule(
        "what is deferred is forgotten",
        &[(
            BATCHER,
            "        self.defer(deferred);\n    }\n\n    /// Only what",
            "        drop(deferred);\n    }\n\n    /// Only what",
        )],
    ),
    rule(
        "what is deferred goes behind the others",
        &[(
            TAKING,
            "            filling.take_from(&mut self.deferred, self.limit.div_ceil(2));\n",
            "",
        )],
    ),
    rule(
        "what is deferred fills the whole batch",
        &[(
            TAKING,
            "filling.take_from(&mut self.deferred, self.limit.div_ceil(2));",
            "filling.take_from(&mut self.deferred, self.limit);",
        )],
    ),
    rule(
        "what is deferred and late hurries the others",
        &[(TAKING, "if !self.deferred.is_empty() {", "if false {")],
    ),
    rule(
        "in a batch whose outcome is unknown, refusals are final",
        &[(
            BATCHER,
            "Verdict::Refused(_) => queued.answer(Err(Rejection::DatabaseUnavailable)),",
            "Verdict::Refused(refusal) => queued.answer(Err(Rejection::Refused(refusal))),",
        )],
    ),
    rule(
        "a batcher that panics is not replaced",
        &[(BATCHER, "while AssertUnwindSafe", "if AssertUnwindSafe")],
    ),
    rule(
        "after a panic, what may have been sent is said not to have happened",
        &[(
            BATCHER,
            "let sent_from = self.sent_from.take();",
            "let sent_from = self.sent_from.take().filter(|version| *version < 0);",
        )],
    ),
    // Settling
    rule(
        "what was sent and not answered is said not to have happened",
        &[(
            SETTLE,
            "                self.settle(batch, until).await\n",
            "                Settled::NotDone(Unavailable::TimedOut)\n",
        )],
    ),
    rule(
        "what was sent and not answered is decided again at once",
        &[(
            SETTLE,
            "                self.settle(batch, until).await\n",
            "                Settled::VersionMoved\n",
        )],
    ),
    rule(
        "what cannot be settled is acknowledged",
        &[(SETTLE, "        Settled::Unknown\n    }", "        Settled::Committed(None)\n    }")],
    ),
    rule(
        "what is sent again has another batch id",
        &[(
            SETTLE,
            "        let mut pause = PAUSE_MIN;\n",
            "        let mut pause = PAUSE_MIN;\n        \
             let batch = &Batch { id: (self.shared.new_id)(), ..batch.clone() };\n",
        )],
    ),
    rule(
        "an unknown outcome is retried with new reservation ids",
        &[(
            SETTLE,
            "        let mut pause = PAUSE_MIN;\n",
            "        let mut pause = PAUSE_MIN;\n        \
             let mut renamed = batch.clone();\n        \
             for change in &mut renamed.changes {\n            \
             if change.previous_version.is_none() {\n                \
             change.reservation.id.0 = (self.shared.new_id)();\n            }\n        }\n        \
             let batch = &renamed;\n",
        )],
    ),
    rule(
        "a version that moved while unknown was ours, whoever moved it",
        &[(SETTLE, "made_by.map(|id| id == batch.id)", "made_by.map(|_| true)")],
    ),
    rule(
        "whose commit it was is read from the reservations",
        &[(
            SETTLE,
            "made_by.map(|id| id == batch.id)",
            "made_by.map(|id| {\n            \
             let alters = |change: &crate::domain::Change| change.previous_version.is_some();\n            \
             id == batch.id || batch.changes.iter().all(alters)\n        })",
        )],
    ),
    rule(
        "a version that moved while unknown was never ours",
        &[(
            SETTLE,
            "Ok(Some(true)) => return Settled::Committed(None),",
            "Ok(Some(true)) => return Settled::VersionMoved,",
        )],
    ),
    rule(
        "it was ours, without another commit that succeeded",
        &[(SETTLE, "if ours == Some(true) {", "if ours.is_none() {")],
    ),
    // Mailboxes
    rule(
        "a client that hangs up takes its command along",
        &[(
            TAKING,
            "        if queued.send_by < self.now {",
            "        if queued.reply.is_closed() {\n            return None;\n        }\n        \
             if queued.send_by < self.now {",
        )],
    ),
    rule(
        "a client that hangs up stops the batcher",
        &[(
            BATCHING,
            "let _ = self.reply.send(outcome);",
            "self.reply.send(outcome).expect(\"somebody listens\");",
        )],
    ),
    rule(
        "what is deferred goes before what was deferred earlier",
        &[(BATCHER, "partition(|queued| queued.deferred)", "partition(|_| true)")],
    ),
    rule(
        "what is deferred has no bound",
        &[(
            BATCHER,
            "self.deferred.push_back(queued, deferred_max)",
            "self.deferred.push_back(queued, usize::MAX)",
        )],
    ),
    rule(
        "a command whose time has gone by is taken in",
        &[(BATCHING, "if Instant::now() > send_by {", "if Instant::now() > answer_by {")],
    ),
    // The statement
    sql(
        "the version is not checked",
        &[(COMMIT, "where id = $2 and version = $3 and", "where id = $2 and version >= $3 and")],
    ),
    sql("the seats are not checked", &[(COMMIT, " and available_seats >= $1\n", "\n")]),
    sql(
        "a changed row may be at any version",
        &[(
            COMMIT,
            "               and reservations.version\n                       = (",
            "               and reservations.version\n                       >= 0 * (",
        )],
    ),
    rule(
        "what is changed is left out, as if a batch only booked",
        &[(COMMIT, "if rows.altered.ids.is_empty() && event", "if event")],
    ),
    rule(
        "a change of the event is left out, as if a batch only booked",
        &[(COMMIT, " && event_change.is_none() {", " {")],
    ),
    sql(
        "rows are written where the event was not moved",
        &[
            (
                COMMIT,
                "select row.id, $5, moved.version, row.hold_expires_at",
                "select row.id, $5, coalesce(moved.version, 1), row.hold_expires_at",
            ),
            (
                COMMIT,
                "              from moved,\n                   (select unnest($9::uuid[]) as id",
                "              from (select unnest($9::uuid[]) as id",
            ),
            (
                COMMIT,
                "unnest($16::text[]) as reference) as row\n",
                "unnest($16::text[]) as reference) as row\n              left join moved on true\n",
            ),
        ],
    ),
    sql(
        "a key that is taken is passed over",
        &[(
            COMMIT,
            "            returning 1\n        )\"# + $altered",
            "            on conflict do nothing returning 1\n        )\"# + $altered",
        )],
    ),
    sql(
        "the journal misses a version",
        &[(
            COMMIT,
            "              from moved\n        )\n",
            "              from moved where moved.version <> 3\n        )\n",
        )],
    ),
    sql(
        "the journal names another batch",
        &[(
            COMMIT,
            "select $2, moved.version, $5, $6,",
            "select $2, moved.version, $5, coalesce(gen_random_uuid(), $6),",
        )],
    ),
    sql(
        "a reservation is not found by its key",
        &[(SNAPSHOT, "and idempotency_key = wanted.key", "and idempotency_key > wanted.key")],
    ),
    // The meaning of failures
    rule(
        "a key that is taken blames the row",
        &[(FAILURES, "code == UNIQUE_VIOLATION", "code == STALE_STATEMENT")],
    ),
    rule(
        "a row that is refused blames the database",
        &[(
            FAILURES,
            "code.starts_with(\"22\") || code.starts_with(\"23\")",
            "code.starts_with(\"99\")",
        )],
    ),
    rule(
        "a serialization failure is not taken for a lost race",
        &[(FAILURES, "code == SERIALIZATION_FAILURE", "code == STALE_STATEMENT")],
    ),
    rule(
        "a session that ends has done nothing",
        &[(
            FAILURES,
            "(!ended && !lost).then_some(code)",
            "(ended || !lost || lost).then_some(code)",
        )],
    ),
    rule(
        "a connection that broke is used again",
        &[(
            CONNECTIONS,
            "let broken = !leaves_connection_usable(failure);",
            "let broken = leaves_connection_usable(failure) && self.owner.idle().len() > 1_000;",
        )],
    ),
    rule(
        "a connection that was idle is trusted",
        &[(
            CONNECTIONS,
            "if since.elapsed() <= TRUSTED_IDLE_MAX {",
            "if since.elapsed() >= Duration::ZERO {",
        )],
    ),
    rule(
        "a session decides before it has committed anything",
        &[(
            CONNECTIONS,
            "            commit_something(&mut connection).await?;\n",
            "            if false {\n                commit_something(&mut connection).await?;\n            }\n",
        )],
    ),
];

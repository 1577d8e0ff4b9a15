//! The rules about time, conditions, and changes of the event.

use super::{
    ALTER, BATCHER, COMMIT, DECIDE, DECISION, EVENT, RESERVATION, Rule, SNAPSHOT, rule, sql,
};

pub const RULES: &[Rule] = &[
    // Time
    rule(
        "holds end by the service's own clock",
        &[(
            BATCHER,
            "decide(&known.event, &named, &known.usage, now, &commands)",
            "decide(\n                &known.event,\n                &named,\n                &known.usage,\n                \
             std::time::SystemTime::now().into(),\n                &commands,\n            )",
        )],
    ),
    rule(
        "a hold is said to be over, and that is not written",
        &[(
            ALTER,
            "        if is_due {\n            self",
            "        if is_due && self.available_seats < 0 {\n            self",
        )],
    ),
    rule(
        "sales are said to have ended, and that is not written",
        &[(
            EVENT,
            "            Some(EventChange { status: Some(status), ..EventChange::default() });",
            "            Some(EventChange { status: Some(status), ..EventChange::default() })\n                \
             .filter(|_| false);",
        )],
    ),
    rule(
        "a hold past its time is confirmed",
        &[(
            ALTER,
            "let is_due = found.is_due(self.now);",
            "let is_due = found.is_due(found.created_at);",
        )],
    ),
    rule(
        "a hold is expired before its time",
        &[(
            RESERVATION,
            "is_some_and(|end| end <= now)",
            "is_some_and(|end| end <= now + std::time::Duration::from_secs(5))",
        )],
    ),
    rule(
        "a hold is there at the very moment of its end",
        &[(RESERVATION, "is_some_and(|end| end <= now)", "is_some_and(|end| end < now)")],
    ),
    rule(
        "holds past their time do not make room",
        &[(
            DECIDE,
            "let there = self.available_seats + self.due_seats;",
            "let there = self.available_seats;",
        )],
    ),
    rule(
        "holds past their time are expired, and nobody needs them",
        &[(
            DECIDE,
            "while self.available_seats < goal\n            && let",
            "while goal > 0\n            && let",
        )],
    ),
    rule(
        "what more holds there may be is not waited for",
        &[(DECIDE, "more_due: due.len() >= DUE_HOLDS_MAX,", "more_due: due.len() > due.len(),")],
    ),
    sql(
        "holds past their time are not read",
        &[(
            SNAPSHOT,
            "                           and event.available_seats < $5::bigint\n",
            "                           and event.available_seats < -$5::bigint\n",
        )],
    ),
    rule(
        "holds are not looked for where the event alone is read",
        &[(SNAPSHOT, "(event.held_seats == 0 ||", "(event.held_seats >= 0 ||")],
    ),
    rule(
        "a hold can be extended for ever",
        &[(
            ALTER,
            ".min(hold.created_at + HOLD_LIFE_MAX);",
            ".max(hold.created_at - HOLD_LIFE_MAX);",
        )],
    ),
    rule(
        "a sweep looks at what is remembered",
        &[(
            DECISION,
            "acceptance.shows_what_was() || acceptance.is_sweep()",
            "acceptance.shows_what_was()",
        )],
    ),
    rule(
        "what was so before is acknowledged from what is remembered",
        &[(
            DECISION,
            "acceptance.shows_what_was() || acceptance.is_sweep()",
            "acceptance.is_sweep()",
        )],
    ),
    // Conditions
    rule(
        "of two who name the same version both win",
        &[(DECIDE, "self.version_used |= reserve.precondition != Precondition::Any;\n", "")],
    ),
    rule(
        "a version that is named is not looked at",
        &[(
            DECIDE,
            "if !precondition.allows(version) {",
            "if !precondition.allows(version) && version < 0 {",
        )],
    ),
    rule(
        "a reservation's version that is named is not looked at",
        &[(
            ALTER,
            "_ if !precondition.allows(version) => {",
            "_ if !precondition.allows(version) && version < 0 => {",
        )],
    ),
    // Reservations
    rule(
        "what is shrunk is journalled as what is kept",
        &[(
            ALTER,
            "self.change(ChangeKind::Shrunk, found, freed,",
            "self.change(ChangeKind::Shrunk, found, seats,",
        )],
    ),
    rule(
        "seats that a shrink frees are sold in the same batch",
        &[(
            ALTER,
            "        self.freed_seats += freed;\n",
            "        self.available_seats += freed;\n",
        )],
    ),
    rule(
        "a list is made if its first item fits",
        &[(
            DECIDE,
            "match self.cover(reserve.seats()) {",
            "match self.cover(reserve.items[0].seats.get()) {",
        )],
    ),
    rule(
        "each item of a list carries the whole request",
        &[(
            DECIDE,
            "                keyed.fingerprint = \"\".into();\n",
            "                let _ = keyed;\n",
        )],
    ),
    // Events
    rule(
        "a paused event sells",
        &[(EVENT, "if status != EventStatus::OnSale || sales_open_at", "if sales_open_at")],
    ),
    rule(
        "a change of the event shares its version with a sale",
        &[(
            EVENT,
            "        if self.decision.writes() {\n            return Verdict::Deferred;",
            "        if self.decision.event_change.is_some() {\n            return Verdict::Deferred;",
        )],
    ),
    rule(
        "what follows a change of the event does not wait for it",
        &[(DECIDE, "if batch.decision.event_change.is_some() {", "if batch.due_seats < 0 {")],
    ),
    rule(
        "an event gets fewer seats than are taken",
        &[(EVENT, "match self.cover(lost_seats) {", "match self.cover(lost_seats.min(0)) {")],
    ),
    rule(
        "a change of the event is forgotten after its commit",
        &[(BATCHER, "            change.apply(&mut event);\n", "            let _ = change;\n")],
    ),
    sql(
        "the held seats are not counted",
        &[(COMMIT, "held_seats = held_seats + $7,", "held_seats = held_seats + 0 * $7,")],
    ),
    sql(
        "a change of the event is journalled and not done",
        &[(
            COMMIT,
            "then ($27::jsonb ->> 'totalSeats')::integer else total_seats end",
            "then total_seats else total_seats end",
        )],
    ),
    sql(
        "an extension is journalled and not done",
        &[(
            COMMIT,
            "case when $26::timestamptz[] = '{}'",
            "case when $26::timestamptz[] <> '{}' or true",
        )],
    ),
];

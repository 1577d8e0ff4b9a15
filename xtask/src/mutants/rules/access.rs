//! The rules about callers, limits and turns.

use super::{
    ALTER, BATCHER, CALLERS, COMMIT, DECIDE, FEED, KEYS, LIMITS, LISTING, POSTGRES, Rule, SNAPSHOT,
    SUMS, TURNS, USAGE, rule, sql,
};

pub const RULES: &[Rule] = &[
    // Callers
    rule(
        "another partner's reservation is touched",
        &[(ALTER, "by.may_touch(&found.partner_id)", "by.may_touch(&found.partner_id) || true")],
    ),
    rule(
        "a partner's key books for another",
        &[(
            CALLERS,
            "(Some(own), Some(named)) if *own != named",
            "(Some(own), Some(named)) if own.as_str().is_empty() && *own != named",
        )],
    ),
    rule(
        "a key that reads books",
        &[(
            CALLERS,
            "Booker by recall: Partner, Operator;",
            "Booker by recall: Partner, Read, Operator;",
        )],
    ),
    rule(
        "a partner follows all others",
        &[(
            CALLERS,
            "Overseer by recall: Read, Operator;",
            "Overseer by recall: Partner, Read, Operator;",
        )],
    ),
    rule(
        "any secret is as good",
        &[(
            KEYS,
            "if !bool::from(self",
            "if self.key.name.as_str().is_empty() && !bool::from(self",
        )],
    ),
    rule(
        "a revoked key goes on",
        &[(
            KEYS,
            "if self.key.revoked_at.is_some() {",
            "if self.key.revoked_at.is_some() && self.key.name.as_str().is_empty() {",
        )],
    ),
    rule(
        "an expired key goes on",
        &[(
            KEYS,
            "|end| end <= clock.now()",
            "|end| end <= clock.now() && end < self.key.created_at",
        )],
    ),
    rule(
        "each key of a partner counts for itself",
        &[(
            KEYS,
            "Arc::clone(of_partner.or_insert_with(|| self.account()))",
            "{\n                    drop(of_partner);\n                    self.account()\n                }",
        )],
    ),
    rule(
        "what was counted is forgotten when keys are read again",
        &[(
            KEYS,
            "(Some(before), _) => Arc::clone(&before.account)",
            "(Some(_), _) => self.account()",
        )],
    ),
    rule(
        "who asks for many listings has as many places in the line",
        &[(LISTING, ".turn(caller.account(),", ".turn(caller.account().filter(|_| false),")],
    ),
    rule(
        "who asks for many pages of the feed has as many places in the line",
        &[(FEED, ".turn(overseer.account(),", ".turn(overseer.account().filter(|_| false),")],
    ),
    rule(
        "an operator's key is not written down",
        &[(
            DECIDE,
            "let by = by.operator_key().cloned();",
            "let by = by.operator_key().cloned().filter(|_| false);",
        )],
    ),
    // Limits
    rule(
        "what a batch grants counts against nothing",
        &[(LIMITS, "self.used(reserve) + Usage::of(reserve)", "self.used(reserve)")],
    ),
    rule(
        "what was granted before counts against nothing",
        &[(
            USAGE,
            "*used = *used + granted;",
            "*used = Usage { seats: used.seats.min(granted.seats), ..*used };",
        )],
    ),
    rule(
        "what a partner gives back does not count until later",
        &[(
            LIMITS,
            "if self.relieved.contains(partner_id) {",
            "if self.relieved.contains(partner_id) && used.seats < 0 {",
        )],
    ),
    rule(
        "a limit stands before a replay",
        &[
            (
                DECIDE,
                "        if let Some(verdict) = self.limits_stop(reserve) {\n            return verdict;\n        }\n        match",
                "        match",
            ),
            (
                DECIDE,
                "        let keyed = reserve.keyed();\n",
                "        if let Some(verdict) = self.limits_stop(reserve) {\n            return verdict;\n        }\n        let keyed = reserve.keyed();\n",
            ),
        ],
    ),
    sql(
        "holds past their time count against a limit",
        &[(
            SNAPSHOT,
            "count(*) filter (where hold_expires_at > statement_timestamp())",
            "count(*) filter (where hold_expires_at is not null)",
        )],
    ),
    rule(
        "what partners have of an event that limits them is not read",
        &[(
            SNAPSHOT,
            "has_holds || event.seats_per_partner_max.is_some()",
            "has_holds || event.version < 0",
        )],
    ),
    rule(
        "what was known of partners at another version is taken for true",
        &[(
            SNAPSHOT,
            "Some(before.usage).filter(|_| event.version == before.event.version)",
            "Some(before.usage).filter(|_| event.version >= before.event.version)",
        )],
    ),
    rule(
        "a partner is refused for what it may have given back",
        &[
            (
                BATCHER,
                "over_limit = decision.verdicts.iter().any(Verdict::is_over_limit);",
                "over_limit = decision.verdicts.is_empty();",
            ),
            (
                BATCHER,
                "if over_limit || !decision.verdicts.iter().any(Verdict::is_over_limit) {",
                "if over_limit || !decision.verdicts.is_empty() {",
            ),
        ],
    ),
    rule(
        "partners who were not read are taken for those who have nothing",
        &[(
            USAGE,
            "event.available_seats == event.total_seats",
            "event.available_seats <= event.total_seats",
        )],
    ),
    rule(
        "new partners of an untouched event are read before every commit",
        &[(USAGE, "event.available_seats == event.total_seats", "event.total_seats == 0")],
    ),
    rule(
        "the holds of a partner are not counted where the event alone will do",
        &[(SNAPSHOT, "has_holds || event.seats", "has_holds && event.version < 0 || event.seats")],
    ),
    sql(
        "the seats of holds past their time count against a limit",
        &[(SNAPSHOT, "- held.due_seats end", "- 0 * held.due_seats end")],
    ),
    rule(
        "what the sums do not include yet is left out",
        &[(
            SNAPSHOT,
            "let seats = seats + unsummed.of(partner_id.as_str());",
            "let seats = seats + 0 * unsummed.of(partner_id.as_str());",
        )],
    ),
    rule(
        "a part of what the sums do not include is taken for all of it",
        &[(
            SNAPSHOT,
            "is_none_or(|last| last == snapshot.event.version)",
            "is_none_or(|last| last <= snapshot.event.version)",
        )],
    ),
    sql(
        "what is given back is not summed up",
        &[(SUMS, "change.kind in (1, 2, 5, 6, 7)", "change.kind in (1, 2)")],
    ),
    sql(
        "two sum up the same versions",
        &[(
            SUMS,
            "where usage_versions.version = (select version from before)",
            "where usage_versions.version >= (select version from before)",
        )],
    ),
    rule(
        "commits do not bring the sums up to date",
        &[(SUMS, "< rows as u128", "< 0 * rows as u128")],
    ),
    rule(
        "readers do not bring the sums up to date",
        &[(POSTGRES, "if unsummed > usage::UNSUMMED_MANY {", "if unsummed > usize::MAX - 1 {")],
    ),
    sql(
        "what is booked is not marked as limited",
        &[(
            COMMIT,
            "seats_per_partner_max is not null or null as limited",
            "seats_per_partner_max < 0 or null as limited",
        )],
    ),
    // Turns
    rule(
        "all wait in one line",
        &[
            (
                TURNS,
                "let own = self.by_caller.get(item.command().caller()).copied();",
                "let own = self.by_caller.get(&Caller::Anybody).copied();",
            ),
            (
                TURNS,
                "            self.add(item.command().caller().clone(), place)\n        });",
                "            self.add(Caller::Anybody, place)\n        });",
            ),
        ],
    ),
    rule(
        "a list costs one turn",
        &[(
            TURNS,
            "self.now + item.command().rows() as u64",
            "self.now + item.command().rows().min(1) as u64",
        )],
    ),
    rule(
        "a full mailbox turns away who comes last",
        &[(TURNS, "if self.longest <= own {", "if self.longest <= own || own > 0 {")],
    ),
    rule(
        "who is put back goes to the end of the line",
        &[(
            TURNS,
            "let place = Place { turn: self.now, rank: self.first_rank };",
            "let place = Place { turn: self.now + 1_000, rank: self.first_rank };",
        )],
    ),
    rule(
        "a batch outlasts what it left behind",
        &[(BATCHER, "|left_by| until.min(left_by)", "|left_by| until.max(left_by).min(until)")],
    ),
];

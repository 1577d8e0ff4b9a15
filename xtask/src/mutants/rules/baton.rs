//! The rules about the turns of replicas.

use super::{ASKS, BATCHER, COMMIT, POSTGRES, Rule, TAKING, rule, sql};

pub const RULES: &[Rule] = &[
    sql(
        "a baton is gone before its commit is seen",
        &[(COMMIT, "pg_try_advisory_xact_lock($18) and pg_advisory", "pg_advisory")],
    ),
    rule(
        "a baton stays with a commit that failed",
        &[(
            POSTGRES,
            "let_go(lease, until).await;\n                error",
            "lease.give_back();\n                error",
        )],
    ),
    sql(
        "those in line are not seen",
        &[(
            COMMIT,
            "not pg_try_advisory_xact_lock_shared(hashtextextended($2, 0))",
            "not coalesce(hashtextextended($2, 0) is not null, false)",
        )],
    ),
    rule(
        "the wait for a turn has no end",
        &[(
            TAKING,
            "self.ask_for_baton(until).await;",
            "self.ask_for_baton(until.and(None)).await;",
        )],
    ),
    rule(
        "who lost does not ask for the baton",
        &[(
            BATCHER,
            "self.baton.others_seen();\n                    self.ask",
            "self.baton.not_needed();\n                    self.ask",
        )],
    ),
    rule(
        "a baton that comes too late stays with its session",
        &[(
            POSTGRES,
            "let_go(lease, until).await;\n                if",
            "lease.give_back();\n                if",
        )],
    ),
    rule(
        "a baton that does not come is asked for again and again",
        &[(ASKS, "self.asks_left > 0 && patient", "self.asks_left > 0 && (patient || true)")],
    ),
];

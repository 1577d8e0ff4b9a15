//! `ticketboss verify`: checks the invariants of a live database.
//!
//! First, event by event, the journal is replayed up to the event's version, and each entry is
//! compared with the reservation that it names. Then, reservation by reservation, the journal of
//! the version in its row must agree with it. It shares the words of the journal with what decides,
//! and none of its logic.
//!
//! Invariant: it only reads, in short statements, so that it is safe under load: no snapshot is
//! held between statements, and concurrent changes are not mistaken for faults.

use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use thiserror::Error;
use uuid::Uuid;

use crate::store::session_options;
use crate::store::verify::{
    counters, deeds_between, events_after, journal_between, keys_are_unique, page_end,
    reservations_after, usage,
};

mod replay;

use replay::{Replay, check_stored};

/// Approximate number of rows that a statement asks for.
const PAGE_ROWS: i64 = 2_000;
/// Far more than needed: a statement takes milliseconds.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
pub enum VerifyError {
    #[error("could not connect to the database")]
    Connect(#[source] sqlx::Error),
    #[error("could not read the database")]
    Read(#[from] sqlx::Error),
}

/// What was checked, and how many problems were found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    pub events: usize,
    pub versions: usize,
    pub reservations: usize,
    pub problems: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counted = |count: usize, what| format!("{count} {what}{}", plural(count));
        write!(
            f,
            "{}, {}, {}: ",
            counted(self.events, "event"),
            counted(self.versions, "version"),
            counted(self.reservations, "reservation")
        )?;
        match self.problems {
            0 => f.write_str("nothing is wrong"),
            problems => f.write_str(&counted(problems, "problem")),
        }
    }
}

fn plural(count: usize) -> &'static str {
    if count == 1 { "" } else { "s" }
}

/// Checks everything, and passes each problem to `tell` as it is found.
pub async fn verify(
    options: &PgConnectOptions,
    tell: impl FnMut(&str),
) -> Result<Report, VerifyError> {
    let options = session_options(options.clone(), STATEMENT_TIMEOUT)
        .application_name("ticketboss verify")
        .options([("default_transaction_read_only", "on")]);
    let connection = options.connect().await.map_err(VerifyError::Connect)?;
    let mut check = Check { connection, report: Report::default(), wrong: Vec::new(), tell };
    let keys_are_unique = keys_are_unique(&mut check.connection).await?;
    if !keys_are_unique {
        check.wrong.push("the unique index reservations_idempotency_key is missing".into());
        check.tell_all();
    }
    check.events().await?;
    check.reservations(keys_are_unique).await?;
    Ok(check.report)
}

struct Check<T> {
    connection: PgConnection,
    report: Report,
    /// Problems that were found but not reported yet.
    wrong: Vec<String>,
    tell: T,
}

impl<T: FnMut(&str)> Check<T> {
    async fn events(&mut self) -> Result<(), VerifyError> {
        let mut after = String::new();
        loop {
            let page = events_after(&mut self.connection, &after, PAGE_ROWS).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after.clone_from(last);
            for id in &page {
                self.report.events += 1;
                self.event(id).await?;
            }
        }
    }

    /// Replays the journal of an event, page by page, up to the event's current version.
    async fn event(&mut self, id: &str) -> Result<(), VerifyError> {
        // Before the event, which then is at that version, or at a later one.
        let summed = usage(&mut self.connection, id).await?;
        // If the event is gone by now, the reservations that it left behind are reported later.
        let Some(found) = counters(&mut self.connection, id).await? else { return Ok(()) };
        let to = found.version;
        let mut replay = Replay::new(id, found, summed);
        let mut after = 0;
        while after < to
            && let Some(upper) = page_end(&mut self.connection, id, after, PAGE_ROWS).await?
        {
            let upper = upper.min(to);
            let page = journal_between(&mut self.connection, id, after, upper).await?;
            let forgotten = replay.forgotten(&page);
            if !forgotten.is_empty() {
                self.recall(&mut replay, id, &forgotten, after).await?;
            }
            page.iter().for_each(|entry| replay.entry(entry, &mut self.wrong));
            self.tell_all();
            after = upper;
        }
        self.report.versions += usize::try_from(replay.version()).unwrap_or_default();
        replay.end(&mut self.wrong);
        self.tell_all();
        Ok(())
    }

    /// Gives the replay the history of some reservations, up to a version that it has passed.
    async fn recall(
        &mut self,
        replay: &mut Replay,
        event_id: &str,
        forgotten: &[Uuid],
        to: i64,
    ) -> Result<(), VerifyError> {
        let mut after = 0;
        while after < to
            && let Some(upper) = page_end(&mut self.connection, event_id, after, PAGE_ROWS).await?
        {
            let upper = upper.min(to);
            let connection = &mut self.connection;
            let deeds = deeds_between(connection, event_id, forgotten, after, upper).await?;
            deeds.iter().for_each(|deed| replay.remember(deed));
            after = upper;
        }
        Ok(())
    }

    async fn reservations(&mut self, count_keys: bool) -> Result<(), VerifyError> {
        let (mut id, mut event_id) = (Uuid::nil(), String::new());
        loop {
            let connection = &mut self.connection;
            let page = reservations_after(connection, id, &event_id, PAGE_ROWS, count_keys).await?;
            let Some(last) = page.last() else { return Ok(()) };
            (id, event_id) = (last.id, last.event_id.clone());
            page.iter().for_each(|stored| check_stored(stored, &mut self.wrong));
            self.report.reservations += page.len();
            self.tell_all();
            // A short page is the last: what a hot sale keeps adding was not there at the start.
            if page.len() < PAGE_ROWS as usize {
                return Ok(());
            }
        }
    }

    fn tell_all(&mut self) {
        self.report.problems += self.wrong.len();
        self.wrong.drain(..).for_each(|problem| (self.tell)(&problem));
    }
}

//! `ticketboss verify`: whether the data of a live database keeps its promises.
//!
//! First event by event: the journal is replayed up to the version that the event has, and each
//! entry is compared with the reservation it names. Then reservation by reservation: the journal of
//! the version that it carries must say the same of it. It decides nothing and shares nothing with
//! what decides.
//!
//! Invariant: it only reads, in short statements, so that it is safe under load: no snapshot is
//! held while it thinks, and what changes meanwhile is not mistaken for a fault.

use std::fmt;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, PgConnection};
use thiserror::Error;
use uuid::Uuid;

use crate::store::session_options;
use crate::store::verify::{counters, events_after, journal_between, reservations_after};

mod replay;

use replay::{Replay, check_stored};

/// Rows that a statement asks for, about.
const PAGE_ROWS: usize = 2_000;
/// Versions that a statement asks for, at most: each has one change at least, mostly.
const PAGE_VERSIONS_MAX: i64 = 2_000;
/// One statement takes milliseconds.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(30);

#[derive(Debug, Error)]
pub enum VerifyError {
    #[error("could not connect to the database")]
    Connect(#[source] sqlx::Error),
    #[error("the database could not be read")]
    Read(#[from] sqlx::Error),
}

/// What was looked at, and how much was wrong.
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

/// Looks at everything, and tells each problem as it is found.
pub async fn verify(
    options: &PgConnectOptions,
    mut tell: impl FnMut(&str),
) -> Result<Report, VerifyError> {
    let options = session_options(options.clone(), STATEMENT_TIMEOUT)
        .application_name("ticketboss verify")
        .options([("default_transaction_read_only", "on")]);
    let mut connection = options.connect().await.map_err(VerifyError::Connect)?;
    let mut report = Report::default();
    let mut wrong = Vec::new();
    let mut after = String::new();
    loop {
        let page = events_after(&mut connection, &after, PAGE_ROWS as i64).await?;
        let Some(last) = page.last() else { break };
        after.clone_from(last);
        for id in &page {
            report.events += 1;
            report.versions += verify_event(&mut connection, id, &mut wrong).await?;
            report.problems += wrong.len();
            wrong.drain(..).for_each(|problem| tell(&problem));
        }
    }
    let (mut id, mut event_id) = (Uuid::nil(), String::new());
    loop {
        let page = reservations_after(&mut connection, id, &event_id, PAGE_ROWS as i64).await?;
        let Some(last) = page.last() else { break };
        (id, event_id) = (last.id, last.event_id.clone());
        page.iter().for_each(|stored| check_stored(stored, &mut wrong));
        report.reservations += page.len();
        report.problems += wrong.len();
        wrong.drain(..).for_each(|problem| tell(&problem));
        // A hot sale adds more than can be read in no time: those were not there at the start.
        if page.len() < PAGE_ROWS {
            break;
        }
    }
    Ok(report)
}

/// Replays the journal of an event, page by page, to the version it has now. Returns that.
async fn verify_event(
    connection: &mut PgConnection,
    id: &str,
    wrong: &mut Vec<String>,
) -> Result<usize, VerifyError> {
    // Events are never deleted.
    let Some(found) = counters(connection, id).await? else { return Ok(0) };
    let to = found.version;
    let mut replay = Replay::new(id, found);
    let (mut after, mut page_versions) = (0, 16);
    while after < to {
        let upper = to.min(after + page_versions);
        let page = journal_between(connection, id, after, upper).await?;
        page.iter().for_each(|entry| replay.entry(entry, wrong));
        after = upper;
        if page.len() < PAGE_ROWS / 2 {
            page_versions = (page_versions * 2).min(PAGE_VERSIONS_MAX);
        } else if page.len() > PAGE_ROWS {
            page_versions = (page_versions / 2).max(1);
        }
    }
    let versions = replay.version();
    replay.end(wrong);
    Ok(usize::try_from(versions).unwrap_or_default())
}

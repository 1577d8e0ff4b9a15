//! The log: in env_logger's own format, or as one JSON object on each line.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::sync::OnceLock;
use std::time::Duration;
use std::{panic, thread};

use env_logger::Target;
use env_logger::fmt::Formatter;
use log::kv::{self, Key, Value, VisitSource};
use log::{Level, Record};
use serde_json::Map;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::config::LogFormat;

mod backlog;

use backlog::Backlog;

/// Our own lines, with one for a request only if it shows a defect. Otherwise actix would report
/// each of its workers and each client that does not speak HTTP, and PostgreSQL each table that
/// exists already.
const DEFAULT_FILTER: &str =
    "info,ticketboss::requests=error,actix_server=warn,actix_http=off,sqlx::postgres=warn";

/// The log target for lines about requests.
pub const REQUESTS: &str = "ticketboss::requests";

/// How long the process waits at its end for a log that nobody reads.
const FINISH_MAX: Duration = Duration::from_millis(400);

/// Not used if the log goes to a terminal, whose user can see that it has stalled.
static BACKLOG: OnceLock<Backlog> = OnceLock::new();

/// Starts the log with the filter of `RUST_LOG`; `false` if that filter is not valid.
#[must_use]
pub fn start(filter: Option<&str>, format: LogFormat) -> bool {
    let filter = filter.unwrap_or(DEFAULT_FILTER);
    if !is_filter(filter) {
        return false;
    }
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(filter);
    match format {
        LogFormat::Text => {}
        LogFormat::Json => {
            builder.format(write_json);
        }
    }
    if !io::stderr().is_terminal()
        // If the thread cannot be started, lines are written where they are logged.
        && let Ok(backlog) = Backlog::start(io::stderr(), move |count| left_out(count, format))
    {
        builder.target(Target::Pipe(Box::new(BACKLOG.get_or_init(|| backlog).clone())));
    }
    builder.init();
    panic::set_hook(Box::new(|panicked| {
        let backtrace = Backtrace::capture();
        match backtrace.status() {
            BacktraceStatus::Captured => log::error!("{panicked}\n{backtrace}"),
            _ => log::error!("{panicked}"),
        }
        // This may be the end of the process, which waits for no other thread.
        if thread::current().name() == Some("main") {
            finish();
        }
    }));
    true
}

/// The line that says how many lines were left out, in the format of all others.
fn left_out(count: u64, format: LogFormat) -> String {
    let said = format!("{count} log lines were dropped, because the log was not read in time");
    let now = OffsetDateTime::now_utc();
    match format {
        LogFormat::Text => {
            let now = now.truncate_to_second().format(&Rfc3339).unwrap_or_default();
            format!("[{now} WARN  {}] {said}\n", module_path!())
        }
        LogFormat::Json => {
            let mut record = Record::builder();
            record.level(Level::Warn).target(module_path!());
            json(&record.args(format_args!("{said}")).build(), now).to_string() + "\n"
        }
    }
}

/// Writes a line for people, whatever the format, after everything that was logged before.
pub fn say(line: &str) {
    match BACKLOG.get() {
        Some(backlog) => {
            // Writing to the backlog never fails.
            drop(backlog.clone().write_all(format!("{line}\n").as_bytes()));
            finish();
        }
        None => eprintln!("{line}"),
    }
}

/// Waits until everything is written, but only for a short time if nobody reads it.
pub fn finish() {
    if let Some(backlog) = BACKLOG.get() {
        backlog.finish(FINISH_MAX);
    }
}

/// A bare word must be a level: taken for a module, a misspelt level would silence everything.
fn is_filter(filter: &str) -> bool {
    let directives = filter.split('/').next().unwrap_or_default().split(',').map(str::trim);
    let mut words =
        directives.filter(|directive| !directive.is_empty() && !directive.contains('='));
    words.all(|word| word.parse::<log::LevelFilter>().is_ok())
        && env_filter::Builder::new().try_parse(filter).is_ok()
}

fn write_json(formatter: &mut Formatter, record: &Record<'_>) -> io::Result<()> {
    writeln!(formatter, "{}", json(record, OffsetDateTime::now_utc()))
}

/// A record as an object: the fields that every record has, and its own.
fn json(record: &Record<'_>, now: OffsetDateTime) -> serde_json::Value {
    let mut fields = Map::new();
    let time = now.format(&Rfc3339).unwrap_or_default();
    fields.insert("time".into(), time.into());
    fields.insert("level".into(), record.level().as_str().to_lowercase().into());
    fields.insert("target".into(), record.target().into());
    let mut message = String::new();
    // Writing to a string never fails.
    let _ = write!(message, "{}", record.args());
    fields.insert("message".into(), message.into());
    let mut fields = Fields(fields);
    // The visitor never fails: every value can be shown.
    let _ = record.key_values().visit(&mut fields);
    fields.0.into()
}

struct Fields(Map<String, serde_json::Value>);

impl<'kvs> VisitSource<'kvs> for Fields {
    fn visit_pair(&mut self, key: Key<'kvs>, value: Value<'kvs>) -> Result<(), kv::Error> {
        let number = value.to_u64().map(serde_json::Value::from);
        let number = number.or_else(|| value.to_f64().map(serde_json::Value::from));
        self.0.insert(key.to_string(), number.unwrap_or_else(|| value.to_string().into()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use log::Level;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_filter_that_would_silence_everything_is_none() {
        let good =
            ["info", "WARN", "off", "warn,ticketboss::requests=info", "a=debug, info", "debug/x"];
        assert!(good.into_iter().all(is_filter));
        assert!(
            !["inof", "ticketboss", "info,warning", "a=loud", "a=b=c"].into_iter().any(is_filter)
        );
    }

    #[test]
    fn a_line_is_an_object_whatever_the_message_is() {
        let own = [
            ("status", Value::from(201)),
            ("requestId", Value::from("a")),
            ("durationMs", Value::from(0.25)),
        ];
        let record = Record::builder()
            .level(Level::Info)
            .target(REQUESTS)
            .args(format_args!("two\nlines and \"quotes\""))
            .key_values(&own)
            .build();
        let line = super::json(&record, OffsetDateTime::UNIX_EPOCH);
        assert!(!line.to_string().contains('\n'));
        assert_eq!(
            line,
            json!({
                "time": "1970-01-01T00:00:00Z",
                "level": "info",
                "target": "ticketboss::requests",
                "message": "two\nlines and \"quotes\"",
                "status": 201,
                "requestId": "a",
                "durationMs": 0.25,
            })
        );
    }
}

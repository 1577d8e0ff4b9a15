//! TicketBoss: a reservation service that owns the seat counts of events.
//!
//! The modules are listed in reading order, the core first.

use std::error::Error;

pub mod domain;

pub mod store;

pub mod batching;

pub mod access;

pub mod http;

pub mod verify;

pub mod config;

pub mod logging;

pub mod postgres;

pub mod server;

/// An error with all its causes, on one line, for the log.
pub fn chain(error: &dyn Error) -> String {
    let mut line = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_line = cause.to_string();
        // Some libraries repeat the cause in their own text.
        if !line.ends_with(&cause_line) {
            line = format!("{line}: {cause_line}");
        }
        source = cause.source();
    }
    line
}

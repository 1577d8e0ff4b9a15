//! What a failed statement means: that nothing happened, or that the outcome is unknown.

use sqlx::postgres::{PgDatabaseError, PgSeverity};
use thiserror::Error;

use super::Commit;

/// Why the database gave no answer. A read or a commit has changed nothing then. Of an event or a key
/// that was to be written this is certain only if no statement was sent: `Busy` and `Connect`.
#[derive(Debug, Error)]
pub enum Unavailable {
    #[error("no connection was free in time")]
    Busy,
    #[error("the database did not answer in time")]
    TimedOut,
    #[error("could not connect to the database")]
    Connect(#[source] sqlx::Error),
    #[error("a database statement failed")]
    Statement(#[source] sqlx::Error),
}

/// Why a commit returned no result.
#[derive(Debug, Error)]
pub enum CommitError {
    /// It is certain that nothing happened, and that the statement has no later effect.
    #[error(transparent)]
    NotDone(#[from] Unavailable),
    /// The statement was sent, but no answer arrived: it may have been committed, or may yet be.
    #[error("the outcome of a commit is unknown")]
    Unknown(#[source] Option<sqlx::Error>),
    /// A row has an idempotency key that is already taken. Nothing happened.
    #[error("an idempotency key of the batch is already taken")]
    KeyTaken,
    /// A row breaks a rule of the schema. Nothing happened.
    #[error("the database refused a row of the batch")]
    BadRow(#[source] sqlx::Error),
}

/// Whether the connection may be used again after this error: only if the error ended the statement
/// and not the session, the server accepts writes, and the prepared statements still fit the
/// schema.
pub(super) fn leaves_connection_usable(error: &sqlx::Error) -> bool {
    statement_error(error).is_some_and(|code| code != READ_ONLY && code != STALE_STATEMENT)
}

/// Whether the statement gave up waiting for a lock.
pub(super) fn was_locked(error: &sqlx::Error) -> bool {
    statement_error(error) == Some(LOCK_NOT_AVAILABLE)
}

/// Classifies a failure of the guarded statement after it was sent.
///
/// An error reported for the statement rolled it back, since it is a transaction of its own. Any
/// other failure may have come after the commit.
pub(super) fn of_commit(error: sqlx::Error) -> Result<Commit, CommitError> {
    let Some(code) = statement_error(&error) else {
        return Err(CommitError::Unknown(Some(error)));
    };
    if code == SERIALIZATION_FAILURE {
        Ok(Commit::VersionMoved)
    } else if code == UNIQUE_VIOLATION {
        // Recognised by the code alone: through Citus the constraint's name has a shard's suffix.
        // Ids and versions cannot collide here, so it is an idempotency key.
        Err(CommitError::KeyTaken)
    } else if code.starts_with("22") || code.starts_with("23") {
        Err(CommitError::BadRow(error))
    } else {
        Err(CommitError::NotDone(Unavailable::Statement(error)))
    }
}

const UNIQUE_VIOLATION: &str = "23505";
const SERIALIZATION_FAILURE: &str = "40001";
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// The server is a standby, or has become one.
const READ_ONLY: &str = "25006";
/// A migration has changed the type of a prepared statement's result: it must be prepared again.
const STALE_STATEMENT: &str = "0A000";

/// The SQLSTATE of an error that ended a statement and nothing else.
///
/// `None` for a broken connection, and for an error with which the server ends the session (FATAL)
/// or goes down (PANIC). Those may have any code, as when the disk is full during a commit. Classes
/// 08 and 57P concern the connection, too, whatever their severity.
fn statement_error(error: &sqlx::Error) -> Option<&str> {
    let error = error.as_database_error()?.try_downcast_ref::<PgDatabaseError>()?;
    let code = error.code();
    let ended = matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic);
    let lost = code.starts_with("08") || code.starts_with("57P");
    (!ended && !lost).then_some(code)
}

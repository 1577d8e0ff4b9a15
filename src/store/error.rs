//! What a failed statement means: did nothing happen, or is it unknown?

use thiserror::Error;

/// Nothing was changed, and the answer is not known: the database could not be asked in time.
#[derive(Debug, Error)]
pub enum Unavailable {
    #[error("no connection was free in time")]
    Busy,
    #[error("the database did not answer in time")]
    TimedOut,
    #[error("could not connect to the database")]
    Connect(#[source] sqlx::Error),
    #[error("the database failed")]
    Statement(#[source] sqlx::Error),
}

/// Why a commit gave no result.
#[derive(Debug, Error)]
pub enum CommitError {
    /// Certain that nothing happened, and that sending it was not the cause of anything later.
    #[error(transparent)]
    NotDone(#[from] Unavailable),
    /// The statement was sent and its answer did not arrive: it may have happened, or may yet.
    #[error("the outcome of a commit is unknown")]
    Unknown(#[source] Option<sqlx::Error>),
    /// A row has an idempotency key that is taken. Nothing happened.
    #[error("an idempotency key of the batch is taken")]
    KeyTaken,
    /// A row breaks a rule of the schema. Nothing happened.
    #[error("a row of the batch was refused by the database")]
    BadRow(#[source] sqlx::Error),
}

/// Whether the connection may be used again after this error: only if the server reported it as
/// the end of a statement and not of the session.
pub(super) fn leaves_connection_usable(error: &sqlx::Error) -> bool {
    match sqlstate(error) {
        Some(code) => !ends_session(&code),
        None => false,
    }
}

/// Sorts the failure of the guarded statement, once it was sent.
///
/// A reported error rolled the statement back, since it is a transaction of its own. Classes 08
/// and 57P end the session, and may come after the commit. Anything without a code is a broken
/// connection.
pub(super) fn of_commit(error: sqlx::Error) -> CommitError {
    let Some(code) = sqlstate(&error) else {
        return CommitError::Unknown(Some(error));
    };
    if ends_session(&code) {
        CommitError::Unknown(Some(error))
    } else if code == "23505" {
        // Told by the code alone: through Citus the constraint's name carries a shard's suffix.
        // Ids and versions cannot collide here, so it is a key.
        CommitError::KeyTaken
    } else if code.starts_with("22") || code.starts_with("23") {
        CommitError::BadRow(error)
    } else {
        CommitError::NotDone(Unavailable::Statement(error))
    }
}

fn sqlstate(error: &sqlx::Error) -> Option<String> {
    Some(error.as_database_error()?.code()?.into_owned())
}

fn ends_session(code: &str) -> bool {
    code.starts_with("08") || code.starts_with("57P")
}

//! The file `.env` in the working directory.

use std::io::ErrorKind;
use std::{fs, io};

use thiserror::Error;

use super::SETTINGS;

#[derive(Debug, Error)]
pub enum EnvFileError {
    #[error(".env cannot be read: {0}")]
    Unreadable(io::Error),
    /// Without the line itself, which may be the one with the password.
    #[error("line {line} of .env is not NAME=value; a value with spaces needs quotes")]
    NoPair { line: usize },
}

/// Adds the settings in the file to the environment, except those that it already has. Returns the
/// names that are no settings of ours: other programs may share the file, but one may be misspelt.
pub fn load() -> Result<Vec<String>, EnvFileError> {
    let text = match fs::read_to_string(".env") {
        Ok(text) => text,
        Err(failure) if failure.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(failure) => return Err(EnvFileError::Unreadable(failure)),
    };
    let text = text.trim_start_matches('\u{FEFF}');
    let wrong = |failure| match failure {
        // The error contains the whole line, or only its value.
        dotenvy::Error::LineParse(end, _) => {
            let end = end.lines().next().unwrap_or_default().trim();
            let before = text.lines().take_while(|line| !line.trim().ends_with(end));
            EnvFileError::NoPair { line: before.count() + 1 }
        }
        failure => EnvFileError::Unreadable(io::Error::other(failure)),
    };
    let pairs = dotenvy::from_read_iter(text.as_bytes()).collect::<Result<Vec<_>, _>>();
    let names = pairs.map_err(wrong)?.into_iter().map(|(name, _value)| name);
    dotenvy::from_read(text.as_bytes()).map_err(wrong)?;
    Ok(names.filter(|name| !is_setting(name)).collect())
}

fn is_setting(name: &str) -> bool {
    // The library that connects to the database reads PGPASSWORD and similar variables.
    name.starts_with("PG") || SETTINGS.lines().any(|line| line.split(' ').next() == Some(name))
}

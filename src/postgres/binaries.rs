//! Finding PostgreSQL's programs.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::LaunchError;

/// The oldest version with the session settings that the service relies on.
const MAJOR_MIN: u32 = 14;

/// A directory with `initdb`, `pg_ctl` and `postgres` in it.
#[derive(Clone, Debug)]
pub struct Binaries {
    pub dir: PathBuf,
    pub major: u32,
}

/// If `data` exists already, it determines the version that must be used.
pub fn find(bin_dir: Option<&Path>, data: &Path) -> Result<Binaries, LaunchError> {
    let found: Vec<Binaries> = match bin_dir {
        Some(dir) => {
            let binaries = inspect(dir);
            vec![binaries.ok_or_else(|| LaunchError::NotInBinDir { dir: dir.to_owned() })?]
        }
        None => candidates().iter().filter_map(|dir| inspect(dir)).collect(),
    };
    let Some(best) = found.first() else {
        return Err(LaunchError::NotFound { install: install_command() });
    };
    let chosen = match major_of(data) {
        None => best,
        Some(wanted) => {
            let matching = found.iter().find(|binaries| binaries.major == wanted);
            matching.ok_or_else(|| LaunchError::WrongVersion {
                data: data.to_owned(),
                wanted,
                found: listed(&found),
            })?
        }
    };
    if chosen.major < MAJOR_MIN {
        return Err(LaunchError::TooOld { dir: chosen.dir.clone(), found: chosen.major });
    }
    Ok(chosen.clone())
}

fn candidates() -> Vec<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut dirs: Vec<PathBuf> = env::split_paths(&path).collect();
    for parent in ["/usr/lib/postgresql", "/opt/homebrew/opt", "/usr/local/opt"] {
        let mut versions: Vec<(u32, PathBuf)> = fs::read_dir(parent)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| Some((version_in(&entry.file_name().to_string_lossy())?, entry)))
            .map(|(version, entry)| (version, entry.path().join("bin")))
            .collect();
        versions.sort();
        dirs.extend(versions.into_iter().rev().map(|(_version, dir)| dir));
    }
    dirs
}

/// `15` and `postgresql@15` are version 15; other names are no version.
fn version_in(name: &str) -> Option<u32> {
    name.strip_prefix("postgresql@").unwrap_or(name).parse().ok()
}

fn inspect(dir: &Path) -> Option<Binaries> {
    // Resolves links, to find where the programs and their files really are.
    let postgres = dir.join("postgres").canonicalize().ok()?;
    let dir = postgres.parent()?.to_owned();
    if !(dir.join("initdb").exists() && dir.join("pg_ctl").exists()) {
        return None;
    }
    let output = Command::new(&postgres).arg("--version").output().ok()?;
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    // "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", or "16beta1" in the third place.
    let number = version.split_whitespace().nth(2)?;
    let digits = number.split(|character: char| !character.is_ascii_digit()).next()?;
    Some(Binaries { dir, major: digits.parse().ok()? })
}

fn major_of(data: &Path) -> Option<u32> {
    fs::read_to_string(data.join("PG_VERSION")).ok()?.trim().parse().ok()
}

fn listed(found: &[Binaries]) -> String {
    let each = found.iter().map(|binaries| binaries.major.to_string());
    each.collect::<Vec<_>>().join(", ")
}

fn install_command() -> &'static str {
    if Path::new("/usr/bin/apt-get").exists() {
        "apt-get install postgresql"
    } else if Path::new("/usr/bin/dnf").exists() {
        "dnf install postgresql-server"
    } else if cfg!(target_os = "macos") {
        "brew install postgresql@17"
    } else {
        "see https://www.postgresql.org/download/"
    }
}

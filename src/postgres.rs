//! A private PostgreSQL, for when no `DATABASE_URL` is given.
//!
//! It is a separate leaf so that the tool that prepares `sqlx-data.json` can use it without the
//! rest of the crate, which does not compile before that file is right.
//!
//! It never downloads anything, never turns durability off, and never listens anywhere but on
//! 127.0.0.1 with a password of its own.

use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use thiserror::Error;
use uuid::Uuid;

mod binaries;
mod cluster;

use cluster::Cluster;

#[derive(Debug, Error)]
pub enum LaunchError {
    #[error(
        "no PostgreSQL found (looked in PG_BIN_DIR, PATH, /usr/lib/postgresql and Homebrew); \
         set DATABASE_URL to use one that runs elsewhere, or install it: {install}"
    )]
    NotFound { install: &'static str },
    #[error("PG_BIN_DIR is {}: no initdb, pg_ctl and postgres there", dir.display())]
    NotInBinDir { dir: PathBuf },
    #[error(
        "{} was made by PostgreSQL {wanted}, which is not installed here (found: {found}); \
         install it, or set PG_BIN_DIR", data.display()
    )]
    WrongVersion { data: PathBuf, wanted: u32, found: String },
    #[error("PostgreSQL {found} in {} is too old; 14 is the oldest that works", dir.display())]
    TooOld { dir: PathBuf, found: u32 },
    #[error(
        "DATA_DIR {} is in use by another ticketboss; \
         give this one its own DATA_DIR, or share a database by DATABASE_URL", dir.display()
    )]
    InUse { dir: PathBuf },
    #[error("running as root needs a user `postgres` or `nobody` to run PostgreSQL as")]
    NoUser,
    #[error("{what} failed: {output}")]
    Failed { what: String, output: String },
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Attaches the path to an I/O error.
fn at(path: &Path) -> impl Fn(io::Error) -> LaunchError + '_ {
    move |source| LaunchError::Io { path: path.to_owned(), source }
}

/// A persistent PostgreSQL in a directory of its own. It outlives a crash of this process, and the
/// next [`PrivatePostgres::start`] on the directory finds it, running or not.
pub struct PrivatePostgres {
    cluster: Cluster,
    port: u16,
    /// Held as long as this lives: one service, and so one server, per directory.
    _lock: File,
}

impl PrivatePostgres {
    /// Finds, makes or recovers the cluster in `data_dir` and waits until it accepts connections.
    pub fn start(data_dir: &Path, bin_dir: Option<&Path>) -> Result<Self, LaunchError> {
        fs::create_dir_all(data_dir).map_err(at(data_dir))?;
        let data_dir = &data_dir.canonicalize().map_err(at(data_dir))?;
        let lock = lock(data_dir)?;
        let cluster = Cluster::make(data_dir, bin_dir)?;
        let port = cluster.start()?;
        Ok(Self { cluster, port, _lock: lock })
    }

    pub fn url(&self) -> String {
        self.cluster.url(self.port)
    }

    /// The directory that holds everything: data, password and log.
    pub fn directory(&self) -> &Path {
        self.cluster.directory()
    }

    /// Stops the server; everything that was committed is on disk.
    pub fn stop(self) -> Result<(), LaunchError> {
        self.cluster.stop("fast")
    }
}

fn lock(data_dir: &Path) -> Result<File, LaunchError> {
    let path = data_dir.join("ticketboss.lock");
    let file = File::create(&path).map_err(at(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LaunchError::InUse { dir: data_dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(LaunchError::Io { path, source }),
    }
}

/// A PostgreSQL that vanishes with this process, however it ends.
///
/// A small shell process waits for a pipe to close, which the kernel does even after `kill -9`,
/// and then stops the server and removes its directory.
pub struct ThrowawayPostgres {
    cluster: Cluster,
    url: String,
    janitor: Child,
}

impl ThrowawayPostgres {
    /// Makes and starts a new cluster below the system's directory for temporary files.
    pub fn start(bin_dir: Option<&Path>) -> Result<Self, LaunchError> {
        let directory = std::env::temp_dir().join(format!("ticketboss-{}", Uuid::new_v4()));
        fs::create_dir(&directory).map_err(at(&directory))?;
        let made = Cluster::make(&directory, bin_dir);
        let cluster = match made {
            Ok(cluster) => cluster,
            Err(failure) => {
                // Best effort: the failure to report is the first one.
                let _ = fs::remove_dir_all(&directory);
                return Err(failure);
            }
        };
        let janitor = janitor(&cluster)?;
        let mut throwaway = Self { cluster, url: String::new(), janitor };
        throwaway.url = throwaway.cluster.url(throwaway.cluster.start()?);
        Ok(throwaway)
    }

    /// One of PostgreSQL's programs, such as `psql`.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.cluster.binary(name)
    }

    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for ThrowawayPostgres {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        // It ends by itself; waiting only keeps the order.
        let _ = self.janitor.wait();
    }
}

fn janitor(cluster: &Cluster) -> Result<Child, LaunchError> {
    const SCRIPT: &str = r#"cat; "$1" stop -D "$2" -m immediate -w; rm -rf "$3""#;
    let shell = Path::new("/bin/sh");
    let mut command: Command = cluster.command_as_owner(shell);
    command
        .args(["-c", SCRIPT, "janitor"])
        .arg(cluster.binary("pg_ctl"))
        .arg(cluster.data())
        .arg(cluster.directory())
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    // Out of the terminal's group: Ctrl-C must not end it before it has cleaned up.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    command.spawn().map_err(at(shell))
}

//! A private PostgreSQL, for when no `DATABASE_URL` is given.
//!
//! It is a separate leaf so that the tool that prepares `sqlx-data.json` can use it without the
//! rest of the crate, which does not compile until that file is right.
//!
//! It never downloads anything, never turns durability off, and listens only on 127.0.0.1, with a
//! password of its own.

use std::fs::{self, File, TryLockError};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, PoisonError};

use thiserror::Error;
use uuid::Uuid;

mod binaries;
mod cluster;

use cluster::{Cluster, DATABASE, ROLE};

/// How long a server may take to stop.
pub const STOP_TIMEOUT_S: u64 = 3;

#[derive(Debug, Error)]
pub enum LaunchError {
    #[error(
        "no PostgreSQL found (looked in PG_BIN_DIR, PATH, /usr/lib/postgresql and Homebrew); \
         set DATABASE_URL to use a server that runs elsewhere, or install it: {install}"
    )]
    NotFound { install: &'static str },
    #[error("PG_BIN_DIR is {}, which does not contain initdb, pg_ctl and postgres", dir.display())]
    NotInBinDir { dir: PathBuf },
    #[error(
        "{} was created by PostgreSQL {wanted}, which is not installed here (found: {found}); \
         install it, or set PG_BIN_DIR", data.display()
    )]
    WrongVersion { data: PathBuf, wanted: u32, found: String },
    #[error("PostgreSQL {found} in {} is too old; version 14 or newer is required", dir.display())]
    TooOld { dir: PathBuf, found: u32 },
    #[error(
        "DATA_DIR {} is in use by another ticketboss; \
         give this one its own DATA_DIR, or share a database through DATABASE_URL", dir.display()
    )]
    InUse { dir: PathBuf },
    #[error("running as root requires a user `postgres` or `nobody` to run PostgreSQL")]
    NoUser,
    #[error(
        "{} is empty, and the data beside it cannot be used without the password", path.display()
    )]
    NoPassword { path: PathBuf },
    #[error("{what} failed: {output}")]
    Failed { what: String, output: String },
    #[error("cannot use {}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// Attaches the path to an I/O error.
fn at(path: &Path) -> impl Fn(io::Error) -> LaunchError + '_ {
    move |source| LaunchError::Io { path: path.to_owned(), source }
}

/// A persistent PostgreSQL in a directory of its own. It survives a crash of this process, and the
/// next [`PrivatePostgres::start`] on the directory finds it, running or not.
pub struct PrivatePostgres {
    cluster: Cluster,
    port: u16,
    /// Set when the server is to be stopped; after that it is not started again.
    stopped: Mutex<bool>,
    /// Held as long as this lives: one service, and so one server, for each directory.
    _lock: File,
}

impl PrivatePostgres {
    /// Finds, creates or recovers the cluster in `data_dir`, and waits until it is ready.
    pub fn start(data_dir: &Path, bin_dir: Option<&Path>) -> Result<Self, LaunchError> {
        // Checked first, so that nothing is created on a machine without PostgreSQL.
        binaries::find(bin_dir, &cluster::data_in(data_dir))?;
        if !data_dir.exists() {
            fs::create_dir_all(data_dir).map_err(at(data_dir))?;
            // The user that runs PostgreSQL must be able to pass through it.
            let mode = fs::Permissions::from_mode(0o755);
            fs::set_permissions(data_dir, mode).map_err(at(data_dir))?;
        }
        let data_dir = &data_dir.canonicalize().map_err(at(data_dir))?;
        let lock = lock(data_dir)?;
        let cluster = Cluster::in_directory(data_dir, bin_dir)?;
        cluster.make()?;
        let port = cluster.start(None)?;
        let private = Self { cluster, port, stopped: Mutex::new(false), _lock: lock };
        let mut url_file = open_in(data_dir, "url")?;
        let url = private.url() + "\n";
        let written = url_file.set_len(0).and_then(|()| url_file.write_all(url.as_bytes()));
        written.map_err(at(&data_dir.join("url")))?;
        Ok(private)
    }

    /// The server's URL, which is also in the file `url` in its directory.
    pub fn url(&self) -> String {
        Address::of(&self.cluster, self.port).url()
    }

    /// Restarts the server on the same port if it is gone. Returns whether it was.
    pub fn revive(&self) -> Result<bool, LaunchError> {
        let stopped = self.stopped.lock().unwrap_or_else(PoisonError::into_inner);
        if *stopped || self.cluster.is_running() {
            return Ok(false);
        }
        self.cluster.start(Some(self.port))?;
        Ok(true)
    }

    /// The directory that holds everything: data, password and log.
    pub fn directory(&self) -> &Path {
        self.cluster.directory()
    }

    /// Stops the server; everything that was committed is on disk.
    pub fn stop(&self) -> Result<(), LaunchError> {
        // Waits for a start that is in progress.
        *self.stopped.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.cluster.stop("fast")
    }
}

/// Whether a service has ever created its private PostgreSQL there.
pub fn is_made(data_dir: &Path) -> bool {
    cluster::data_in(data_dir).join("PG_VERSION").exists()
}

/// The URL of a running service's private PostgreSQL; `None` if none runs.
pub fn url_in_use(data_dir: &Path) -> Result<Option<String>, LaunchError> {
    match lock(data_dir) {
        Ok(_unlocked) => Ok(None),
        Err(LaunchError::InUse { .. }) => {
            let path = data_dir.join("url");
            let url = fs::read_to_string(&path).map_err(at(&path))?;
            Ok(Some(url.trim_end().to_owned()))
        }
        Err(other) => Err(other),
    }
}

fn lock(data_dir: &Path) -> Result<File, LaunchError> {
    let path = data_dir.join("ticketboss.lock");
    let file = open_in(data_dir, "ticketboss.lock")?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(LaunchError::InUse { dir: data_dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(LaunchError::Io { path, source }),
    }
}

/// Opens one of our files for writing, creating it if necessary. Root may be using another user's
/// directory: it must not lock that user out, nor follow a link that the user has placed there.
fn open_in(directory: &Path, name: &str) -> Result<File, LaunchError> {
    let path = directory.join(name);
    let mut options = File::options();
    options.write(true).create(true).truncate(false).mode(0o600);
    options.custom_flags(nix::fcntl::OFlag::O_NOFOLLOW.bits());
    let file = options.open(&path).map_err(at(&path))?;
    if nix::unistd::geteuid().is_root() {
        let owner = fs::metadata(directory).map_err(at(directory))?;
        fchown(&file, Some(owner.uid()), Some(owner.gid())).map_err(at(&path))?;
    }
    Ok(file)
}

/// A PostgreSQL that is removed when this process ends, however it ends.
///
/// A small shell process waits for a pipe to close, which the kernel does even after `kill -9`,
/// and then stops the server and removes its directory.
pub struct ThrowawayPostgres {
    cluster: Cluster,
    port: u16,
    janitor: Child,
}

/// The port of a server, and the password for it.
#[derive(Clone, Debug)]
pub struct Address {
    password: String,
    port: u16,
}

impl Address {
    fn of(cluster: &Cluster, port: u16) -> Self {
        Self { password: cluster.password().to_owned(), port }
    }

    /// Without TLS, whatever `PGSSLMODE` says, since it is on the loopback interface.
    pub fn url(&self) -> String {
        let Self { password, port } = self;
        format!("postgres://{ROLE}:{password}@127.0.0.1:{port}/{DATABASE}?sslmode=disable")
    }

    /// The same as environment variables, including those that PostgreSQL's own programs read.
    pub fn environment(&self) -> [(&'static str, String); 6] {
        [
            ("DATABASE_URL", self.url()),
            ("PGHOST", "127.0.0.1".into()),
            ("PGPORT", self.port.to_string()),
            ("PGUSER", ROLE.into()),
            ("PGPASSWORD", self.password.clone()),
            ("PGDATABASE", DATABASE.into()),
        ]
    }
}

impl ThrowawayPostgres {
    /// Creates and starts a new cluster below the system's directory for temporary files.
    pub fn start(bin_dir: Option<&Path>) -> Result<Self, LaunchError> {
        Self::start_below(&std::env::temp_dir(), bin_dir)
    }

    /// The same below another directory, which the user that runs PostgreSQL must be able to enter.
    pub fn start_below(parent: &Path, bin_dir: Option<&Path>) -> Result<Self, LaunchError> {
        let directory = parent.join(format!("ticketboss-{}", Uuid::new_v4()));
        fs::create_dir(&directory).map_err(at(&directory))?;
        let hired = Cluster::in_directory(&directory, bin_dir).and_then(|cluster| {
            cluster.give_to_owner(&directory)?;
            Ok((janitor(&cluster)?, cluster))
        });
        let (janitor, cluster) = match hired {
            Ok(hired) => hired,
            Err(failure) => {
                // Best effort: the first failure is the one to report.
                let _ = fs::remove_dir_all(&directory);
                return Err(failure);
            }
        };
        // From here on, the janitor cleans up.
        let mut throwaway = Self { cluster, port: 0, janitor };
        throwaway.cluster.make()?;
        throwaway.port = throwaway.cluster.start(None)?;
        Ok(throwaway)
    }

    /// The path of one of PostgreSQL's programs, such as `psql`.
    pub fn binary(&self, name: &str) -> PathBuf {
        self.cluster.binary(name)
    }

    /// A command that runs one of PostgreSQL's programs as the user that runs the server.
    pub fn command(&self, name: &str) -> Command {
        self.cluster.command_as_owner(&self.cluster.binary(name))
    }

    /// The directory that is removed with the server. The server's user may write there.
    pub fn directory(&self) -> &Path {
        self.cluster.directory()
    }

    /// The server's data directory.
    pub fn data(&self) -> PathBuf {
        self.cluster.data()
    }

    pub fn address(&self) -> Address {
        Address::of(&self.cluster, self.port)
    }
}

impl Drop for ThrowawayPostgres {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        // The janitor ends by itself; waiting only ensures that it is done before we go on.
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
    command.spawn().map_err(at(shell))
}

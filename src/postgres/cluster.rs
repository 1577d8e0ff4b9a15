//! One cluster: its directory, its owner, and the programs that make, start and stop it.
//!
//! Our own files are at the top of the directory (the password, the lock, the URL); PostgreSQL's
//! are in `postgres`, a directory of the user that runs it. As root, we never follow a path that
//! this user could have laid.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Uid, User, geteuid};
use uuid::Uuid;

use super::binaries::{self, Binaries};
use super::{LaunchError, STOP_TIMEOUT_S, at};

/// How long a server may take to recover from a crash before we give up on it.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// The progress of another process can only be polled.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Stays out of everybody's way: no socket file, one port on 127.0.0.1. Durability stays at its
/// defaults. The log has no statements in it, since a repeated idempotency key is an error to
/// PostgreSQL. A shell splits this into words, so nothing in it may need quoting.
const OPTIONS: &str = "-c listen_addresses=127.0.0.1 -c unix_socket_directories= \
    -c max_connections=200 -c log_error_verbosity=terse -c log_min_error_statement=panic";

/// The name prefix of a directory that is not a complete cluster yet.
const UNFINISHED: &str = "unfinished-";

/// The superuser of the cluster, and its database.
pub const ROLE: &str = "ticketboss";
pub const DATABASE: &str = "postgres";

/// Where the data of the cluster in `directory` is, or will be.
pub fn data_in(directory: &Path) -> PathBuf {
    directory.join("postgres/data")
}

pub struct Cluster {
    binaries: Binaries,
    directory: PathBuf,
    /// Set if we are root: PostgreSQL refuses to run as root, so this user owns and runs it.
    owner: Option<User>,
    password: String,
}

impl Cluster {
    /// Finds what is needed to run a cluster in `directory`, whether or not the cluster exists yet.
    pub fn in_directory(directory: &Path, bin_dir: Option<&Path>) -> Result<Self, LaunchError> {
        let data = data_in(directory);
        let made = data.join("PG_VERSION").exists();
        Ok(Self {
            binaries: binaries::find(bin_dir, &data)?,
            directory: directory.to_owned(),
            owner: if geteuid().is_root() { Some(owner_of(&data)?) } else { None },
            password: password(&directory.join("password"), made)?,
        })
    }

    /// Creates the cluster, unless it exists.
    pub fn make(&self) -> Result<(), LaunchError> {
        let (home, data) = (self.home(), self.data());
        if data.join("PG_VERSION").exists() {
            return Ok(());
        }
        if !home.exists() {
            fs::create_dir(&home).map_err(at(&home))?;
            self.give_to_owner(&home)?;
        }
        // In a directory beside the final one, so that an interrupted attempt leaves no partial
        // cluster; under a unique name, since the interrupted attempt may still be running.
        self.remove_unfinished();
        let unfinished = home.join(format!("{UNFINISHED}{}", Uuid::new_v4().simple()));
        let password_file = self.directory.join("password.initdb");
        let _ = fs::remove_file(&password_file);
        write_secret(&password_file, &self.password)?;
        self.give_to_owner(&password_file)?;
        let mut command = self.command("initdb");
        command
            .args(["--username", ROLE, "--auth", "scram-sha-256", "--encoding", "UTF8"])
            .args(["--no-locale", "--pwfile"])
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&unfinished);
        let made = run(command, "initdb");
        fs::remove_file(&password_file).map_err(at(&password_file))?;
        made?;
        fs::rename(&unfinished, &data).map_err(at(&data))
    }

    /// Best effort: leftovers only take up disk space.
    fn remove_unfinished(&self) {
        for entry in fs::read_dir(self.home()).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(UNFINISHED) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn data(&self) -> PathBuf {
        data_in(&self.directory)
    }

    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.dir.join(name)
    }

    pub fn password(&self) -> &str {
        &self.password
    }

    /// Starts the server, or finds the one that was left running when its service crashed. Returns
    /// its port, which is `port` if that is given and the server was not running.
    pub fn start(&self, port: Option<u16>) -> Result<u16, LaunchError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let (mut failure, mut seen_stale) = (None, false);
        while Instant::now() < deadline {
            match self.running() {
                Found::Running { port: Some(port), ready: true } => return Ok(port),
                // It is recovering or stopping: either comes to an end.
                Found::Running { .. } => {}
                // Seen twice, so it is not a file that is just being written. It would prevent
                // every start, so it is removed; if that fails, the start that follows reports it.
                Found::Stale if seen_stale => {
                    log::info!("removing postmaster.pid, which names no server of this directory");
                    let _ = fs::remove_file(self.pid_file());
                }
                Found::Stale => seen_stale = true,
                Found::Nothing => match self.launch(port) {
                    Ok(port) => return Ok(port),
                    // A server that was killed may have children that still hold its memory, and
                    // another process may have taken the port first.
                    Err(LaunchError::Failed { what, output }) if output.contains("in use") => {
                        failure = Some(LaunchError::Failed { what, output });
                    }
                    Err(other) => return Err(other),
                },
            }
            thread::sleep(POLL_INTERVAL);
        }
        Err(failure.unwrap_or_else(|| LaunchError::Failed {
            what: "starting PostgreSQL".into(),
            output: format!("not ready after {} s", START_TIMEOUT.as_secs()),
        }))
    }

    /// Whether the server is running, in whatever state.
    pub fn is_running(&self) -> bool {
        matches!(self.running(), Found::Running { .. })
    }

    pub fn stop(&self, mode: &str) -> Result<(), LaunchError> {
        if !self.is_running() {
            return Ok(());
        }
        let mut command = self.command("pg_ctl");
        command.args(["stop", "-w", "-t", &STOP_TIMEOUT_S.to_string(), "-m", mode, "-D"]);
        command.arg(self.data());
        run(command, "stopping PostgreSQL")
    }

    /// A command that runs as the owner of the cluster, without the parts of our environment that
    /// could affect PostgreSQL, and in a process group of its own, since Ctrl-C is for us.
    pub fn command_as_owner(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env_clear().env("LC_ALL", "C").stdin(Stdio::null());
        command.process_group(0);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some(owner) = &self.owner {
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
        }
        command
    }

    /// Makes the user that runs PostgreSQL the owner of a path that we have just created.
    pub fn give_to_owner(&self, path: &Path) -> Result<(), LaunchError> {
        let Some(owner) = &self.owner else { return Ok(()) };
        chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).map_err(at(path))
    }

    fn home(&self) -> PathBuf {
        self.directory.join("postgres")
    }

    fn command(&self, name: &str) -> Command {
        self.command_as_owner(&self.binary(name))
    }

    fn launch(&self, port: Option<u16>) -> Result<u16, LaunchError> {
        let port = port.map_or_else(free_port, Ok)?;
        let mut command = self.command("pg_ctl");
        command
            .args(["start", "-w", "-t", &START_TIMEOUT.as_secs().to_string()])
            .args(["-o", &format!("{OPTIONS} -p {port}"), "-l"])
            .arg(self.log())
            .arg("-D")
            .arg(self.data());
        let log_before = fs::metadata(self.log()).map_or(0, |log| log.len());
        run(command, "starting PostgreSQL").map_err(|failure| match failure {
            LaunchError::Failed { what, output } => {
                // The server's own message is in its log, if it got that far.
                let said = self.log_since(log_before);
                LaunchError::Failed { what, output: if said.is_empty() { output } else { said } }
            }
            other => other,
        })?;
        Ok(port)
    }

    fn log(&self) -> PathBuf {
        self.home().join("postgres.log")
    }

    fn log_since(&self, length: u64) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let start = usize::try_from(length).unwrap_or(0).min(log.len());
        String::from_utf8_lossy(&log[start..]).trim().replace('\n', "; ")
    }

    fn pid_file(&self) -> PathBuf {
        self.data().join("postmaster.pid")
    }

    /// The server that `postmaster.pid` names, if it really exists. The file may have outlived its
    /// server, and the process id may have been given to another process since.
    fn running(&self) -> Found {
        let Ok(file) = fs::read_to_string(self.pid_file()) else { return Found::Nothing };
        let line = |index: usize| file.lines().nth(index).map(str::trim);
        let pid = line(0).and_then(|pid| pid.parse().ok());
        if !pid.is_some_and(|pid| self.is_server(pid)) {
            return Found::Stale;
        }
        Found::Running {
            port: line(3).and_then(|port| port.parse().ok()),
            ready: line(7) == Some("ready"),
        }
    }

    /// Whether process `pid` is this cluster's server, that is, whether its working directory is
    /// the data directory. If we may not read that, the data directory must be in its command line;
    /// without /proc, we can only tell whether there is such a process.
    fn is_server(&self, pid: i32) -> bool {
        let exists = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None);
        if exists == Err(nix::Error::ESRCH) {
            return false;
        }
        if !Path::new("/proc/self").exists() {
            return true;
        }
        match fs::read_link(format!("/proc/{pid}/cwd")) {
            Ok(directory) => self.data().canonicalize().is_ok_and(|data| data == directory),
            Err(denied) if denied.kind() == std::io::ErrorKind::PermissionDenied => {
                let data = self.data();
                let words = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                words.split(|byte| *byte == 0).any(|word| word == data.as_os_str().as_bytes())
            }
            // The process has just ended.
            Err(_) => false,
        }
    }
}

/// What `postmaster.pid`, the file that a server writes about itself, says.
enum Found {
    Nothing,
    /// It names no server of this directory.
    Stale,
    Running {
        port: Option<u16>,
        ready: bool,
    },
}

/// The user to run the server as if we are root: the owner of the data, or an unprivileged one.
fn owner_of(data: &Path) -> Result<User, LaunchError> {
    if let Ok(metadata) = fs::metadata(data)
        && metadata.uid() != 0
    {
        let user = User::from_uid(Uid::from_raw(metadata.uid()));
        return user.ok().flatten().ok_or(LaunchError::NoUser);
    }
    let named = |name| User::from_name(name).ok().flatten();
    named("postgres").or_else(|| named("nobody")).ok_or(LaunchError::NoUser)
}

/// The cluster's password. It is created before the cluster, which cannot be used without it.
fn password(path: &Path, cluster_is_made: bool) -> Result<String, LaunchError> {
    match fs::read_to_string(path) {
        Ok(password) if !password.trim().is_empty() => return Ok(password.trim().to_owned()),
        Ok(_) if cluster_is_made => {
            return Err(LaunchError::NoPassword { path: path.to_owned() });
        }
        Err(failure) if cluster_is_made || failure.kind() != std::io::ErrorKind::NotFound => {
            return Err(at(path)(failure));
        }
        Ok(_) | Err(_) => {}
    }
    let password = Uuid::new_v4().simple().to_string();
    write_secret(path, &password)?;
    Ok(password)
}

/// Writes a file that only its owner may read, durably.
pub fn write_secret(path: &Path, text: &str) -> Result<(), LaunchError> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let written = options.open(path).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.sync_all()
    });
    written.map_err(at(path))
}

fn free_port() -> Result<u16, LaunchError> {
    let listener = TcpListener::bind(("127.0.0.1", 0));
    let address = listener.and_then(|listener| listener.local_addr());
    Ok(address.map_err(at(Path::new("127.0.0.1")))?.port())
}

fn run(mut command: Command, what: &str) -> Result<(), LaunchError> {
    let program = PathBuf::from(command.get_program());
    let output = command.output().map_err(at(&program))?;
    if output.status.success() {
        return Ok(());
    }
    // The programs write their progress to stdout, and failures to stderr.
    let said = if output.stderr.is_empty() { output.stdout } else { output.stderr };
    let output = String::from_utf8_lossy(&said).trim().replace('\n', "; ");
    Err(LaunchError::Failed { what: what.to_owned(), output })
}

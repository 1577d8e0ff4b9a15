//! One cluster: its directory, its owner, and the programs that make, start and stop it.

use std::fs;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{User, geteuid};
use uuid::Uuid;

use super::binaries::{self, Binaries};
use super::{LaunchError, at};

/// How long a server may take to recover from a crash before we give up on it.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long it may take to stop. The whole service has ten seconds for that.
const STOP_TIMEOUT_S: &str = "5";
/// Another process's progress can only be looked at.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// Not in the way of anyone: no socket file, one port of 127.0.0.1. Durability stays at its
/// defaults.
const SETTINGS: &str = "
# Written by ticketboss.
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 200
";

/// The superuser of the cluster.
const ROLE: &str = "ticketboss";

pub struct Cluster {
    binaries: Binaries,
    directory: PathBuf,
    /// PostgreSQL refuses to run as root: then another user owns the data and runs the server.
    owner: Option<User>,
    password: String,
}

impl Cluster {
    /// Makes the cluster in `directory`, unless it is there.
    pub fn make(directory: &Path, bin_dir: Option<&Path>) -> Result<Self, LaunchError> {
        let data = directory.join("data");
        let cluster = Self {
            binaries: binaries::find(bin_dir, &data)?,
            directory: directory.to_owned(),
            owner: if geteuid().is_root() { Some(unprivileged_user()?) } else { None },
            password: read_or_make_password(&directory.join("password"))?,
        };
        cluster.give_to_owner(directory)?;
        if !data.join("PG_VERSION").exists() {
            cluster.initialize(&data)?;
        }
        Ok(cluster)
    }

    pub fn directory(&self) -> &Path {
        &self.directory
    }

    pub fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub fn binary(&self, name: &str) -> PathBuf {
        self.binaries.dir.join(name)
    }

    pub fn url(&self, port: u16) -> String {
        format!("postgres://{ROLE}:{}@127.0.0.1:{port}/postgres", self.password)
    }

    /// Starts the server, or finds the one that a crash of its service left running. Returns its
    /// port.
    pub fn start(&self) -> Result<u16, LaunchError> {
        let deadline = Instant::now() + START_TIMEOUT;
        let mut failure = None;
        while Instant::now() < deadline {
            match self.running() {
                Some(Running { port: Some(port), ready: true }) => return Ok(port),
                // It recovers, or it stops: either ends.
                Some(_) => {}
                // One that was killed may have children that still hold its memory.
                None => match self.launch() {
                    Ok(port) => return Ok(port),
                    Err(LaunchError::Failed { what, output })
                        if output.contains("still in use") || output.contains("in use") =>
                    {
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

    pub fn stop(&self, mode: &str) -> Result<(), LaunchError> {
        let mut command = self.command("pg_ctl");
        command.args(["stop", "-w", "-t", STOP_TIMEOUT_S, "-m", mode, "-D"]).arg(self.data());
        run(command, "stopping PostgreSQL")
    }

    /// A command that runs as the user who owns the cluster, with nothing of our environment that
    /// could steer PostgreSQL.
    pub fn command_as_owner(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command.current_dir("/").env_clear().env("LC_ALL", "C").stdin(Stdio::null());
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        if let Some(owner) = &self.owner {
            command.uid(owner.uid.as_raw()).gid(owner.gid.as_raw());
        }
        command
    }

    fn command(&self, name: &str) -> Command {
        self.command_as_owner(&self.binary(name))
    }

    /// In a directory beside the final one: an `initdb` that was interrupted leaves no half.
    fn initialize(&self, data: &Path) -> Result<(), LaunchError> {
        let unfinished = self.directory.join("data.unfinished");
        if unfinished.exists() {
            fs::remove_dir_all(&unfinished).map_err(at(&unfinished))?;
        }
        let password_file = self.directory.join("password");
        let mut command = self.command("initdb");
        command
            .args(["--username", ROLE, "--auth", "scram-sha-256", "--encoding", "UTF8"])
            .args(["--no-locale", "--pwfile"])
            .arg(&password_file)
            .arg("--pgdata")
            .arg(&unfinished);
        run(command, "initdb")?;
        let settings = unfinished.join("postgresql.conf");
        fs::OpenOptions::new()
            .append(true)
            .open(&settings)
            .and_then(|mut file| file.write_all(SETTINGS.as_bytes()))
            .map_err(at(&settings))?;
        fs::rename(&unfinished, data).map_err(at(data))
    }

    fn launch(&self) -> Result<u16, LaunchError> {
        let port = free_port()?;
        let mut command = self.command("pg_ctl");
        command
            .args(["start", "-w", "-t", &START_TIMEOUT.as_secs().to_string()])
            .args(["-o", &format!("-p {port}"), "-l"])
            .arg(self.log())
            .arg("-D")
            .arg(self.data());
        let log_before = fs::metadata(self.log()).map_or(0, |log| log.len());
        run(command, "starting PostgreSQL").map_err(|failure| match failure {
            LaunchError::Failed { what, .. } => {
                LaunchError::Failed { what, output: self.log_since(log_before) }
            }
            other => other,
        })?;
        Ok(port)
    }

    fn log(&self) -> PathBuf {
        self.directory.join("postgres.log")
    }

    fn log_since(&self, length: u64) -> String {
        let log = fs::read(self.log()).unwrap_or_default();
        let start = usize::try_from(length).unwrap_or(0).min(log.len());
        String::from_utf8_lossy(&log[start..]).trim().replace('\n', "; ")
    }

    /// The server that `postmaster.pid` names, if it is really there. A file that outlived its
    /// server, its number since given to another process, is removed: it would stop every start.
    fn running(&self) -> Option<Running> {
        let path = self.data().join("postmaster.pid");
        let file = fs::read_to_string(&path).ok()?;
        let line = |index: usize| file.lines().nth(index).map(str::trim);
        let pid: i32 = line(0)?.parse().ok()?;
        if !runs_in(pid, &self.data()) {
            log::info!("removing {}: no server of this directory has id {pid}", path.display());
            // If it cannot be removed, the start that follows fails and says so.
            let _ = fs::remove_file(&path);
            return None;
        }
        Some(Running {
            port: line(3).and_then(|port| port.parse().ok()),
            ready: line(7) == Some("ready"),
        })
    }

    fn give_to_owner(&self, path: &Path) -> Result<(), LaunchError> {
        let Some(owner) = &self.owner else { return Ok(()) };
        for path in [path, &path.join("password")] {
            chown(path, Some(owner.uid.as_raw()), Some(owner.gid.as_raw())).map_err(at(path))?;
        }
        Ok(())
    }
}

struct Running {
    port: Option<u16>,
    ready: bool,
}

/// Whether process `pid` is a server on `data`: a server's working directory is its data.
fn runs_in(pid: i32, data: &Path) -> bool {
    if nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None) == Err(nix::Error::ESRCH) {
        return false;
    }
    match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(directory) => data.canonicalize().is_ok_and(|data| data == directory),
        // No /proc on this system, so all we know is that the process exists.
        Err(_) => !Path::new("/proc/self").exists(),
    }
}

fn unprivileged_user() -> Result<User, LaunchError> {
    let named = |name| User::from_name(name).ok().flatten();
    named("postgres").or_else(|| named("nobody")).ok_or(LaunchError::NoUser)
}

fn read_or_make_password(path: &Path) -> Result<String, LaunchError> {
    if let Ok(password) = fs::read_to_string(path)
        && !password.trim().is_empty()
    {
        return Ok(password.trim().to_owned());
    }
    let password = Uuid::new_v4().simple().to_string();
    fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(password.as_bytes()))
        .map_err(at(path))?;
    Ok(password)
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
    let text = [output.stdout, output.stderr].concat();
    let output = String::from_utf8_lossy(&text).trim().replace('\n', "; ");
    Err(LaunchError::Failed { what: what.to_owned(), output })
}

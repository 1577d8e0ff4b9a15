//! The real binary as a process of its own.

use std::path::Path;
use std::process::Stdio;
use std::sync::{Arc, Mutex};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, Command};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::PATIENCE;

pub fn command(arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ticketboss"));
    command
        .args(arguments)
        // Without the developer's own settings, and without a `.env`.
        .current_dir("/")
        .env_clear()
        .envs(
            ["PATH", "PG_BIN_DIR"].iter().filter_map(|name| Some((name, std::env::var_os(name)?))),
        )
        // Any free port, unless the test names one.
        .env("PORT", "0")
        .envs(environment.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    command
}

/// A running `ticketboss`, on a free port.
pub struct Binary {
    child: Child,
    pub base: String,
    log: Arc<Mutex<Vec<String>>>,
    reading: JoinHandle<()>,
    /// Held for each line that is read.
    may_read: Arc<AsyncMutex<()>>,
    unread: Option<OwnedMutexGuard<()>>,
}

impl Binary {
    /// Starts the service, and returns once it serves.
    pub async fn serve(environment: &[(&str, &str)]) -> Self {
        Self::serve_after(environment, "", || {}).await
    }

    /// The same, calling `act` when a line of the log contains these words.
    pub async fn serve_after(environment: &[(&str, &str)], words: &str, act: impl Fn()) -> Self {
        let mut child = command(&[], environment).spawn().expect("the binary is there");
        let mut lines = BufReader::new(child.stderr.take().expect("it is piped")).lines();
        let log = Arc::new(Mutex::new(Vec::new()));
        let base = timeout(PATIENCE, address(&mut lines, &log, words, act))
            .await
            .expect("it starts in time");
        let may_read = Arc::new(AsyncMutex::new(()));
        let reading = tokio::spawn({
            let (log, may_read) = (Arc::clone(&log), Arc::clone(&may_read));
            async move {
                while let Ok(Some(line)) = lines.next_line().await {
                    log.lock().expect("no panic under the lock").push(line);
                    drop(may_read.lock().await);
                }
            }
        });
        Self { child, base, log, reading, may_read, unread: None }
    }

    /// Stops reading the log until the process has ended or [`Self::read_log`] is called.
    pub async fn leave_log_unread(&mut self) {
        self.unread = Some(Arc::clone(&self.may_read).lock_owned().await);
    }

    pub fn read_log(&mut self) {
        self.unread = None;
    }

    pub fn pid(&self) -> i32 {
        i32::try_from(self.child.id().expect("it runs")).expect("a process id")
    }

    /// What it has logged so far.
    pub fn log(&self) -> Vec<String> {
        self.log.lock().expect("no panic under the lock").clone()
    }

    pub fn signal(&self, signal: Signal) {
        kill(Pid::from_raw(self.pid()), signal).expect("it runs");
    }

    /// Waits for the process to end. Returns the exit code (`None` if a signal ended it) and its
    /// log.
    pub async fn ended(mut self) -> (Option<i32>, Vec<String>) {
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends in time");
        self.read_log();
        self.reading.await.expect("the log is read");
        let log = self.log.lock().expect("no panic under the lock").clone();
        (status.expect("it was waited for").code(), log)
    }

    pub async fn stop(self) -> (Option<i32>, Vec<String>) {
        self.signal(Signal::SIGTERM);
        self.ended().await
    }
}

/// Reads the log up to the line that says where it serves.
async fn address(
    lines: &mut Lines<BufReader<ChildStderr>>,
    log: &Mutex<Vec<String>>,
    words: &str,
    act: impl Fn(),
) -> String {
    loop {
        let line = lines.next_line().await.expect("a log");
        let Some(line) = line else {
            panic!("it ended before it served: {:?}", log.lock().expect("no panic"));
        };
        if line.contains(words) {
            act();
        }
        let found = line.split_once("serving ").and_then(|(_, rest)| rest.split_once(';'));
        let base = found.map(|(base, _)| base.to_owned());
        log.lock().expect("no panic under the lock").push(line);
        if let Some(base) = base {
            return base;
        }
    }
}

/// A directory that the user who runs PostgreSQL may enter, removed when this value is dropped.
pub struct TemporaryDirectory(std::path::PathBuf);

impl TemporaryDirectory {
    pub fn new() -> Self {
        let name = format!("ticketboss-test-{}", uuid::Uuid::new_v4());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).expect("a directory can be made");
        Self(path)
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    pub fn as_str(&self) -> &str {
        self.0.to_str().expect("it was made from text")
    }
}

impl Drop for TemporaryDirectory {
    fn drop(&mut self) {
        // Best effort: a test that failed may have left a server in it.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

//! A PostgreSQL server that belongs to one scenario, and the faults that it can be put through.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, PgConnection};
use ticketboss::config::Database;
use ticketboss::postgres::ThrowawayPostgres;
use tokio::time::Instant;

/// Far more than a server needs to recover.
const RECOVERY_MAX: Duration = Duration::from_secs(60);

pub struct Cluster {
    server: ThrowawayPostgres,
    standby: Option<Standby>,
    /// Whether the standby has taken over.
    failed_over: bool,
    /// Unmounted once the server on it is gone.
    _disk: Option<SmallDisk>,
}

impl Cluster {
    pub fn start() -> Self {
        let bin_dir = Database::bin_dir();
        let server = ThrowawayPostgres::start(bin_dir.as_deref()).expect("PostgreSQL starts");
        Self { server, standby: None, failed_over: false, _disk: None }
    }

    /// Starts the server on a disk of its own, which is soon full.
    pub fn start_on(disk: SmallDisk) -> Self {
        let bin_dir = Database::bin_dir();
        let server = ThrowawayPostgres::start_below(disk.path(), bin_dir.as_deref());
        let server = server.expect("PostgreSQL starts");
        Self { server, standby: None, failed_over: false, _disk: Some(disk) }
    }

    /// The URL of the current primary.
    pub fn url(&self) -> String {
        let url = self.server.address().url();
        match &self.standby {
            Some(standby) if self.failed_over => {
                let port: PgConnectOptions = url.parse().expect("a URL");
                url.replace(&format!(":{}/", port.get_port()), &format!(":{}/", standby.port))
            }
            Some(_) | None => url,
        }
    }

    /// The same, through another port.
    pub fn url_at(&self, address: SocketAddr) -> String {
        let port = self.options().get_port();
        self.url().replace(&format!(":{port}/"), &format!(":{}/", address.port()))
    }

    pub fn address(&self) -> SocketAddr {
        ([127, 0, 0, 1], self.options().get_port()).into()
    }

    /// Adds a streaming standby; if it is synchronous, commits wait for it.
    pub async fn add_standby(&mut self, synchronous: bool) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let port = listener.local_addr().expect("it is bound").port();
        drop(listener);
        let standby = Standby { data: self.directory().join("standby"), port };
        let data = standby.data.to_str().expect("it is text");
        let arguments = ["-d", &self.url(), "-D", data, "-R", "-X", "stream", "-c", "fast"];
        self.run("pg_basebackup", &arguments);
        self.standby = Some(standby);
        self.start_standby();
        if synchronous {
            // Set after the copy was made, so that the standby waits for no other server should it
            // take over.
            self.execute(&[
                "alter system set synchronous_standby_names = '*'",
                "select pg_reload_conf()",
            ])
            .await;
        }
    }

    fn standby(&self) -> &Standby {
        self.standby.as_ref().expect("it has one")
    }

    pub fn start_standby(&self) {
        let Standby { data, port } = self.standby();
        // As on the primary: a standby must not allow fewer connections.
        let options = format!(
            "-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
             -c max_connections=200"
        );
        self.control_of(data, &["start", "-w", "-o", &options]);
    }

    pub fn stop_standby(&self) {
        self.control_of(&self.standby().data, &["stop", "-w", "-m", "immediate"]);
    }

    /// Takes the primary away for good.
    pub fn lose(&self) {
        self.control(&["stop", "-w", "-m", "immediate"]);
    }

    /// Makes the standby take over.
    pub fn promote_standby(&mut self) {
        self.control_of(&self.standby().data, &["promote", "-w"]);
        self.failed_over = true;
    }

    pub fn options(&self) -> PgConnectOptions {
        self.url().parse().expect("a URL")
    }

    /// Connects as soon as the server is up: it may still be recovering from a fault.
    pub async fn connect(&self) -> PgConnection {
        let by = Instant::now() + RECOVERY_MAX;
        loop {
            match self.options().connect().await {
                Ok(connection) => return connection,
                Err(failure) => assert!(Instant::now() < by, "{failure}"),
            }
        }
    }

    /// Runs statements one by one, each a transaction of its own.
    pub async fn execute(&self, statements: &[&str]) {
        let mut connection = self.connect().await;
        for statement in statements {
            sqlx::raw_sql(AssertSqlSafe(*statement))
                .execute(&mut connection)
                .await
                .expect("statements run");
        }
    }

    /// Runs one of PostgreSQL's programs as the user who runs the server.
    pub fn run(&self, program: &str, arguments: &[&str]) {
        let mut command = self.server.command(program);
        command.args(arguments);
        succeed(&mut command);
    }

    /// Starts, stops or restarts the server.
    pub fn control(&self, arguments: &[&str]) {
        self.control_of(&self.data(), arguments);
    }

    fn control_of(&self, data: &Path, arguments: &[&str]) {
        let log = self.directory().join("later.log");
        let path = |path: &Path| path.to_str().expect("it is text").to_owned();
        // A started server keeps the files open that it inherits, so it gets a log of its own.
        let common = ["-D", &path(data), "-l", &path(&log)];
        let mut command = self.server.command("pg_ctl");
        let output = command.args(arguments).args(common).output().expect("it runs");
        let said = std::fs::read_to_string(log).unwrap_or_default();
        assert!(output.status.success(), "{arguments:?}: {output:?}\n{said}");
    }

    pub fn data(&self) -> PathBuf {
        self.server.data()
    }

    /// A directory in which the user who runs the server may write.
    pub fn directory(&self) -> &Path {
        self.server.directory()
    }

    /// The server's processes, the postmaster first.
    pub fn processes(&self) -> Vec<Pid> {
        let file = std::fs::read_to_string(self.data().join("postmaster.pid"));
        let file = file.expect("the server runs");
        let server: i32 = file.lines().next().expect("a line").trim().parse().expect("a number");
        let children = format!("/proc/{server}/task/{server}/children");
        let children = std::fs::read_to_string(children).unwrap_or_default();
        let children = children.split_whitespace().map(|pid| pid.parse().expect("a number"));
        std::iter::once(server).chain(children).map(Pid::from_raw).collect()
    }

    /// Suspends all of the server's processes for a while.
    pub async fn freeze(&self, time: Duration) {
        let processes = self.processes();
        // The postmaster starts new processes, so it is suspended first.
        for process in &processes {
            let _ = kill(*process, Signal::SIGSTOP);
        }
        tokio::time::sleep(time).await;
        for process in processes.iter().rev() {
            let _ = kill(*process, Signal::SIGCONT);
        }
    }

    /// Kills a backend that serves the service, as a crash of the backend would. Returns whether
    /// there was one.
    pub async fn kill_backend(&self) -> bool {
        let mut connection = self.connect().await;
        let found: Option<i32> = sqlx::query_scalar(
            "select pid from pg_stat_activity where application_name = 'ticketboss'
              order by state_change desc limit 1",
        )
        .fetch_optional(&mut connection)
        .await
        .expect("it answers");
        found.is_some_and(|pid| kill(Pid::from_raw(pid), Signal::SIGKILL).is_ok())
    }

    /// The number of the service's sessions.
    pub async fn sessions(&self) -> i64 {
        sqlx::query_scalar(
            "select count(*) from pg_stat_activity where application_name = 'ticketboss'",
        )
        .fetch_one(&mut self.connect().await)
        .await
        .expect("it answers")
    }
}

struct Standby {
    data: PathBuf,
    port: u16,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(standby) = &self.standby {
            let mut stop = self.server.command("pg_ctl");
            // Best effort: it may be stopped already.
            let _ = stop.args(["stop", "-w", "-m", "immediate", "-D"]).arg(&standby.data).output();
        }
    }
}

fn succeed(command: &mut Command) {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{command:?}: {output:?}");
}

/// A small file system in memory.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None` where mounting is not allowed.
    pub fn mount(megabytes: u32) -> Option<Self> {
        let path = std::env::temp_dir().join(format!("ticketboss-disk-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir(&path).expect("a directory can be made");
        let options = format!("size={megabytes}m,mode=0777");
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "ticketboss-test"]).arg(&path);
        if mount.output().is_ok_and(|output| output.status.success()) {
            return Some(Self(path));
        }
        std::fs::remove_dir(&path).expect("it is empty");
        None
    }

    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Best effort: a test that fails may leave something open there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).output();
        let _ = std::fs::remove_dir(&self.0);
    }
}

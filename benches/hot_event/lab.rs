//! What a measurement runs on: one throwaway PostgreSQL, databases in it, and server processes.
//!
//! Everything started here ends with this process, however the process ends.

use std::io::{self, BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use ticketboss::access::new_key;
use ticketboss::domain::{
    Change, ChangeKind, EventId, KeyName, PartnerId, Reservation, ReservationId, Scope, Status,
};
use ticketboss::postgres::ThrowawayPostgres;
use ticketboss::store::{Batch, Commit, ConnectionLimits, PostgresStore, Store as _, schema};
use tokio::runtime::Runtime;
use uuid::Uuid;

use crate::contenders::Way;
use crate::follow;
use crate::hostile;
use crate::load::{Plan, Tally};

/// The most seats that an event may have.
pub const SEATS: i32 = 10_000_000;
const START_MAX: Duration = Duration::from_secs(60);
const STATEMENT_MAX: Duration = Duration::from_secs(10);
const AUDIT: &str = include_str!("../../tests/audit.sql");

pub struct Lab {
    postgres: ThrowawayPostgres,
    runtime: Runtime,
    databases: AtomicU64,
}

impl Lab {
    pub fn open() -> Self {
        let bin_dir = ticketboss::config::Database::bin_dir();
        let postgres = ThrowawayPostgres::start(bin_dir.as_deref()).expect("PostgreSQL starts");
        let runtime = Runtime::new().expect("a runtime starts");
        Self { postgres, runtime, databases: AtomicU64::new(0) }
    }

    /// A new database with the schema in it.
    pub fn database(&self) -> Database<'_> {
        let server = self.postgres.address().url();
        let name = format!("bench_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let (start, end) = server.split_at(server.rfind('/').expect("a URL"));
        let options = end.split_once('?').map_or("", |(_, options)| options);
        let url = format!("{start}/{name}?{options}");
        let options: PgConnectOptions = url.parse().expect("a URL");
        self.runtime.block_on(async {
            self.execute(format!("create database {name}")).await;
            schema::migrate(&options).await.expect("migrations apply");
        });
        Database { lab: self, name, options, url }
    }

    pub fn version(&self) -> String {
        self.runtime
            .block_on(async {
                let mut connection = PgConnection::connect(&self.postgres.address().url())
                    .await
                    .expect("PostgreSQL is up");
                sqlx::query_scalar(
                    "select current_setting('server_version')
                    || ', fsync ' || current_setting('fsync')
                    || ', synchronous_commit ' || current_setting('synchronous_commit')
                    || ', shared_buffers ' || current_setting('shared_buffers')",
                )
                .fetch_one(&mut connection)
                .await
            })
            .expect("a setting can be shown")
    }

    async fn execute(&self, statement: String) {
        let mut connection = self.connect().await;
        let statement = AssertSqlSafe(statement);
        sqlx::query(statement).execute(&mut connection).await.expect("the statement works");
    }

    async fn connect(&self) -> PgConnection {
        PgConnection::connect(&self.postgres.address().url()).await.expect("PostgreSQL is up")
    }

    /// The time of one flush on this machine, as measured by PostgreSQL's own tool.
    pub fn flush_time(&self) -> Option<String> {
        let file = std::env::temp_dir().join(format!("ticketboss-flush-{}", Uuid::new_v4()));
        let output = Command::new(self.postgres.binary("pg_test_fsync"))
            .args(["-s", "1", "-f"])
            .arg(&file)
            .output();
        // Best effort: the tool has already removed the file, unless it failed.
        let _ = std::fs::remove_file(file);
        let output = String::from_utf8(output.ok()?.stdout).ok()?;
        let line = output.lines().find_map(|line| line.trim().strip_prefix("fdatasync "))?;
        Some(line.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

/// A database of the lab, dropped together with this value.
pub struct Database<'a> {
    lab: &'a Lab,
    name: String,
    options: PgConnectOptions,
    url: String,
}

impl Database<'_> {
    /// Makes this many events with new names.
    pub fn events(&self, count: usize, seats: i32) -> Vec<String> {
        self.limited_events(count, seats, None)
    }

    /// The same, with a limit on the seats of each partner.
    pub fn limited_events(&self, count: usize, seats: i32, limit: Option<i32>) -> Vec<String> {
        let run = Uuid::new_v4().simple();
        let ids: Vec<String> = (0..count).map(|number| format!("e-{run}-{number}")).collect();
        self.lab.runtime.block_on(async {
            sqlx::query(
                "insert into events (id, name, initial_seats, total_seats, available_seats,
                                     seats_per_partner_max)
                 select id, id, $2, $2, $2, $3 from unnest($1) as id",
            )
            .bind(&ids)
            .bind(seats)
            .bind(limit)
            .execute(&mut self.connect().await)
            .await
            .expect("events can be made");
        });
        ids
    }

    /// Compares the events with what the callers were told: the seats taken are those of the active
    /// reservations, and there are as many of these as were acknowledged and not cancelled.
    pub fn check(&self, events: &[String], before: u64, tally: &Tally) -> Result<(), String> {
        let told = before + tally.booked - tally.cancelled;
        let (gone, counted, active): (i64, i64, i64) = self.lab.runtime.block_on(async {
            sqlx::query_as(
                "select sum(total_seats - available_seats)::bigint,
                        sum(reservation_count)::bigint,
                        (select count(*) from reservations
                          where event_id = any ($1) and status = 'confirmed')
                   from events where id = any ($1)",
            )
            .bind(events)
            .fetch_one(&mut self.connect().await)
            .await
            .expect("the database answers")
        });
        let told = i64::try_from(told).expect("few enough");
        if (gone, counted, active) == (told, told, told) && tally.failed.is_empty() {
            return Ok(());
        }
        let failed = &tally.failed;
        Err(format!(
            "{told} booked by the answers, {active} rows, {counted} counted, {gone} seats gone; \
             failed by status: {failed:?}"
        ))
    }

    /// Checks all invariants, from the tables alone.
    pub fn audit(&self) -> Vec<String> {
        self.lab.runtime.block_on(async {
            sqlx::query_scalar(AUDIT)
                .fetch_all(&mut self.connect().await)
                .await
                .expect("the audit runs")
        })
    }

    /// Makes access keys for this many partners.
    pub fn keys(&self, count: usize) -> Vec<String> {
        let limits = ConnectionLimits { writes: 1, reads: 1 };
        let runtime = self.lab.runtime.handle().clone();
        let store = PostgresStore::new(self.options.clone(), limits, STATEMENT_MAX, runtime);
        self.lab.runtime.block_on(async {
            let mut keys = Vec::with_capacity(count);
            for number in 0..count {
                let id = format!("partner-{number:03}");
                let scope = Scope::Partner(PartnerId::parse(&id).expect("sane"));
                let name = KeyName::parse(&id).expect("sane");
                let (key, text) = new_key(name, scope, None, None).expect("random numbers");
                let until = tokio::time::Instant::now() + STATEMENT_MAX;
                store.make_key(&key, until).await.expect("a key can be made");
                keys.push(text);
            }
            keys
        })
    }

    /// The real binary on this database.
    pub fn service(&self, settings: &[(&str, &str)]) -> Server {
        let program = Path::new(env!("CARGO_BIN_EXE_ticketboss"));
        Server::start(program, &[], settings, &self.url)
    }

    pub fn contender(&self, way: Way) -> Server {
        let way = way.to_possible_value().expect("none is skipped");
        let program = std::env::current_exe().expect("this program has a path");
        Server::start(&program, &["contender", way.get_name()], &[], &self.url)
    }

    /// Rows per second that the service's own statement writes, from one connection, in batches of
    /// this size.
    pub fn statement(&self, size: usize, warm_up: Duration, measured: Duration) -> f64 {
        let event = self.events(1, SEATS).remove(0);
        let begin = Instant::now();
        let (mut warm, mut end) = ((begin, 0), (begin, 0));
        self.commits(&event, size, |made| {
            end = (Instant::now(), made);
            if end.0 < begin + warm_up {
                warm = end;
            }
            end.0 < begin + warm_up + measured
        });
        f64::from(end.1 - warm.1) / (end.0 - warm.0).as_secs_f64()
    }

    /// Books this many seats of the event, through the service's own statement.
    pub fn fill(&self, event: &str, count: i32) {
        const FILL_BATCH: i32 = 500;
        let size = usize::try_from(count.min(FILL_BATCH)).expect("not negative");
        self.commits(event, size, |made| made < count);
        self.lab.runtime.block_on(async {
            let mut connection = self.connect().await;
            for settle in ["vacuum analyze", "checkpoint"] {
                sqlx::query(settle).execute(&mut connection).await.expect("housekeeping works");
            }
        });
    }

    fn commits(&self, event: &str, size: usize, mut more: impl FnMut(i32) -> bool) {
        let limits = ConnectionLimits { writes: 1, reads: 1 };
        let runtime = self.lab.runtime.handle().clone();
        let store = PostgresStore::new(self.options.clone(), limits, STATEMENT_MAX, runtime);
        let event_id = EventId::parse(event).expect("a slug");
        self.lab.runtime.block_on(async {
            let mut made = 0;
            let mut version = 0;
            while more(made) {
                let batch = batch(&event_id, version, size);
                let until = tokio::time::Instant::now() + STATEMENT_MAX;
                let committed = store.commit(&batch, until).await.expect("the statement works");
                assert!(matches!(committed, Commit::Committed(_)), "nobody else writes");
                version += 1;
                made += batch.net_seats;
            }
        });
    }

    async fn connect(&self) -> PgConnection {
        self.options.connect().await.expect("PostgreSQL is up")
    }
}

impl Drop for Database<'_> {
    fn drop(&mut self) {
        let drop = format!("drop database {} with (force)", self.name);
        self.lab.runtime.block_on(self.lab.execute(drop));
    }
}

fn batch(event_id: &EventId, base_version: i64, size: usize) -> Batch {
    let at = std::time::SystemTime::now().into();
    let booking = |number: usize| Change {
        kind: ChangeKind::Reserved,
        seats: 1,
        previous_version: None,
        by: None,
        reservation: Reservation {
            id: ReservationId(Uuid::now_v7()),
            event_id: event_id.clone(),
            partner_id: PartnerId::parse(&format!("partner-{:03}", number % 1000)).expect("sane"),
            seats: 1,
            status: Status::Confirmed,
            hold_expires_at: None,
            reference: None,
            version: base_version + 1,
            created_at: at,
            keyed: None,
            item: 0,
        },
    };
    Batch {
        id: Uuid::now_v7(),
        event_id: event_id.clone(),
        base_version,
        net_seats: i32::try_from(size).expect("a small number"),
        net_held: 0,
        net_confirmed: i64::try_from(size).expect("a small number"),
        at,
        changes: (0..size).map(booking).collect(),
        event_change: None,
        event_changed_by: None,
    }
}

/// A server process, on a free port. Ends when this is dropped.
pub struct Server {
    shell: Child,
    pid: u32,
    pub address: SocketAddr,
}

impl Server {
    fn start(
        program: &Path,
        arguments: &[&str],
        settings: &[(&str, &str)],
        database_url: &str,
    ) -> Self {
        // The shell kills the server when the pipe to it closes, and the kernel closes the pipe
        // even if this process is killed.
        const SCRIPT: &str = r#""$@" </dev/null & echo $!; cat >/dev/null; kill $!; wait $!"#;
        let mut shell = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "server"])
            .arg(program)
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("DATABASE_URL", database_url)
            .env("PORT", "0")
            .envs(settings.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("a process can be started");
        let mut pid = String::new();
        let stdout = shell.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut pid).expect("the shell says the process id");
        let pid = pid.trim().parse().expect("a process id");
        let stderr = BufReader::new(shell.stderr.take().expect("it is piped"));
        let (found, address) = mpsc::channel();
        thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let address = line
                    .split_once("serving http://")
                    .map(|(_, rest)| rest.split([';', ' ']).next().unwrap_or_default().to_owned());
                match address {
                    Some(address) => drop(found.send(address)),
                    None if line.contains("ERROR") || line.contains("WARN") => eprintln!("{line}"),
                    None => {}
                }
            }
        });
        let address = address.recv_timeout(START_MAX).expect("the server starts");
        Self { shell, pid, address: address.parse().expect("an address") }
    }

    /// Resident memory in bytes; `None` where there is no `/proc`.
    fn resident(&self) -> Option<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
    }

    /// The peak of the resident memory while `work` runs.
    pub fn resident_during<T>(&self, work: impl FnOnce() -> T) -> (Option<u64>, T) {
        const LOOK_EVERY: Duration = Duration::from_millis(50);
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            let looking = scope.spawn(|| {
                let mut most = None;
                while !done.load(Ordering::Relaxed) {
                    most = most.max(self.resident());
                    thread::sleep(LOOK_EVERY);
                }
                most
            });
            let worked = work();
            done.store(true, Ordering::Relaxed);
            (looking.join().expect("looking does not panic"), worked)
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.shell.stdin.take());
        // The shell ends on its own once the pipe is closed; waiting only keeps the order.
        let _ = self.shell.wait();
    }
}

/// Runs a plan in a process of its own.
pub fn run(plan: &Plan) -> io::Result<Tally> {
    load(plan)?.end()
}

/// The same, without waiting for it to end.
pub fn load(plan: &Plan) -> io::Result<Helper> {
    Helper::start("load", plan)
}

/// Follows an event in a process of its own, for as long as the plan says.
pub fn follow(plan: &follow::Plan) -> io::Result<Helper> {
    Helper::start("follow", plan)
}

/// Attacks a service from a process of its own, for as long as the plan says.
pub fn bother(plan: &hostile::Plan) -> io::Result<Helper> {
    Helper::start("hostile", plan)
}

/// A process of this program in another role.
pub struct Helper(Child);

impl Helper {
    fn start(role: &str, plan: &impl Serialize) -> io::Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .arg(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdin = process.stdin.take().expect("it is piped");
        serde_json::to_writer(stdin, plan).map_err(io::Error::other)?;
        Ok(Self(process))
    }

    /// Waits for the process to end, and returns its tally.
    pub fn end<T: DeserializeOwned>(self) -> io::Result<T> {
        let output = self.0.wait_with_output()?;
        if !output.status.success() {
            return Err(io::Error::other("a helper process failed"));
        }
        serde_json::from_slice(&output.stdout).map_err(io::Error::other)
    }
}

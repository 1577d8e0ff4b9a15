//! The setting of every scenario: a database, replicas of the real binary, clients, the ledger.

use std::io::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use nix::sys::signal::Signal;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Client;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use uuid::Uuid;

use super::cluster::Cluster;
use super::ledger::{Ledger, Wanted};
use crate::auditor::Answer;
use crate::support::binary::Binary;
use crate::support::{DEFAULT_EVENT, TestDatabase};

const SEATS: &str = "200";
const CONNECTIONS_MAX: &str = "4";
const CLIENTS: u64 = 8;
/// The service's time-out of a request: short, so that the effects of a fault are soon over.
const REQUEST_TIMEOUT_MS: &str = "1500";

pub struct Stage {
    pub cluster: Cluster,
    pub ledger: Arc<Ledger>,
    replicas: Vec<Binary>,
    bases: Arc<RwLock<Vec<String>>>,
    stop: Arc<AtomicBool>,
    clients: JoinSet<()>,
    /// How long it took to serve again after each fault.
    recoveries: Mutex<Vec<Duration>>,
}

impl Stage {
    pub async fn set(cluster: Cluster, replicas: usize) -> Self {
        let url = cluster.url();
        Self::set_at(cluster, &url, replicas).await
    }

    /// The same, with replicas that reach the database by this URL.
    pub async fn set_at(cluster: Cluster, url: &str, replicas: usize) -> Self {
        let mut running = Vec::new();
        for _ in 0..replicas {
            running.push(replica(url).await);
        }
        let bases = running.iter().map(|replica| replica.base.clone()).collect();
        let bases = Arc::new(RwLock::new(bases));
        let ledger = Arc::new(Ledger::new());
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for seed in 0..CLIENTS {
            clients.spawn(customer(
                Arc::clone(&ledger),
                Arc::clone(&bases),
                Arc::clone(&stop),
                seed,
            ));
        }
        let recoveries = Mutex::default();
        let stage = Self { cluster, ledger, replicas: running, bases, stop, clients, recoveries };
        stage.ledger.serves(100).await;
        stage
    }

    /// Waits until the service serves again, and records how long that took.
    pub async fn recovers(&self) {
        let since = Instant::now();
        self.ledger.serves(1).await;
        self.recoveries.lock().expect("no panic under the lock").push(since.elapsed());
        self.make_room().await;
        self.ledger.serves(100).await;
    }

    /// Checks that nothing is granted for a while. A refusal needs no commit, and may still be
    /// answered.
    pub async fn grants_nothing(&self) {
        // Requests that were already under way must end first.
        sleep(Duration::from_millis(1_700)).await;
        let (_, before, _) = self.ledger.counts();
        sleep(Duration::from_secs(1)).await;
        let (_, after, _) = self.ledger.counts();
        assert_eq!(after - before, 0, "granted without a standby");
    }

    /// Gives some seats back: bookings that no client knows of keep theirs, and after many faults
    /// none would be left.
    async fn make_room(&self) {
        let mut connection = self.cluster.connect().await;
        let owned: Vec<Uuid> = sqlx::query_scalar(
            "select id from reservations
              where status = 'confirmed'
                and (select available_seats < 60 from events where id = $1)
              limit 30",
        )
        .bind(DEFAULT_EVENT)
        .fetch_all(&mut connection)
        .await
        .expect("it answers");
        let client = Client::new();
        for id in owned {
            self.ledger.call(&client, &self.base(), &Wanted::Cancel(id), Duration::MAX).await;
        }
    }

    /// Kills a replica, and starts another in its place.
    pub async fn kill_replica(&mut self, number: usize, url: &str) {
        self.replace_replica(number, url, Signal::SIGKILL).await;
    }

    /// Ends a replica with a signal, and starts another in its place.
    pub async fn replace_replica(&mut self, number: usize, url: &str, signal: Signal) {
        let fresh = replica(url).await;
        let base = fresh.base.clone();
        let old = std::mem::replace(&mut self.replicas[number], fresh);
        old.signal(signal);
        self.bases.write().expect("no panic under the lock")[number] = base;
        let (code, log) = old.ended().await;
        assert_eq!(code, if signal == Signal::SIGKILL { None } else { Some(0) }, "{log:?}");
    }

    /// Kills a replica; nothing takes its place.
    pub async fn lose_replica(&mut self, number: usize) {
        let killed = self.replicas.remove(number);
        self.bases.write().expect("no panic under the lock").remove(number);
        killed.signal(Signal::SIGKILL);
        let (code, _) = killed.ended().await;
        assert_eq!(code, None);
    }

    /// Resident memory of the first replica.
    pub fn memory_kb(&self) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.replicas[0].pid()));
        let status = status.expect("it runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("it has memory");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }

    pub fn base(&self) -> String {
        self.bases.read().expect("no panic under the lock")[0].clone()
    }

    /// Ends the scenario: settles what is unsettled, checks for leaks, and reconciles the ledger.
    pub async fn end(mut self, scenario: &str) {
        let client = Client::new();
        let base = self.base();
        self.stop_clients().await;
        for wanted in self.ledger.unsettled() {
            settle(&self.ledger, &client, &base, &wanted).await;
        }
        nothing_leaks(&self.cluster, &self.replicas, &client).await;
        let mut wrong = self.ledger.reconcile(&client, &base, &self.cluster.options()).await;
        wrong.extend(self.stop(scenario, 0).await);
        assert!(wrong.is_empty(), "{scenario}:\n{}", wrong.join("\n"));
    }

    /// Ends a scenario in which acknowledged bookings may be lost, and counts those.
    pub async fn end_with_losses(mut self, scenario: &str) -> usize {
        self.stop_clients().await;
        let lost = self.ledger.lost(&self.cluster.options()).await;
        let wrong = self.stop(scenario, lost).await;
        assert!(wrong.is_empty(), "{scenario}:\n{}", wrong.join("\n"));
        lost
    }

    async fn stop_clients(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        while let Some(ended) = self.clients.join_next().await {
            ended.expect("a client does not panic");
        }
    }

    /// Stops the replicas and reports the scenario. Returns what is wrong with the data itself.
    async fn stop(self, scenario: &str, lost: usize) -> Vec<String> {
        let database = TestDatabase { url: self.cluster.url(), options: self.cluster.options() };
        let (by_statement, by_verify) = database.problems().await;
        for replica in self.replicas {
            let (code, log) = replica.stop().await;
            assert_eq!(code, Some(0), "{log:?}");
        }
        let recoveries = self.recoveries.into_inner().expect("no panic under the lock");
        report(scenario, &recoveries, self.ledger.counts(), lost);
        [by_statement, by_verify].concat()
    }
}

pub async fn replica(url: &str) -> Binary {
    let environment = [
        ("DATABASE_URL", url),
        ("DEFAULT_EVENT_SEATS", SEATS),
        ("DATABASE_CONNECTIONS_MAX", CONNECTIONS_MAX),
        ("REQUEST_TIMEOUT_MS", REQUEST_TIMEOUT_MS),
        ("WORKERS", "2"),
        ("RUST_LOG", "warn,ticketboss::server=info"),
    ];
    Binary::serve(&environment).await
}

/// Books, cancels, hangs up, and tries again, until it is told to stop.
async fn customer(
    ledger: Arc<Ledger>,
    bases: Arc<RwLock<Vec<String>>>,
    stop: Arc<AtomicBool>,
    seed: u64,
) {
    static PARTNERS: AtomicUsize = AtomicUsize::new(0);
    let mut random = StdRng::seed_from_u64(seed);
    let client = Client::new();
    let mut made: Vec<Uuid> = Vec::new();
    while !stop.load(Ordering::SeqCst) {
        let base = {
            let bases = bases.read().expect("no panic under the lock");
            bases[random.random_range(0..bases.len())].clone()
        };
        let hangs_up = random.random_bool(0.02);
        let patience =
            Duration::from_millis(if hangs_up { random.random_range(0..4) } else { 60_000 });
        let wanted = if !made.is_empty() && random.random_bool(0.45) {
            let chosen = random.random_range(0..made.len());
            // Some are cancelled twice.
            let twice = random.random_bool(0.2);
            Wanted::Cancel(if twice { made[chosen] } else { made.swap_remove(chosen) })
        } else {
            let number = PARTNERS.fetch_add(1, Ordering::SeqCst);
            let key = random.random_bool(0.5).then(|| format!("order-{number}"));
            let seats = random.random_range(1..=3);
            Wanted::Reserve { partner: format!("partner-{number}"), seats, key }
        };
        let answer = ledger.call(&client, &base, &wanted, patience).await;
        match answer {
            Some(Answer::Reserved(shown)) => made.push(shown[0].id),
            // Unknown: a reservation that it may have made is cancelled later, or settled by its
            // key.
            Some(Answer::Unknown { id, .. }) => made.extend(id),
            Some(Answer::NothingHappened(_)) | None => {
                // No real client calls an unavailable service as fast as it can refuse.
                sleep(Duration::from_millis(10)).await;
            }
            Some(_) => {}
        }
        if matches!(&wanted, Wanted::Reserve { key: Some(_), .. }) && random.random_bool(0.3) {
            ledger.call(&client, &base, &wanted, Duration::MAX).await;
        }
    }
}

/// Resends a keyed request until its outcome is known.
async fn settle(ledger: &Ledger, client: &Client, base: &str, wanted: &Wanted) {
    for _ in 0..100 {
        match ledger.call(client, base, wanted, Duration::MAX).await {
            Some(Answer::NothingHappened(_) | Answer::Unknown { .. }) | None => {}
            Some(_) => return,
        }
    }
    panic!("cannot be settled: {wanted:?}");
}

/// Sends more bookings at once than there are connections, each for an event of its own: this would
/// show a leaked connection or permit, and a stuck mailbox.
async fn nothing_leaks(cluster: &Cluster, replicas: &[Binary], client: &Client) {
    let max: i64 = CONNECTIONS_MAX.parse().expect("a number");
    let replica_count = i64::try_from(replicas.len()).expect("few");
    cluster
        .execute(&["insert into events (id, name, initial_seats, total_seats, available_seats)
                    select 'other-' || number, 'Other', 9, 9, 9 from generate_series(0, 7) as number
                        on conflict do nothing"])
        .await;
    let by = Instant::now() + Duration::from_secs(30);
    for replica in replicas {
        let bookings = (0..8).map(|number| {
            let path = format!("{}/events/other-{number}/reservations", replica.base);
            let body = serde_json::json!({"partnerId": "last", "seats": 10});
            client.post(path).json(&body).send()
        });
        // Each asks for more seats than there are: it is decided, and leaves nothing behind. A busy
        // machine may need a second attempt; a leaked permit does not come back.
        while !futures_util::future::join_all(bookings.clone())
            .await
            .into_iter()
            .all(|answer| answer.expect("an answer").status() == 409)
        {
            assert!(Instant::now() < by, "not all are served");
        }
    }
    // PostgreSQL may not have noticed yet that a client has gone.
    while cluster.sessions().await > max * replica_count {
        assert!(Instant::now() < by, "{} sessions", cluster.sessions().await);
    }
}

/// A row of the table that `make chaos` writes.
fn report(scenario: &str, recoveries: &[Duration], counts: (usize, usize, usize), lost: usize) {
    let (calls, granted, unknown) = counts;
    let faults = recoveries.len();
    let slowest_ms = recoveries.iter().max().map_or(0, Duration::as_millis);
    let row = format!(
        "| {scenario} | {faults} | {calls} | {granted} | {unknown} | {lost} | {slowest_ms} ms |\n"
    );
    print!("chaos: {row}");
    if let Some(path) = std::env::var_os("CHAOS_TABLE").filter(|path| !path.is_empty()) {
        let file = std::fs::File::options().append(true).create(true).open(path);
        file.expect("it can be written").write_all(row.as_bytes()).expect("it can be written");
    }
}

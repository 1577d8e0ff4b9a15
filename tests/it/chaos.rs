//! Real faults on the real binary: connections that break at every message of a commit, processes
//! that are killed, a disk that is full, clients that disappear. A ledger outside the service
//! records every request and every answer, and is reconciled with the database afterwards.
//!
//! Here each fault is tried a few times; `make chaos` tries them more often.

use std::net::SocketAddr;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::sleep;

mod cluster;
mod crowd;
mod ledger;
mod stage;
mod wire;

use crate::support::Answer;
use cluster::{Cluster, SmallDisk};
use ledger::Wanted;
use stage::Stage;
use wire::{ACTS, POINTS, Wire};

/// How often each fault is tried.
fn rounds() -> usize {
    let given = std::env::var("CHAOS_ROUNDS").ok().filter(|given| !given.is_empty());
    given.map_or(1, |given| given.parse().expect("CHAOS_ROUNDS is a number"))
}

/// Every point of the exchange about a commit, broken in every way.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_breaks_at_every_message_of_a_commit() {
    let cluster = Cluster::start();
    let mut wire = Wire::to(cluster.address()).await;
    let url = cluster.url_at(wire.address);
    let stage = Stage::set_at(cluster, &url, 1).await;
    for _ in 0..rounds() {
        for point in POINTS {
            for act in ACTS {
                wire.break_commit(point, act).await;
                stage.recovers().await;
            }
        }
    }
    stage.end("a connection breaks at a message of a commit").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_is_killed() {
    let mut stage = Stage::set(Cluster::start(), 1).await;
    let url = stage.cluster.url();
    for _ in 0..rounds() * 2 {
        stage.kill_replica(0, &url).await;
        stage.recovers().await;
    }
    stage.end("`kill -9` of the service").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_replicas_is_killed() {
    let mut stage = Stage::set(Cluster::start(), 2).await;
    let url = stage.cluster.url();
    for _ in 1..rounds() {
        stage.kill_replica(1, &url).await;
        stage.recovers().await;
    }
    stage.lose_replica(1).await;
    stage.recovers().await;
    stage.end("`kill -9` of one of two replicas").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_of_the_database_is_killed() {
    let stage = Stage::set(Cluster::start(), 1).await;
    for _ in 0..rounds() * 2 {
        assert!(stage.cluster.kill_backend().await, "the service has a session");
        stage.recovers().await;
    }
    stage.end("`kill -9` of a process of PostgreSQL").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_restarts_at_once() {
    let stage = Stage::set(Cluster::start(), 2).await;
    for _ in 0..rounds() {
        stage.cluster.control(&["restart", "-w", "-m", "immediate"]);
        stage.recovers().await;
    }
    stage.end("`pg_ctl restart -m immediate`").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_stands_still() {
    let stage = Stage::set(Cluster::start(), 1).await;
    for _ in 0..rounds() {
        stage.cluster.freeze(Duration::from_secs(5)).await;
        stage.recovers().await;
    }
    stage.end("SIGSTOP of PostgreSQL for 5 s").await;
}

/// The service's sessions are ended while other clients take all connections that the server
/// allows.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_has_no_connection_left() {
    let stage = Stage::set(Cluster::start(), 1).await;
    for _ in 0..rounds() {
        let mut watcher = stage.cluster.connect().await;
        let mut hogs = Vec::new();
        let ended = "select pg_terminate_backend(pid) from pg_stat_activity
                      where application_name = 'ticketboss'";
        sqlx::query(ended).execute(&mut watcher).await.expect("it answers");
        let options = stage.cluster.options().application_name("hog");
        while let Ok(hog) = sqlx::ConnectOptions::connect(&options).await {
            hogs.push(hog);
        }
        sqlx::query(ended).execute(&mut watcher).await.expect("it answers");
        while let Ok(hog) = sqlx::ConnectOptions::connect(&options).await {
            hogs.push(hog);
        }
        assert!(hogs.len() > 10, "{}", hogs.len());
        sleep(Duration::from_secs(2)).await;
        drop(hogs);
        stage.recovers().await;
    }
    stage.end("`max_connections` used up by others").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_disk_is_full() {
    let Some(disk) = SmallDisk::mount(150) else {
        println!("skipped: a disk cannot be mounted here (that takes root)");
        return;
    };
    let filler = disk.path().join("filler");
    let stage = Stage::set(Cluster::start_on(disk), 1).await;
    for _ in 0..rounds() {
        // Fills all the space that is left, so that the write-ahead log has none. The server gives
        // up, and can be started once there is space again.
        let fill = std::process::Command::new("dd")
            .args(["if=/dev/zero", "bs=64k"])
            .arg(format!("of={}", filler.display()))
            .output()
            .expect("dd runs");
        assert!(!fill.status.success(), "the disk is full");
        // The log goes on in a file that exists already; a new session's commit fills it.
        let _ = sqlx::ConnectOptions::connect(&stage.cluster.options()).await;
        sleep(Duration::from_secs(3)).await;
        std::fs::remove_file(&filler).expect("it is there");
        if sqlx::ConnectOptions::connect(&stage.cluster.options()).await.is_err() {
            stage.cluster.control(&["restart", "-w", "-m", "immediate"]);
        }
        stage.recovers().await;
    }
    stage.end("the disk of the database is full").await;
}

/// Thousands of clients that hold connections open, or send slowly or without end. They cost no
/// memory worth mentioning, and the other clients are served as before.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_holds_up_nobody() {
    // Applies to this process, which opens the connections, and to the service, which inherits the
    // limit.
    ticketboss::server::allow_many_connections();
    let (_, descriptors_max) = getrlimit(Resource::RLIMIT_NOFILE).expect("it can be read");
    let count =
        (rounds() * 2_000).min(10_000).min(usize::try_from(descriptors_max).expect("fits") / 2);
    let stage = Stage::set(Cluster::start(), 1).await;
    let address = stage.base().strip_prefix("http://").expect("a URL").parse().expect("an address");
    let memory_before = stage.memory_kb();
    let crowd = crowd::gather(count, address);
    // Long enough for all slow clients to be disconnected once (15 s), and to come again.
    sleep(Duration::from_secs(17)).await;
    stage.recovers().await;
    let memory_with = stage.memory_kb();
    drop(crowd);
    stage.recovers().await;
    println!("chaos: {count} in the crowd: {memory_before} kB, then {memory_with} kB");
    // actix keeps buffers for each connection; a body is never kept beyond its limit.
    let each_max_kb = 32;
    assert!(memory_with < memory_before + count * each_max_kb, "{memory_before}, {memory_with}");
    stage.end("a crowd of slow, endless and idle clients").await;
}

/// Clients send FIN or RST after each part of the request, or of its answer.
#[tokio::test(flavor = "multi_thread")]
async fn clients_go_at_every_stage() {
    let stage = Stage::set(Cluster::start(), 1).await;
    let address: SocketAddr =
        stage.base().strip_prefix("http://").expect("a URL").parse().expect("an address");
    for round in 0..rounds() * 20 {
        for reset in [false, true] {
            for part in [0, 10, 60, 130, 190, usize::MAX] {
                let partner = format!("gone-{round}-{part}-{reset}");
                let body = format!(r#"{{"partnerId":"{partner}","seats":1}}"#);
                let request = format!(
                    "POST /reservations HTTP/1.1\r\nHost: {address}\r\nContent-Type: \
                     application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                stage.ledger.begin(&Wanted::Reserve { partner, seats: 1, key: None });
                let mut stream = TcpStream::connect(address).await.expect("it accepts");
                let part = part.min(request.len());
                stream.write_all(&request.as_bytes()[..part]).await.expect("it takes it");
                if round % 4 == 3 && part == request.len() {
                    // The first byte of the answer, and no more.
                    stream.read_u8().await.expect("an answer");
                }
                if reset {
                    socket_reset(&stream);
                }
            }
        }
    }
    stage.recovers().await;
    stage.end("clients that send FIN or RST").await;
}

/// Makes closing the stream send RST.
fn socket_reset(stream: &TcpStream) {
    stream.set_zero_linger().expect("it is a socket");
}

/// The service is stopped while it is busy: it still answers all requests that it has accepted.
#[tokio::test(flavor = "multi_thread")]
async fn a_replica_is_asked_to_stop() {
    let mut stage = Stage::set(Cluster::start(), 2).await;
    let url = stage.cluster.url();
    for _ in 0..rounds() {
        stage.replace_replica(1, &url, Signal::SIGTERM).await;
        stage.recovers().await;
    }
    stage.end("SIGTERM of one of two replicas").await;
}

/// Commits wait for a standby that is gone. What clients are told meanwhile must remain true.
#[tokio::test(flavor = "multi_thread")]
async fn the_standby_is_gone_while_commits_wait_for_it() {
    let mut cluster = Cluster::start();
    cluster.add_standby(true).await;
    let stage = Stage::set(cluster, 2).await;
    for _ in 0..rounds() {
        stage.cluster.stop_standby();
        stage.grants_nothing().await;
        // After a restart, the commits that waited are visible, and may still be lost.
        stage.cluster.control(&["restart", "-w", "-m", "immediate"]);
        stage.grants_nothing().await;
        stage.cluster.start_standby();
        stage.recovers().await;
    }
    stage.end("the synchronous standby is gone, and the primary restarts").await;
}

/// The primary is lost under load, and its synchronous standby takes over at the same address.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_loses_nothing_that_was_acknowledged() {
    for _ in 0..rounds() {
        let mut cluster = Cluster::start();
        cluster.add_standby(true).await;
        let wire = Wire::to(cluster.address()).await;
        let url = cluster.url_at(wire.address);
        let mut stage = Stage::set_at(cluster, &url, 2).await;
        stage.cluster.lose();
        stage.cluster.promote_standby();
        wire.lead_to(stage.cluster.address());
        stage.recovers().await;
        stage.end("failover to a synchronous standby").await;
    }
}

/// The worst case: the standby is gone, the primary restarts and shows commits that the standby
/// never received, and then the standby takes over.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_undoes_nothing_that_anybody_was_told_of() {
    for _ in 0..rounds() {
        let mut cluster = Cluster::start();
        cluster.add_standby(true).await;
        let wire = Wire::to(cluster.address()).await;
        let url = cluster.url_at(wire.address);
        let mut stage = Stage::set_at(cluster, &url, 2).await;
        stage.cluster.stop_standby();
        stage.cluster.control(&["restart", "-w", "-m", "immediate"]);
        stage.grants_nothing().await;
        // The primary goes first, so that the standby cannot catch up.
        stage.cluster.lose();
        stage.cluster.start_standby();
        stage.cluster.promote_standby();
        wire.lead_to(stage.cluster.address());
        stage.recovers().await;
        stage.end("failover after a restart without the standby").await;
    }
}

/// What an acknowledgement is worth without a synchronous standby: some bookings are lost, and the
/// rest is consistent. The losses are counted, so that nobody has to guess.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_an_asynchronous_standby_loses_the_last_moments() {
    for _ in 0..rounds() {
        let mut cluster = Cluster::start();
        cluster.add_standby(false).await;
        let wire = Wire::to(cluster.address()).await;
        let url = cluster.url_at(wire.address);
        let mut stage = Stage::set_at(cluster, &url, 1).await;
        // The standby falls behind.
        stage.cluster.stop_standby();
        stage.ledger.serves(100).await;
        stage.cluster.lose();
        stage.cluster.start_standby();
        stage.cluster.promote_standby();
        wire.lead_to(stage.cluster.address());
        stage.recovers().await;
        assert!(stage.end_with_losses("failover to an asynchronous standby").await > 0);
    }
}

/// The worst case again, with a single seat, so that each answer can be checked by itself.
#[tokio::test(flavor = "multi_thread")]
async fn no_answer_rests_on_what_a_failover_may_undo() {
    let mut cluster = Cluster::start();
    cluster.add_standby(true).await;
    let wire = Wire::to(cluster.address()).await;
    let service = stage::replica(&cluster.url_at(wire.address)).await;
    let seat = "insert into events (id, name, initial_seats, total_seats, available_seats)
                values ('seat', 'One seat', 1, 1, 1)";
    cluster.execute(&[seat]).await;
    let client = reqwest::Client::new();
    let book = async |partner: &str| {
        let request = client.post(format!("{}/events/seat/reservations", service.base));
        let request = request.header("idempotency-key", "order-1");
        let body = serde_json::json!({"partnerId": partner, "seats": 1});
        Answer::of(request.json(&body).send().await.expect("an answer")).await
    };
    // So that the service has a session, on which the booking can be sent.
    let body = serde_json::json!({"partnerId": "other", "seats": 1});
    let other = client.post(format!("{}/reservations", service.base)).json(&body).send().await;
    assert_eq!(other.expect("an answer").status(), 201);
    cluster.stop_standby();
    book("first").await.problem(503, "outcome_unknown");
    // Now the booking is visible to everybody, and the standby has never received it.
    cluster.control(&["restart", "-w", "-m", "immediate"]);
    assert_eq!(book("first").await.status, 503);
    assert_eq!(book("second").await.status, 503);
    // Reads do not show it either. And however often clients try, no waiting sessions pile up.
    for _ in 0..3 {
        let path = format!("{}/events/seat", service.base);
        let answer = Answer::of(client.get(path).send().await.expect("an answer")).await;
        answer.problem(503, "database_unavailable");
    }
    assert!(cluster.sessions().await <= 4, "{} sessions", cluster.sessions().await);
    cluster.lose();
    cluster.start_standby();
    cluster.promote_standby();
    wire.lead_to(cluster.address());
    book("second").await.made();
    assert_eq!(book("first").await.problem(409, "insufficient_seats")["availableSeats"], 0);
    let (code, log) = service.stop().await;
    assert_eq!(code, Some(0), "{log:?}");
}

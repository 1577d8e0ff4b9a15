//! The binary as its operator meets it: settings, start, stop, the private PostgreSQL.

use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use reqwest::Client;
use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::task::JoinSet;

use crate::support::binary::{Binary, TemporaryDirectory, command};
use crate::support::{TestDatabase, eventually};

async fn reserve(base: &str) -> Value {
    let body = json!({"partnerId": "abc-corp", "seats": 1});
    let answer = Client::new().post(format!("{base}/reservations")).json(&body).send().await;
    let answer = answer.expect("an answer");
    assert_eq!(answer.status(), 201);
    answer.json().await.expect("JSON")
}

async fn reservation_count(base: &str) -> i64 {
    let answer = reqwest::get(format!("{base}/reservations")).await.expect("an answer");
    let event: Value = answer.json().await.expect("JSON");
    event["reservationCount"].as_i64().expect("a number")
}

/// The server's process id and port.
fn postmaster(directory: &Path) -> (i32, u16) {
    let file = fs::read_to_string(directory.join("postgres/data/postmaster.pid")).expect("it runs");
    let line = |number: usize| file.lines().nth(number).expect("a line").trim();
    (line(0).parse().expect("a process id"), line(3).parse().expect("a port"))
}

fn is_listening((_, port): (i32, u16)) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_private_database_survives_everything() {
    let directory = TemporaryDirectory::new();
    let settings = [("DATA_DIR", directory.as_str())];

    // The database is made on the first start, and found on the second.
    let service = Binary::serve(&settings).await;
    reserve(&service.base).await;
    let server = postmaster(directory.path());
    let (code, log) = service.stop().await;
    assert_eq!(code, Some(0), "{log:?}");
    assert_eq!(log.iter().filter(|line| line.contains("serving")).count(), 1, "{log:?}");
    assert_eq!(log.len(), 3, "one line at the start, two at the end: {log:?}");
    assert!(!is_listening(server), "it goes with the service");

    // The server is found running after a crash of the service.
    let service = Binary::serve(&settings).await;
    assert_eq!(reservation_count(&service.base).await, 1);
    let server = postmaster(directory.path());
    service.signal(Signal::SIGKILL);
    assert_eq!(service.ended().await.0, None);
    assert!(is_listening(server), "a crash of the service does not touch the data");
    let service = Binary::serve(&settings).await;
    assert_eq!(postmaster(directory.path()), server, "it is adopted, not started again");
    reserve(&service.base).await;

    // Only one service may use a directory.
    let second = command(&[], &settings).output().await.expect("it runs");
    assert_eq!(second.status.code(), Some(2), "{second:?}");
    let said = String::from_utf8(second.stderr).expect("text");
    assert!(said.contains("in use by another ticketboss"), "{said}");
    assert_eq!(postmaster(directory.path()), server);

    // The data is recovered after a crash of both, and none of the old servers is left.
    service.signal(Signal::SIGKILL);
    kill(Pid::from_raw(server.0), Signal::SIGKILL).expect("it runs");
    service.ended().await;
    let service = Binary::serve(&settings).await;
    assert_ne!(postmaster(directory.path()), server);
    assert_eq!(reservation_count(&service.base).await, 2);
    assert_eq!(service.stop().await.0, Some(0));

    // The server is restarted if it stops while the service is up.
    let service = Binary::serve(&settings).await;
    let server = postmaster(directory.path());
    kill(Pid::from_raw(server.0), Signal::SIGKILL).expect("it runs");
    let client = Client::new();
    let body = json!({"partnerId": "abc-corp", "seats": 1});
    let again = async {
        loop {
            let answer = client.post(format!("{}/reservations", service.base)).json(&body);
            let answer = answer.send().await.expect("an answer");
            match answer.status().as_u16() {
                201 if postmaster(directory.path()) != server => return,
                201 | 503 => {}
                status => panic!("{status}: {:?}", answer.text().await),
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(60), again).await.expect("it comes back");
    let count = reservation_count(&service.base).await;
    let (code, log) = service.stop().await;
    assert_eq!(code, Some(0), "{log:?}");
    assert!(log.iter().any(|line| line.contains("had stopped, and was restarted")), "{log:?}");

    // A process id that now belongs to another process prevents no start.
    let stale = format!(
        "{}\n{}/postgres/data\n0\n1\n\n127.0.0.1\n\nready\n",
        std::process::id(),
        directory.as_str()
    );
    for file in [stale.as_str(), "", "no number"] {
        let path = directory.path().join("postgres/data/postmaster.pid");
        fs::write(path, file).expect("it can be written");
        let service = Binary::serve(&settings).await;
        assert_eq!(reservation_count(&service.base).await, count);
        assert_eq!(service.stop().await.0, Some(0));
    }
}

/// A stop that comes while the database server is still being made leaves nothing running.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_during_the_start_leaves_nothing_behind() {
    for step in ["ticketboss.lock", "postgres", "postgres/data", "postgres/data/postmaster.pid"] {
        let directory = TemporaryDirectory::new();
        let settings = [("DATA_DIR", directory.as_str()), ("PORT", "0")];
        let mut service = command(&[], &settings).spawn().expect("it runs");
        // Signals are handled from before the lock is taken.
        let reached = async {
            while !directory.path().join(step).exists() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), reached).await.expect("it gets there");
        let pid = i32::try_from(service.id().expect("it runs")).expect("a process id");
        kill(Pid::from_raw(pid), Signal::SIGTERM).expect("it runs");
        let status = tokio::time::timeout(Duration::from_secs(60), service.wait()).await;
        let status = status.expect("it ends in time").expect("it was waited for");
        assert_eq!(status.code(), Some(0), "{step}");
        assert!(!directory.path().join("postgres/data/postmaster.pid").exists(), "{step}");
        let service = Binary::serve(&settings).await;
        assert_eq!(reservation_count(&service.base).await, 0);
        assert_eq!(service.stop().await.0, Some(0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_said_before_anything_is_started() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = taken.local_addr().expect("it is bound").port().to_string();
    let directory = TemporaryDirectory::new();
    let settings = [("DATA_DIR", directory.as_str()), ("PORT", port.as_str())];
    let output = command(&[], &settings).output().await.expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.starts_with("ticketboss: cannot listen on [127.0.0.1:"), "{said}");
    assert!(fs::read_dir(directory.path()).expect("it is there").next().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_settings_stop_the_start_with_one_line() {
    let cases = [
        ("PORT", "http", "a whole number from 0 to 65535"),
        ("PORT", "65536", "a whole number from 0 to 65535"),
        ("WORKERS", "0", "a whole number from 1 to 256"),
        ("DATABASE_CONNECTIONS_MAX", "1", "a whole number from 2 to 180"),
        ("REQUEST_TIMEOUT_MS", "5s", "a whole number from 100 to 60000"),
        ("MAILBOX_COMMANDS_MAX", "-1", "a whole number from 1 to 1000000"),
        ("HOST", "127.0.0.300", "an address or a name"),
        ("DRAIN_DELAY_MS", "1h", "a whole number from 0 to 300000"),
        ("STREAM_BYTES_PER_S_MAX", "0", "a whole number from 1000000 to 10000000000"),
        ("LOG_FORMAT", "xml", "text or json"),
        ("RUST_LOG", "inof", "error, warn, info, debug"),
        ("RUST_LOG", "info=b=c", "error, warn, info, debug"),
        ("MIGRATE_ON_START", "maybe", "true or false"),
        ("DEFAULT_EVENT_ID", "Node Meetup", "1 to 64 lower-case letters, digits"),
        ("DEFAULT_EVENT_SEATS", "10000001", "a whole number from 1 to 10000000"),
        ("DATABASE_URL", "mysql://root:secret@localhost", "postgres://"),
        ("DATABASE_URL", "postgres://root:secret@localhost/x?sslmod=verify-full", "not sslmod"),
        ("DATABASE_URL", "postgres://root:secret@localhost/x?SSLMODE=require", "not SSLMODE"),
        ("DATABASE_URL", "postgres://root:secret@localhost/x?sslmode=verify_full", "verify_full"),
        ("CORS_ORIGINS", "https://shop.example:443", "without the scheme's default port"),
    ];
    for (name, value, allowed) in cases {
        // If the setting were accepted, the service would use this directory, not the machine's
        // own.
        let directory = TemporaryDirectory::new();
        let settings = [("PORT", "0"), ("DATA_DIR", directory.as_str()), (name, value)];
        let output = command(&[], &settings).output().await.expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{name}={value}: {output:?}");
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(said.contains(name) && said.contains(allowed), "{said}");
        assert!(!said.contains("secret"), "{said}");
        assert!(value.contains("secret") || said.contains(value), "{said}");
    }
    // Settings that name what does not exist.
    let no_such_database = TestDatabase::create_empty().await.url + "_not";
    let cases = [
        ("PG_BIN_DIR", "/nowhere", "PG_BIN_DIR is /nowhere"),
        ("DATA_DIR", "/dev/null/data", "cannot use /dev/null/data"),
        ("DATABASE_URL", &no_such_database, "could not connect to the database"),
    ];
    for (name, value, why) in cases {
        let directory = TemporaryDirectory::new();
        let settings = [("PORT", "0"), ("DATA_DIR", directory.as_str()), (name, value)];
        let settings = [&settings[..], &[("ACCESS_CONTROL", "keys")]].concat();
        let output = command(&[], &settings).output().await.expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{name}={value}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains(why), "{output:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_settings_that_the_environment_has_not() {
    let directory = TemporaryDirectory::new();
    let start = async |file: &str, environment: &[(&str, &str)]| {
        fs::write(directory.path().join(".env"), file).expect("it can be written");
        let mut command = command(&["serve"], environment);
        let output = command.current_dir(directory.path()).output().await.expect("it runs");
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        String::from_utf8(output.stderr).expect("text")
    };
    let file =
        "\u{FEFF}# ours\nWORKERS=none\nPARTNER_HOLD_MAX=5 # misspelt\nPOSTGRES_USER=another\n";
    let said = start(file, &[]).await;
    assert!(said.contains("WORKERS is \"none\""), "{said}");
    for name in ["PARTNER_HOLD_MAX", "POSTGRES_USER"] {
        assert!(
            said.contains(&format!("{name} in .env is not a setting of ticketboss\n")),
            "{said}"
        );
    }
    assert_eq!(said.matches("not a setting").count(), 2, "{said}");
    // The environment takes precedence.
    let said = start(file, &[("WORKERS", "neither")]).await;
    assert!(said.contains("WORKERS is \"neither\""), "{said}");

    let file = "# ours\nWORKERS=1\n\nDATABASE_URL=postgres://root:the secret@localhost\n";
    let said = start(file, &[]).await;
    assert!(start("WORKERS=1\nPGUSER=me\nWORKERS\n", &[]).await.contains("line 3 of .env"));
    assert!(said.starts_with("ticketboss: line 4 of .env is not NAME=value"), "{said}");
    assert!(!said.contains("secret"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_help_says_what_there_is() {
    for arguments in [&["--help"][..], &["serve", "--help"]] {
        let output = command(arguments, &[]).output().await.expect("it runs");
        let said = String::from_utf8(output.stdout).expect("text");
        for setting in fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/.env.sample"))
            .expect("it is there")
            .lines()
            .filter_map(|line| line.trim_start_matches('#').split_once('=').map(|pair| pair.0))
            .filter(|name| {
                !name.is_empty()
                    && name.bytes().all(|byte| byte == b'_' || byte.is_ascii_uppercase())
            })
        {
            assert!(said.contains(&format!("\n{setting} ")), "{setting} is missing: {said}");
        }
    }
    for word in ["serve", "migrate", "openapi", "postgres"] {
        let output = command(&[word, "--help"], &[]).output().await.expect("it runs");
        assert_eq!(output.status.code(), Some(0));
        assert!(output.stdout.len() > 100, "{word}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_document_can_be_printed() {
    let output = command(&["openapi"], &[]).output().await.expect("it runs");
    let printed: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    crate::support::with_app(async |app| {
        assert_eq!(printed, app.get("/openapi.json").await.json());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_is_too_old_is_refused_where_migrations_are_off() {
    let database = TestDatabase::create_empty().await;
    let settings = [("DATABASE_URL", database.url.as_str()), ("MIGRATE_ON_START", "false")];
    let output = command(&[], &settings).output().await.expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(said.contains("migration 1 is missing; run `ticketboss migrate`"), "{said}");

    for _twice in 0..2 {
        let output = command(&["migrate"], &settings).output().await.expect("it runs");
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
    // A migration of a newer version is no reason to refuse.
    database
        .execute(
            "insert into _sqlx_migrations
                    (version, description, success, checksum, execution_time)
             values (9999, 'newer', true, '', 0)",
        )
        .await;
    assert_eq!(Binary::serve(&settings).await.stop().await.0, Some(0));
    let migrating = [("DATABASE_URL", database.url.as_str())];
    assert_eq!(Binary::serve(&migrating).await.stop().await.0, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_throwaway_database_lasts_as_long_as_its_command() {
    let script = "echo \"$DATABASE_URL\"; echo \"$PGHOST:$PGPORT/\" >&2; exit 7";
    let output = command(&["postgres", "--", "sh", "-c", script], &[]).output().await;
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(7), "{output:?}");
    let url = String::from_utf8(output.stdout).expect("text");
    let parts = String::from_utf8(output.stderr).expect("text");
    assert!(url.contains(parts.trim()), "{url} {parts}");
    let gone = sqlx::PgConnection::connect(url.trim()).await.expect_err("it is gone");
    assert!(matches!(gone, sqlx::Error::Io(_)), "{gone:?}");

    let output = command(&["postgres", "--", "/no/such/command"], &[]).output().await;
    let output = output.expect("it runs");
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/command"));
}

/// The database goes, however its owner ends.
#[tokio::test(flavor = "multi_thread")]
async fn a_throwaway_database_goes_when_its_owner_is_killed() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let script = "echo \"$DATABASE_URL\"; exec cat";
    let mut process = command(&["postgres", "--", "sh", "-c", script], &[]);
    // The command ends with its standard input, so that nothing of this test outlives it.
    process.stdin(std::process::Stdio::piped());
    let mut child = process.spawn().expect("it runs");
    let stdout = child.stdout.take().expect("it is piped");
    let url = BufReader::new(stdout).lines().next_line().await.expect("a pipe").expect("a line");
    let mut connection = sqlx::PgConnection::connect(&url).await.expect("it is there");
    let (directory,): (String,) =
        sqlx::query_as("show data_directory").fetch_one(&mut connection).await.expect("it answers");
    child.kill().await.expect("it runs");
    // The connection ends with the server, and the directory goes right after.
    let ended =
        async || sqlx::query("select pg_sleep(0.05)").execute(&mut connection).await.is_err();
    eventually("the server ends", ended).await;
    eventually("the directory is gone", async || !Path::new(&directory).exists()).await;
}

/// A stop under load: every accepted request is answered, and every acknowledged booking is stored.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_answers_what_was_taken_in() {
    let database = TestDatabase::create().await;
    let settings = [("DATABASE_URL", database.url.as_str()), ("DEFAULT_EVENT_SEATS", "1000000")];
    let service = Binary::serve(&settings).await;
    let (made, mut makings) = tokio::sync::mpsc::unbounded_channel();
    let mut clients = JoinSet::new();
    for _ in 0..32 {
        let (url, made) = (format!("{}/reservations", service.base), made.clone());
        clients.spawn(async move {
            let client = Client::new();
            let body = json!({"partnerId": "abc-corp", "seats": 1});
            while let Ok(answer) = client.post(&url).json(&body).send().await {
                // Either made, or turned away because of the stop; never cut off after it was
                // accepted.
                let status = answer.status();
                let answer: Value = answer.json().await.expect("a whole answer");
                match status.as_u16() {
                    201 => {
                        let id = answer["reservationId"].as_str().expect("an id").to_owned();
                        made.send(id).expect("the test listens");
                    }
                    503 => assert_eq!(answer["code"], "overloaded", "{answer}"),
                    status => panic!("{status}: {answer}"),
                }
            }
        });
    }
    drop(made);
    let mut ids = Vec::new();
    while ids.len() < 2000 {
        ids.push(makings.recv().await.expect("clients are at work"));
    }
    let (code, log) = service.stop().await;
    assert_eq!(code, Some(0), "{log:?}");
    clients.join_all().await;
    while let Some(id) = makings.recv().await {
        ids.push(id);
    }
    let stored: Vec<String> = sqlx::query_scalar("select id::text from reservations order by id")
        .fetch_all(&mut database.connect().await)
        .await
        .expect("it answers");
    ids.sort();
    assert_eq!(stored.len(), ids.len(), "one for each answer");
    assert!(stored == ids, "and the same ones");
    database.audit().await;
}

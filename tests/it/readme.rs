//! The commands of the README and of the operators' page, run exactly as they are written.

use std::cell::Cell;
use std::ffi::OsString;
use std::path::Path;
use std::process::Stdio;

use reqwest::Method;
use serde_json::json;
use tokio::process::Command;

use crate::support::binary::TemporaryDirectory;
use crate::support::{TestApp, TestDatabase, postgres_programs, with_app, with_database};

/// The section from this title to the next one of the same level.
fn section<'a>(page: &'a str, title: &str) -> &'a str {
    let (marks, _) = title.split_once(' ').expect("a title");
    let section = page.split(&format!("\n{title}\n")).nth(1).expect("the section");
    section.split(&format!("\n{marks} ")).next().expect("its end")
}

/// The commands, each with the answer below it.
fn session() -> Vec<(String, String)> {
    let readme = include_str!("../../README.md");
    let sections =
        ["## A first session", "## An event of your own"].map(|title| section(readme, title));
    let mut steps = Vec::new();
    for step in sections.iter().flat_map(|section| section.split("```sh\n").skip(1)) {
        let (command, rest) = step.split_once("```\n").expect("an end");
        let answer = ["```json\n", "```text\n"].iter().find_map(|fence| rest.strip_prefix(fence));
        let answer = answer.expect("an answer right below");
        let (answer, _) = answer.split_once("```").expect("an end");
        steps.push((command.to_owned(), answer.trim().to_owned()));
    }
    steps
}

/// Blanks out ids and times, which differ each time.
fn without_accidents(text: &str) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in text.trim().split('"') {
        let is_id = uuid::Uuid::try_parse(part).is_ok();
        let is_time = part.len() >= 20 && part.starts_with("20") && part.ends_with('Z');
        parts.push(if is_id {
            "ID".into()
        } else if is_time {
            "TIME".into()
        } else {
            part.into()
        });
    }
    parts.join("\"")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sessions_work_as_pasted() {
    with_app(async |app| {
        const END_OF_STEP: &str = "--- end of step ---";
        let steps = session();
        assert_eq!(steps.len(), 12);
        let mut script = String::new();
        for (command, _) in &steps {
            script += &command.replace("http://127.0.0.1:5000", &app.base);
            script += &format!("echo; echo '{END_OF_STEP}'\n");
        }
        let output = Command::new("sh").args(["-c", &script]).stdin(Stdio::null()).output().await;
        let output = String::from_utf8(output.expect("a shell").stdout).expect("text");
        let answers: Vec<&str> = output.split(END_OF_STEP).collect();
        assert_eq!(answers.len(), steps.len() + 1, "{output}");
        for ((command, expected), answer) in steps.iter().zip(answers) {
            assert_eq!(without_accidents(answer), without_accidents(expected), "{command}");
        }
    })
    .await;
}

/// The commands below a title of the operators' page.
fn told(title: &str) -> String {
    let section = section(include_str!("../../docs/operating.md"), title);
    let blocks = section.split("```sh\n").skip(1);
    blocks.map(|block| block.split("```").next().expect("its end")).collect()
}

/// Runs a script under `sh -e`, with PostgreSQL's programs and ours on the path.
async fn run(script: &str, directory: &Path, environment: &[(&str, &str)]) -> String {
    let ours = Path::new(env!("CARGO_BIN_EXE_ticketboss")).parent().expect("a directory").into();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = [postgres_programs(), ours].into_iter().chain(std::env::split_paths(&path));
    let path: OsString = std::env::join_paths(path).expect("paths without colons");
    let mut command = Command::new("sh");
    command.args(["-e", "-c", script]).current_dir(directory).env("PATH", path);
    let output = command.envs(environment.iter().copied()).stdin(Stdio::null()).output().await;
    let output = output.expect("a shell");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).expect("text")
}

/// Sends the same order for a number each time. Returns the reservation's id, and whether it was
/// replayed.
async fn order(app: &TestApp, number: usize) -> (String, bool) {
    let body = json!({"partnerId": "abc-corp", "seats": 1, "holdSeconds": 3600});
    let (path, key) = ("/events/e/reservations", format!("order-{number}"));
    let headers = [("idempotency-key", key.as_str())];
    let answer = app.send(Method::POST, path, &headers, Some(body.to_string())).await;
    let replayed = answer.header("idempotency-replayed").is_some();
    (answer.made()["reservationId"].as_str().expect("an id").to_owned(), replayed)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_made_and_restored_as_told() {
    let directory = TemporaryDirectory::new();
    let restored = TestDatabase::create_empty().await;
    let made = Cell::new(Vec::new());
    with_app(async |app| {
        app.make_event("e", 10_000).await;
        let (backed_up, mut orders) = (Cell::new(false), Vec::new());
        orders.push(order(app, 0).await.0);
        let selling = async {
            while !backed_up.get() {
                orders.push(order(app, orders.len()).await.0);
            }
            // One more, after the backup.
            orders.push(order(app, orders.len()).await.0);
        };
        let backing_up = async {
            let environment = [("DATABASE_URL", app.database.url.as_str())];
            run(&told("### Backup"), directory.path(), &environment).await;
            backed_up.set(true);
        };
        futures_util::future::join(selling, backing_up).await;
        made.set(orders);
    })
    .await;
    let environment = [("RESTORED_URL", restored.url.as_str())];
    let said = run(&told("### Restore"), directory.path(), &environment).await;
    assert!(said.ends_with(": nothing is wrong\n"), "{said}");
    with_database(restored, &[], async |app| {
        let mut lost = 0;
        for (number, id) in made.take().iter().enumerate() {
            let (now, replayed) = order(app, number).await;
            assert_eq!(replayed, now == *id);
            lost += usize::from(!replayed);
            assert!(replayed || number > 0, "what was made before the backup is in it");
        }
        assert!(lost > 0, "what was made after it is not");
    })
    .await;
}

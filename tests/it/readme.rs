//! The README's sessions, as they stand.

use std::process::Stdio;

use tokio::process::Command;

use crate::support::with_app;

/// The commands, each with the answer below it.
fn session() -> Vec<(String, String)> {
    let readme = include_str!("../../README.md");
    let section = |title: &str| {
        let section = readme.split(title).nth(1).expect("the section");
        section.split("\n## ").next().expect("its end")
    };
    let sections = ["## A first session", "## An event of your own"].map(section);
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

/// Blanks out what differs each time: ids and times.
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

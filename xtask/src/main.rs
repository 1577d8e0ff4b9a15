//! The project's maintenance tasks. They are a program of their own because the service does not
//! compile before `sqlx-data.json` is right.

use std::env;
use std::error::Error;
use std::path::Path;
use std::process::{Command, ExitCode};

mod chaos;
mod mutants;
mod page;
mod prepare;

#[path = "../../src"]
mod ticketboss {
    #[allow(dead_code)]
    pub mod postgres;
}

const USAGE: &str = "usage: xtask prepare [--check]
       xtask mutants [--write] [WORDS...]
       xtask mutants --check
       xtask chaos ROUNDS

prepare   writes sqlx-data.json anew from the queries in the source and the schema in migrations;
          with --check it only says whether that would change it
mutants   breaks one rule after the other in a copy of the project, and shows which test notices;
          with WORDS only the rules that have one of them in their name; with --write the table
          goes into docs/reliability.md; with --check it only says whether each rule is where it is to
          be broken
chaos     tries each fault of tests/it/chaos.rs so many times, and writes what was seen into
          docs/reliability.md";

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask is in the project");
    let done = match &arguments[..] {
        ["prepare"] => prepare::prepare(root, false),
        ["prepare", "--check"] => prepare::prepare(root, true),
        ["mutants", "--check"] => mutants::check(root),
        ["mutants", "--write", words @ ..] => mutants::mutants(root, words, true),
        ["mutants", words @ ..] => mutants::mutants(root, words, false),
        ["chaos", rounds] => chaos::chaos(root, rounds),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("xtask: {failure}");
            ExitCode::FAILURE
        }
    }
}

fn succeed(command: &mut Command) -> Result<(), Box<dyn Error>> {
    let status = command.status()?;
    let program = command.get_program().to_string_lossy();
    if status.success() { Ok(()) } else { Err(format!("{program}: {status}").into()) }
}

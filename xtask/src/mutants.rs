//! The mutation gate: each rule of the engine is broken in turn, and a test has to notice.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::error::Error;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::{page, succeed};

mod rules;

use rules::Rule;

/// The command that the page names as the writer of the table.
const COMMAND: &str = "make mutants";
/// Far longer than the tests take. A mutant that makes them wait for ever is noticed, too.
const TESTS_MAX: Duration = Duration::from_secs(900);
/// Once a test has failed, the others have this long to end.
const OTHERS_MAX: Duration = Duration::from_secs(20);
const FAST: &[&str] = &["--lib", "--test", "it"];
/// Killed halfway, these tests would leave a suspended server or a mounted disk behind.
const SKIPPED: &[&str] = &["--skip", "the_database_stands_still", "--skip", "the_disk_is_full"];
/// These tests come first: they are quick, and mostly one of them notices.
const FAST_FILTER: &[&str] = &[
    "decide",
    "engine",
    "simulation",
    "turns",
    "fairness",
    "access",
    "limits",
    "baton",
    "changes",
];

/// Breaks the rules that have one of the words in their name, or all rules if there are no words.
pub fn mutants(root: &Path, words: &[&str], write: bool) -> Result<String, Box<dyn Error>> {
    check(root)?;
    let work = Work::copy(root)?;
    let failed = work
        .test("unbroken", &[])
        .map_err(|failure| format!("the copy does not pass: {failure}"))?;
    if !failed.is_empty() {
        return Err(format!("before anything is broken, there fail: {}", join(&failed)).into());
    }
    let known = |word: &&&str| !rules::all().any(|rule| rule.name.contains(**word));
    if let Some(word) = words.iter().find(known) {
        return Err(format!("no rule has {word:?} in its name").into());
    }
    let mut missed = Vec::new();
    let wanted = |rule: &&Rule| words.is_empty() || words.iter().any(|w| rule.name.contains(w));
    let rules: Vec<&Rule> = rules::all().filter(wanted).collect();
    for rule in &rules {
        let noticed = work.break_and_test(rule)?;
        println!(
            "{:8} {}: {}",
            if noticed.is_empty() { "MISSED" } else { "noticed" },
            rule.name,
            join(&noticed)
        );
        if noticed.is_empty() {
            missed.push(rule.name);
        }
        if write {
            // At once, so that a run that is interrupted leaves what it has found.
            let table = with_row(&page::read(root, COMMAND)?, rule, &noticed);
            page::write(root, COMMAND, &table)?;
        }
    }
    if missed.is_empty() {
        Ok(format!("{} broken rules, each noticed", rules.len()))
    } else {
        Err(format!("not noticed: {}", missed.join("; ")).into())
    }
}

/// Checks that what each rule replaces is still in the source.
pub fn check(root: &Path) -> Result<String, Box<dyn Error>> {
    let mut count = 0;
    for rule in rules::all() {
        broken(root, rule)?;
        count += 1;
    }
    Ok(format!("{count} rules of make mutants can be broken"))
}

/// A file that a rule breaks.
struct Broken {
    before: String,
    after: String,
}

/// All files that a rule breaks, in `folder`. The text that it replaces must occur there once.
fn broken(folder: &Path, rule: &Rule) -> Result<BTreeMap<PathBuf, Broken>, Box<dyn Error>> {
    let mut files = BTreeMap::new();
    for (file, old, new) in rule.edits {
        let path = folder.join(file);
        let broken = match files.entry(path) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => {
                let before = fs::read_to_string(unknown.key())?;
                let after = before.clone();
                unknown.insert(Broken { before, after })
            }
        };
        if broken.after.matches(old).count() != 1 {
            return Err(format!("{}: not once in {file}: {old}", rule.name).into());
        }
        broken.after = broken.after.replace(old, new);
    }
    Ok(files)
}

/// The table with a new row for this rule, in the order of the rules. The others keep their rows.
fn with_row(table: &str, rule: &Rule, noticed: &BTreeSet<String>) -> String {
    let mut new = String::from("| broken rule | noticed by |\n|---|---|\n");
    for other in rules::all() {
        let begin = format!("| {} | ", other.name);
        let row = table.lines().find(|row| row.starts_with(&begin));
        if other.name == rule.name {
            new += &format!("{begin}{} |\n", shorten(noticed));
        } else if let Some(row) = row {
            new += &format!("{row}\n");
        }
    }
    new
}

fn failures_in(log: &str) -> BTreeSet<String> {
    let failed =
        |line: &str| Some(line.strip_prefix("test ")?.strip_suffix(" ... FAILED")?.to_owned());
    log.lines().filter_map(failed).collect()
}

fn join(tests: &BTreeSet<String>) -> String {
    tests.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// Names two tests, and says how many more there are.
fn shorten(noticed: &BTreeSet<String>) -> String {
    let named: Vec<String> = noticed.iter().take(2).map(|test| format!("`{test}`")).collect();
    match noticed.len().saturating_sub(2) {
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    }
}

/// A copy of the project that may be broken.
struct Work {
    folder: PathBuf,
    target: PathBuf,
}

impl Work {
    fn copy(root: &Path) -> Result<Self, Box<dyn Error>> {
        let base = root.join("target/mutants");
        let work = Self { folder: base.join("work"), target: base.join("target") };
        if work.folder.exists() {
            fs::remove_dir_all(&work.folder)?;
        }
        let listed = Command::new("git")
            .current_dir(root)
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .output()?;
        for file in String::from_utf8(listed.stdout)?.lines() {
            let (from, to) = (root.join(file), work.folder.join(file));
            let text = fs::read(from)?;
            fs::create_dir_all(to.parent().ok_or("a file without a folder")?)?;
            fs::write(to, text)?;
        }
        Ok(work)
    }

    fn break_and_test(&self, rule: &Rule) -> Result<BTreeSet<String>, Box<dyn Error>> {
        let data = self.folder.join("sqlx-data.json");
        let mut originals = vec![(data.clone(), fs::read_to_string(&data)?)];
        for (path, Broken { before, after }) in broken(&self.folder, rule)? {
            fs::write(&path, after)?;
            originals.push((path, before));
        }
        let tested = self.prepare_and_test(rule);
        for (path, text) in originals {
            fs::write(path, text)?;
        }
        tested
    }

    fn prepare_and_test(&self, rule: &Rule) -> Result<BTreeSet<String>, Box<dyn Error>> {
        if rule.in_sql {
            let mut prepare = self.cargo(&["run", "--quiet", "--package", "xtask", "--"]);
            succeed(prepare.arg("prepare").stdout(Stdio::null()).stderr(Stdio::null()))
                .map_err(|failure| format!("{}: {failure}", rule.name))?;
        }
        let fast = self.test(rule.name, FAST_FILTER)?;
        if fast.is_empty() { self.test(rule.name, &[]) } else { Ok(fast) }
    }

    /// Runs the tests, and returns those that fail.
    fn test(&self, name: &str, filter: &[&str]) -> Result<BTreeSet<String>, Box<dyn Error>> {
        let log = self.folder.with_extension("log");
        // Compiling is not part of the tests' time.
        let mut build = self.cargo(&["test", "--no-run"]);
        succeed(build.args(FAST).stdout(Stdio::null()).stderr(Stdio::null()))
            .map_err(|failure| format!("{name}: it does not compile: {failure}"))?;
        let mut cargo = self.cargo(&["test", "--no-fail-fast"]);
        cargo.args(FAST).arg("--").args(filter).args(SKIPPED);
        let output = fs::File::create(&log)?;
        let mut running =
            cargo.process_group(0).stdout(output.try_clone()?).stderr(output).spawn()?;
        let mut by = Instant::now() + TESTS_MAX;
        let mut failed = BTreeSet::new();
        let status = loop {
            let status = running.try_wait()?;
            let before = failed.len();
            failed = failures_in(&fs::read_to_string(&log)?);
            if before == 0 && !failed.is_empty() {
                by = by.min(Instant::now() + OTHERS_MAX);
            }
            if status.is_some() {
                break status;
            }
            if Instant::now() > by {
                // Together with the tests that cargo has started.
                killpg(Pid::from_raw(i32::try_from(running.id())?), Signal::SIGKILL)?;
                running.wait()?;
                break None;
            }
            thread::sleep(Duration::from_millis(100));
        };
        match status {
            None if failed.is_empty() => {
                Ok(BTreeSet::from(["the time of the tests, which ran out".to_owned()]))
            }
            None => Ok(failed),
            Some(status) if status.success() == failed.is_empty() => Ok(failed),
            Some(_) => Err(format!("{name}: the tests did not run; see {}", log.display()).into()),
        }
    }

    fn cargo(&self, arguments: &[&str]) -> Command {
        let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        // The variables that the outer cargo sets for this program would rebuild dependencies that
        // read them.
        for (name, _) in env::vars_os() {
            if name.to_string_lossy().starts_with("CARGO_") && name != "CARGO_HOME" {
                cargo.env_remove(name);
            }
        }
        cargo.current_dir(&self.folder).args(arguments).env("CARGO_TARGET_DIR", &self.target);
        cargo.env("RUST_BACKTRACE", "0").stdin(Stdio::null());
        cargo
    }
}

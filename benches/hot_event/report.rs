//! The report: the measurements as tables, and whether they meet their targets.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

use crate::chart;
use crate::contenders::Way;
use crate::lab::Lab;
use crate::results::{Results, Sample, Series, Spread};
use crate::scenes::{ATOMIC, Effort, FOR_UPDATE, HEALTH, OURS, VERSION_CHECK, VERSION_RETRY};
use crate::targets::{self, Target};

/// Where the report goes. The text between these marks is replaced.
const PAGE: &str = "docs/performance.md";
const README: &str = "README.md";
const PICTURE: &str = "docs/performance.svg";
const BEGIN: &str = "<!-- measured by make bench -->\n";
const END: &str = "<!-- end of what was measured -->\n";

/// The whole report.
pub fn page(lab: &Lab, effort: Effort, results: &Results) -> String {
    let mut page = conditions(lab, effort);
    page += "\n### Where it should get\n\n";
    page += &targets_table(&targets::of(results));
    page += "\n### The hot event\n\nAccepted reservations per second, by connections: median \
             (lowest - highest).\n\n";
    page += &hot_event(results, |sample| sample.per_second);
    page += "\nThe 99th percentile of their latency, in milliseconds.\n\n";
    page += &hot_event(results, |sample| sample.latency.p99 as f64 / 1000.0);
    page += "\nRefused beside them, per second.\n\n";
    page += &hot_event(results, |sample| sample.refused_per_second);
    page += "\n### Everything else\n\n";
    page += &all_other(results);
    page
}

/// The part of the report that the README shows.
fn short(results: &Results) -> String {
    let mut short =
        String::from("| 64 connections, one event | accepted/s | p99 |\n|---|---|---|\n");
    for what in [VERSION_CHECK, VERSION_RETRY, FOR_UPDATE, ATOMIC, OURS] {
        let rate = results.spread((1, what, 64), |sample| sample.per_second);
        let p99 = results.spread((1, what, 64), |sample| sample.latency.p99 as f64 / 1000.0);
        let p99 = p99.map_or("-".into(), |p99| format!("{} ms", number(p99.median)));
        let rate = rate.map_or("-".into(), |rate| number(rate.median));
        let emphasis = if what == OURS { "**" } else { "" };
        writeln!(short, "| {emphasis}{what}{emphasis} | {emphasis}{rate}{emphasis} | {p99} |")
            .expect("memory takes it");
    }
    short
}

/// Writes the report into the project's files.
pub fn write(page: &str, results: &Results) -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    for (file, text) in [(PAGE, page), (README, &short(results))] {
        let path = root.join(file);
        let old = fs::read_to_string(&path)?;
        let (before, rest) = old.split_once(BEGIN).ok_or_else(|| no_marks(file))?;
        let (_, after) = rest.split_once(END).ok_or_else(|| no_marks(file))?;
        fs::write(&path, format!("{before}{BEGIN}\n{text}\n{END}{after}"))?;
    }
    fs::write(root.join(PICTURE), chart::hot_event(results))
}

fn no_marks(file: &str) -> io::Error {
    io::Error::other(format!("{file} does not have the marks that the report goes between"))
}

fn conditions(lab: &Lab, effort: Effort) -> String {
    let said = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok();
        let text = output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
        text.unwrap_or_default()
    };
    let processor = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let processor = processor.lines().find_map(|line| line.strip_prefix("model name\t: "));
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let memory = memory.lines().find_map(|line| {
        let kib = line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?;
        Some(kib.parse::<f64>().ok()? / 1024.0 / 1024.0)
    });
    format!(
        "{} rounds of {} s each; medians of the rounds, ratios taken round by round.\n\n\
         | | |\n|---|---|\n\
         | machine | {} cores, {}, {} GiB; the load is made on it, too |\n\
         | system | {} |\n\
         | PostgreSQL | {} |\n\
         | one flush of its log (pg_test_fsync, fdatasync) | {} |\n\
         | Rust | {} |\n",
        effort.rounds,
        effort.measured.as_secs_f64(),
        std::thread::available_parallelism().map_or(0, usize::from),
        processor.unwrap_or("unknown processor"),
        memory.map_or("? ".into(), number),
        said("uname", &["-sr"]),
        lab.version(),
        lab.flush_time().unwrap_or_else(|| "unknown".into()),
        said("rustc", &["-V"]),
    )
}

fn targets_table(targets: &[Target]) -> String {
    let mut table = String::from("| what | at least | reach for | measured | |\n");
    table += "|---|---|---|---|---|\n";
    for target in targets {
        let Target { what, at_least, reach, unit, .. } = target;
        let Some(Spread { median, min, max }) = target.measured else { continue };
        let verdict = if target.meets(median, *reach) {
            "reached"
        } else if target.meets(median, *at_least) {
            "met"
        } else {
            "**missed**"
        };
        let (median, min, max) = (number(median), number(min), number(max));
        writeln!(
            table,
            "| {what} | {at_least}{unit} | {reach}{unit} | **{median}**{unit} ({min} - {max}) \
             | {verdict} |"
        )
        .expect("memory takes it");
    }
    table
}

/// The contenders of scene 1 by the number of connections.
fn hot_event(results: &Results, value: impl Fn(&Sample) -> f64) -> String {
    let of_ours = results.0.iter().filter(|series| series.scene == 1 && series.what == OURS);
    let columns: Vec<usize> = of_ours.map(|series| series.connections).collect();
    let mut table = String::from("| |");
    for connections in &columns {
        write!(table, " {connections} |").expect("memory takes it");
    }
    table += "\n|---|";
    table += &"---|".repeat(columns.len());
    table += "\n";
    for what in [VERSION_CHECK, VERSION_RETRY, FOR_UPDATE, ATOMIC, OURS, HEALTH] {
        write!(table, "| {what} |").expect("memory takes it");
        for connections in &columns {
            let failed = results.failed_at((1, what, *connections));
            let otherwise = if failed { "failed" } else { "" };
            let spread = results.spread((1, what, *connections), &value);
            write!(table, " {} |", spread.map_or(otherwise.into(), with_range))
                .expect("memory takes it");
        }
        table += "\n";
    }
    table
}

fn all_other(results: &Results) -> String {
    let mut table = String::from(
        "| scene | what | connections, or rows of a batch | per second | p50 ms | p99 ms | p99.9 ms | memory MB |\n\
         |---|---|---|---|---|---|---|---|\n",
    );
    let in_first_table = |what: &str| {
        what == OURS || what == HEALTH || Way::ALL.iter().any(|way| way.name() == what)
    };
    for series in &results.0 {
        let Series { scene, what, connections, .. } = series;
        if *scene == 1 && in_first_table(what) {
            continue;
        }
        if let Some(failure) = series.failures.first() {
            writeln!(table, "| {scene} | {what} | {connections} | failed: {failure} | | | | |")
                .expect("memory takes it");
            continue;
        }
        let median = |value: &dyn Fn(&Sample) -> f64| {
            let spread = Spread::of(series.samples.iter().map(value));
            let there = spread.filter(|spread| spread.median > 0.0);
            there.map_or(String::new(), |spread| number(spread.median))
        };
        let rate = Spread::of(series.samples.iter().map(|sample| sample.per_second));
        let rate = rate.filter(|rate| rate.max > 0.0).map_or(String::new(), with_range);
        writeln!(
            table,
            "| {scene} | {what} | {connections} | {rate} | {} | {} | {} | {} |",
            median(&|sample| sample.latency.p50 as f64 / 1000.0),
            median(&|sample| sample.latency.p99 as f64 / 1000.0),
            median(&|sample| sample.latency.p999 as f64 / 1000.0),
            median(&|sample| sample.resident_mb()),
        )
        .expect("memory takes it");
    }
    table
}

fn with_range(spread: Spread) -> String {
    let Spread { median, min, max } = spread;
    format!("{} ({} - {})", number(median), number(min), number(max))
}

/// Formats a number with three digits, or as a whole number if it has more, with separators.
pub fn number(value: f64) -> String {
    let decimals = match value.abs() {
        size if size < 9.995 => 2,
        size if size < 99.95 => 1,
        _ => 0,
    };
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = match text.split_once('.') {
        Some((whole, fraction)) => (whole, Some(fraction)),
        None => (text.as_str(), None),
    };
    let mut grouped = String::new();
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    fraction.map_or(grouped.clone(), |fraction| format!("{grouped}.{fraction}"))
}

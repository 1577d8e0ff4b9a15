//! The long form of the fault tests: each fault many times, and a table of the results.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use crate::{page, succeed};

const HEAD: &str = "\
| fault | times | calls | granted | unknown | lost | served again, slowest |
|---|---|---|---|---|---|---|
";

/// Once a fault is over, the service must serve again within this time.
const BACK_MAX_MS: u64 = 5_000;

pub fn chaos(root: &Path, rounds: &str) -> Result<String, Box<dyn Error>> {
    let rows = root.join("target/chaos.md");
    if rows.exists() {
        fs::remove_file(&rows)?;
    }
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(root).args(["test", "--locked", "--test", "it", "chaos::"]);
    succeed(cargo.env("CHAOS_ROUNDS", rounds).env("CHAOS_TABLE", &rows))?;

    // A scenario that sets up a new stage for each fault writes a row for each.
    let mut seen: BTreeMap<String, [u64; 6]> = BTreeMap::new();
    for row in fs::read_to_string(rows)?.lines() {
        let mut cells = row.trim_matches('|').split('|').map(str::trim);
        let name = cells.next().ok_or("a row without a name")?.to_owned();
        let numbers: Vec<u64> =
            cells.map(|cell| cell.trim_end_matches(" ms").parse()).collect::<Result<_, _>>()?;
        let sums = seen.entry(name).or_default();
        let [counts @ .., slowest] = sums;
        for (sum, number) in counts.iter_mut().zip(&numbers) {
            *sum += number;
        }
        *slowest = numbers.last().copied().unwrap_or_default().max(*slowest);
    }
    let late = seen.iter().filter(|(_, [.., slowest])| *slowest > BACK_MAX_MS);
    let late: Vec<String> = late.map(|(name, _)| name.clone()).collect();
    let row = |(name, [faults, calls, granted, unknown, lost, slowest]): (String, [u64; 6])| {
        format!("| {name} | {faults} | {calls} | {granted} | {unknown} | {lost} | {slowest} ms |\n")
    };
    let table = HEAD.to_owned() + &seen.into_iter().map(row).collect::<String>();
    page::write(root, "make chaos", &table)?;
    if late.is_empty() {
        Ok(table)
    } else {
        Err(format!("not back in {BACK_MAX_MS} ms after: {}\n{table}", late.join("; ")).into())
    }
}

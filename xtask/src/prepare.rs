//! Generates `sqlx-data.json` from the queries in the source and the schema in `migrations`.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::process::Command;
use std::{env, fs};

use serde_json::Value;

use crate::succeed;
use crate::ticketboss::postgres::ThrowawayPostgres;

const DATA: &str = "sqlx-data.json";

/// Writes the file, or only says whether it is up to date.
pub fn prepare(root: &Path, check: bool) -> Result<String, Box<dyn Error>> {
    let bin_dir = env::var_os("PG_BIN_DIR");
    let database = ThrowawayPostgres::start(bin_dir.as_deref().map(Path::new))?;
    migrate(root, &database)?;
    let folder = env::temp_dir().join(format!("ticketboss-queries-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&folder)?;
    let merged = compile(root, &database.address().url(), &folder).and_then(|()| merge(&folder));
    fs::remove_dir_all(&folder)?;
    let (merged, count) = merged?;

    let path = root.join(DATA);
    if fs::read_to_string(&path).is_ok_and(|current| current == merged) {
        return Ok(format!("{DATA} is up to date: {count} queries"));
    }
    if check {
        return Err(format!("{DATA} is out of date; run `make prepare`").into());
    }
    fs::write(&path, merged)?;
    Ok(format!("wrote {DATA}: {count} queries"))
}

/// Applies the migrations as plain SQL, in the order of their names.
fn migrate(root: &Path, database: &ThrowawayPostgres) -> Result<(), Box<dyn Error>> {
    let entries = fs::read_dir(root.join("migrations"))?;
    let mut files: Vec<_> =
        entries.map(|entry| Ok(entry?.path())).collect::<Result<_, std::io::Error>>()?;
    files.sort();
    for file in files {
        let mut psql = Command::new(database.binary("psql"));
        psql.args([
            "--quiet",
            "--tuples-only",
            "--no-psqlrc",
            "--set",
            "ON_ERROR_STOP=1",
            "--file",
        ]);
        succeed(psql.arg(file).arg(database.address().url()))?;
    }
    Ok(())
}

/// Compiles every target, so that each macro asks the database and writes the answer into `folder`.
fn compile(root: &Path, url: &str, folder: &Path) -> Result<(), Box<dyn Error>> {
    let mut cargo = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The variables that the outer cargo sets for this program would rebuild dependencies that read
    // them.
    for (name, _) in env::vars_os() {
        if name.to_string_lossy().starts_with("CARGO_") && name != "CARGO_HOME" {
            cargo.env_remove(name);
        }
    }
    cargo
        .current_dir(root)
        .args(["check", "--package", "ticketboss", "--all-targets", "--locked"])
        .env("SQLX_OFFLINE", "false")
        .env("SQLX_OFFLINE_DIR", folder)
        .env("DATABASE_URL", url);
    succeed(&mut cargo)
}

fn merge(folder: &Path) -> Result<(String, usize), Box<dyn Error>> {
    let mut queries = BTreeMap::new();
    for entry in fs::read_dir(folder)? {
        let query: Value = serde_json::from_slice(&fs::read(entry?.path())?)?;
        let hash = query["hash"].as_str().ok_or("a query without a hash")?;
        queries.insert(hash.to_owned(), query);
    }
    if queries.is_empty() {
        return Err("the compiler wrote no query".into());
    }
    Ok((serde_json::to_string_pretty(&queries)? + "\n", queries.len()))
}

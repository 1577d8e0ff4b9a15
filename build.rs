//! Lets sqlx's checked macros compile from the single `sqlx-data.json` at the top of the project.
//!
//! sqlx expects a folder with one file for each query, so this script writes that folder into the
//! build directory and points sqlx at it. With `SQLX_OFFLINE=false` it does nothing: `make prepare`
//! compiles against a live database and must not be overridden.

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::{env, fs};

use serde_json::Value;

const DATA: &str = "sqlx-data.json";

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed={DATA}");
    println!("cargo:rerun-if-changed=migrations");
    println!("cargo:rerun-if-env-changed=SQLX_OFFLINE");
    println!("cargo:rerun-if-env-changed=SQLX_OFFLINE_DIR");
    if env::var("SQLX_OFFLINE").is_ok_and(|offline| offline == "false") {
        return Ok(());
    }

    let folder = Path::new(&env::var("OUT_DIR")?).join("sqlx");
    // Rebuilt from scratch, so that a query removed from the file does not stay in the folder.
    if folder.exists() {
        fs::remove_dir_all(&folder)?;
    }
    fs::create_dir(&folder)?;
    let queries: BTreeMap<String, Value> = serde_json::from_slice(&fs::read(DATA)?)?;
    for (hash, query) in queries {
        fs::write(folder.join(format!("query-{hash}.json")), query.to_string())?;
    }
    println!("cargo:rustc-env=SQLX_OFFLINE=true");
    println!("cargo:rustc-env=SQLX_OFFLINE_DIR={}", folder.display());
    Ok(())
}

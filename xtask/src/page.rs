//! The parts of docs/reliability.md that commands write.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

fn page(root: &Path) -> PathBuf {
    root.join("docs/reliability.md")
}

/// The page up to the mark where `command` begins to write, what it has written, and the rest.
fn parts<'a>(page: &'a str, command: &str) -> Result<[&'a str; 3], String> {
    let begin = format!("<!-- written by {command} -->\n");
    let end = format!("<!-- end of what {command} writes -->");
    let place = || format!("docs/reliability.md has no place for {command}");
    let written = page.find(&begin).ok_or_else(place)? + begin.len();
    let after = written + page[written..].find(&end).ok_or_else(place)?;
    Ok([&page[..written], &page[written..after], &page[after..]])
}

/// The text between the marks of `command` in docs/reliability.md.
pub fn read(root: &Path, command: &str) -> Result<String, Box<dyn Error>> {
    let page = fs::read_to_string(page(root))?;
    let [_, written, _] = parts(&page, command)?;
    Ok(written.to_owned())
}

/// Replaces that text.
pub fn write(root: &Path, command: &str, text: &str) -> Result<(), Box<dyn Error>> {
    let old = fs::read_to_string(page(root))?;
    let [before, _, after] = parts(&old, command)?;
    Ok(fs::write(page(root), format!("{before}{text}{after}"))?)
}

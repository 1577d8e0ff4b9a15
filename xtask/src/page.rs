//! The parts of a page that commands write.

use std::error::Error;
use std::fs;
use std::path::Path;

/// Replaces what stands between the marks of `command` in docs/reliability.md.
pub fn write(root: &Path, command: &str, text: &str) -> Result<(), Box<dyn Error>> {
    let path = root.join("docs/reliability.md");
    let page = fs::read_to_string(&path)?;
    let begin = format!("<!-- written by {command} -->\n");
    let end = format!("<!-- end of what {command} writes -->");
    let place = || format!("docs/reliability.md has no place for {command}");
    let (before, rest) = page.split_once(&begin).ok_or_else(place)?;
    let (_, after) = rest.split_once(&end).ok_or_else(place)?;
    Ok(fs::write(path, format!("{before}{begin}{text}{end}{after}"))?)
}

//! The parts of a page that commands write.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};

/// A page with a part that a command writes.
pub struct Page {
    path: PathBuf,
    before: String,
    /// What stands between the marks of the command.
    pub written: String,
    after: String,
}

impl Page {
    /// docs/reliability.md, as it is.
    pub fn read(root: &Path, command: &str) -> Result<Self, Box<dyn Error>> {
        let path = root.join("docs/reliability.md");
        let page = fs::read_to_string(&path)?;
        let begin = format!("<!-- written by {command} -->\n");
        let end = format!("<!-- end of what {command} writes -->");
        let place = || format!("docs/reliability.md has no place for {command}");
        let (before, rest) = page.split_once(&begin).ok_or_else(place)?;
        let (written, after) = rest.split_once(&end).ok_or_else(place)?;
        let (before, after) = (format!("{before}{begin}"), format!("{end}{after}"));
        Ok(Self { path, before, written: written.to_owned(), after })
    }

    /// Replaces that part.
    pub fn write(&self, text: &str) -> Result<(), Box<dyn Error>> {
        Ok(fs::write(&self.path, format!("{}{text}{}", self.before, self.after))?)
    }
}

//! Folders below `target` in which tools from npm and PyPI, and Node.js, are installed and run.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{env, fs};

use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// Most of this is for installing.
const STEP_MAX: Duration = Duration::from_secs(300);

pub struct Workshop {
    pub folder: PathBuf,
}

impl Workshop {
    /// A folder with a copy of the files in one of the project's folders, and the tools that all
    /// share.
    pub async fn of(original: &str) -> Self {
        let original = Path::new(env!("CARGO_MANIFEST_DIR")).join(original);
        let name = original.file_name().expect("a folder");
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(name);
        fs::create_dir_all(&folder).expect("a folder can be made");
        let workshop = Self { folder };
        workshop.install_tools().await;
        for file in fs::read_dir(original).expect("it is there") {
            let file = file.expect("it can be read").path();
            let name = file.file_name().expect("a file");
            fs::copy(&file, workshop.folder.join(name)).expect("it can be copied");
        }
        workshop
    }

    fn tools(&self) -> PathBuf {
        self.folder.with_file_name("tools")
    }

    /// Installs Node.js and the tools in Python, once.
    async fn install_tools(&self) {
        static INSTALLING: Mutex<()> = Mutex::const_new(());
        let _one_at_a_time = INSTALLING.lock().await;
        let wanted = include_str!("../../../examples/python/requirements.txt");
        let done = self.tools().join("installed.txt");
        if fs::read_to_string(&done).is_ok_and(|installed| installed == wanted) {
            return;
        }
        let tools = self.tools();
        let tools = tools.to_str().expect("a text");
        self.run("python3", &["-m", "venv", "--clear", tools]).await;
        let requirements = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/python/requirements.txt");
        self.run("pip", &["install", "--quiet", "--requirement", requirements]).await;
        fs::write(done, wanted).expect("it can be written");
    }

    /// Installs the packages that the folder's `package-lock.json` names, once.
    pub async fn install_packages(&self) {
        if self.read("package-lock.json") != self.read("installed.json") {
            self.run("npm", &["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).await;
            self.write("installed.json", &self.read("package-lock.json").expect("a lock"));
        }
    }

    /// Runs a command to its end, and returns what it printed.
    pub async fn run(&self, program: &str, arguments: &[&str]) -> String {
        match self.attempt(program, arguments).await {
            Ok(printed) => printed,
            Err(said) => panic!("{program} {arguments:?}:\n{said}"),
        }
    }

    /// Runs a command. Returns what it printed, or all of its output if it failed.
    pub async fn attempt(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let path = env::var("PATH").expect("a path");
        // The installed tools come first in the path, but not while they are being installed.
        let tools = if program == "python3" { "/none".into() } else { self.tools().join("bin") };
        let mut command = Command::new("env");
        command
            .arg(format!("PATH={}:{path}", tools.display()))
            .arg(program)
            .args(arguments)
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        let output = timeout(STEP_MAX, command.output()).await;
        let output = output.expect("it ends in time").expect("it can be started");
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let (printed, errors) = (text(&output.stdout), text(&output.stderr));
        if output.status.success() { Ok(printed) } else { Err(format!("{printed}\n{errors}")) }
    }

    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("it can be written");
    }

    pub fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(name)).ok()
    }
}

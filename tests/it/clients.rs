//! Clients that are generated from the service's own document, and the programs in `examples` that
//! use them, with their types checked. The generators come from npm and PyPI, Node.js too, into a
//! folder of their own below `target`.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use std::{env, fs};

use tokio::process::Command;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::support::with_app;

/// Installing is most of it.
const STEP_MAX: Duration = Duration::from_secs(300);

/// The lines that each of the programs prints, but for the time.
const PRINTED: [&str; 6] = [
    "sent again: the same reservation? True",
    "status: confirmed",
    "refused: insufficient_seats, 7 left",
    "cancelled: 204",
    "available: 10 of 10",
    "held 3 seats until ",
];

struct Workshop {
    folder: PathBuf,
}

impl Workshop {
    /// A folder with an example in it, and the tools of all.
    async fn of(language: &str) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("clients").join(language);
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(language);
        fs::create_dir_all(&folder).expect("a folder can be made");
        let workshop = Self { folder };
        workshop.install_tools().await;
        for file in fs::read_dir(example).expect("it is there") {
            let file = file.expect("it can be read").path();
            let name = file.file_name().expect("a file");
            fs::copy(&file, workshop.folder.join(name)).expect("it can be copied");
        }
        workshop
    }

    fn tools(&self) -> PathBuf {
        self.folder.with_file_name("tools")
    }

    /// Node.js and the tools in Python, once.
    async fn install_tools(&self) {
        static INSTALLING: Mutex<()> = Mutex::const_new(());
        let _one_at_a_time = INSTALLING.lock().await;
        let wanted = include_str!("../../examples/python/requirements.txt");
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

    /// Runs a command to its end, and returns what it printed.
    async fn run(&self, program: &str, arguments: &[&str]) -> String {
        match self.attempt(program, arguments).await {
            Ok(printed) => printed,
            Err(said) => panic!("{program} {arguments:?}:\n{said}"),
        }
    }

    /// What it printed, or all that it said as it failed.
    async fn attempt(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let path = env::var("PATH").expect("a path");
        // The tools that are installed come first, but not while they are being installed.
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

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.join(name), text).expect("it can be written");
    }

    fn read(&self, name: &str) -> Option<String> {
        fs::read_to_string(self.folder.join(name)).ok()
    }
}

fn check_printed(printed: &str) {
    let printed = printed.replace("? true", "? True");
    for line in PRINTED {
        assert!(printed.lines().any(|printed| printed.starts_with(line)), "{line}: {printed}");
    }
    assert_eq!(printed.lines().count(), PRINTED.len(), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_typescript_is_generated_and_works() {
    with_app(async |app| {
        let workshop = Workshop::of("typescript").await;
        workshop.write("openapi.json", &app.get("/openapi.json").await.text);
        if workshop.read("package-lock.json") != workshop.read("installed.json") {
            workshop.run("npm", &["ci", "--no-audit", "--no-fund", "--ignore-scripts"]).await;
            workshop.write("installed.json", &workshop.read("package-lock.json").expect("a lock"));
        }
        workshop.run("npm", &["run", "lint"]).await;
        workshop.run("npm", &["run", "generate"]).await;
        workshop.run("npm", &["run", "build"]).await;
        check_printed(&workshop.run("npm", &["run", "--silent", "start", &app.base]).await);
        // What the document does not allow does not compile.
        let program = workshop.read("main.ts").expect("the program");
        workshop.write("main.ts", &program.replace("seats: 3", "seats: \"3\""));
        let refused = workshop.attempt("npm", &["run", "build"]).await;
        let said = refused.expect_err("the types are checked");
        assert!(said.contains("Type 'string' is not assignable to type 'number'"), "{said}");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_python_is_generated_and_works() {
    with_app(async |app| {
        let workshop = Workshop::of("python").await;
        workshop.write("openapi.json", &app.get("/openapi.json").await.text);
        let generate = ["generate", "--path", "openapi.json", "--output-path", "ticketboss_client"];
        let generate = [&generate[..], &["--meta", "none", "--overwrite"]].concat();
        let said = workshop.run("openapi-python-client", &generate).await;
        assert!(!said.contains("WARNING"), "{said}");
        workshop.run("mypy", &["--strict", "main.py"]).await;
        check_printed(&workshop.run("python", &["main.py", &app.base]).await);
    })
    .await;
}

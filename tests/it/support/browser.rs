//! A real browser, headless, with a profile of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::{env, fs};

use serde_json::{Value, json};
use thirtyfour::prelude::*;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::PATIENCE;
use super::binary::TemporaryDirectory;

const ARGUMENTS: [&str; 9] = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
];

/// Records the errors of a page.
const WATCH: &str = "
    const wrong = [];
    const keep = (what) => {
      wrong.push(String(what));
      sessionStorage.setItem('wrong', JSON.stringify(wrong));
    };
    addEventListener('error', (event) => keep(event.error?.stack ?? event.message));
    addEventListener('unhandledrejection', (event) => keep(event.reason?.stack ?? event.reason));
    addEventListener('securitypolicyviolation', (event) => keep(event.blockedURI));
";

/// A browser window.
pub struct Browser {
    pub driver: WebDriver,
    _chromedriver: Child,
    _profile: TemporaryDirectory,
}

impl Browser {
    /// Opens an address in a window of this size.
    pub async fn open(address: &str, width: u32, height: u32) -> Self {
        let profile = TemporaryDirectory::new();
        let mut chromedriver = Command::new("chromedriver")
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .expect("chromedriver is installed");
        let port = timeout(PATIENCE, port(&mut chromedriver)).await.expect("it starts in time");
        let mut wanted = DesiredCapabilities::chrome();
        wanted.set_binary(program("chromium").to_str().expect("a path")).expect("a setting");
        let profile_argument = format!("--user-data-dir={}", profile.as_str());
        for argument in ARGUMENTS.into_iter().chain([profile_argument.as_str()]) {
            wanted.add_arg(argument).expect("a setting");
        }
        let driver = WebDriver::new(format!("http://127.0.0.1:{port}"), wanted).await;
        let driver = driver.expect("a browser starts");
        driver.set_script_timeout(PATIENCE).await.expect("a setting");
        let browser = Self { driver, _chromedriver: chromedriver, _profile: profile };
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        browser.devtools("Emulation.setDeviceMetricsOverride", size).await;
        browser.devtools("Page.addScriptToEvaluateOnNewDocument", json!({"source": WATCH})).await;
        browser.go(address).await;
        browser
    }

    pub async fn go(&self, address: &str) {
        self.driver.goto(address).await.expect("it can be opened");
    }

    /// Closes the browser, and fails if the page has recorded any errors.
    pub async fn close(self) {
        let wrong = self.run("return JSON.parse(sessionStorage.getItem('wrong') ?? '[]')").await;
        assert_eq!(wrong, json!([]), "what went wrong in the page");
        self.driver.quit().await.expect("it closes");
    }

    /// Sets the preferred colour scheme: dark or light.
    pub async fn prefer(&self, scheme: &str) {
        let feature = json!({"name": "prefers-color-scheme", "value": scheme});
        self.devtools("Emulation.setEmulatedMedia", json!({"features": [feature]})).await;
    }

    async fn devtools(&self, command: &str, arguments: Value) {
        self.driver.cdp().send_raw(command, arguments).await.expect("it is done");
    }

    /// Runs a script, and returns its result.
    pub async fn run(&self, script: &str) -> Value {
        let ran = self.driver.execute(script, Vec::new()).await;
        ran.unwrap_or_else(|failure| panic!("{script}: {failure}")).json().clone()
    }

    /// Waits until an expression is true in the page.
    pub async fn until(&self, expression: &str) {
        let script = format!(
            "const done = arguments[arguments.length - 1];
             const look = () => {{
               let is = false;
               try {{ is = {expression}; }} catch {{}}
               if (is) done(); else setTimeout(look, 20);
             }};
             look();"
        );
        let waited = self.driver.execute_async(script, Vec::new()).await;
        if waited.is_err() {
            self.picture("failed").await;
            let page = self.text("body").await;
            panic!("it never came to {expression}:\n{page}");
        }
    }

    /// Waits until an element's text contains these words.
    pub async fn until_says(&self, selector: &str, words: &str) {
        let (selector, words) = (json!(selector), json!(words));
        self.until(&format!("document.querySelector({selector}).innerText.includes({words})"))
            .await;
    }

    pub async fn text(&self, selector: &str) -> String {
        let selector = json!(selector);
        let text = self.run(&format!("return document.querySelector({selector}).innerText")).await;
        text.as_str().expect("a text").to_owned()
    }

    /// Clicks the button or link that has this text or label.
    pub async fn click(&self, words: &str) {
        let path = format!(
            "//*[self::button or self::a or self::strong][normalize-space()='{words}' or @aria-label='{words}']"
        );
        self.until(&format!(
            "document.evaluate({}, document, null, 9).singleNodeValue !== null",
            json!(path)
        ))
        .await;
        // If two have the same text, only the one in the dialog can be clicked.
        let found = self.driver.find_all(By::XPath(path)).await.expect("it is there");
        let button = found.last().expect("one at least");
        button.click().await.unwrap_or_else(|failure| panic!("{words}: {failure}"));
    }

    /// Replaces the content of a field of the open dialog.
    pub async fn fill(&self, name: &str, text: &str) {
        let field = By::Css(format!("dialog [name={name}]"));
        let field = self.driver.find(field).await.expect("the field is there");
        field.clear().await.expect("it can be emptied");
        field.send_keys(text).await.expect("it can be typed into");
    }

    /// Presses keys, wherever the focus is.
    pub async fn press(&self, keys: impl Into<TypingData>) {
        let keys = self.driver.action_chain().send_keys(keys);
        keys.perform().await.expect("they can be pressed");
    }

    /// Presses Tab until the expression is true of `focused`, the element that has the focus.
    pub async fn tab_to(&self, expression: &str) {
        for _ in 0..60 {
            let script = format!("const focused = document.activeElement; return {expression};");
            if self.run(&script).await == true {
                return;
            }
            self.press(Key::Tab + "").await;
        }
        panic!("the tabulator does not lead to {expression}");
    }

    /// Saves a screenshot below `target/screenshots`.
    pub async fn picture(&self, name: &str) {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("screenshots");
        fs::create_dir_all(&folder).expect("a folder can be made");
        let file = folder.join(format!("{name}.png"));
        self.driver.screenshot(&file).await.expect("a picture");
    }
}

/// The port that a chromedriver says it listens on.
async fn port(chromedriver: &mut Child) -> u16 {
    let mut lines = BufReader::new(chromedriver.stdout.take().expect("it is piped")).lines();
    loop {
        let line = lines.next_line().await.expect("text").expect("it runs");
        if let Some((_, port)) = line.split_once("started successfully on port ") {
            let port = port.trim_end_matches('.').parse().expect("a port");
            // Its further output must not fill the pipe.
            tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
            return port;
        }
    }
}

fn program(name: &str) -> PathBuf {
    let path = env::var_os("PATH").expect("a path");
    let found = env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.exists());
    found.unwrap_or_else(|| panic!("{name} is not installed"))
}

//! Clients generated from the service's OpenAPI document, and the programs in `examples` that use
//! them, with their types checked. The generators, and Node.js, are installed from npm and PyPI
//! into a folder of their own below `target`.

use ticketboss::domain::Scope;

use crate::support::with_settings;
use crate::support::workshop::Workshop;

/// The lines that each of the programs prints, except for the time.
const PRINTED: [&str; 6] = [
    "sent again: the same reservation? True",
    "status: confirmed",
    "refused: insufficient_seats, 7 left",
    "cancelled: 204",
    "available: 10 of 10",
    "held 3 seats until ",
];

fn check_printed(printed: &str) {
    let printed = printed.replace("? true", "? True");
    for line in PRINTED {
        assert!(printed.lines().any(|printed| printed.starts_with(line)), "{line}: {printed}");
    }
    assert_eq!(printed.lines().count(), PRINTED.len(), "{printed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_in_typescript_is_generated_and_works() {
    with_settings(&[("ACCESS_CONTROL", "keys")], async |app| {
        let workshop = Workshop::of("examples/typescript").await;
        workshop.write("openapi.json", &app.get("/openapi.json").await.text);
        workshop.install_packages().await;
        workshop.run("npm", &["run", "lint"]).await;
        workshop.run("npm", &["run", "generate"]).await;
        workshop.run("npm", &["run", "build"]).await;
        let key = format!("TICKETBOSS_KEY={}", app.key(Scope::Operator).await.1);
        let run = [&key, "npm", "run", "--silent", "start", &app.base];
        check_printed(&workshop.run("env", &run).await);
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
    with_settings(&[("ACCESS_CONTROL", "keys")], async |app| {
        let workshop = Workshop::of("examples/python").await;
        workshop.write("openapi.json", &app.get("/openapi.json").await.text);
        let generate = ["generate", "--path", "openapi.json", "--output-path", "ticketboss_client"];
        let how = ["--config", "generator.yml", "--meta", "none", "--overwrite"];
        let generate = [&generate[..], &how, &["--fail-on-warning"]].concat();
        workshop.run("openapi-python-client", &generate).await;
        workshop.run("mypy", &["--strict", "main.py"]).await;
        let key = format!("TICKETBOSS_KEY={}", app.key(Scope::Operator).await.1);
        let run = [&key, "python", "main.py", &app.base];
        check_printed(&workshop.run("env", &run).await);
    })
    .await;
}

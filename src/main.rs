//! The command line.

use std::io::{ErrorKind, Write as _};
use std::os::unix::process::ExitStatusExt as _;
use std::process::{ExitCode, ExitStatus};

use clap::{Parser, Subcommand};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use ticketboss::config::{BadSetting, Config, Database, LogFormat, SETTINGS, env_file};
use ticketboss::domain::{Key, KeyId, KeyName, PartnerId, Scope};
use ticketboss::postgres::{LaunchError, ThrowawayPostgres};
use ticketboss::server::{self, ServeError, keys, migrate, serve};
use ticketboss::{chain, http, logging};
use time::OffsetDateTime;
use tokio::process::Command as Process;
use tokio::signal::unix::{SignalKind, signal};

/// The command failed, for example because the database could not be reached.
const EXIT_FAILURE: u8 = 1;
/// A setting or the installation has to be corrected first.
const EXIT_SETUP: u8 = 2;

/// A seat reservation service on top of PostgreSQL that never sells a seat twice.
#[derive(Parser)]
#[command(version, after_help = after_help())]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the API (the default if no command is given)
    ///
    /// Stops on SIGTERM or SIGINT: /ready first answers 503 for DRAIN_DELAY_MS (a second signal
    /// ends the delay). Then the service accepts no more requests, answers those that it has
    /// accepted, stops its private PostgreSQL if it runs one, and exits with 0 within 10 seconds.
    #[command(after_help = after_help())]
    Serve,
    /// Bring the database's schema up to date, and exit
    ///
    /// `serve` does this by itself, unless MIGRATE_ON_START is false. Safe to run while older
    /// replicas are serving.
    Migrate,
    /// Check that no seat is sold twice, lost or stranded, and that journal and tables agree
    ///
    /// Only reads, in short statements, and may be run while replicas are serving. Prints one line
    /// for each problem, and then what was checked.
    #[command(
        after_help = "Exit codes: 0 nothing is wrong; 1 something is wrong, or the data could not \
                            be read; 2 a setting or the installation has to be corrected."
    )]
    Verify,
    /// Create, list and revoke keys, for a service with access control (ACCESS_CONTROL=keys)
    ///
    /// The first operator's key is created here; operators can do the same over the API. Works
    /// beside a running service, which accepts a new key at once, and a revoked one for about a
    /// second more.
    #[command(subcommand)]
    Key(KeyCommand),
    /// Print the OpenAPI 3.1 document of the API, and exit
    Openapi,
    /// Run a command with a throwaway PostgreSQL
    ///
    /// DATABASE_URL and PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE point to it. The server is
    /// new and empty, has PostgreSQL's default durability, listens on a free port of 127.0.0.1, and
    /// is removed when the command ends, however it ends. The command's exit code is passed on.
    Postgres {
        /// The command and its arguments, as in `ticketboss postgres -- psql`
        #[arg(last = true, required = true)]
        command: Vec<String>,
    },
}

#[derive(Subcommand)]
enum KeyCommand {
    /// Create a key, and print it: it cannot be shown again
    Create {
        /// What the key allows: `partner` (book for one partner), `read` (see everything),
        /// `operator` (see and change everything)
        #[arg(long, value_parser = Scope::WORDS)]
        scope: String,
        /// The partner that a key with the scope `partner` belongs to
        #[arg(long, required_if_eq("scope", "partner"), value_parser = partner_id)]
        partner: Option<PartnerId>,
        /// A name to recognise the key by
        #[arg(long, value_parser = key_name)]
        name: KeyName,
        /// Number of days after which the key expires; without this option, it never does
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..=36_500))]
        days: Option<u32>,
    },
    /// List all keys, without their secrets
    List,
    /// Revoke a key permanently
    Revoke {
        /// The key's id (the part between `tb_` and the secret; see `key list`), or the whole key
        #[arg(value_parser = key_id)]
        id: KeyId,
    },
}

fn partner_id(text: &str) -> Result<PartnerId, &'static str> {
    PartnerId::parse(text)
        .ok_or("must be 1 to 128 characters, not blank and without control characters")
}

fn key_name(text: &str) -> Result<KeyName, &'static str> {
    KeyName::parse(text)
        .ok_or("must be 1 to 128 characters, not blank and without control characters")
}

fn key_id(text: &str) -> Result<KeyId, &'static str> {
    let id = text.strip_prefix("tb_").and_then(|rest| rest.split('_').next()).unwrap_or(text);
    KeyId::parse(id)
        .ok_or("must be 16 lower-case hexadecimal digits, as `ticketboss key list` shows")
}

fn after_help() -> String {
    format!(
        "Settings, from the environment or from the file .env in the working directory:\n\n\
         {SETTINGS}\n\n\
         Exit codes: 0 stopped as requested; 1 failed; 2 a setting or the installation has to be \
         corrected."
    )
}

/// Saves a tenth of the processor time per booking; see docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let no_settings = match env_file::load() {
        Ok(no_settings) => no_settings,
        Err(failure) => return complain(EXIT_SETUP, &failure.to_string()),
    };
    if let Err(bad_setting) = start_log() {
        return complain(EXIT_SETUP, &bad_setting);
    }
    for name in no_settings {
        log::warn!("{name} in .env is not a setting of ticketboss");
    }

    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(failure) => return complain(EXIT_FAILURE, &failure.to_string()),
    };
    let code = runtime.block_on(run(arguments.command.unwrap_or(Command::Serve)));
    // Background tasks have already been given time to finish.
    runtime.shutdown_background();
    logging::finish();
    code
}

fn start_log() -> Result<(), String> {
    let given = std::env::var("RUST_LOG").ok().filter(|given| !given.is_empty());
    let format = LogFormat::from_env().map_err(|bad_setting| bad_setting.to_string())?;
    if logging::start(given.as_deref(), format) {
        Ok(())
    } else {
        let allowed = "error, warn, info, debug, trace, off, or module=level, separated by commas";
        Err(format!("RUST_LOG is {:?}; allowed: {allowed}", given.unwrap_or_default()))
    }
}

async fn run(command: Command) -> ExitCode {
    match command {
        Command::Serve => {
            with_config(Config::from_env(), async |config| serve(&config).await).await
        }
        Command::Migrate => with_database(async |config| migrate(&config).await).await,
        Command::Verify => verify_data().await,
        Command::Key(command) => key(command).await,
        Command::Openapi => print_openapi(),
        Command::Postgres { command } => postgres(command).await,
    }
}

/// Runs `work` with only the settings that say where the database is.
async fn with_database(work: impl AsyncFnOnce(Config) -> Result<(), ServeError>) -> ExitCode {
    with_config(Config::of_database(), work).await
}

async fn with_config(
    config: Result<Config, BadSetting>,
    work: impl AsyncFnOnce(Config) -> Result<(), ServeError>,
) -> ExitCode {
    let config = match config {
        Ok(config) => config,
        Err(bad_setting) => return complain(EXIT_SETUP, &bad_setting.to_string()),
    };
    match work(config).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(ServeError::Launch(failure)) => complain_of_launch(&failure),
        Err(failure) if is_setup(&failure) => complain(EXIT_SETUP, &chain(&failure)),
        Err(failure) => complain(EXIT_FAILURE, &chain(&failure)),
    }
}

/// Whether a retry is useless until something has been corrected.
fn is_setup(failure: &ServeError) -> bool {
    match failure {
        ServeError::NoDatabase { .. } | ServeError::Tls(_) => true,
        ServeError::Schema(failure) => failure.is_wrong_address(),
        // A port in use may soon be free, and a missing address may be added.
        ServeError::Bind { source, .. } => source.kind() == ErrorKind::PermissionDenied,
        ServeError::Launch(_)
        | ServeError::Verify(_)
        | ServeError::Keys(_)
        | ServeError::NoSuchKey { .. }
        | ServeError::Random(_)
        | ServeError::DefaultEvent(_)
        | ServeError::Signals(_)
        | ServeError::Stopped
        | ServeError::Task(_)
        | ServeError::Http(_) => false,
    }
}

async fn key(command: KeyCommand) -> ExitCode {
    match command {
        KeyCommand::Create { scope, partner, name, days } => {
            let Some(scope) = Scope::of(&scope, partner) else {
                return complain(EXIT_SETUP, "--partner is allowed only with --scope partner");
            };
            let days = days.map(|days| time::Duration::days(days.into()));
            let expires_at = days.map(|days| OffsetDateTime::now_utc() + days);
            with_database(async |config| {
                let (made, text, place) = keys::make(&config, name, scope, expires_at).await?;
                let id = made.id;
                logging::say(&format!(
                    "ticketboss: key {id} was created in {place}; it is shown only this once:"
                ));
                drop(writeln!(std::io::stdout(), "{text}"));
                Ok(())
            })
            .await
        }
        KeyCommand::List => {
            with_database(async |config| {
                let mut all = keys::list(&config).await?;
                all.sort_by_key(|key| key.created_at);
                // It is no error if the reader closes the pipe early.
                let say = |line: String| drop(writeln!(std::io::stdout(), "{line}"));
                say(columns(["ID", "SCOPE", "CREATED", "LAST USED", "EXPIRES", "NAME"]));
                all.iter().for_each(|key| say(line(key)));
                Ok(())
            })
            .await
        }
        KeyCommand::Revoke { id } => {
            with_database(async |config| {
                keys::revoke(&config, id.clone()).await?;
                logging::say(&format!(
                    "ticketboss: key {id} was revoked, and stops working within about a second"
                ));
                Ok(())
            })
            .await
        }
    }
}

/// The line of a key in the list.
fn line(key: &Key) -> String {
    let day = |at: OffsetDateTime| at.date().to_string();
    let minute = |at: OffsetDateTime| format!("{} {:02}:{:02}", at.date(), at.hour(), at.minute());
    let ends = match (key.revoked_at, key.expires_at) {
        (Some(_), _) => "revoked".into(),
        (None, Some(end)) if end <= OffsetDateTime::now_utc() => "expired".into(),
        (None, Some(end)) => day(end),
        (None, None) => "never".into(),
    };
    let used = key.last_used_at.map_or("never".into(), minute);
    let name = match &key.scope {
        Scope::Partner(partner) => format!("{} ({})", key.name.as_str(), partner.as_str()),
        Scope::Read | Scope::Operator => key.name.as_str().into(),
    };
    columns([key.id.as_str(), key.scope.as_str(), &day(key.created_at), &used, &ends, &name])
}

fn columns([id, scope, created, used, ends, name]: [&str; 6]) -> String {
    format!("{id:16}  {scope:8}  {created:10}  {used:16}  {ends:10}  {name}")
}

async fn verify_data() -> ExitCode {
    // If the reader closes the pipe early, the check goes on, since the exit code still matters.
    let say = |line: &str| drop(writeln!(std::io::stdout(), "{line}"));
    let mut problems = 0;
    let code = with_database(async |config| {
        let report = server::verify(&config, say).await?;
        problems = report.problems;
        say(&report.to_string());
        Ok(())
    })
    .await;
    if problems > 0 { ExitCode::from(EXIT_FAILURE) } else { code }
}

fn print_openapi() -> ExitCode {
    let document = http::document().to_pretty_json();
    let document = document.expect("JSON can represent everything in the document");
    match writeln!(std::io::stdout(), "{document}") {
        Ok(()) => ExitCode::SUCCESS,
        // The reader closed the pipe early.
        Err(_) => ExitCode::from(EXIT_FAILURE),
    }
}

async fn postgres(command: Vec<String>) -> ExitCode {
    let [program, arguments @ ..] = &command[..] else {
        unreachable!("clap requires at least one word");
    };
    let start = || ThrowawayPostgres::start(Database::bin_dir().as_deref());
    let database = match tokio::task::spawn_blocking(start).await {
        Ok(Ok(database)) => database,
        Ok(Err(failure)) => return complain_of_launch(&failure),
        Err(failure) => return complain(EXIT_FAILURE, &failure.to_string()),
    };
    let mut process = Process::new(program);
    process.args(arguments).envs(database.address().environment());
    match run_to_end(process).await {
        // If a signal ended the command, the exit code is the one that a shell would give.
        Ok(status) => {
            let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
            ExitCode::from(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(EXIT_FAILURE))
        }
        Err(failure) => complain(EXIT_FAILURE, &format!("{program}: {failure}")),
    }
}

/// Waits for the process, and passes SIGTERM on to it. Ctrl-C reaches it directly.
async fn run_to_end(mut process: Process) -> std::io::Result<ExitStatus> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut child = process.spawn()?;
    loop {
        tokio::select! {
            status = child.wait() => return status,
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {
                if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                    // It may have ended in the meantime; the next iteration notices.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
            }
        }
    }
}

fn complain_of_launch(failure: &LaunchError) -> ExitCode {
    let code = match failure {
        LaunchError::Failed { .. } => EXIT_FAILURE,
        LaunchError::NotFound { .. }
        | LaunchError::NotInBinDir { .. }
        | LaunchError::WrongVersion { .. }
        | LaunchError::TooOld { .. }
        | LaunchError::InUse { .. }
        | LaunchError::NoPassword { .. }
        | LaunchError::Io { .. }
        | LaunchError::NoUser => EXIT_SETUP,
    };
    complain(code, &failure.to_string())
}

fn complain(code: u8, what: &str) -> ExitCode {
    logging::say(&format!("ticketboss: {what}"));
    ExitCode::from(code)
}

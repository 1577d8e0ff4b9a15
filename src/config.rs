//! Settings, from the environment (and from `.env`, which [`crate::server`] never sees).

use std::fmt::Display;
use std::net::{SocketAddr, ToSocketAddrs as _};
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use std::{env, thread};

use sqlx::postgres::PgConnectOptions;
use thiserror::Error;

use crate::domain::{EventId, EventName, NewEvent, SeatCount, TotalSeats};

pub mod env_file;

/// Every setting with its default and its meaning, as `--help` and `.env.sample` show it.
pub const SETTINGS: &str = "\
HOST                      127.0.0.1        address to listen on
PORT                      5000             port to listen on; 0 takes a free one
ACCESS_CONTROL            off              keys: callers need a key (see `ticketboss key`); off
                                           must be set explicitly if HOST is more than this machine
PARTNER_REQUESTS_PER_S    1000             with keys: requests per second to this server from one
                                           partner, or from any other key
PARTNER_REQUESTS_BURST    2000             with keys: requests that may come at once after a pause
PARTNER_HOLDS_MAX         1000             with keys: open holds of a partner on one event
CORS_ORIGINS              (none)           origins whose web pages may call the API, such as
                                           https://a.example, separated by commas
TLS_CERT                  (none)           file with the certificate chain (PEM); with TLS_KEY, the
                                           service speaks HTTPS only
TLS_KEY                   (none)           file with the key (PEM); both are read again on SIGHUP
DATABASE_URL              (none)           postgres://...; without it, a private PostgreSQL runs
DATA_DIR                  (by user)        directory of the private PostgreSQL: /var/lib/ticketboss
                                           for root, otherwise $XDG_DATA_HOME/ticketboss
                                           or ~/.local/share/ticketboss
PG_BIN_DIR                (searched)       directory of initdb, pg_ctl and postgres
MIGRATE_ON_START          true             false: do not migrate, and do not start on an old schema
DEFAULT_EVENT_ID          node-meetup-2025 the event behind /reservations
DEFAULT_EVENT_NAME        Node.js Meet-up  its name, set when it is created on the first start
DEFAULT_EVENT_SEATS       500              its seats, set when it is created on the first start
WORKERS                   (cores)          threads that serve HTTP
DATABASE_CONNECTIONS_MAX  20               database connections, 2 to 180; with keys, one more
REQUEST_TIMEOUT_MS        4000             time from request to answer, 100 to 60000
MAILBOX_COMMANDS_MAX      10000            commands that may wait for one event
STREAM_BYTES_PER_S_MAX    32000000         bytes/s of all event streams together, 1000000 or more
DRAIN_DELAY_MS            0                time from SIGTERM to the stop, while /ready answers 503
RUST_LOG                  (important only) what to log: error, warn, info, debug, or module=level;
                                           info includes a line for each request
LOG_FORMAT                text             text, or json: one object per line";

#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses to listen on: what HOST resolves to, with PORT.
    pub addresses: Vec<SocketAddr>,
    pub access_control: AccessControl,
    /// Origins of web pages that may call, as browsers send them.
    pub cors_origins: Vec<String>,
    pub tls: Option<TlsFiles>,
    /// Request limits of one partner, with access control on.
    pub partner_requests_per_s: NonZeroU32,
    pub partner_requests_burst: NonZeroU32,
    /// Open holds of one partner on one event.
    pub partner_holds_max: u32,
    pub database: Database,
    pub migrate_on_start: bool,
    /// Created on the first start, never touched on a later one.
    pub default_event: NewEvent,
    pub workers: usize,
    pub database_connections_max: usize,
    pub request_timeout: Duration,
    pub mailbox_commands_max: usize,
    /// The time from the signal to stop until nothing more is accepted.
    pub drain_delay: Duration,
    /// For all streams together.
    pub stream_bytes_per_s_max: u64,
}

/// The files with the certificate and its key.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Whether callers need a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessControl {
    Off,
    Keys,
}

/// The format of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

impl LogFormat {
    /// Reads only LOG_FORMAT: the log starts before everything else.
    pub fn from_env() -> Result<Self, BadSetting> {
        let value = env::var_os("LOG_FORMAT").unwrap_or_default();
        match value.to_string_lossy().as_ref() {
            "" | "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            other => {
                let (value, allowed) = (other.to_owned(), "text or json".into());
                Err(BadSetting { name: "LOG_FORMAT", value, allowed })
            }
        }
    }
}

/// Where the data is.
#[derive(Clone, Debug)]
pub enum Database {
    Given(Box<PgConnectOptions>),
    /// A PostgreSQL of our own.
    Private {
        data_dir: PathBuf,
        bin_dir: Option<PathBuf>,
    },
}

/// A setting that cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("{name} is {value:?}; allowed: {allowed}")]
pub struct BadSetting {
    name: &'static str,
    value: String,
    allowed: String,
}

impl Config {
    /// Reads the process's environment.
    pub fn from_env() -> Result<Self, BadSetting> {
        // Values that are not UTF-8 are kept with replacement characters, so that they are refused
        // and not overlooked.
        Self::from_lookup(&|name| Some(env::var_os(name)?.to_string_lossy().into_owned()))
    }

    /// Reads only the settings that say where the database is, for commands that do not serve:
    /// mistakes in other settings do not concern them.
    pub fn of_database() -> Result<Self, BadSetting> {
        const DATABASE: [&str; 6] =
            ["DATABASE_URL", "DATA_DIR", "PG_BIN_DIR", "MIGRATE_ON_START", "XDG_DATA_HOME", "HOME"];
        Self::from_lookup(&|name| {
            DATABASE
                .contains(&name)
                .then(|| env::var_os(name))
                .flatten()
                .map(|value| value.to_string_lossy().into_owned())
        })
    }

    /// Reads settings by name. An empty value counts as not given.
    pub fn from_lookup(lookup: &dyn Fn(&str) -> Option<String>) -> Result<Self, BadSetting> {
        let settings = Settings(lookup);
        let addresses = settings.addresses()?;
        Ok(Self {
            access_control: settings.access_control(&addresses)?,
            addresses,
            cors_origins: settings.cors_origins()?,
            tls: settings.tls()?,
            partner_requests_per_s: settings.requests("PARTNER_REQUESTS_PER_S", 1000)?,
            partner_requests_burst: settings.requests("PARTNER_REQUESTS_BURST", 2000)?,
            partner_holds_max: settings.number("PARTNER_HOLDS_MAX", 1000, 1, 10_000)?,
            database: settings.database()?,
            migrate_on_start: settings.flag("MIGRATE_ON_START", true)?,
            default_event: settings.default_event()?,
            workers: settings.number("WORKERS", cores(), 1, 256)?,
            database_connections_max: settings.number("DATABASE_CONNECTIONS_MAX", 20, 2, 180)?,
            request_timeout: Duration::from_millis(settings.number(
                "REQUEST_TIMEOUT_MS",
                4000,
                100,
                60_000,
            )?),
            mailbox_commands_max: settings.number("MAILBOX_COMMANDS_MAX", 10_000, 1, 1_000_000)?,
            drain_delay: Duration::from_millis(settings.number("DRAIN_DELAY_MS", 0, 0, 300_000)?),
            stream_bytes_per_s_max: settings.number(
                "STREAM_BYTES_PER_S_MAX",
                32_000_000,
                1_000_000,
                10_000_000_000,
            )?,
        })
    }
}

impl Database {
    /// Reads only PG_BIN_DIR, for commands that need no other setting.
    pub fn bin_dir() -> Option<PathBuf> {
        env::var_os("PG_BIN_DIR").filter(|dir| !dir.is_empty()).map(PathBuf::from)
    }
}

fn cores() -> usize {
    thread::available_parallelism().map_or(2, NonZeroUsize::get)
}

fn one_alone(name: &'static str) -> BadSetting {
    let allowed = "a PEM file: TLS_CERT and TLS_KEY must be set together".into();
    BadSetting { name, value: String::new(), allowed }
}

struct Settings<'a>(&'a dyn Fn(&str) -> Option<String>);

impl Settings<'_> {
    fn text(&self, name: &str) -> Option<String> {
        (self.0)(name).filter(|value| !value.is_empty())
    }

    fn number<T>(&self, name: &'static str, default: T, min: T, max: T) -> Result<T, BadSetting>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(value) = self.text(name) else { return Ok(default) };
        match value.parse() {
            Ok(number) if number >= min && number <= max => Ok(number),
            _ => {
                let allowed = format!("a whole number from {min} to {max}");
                Err(BadSetting { name, value, allowed })
            }
        }
    }

    fn addresses(&self) -> Result<Vec<SocketAddr>, BadSetting> {
        let port = self.number("PORT", 5000, 0, u16::MAX)?;
        let value = self.text("HOST").unwrap_or_else(|| "127.0.0.1".into());
        match (value.as_str(), port).to_socket_addrs() {
            Ok(all) => {
                // A name may be listed twice, and nobody can listen twice.
                let mut addresses: Vec<SocketAddr> = Vec::new();
                for address in all {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                Ok(addresses)
            }
            Err(_) => {
                let allowed = "an address or a name of this machine".into();
                Err(BadSetting { name: "HOST", value, allowed })
            }
        }
    }

    fn requests(&self, name: &'static str, default: u32) -> Result<NonZeroU32, BadSetting> {
        let number = self.number(name, default, 1, 1_000_000)?;
        Ok(NonZeroU32::new(number).expect("it was checked to be 1 or more"))
    }

    fn cors_origins(&self) -> Result<Vec<String>, BadSetting> {
        let name = "CORS_ORIGINS";
        let Some(value) = self.text(name) else { return Ok(Vec::new()) };
        let origins: Vec<String> = value.split(',').map(|origin| origin.trim().into()).collect();
        // A browser sends the scheme, the host, and the port unless it is the default one.
        let is_origin = |origin: &String| {
            let host = ["https://", "http://"].iter().find_map(|it| origin.strip_prefix(it));
            host.is_some_and(|host| {
                let (host, port) = host.rsplit_once(':').unwrap_or((host, "443"));
                let legal = |byte: u8| {
                    byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-".contains(&byte)
                };
                let is_host = !host.is_empty() && host.bytes().all(legal);
                let is_usual = origin.ends_with(":443") && origin.starts_with("https:")
                    || origin.ends_with(":80") && origin.starts_with("http:");
                is_host && !is_usual && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        if origins.iter().all(is_origin) {
            Ok(origins)
        } else {
            let allowed =
                "origins such as https://shop.example, separated by commas, without a slash at \
                           the end and without the scheme's default port"
                    .into();
            Err(BadSetting { name, value, allowed })
        }
    }

    fn tls(&self) -> Result<Option<TlsFiles>, BadSetting> {
        match (self.text("TLS_CERT"), self.text("TLS_KEY")) {
            (None, None) => Ok(None),
            (Some(certificate), Some(key)) => {
                Ok(Some(TlsFiles { certificate: certificate.into(), key: key.into() }))
            }
            (Some(_), None) => Err(one_alone("TLS_KEY")),
            (None, Some(_)) => Err(one_alone("TLS_CERT")),
        }
    }

    /// Off by default only if nobody outside this machine can call.
    fn access_control(&self, addresses: &[SocketAddr]) -> Result<AccessControl, BadSetting> {
        let name = "ACCESS_CONTROL";
        match self.text(name).as_deref() {
            Some("keys") => Ok(AccessControl::Keys),
            Some("off") => Ok(AccessControl::Off),
            None if addresses.iter().all(|address| address.ip().is_loopback()) => {
                Ok(AccessControl::Off)
            }
            Some(value) => {
                let allowed = "keys or off".into();
                Err(BadSetting { name, value: value.into(), allowed })
            }
            None => {
                let allowed = "keys (create the first one with `ticketboss key create`), or off, \
                               which lets anybody do everything; it must be set if HOST is more \
                               than this machine"
                    .into();
                Err(BadSetting { name, value: "(not set)".into(), allowed })
            }
        }
    }

    fn flag(&self, name: &'static str, default: bool) -> Result<bool, BadSetting> {
        match self.text(name).as_deref() {
            None => Ok(default),
            Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(value) => {
                let allowed = "true or false".into();
                Err(BadSetting { name, value: value.into(), allowed })
            }
        }
    }

    fn database(&self) -> Result<Database, BadSetting> {
        if let Some(url) = self.text("DATABASE_URL") {
            return database_at(&url);
        }
        let data_dir = self.text("DATA_DIR").map(PathBuf::from).or_else(|| self.data_home());
        let Some(data_dir) = data_dir else {
            return Err(BadSetting {
                name: "DATA_DIR",
                value: String::new(),
                allowed: "a directory (HOME is not set, so there is no default)".into(),
            });
        };
        let bin_dir = self.text("PG_BIN_DIR").map(PathBuf::from);
        Ok(Database::Private { data_dir, bin_dir })
    }

    fn data_home(&self) -> Option<PathBuf> {
        if nix::unistd::geteuid().is_root() {
            return Some("/var/lib/ticketboss".into());
        }
        let home = || Some(PathBuf::from(self.text("HOME")?).join(".local/share"));
        let data_home = self.text("XDG_DATA_HOME").map(PathBuf::from).or_else(home)?;
        Some(data_home.join("ticketboss"))
    }

    fn default_event(&self) -> Result<NewEvent, BadSetting> {
        let name = "DEFAULT_EVENT_ID";
        let value = self.text(name).unwrap_or_else(|| "node-meetup-2025".into());
        let Some(id) = EventId::parse(&value) else {
            let allowed = "1 to 64 lower-case letters, digits and inner hyphens".into();
            return Err(BadSetting { name, value, allowed });
        };
        let name = "DEFAULT_EVENT_NAME";
        let value = self.text(name).unwrap_or_else(|| "Node.js Meet-up".into());
        let Some(event_name) = EventName::parse(&value) else {
            let allowed = "1 to 200 characters, not blank and without control characters".into();
            return Err(BadSetting { name, value, allowed });
        };
        let seats = self.number("DEFAULT_EVENT_SEATS", 500, 1, TotalSeats::MAX.into())?;
        Ok(NewEvent {
            id,
            name: event_name,
            total_seats: TotalSeats::new(seats).expect("it was checked to be in range"),
            seats_per_reservation_max: SeatCount::DEFAULT_MAX,
            seats_per_partner_max: None,
            sales_open_at: None,
            sales_close_at: None,
        })
    }
}

fn database_at(url: &str) -> Result<Database, BadSetting> {
    // The value is not repeated, because it contains a password.
    let bad = |allowed: String| {
        let (name, value) = ("DATABASE_URL", "(not shown)".into());
        Err(BadSetting { name, value, allowed })
    };
    let form = "postgres://USER:PASSWORD@HOST:PORT/DATABASE";
    // sqlx would accept any scheme.
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        return bad(form.into());
    }
    // It would also ignore unknown parameters: a misspelt one that asks for TLS would leave the
    // connection without it.
    let parameters = url.split_once('?').map_or("", |(_, query)| query).split('&');
    let mut names = parameters.map(|pair| pair.split('=').next().unwrap_or_default());
    let is_wrong = |name: &&str| {
        name.to_ascii_lowercase().starts_with("ssl") && !TLS_PARAMETERS.contains(name)
    };
    if let Some(name) = names.find(is_wrong) {
        let known = TLS_PARAMETERS[..4].join(", ");
        return bad(format!("of the parameters that begin with ssl, only {known}, not {name}"));
    }
    match url.parse() {
        Ok(options) => Ok(Database::Given(Box::new(options))),
        Err(sqlx::Error::Configuration(failure)) => bad(format!("{form} ({failure})")),
        Err(_) => bad(form.into()),
    }
}

/// The parameters of a `DATABASE_URL` that are about TLS; the last five are other spellings.
const TLS_PARAMETERS: [&str; 9] = [
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
    "ssl-mode",
    "ssl-root-cert",
    "ssl-ca",
    "ssl-cert",
    "ssl-key",
];

//! Each test has a database of its own, the real server on it, and an audit at the end.

use std::path::PathBuf;
use std::sync::OnceLock;
use std::time::Duration;

use reqwest::{Client, Method, Response, StatusCode};
use serde_json::{Value, json};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, PgConnection};
use ticketboss::config::{Config, Database};
use ticketboss::domain::{
    Action, Alter, Caller, Command, IdempotencyKey, Item, KeyId, KeyName, PartnerId, PartnerLimits,
    Precondition, ReservationId, Reserve, Scope, SeatCount,
};
use ticketboss::postgres::ThrowawayPostgres;
use ticketboss::server::{OpenDatabase, Server, keys, listen};
use uuid::Uuid;

pub mod binary;
pub mod browser;
pub mod proxy;
pub mod simulated;
pub mod workshop;

pub const DEFAULT_EVENT: &str = "node-meetup-2025";

/// Far longer than anything takes: it ends waits that would never end.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Returns once the condition holds. One that never does fails the test, instead of hanging it.
pub async fn eventually(condition: &str, mut holds: impl AsyncFnMut() -> bool) {
    let waiting = async {
        while !holds().await {
            tokio::task::yield_now().await;
        }
    };
    let waited = tokio::time::timeout(PATIENCE, waiting).await;
    waited.unwrap_or_else(|_elapsed| panic!("it never came about that {condition}"));
}

/// The server that all tests share. It goes away with the process.
fn cluster() -> &'static ThrowawayPostgres {
    static CLUSTER: OnceLock<ThrowawayPostgres> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let bin_dir = Database::bin_dir();
        ThrowawayPostgres::start(bin_dir.as_deref()).expect("a throwaway PostgreSQL starts")
    })
}

/// The directory of `psql` and PostgreSQL's other programs.
pub fn postgres_programs() -> PathBuf {
    cluster().binary("psql").parent().expect("it is in a directory").to_owned()
}

/// A database that belongs to one test.
pub struct TestDatabase {
    pub url: String,
    pub options: PgConnectOptions,
}

impl TestDatabase {
    pub async fn create() -> Self {
        let database = Self::create_empty().await;
        ticketboss::store::schema::migrate(&database.options).await.expect("migrations apply");
        database
    }

    pub async fn create_empty() -> Self {
        let server =
            tokio::task::spawn_blocking(|| cluster().address().url()).await.expect("starts");
        let name = format!("test_{}", Uuid::new_v4().simple());
        let mut connection = PgConnection::connect(&server).await.expect("the cluster is there");
        sqlx::query(AssertSqlSafe(format!("create database {name}")))
            .execute(&mut connection)
            .await
            .expect("a database can be made");
        let url = format!("{}/{name}", server.rsplit_once('/').expect("a URL").0);
        let options = url.parse().expect("a URL");
        Self { url, options }
    }

    pub async fn connect(&self) -> PgConnection {
        self.options.connect().await.expect("the database is there")
    }

    /// Runs statements that the test itself knows to be safe.
    pub async fn execute(&self, sql: impl Into<String>) {
        let sql = AssertSqlSafe(sql.into());
        sqlx::raw_sql(sql).execute(&mut self.connect().await).await.expect("statements run");
    }

    /// The same database, as another role.
    pub fn as_role(&self, role: &str, password: &str) -> Self {
        let (_, rest) = self.url.split_once('@').expect("it names a user");
        let url = format!("postgres://{role}:{password}@{rest}");
        Self { options: url.parse().expect("a URL"), url }
    }

    /// Inserts an event directly, for tests that run without the service.
    pub async fn insert_event(&self, id: &str, seats: i32) {
        sqlx::query(
            "insert into events (id, name, initial_seats, total_seats, available_seats)
             values ($1, $1, $2, $2, $2)",
        )
        .bind(id)
        .bind(seats)
        .execute(&mut self.connect().await)
        .await
        .expect("an event can be made");
    }

    /// What is wrong with the data, by the audit statement of the tests and by `ticketboss verify`.
    pub async fn problems(&self) -> (Vec<String>, Vec<String>) {
        let by_statement = sqlx::query_scalar(include_str!("../audit.sql"))
            .fetch_all(&mut self.connect().await)
            .await
            .expect("the audit runs");
        let mut by_verify = Vec::new();
        let tell = |problem: &str| by_verify.push(problem.to_owned());
        ticketboss::verify::verify(&self.options, tell).await.expect("it can be read");
        (by_statement, by_verify)
    }

    /// Fails with a list of all problems, if there are any.
    pub async fn audit(&self) {
        let (by_statement, by_verify) = self.problems().await;
        let problems = [by_statement, by_verify].concat();
        assert!(problems.is_empty(), "the audit found:\n{}", problems.join("\n"));
    }
}

/// The real server, in this process, on a free port.
pub struct TestApp {
    pub database: TestDatabase,
    pub base: String,
    client: Client,
    server: Server,
}

/// Starts a server on a database of its own, runs the test, audits the data and stops.
pub async fn with_app(test: impl AsyncFnOnce(&TestApp)) {
    with_settings(&[], test).await;
}

/// The same, with settings.
pub async fn with_settings(settings: &[(&str, &str)], test: impl AsyncFnOnce(&TestApp)) {
    with_database(TestDatabase::create_empty().await, settings, test).await;
}

/// The same, on this database; `settings` may have another `DATABASE_URL` that leads to it.
pub async fn with_database(
    database: TestDatabase,
    settings: &[(&str, &str)],
    test: impl AsyncFnOnce(&TestApp),
) {
    let app = TestApp::start(database, settings).await;
    test(&app).await;
    app.server.stop().await;
    app.database.audit().await;
}

impl TestApp {
    async fn start(database: TestDatabase, settings: &[(&str, &str)]) -> Self {
        let config = config(&database, settings);
        let open = OpenDatabase::open(&config.database).await.expect("it is given");
        let listeners = listen(&config.addresses).expect("a free port");
        let server = Server::start(&config, &open, listeners).await.expect("the server starts");
        let base = format!("http://{}", server.address());
        Self { database, base, client: Client::new(), server }
    }

    /// Makes an access key as the command line does.
    pub async fn key(&self, scope: Scope) -> (KeyId, String) {
        let name = KeyName::parse("a test").expect("a name");
        let made = keys::make(&config(&self.database, &[]), name, scope, None).await;
        let (key, text, _) = made.expect("a key is made");
        (key.id, text)
    }

    /// Sends a request with an access key, and with the body unless that is null.
    pub async fn send_as(&self, key: &str, method: Method, path: &str, body: Value) -> Answer {
        let authorization = format!("Bearer {key}");
        let headers = [("authorization", authorization.as_str()), ("if-match", "*")];
        self.send(method, path, &headers, (!body.is_null()).then(|| body.to_string())).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(Method::GET, path, &[], None).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(Method::DELETE, path, &[], None).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(Method::POST, path, &[], Some(body.to_string())).await
    }

    pub async fn post_with_key(&self, path: &str, key: &str, body: Value) -> Answer {
        let headers = [("idempotency-key", key)];
        self.send(Method::POST, path, &headers, Some(body.to_string())).await
    }

    pub async fn patch(&self, path: &str, if_match: &str, body: Value) -> Answer {
        let headers = [("if-match", if_match)];
        self.send(Method::PATCH, path, &headers, Some(body.to_string())).await
    }

    /// Makes an event with this many seats.
    pub async fn make_event(&self, id: &str, seats: i32) {
        let event = json!({"eventId": id, "name": id, "totalSeats": seats});
        assert_eq!(self.post("/events", event).await.status, 201);
    }

    /// Makes a reservation in an event, and returns its path.
    pub async fn made_in(&self, event: &str, body: Value) -> String {
        let answer = self.post(&format!("/events/{event}/reservations"), body).await;
        answer.made();
        answer.header("location").expect("a location").to_owned()
    }

    /// Lets every hold end now, instead of waiting for it.
    pub async fn end_holds(&self) {
        self.database
            .execute("update reservations set hold_expires_at = now() where status = 'held'")
            .await;
    }

    /// Books seats of the default event.
    pub async fn reserve(&self, seats: i32) -> Answer {
        self.post("/reservations", json!({"partnerId": "abc-corp", "seats": seats})).await
    }

    /// Posts bytes that need not be text.
    pub async fn post_bytes(&self, path: &str, body: Vec<u8>) -> Answer {
        let request = self.client.post(format!("{}{path}", self.base));
        let request = request.header("content-type", "application/json").body(body);
        Answer::of(request.send().await.expect("an answer")).await
    }

    pub async fn send(
        &self,
        method: Method,
        path: &str,
        headers: &[(&str, &str)],
        body: Option<String>,
    ) -> Answer {
        let mut request = self.client.request(method, format!("{}{path}", self.base));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        if let Some(body) = body {
            if !headers.iter().any(|(name, _)| *name == "content-type") {
                request = request.header("content-type", "application/json");
            }
            request = request.body(body);
        }
        Answer::of(request.timeout(Duration::from_secs(30)).send().await.expect("an answer")).await
    }
}

fn config(database: &TestDatabase, settings: &[(&str, &str)]) -> Config {
    Config::from_lookup(&|name| {
        let given = settings.iter().find(|(setting, _)| *setting == name);
        let fixed = match name {
            "PORT" => Some("0"),
            "WORKERS" => Some("2"),
            "DATABASE_URL" => Some(database.url.as_str()),
            _ => None,
        };
        given.map(|(_, value)| *value).or(fixed).map(str::to_owned)
    })
    .expect("the settings are good")
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    pub async fn of(response: Response) -> Self {
        let (status, headers) = (response.status(), response.headers().clone());
        Self { status, headers, text: response.text().await.expect("a body") }
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().expect("text"))
    }

    /// The reservation of a 201.
    pub fn made(&self) -> Value {
        assert_eq!(self.status, 201, "{self:?}");
        self.json()
    }

    /// Checks that this is a well-formed problem of the kind, and returns it.
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{self:?}");
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{self:?}");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        assert_eq!(problem["type"], format!("/problems/{}", code.replace('_', "-")));
        assert_eq!(problem["detail"], problem["error"], "{problem}");
        assert!(!problem["title"].as_str().unwrap_or_default().is_empty(), "{problem}");
        assert_eq!(problem["requestId"].as_str(), self.header("x-request-id"), "{problem}");
        if status == 503 {
            assert!(self.header("retry-after").is_some(), "{self:?}");
            assert!(problem["retryAfterMs"].is_u64(), "{problem}");
        }
        problem
    }
}

/// A partner id; the name must be a valid one.
pub fn partner(name: &str) -> PartnerId {
    PartnerId::parse(name).expect("a partner id")
}

/// A booking with a new reservation id.
pub fn reserve_as(name: &str, seats: i32, key: Option<&str>) -> Command {
    let seats = SeatCount::new(seats.into()).expect("a seat count");
    let id = ReservationId(Uuid::now_v7());
    Command::Reserve(Reserve {
        partner_id: partner(name),
        items: vec![Item { id, seats, hold: None, reference: None }],
        is_list: false,
        key: key.map(|key| IdempotencyKey::parse(key).expect("a key")),
        precondition: Precondition::Any,
        by: Caller::Anybody,
        limits: None,
    })
}

/// The same command, by a partner that may have this many open holds.
pub fn limited(command: Command, open_holds_max: u32) -> Command {
    let Command::Reserve(reserve) = command else { return command };
    let by = Caller::Partner(reserve.partner_id.clone());
    Command::Reserve(Reserve { by, limits: Some(PartnerLimits { open_holds_max }), ..reserve })
}

/// A change of a reservation, whatever its version.
pub fn alter(id: ReservationId, action: Action) -> Command {
    Command::Alter(Alter { id, action, precondition: Precondition::Any, by: Caller::Anybody })
}

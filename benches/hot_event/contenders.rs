//! The usual ways to book a seat, on the same HTTP stack and the same schema as the service.
//!
//! Each is a minimal form of its approach that is still correct: no journal, no retries after lost
//! connections, no idempotency, and few round trips. So each does less here than it would have to
//! do in a real service. Connections come from sqlx's own pool, as in most services; that pool
//! pings the server whenever a connection is returned to it. Sessions have the same settings as the
//! service's.

use std::io;
use std::net::TcpListener;
use std::time::Duration;

use actix_web::web::{Data, Json, Path};
use actix_web::{App, HttpResponse, HttpServer, web};
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{PgPool, Row as _};
use ticketboss::store::session_options;
use uuid::Uuid;

/// As many connections as the service has by default.
const CONNECTIONS: u32 = 20;
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(10);
/// Longer than any measurement, like the service's own.
const KEEP_ALIVE: Duration = Duration::from_secs(75);
/// Attempts of `Way::VersionRetry`.
const ATTEMPTS_MAX: usize = 100;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum)]
pub enum Way {
    /// Read the version, write if it is still the same, else 409.
    VersionCheck,
    /// The same, retried until it succeeds.
    VersionRetry,
    /// Lock the row, check, write, commit.
    ForUpdate,
    /// One statement without a read before it.
    Atomic,
}

impl Way {
    pub const ALL: [Self; 4] =
        [Self::VersionCheck, Self::VersionRetry, Self::ForUpdate, Self::Atomic];

    pub const fn name(self) -> &'static str {
        match self {
            Self::VersionCheck => "version check, no retry",
            Self::VersionRetry => "version check, with retry",
            Self::ForUpdate => "select ... for update",
            Self::Atomic => "one atomic statement",
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Wanted {
    partner_id: String,
    seats: i32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Made<'a> {
    reservation_id: Uuid,
    event_id: &'a str,
    partner_id: &'a str,
    seats: i32,
    status: &'static str,
}

/// Serves until the process is killed. Prints its address to standard error, as the service does.
pub fn main(way: Way, options: PgConnectOptions) -> io::Result<()> {
    actix_web::rt::System::new().block_on(async {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .test_before_acquire(false)
            .connect_lazy_with(session_options(options, STATEMENT_TIMEOUT));
        let listener = TcpListener::bind("127.0.0.1:0")?;
        eprintln!("serving http://{}", listener.local_addr()?);
        let application = move || {
            App::new()
                .app_data(Data::new((way, pool.clone())))
                .route("/events/{eventId}/reservations", web::post().to(reserve))
        };
        HttpServer::new(application).keep_alive(KEEP_ALIVE).listen(listener)?.run().await
    })
}

async fn reserve(
    contender: Data<(Way, PgPool)>,
    event_id: Path<String>,
    wanted: Json<Wanted>,
) -> HttpResponse {
    let (way, pool) = &**contender;
    let id = Uuid::now_v7();
    let booked = match way {
        Way::VersionCheck => version_check(pool, id, &event_id, &wanted, 1).await,
        Way::VersionRetry => version_check(pool, id, &event_id, &wanted, ATTEMPTS_MAX).await,
        Way::ForUpdate => for_update(pool, id, &event_id, &wanted).await,
        Way::Atomic => atomic(pool, id, &event_id, &wanted).await,
    };
    match booked {
        Ok(true) => HttpResponse::Created().json(Made {
            reservation_id: id,
            event_id: &event_id,
            partner_id: &wanted.partner_id,
            seats: wanted.seats,
            status: "confirmed",
        }),
        Ok(false) => HttpResponse::Conflict().body("conflict"),
        Err(failure) => HttpResponse::InternalServerError().body(failure.to_string()),
    }
}

async fn version_check(
    pool: &PgPool,
    id: Uuid,
    event_id: &str,
    wanted: &Wanted,
    attempts: usize,
) -> Result<bool, sqlx::Error> {
    let mut connection = pool.acquire().await?;
    for _attempt in 0..attempts {
        let read = sqlx::query("select available_seats, version from events where id = $1")
            .bind(event_id)
            .fetch_one(&mut *connection)
            .await?;
        if read.get::<i32, _>(0) < wanted.seats {
            return Ok(false);
        }
        let written = sqlx::query(
            "with moved as (
                 update events
                    set available_seats = available_seats - $1, version = version + 1,
                        reservation_count = reservation_count + 1
                  where id = $2 and version = $5 and available_seats >= $1
                 returning version
             )
             insert into reservations
                    (id, created_at, version, seats, event_id, partner_id, status)
             select $3, now(), version, $1, $2, $4, 'confirmed' from moved",
        )
        .bind(wanted.seats)
        .bind(event_id)
        .bind(id)
        .bind(&wanted.partner_id)
        .bind(read.get::<i64, _>(1))
        .execute(&mut *connection)
        .await?;
        if written.rows_affected() == 1 {
            return Ok(true);
        }
    }
    Ok(false)
}

async fn for_update(
    pool: &PgPool,
    id: Uuid,
    event_id: &str,
    wanted: &Wanted,
) -> Result<bool, sqlx::Error> {
    let mut transaction = pool.begin().await?;
    let read = sqlx::query("select available_seats from events where id = $1 for update")
        .bind(event_id)
        .fetch_one(&mut *transaction)
        .await?;
    if read.get::<i32, _>(0) < wanted.seats {
        return Ok(false);
    }
    let booked = take(&mut transaction, id, event_id, wanted).await?;
    transaction.commit().await?;
    Ok(booked)
}

async fn atomic(
    pool: &PgPool,
    id: Uuid,
    event_id: &str,
    wanted: &Wanted,
) -> Result<bool, sqlx::Error> {
    take(&mut *pool.acquire().await?, id, event_id, wanted).await
}

async fn take(
    connection: &mut sqlx::PgConnection,
    id: Uuid,
    event_id: &str,
    wanted: &Wanted,
) -> Result<bool, sqlx::Error> {
    let written = sqlx::query(
        "with moved as (
             update events
                set available_seats = available_seats - $1, version = version + 1,
                    reservation_count = reservation_count + 1
              where id = $2 and available_seats >= $1
             returning version
         )
         insert into reservations (id, created_at, version, seats, event_id, partner_id, status)
         select $3, now(), version, $1, $2, $4, 'confirmed' from moved",
    )
    .bind(wanted.seats)
    .bind(event_id)
    .bind(id)
    .bind(&wanted.partner_id)
    .execute(connection)
    .await?;
    Ok(written.rows_affected() == 1)
}

//! The hot-event benchmark: the service, the usual ways to book a seat, and the limits of the
//! machine, side by side. `cargo bench --bench hot_event -- --help` says how to run it.

use std::io;
use std::time::Duration;

use clap::{Parser, Subcommand};
use contenders::Way;
use lab::Lab;
use results::Results;
use scenes::{Bench, Effort};

mod chart;
mod contenders;
mod follow;
mod hostile;
mod lab;
mod load;
mod report;
mod results;
mod scenes;
mod targets;

/// The service's allocator, so that the other ways to book use it, too (as does the load
/// generator).
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the service on a throwaway PostgreSQL with its default durability.
#[derive(Parser)]
#[command(name = "hot_event", max_term_width = 100)]
struct Arguments {
    /// The hot event, refusals, summaries and replicas, in less than 3 minutes
    #[arg(long)]
    quick: bool,
    /// The scenes to measure, from 1 to 10 [default: all; quick: 1,2,3,4,6]
    #[arg(long, value_parser = clap::value_parser!(u8).range(1..=10), value_delimiter = ',')]
    scenes: Vec<u8>,
    /// Measurements of each thing [default: 4; quick: 3]
    #[arg(long)]
    rounds: Option<usize>,
    /// Time of each measurement in seconds [default: 2; quick: 1]
    #[arg(long)]
    seconds: Option<f64>,
    /// Rewrites docs/performance.md, its chart, and the table in the README
    #[arg(long, conflicts_with_all = ["quick", "scenes"])]
    write: bool,
    /// Passed by cargo to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    role: Option<Role>,
}

/// The roles in which this program starts itself.
#[derive(Subcommand)]
#[command(hide = true)]
enum Role {
    /// Runs a plan
    #[command(hide = true)]
    Load,
    /// Follows an event
    #[command(hide = true)]
    Follow,
    /// Attacks a service
    #[command(hide = true)]
    Hostile,
    /// Serves as one of the other ways to book
    #[command(hide = true)]
    Contender { way: Way },
}

fn main() -> io::Result<()> {
    let arguments = Arguments::parse();
    match arguments.role {
        Some(Role::Load) => load::main(),
        Some(Role::Follow) => follow::main(),
        Some(Role::Hostile) => hostile::main(),
        Some(Role::Contender { way }) => {
            let url = std::env::var("DATABASE_URL").map_err(io::Error::other)?;
            contenders::main(way, url.parse().map_err(io::Error::other)?)
        }
        None => measure(&arguments),
    }
}

fn measure(arguments: &Arguments) -> io::Result<()> {
    let (rounds, seconds) = if arguments.quick { (3, 1.0) } else { (4, 2.0) };
    let measured = Duration::from_secs_f64(arguments.seconds.unwrap_or(seconds));
    let effort = Effort {
        rounds: arguments.rounds.unwrap_or(rounds),
        measured,
        warm_up: measured / 4,
        full: !arguments.quick,
    };
    let usual: &[u8] =
        if arguments.quick { &[1, 2, 3, 4, 6] } else { &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10] };
    let scenes = if arguments.scenes.is_empty() { usual } else { &arguments.scenes };
    let lab = Lab::open();
    let mut bench = Bench { lab: &lab, effort, results: Results::default() };
    bench.run(scenes);
    let page = report::page(&lab, effort, &bench.results);
    println!("{page}");
    if bench.results.failed() {
        return Err(io::Error::other("something that was measured failed; see above"));
    }
    if arguments.write {
        report::write(&page, &bench.results)?;
    }
    Ok(())
}

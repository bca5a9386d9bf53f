//! Does Orderly keep its promises while everything around it is killed, stopped, cut off and restarted?
//!
//! `scripts/chaos` runs this; as a part of `cargo test` it is a short run with fixed seeds.
//! `plan` draws the faults, `cluster` is what they befall, `faults` does them; `producers` post, the
//! `receiver` receives, `record` keeps what they saw, `judge` decides, `report` and `timeline` tell.
#![allow(clippy::print_stdout, reason = "its result goes there")]

mod brokens;
mod cluster;
mod dice;
mod faults;
mod judge;
mod plan;
mod producers;
mod proxy;
mod receiver;
mod record;
mod report;
mod run;
mod timeline;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use run::{Settings, Verdict};

/// Kills, stops, cuts off and restarts parts of Orderly, and checks what the receivers got
#[derive(Debug, Parser)]
#[command(name = "chaos")]
struct Arguments {
    /// How long things are broken
    #[arg(long, default_value_t = 2.0)]
    minutes: f64,
    /// The same seed draws the same faults
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, default_value_t = 4)]
    workers: usize,
    #[arg(long, default_value_t = 2)]
    apis: usize,
    #[arg(long, default_value_t = 40)]
    destinations: usize,
    /// Of one of three producers: the mean pause between two posts
    #[arg(long, default_value_t = 40, value_name = "MILLISECONDS")]
    pace: u64,
    /// Only these faults, separated by commas (as the table names them)
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Seconds that a busy machine may add to what the guarantees say
    #[arg(long, default_value_t = 2.0)]
    slack: f64,
    /// Where the JSON, the timeline and the logs go
    #[arg(long, default_value = "target/chaos")]
    out: PathBuf,
    /// A deliberately broken engine (needs the feature `broken`): ends at the first violation
    #[arg(long)]
    broken: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "run") {
        return outcome(go(Arguments::parse_from(arguments)));
    }
    // As `cargo test` starts it: what libtest would understand is taken, and a name is a filter.
    if arguments.iter().any(|argument| argument == "--list") {
        println!("chaos: test");
        return ExitCode::SUCCESS;
    }
    let filters: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    if !filters.is_empty() && !filters.iter().any(|filter| "chaos".contains(filter.as_str())) {
        return ExitCode::SUCCESS;
    }
    let out = concat!(env!("CARGO_TARGET_TMPDIR"), "/chaos");
    outcome(go(Arguments::parse_from(["chaos", "--minutes", "0.6", "--workers", "3", "--slack", "5", "--out", out])))
}

fn go(arguments: Arguments) -> Result<Verdict, cluster::Failure> {
    let only: Result<Vec<_>, _> = arguments.only.iter().map(|name| plan::kind_named(name).ok_or(name)).collect();
    let settings = Settings {
        length: Duration::from_secs_f64(arguments.minutes * 60.0),
        seed: arguments.seed,
        workers: arguments.workers,
        apis: arguments.apis,
        destinations: arguments.destinations,
        pace: Duration::from_millis(arguments.pace),
        only: only.map_err(|name| format!("there is no fault {name}"))?,
        slack: Duration::from_secs_f64(arguments.slack),
        out: std::path::absolute(&arguments.out)?,
        broken: arguments.broken,
    };
    // Producers and faults share this thread; the receiver and the proxies have the others, so that an
    // instant is read when it is.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    tokio::task::LocalSet::new().block_on(&runtime, run::run(settings))
}

fn outcome(result: Result<Verdict, cluster::Failure>) -> ExitCode {
    match result {
        Ok(Verdict::Kept) => ExitCode::SUCCESS,
        Ok(Verdict::Broken) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("chaos: {error}");
            ExitCode::from(2)
        }
    }
}

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

use run::Settings;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// No violation; or, of broken engines, one of each.
    Kept,
    Broken,
}

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
    /// A deliberately broken engine, or `all` of them (needs the feature `broken`): ends at the first
    /// violation, and succeeds when there is one
    #[arg(long)]
    broken: Option<String>,
    /// The executable to check, when not the one built with this
    #[arg(long, default_value = env!("CARGO_BIN_EXE_orderly"), hide_default_value = true)]
    orderly: PathBuf,
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
    let Some(broken) = arguments.broken.clone() else {
        return Ok(if check(&arguments, None)?.is_none() { Verdict::Kept } else { Verdict::Broken });
    };
    let chosen: Vec<_> = brokens::ALL.iter().filter(|(name, _)| broken == "all" || broken == *name).collect();
    if chosen.is_empty() || cfg!(not(feature = "broken")) {
        return Err("such a broken engine is not built in".into());
    }
    let mut caught = Vec::new();
    for (name, faults) in &chosen {
        println!("\n== {name}");
        caught.push((name, check(&arguments, Some((name, faults)))?));
    }
    println!("\n  {:<24} {:>10}  seen as", "broken engine", "seconds");
    for (name, first) in &caught {
        match first {
            Some(first) => println!("  {name:<24} {:>10.1}  {:?}", judge::seconds(first.at), first.rule),
            None => println!("  {name:<24} {:>10}", "not seen"),
        }
    }
    Ok(if caught.iter().all(|(_, first)| first.is_some()) { Verdict::Kept } else { Verdict::Broken })
}

/// One run; its first violation.
fn check(
    arguments: &Arguments,
    broken: Option<(&str, &[record::FaultKind])>,
) -> Result<Option<judge::Violation>, cluster::Failure> {
    let only: Result<Vec<_>, _> = arguments.only.iter().map(|name| plan::kind_named(name).ok_or(name)).collect();
    let settings = Settings {
        length: Duration::from_secs_f64(arguments.minutes * 60.0),
        seed: arguments.seed,
        workers: arguments.workers,
        apis: arguments.apis,
        destinations: arguments.destinations,
        pace: Duration::from_millis(arguments.pace),
        only: match broken {
            Some((_, faults)) => faults.to_vec(),
            None => only.map_err(|name| format!("there is no fault {name}"))?,
        },
        slack: Duration::from_secs_f64(arguments.slack),
        out: std::path::absolute(match broken {
            Some((name, _)) => arguments.out.join(name),
            None => arguments.out.clone(),
        })?,
        broken: broken.map(|(name, _)| name.to_owned()),
        orderly: arguments.orderly.clone(),
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

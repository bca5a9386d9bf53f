//! How fast is Orderly, measured beside what it could be at best?
//!
//! Each benchmark runs Orderly and its floor (the same work without what Orderly adds) several rounds in
//! turn, on one private Postgres with its default settings, with the receiver and the load generator in
//! processes of their own: this program again, with a subcommand. docs/PERFORMANCE.md explains each.

mod accept;
mod bare;
mod child;
mod cluster;
mod deliver;
mod floor_api;
mod histogram;
mod idle;
mod isolation;
mod measure;
mod memory;
mod payloads;
mod peers;
mod plot;
mod poster;
mod queue;
mod receiver;
mod report;
mod scale;
mod single;
mod through;
mod workers;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use cluster::Cluster;
use payloads::Payloads;
use report::Report;

/// As Orderly's, so that what is compared is not the allocator.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

#[expect(unsafe_code, reason = "as in the executable")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: &[u8] = b"dirty_decay_ms:1000,muzzy_decay_ms:0\0";

pub type Failure = Box<dyn std::error::Error + Send + Sync>;
pub type Result<T> = std::result::Result<T, Failure>;

/// Measures Orderly beside its floors
#[derive(Parser)]
#[command(name = "scripts/bench", args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    part: Option<Part>,

    #[command(flatten)]
    options: Options,
}

#[derive(clap::Args)]
pub struct Options {
    /// Which ones; all but those with other queues when none is named
    names: Vec<String>,

    /// Bodies to send instead of the synthetic one: a JSON value, or {"payload": …}, a line
    #[arg(long, value_name = "NDJSON")]
    payloads: Option<PathBuf>,

    /// How often each side is measured
    #[arg(long, default_value_t = 3)]
    rounds: usize,

    /// A tenth of the load (or that part of it, --quick=100 a hundredth), one round; nothing is written
    #[arg(long, value_name = "PART", num_args = 0..=1, require_equals = true, default_missing_value = "10")]
    quick: Option<std::num::NonZeroU64>,

    /// Where the JSON results and the plots go
    #[arg(long, value_name = "FOLDER", default_value = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/performance"))]
    out: PathBuf,

    /// Where scripts/bench-peers has installed other queues
    #[arg(long, value_name = "FOLDER")]
    peers: Option<PathBuf>,

    /// Given by `cargo bench`
    #[arg(long, hide = true)]
    bench: bool,
}

/// What runs in a process of its own.
#[derive(Subcommand)]
enum Part {
    #[command(hide = true)]
    Receiver(receiver::Arguments),
    #[command(hide = true)]
    BareDeliver(bare::DeliverArguments),
    #[command(hide = true)]
    BareSingle(bare::SingleArguments),
    #[command(hide = true)]
    BareInsert(bare::InsertArguments),
    #[command(hide = true)]
    Post(poster::Arguments),
    #[command(hide = true)]
    QueueEnqueue(queue::EnqueueArguments),
    #[command(hide = true)]
    QueueWork(queue::WorkArguments),
    #[command(hide = true)]
    FloorHandler,
    #[command(hide = true)]
    FloorRelay(floor_api::RelayArguments),
}

/// What all benchmarks get.
pub struct Bench {
    pub options: Options,
    pub payloads: Payloads,
}

impl Bench {
    fn rounds(&self) -> usize {
        if self.quick() { 1 } else { self.options.rounds.max(1) }
    }

    /// To see that everything works: its figures say little.
    fn quick(&self) -> bool {
        self.options.quick.is_some()
    }

    /// A load, a part of it when quick.
    fn load(&self, full: u64) -> u64 {
        self.options.quick.map_or(full, |part| (full / part).max(1))
    }

    async fn cluster(&self) -> Result<Cluster> {
        Cluster::start(&[]).await
    }
}

const NAMES: [&str; 13] = [
    "accept",
    "batch",
    "deliver",
    "signed",
    "single",
    "through",
    "latency",
    "idle",
    "isolation",
    "old-snapshot",
    "workers",
    "memory",
    "scale",
];

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.part {
        Some(Part::Receiver(arguments)) => receiver::main(arguments),
        Some(Part::BareDeliver(arguments)) => bare::deliver(arguments),
        Some(Part::BareSingle(arguments)) => bare::single(arguments),
        Some(Part::BareInsert(arguments)) => bare::insert(arguments),
        Some(Part::Post(arguments)) => poster::main(arguments),
        Some(Part::QueueEnqueue(arguments)) => queue::enqueue(arguments),
        Some(Part::QueueWork(arguments)) => queue::work(arguments),
        Some(Part::FloorHandler) => floor_api::handler(),
        Some(Part::FloorRelay(arguments)) => floor_api::relay(arguments),
        None => conduct(cli.options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn conduct(options: Options) -> Result<()> {
    let known = || NAMES.into_iter().chain(peers::NAMES);
    if let Some(unknown) = options.names.iter().find(|name| !known().any(|known| known == *name)) {
        let known: Vec<&str> = known().collect();
        return Err(format!("there is no benchmark {unknown}; there are {}", known.join(", ")).into());
    }
    let payloads = Payloads::load(options.payloads.as_deref())?;
    let bench = Bench { options, payloads };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    for name in known() {
        let unnamed = bench.options.names.is_empty() && NAMES.contains(&name);
        if !unnamed && !bench.options.names.iter().any(|wanted| wanted == name) {
            continue;
        }
        let report = runtime.block_on(run(&bench, name))?;
        report.print();
        if !bench.quick() {
            report.write(&bench.options.out)?;
        }
    }
    Ok(())
}

async fn run(bench: &Bench, name: &str) -> Result<Report> {
    match name {
        "accept" => accept::run(bench).await,
        "batch" => accept::run_batch(bench).await,
        "deliver" => deliver::run(bench).await,
        "signed" => deliver::run_signed(bench).await,
        "single" => single::run(bench).await,
        "through" => through::run(bench).await,
        "latency" => through::run_latency(bench).await,
        "idle" => idle::run(bench).await,
        "isolation" => isolation::run(bench).await,
        "old-snapshot" => through::run_snapshot(bench).await,
        "workers" => workers::run(bench).await,
        "memory" => memory::run(bench).await,
        "scale" => scale::run(bench).await,
        "peers-idle" => peers::run_idle(bench).await,
        name if peers::NAMES.contains(&name) => peers::run(bench, name).await,
        other => Err(format!("there is no benchmark {other}").into()),
    }
}

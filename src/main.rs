//! The executable: parse, run, tell what went wrong in one line.

use std::process::ExitCode;

use clap::Parser;
use orderly::cli::{self, Cli};

#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// What was freed goes back to the system after a second, not after ten: bursts of large bodies leave a seventh
/// less behind (docs/PERFORMANCE.md). `_RJEM_MALLOC_CONF` in the environment wins.
#[expect(unsafe_code, reason = "a symbol with a name of its own: jemalloc looks its settings up by it")]
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: &[u8] = b"dirty_decay_ms:1000,muzzy_decay_ms:0\0";

fn main() -> ExitCode {
    // clap itself ends with 2 on wrong usage.
    match cli::run(Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("orderly: {}", error.in_one_line());
            ExitCode::FAILURE
        }
    }
}

//! The executable: parse, run, tell what went wrong in one line.

use std::process::ExitCode;

use clap::Parser;
use orderly::cli::{self, Cli};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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

//! What do the tests stand on: databases to throw away, a receiver, the executable, a client?
#![allow(dead_code, reason = "each test takes what it needs")]

pub mod api;
pub mod database;
pub mod process;
pub mod receiver;

use std::path::PathBuf;
use std::time::Duration;

use orderly::embedded::{EmbeddedOptions, EmbeddedPostgres, Keep};

pub use api::Api;
pub use database::TestDatabase;
pub use process::Process;
#[allow(unused_imports, reason = "each test takes what it needs")]
pub use receiver::{Answer, Received, Receiver};

/// After this long without the awaited event a test has failed. It is no sleep: an event ends the wait.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The folder with Postgres' programs to test with; found when not given.
pub fn postgres_bin() -> Option<PathBuf> {
    std::env::var_os("ORDERLY_PG_BIN").map(PathBuf::from)
}

/// A folder below the build's, with a name of its own.
pub fn scratch_folder(kind: &str) -> PathBuf {
    let name = format!("{kind}-{}-{:08x}", std::process::id(), rand::random::<u32>());
    PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name)
}

/// A Postgres for one test alone, to be killed and restarted. It keeps what it committed.
pub async fn private_postgres() -> EmbeddedPostgres {
    let options =
        EmbeddedOptions { bin: postgres_bin(), keep: Keep::Nothing, ..EmbeddedOptions::new(scratch_folder("private")) };
    EmbeddedPostgres::start(options).await.expect("a private Postgres starts")
}

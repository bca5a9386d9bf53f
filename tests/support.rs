//! What do the tests stand on: databases to throw away, a receiver, the executable, a client?
#![allow(dead_code, reason = "each test takes what it needs")]

pub mod api;
pub mod database;
pub mod keys;
pub mod name_server;
pub mod posters;
pub mod process;
pub mod queue;
pub mod receiver;
pub mod stage;

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use orderly::embedded::{self, EmbeddedOptions, EmbeddedPostgres, Keep};

pub use api::Api;
pub use database::TestDatabase;
pub use name_server::NameServer;
#[allow(unused_imports, reason = "each test takes what it needs")]
pub use posters::{Posted, Posters};
pub use process::Process;
pub use queue::{Queue, Stopped, destinations, start_worker, worker};
#[allow(unused_imports, reason = "each test takes what it needs")]
pub use receiver::{Answer, Received, Receiver};
#[allow(unused_imports, reason = "each test takes what it needs")]
pub use stage::{Stage, assert_chain, until};

/// After this long without the awaited event a test has failed. It is no sleep: an event ends the wait.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The folder with Postgres' programs to test with; found when not given.
pub fn postgres_bin() -> Option<PathBuf> {
    std::env::var_os("ORDERLY_PG_BIN").map(PathBuf::from)
}

/// What the names of our folders begin with.
const SCRATCH: &str = "orderly-test-";

/// A name for a folder that is not there yet. What is left in it is removed by a later run.
pub fn scratch_folder() -> PathBuf {
    scratch_root().join(format!("{SCRATCH}{}-{:08x}", std::process::id(), rand::random::<u32>()))
}

/// Below the build's folder; as root only if others may enter that, for Postgres does not run as root.
fn scratch_root() -> PathBuf {
    let build = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let enterable = |folder: &Path| folder.metadata().is_ok_and(|found| found.mode() & 0o001 != 0);
    let fits = !rustix::process::geteuid().is_root() || build.ancestors().all(enterable);
    if fits { build } else { std::env::temp_dir() }
}

/// Folders of runs that were killed together with their watchdog. One that is in use is left alone.
pub async fn sweep_scratch_folders() {
    let Ok(children) = std::fs::read_dir(scratch_root()) else { return };
    for child in children.flatten() {
        let ours = child.file_name().to_string_lossy().starts_with(SCRATCH);
        if ours && child.path().join("lock").exists() {
            // In use, or gone in this moment.
            let _ = embedded::remove(&child.path()).await;
        }
    }
}

/// A Postgres for one test alone, to be killed and restarted. It keeps what it committed.
pub async fn private_postgres() -> EmbeddedPostgres {
    private_postgres_with(&[]).await
}

/// The same with settings as in postgresql.conf.
pub async fn private_postgres_with(settings: &[(&str, &str)]) -> EmbeddedPostgres {
    postgres_in(&scratch_folder(), settings).await
}

/// The same in a folder that may be there, with data or without.
pub async fn postgres_in(folder: &Path, settings: &[(&str, &str)]) -> EmbeddedPostgres {
    let settings = settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let options =
        EmbeddedOptions { bin: postgres_bin(), keep: Keep::Nothing, settings, ..EmbeddedOptions::new(folder) };
    EmbeddedPostgres::start(options).await.expect("a private Postgres starts")
}

/// Says why a test shows nothing here. Tests that need root or a program return after it.
pub fn skip(reason: &str) {
    eprintln!("SKIPPED: {reason}");
}

//! `orderly worker`: how does a message processor run?

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::shims::worker;
use super::{CliError, open_store, print};
use crate::config::{CommonSettings, DatabaseSettings, WorkerSettings};
use crate::store::migrate;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    database: DatabaseSettings,

    #[command(flatten)]
    worker: WorkerSettings,

    #[command(flatten)]
    common: CommonSettings,
}

pub(super) async fn run(arguments: Arguments, stop: CancellationToken) -> Result<(), CliError> {
    migrate::check(&open_store(&arguments.database.url, 1)?).await?;
    let summary = worker::run(&arguments.database.url, arguments.worker, &arguments.common, stop).await?;
    print(&format!("{summary}\n"))
}

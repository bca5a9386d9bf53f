//! `orderly migrate`: how is the schema brought up to date?

use clap::Args;

use super::{CliError, open_store, print};
use crate::config::DatabaseSettings;
use crate::store::migrate;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    database: DatabaseSettings,
}

pub(super) async fn run(arguments: Arguments) -> Result<(), CliError> {
    let store = open_store(&arguments.database.url, 1)?;
    let version = migrate::migrate(&store).await?;
    print(&format!("the schema is at version {version}\n"))
}

//! `orderly serve`: how does the API run by itself?

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::shims::api;
use super::{CliError, open_store, print};
use crate::config::{CommonSettings, DatabaseSettings, ServeSettings};
use crate::store::migrate;

/// Enough for a full commit of the enqueuer beside the other requests.
pub(super) const CONNECTIONS: usize = 16;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    database: DatabaseSettings,

    #[command(flatten)]
    serve: ServeSettings,

    #[command(flatten)]
    common: CommonSettings,
}

pub(super) async fn run(arguments: Arguments, stop: CancellationToken) -> Result<(), CliError> {
    let store = open_store(&arguments.database.url, CONNECTIONS)?;
    migrate::check(&store).await?;
    let announce = |address| {
        // A service's stdout may be closed; that is no reason not to serve.
        let _ = print(&format!("the API listens on http://{address}, its documentation is http://{address}/doc\n"));
    };
    api::serve(store, &arguments.serve, &arguments.common, stop, announce).await?;
    Ok(())
}

//! `orderly serve`: how does the API run by itself?

use clap::Args;
use tokio_util::sync::CancellationToken;

use super::parts::{Parts, assemble};
use super::{CliError, print};
use crate::api;
use crate::config::{CommonSettings, DatabaseSettings, ServeSettings};

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
    let (settings, common) = (&arguments.serve, &arguments.common);
    settings.validate(common).map_err(api::SiteError::from)?;
    let Parts { store, guard, client, jwks } = assemble(&arguments.database.url, CONNECTIONS, common).await?;
    let scheme = if settings.tls_cert.is_some() { "https" } else { "http" };
    let announce = |address| {
        // A service's stdout may be closed; that is no reason not to serve.
        let _ =
            print(&format!("the API listens on {scheme}://{address}, its documentation is {scheme}://{address}/doc\n"));
    };
    let foundations = api::Foundations { store, guard, client, jwks, counters: None };
    api::serve(foundations, (settings, common), stop, announce).await?;
    Ok(())
}

//! `orderly dev`: how does everything run in one process?

use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;
use tokio_util::sync::CancellationToken;

use super::parts::{assemble, host_name};
use super::serve::CONNECTIONS;
use super::worker::show_metrics;
use super::{CliError, open_store, print};
use crate::api;
use crate::config::DevSettings;
use crate::embedded::{EmbeddedOptions, EmbeddedPostgres, StopMode};
use crate::store::migrate;
use crate::worker::Worker;

/// Those of this machine itself; a newcomer's receiver is there.
const LOOPBACK: [IpNet; 2] = [
    IpNet::V4(ipnet::Ipv4Net::new_assert(std::net::Ipv4Addr::new(127, 0, 0, 0), 8)),
    IpNet::V6(ipnet::Ipv6Net::new_assert(std::net::Ipv6Addr::LOCALHOST, 128)),
];

/// Should Postgres end as soon as it starts, this keeps the machine usable.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    dev: DevSettings,
}

pub(super) async fn run(arguments: Arguments, stop: CancellationToken) -> Result<(), CliError> {
    let settings = arguments.dev;
    let options = EmbeddedOptions {
        bin: settings.pg_bin.clone(),
        port: settings.pg_port,
        settings: vec![("max_connections".into(), "200".into())],
        ..EmbeddedOptions::new(&settings.data_dir)
    };
    let mut postgres = tokio::select! {
        // Dropping a start half-way is safe: its processes are ended, and what was made by half is not used.
        () = stop.cancelled() => return Ok(()),
        started = EmbeddedPostgres::start(options) => started?,
    };
    let outcome = run_on(&mut postgres, settings, stop).await;
    // Last, and in any case: the worker has acknowledged what was in flight.
    postgres.stop(StopMode::Fast).await?;
    outcome
}

async fn run_on(
    postgres: &mut EmbeddedPostgres,
    mut settings: DevSettings,
    stop: CancellationToken,
) -> Result<(), CliError> {
    postgres.create_database("orderly").await?;
    let url = postgres.url_for("orderly");
    let url_file = write_url(postgres.dir(), &url)?;
    let store = open_store(&url, CONNECTIONS)?;
    migrate::migrate(&store).await?;

    settings.common.allow_networks.extend(LOOPBACK);
    settings.worker.persistent = true;
    let metrics_listen = settings.worker.metrics_listen;
    let parts = assemble(&url, CONNECTIONS, &settings.common).await?;
    // Its Postgres is nobody else's: after a restart no other worker can be sending.
    let processor =
        Worker::new(parts.store.clone(), parts.client.clone(), settings.worker, host_name()).without_grace();
    show_metrics(metrics_listen, processor.counters(), stop.clone());
    let foundations = api::Foundations {
        store: parts.store,
        guard: parts.guard,
        client: parts.client,
        jwks: parts.jwks,
        counters: Some(processor.counters()),
    };
    let announce = |address| {
        // Nobody may be reading; it runs all the same.
        let _ = print(&greeting(address, &url_file));
    };
    // Whichever ends first, by itself or by the signal, ends the other.
    let api = async {
        let ended = api::serve(foundations, (&settings.serve, &settings.common), stop.clone(), announce).await;
        stop.cancel();
        ended
    };
    let worker = async {
        let ended = processor.run(stop.clone()).await;
        stop.cancel();
        ended
    };
    let running = async {
        let (api, worker) = tokio::join!(api, worker);
        api?;
        worker?;
        Ok(())
    };
    // Both outlive a database that is gone for a while.
    tokio::select! {
        ended = running => ended,
        failed = keep_running(postgres) => failed,
    }
}

/// Ends only with an error: when Postgres does not come back.
async fn keep_running(postgres: &mut EmbeddedPostgres) -> Result<(), CliError> {
    loop {
        postgres.ended().await;
        tracing::error!(log = %postgres.log_file().display(), "Postgres ended by itself and is started again");
        tokio::time::sleep(RESTART_PAUSE).await;
        postgres.launch().await?;
    }
}

/// For psql and for further workers; the password is in it.
fn write_url(folder: &Path, url: &str) -> Result<PathBuf, CliError> {
    let path = folder.join("url");
    let mut options = std::fs::OpenOptions::new();
    options
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{url}"))
        .map_err(|source| CliError::System { doing: "write the database's URL into the data folder", source })?;
    Ok(path)
}

fn greeting(api: SocketAddr, url_file: &Path) -> String {
    let url_file = url_file.display();
    // As it was started: it need not be on the PATH.
    let orderly = std::env::args().next().unwrap_or_else(|| "orderly".to_owned());
    format!(
        r#"Orderly runs. Ctrl-C stops all of it.

  API            http://{api}/v1
  Documentation  http://{api}/doc
  Database       psql "$(cat '{url_file}')"

Destinations on this machine (127.0.0.0/8 and ::1) are allowed here. Next, in other terminals:

  {orderly} receiver
  curl http://{api}/v1/destinations -H 'content-type: application/json' -d '{{"url": "http://127.0.0.1:9000/"}}'
  curl http://{api}/v1/messages -H 'content-type: application/json' -d '{{"destination_id": 1, "payload": {{"hello": "world"}}}}'

"#
    )
}

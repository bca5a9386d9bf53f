//! `orderly worker`: how does a message processor run?

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::parts::{assemble, host_name};
use super::{CliError, print};
use crate::api::metrics;
use crate::api::server::{self, ServerLimits, ServerOptions};
use crate::config::{CommonSettings, DatabaseSettings, WorkerSettings};
use crate::domain::DestinationId;
use crate::store::Store;
use crate::worker::{Counters, Worker};

/// Scans and upkeep; what is hot goes over the worker's session.
pub(super) const CONNECTIONS: usize = 4;
/// A bar is worth it from so many messages.
const LONG_QUEUE: i64 = 1_000;

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
    let parts = assemble(&arguments.database.url, CONNECTIONS, &arguments.common).await?;
    let persistent = arguments.worker.persistent;
    let metrics_listen = arguments.worker.metrics_listen;
    let only = arguments.worker.destination.map(DestinationId);
    let worker = Worker::new(parts.store.clone(), parts.client, arguments.worker, host_name());
    let bar = if persistent { None } else { show_progress(&parts.store, only, worker.counters()).await };
    show_metrics(metrics_listen, worker.counters(), stop.clone());
    let summary = worker.run(stop).await?;
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    print(&format!("{summary}\n"))
}

/// Where Prometheus may read, if it may.
pub(super) fn show_metrics(listen: Option<SocketAddr>, counters: Arc<Counters>, stop: CancellationToken) {
    let Some(listen) = listen else { return };
    let options = ServerOptions { listen, tls: None, limits: ServerLimits::default() };
    let route = metrics::worker_endpoint(counters);
    tokio::spawn(async move {
        if let Err(error) = server::serve(route, options, stop, |_| {}).await {
            tracing::error!(%error, "no metrics are shown");
        }
    });
}

/// On a terminal, while a long queue drains.
async fn show_progress(store: &Store, only: Option<DestinationId>, counters: Arc<Counters>) -> Option<ProgressBar> {
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let queued = store.count_queued(only, 10_000_000).await.ok().filter(|queued| *queued >= LONG_QUEUE)?;
    let bar = ProgressBar::new(queued.unsigned_abs());
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} messages, {per_sec}, {eta} left") {
        bar.set_style(style);
    }
    let shown = bar.clone();
    tokio::spawn(async move {
        while !shown.is_finished() {
            shown.set_position(counters.ended());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    });
    Some(bar)
}

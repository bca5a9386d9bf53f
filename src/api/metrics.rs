//! What does a monitoring system see?

use std::sync::Arc;

use poem::endpoint::make;
use poem::http::{StatusCode, header};
use poem::{Endpoint, IntoResponse, Response};
use prometheus::{Encoder, IntCounter, IntGauge, Opts, Registry, TextEncoder};

use super::routes::AppState;
use crate::store::queues::Totals;
use crate::worker::Counters;

/// Of an API process: what it did, and what the database says of all. Prometheus' text format.
pub(super) fn endpoint(state: AppState) -> impl Endpoint<Output = Response> {
    make(move |_| {
        let state = state.clone();
        async move {
            let totals = state.store.count_totals().await.ok();
            let registry = Registry::new();
            let filled = fill_api(&registry, state.enqueuer.accepted(), totals.as_ref())
                .and_then(|()| state.counters.as_ref().map_or(Ok(()), |counters| fill_worker(&registry, counters)));
            Ok::<_, poem::Error>(render(&registry, filled))
        }
    })
}

/// Of a worker process.
pub fn worker_endpoint(counters: Arc<Counters>) -> impl Endpoint<Output = Response> {
    make(move |_| {
        let counters = counters.clone();
        async move {
            let registry = Registry::new();
            let filled = fill_worker(&registry, &counters);
            Ok::<_, poem::Error>(render(&registry, filled))
        }
    })
}

fn fill_api(registry: &Registry, accepted: u64, totals: Option<&Totals>) -> prometheus::Result<()> {
    count(registry, Opts::new("orderly_messages_accepted_total", "Messages this process has queued"), accepted)?;
    let up = i64::from(totals.is_some());
    gauge(registry, Opts::new("orderly_database_up", "Whether the database answered"), up)?;
    let Some(totals) = totals else { return Ok(()) };
    gauge(registry, Opts::new("orderly_workers", "Workers that are alive"), totals.workers)?;
    gauge(registry, Opts::new("orderly_queues_served", "Destinations that a worker serves right now"), totals.served)?;
    gauge(registry, Opts::new("orderly_queues_held", "Queues that wait for a person"), totals.held)?;
    gauge(
        registry,
        Opts::new("orderly_queues_backing_off", "Queues whose head waits for its next try"),
        totals.backing_off,
    )?;
    for (state, number) in &totals.destinations {
        let opts = Opts::new("orderly_destinations", "Destinations by state").const_label("state", state);
        gauge(registry, opts, *number)?;
    }
    Ok(())
}

fn fill_worker(registry: &Registry, counters: &Counters) -> prometheus::Result<()> {
    for sample in counters.list() {
        let mut opts = Opts::new(sample.name, sample.help);
        if let Some((label, value)) = sample.label {
            opts = opts.const_label(label, value);
        }
        count(registry, opts, sample.value)?;
    }
    Ok(())
}

fn gauge(registry: &Registry, opts: Opts, value: i64) -> prometheus::Result<()> {
    let gauge = IntGauge::with_opts(opts)?;
    gauge.set(value);
    registry.register(Box::new(gauge))
}

fn count(registry: &Registry, opts: Opts, value: u64) -> prometheus::Result<()> {
    let counter = IntCounter::with_opts(opts)?;
    counter.inc_by(value);
    registry.register(Box::new(counter))
}

fn render(registry: &Registry, filled: prometheus::Result<()>) -> Response {
    let mut text = Vec::new();
    let encoder = TextEncoder::new();
    match filled.and_then(|()| encoder.encode(&registry.gather(), &mut text)) {
        Ok(()) => text.with_header(header::CONTENT_TYPE, encoder.format_type()).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics could not be shown");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

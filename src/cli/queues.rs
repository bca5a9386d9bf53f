//! `orderly queues`: which queues hold messages, and why do they move or not?

mod row;
mod screen;

use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use self::row::QueueRow;
use super::hand::{Hand, HandError, with_hand};
use super::{CliError, print};
use crate::config::ReachSettings;
use crate::domain::DestinationId;

const REFRESH: Duration = Duration::from_secs(2);
/// Over the network each queue is a question of its own.
const QUESTIONS_AT_ONCE: usize = 16;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Look again every 2 seconds, until Ctrl-C
    #[arg(long)]
    watch: bool,

    /// Only those that do not move: held, paused, disabled, backing off, or with messages and nobody to serve them
    #[arg(long)]
    blocked: bool,

    /// Empty ones, too
    #[arg(long, conflicts_with = "blocked")]
    all: bool,

    /// Only this destination's
    #[arg(long, value_name = "ID")]
    destination: Option<DestinationId>,

    /// At most so many, those that wait longest first [default: what fits on the terminal when watching, else 50]
    #[arg(long, value_name = "N")]
    limit: Option<usize>,

    #[command(flatten)]
    reach: ReachSettings,
}

pub(super) async fn run(arguments: Arguments, stop: CancellationToken) -> Result<(), CliError> {
    let Arguments { reach, .. } = &arguments;
    with_hand(reach.clone(), async |hand| {
        if arguments.watch {
            return watch(hand, &arguments, stop).await;
        }
        let rows = look(hand, &arguments).await?;
        if hand.json {
            print(&screen::to_json(&rows, arguments.limit)?)
        } else {
            print(&screen::to_text(&rows, arguments.limit))
        }
    })
    .await
}

/// A look that failed is shown in the place of the table; the next may do.
async fn watch(hand: &Hand, arguments: &Arguments, stop: CancellationToken) -> Result<(), CliError> {
    let mut terminal = screen::Screen::start(hand.json)?;
    loop {
        let looked = tokio::select! {
            looked = look(hand, arguments) => looked,
            () = stop.cancelled() => return terminal.end(),
        };
        match looked {
            Ok(rows) if hand.json => print(&screen::to_json(&rows, arguments.limit)?)?,
            Ok(rows) => terminal.show(&rows, arguments.limit)?,
            Err(error) => terminal.complain(&error)?,
        }
        tokio::select! {
            () = tokio::time::sleep(REFRESH) => {}
            () = stop.cancelled() => return terminal.end(),
        }
    }
}

/// Those that wait longest first.
async fn look(hand: &Hand, arguments: &Arguments) -> Result<Vec<QueueRow>, CliError> {
    let mut rows = match (arguments.destination, hand.store()) {
        (Some(id), _) => vec![ask(hand, &read(&hand.get(&format!("/v1/destinations/{id}")).await?)?).await?],
        (None, Some(store)) => store.list_queues(arguments.all).await?.into_iter().map(QueueRow::from).collect(),
        (None, None) => {
            let destinations = hand.list("/v1/destinations", "", u64::MAX).await?;
            let destinations: Vec<Destination> =
                destinations.iter().map(|item| read(item.get().as_bytes())).collect::<Result<_, _>>()?;
            stream::iter(&destinations)
                .map(|destination| ask(hand, destination))
                .buffered(QUESTIONS_AT_ONCE)
                .try_collect()
                .await?
        }
    };
    if arguments.blocked {
        rows.retain(QueueRow::is_blocked);
    } else if !arguments.all && arguments.destination.is_none() {
        rows.retain(|row| !row.is_idle());
    }
    rows.sort_by_key(|row| (row.oldest_created_at.is_none(), row.oldest_created_at, row.destination_id));
    Ok(rows)
}

#[derive(Deserialize)]
struct Destination {
    id: i64,
    url: String,
}

async fn ask(hand: &Hand, destination: &Destination) -> Result<QueueRow, HandError> {
    let answer = hand.get(&format!("/v1/destinations/{}/queue", destination.id)).await?;
    Ok(QueueRow { destination_id: destination.id, url: destination.url.clone(), ..read(&answer)? })
}

fn read<T: serde::de::DeserializeOwned>(answer: &[u8]) -> Result<T, HandError> {
    serde_json::from_slice(answer).map_err(HandError::Answer)
}

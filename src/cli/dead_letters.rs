//! `orderly dead-letters`: how is what was given up on seen, queued again, or thrown away by hand?

use clap::{Args, Subcommand};
use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::hand::{Hand, HandError, With, with_hand};
use super::messages::{ListArguments, One};
use super::wording::several;
use super::{CliError, print};
use crate::domain::{DestinationId, MessageId};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them, by destination, then sequence
    List(Box<With<ListArguments>>),
    /// Show one, with its payload and its last error
    Show(Box<With<One>>),
    /// Queue one again, or all of a destination, at the tail and under new ids
    Redrive(Box<With<Chosen>>),
    /// Throw one away, or all of a destination
    Delete(Box<With<Chosen>>),
}

/// One or all.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(super) struct Chosen {
    /// The message's id, such as 42-1017
    id: Option<MessageId>,

    /// All of this destination
    #[arg(long, value_name = "ID")]
    destination: Option<DestinationId>,
}

#[derive(Deserialize)]
struct Redriven {
    data: Vec<Box<RawValue>>,
    more: bool,
}

#[derive(Deserialize)]
struct Named {
    id: String,
}

pub(super) async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::List(with) => with_hand(with.reach, async |hand| list(hand, &with.what).await).await,
        Command::Show(with) => {
            let path = format!("/v1/dead-letters/{}", with.what.id);
            with_hand(with.reach, async |hand| hand.show_at(&path).await).await
        }
        Command::Redrive(with) => match (with.what.id, with.what.destination) {
            (Some(id), _) => {
                let path = format!("/v1/dead-letters/{id}/redrive");
                with_hand(with.reach, async |hand| hand.show(&hand.post(&path, None, String::new()).await?)).await
            }
            (None, destination) => with_hand(with.reach, async |hand| redrive_all(hand, destination).await).await,
        },
        Command::Delete(with) => match (with.what.id, with.what.destination) {
            (Some(id), _) => {
                with_hand(with.reach, async |hand| hand.delete_one("/v1/dead-letters", "dead letter", id).await).await
            }
            (None, destination) => with_hand(with.reach, async |hand| delete_all(hand, destination).await).await,
        },
    }
}

async fn list(hand: &Hand, what: &ListArguments) -> Result<(), CliError> {
    let items = hand.list("/v1/dead-letters", &what.query(), what.limit).await?;
    let columns = [
        ("ID", "id"),
        ("STATE", "state"),
        ("ATTEMPTS", "attempts"),
        ("CREATED", "created_at"),
        ("ENDED", "ended_at"),
        ("LAST ERROR", "last_error"),
    ];
    hand.show_list(&items, &columns)
}

/// One call takes so many; it is called until there are no more. A queue that is full stops it, with what
/// was queued told before.
async fn redrive_all(hand: &Hand, destination: Option<DestinationId>) -> Result<(), CliError> {
    let body = json!({ "destination_id": destination }).to_string();
    let mut all = Vec::new();
    let outcome = loop {
        let answer = match hand.post("/v1/dead-letters/redrive", None, body.clone()).await {
            Ok(answer) => answer,
            Err(error) => break Err(error),
        };
        let redriven: Redriven = serde_json::from_slice(&answer).map_err(HandError::Answer)?;
        all.extend(redriven.data);
        if !redriven.more {
            break Ok(());
        }
    };
    if hand.json {
        hand.show_list(&all, &[])?;
    } else if outcome.is_ok() || !all.is_empty() {
        let count = i64::try_from(all.len()).unwrap_or(i64::MAX);
        print(&format!("{} queued again, in their order\n", several(count, "message")))?;
    }
    Ok(outcome?)
}

/// Those that are there when it begins, one by one: the API has no call for all.
async fn delete_all(hand: &Hand, destination: Option<DestinationId>) -> Result<(), CliError> {
    let query = destination.map_or_else(String::new, |id| format!("&destination_id={id}"));
    let letters = hand.list("/v1/dead-letters", &query, u64::MAX).await?;
    for letter in &letters {
        let letter: Named = serde_json::from_str(letter.get()).map_err(HandError::Answer)?;
        hand.delete(&format!("/v1/dead-letters/{}", letter.id)).await?;
    }
    let count = i64::try_from(letters.len()).unwrap_or(i64::MAX);
    hand.say("deleted", &count.to_string(), &format!("{} deleted", several(count, "dead letter")))
}

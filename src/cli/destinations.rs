//! `orderly destinations`: how are destinations seen, made, steered and removed by hand?

use clap::{Args, Subcommand, ValueEnum};
use serde_json::{Map, Value, json};
use url::form_urlencoded::byte_serialize;

use super::CliError;
use super::hand::{Hand, With, parse_headers, with_hand};
use crate::domain::{DestinationId, MessageId};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List them, by id
    List(Box<With<ListArguments>>),
    /// Show one, with its queue
    Show(Box<With<One>>),
    /// Register one
    Create(Box<With<CreateArguments>>),
    /// Stop its queue; what is posted meanwhile waits
    Pause(Box<With<One>>),
    /// Let its queue move again, also after a receiver's 410
    Resume(Box<With<One>>),
    /// Give up on the head of its queue
    Skip(Box<With<Head>>),
    /// Try the head of its queue again now
    RetryNow(Box<With<Head>>),
    /// Remove all that is queued and not in flight
    Purge(Box<With<One>>),
    /// Make a secret for HMAC signatures in place of the one it has, and print it: it is shown once
    HmacSecret(Box<With<SecretArguments>>),
    /// Remove it with all that is queued
    Delete(Box<With<One>>),
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The destination's id
    id: DestinationId,
}

#[derive(Debug, Args)]
pub(super) struct SecretArguments {
    /// The destination's id
    id: DestinationId,

    /// Take the secret away instead
    #[arg(long)]
    remove: bool,
}

#[derive(Debug, Args)]
pub(super) struct Head {
    /// The destination's id
    id: DestinationId,

    /// Only if this message is the head
    #[arg(long, value_name = "ID")]
    message: Option<MessageId>,
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Only those with exactly this URL
    #[arg(long)]
    url: Option<String>,

    /// Only those in this state
    #[arg(long, value_enum)]
    state: Option<State>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum State {
    Active,
    Paused,
    Disabled,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum OnExhausted {
    Discard,
    Hold,
}

/// What is left out has the API's default.
#[derive(Debug, Args)]
pub(super) struct CreateArguments {
    /// Where its messages go
    url: String,

    #[arg(long, value_name = "TEXT")]
    description: Option<String>,

    /// Sent with every request, as 'Name: value' (repeatable)
    #[arg(long = "header", value_name = "LINE")]
    headers: Vec<String>,

    /// When a message is out of tries: make a dead letter of it and go on, or hold the queue
    #[arg(long, value_enum)]
    on_exhausted: Option<OnExhausted>,

    /// Tries after the first
    #[arg(long = "max-retries", value_name = "N")]
    max_retries: Option<u32>,

    /// From the end of one try to the start of the next
    #[arg(long, value_name = "SECONDS")]
    delay_seconds: Option<f64>,

    /// Each wait is so many times the one before
    #[arg(long, value_name = "FACTOR")]
    backoff: Option<f64>,

    /// From the start of a try to the end of its answer
    #[arg(long, value_name = "SECONDS")]
    timeout_seconds: Option<f64>,

    /// Requests start at least 1/max seconds apart
    #[arg(long, value_name = "RATE")]
    max_per_second: Option<f64>,

    /// Past so many queued messages another one is refused
    #[arg(long, value_name = "N")]
    max_queue_depth: Option<i64>,

    /// The same key with the same settings within 24 hours makes no second one
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

pub(super) async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::List(with) => with_hand(with.reach, async |hand| list(hand, &with.what).await).await,
        Command::Show(with) => with_hand(with.reach, async |hand| show(hand, with.what.id).await).await,
        Command::Create(with) => with_hand(with.reach, async |hand| create(hand, &with.what).await).await,
        Command::Pause(with) => with_hand(with.reach, async |hand| steer(hand, with.what.id, "pause").await).await,
        Command::Resume(with) => with_hand(with.reach, async |hand| steer(hand, with.what.id, "resume").await).await,
        Command::Skip(with) => with_hand(with.reach, async |hand| steer_head(hand, &with.what, "skip").await).await,
        Command::RetryNow(with) => {
            with_hand(with.reach, async |hand| steer_head(hand, &with.what, "retry-now").await).await
        }
        Command::Purge(with) => with_hand(with.reach, async |hand| steer(hand, with.what.id, "purge").await).await,
        Command::HmacSecret(with) => with_hand(with.reach, async |hand| hmac_secret(hand, &with.what).await).await,
        Command::Delete(with) => with_hand(with.reach, async |hand| delete(hand, with.what.id).await).await,
    }
}

async fn list(hand: &Hand, what: &ListArguments) -> Result<(), CliError> {
    let mut query = String::new();
    if let Some(url) = &what.url {
        query.extend(std::iter::once("&url=").chain(byte_serialize(url.as_bytes())));
    }
    if let Some(state) = what.state.and_then(|state| state.to_possible_value()) {
        query.push_str("&state=");
        query.push_str(state.get_name());
    }
    let items = hand.list("/v1/destinations", &query, what.limit).await?;
    let columns = [
        ("ID", "id"),
        ("STATE", "state"),
        ("ON EXHAUSTED", "on_exhausted"),
        ("TIMEOUT", "timeout_seconds"),
        ("MAX/S", "max_per_second"),
        ("URL", "url"),
        ("DESCRIPTION", "description"),
    ];
    hand.show_list(&items, &columns)
}

/// Two answers: for scripts, which want one, the destination alone.
async fn show(hand: &Hand, id: DestinationId) -> Result<(), CliError> {
    hand.show_at(&format!("/v1/destinations/{id}")).await?;
    if hand.json {
        return Ok(());
    }
    hand.show_at(&format!("/v1/destinations/{id}/queue")).await
}

async fn create(hand: &Hand, what: &CreateArguments) -> Result<(), CliError> {
    let on_exhausted = what.on_exhausted.and_then(|choice| choice.to_possible_value());
    let mut retry = Map::new();
    let mut body = Map::from_iter([("url".to_owned(), json!(what.url))]);
    let given = |object: &mut Map<String, Value>, name: &str, value: Value| {
        if !value.is_null() {
            object.insert(name.to_owned(), value);
        }
    };
    given(&mut retry, "max_retries", json!(what.max_retries));
    given(&mut retry, "delay_seconds", json!(what.delay_seconds));
    given(&mut retry, "backoff", json!(what.backoff));
    if !retry.is_empty() {
        body.insert("retry".to_owned(), Value::Object(retry));
    }
    if !what.headers.is_empty() {
        body.insert("headers".to_owned(), Value::Object(parse_headers(&what.headers)?));
    }
    given(&mut body, "description", json!(what.description));
    given(&mut body, "on_exhausted", json!(on_exhausted.as_ref().map(|value| value.get_name())));
    given(&mut body, "timeout_seconds", json!(what.timeout_seconds));
    given(&mut body, "max_per_second", json!(what.max_per_second));
    given(&mut body, "max_queue_depth", json!(what.max_queue_depth));
    let body = Value::Object(body).to_string();
    let answer = hand.post("/v1/destinations", what.idempotency_key.as_deref(), body).await?;
    hand.show(&answer)
}

async fn steer(hand: &Hand, id: DestinationId, how: &str) -> Result<(), CliError> {
    hand.show(&hand.post(&format!("/v1/destinations/{id}/{how}"), None, String::new()).await?)
}

async fn steer_head(hand: &Hand, what: &Head, how: &str) -> Result<(), CliError> {
    let body = what.message.map_or_else(String::new, |id| json!({ "message_id": id }).to_string());
    hand.show(&hand.post(&format!("/v1/destinations/{}/{how}", what.id), None, body).await?)
}

async fn hmac_secret(hand: &Hand, what: &SecretArguments) -> Result<(), CliError> {
    let path = format!("/v1/destinations/{}/hmac-secret", what.id);
    if !what.remove {
        return hand.show(&hand.post(&path, None, String::new()).await?);
    }
    hand.delete(&path).await?;
    let id = what.id.to_string();
    hand.say("removed", &id, &format!("destination {id} has no HMAC secret any more"))
}

async fn delete(hand: &Hand, id: DestinationId) -> Result<(), CliError> {
    hand.delete(&format!("/v1/destinations/{id}")).await?;
    let id = id.to_string();
    hand.say("deleted", &id, &format!("destination {id} is deleted, and what was queued for it"))
}

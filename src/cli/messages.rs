//! `orderly messages`: how are messages seen, queued and taken back by hand?

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use clap::{Args, Subcommand};
use serde::Serialize;
use serde_json::value::RawValue;

use super::CliError;
use super::hand::{Hand, HandError, With, parse_headers, read_payload, with_hand};
use crate::domain::{DestinationId, MessageId};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// List what is queued, by destination, then sequence
    List(Box<With<ListArguments>>),
    /// Show one, with its payload; as long as its outcome is kept
    Show(Box<With<One>>),
    /// List its tries, oldest first
    Attempts(Box<With<One>>),
    /// Queue one
    Post(Box<With<PostArguments>>),
    /// Take one back: it will never be delivered
    Delete(Box<With<One>>),
}

#[derive(Debug, Args)]
pub(super) struct One {
    /// The message's id, such as 42-1017
    pub id: MessageId,
}

#[derive(Debug, Args)]
pub(super) struct ListArguments {
    /// Only this destination's
    #[arg(long, value_name = "ID")]
    pub destination: Option<DestinationId>,

    /// At most so many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..))]
    pub limit: u64,
}

impl ListArguments {
    pub fn query(&self) -> String {
        self.destination.map_or_else(String::new, |id| format!("&destination_id={id}"))
    }
}

#[derive(Debug, Args)]
pub(super) struct PostArguments {
    /// Where it goes
    destination: DestinationId,

    /// The body that is delivered, byte for byte: itself, `@file`, or `-` for stdin
    #[arg(allow_hyphen_values = true)]
    payload: String,

    /// What it is
    #[arg(long, value_name = "TYPE", default_value = "application/json")]
    content_type: String,

    /// Sent with it, as 'Name: value' (repeatable); wins over the destination's
    #[arg(long = "header", value_name = "LINE")]
    headers: Vec<String>,

    /// Undelivered for so long, it ends as expired
    #[arg(long, value_name = "SECONDS")]
    ttl_seconds: Option<i32>,

    /// The same key with the same message within 24 hours queues no second one
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
}

#[derive(Serialize)]
struct NewMessage<'a> {
    destination_id: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_base64: Option<String>,
    content_type: &'a str,
    headers: serde_json::Map<String, serde_json::Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    ttl_seconds: Option<i32>,
}

pub(super) async fn run(command: Command) -> Result<(), CliError> {
    match command {
        Command::List(with) => with_hand(with.reach, async |hand| list(hand, &with.what).await).await,
        Command::Show(with) => {
            let path = format!("/v1/messages/{}", with.what.id);
            with_hand(with.reach, async |hand| hand.show_at(&path).await).await
        }
        Command::Attempts(with) => with_hand(with.reach, async |hand| attempts(hand, with.what.id).await).await,
        Command::Post(with) => with_hand(with.reach, async |hand| post(hand, &with.what).await).await,
        Command::Delete(with) => {
            with_hand(with.reach, async |hand| hand.delete_one("/v1/messages", "message", with.what.id).await).await
        }
    }
}

async fn list(hand: &Hand, what: &ListArguments) -> Result<(), CliError> {
    let items = hand.list("/v1/messages", &what.query(), what.limit).await?;
    let columns = [
        ("ID", "id"),
        ("STATE", "state"),
        ("ATTEMPTS", "attempts"),
        ("CREATED", "created_at"),
        ("EXPIRES", "expires_at"),
        ("CONTENT TYPE", "content_type"),
    ];
    hand.show_list(&items, &columns)
}

async fn attempts(hand: &Hand, id: MessageId) -> Result<(), CliError> {
    let items = hand.list(&format!("/v1/messages/{id}/attempts"), "", u64::MAX).await?;
    let columns = [
        ("NUMBER", "number"),
        ("AT", "at"),
        ("STATUS", "status_code"),
        ("MS", "duration_ms"),
        ("ERROR", "error"),
        ("RESPONSE", "response"),
    ];
    hand.show_list(&items, &columns)
}

/// JSON goes as it stands, so that a mistake in it is told here; anything else as bytes.
async fn post(hand: &Hand, what: &PostArguments) -> Result<(), CliError> {
    let bytes = read_payload(&what.payload).await?;
    let is_json = what.content_type.to_ascii_lowercase().contains("json");
    let json: Option<&RawValue> =
        if is_json { Some(serde_json::from_slice(&bytes).map_err(HandError::NotJson)?) } else { None };
    let message = NewMessage {
        destination_id: what.destination.0,
        payload: json,
        payload_base64: json.is_none().then(|| STANDARD.encode(&bytes)),
        content_type: &what.content_type,
        headers: parse_headers(&what.headers)?,
        ttl_seconds: what.ttl_seconds,
    };
    let body = serde_json::to_string(&message).map_err(HandError::Answer)?;
    let answer = hand.post("/v1/messages", what.idempotency_key.as_deref(), body).await?;
    hand.show(&answer)
}

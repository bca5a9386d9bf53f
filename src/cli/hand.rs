//! How does a command of the daily handwork reach the API, and show what it answers?
//!
//! Over the network, or in this process straight on the database: the same handlers either way, so that
//! both do and say the same.

mod problem;

use std::fmt::Display;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request};
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::AsyncReadExt;

use self::problem::in_one_line;
use super::parts::open_checked;
use super::table::{Record, Table};
use super::{CliError, print};
use crate::api::Inside;
use crate::config::ReachSettings;
use crate::delivery::rest::{RestClient, RestError};
use crate::store::Store;

/// One person's.
const CONNECTIONS: usize = 4;
/// The most that the API lists at once.
const PAGE: u64 = 500;

/// A command's own arguments and where it goes.
#[derive(Debug, Args)]
pub(super) struct With<T: Args> {
    #[command(flatten)]
    pub what: T,

    #[command(flatten)]
    pub reach: ReachSettings,
}

#[derive(Debug, thiserror::Error)]
pub enum HandError {
    #[error(transparent)]
    Call(#[from] RestError),
    /// A problem (RFC 9457), in one line.
    #[error("{0}")]
    Refused(String),
    #[error("the answer is not what the API of this version says")]
    Answer(#[source] serde_json::Error),
    #[error("cannot make a request of this")]
    Request(#[source] http::Error),
    #[error("cannot read the payload")]
    Payload(#[source] std::io::Error),
    #[error("the payload is not JSON; for anything else say --content-type")]
    NotJson(#[source] serde_json::Error),
    #[error("{0:?} is not a header of the form 'Name: value'")]
    Header(String),
}

enum Reach {
    Network(Box<RestClient>),
    Inside(Box<Inside>, Box<Store>),
}

pub(super) struct Hand {
    reach: Reach,
    pub json: bool,
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Box<RawValue>>,
    next: Option<String>,
}

/// Does the work with a hand, and lets go of it properly.
pub(super) async fn with_hand(
    settings: ReachSettings,
    work: impl AsyncFnOnce(&Hand) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let reach = match (&settings.place.api, &settings.place.database_url) {
        (Some(api), _) => {
            let token = settings.token.as_ref().map(|token| token.0.as_str());
            Reach::Network(Box::new(RestClient::new(api, token).map_err(HandError::from)?))
        }
        (None, url) => {
            // clap asks for exactly one of the two.
            let url = url.as_deref().unwrap_or_default();
            let (store, guard) = open_checked(url, CONNECTIONS, &settings.common).await?;
            Reach::Inside(Box::new(Inside::new(store.clone(), guard, &settings.common)), Box::new(store))
        }
    };
    let hand = Hand { reach, json: settings.json };
    let outcome = work(&hand).await;
    if let Reach::Inside(inside, _) = hand.reach {
        inside.finish().await;
    }
    outcome
}

impl Hand {
    /// The database, when it is asked itself.
    pub fn store(&self) -> Option<&Store> {
        match &self.reach {
            Reach::Network(_) => None,
            Reach::Inside(_, store) => Some(store),
        }
    }

    pub async fn get(&self, path: &str) -> Result<Bytes, HandError> {
        self.send(Request::get(path).body(Bytes::new())).await
    }

    pub async fn delete(&self, path: &str) -> Result<(), HandError> {
        self.send(Request::delete(path).body(Bytes::new())).await.map(drop)
    }

    /// Without a body when it is empty.
    pub async fn post(&self, path: &str, key: Option<&str>, body: String) -> Result<Bytes, HandError> {
        let mut request = Request::builder().method(Method::POST).uri(path);
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        self.send(request.body(Bytes::from(body))).await
    }

    async fn send(&self, request: Result<Request<Bytes>, http::Error>) -> Result<Bytes, HandError> {
        let request = request.map_err(HandError::Request)?;
        let answer = match &self.reach {
            Reach::Network(client) => client.call(request).await?,
            Reach::Inside(inside, _) => inside.call(request).await,
        };
        if answer.status().is_success() {
            Ok(answer.into_body())
        } else {
            Err(HandError::Refused(in_one_line(&answer)))
        }
    }

    /// Page by page, at most `most`. `query` begins with `&` or is empty.
    pub async fn list(&self, path: &str, query: &str, most: u64) -> Result<Vec<Box<RawValue>>, HandError> {
        let mut all = Vec::new();
        let mut after = String::new();
        loop {
            let limit = (most - all.len() as u64).min(PAGE);
            let answer = self.get(&format!("{path}?limit={limit}{after}{query}")).await?;
            let page: Page = serde_json::from_slice(&answer).map_err(HandError::Answer)?;
            all.extend(page.data);
            match page.next {
                // Cursors need no escaping.
                Some(next) if (all.len() as u64) < most => after = format!("&after={next}"),
                _ => return Ok(all),
            }
        }
    }

    /// A JSON array, or a table with these members.
    pub fn show_list(&self, items: &[Box<RawValue>], columns: &[(&'static str, &str)]) -> Result<(), CliError> {
        if self.json {
            let text = serde_json::to_string(items).map_err(HandError::Answer)?;
            return print(&format!("{text}\n"));
        }
        let mut table = Table::new(&columns.iter().map(|(heading, _)| *heading).collect::<Vec<_>>());
        for item in items {
            let record: Record = serde_json::from_str(item.get()).map_err(HandError::Answer)?;
            table.push(columns.iter().map(|(_, member)| record.cell(member)).collect());
        }
        print(&table.to_text())
    }

    /// The answer as it stands, or a line for each member.
    pub fn show(&self, answer: &[u8]) -> Result<(), CliError> {
        if self.json {
            return print(&format!("{}\n", String::from_utf8_lossy(answer).trim_end()));
        }
        let record: Record = serde_json::from_slice(answer).map_err(HandError::Answer)?;
        print(&record.to_text())
    }

    /// What is there, shown.
    pub async fn show_at(&self, path: &str) -> Result<(), CliError> {
        self.show(&self.get(path).await?)
    }

    /// `what` says in the answer what it was.
    pub async fn delete_one(&self, list: &str, what: &str, id: impl Display) -> Result<(), CliError> {
        self.delete(&format!("{list}/{id}")).await?;
        self.say("deleted", &id.to_string(), &format!("{what} {id} is deleted"))
    }

    /// What has no body to be shown.
    pub fn say(&self, member: &str, value: &str, sentence: &str) -> Result<(), CliError> {
        if self.json {
            return print(&format!("{}\n", serde_json::json!({ member: value })));
        }
        print(&format!("{sentence}\n"))
    }
}

/// `-` is stdin.
pub(super) async fn read_payload(argument: &str) -> Result<Vec<u8>, HandError> {
    let mut bytes = Vec::new();
    match argument {
        "-" => {
            tokio::io::stdin().read_to_end(&mut bytes).await.map_err(HandError::Payload)?;
        }
        text if text.starts_with('@') => bytes = tokio::fs::read(&text[1..]).await.map_err(HandError::Payload)?,
        text => bytes.extend_from_slice(text.as_bytes()),
    }
    Ok(bytes)
}

/// Each `Name: value`; as members of an object.
pub(super) fn parse_headers(lines: &[String]) -> Result<serde_json::Map<String, serde_json::Value>, HandError> {
    lines
        .iter()
        .map(|line| {
            let (name, value) = line.split_once(':').ok_or_else(|| HandError::Header(line.clone()))?;
            Ok((name.trim().to_owned(), value.trim().into()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_have_a_name_and_a_value() {
        let parsed = parse_headers(&["X-Key: a: b".to_owned()]).expect("a header");
        assert_eq!(parsed["X-Key"], "a: b");
        assert!(parse_headers(&["X-Key".to_owned()]).is_err());
    }
}

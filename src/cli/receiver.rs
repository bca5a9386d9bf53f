//! `orderly receiver`: what does a webhook look like to whom it is sent?

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use super::{CliError, print};
use crate::config::ReceiverSettings;

/// Above what Orderly ever sends.
const BODY_LIMIT: usize = 16 << 20;
const SHOWN_CHARACTERS: usize = 200;

#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(flatten)]
    receiver: ReceiverSettings,
}

/// What was seen so far.
#[derive(Default)]
struct Seen {
    requests: u64,
    /// For each path, the sequence last answered with success.
    delivered: HashMap<String, i64>,
}

pub(super) async fn run(arguments: Arguments, stop: CancellationToken) -> Result<(), CliError> {
    let settings = Arc::new(arguments.receiver);
    let address = settings.address();
    let failed = |source| CliError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    print(&format!("receiving on http://{address}/\n"))?;
    let seen = Arc::new(Mutex::new(Seen::default()));
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                tokio::spawn(serve(stream, settings.clone(), seen.clone(), stop.clone()));
            }
            Err(error) => {
                // Out of file descriptors, most likely; some may be given back.
                tracing::warn!(%error, "cannot take a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve(stream: TcpStream, settings: Arc<ReceiverSettings>, seen: Arc<Mutex<Seen>>, stop: CancellationToken) {
    let service = service_fn(|request| answer(request, &settings, &seen, &stop));
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "a connection broke");
    }
}

async fn answer(
    request: Request<Incoming>,
    settings: &ReceiverSettings,
    seen: &Mutex<Seen>,
    stop: &CancellationToken,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let mut response = Response::new(Empty::new());
    let Ok(body) = Limited::new(body, BODY_LIMIT).collect().await else {
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return Ok(response);
    };
    let (status, lines) = {
        let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.requests += 1;
        let fails = settings.fail_every.is_some_and(|every| seen.requests.is_multiple_of(every));
        let status = if fails { 500 } else { settings.status };
        let mut lines = String::new();
        if let Some(gap) = seen.note(head.uri.path(), &head.headers, (200..300).contains(&status)) {
            lines.push_str(&gap);
        }
        lines.push_str(&line(head.uri.path(), &head.headers, &body.to_bytes(), status));
        (status, lines)
    };
    if print(&lines).is_err() {
        // Nobody reads what it is for.
        stop.cancel();
    }
    tokio::time::sleep(Duration::from_millis(settings.delay_ms)).await;
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    Ok(response)
}

impl Seen {
    /// Compares with what was seen before; a warning where something is missing or out of order.
    fn note(&mut self, path: &str, headers: &HeaderMap, success: bool) -> Option<String> {
        if headers.contains_key("orderly-test") {
            // Beside the queue: no message of it.
            return None;
        }
        let sequence = number(headers, "orderly-sequence")?;
        let previous = number(headers, "orderly-previous-sequence")?;
        let last = self.delivered.get(path).copied();
        if success {
            self.delivered.insert(path.to_owned(), sequence);
        }
        match last {
            // The same again: the sender did not hear of the success.
            Some(last) if last == sequence => Some(format!("WARNING: {sequence} once more\n")),
            Some(last) if last != previous => Some(format!(
                "WARNING: {path} got {last} last, and {previous} is said to be the one before {sequence}\n"
            )),
            // The first one seen here may follow others.
            _ => None,
        }
    }
}

fn number(headers: &HeaderMap, name: &str) -> Option<i64> {
    headers.get(name)?.to_str().ok()?.parse().ok()
}

fn line(path: &str, headers: &HeaderMap, body: &Bytes, status: u16) -> String {
    let value = |name| headers.get(name).map_or("-".into(), |value| String::from_utf8_lossy(value.as_bytes()));
    let text: String = String::from_utf8_lossy(body).chars().take(SHOWN_CHARACTERS).collect();
    let more = if body.len() > text.len() { "…" } else { "" };
    let line = format!(
        "sequence {} attempt {} previous {} id {} {path} {} {} bytes -> {status} {text}{more}",
        value("orderly-sequence"),
        value("orderly-attempt"),
        value("orderly-previous-sequence"),
        value("webhook-id"),
        value("content-type"),
        body.len(),
    );
    // Whoever sends must not write to our terminal what it takes for commands.
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).chain(['\n']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(sequence: i64, previous: i64) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert("orderly-sequence", sequence.into());
        headers.insert("orderly-previous-sequence", previous.into());
        headers
    }

    #[test]
    fn holes_reorderings_and_repetitions_are_told() {
        let mut seen = Seen::default();
        assert_eq!(seen.note("/", &headers(7, 5), true), None, "the first one may follow others");
        assert_eq!(seen.note("/", &headers(9, 7), false), None, "a failed try");
        assert_eq!(seen.note("/", &headers(9, 7), true), None, "its repetition");
        assert!(seen.note("/", &headers(9, 7), true).is_some(), "a duplicate");
        assert!(seen.note("/", &headers(12, 11), true).is_some(), "11 is missing");
        assert!(seen.note("/", &headers(10, 9), true).is_some(), "an older one");
        assert_eq!(seen.note("/other", &headers(3, 0), true), None, "another path, another order");
        assert_eq!(seen.note("/", &HeaderMap::new(), true), None, "not from Orderly");
    }
}

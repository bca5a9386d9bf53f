//! What went wrong with a try that brought no whole answer?
//!
//! The client wraps causes in causes; what counts is the innermost one that means something. Its own text
//! is never shown: it carries the URL, and a URL may carry a secret.

use std::error::Error;
use std::io;
use std::time::Duration;

use crate::domain::{Failure, FailureKind};

use super::gate::Aborted;
use super::guard::GuardError;
use super::resolver::ResolveError;
use super::transport::ConnectTimeout;

/// The longest text for people.
const DETAIL_LENGTH: usize = 300;

pub(super) fn failure(kind: FailureKind, detail: impl Into<String>) -> Failure {
    let mut detail = detail.into();
    if let Some((end, _)) = detail.char_indices().nth(DETAIL_LENGTH) {
        detail.truncate(end);
    }
    Failure { kind, detail, retry_after: None }
}

pub(super) fn forbidden(error: &GuardError) -> Failure {
    failure(FailureKind::ForbiddenAddress, error.to_string())
}

pub(super) fn timeout(after: Duration) -> Failure {
    failure(FailureKind::Timeout, format!("timeout after {} s", after.as_secs_f64()))
}

/// `Err`: the gate was closed, and nothing was sent.
pub(super) fn classify(error: &(dyn Error + 'static)) -> Result<Failure, Aborted> {
    let mut found = None;
    for cause in causes(error) {
        if let Some(aborted) = cause.downcast_ref::<Aborted>() {
            return Err(*aborted);
        }
        found = recognise(cause).or(found);
    }
    let connecting = causes(error).any(|cause| {
        cause.downcast_ref::<hyper_util::client::legacy::Error>().is_some_and(|error| error.is_connect())
            || cause.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect)
    });
    let what = if connecting { "cannot connect: " } else { "" };
    Ok(found.unwrap_or_else(|| failure(FailureKind::Broken, format!("{what}{}", innermost(error)))))
}

fn recognise(cause: &(dyn Error + 'static)) -> Option<Failure> {
    if let Some(error) = cause.downcast_ref::<ResolveError>() {
        return Some(match error {
            ResolveError::Forbidden(error) => forbidden(error),
            ResolveError::Failed(error) => failure(FailureKind::Dns, error.to_string()),
        });
    }
    if let Some(error) = cause.downcast_ref::<rustls::Error>() {
        return Some(failure(FailureKind::Tls, format!("TLS: {error}")));
    }
    if let Some(error) = cause.downcast_ref::<hyper::Error>() {
        if error.is_parse_too_large() {
            return Some(failure(FailureKind::TooLarge, "the answer's headers are too large"));
        }
        if error.is_parse() {
            return Some(failure(FailureKind::Broken, "what came is not HTTP"));
        }
        if error.is_incomplete_message() {
            return Some(failure(FailureKind::Broken, "the connection was closed before an answer came"));
        }
    }
    if cause.is::<ConnectTimeout>() || cause.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_timeout) {
        return Some(failure(FailureKind::Timeout, "timeout while connecting"));
    }
    let error = cause.downcast_ref::<io::Error>()?;
    match error.kind() {
        io::ErrorKind::TimedOut => Some(failure(FailureKind::Timeout, "timeout while connecting")),
        io::ErrorKind::ConnectionRefused => Some(failure(FailureKind::Refused, "connection refused")),
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted => {
            Some(failure(FailureKind::Broken, "the connection was reset"))
        }
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            Some(failure(FailureKind::Broken, "the host is unreachable"))
        }
        _ => None,
    }
}

/// An error and all that caused it, the wrapped error of an `io::Error` included: its `source` skips it.
fn causes<'a>(error: &'a (dyn Error + 'static)) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    std::iter::successors(Some(error), |error: &&'a (dyn Error + 'static)| {
        let error: &'a (dyn Error + 'static) = *error;
        let wrapped = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        wrapped.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source())
    })
}

/// The client's own words carry the URL.
fn innermost(error: &(dyn Error + 'static)) -> String {
    match causes(error).last() {
        Some(cause) if !cause.is::<reqwest::Error>() => cause.to_string(),
        _ => "the request failed".to_owned(),
    }
}

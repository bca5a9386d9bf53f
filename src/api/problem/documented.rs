//! Which problems may an operation answer with, and how does the document tell?

use std::marker::PhantomData;

use poem_openapi::ApiResponse;
use poem_openapi::registry::{MetaHeader, MetaMediaType, MetaResponse, MetaResponses, Registry};
use poem_openapi::types::Type;

use super::{Problem, ProblemDocument};

/// A problem of an operation whose statuses `S` lists.
#[derive(Debug)]
pub struct Answers<S>(Problem, PhantomData<S>);

/// The statuses that a kind of operation may refuse with.
pub trait Statuses: Send + Sync + 'static {
    const STATUSES: &'static [u16];
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident = [$($status:literal),+];)+) => {
        $($(#[$doc])* #[derive(Debug)] pub struct $name;
        impl Statuses for $name { const STATUSES: &'static [u16] = &[$($status),+]; })+
    };
}

kinds! {
    /// Reads one thing.
    Reading = [401, 403, 404, 429, 503];
    /// Reads a page.
    Listing = [400, 401, 403, 422, 429, 503];
    /// Reads a page of what belongs to one thing.
    Calling = [400, 401, 403, 404, 422, 429, 503];
    /// Makes something of a body.
    Creating = [400, 401, 403, 413, 415, 422, 429, 503];
    /// Changes one thing by a body.
    Changing = [400, 401, 403, 404, 409, 413, 415, 422, 429, 503];
    /// Ends or steers one thing.
    Ending = [401, 403, 404, 409, 429, 503];
    /// Queues messages.
    Posting = [400, 401, 403, 409, 413, 415, 422, 429, 503];
    /// Tells how it is.
    Serving = [503];
    /// Queues delivered messages again.
    Replaying = [400, 401, 403, 404, 409, 413, 415, 422, 429, 503];
    /// Queues one thing again.
    Redriving = [401, 403, 404, 409, 429, 503];
}

impl<S, E: Into<Problem>> From<E> for Answers<S> {
    fn from(error: E) -> Self {
        Answers(error.into(), PhantomData)
    }
}

impl<S> From<Answers<S>> for poem::Error {
    fn from(answer: Answers<S>) -> poem::Error {
        answer.0.into()
    }
}

impl<S: Statuses> ApiResponse for Answers<S> {
    fn meta() -> MetaResponses {
        MetaResponses { responses: S::STATUSES.iter().map(|status| meta(*status)).collect() }
    }

    fn register(registry: &mut Registry) {
        ProblemDocument::register(registry);
    }
}

fn meta(status: u16) -> MetaResponse {
    let (description, header) = match status {
        400 => ("The body or a parameter does not parse", None),
        401 => ("No valid bearer token came with the request", Some(("WWW-AUTHENTICATE", "How to identify oneself"))),
        403 => ("The token lacks the scope", None),
        404 => ("There is no such thing", None),
        409 => ("The state does not allow it", None),
        413 => ("A payload is larger than 1 MiB, or the request larger than 16 MiB", None),
        415 => ("The body is not JSON by its content type", None),
        422 => ("What was sent parses and is wrong", None),
        429 => (
            "Too many requests, or the destination's queue is full",
            Some(("RETRY-AFTER", "Seconds to wait before trying again")),
        ),
        503 => ("The database is out of reach", Some(("RETRY-AFTER", "Seconds to wait before trying again"))),
        _ => ("An error", None),
    };
    MetaResponse {
        description,
        status: Some(status),
        status_range: None,
        content: vec![MetaMediaType {
            content_type: "application/problem+json",
            schema: ProblemDocument::schema_ref(),
        }],
        headers: header
            .map(|(name, description)| MetaHeader {
                name: name.to_owned(),
                description: Some(description.to_owned()),
                required: true,
                deprecated: false,
                schema: String::schema_ref(),
            })
            .into_iter()
            .collect(),
    }
}

//! What does a client read when something went wrong?
//!
//! RFC 9457, for every error that reaches the application. Statuses are decided here and nowhere else; the
//! layers below have errors that know no HTTP.

mod causes;
mod documented;
mod framework;

use std::borrow::Cow;

use poem::error::ResponseError;
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Body, Response};
use poem_openapi::Object;
use poem_openapi::types::Example;
use serde::Serialize;

use causes::Causes;
pub use causes::into_problem_with_causes;
pub use documented::{
    Answers, Calling, Changing, Creating, Ending, Listing, Posting, Reading, Redriving, Replaying, Serving,
};
pub use framework::into_problem;

use crate::api::auth::AuthError;
use crate::store::StoreError;
use crate::store::control::ControlError;
use crate::store::dead_letters::RedriveError;
use crate::store::destinations::RegisterError;
use crate::store::enqueue::{EnqueueError, Rejection};

/// When the database is out of reach or busy: a restart of it takes about so long.
const RETRY_AFTER_SECONDS: u32 = 1;
/// A full queue drains at the pace of its receiver.
const FULL_RETRY_AFTER_SECONDS: u32 = 5;

/// An error as its client sees it. Boxed: it is the rare case of many results.
#[derive(Debug, thiserror::Error)]
#[error("{}: {}", .0.status, .0.detail)]
pub struct Problem(Box<Told>);

#[derive(Debug)]
struct Told {
    status: StatusCode,
    detail: Cow<'static, str>,
    errors: Vec<Fault>,
    retry_after: Option<u32>,
    challenge: Option<HeaderValue>,
    allow: Option<HeaderValue>,
    causes: Causes,
}

/// One thing that is wrong with a body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Object)]
pub struct Fault {
    /// A JSON pointer (RFC 6901) into the request's body
    pub pointer: String,
    /// What is wrong there
    pub detail: String,
}

/// An error, as RFC 9457 has it.
#[derive(Debug, Serialize, Object)]
#[oai(rename = "Problem", example)]
pub(super) struct ProblemDocument {
    /// Always `about:blank`: the status says what kind it is
    #[serde(rename = "type")]
    #[oai(rename = "type")]
    kind: String,
    /// The status in words
    title: String,
    status: u16,
    /// What went wrong this time
    detail: String,
    /// What is wrong with the body, where it is the body
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[oai(skip_serializing_if_is_empty, default)]
    errors: Vec<Fault>,
    /// In development: the error behind it and that one's causes; never in production
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[oai(skip_serializing_if_is_empty, default)]
    debug: Vec<String>,
}

impl Example for ProblemDocument {
    fn example() -> Self {
        let fault = Fault::new("/destination_id", "there is no such destination");
        document(&Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the body is wrong").with_errors(vec![fault]))
    }
}

impl Fault {
    pub fn new(pointer: impl Into<String>, detail: impl Into<String>) -> Fault {
        Fault { pointer: pointer.into(), detail: detail.into() }
    }
}

impl Problem {
    pub fn new(status: StatusCode, detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem(Box::new(Told {
            status,
            detail: detail.into(),
            errors: Vec::new(),
            retry_after: None,
            challenge: None,
            allow: None,
            causes: Causes::default(),
        }))
    }

    pub fn bad_request(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::BAD_REQUEST, detail)
    }

    pub fn not_found() -> Problem {
        Problem::new(StatusCode::NOT_FOUND, "there is no such thing")
    }

    pub fn conflict(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::CONFLICT, detail)
    }

    /// A body that parses and is wrong.
    pub fn wrong(errors: Vec<Fault>) -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "the body is wrong").with_errors(errors)
    }

    pub fn wrong_at(pointer: impl Into<String>, detail: impl Into<String>) -> Problem {
        Problem::wrong(vec![Fault::new(pointer, detail)])
    }

    pub fn too_large(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, detail)
    }

    pub fn unavailable(detail: impl Into<Cow<'static, str>>) -> Problem {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, detail).with_retry_after(RETRY_AFTER_SECONDS)
    }

    pub fn errors(&self) -> &[Fault] {
        &self.0.errors
    }

    pub fn with_errors(mut self, errors: Vec<Fault>) -> Problem {
        self.0.errors = errors;
        self
    }

    fn with_retry_after(mut self, seconds: u32) -> Problem {
        self.0.retry_after = Some(seconds);
        self
    }

    fn caused_by(mut self, error: &(dyn std::error::Error + 'static)) -> Problem {
        self.0.causes = Causes::of(error);
        self
    }

    /// For a 405: what is allowed.
    pub fn with_allow(mut self, methods: HeaderValue) -> Problem {
        self.0.allow = Some(methods);
        self
    }

    /// What a message that was refused says of the body it came in; `pointer` is to its destination's id.
    pub fn rejected(reason: Rejection, pointer: String) -> Problem {
        match reason {
            Rejection::UnknownDestination => Problem::wrong_at(pointer, "there is no such destination"),
            Rejection::Disabled => Problem::conflict("the destination is disabled")
                .with_errors(vec![Fault::new(pointer, "it is disabled; resume it first")]),
            Rejection::Full => Problem::new(StatusCode::TOO_MANY_REQUESTS, "the destination's queue is full")
                .with_errors(vec![Fault::new(pointer, "it has max_queue_depth messages")])
                .with_retry_after(FULL_RETRY_AFTER_SECONDS),
        }
    }

    /// The problem of an enqueue; `pointer_of` is where the item with an index names its destination.
    pub fn of_enqueue(error: EnqueueError, pointer_of: impl Fn(usize) -> String) -> Problem {
        match error {
            EnqueueError::Rejected { index, reason } => Problem::rejected(reason, pointer_of(index)),
            EnqueueError::KeyReused => Problem::key_reused(),
            EnqueueError::Store(error) => error.into(),
        }
    }

    fn key_reused() -> Problem {
        Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "this Idempotency-Key came with another body before")
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Problem {
        match error {
            StoreError::Unreachable(_) | StoreError::Held(_) | StoreError::Busy(_) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "a request could not be served");
                Problem::unavailable(error.to_string()).caused_by(&error)
            }
            StoreError::Refused(_) | StoreError::Corrupt(_) | StoreError::Settings(_) => {
                tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
                Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "something went wrong here; the log says what")
                    .caused_by(&error)
            }
        }
    }
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Problem {
        let mut problem = Problem::new(error.status(), error.to_string());
        problem.0.challenge = error.challenge();
        problem
    }
}

impl From<ControlError> for Problem {
    fn from(error: ControlError) -> Problem {
        match error {
            ControlError::NotFound => Problem::not_found(),
            ControlError::Conflict(detail) => Problem::conflict(detail),
            ControlError::Store(error) => error.into(),
        }
    }
}

impl From<RegisterError> for Problem {
    fn from(error: RegisterError) -> Problem {
        match error {
            RegisterError::KeyReused => Problem::key_reused(),
            RegisterError::Store(error) => error.into(),
        }
    }
}

impl From<RedriveError> for Problem {
    fn from(error: RedriveError) -> Problem {
        match error {
            RedriveError::Rejected(Rejection::UnknownDestination) => Problem::not_found(),
            RedriveError::Rejected(reason @ (Rejection::Disabled | Rejection::Full)) => {
                Problem::rejected(reason, "/destination_id".to_owned())
            }
            RedriveError::Store(error) => error.into(),
        }
    }
}

fn document(Problem(problem): &Problem) -> ProblemDocument {
    ProblemDocument {
        kind: "about:blank".to_owned(),
        title: problem.status.canonical_reason().unwrap_or("Error").to_owned(),
        status: problem.status.as_u16(),
        detail: problem.detail.clone().into_owned(),
        errors: problem.errors.clone(),
        debug: Vec::new(),
    }
}

impl ResponseError for Problem {
    fn status(&self) -> StatusCode {
        self.0.status
    }

    fn as_response(&self) -> Response {
        self.respond(Vec::new())
    }
}

impl Problem {
    fn respond(&self, debug: Vec<String>) -> Response {
        let document = ProblemDocument { debug, ..document(self) };
        let body = serde_json::to_vec(&document).expect("a structure of strings is always JSON");
        let mut response = Response::builder()
            .status(self.0.status)
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"))
            .body(Body::from_vec(body));
        let headers = response.headers_mut();
        if let Some(seconds) = self.0.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if let Some(challenge) = &self.0.challenge {
            headers.insert(header::WWW_AUTHENTICATE, challenge.clone());
        }
        if let Some(methods) = &self.0.allow {
            headers.insert(header::ALLOW, methods.clone());
        }
        response
    }
}

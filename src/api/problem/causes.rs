//! What lies behind an error, for whoever develops against a server of his own?
//!
//! Causes name tables, statements and hosts: in production they stand in the log and nowhere else. So a problem
//! carries them beside what it says, and only development puts them in.

use std::error::Error;

use poem::Response;

use super::{Problem, into_problem};

/// An error and its causes, the outermost first.
#[derive(Debug, Default)]
pub(super) struct Causes(pub Vec<String>);

impl Causes {
    pub fn of(error: &(dyn Error + 'static)) -> Causes {
        let mut causes = Vec::new();
        let mut next = Some(error);
        while let Some(error) = next {
            causes.push(error.to_string());
            next = error.source();
        }
        Causes(causes)
    }
}

/// Makes a problem of an error as [`into_problem`] does, with its causes as `debug`. For development alone.
pub fn into_problem_with_causes(error: poem::Error) -> Response {
    match error.downcast_ref::<Problem>() {
        Some(problem) => problem.respond(problem.0.causes.0.clone()),
        None => into_problem(error),
    }
}

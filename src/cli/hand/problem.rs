//! What does the API say when it refuses, in one line?

use bytes::Bytes;
use http::{Response, StatusCode};
use serde::Deserialize;

use crate::cli::wording::clean;

#[derive(Deserialize)]
struct Problem {
    title: Option<String>,
    detail: Option<String>,
    #[serde(default)]
    errors: Vec<Fault>,
}

#[derive(Deserialize)]
struct Fault {
    pointer: String,
    detail: String,
}

/// What a problem says, with the pointers to what is wrong.
pub(super) fn in_one_line(answer: &Response<Bytes>) -> String {
    let status: StatusCode = answer.status();
    let problem: Option<Problem> = serde_json::from_slice(answer.body()).ok();
    let detail = problem.as_ref().and_then(|problem| problem.detail.clone().or(problem.title.clone()));
    let faults: Vec<String> = problem
        .iter()
        .flat_map(|problem| &problem.errors)
        .map(|fault| format!("{} {}", if fault.pointer.is_empty() { "/" } else { &fault.pointer }, fault.detail))
        .collect();
    let faults = if faults.is_empty() { String::new() } else { format!(": {}", faults.join("; ")) };
    clean(&format!("{}{faults} ({status})", detail.as_deref().unwrap_or("the API refused")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_one_line_with_its_pointers() {
        let answer = |status: u16, body: &'static str| {
            let mut answer = Response::new(Bytes::from_static(body.as_bytes()));
            *answer.status_mut() = StatusCode::from_u16(status).expect("a status");
            in_one_line(&answer)
        };
        let body =
            r#"{"title": "x", "detail": "the body is wrong", "errors": [{"pointer": "/url", "detail": "no\nhost"}]}"#;
        assert_eq!(answer(422, body), "the body is wrong: /url no host (422 Unprocessable Entity)");
        assert_eq!(answer(502, "<html>"), "the API refused (502 Bad Gateway)");
        assert_eq!(answer(404, r#"{"title": "Not Found"}"#), "Not Found (404 Not Found)");
    }
}

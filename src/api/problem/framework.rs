//! What becomes of the framework's own errors?

use poem::error::{NotFoundError, ParsePathError as RoutePathError, ReadBodyError, ResponseError};
use poem::http::{HeaderValue, StatusCode, header};
use poem::{Error, Response};
use poem_openapi::error::{ContentTypeError, ParseParamError, ParsePathError};

use super::Problem;

/// Makes a problem of whatever came up: ours stay as they are, the framework's get their status and a body.
pub fn into_problem(error: Error) -> Response {
    match translate(&error) {
        Some(problem) => problem.as_response(),
        None => keep_or_describe(error),
    }
}

fn translate(error: &Error) -> Option<Problem> {
    if error.is::<NotFoundError>() {
        Some(Problem::new(StatusCode::NOT_FOUND, "there is no such address"))
    } else if error.is::<ParsePathError>() || error.is::<RoutePathError>() {
        // An id that is no id names nothing.
        Some(Problem::not_found())
    } else if let Some(parameter) = error.downcast_ref::<ParseParamError>() {
        Some(Problem::bad_request(format!("`{}`: {}", parameter.name, parameter.reason)))
    } else if error.is::<ContentTypeError>() {
        Some(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be JSON"))
    } else if error.is::<ReadBodyError>() {
        Some(Problem::bad_request("the body could not be read"))
    } else {
        None
    }
}

/// An error that answers with a problem itself, headers and all, is left alone.
fn keep_or_describe(error: Error) -> Response {
    let (status, text) = (error.status(), error.to_string());
    let response = error.into_response();
    let kind = response.headers().get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind == HeaderValue::from_static("application/problem+json")) {
        return response;
    }
    if status.is_server_error() {
        tracing::error!(error = text, "a request failed");
        return Problem::new(status, "something went wrong here; the log says what").as_response();
    }
    Problem::new(status, text).as_response()
}

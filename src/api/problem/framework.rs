//! What becomes of the framework's own errors?

use poem::error::{
    MethodNotAllowedError, NotFoundError, ParsePathError as RoutePathError, ReadBodyError, ResponseError,
};
use poem::http::StatusCode;
use poem::{Error, Response};
use poem_openapi::error::{ContentTypeError, ParseParamError, ParsePathError};

use super::Problem;
use crate::api::auth::AuthError;

/// Makes a problem of whatever came up: ours stay as they are, the framework's get their status and a body.
pub fn into_problem(error: Error) -> Response {
    if error.is::<Problem>() || error.is::<AuthError>() || error.is_from_response() {
        return error.into_response();
    }
    let problem = if error.is::<NotFoundError>() {
        Problem::new(StatusCode::NOT_FOUND, "there is no such address")
    } else if error.is::<ParsePathError>() || error.is::<RoutePathError>() {
        // An id that is no id names nothing.
        Problem::not_found()
    } else if error.is::<MethodNotAllowedError>() {
        Problem::new(StatusCode::METHOD_NOT_ALLOWED, "this address does not take that method")
    } else if let Some(parameter) = error.downcast_ref::<ParseParamError>() {
        Problem::bad_request(format!("`{}`: {}", parameter.name, parameter.reason))
    } else if error.is::<ContentTypeError>() {
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body must be JSON")
    } else if error.is::<ReadBodyError>() {
        Problem::bad_request("the body could not be read")
    } else {
        let status = error.status();
        if status.is_server_error() {
            tracing::error!(error = &error as &dyn std::error::Error, "a request failed");
            Problem::new(status, "something went wrong here; the log says what")
        } else {
            Problem::new(status, error.to_string())
        }
    };
    problem.as_response()
}

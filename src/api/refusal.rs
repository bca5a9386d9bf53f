//! How does a refusal look that no resource has a hand in?
//!
//! What is turned away at the door (no token, too many requests, a body that never ends) is told in the same
//! form as everything else: RFC 9457.

use poem::Response;
use poem::http::StatusCode;

pub(crate) fn refusal(status: StatusCode, detail: &str) -> Response {
    let body = serde_json::json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
    });
    Response::builder().status(status).content_type("application/problem+json").body(body.to_string())
}

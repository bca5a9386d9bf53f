//! Why is a call turned away at the door, and what is it told?
//!
//! RFC 6750 section 3. What exactly is wrong with a token stays in our log: to whoever made it up it would be
//! a hint. That it has expired is told, since that is what honest clients must know.

use poem::Response;
use poem::error::ResponseError;
use poem::http::{HeaderValue, StatusCode, header};

use super::Scope;
use crate::api::refusal::refusal;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No `Authorization` header.
    #[error("a bearer token is required")]
    Missing,
    /// The reason is for the log.
    #[error("the bearer token is not valid")]
    Invalid(&'static str),
    #[error("the bearer token has expired")]
    Expired,
    #[error("the bearer token lacks the scope {0}")]
    Scope(Scope),
    /// A call that is nobody's who is confined to a tenant.
    #[error("this call is not open to tenants")]
    Tenant,
    /// The application was put together without a verifier; nobody gets in.
    #[error("authentication is not set up")]
    NotSetUp,
}

impl AuthError {
    /// The `WWW-Authenticate` header of the answer.
    pub fn challenge(&self) -> Option<HeaderValue> {
        match self {
            AuthError::Missing => Some(HeaderValue::from_static("Bearer")),
            AuthError::Invalid(_) => Some(HeaderValue::from_static(r#"Bearer error="invalid_token""#)),
            AuthError::Expired => {
                Some(HeaderValue::from_static(r#"Bearer error="invalid_token", error_description="expired""#))
            }
            AuthError::Scope(scope) => {
                HeaderValue::try_from(format!(r#"Bearer error="insufficient_scope", scope="{scope}""#)).ok()
            }
            AuthError::Tenant => Some(HeaderValue::from_static(r#"Bearer error="insufficient_scope""#)),
            AuthError::NotSetUp => None,
        }
    }
}

impl ResponseError for AuthError {
    fn status(&self) -> StatusCode {
        match self {
            AuthError::Missing | AuthError::Invalid(_) | AuthError::Expired => StatusCode::UNAUTHORIZED,
            AuthError::Scope(_) | AuthError::Tenant => StatusCode::FORBIDDEN,
            AuthError::NotSetUp => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }

    fn as_response(&self) -> Response {
        let mut response = refusal(self.status(), &self.to_string());
        if let Some(challenge) = self.challenge() {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
        }
        response
    }
}

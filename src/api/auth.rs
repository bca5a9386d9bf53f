//! Who is calling, and what may they do?
//!
//! A call carries a bearer token; [`Verifier`] says whose it is; [`Caller`] is the argument of each handler
//! that lets it ask for a scope and learn whose rows it may touch.

mod caller;
mod error;
mod key;
mod source;
mod token;
mod verifier;

use std::fmt;
use std::str::FromStr;

use poem_openapi::OAuthScopes;

pub use caller::{Caller, Tenancy, document_token_endpoint};
pub use error::AuthError;
pub use key::{KeyError, KeySet};
pub use source::{Pace, Source, SourceError};
pub use token::{Expectations, MAX_TOKEN_BYTES, parse_for_fuzzing};
pub use verifier::{SetupError, Verifier};

/// What a token may allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, OAuthScopes)]
pub enum Scope {
    /// See destinations, their queues, and workers
    #[oai(rename = "destinations:read")]
    DestinationsRead,
    /// Change destinations and steer their queues
    #[oai(rename = "destinations:write")]
    DestinationsWrite,
    /// See messages, their attempts, and dead letters
    #[oai(rename = "messages:read")]
    MessagesRead,
    /// Queue and delete messages, redrive dead letters
    #[oai(rename = "messages:write")]
    MessagesWrite,
}

impl Scope {
    pub const ALL: [Scope; 4] =
        [Scope::DestinationsRead, Scope::DestinationsWrite, Scope::MessagesRead, Scope::MessagesWrite];

    /// As it stands in a token.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::DestinationsRead => "destinations:read",
            Scope::DestinationsWrite => "destinations:write",
            Scope::MessagesRead => "messages:read",
            Scope::MessagesWrite => "messages:write",
        }
    }

    fn bit(self) -> u8 {
        1 << self as u8
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no such scope: {0}")]
pub struct ParseScopeError(String);

impl FromStr for Scope {
    type Err = ParseScopeError;

    fn from_str(text: &str) -> Result<Self, ParseScopeError> {
        Scope::ALL.into_iter().find(|scope| scope.as_str() == text).ok_or_else(|| ParseScopeError(text.to_owned()))
    }
}

/// A set of scopes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scopes(u8);

impl Scopes {
    pub fn all() -> Scopes {
        Scope::ALL.into_iter().collect()
    }

    /// The `scope` claim: names with spaces between; those of other services are none of ours.
    pub fn parse(text: &str) -> Scopes {
        text.split(' ').filter_map(|name| name.parse().ok()).collect()
    }

    pub fn contains(self, scope: Scope) -> bool {
        self.0 & scope.bit() != 0
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Scopes(scopes.into_iter().fold(0, |bits, scope| bits | scope.bit()))
    }
}

/// Whom a token speaks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    pub subject: Option<String>,
    /// None may touch everybody's.
    pub tenant: Option<String>,
    pub scopes: Scopes,
}

impl Principal {
    /// Where authentication is off, everybody.
    pub fn unrestricted() -> Principal {
        Principal { subject: None, tenant: None, scopes: Scopes::all() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scopes_are_matched_whole() {
        let scopes = Scopes::parse("messages:write  openid destinations:readX messages:READ");
        assert!(scopes.contains(Scope::MessagesWrite));
        for scope in [Scope::MessagesRead, Scope::DestinationsRead, Scope::DestinationsWrite] {
            assert!(!scopes.contains(scope), "{scope}");
        }
        assert_eq!(Scopes::parse(""), Scopes::default());
        for scope in Scope::ALL {
            assert_eq!(poem_openapi::OAuthScopes::name(&scope), scope.as_str());
            assert!(Scopes::all().contains(scope));
        }
    }
}

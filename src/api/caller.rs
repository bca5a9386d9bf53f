//! Whose call is it, and what may it touch?

use poem::{FromRequest, Request, RequestBody};

use super::problem::Problem;

/// What a handler asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    DestinationsRead,
    DestinationsWrite,
    MessagesRead,
    MessagesWrite,
}

/// Whose rows a call may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tenancy {
    All,
    Confined(String),
}

impl Tenancy {
    /// For statements: null is everybody.
    pub fn as_deref(&self) -> Option<&str> {
        match self {
            Tenancy::All => None,
            Tenancy::Confined(tenant) => Some(tenant),
        }
    }
}

/// Whoever made this call. Authentication is off: everybody may do everything.
#[derive(Debug, Clone)]
pub struct Caller;

impl Caller {
    /// The rows that this call may touch, if it has the scope.
    pub fn require(&self, _scope: Scope) -> Result<Tenancy, Problem> {
        Ok(Tenancy::All)
    }

    /// For what belongs to no tenant, such as the list of workers.
    pub fn require_operator(&self, scope: Scope) -> Result<(), Problem> {
        match self.require(scope)? {
            Tenancy::All => Ok(()),
            Tenancy::Confined(_) => Err(Problem::forbidden("this call is not open to tenants")),
        }
    }
}

impl<'a> FromRequest<'a> for Caller {
    async fn from_request(_request: &'a Request, _body: &mut RequestBody) -> poem::Result<Self> {
        Ok(Caller)
    }
}

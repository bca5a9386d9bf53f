//! How does a name become the address that is dialled?
//!
//! The client asks here at each new connection, and dials what it gets: between check and use there is no
//! second lookup, so that a name server that changes its mind gains nothing.

mod system;

use std::io;
use std::net::IpAddr;
use std::pin::Pin;

pub use system::SystemLookup;

use super::guard::GuardError;

pub type Looking = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Where answers come from.
pub trait Lookup: Send + Sync + 'static {
    fn lookup(&self, name: &str) -> Looking;
}

#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error(transparent)]
    Forbidden(GuardError),
    #[error("the name does not resolve")]
    Failed(#[source] io::Error),
}

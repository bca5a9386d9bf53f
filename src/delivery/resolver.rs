//! How does a name become the address that is dialled?
//!
//! The client asks here at each new connection, and dials what it gets: between check and use there is no
//! second lookup, so that a name server that changes its mind gains nothing.

mod system;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

pub use system::SystemLookup;

use super::guard::{Guard, GuardError};

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

/// The guard in the client's place for a resolver.
pub(super) struct GuardedResolver(pub Guard);

impl reqwest::dns::Resolve for GuardedResolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let guard = self.0.clone();
        Box::pin(async move {
            let addresses = guard.resolve(name.as_str()).await?;
            // Port 0: the client puts the URL's in.
            let sockets = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(sockets) as reqwest::dns::Addrs)
        })
    }
}

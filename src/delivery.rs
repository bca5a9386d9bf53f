//! How does one message reach its destination, and what came of it?
//!
//! Where a delivery may go is [`Guard`]'s to say, at registration and again at each connection. Nothing
//! here knows of queues, retries or the database.

mod guard;
mod keys;
mod resolver;
mod signature;

pub use guard::{Guard, GuardError, Refusal};
pub use keys::{KeyError, SigningKey, SigningKeys};
pub use resolver::{Looking, Lookup, ResolveError, SystemLookup};
pub use signature::{sign, whsec};

//! How does one message reach its destination, and what came of it?
//!
//! Where a delivery may go is [`Guard`]'s to say, at registration and again at each connection. Nothing
//! here knows of queues, retries or the database.

mod guard;
mod resolver;

pub use guard::{Guard, GuardError, Refusal};
pub use resolver::{Looking, Lookup, ResolveError, SystemLookup};

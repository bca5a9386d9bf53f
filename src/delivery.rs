//! How does one message reach its destination, and what came of it?
//!
//! [`DeliveryClient::deliver`] signs a message and sends it once, and gives back an
//! [`Outcome`](crate::domain::Outcome): a delivery that failed is an outcome, not an error. Where it may go
//! is [`Guard`]'s to say, at registration and again at each connection. Nothing here knows of queues,
//! retries or the database.

mod client;
mod failure;
pub mod fetch;
mod gate;
mod guard;
mod keys;
mod request;
mod resolver;
pub mod rest;
mod retry_after;
mod signature;
mod transport;

pub use client::{ClientError, ClientSettings, DeliveryClient};
pub use gate::{Aborted, AlwaysOpen, Gate};
pub use guard::{Guard, GuardError, Refusal};
pub use keys::{KeyError, SigningKey, SigningKeys};
pub use request::{Meta, Target};
pub use resolver::{Looking, Lookup, ResolveError, SystemLookup};
pub use retry_after::parse as parse_retry_after;
pub use signature::{generate_hmac_secret, sign, whsec};

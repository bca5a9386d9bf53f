//! How do clients speak with Orderly?
//!
//! [`app`] is the whole of it as one poem endpoint: a file for each resource, whose handlers check what came,
//! ask the [`store`](crate::store), and shape the answer. Every error that reaches a client, the
//! framework's own included, is a problem (RFC 9457).

mod attempts;
pub mod auth;
pub mod browser;
mod content;
mod dead_letters;
mod destinations;
mod document;
mod entries;
mod front;
#[doc(hidden)]
pub mod fuzzing;
mod health;
mod idempotency;
mod inside;
pub mod limits;
mod messages;
pub mod metrics;
mod names;
mod pagination;
mod payload;
mod problem;
mod queues;
mod refusal;
mod replays;
mod routes;
mod secrets;
pub mod server;
mod settings;
mod site;
mod trials;
mod workers;

pub use document::{openapi_json, openapi_yaml};
pub use inside::Inside;
pub use routes::{AppState, UrlCheck, app};
pub use site::{Foundations, SiteError, serve};

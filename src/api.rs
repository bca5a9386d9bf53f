//! How do clients speak with Orderly?

pub mod auth;
mod refusal;
pub mod server;

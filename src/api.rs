//! How do clients speak with Orderly?

pub mod auth;
pub mod browser;
pub mod limits;
mod refusal;
pub mod server;

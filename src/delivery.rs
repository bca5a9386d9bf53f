//! How does a message reach its receiver?

pub mod fetch;

//! How does Orderly speak with Postgres?
//!
//! The only place with SQL, beside `migrations/`: one function for each statement, named for what it
//! intends. The API's statements go through [`Store`]'s pool, which may stand behind a transaction pooler:
//! no named prepared statements, no session state. A worker's go over connections of its own
//! ([`connect`]).

pub mod attempts;
pub(crate) mod bell;
pub mod borrow;
pub mod connect;
pub mod control;
pub mod dead_letters;
pub mod destinations;
pub mod doctor;
pub mod enqueue;
mod error;
pub mod messages;
pub mod migrate;
mod pool;
pub mod queues;
pub mod replay;
mod sealer;
pub mod session;
mod signing_keys;
pub mod workers;

pub(crate) use connect::chain;
pub use error::StoreError;
pub use pool::Store;
pub use sealer::{SealError, Sealer, SecretsKeyError};

//! Orderly delivers each destination's messages strictly in order, on Postgres alone.
//!
//! One message, from POST to receipt:
//! [`api`] checks it and hands it to [`store`]'s enqueuer, which writes it together with what other
//! requests brought and rings the bell; a [`worker`] that holds the destination (or claims it now) reads
//! it, [`delivery`] signs and sends it, and the worker acknowledges the outcome on the one session whose
//! locks make it the holder.
//!
//! Who may use what: `cli → api, worker, embedded, config`; `api → store, delivery, domain`;
//! `worker → store, delivery, domain`; `store → domain`; `delivery → domain`; `domain →` nothing.

pub mod api;
pub mod broken;
pub mod cli;
pub mod config;
pub mod delivery;
pub mod domain;
pub mod embedded;
pub mod store;
pub mod telemetry;
pub mod worker;

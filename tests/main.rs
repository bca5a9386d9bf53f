//! Does Orderly, as a whole and from outside, do what it promises? (One program, so that it links once.)
#![allow(clippy::unwrap_used, reason = "a test that meets an error has found something, and may panic")]

mod support;

mod api;
mod auth;
mod command_line;
mod delivery;
mod embedded;
mod layering;
mod migrations;
mod plans;
mod receiver;
mod receivers;
mod roles;
mod server;
mod takeover;
mod trials;

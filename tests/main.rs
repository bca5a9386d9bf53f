//! Does Orderly, as a whole and from outside, do what it promises? (One program, so that it links once.)
#![allow(clippy::unwrap_used, reason = "a test that meets an error has found something, and may panic")]

mod support;

mod auth;
mod command_line;
mod delivery;
mod doctor;
mod embedded;
mod handwork;
mod migrations;
mod receiver;
mod receivers;
mod server;
mod takeover;

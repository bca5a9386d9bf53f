//! Does Orderly, as a whole and from outside, do what it promises? (One program, so that it links once.)
#![allow(clippy::unwrap_used, reason = "a test that meets an error has found something, and may panic")]

mod support;

mod api;
mod auth;
/// The checker's judge; the rest of it is a program of its own.
#[allow(dead_code, reason = "the checker takes the rest")]
mod chaos {
    mod judge;
    mod judge_tests;
    mod record;
}
mod command_line;
mod deletions;
mod delivery;
mod doctor;
mod embedded;
mod expiry;
mod flow;
mod handwork;
mod heads;
mod interruptions;
mod layering;
mod letters;
mod migrations;
mod pace;
mod plans;
mod pooler;
mod posting;
mod receiver;
mod receivers;
mod retention;
mod retries;
mod roles;
mod server;
mod takeover;
mod trials;

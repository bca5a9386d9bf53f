//! Does Orderly, as a whole and from outside, do what it promises? (One program, so that it links once.)
#![allow(clippy::unwrap_used, reason = "a test that meets an error has found something, and may panic")]

mod support;

mod api;
mod auth;
/// The checker's judge, and its broken lines; the rest of it is a program of its own.
#[allow(dead_code, reason = "the checker takes the rest")]
mod chaos {
    mod judge;
    mod judge_tests;
    pub mod proxy;
    mod record;
}
mod command_line;
mod database_lost;
mod deletions;
mod delivery;
mod disk_full;
mod doctor;
mod embedded;
mod expiry;
mod failover;
mod flow;
mod handwork;
mod hardening;
mod heads;
mod interruptions;
mod layering;
mod letters;
mod lost_host;
mod migrations;
mod names;
mod pace;
mod plans;
mod pooler;
mod posting;
mod receiver;
mod receivers;
mod retention;
mod retries;
mod roles;
mod rolling_restart;
mod secrets;
mod server;
mod server_limits;
mod takeover;
mod trials;
mod wakeups;

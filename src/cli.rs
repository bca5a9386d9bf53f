//! Which commands are there, and what do they have in common?
//!
//! Results go to stdout, logs and errors to stderr. Exit codes: 0 done, 1 failed at run time, 2 wrong usage.

mod dead_letters;
mod destinations;
mod dev;
mod doctor;
mod hand;
pub mod keygen;
mod messages;
mod migrate;
mod openapi;
mod parts;
mod queues;
mod receiver;
mod serve;
mod stop;
mod table;
pub mod token;
mod wording;
mod worker;

use std::io::Write;

use clap::{Parser, Subcommand};

use crate::api::SiteError;
use crate::config::LogSettings;
use crate::delivery::{ClientError, KeyError};
use crate::embedded::EmbeddedError;
use crate::store::connect::chain;
use crate::store::migrate::MigrateError;
use crate::store::{SecretsKeyError, Store, StoreError};
use crate::telemetry;
use crate::worker::WorkerError;

/// Strictly ordered webhook delivery on Postgres alone
#[derive(Debug, Parser)]
#[command(name = "orderly", version, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,

    #[command(flatten)]
    log: LogSettings,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Everything in one process, with a Postgres of its own: to try it out, and to develop against
    Dev(Box<dev::Arguments>),
    /// The REST API and its documentation under /doc
    Serve(Box<serve::Arguments>),
    /// Deliver what is queued
    Worker(Box<worker::Arguments>),
    /// Bring the database's schema up to date; safe to run from several hosts at once
    Migrate(migrate::Arguments),
    /// Show which queues hold messages, and why they move or do not
    Queues(Box<queues::Arguments>),
    /// See, make, steer and remove destinations
    #[command(subcommand)]
    Destinations(destinations::Command),
    /// See, queue and take back messages
    #[command(subcommand)]
    Messages(messages::Command),
    /// See, queue again and throw away the messages that were given up on
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Check the database, its settings and the keys, and say what to mend
    Doctor(Box<doctor::Arguments>),
    /// Print the OpenAPI document
    Openapi(openapi::Arguments),
    /// Receive webhooks and print each with its sequence: to try it out
    Receiver(receiver::Arguments),
    /// Make a key to sign deliveries with: the private one (PEM) on stdout, its public forms on stderr
    Keygen,
    /// Make a token to try the API with
    Token(token::TokenArgs),
}

/// Why a command ended with 1.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Migrate(#[from] MigrateError),
    #[error(transparent)]
    Embedded(#[from] EmbeddedError),
    #[error(transparent)]
    Serve(#[from] SiteError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("production needs a key to sign with: --signing-key (make one with `orderly keygen`)")]
    NoSigningKey,
    #[error("--egress-proxy is not a URL")]
    Proxy,
    #[error(transparent)]
    Secrets(#[from] SecretsKeyError),
    #[error(transparent)]
    Keys(#[from] KeyError),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error(transparent)]
    Hand(#[from] hand::HandError),
    #[error(transparent)]
    Keygen(#[from] keygen::KeygenError),
    #[error(transparent)]
    Token(#[from] token::TokenError),
    #[error("cannot listen on {address}")]
    Listen { address: std::net::SocketAddr, source: std::io::Error },
    #[error("{} that must be mended", if *.0 == 1 { "1 thing was found".to_owned() } else { format!("{} things were found", .0) })]
    Unhealthy(usize),
    #[error("cannot write to stdout")]
    Output(#[source] std::io::Error),
    #[error("cannot {doing}")]
    System { doing: &'static str, source: std::io::Error },
}

impl CliError {
    /// With its causes.
    pub fn in_one_line(&self) -> String {
        chain(self).split_whitespace().collect::<Vec<_>>().join(" ")
    }
}

pub fn run(cli: Cli) -> Result<(), CliError> {
    telemetry::start(&cli.log);
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|source| CliError::System { doing: "start the threads that do the work", source })?;
    let outcome = runtime.block_on(async {
        let stop = stop::on_signals().map_err(|source| CliError::System { doing: "listen for signals", source })?;
        match cli.command {
            Command::Dev(arguments) => dev::run(*arguments, stop).await,
            Command::Serve(arguments) => serve::run(*arguments, stop).await,
            Command::Worker(arguments) => worker::run(*arguments, stop).await,
            Command::Migrate(arguments) => migrate::run(arguments).await,
            Command::Queues(arguments) => queues::run(*arguments, stop).await,
            Command::Destinations(command) => destinations::run(command).await,
            Command::Messages(command) => messages::run(command).await,
            Command::DeadLetters(command) => dead_letters::run(command).await,
            Command::Doctor(arguments) => doctor::run(*arguments).await,
            Command::Openapi(arguments) => openapi::run(arguments),
            Command::Receiver(arguments) => receiver::run(arguments, stop).await,
            Command::Keygen => Ok(keygen::run()?),
            Command::Token(arguments) => Ok(token::run(&arguments)?),
        }
    });
    // What still blocks a thread (a name being resolved) must not keep the process.
    runtime.shutdown_background();
    match outcome {
        // Whoever read our output has read enough: `orderly openapi | head`.
        Err(CliError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// The database, with at most `connections` at once.
fn open_store(url: &str, connections: usize) -> Result<Store, StoreError> {
    Store::open(url, connections, Default::default())
}

/// A result, on stdout, at once.
fn print(text: &str) -> Result<(), CliError> {
    let mut stdout = std::io::stdout().lock();
    stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()).map_err(CliError::Output)
}

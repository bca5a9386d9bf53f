//! Which settings are there, where do they come from, and are they sound?
//!
//! Every setting stands here once: its flag, its environment variable, its default, its meaning. The
//! environment is read nowhere else. Secrets do not show in `Debug`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;

use crate::domain::RetryPolicy;

mod handwork;
mod serve;

pub use handwork::{PlaceSettings, ReachSettings};
pub use serve::{ServeSettings, SettingsError, TokenKeys};
mod trying_out;

pub use trying_out::{DevSettings, ReceiverSettings};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Environment {
    /// http is allowed, keys are made where none are given, errors carry their causes.
    Development,
    /// https only; keys and authentication are required.
    Production,
}

#[derive(Clone, Args)]
pub struct DatabaseSettings {
    /// Where Postgres is: postgres://user:password@host:port/database?sslmode=require (several: host1,host2)
    #[arg(long = "database-url", env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub url: String,
}

impl std::fmt::Debug for DatabaseSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DatabaseSettings(***)")
    }
}

/// What the API and the workers share.
#[derive(Clone, Args)]
pub struct CommonSettings {
    /// What may be left out, and what errors show
    #[arg(long, env = "ORDERLY_ENVIRONMENT", value_enum, default_value = "development")]
    pub environment: Environment,

    /// Opens a network that is not globally reachable to destinations (repeatable), for example 10.0.0.0/8
    #[arg(long = "allow-network", env = "ORDERLY_ALLOW_NETWORK", value_name = "CIDR", value_delimiter = ',')]
    pub allow_networks: Vec<IpNet>,

    /// A port that no destination may have (repeatable)
    #[arg(long = "deny-port", env = "ORDERLY_DENY_PORT", value_name = "PORT", value_delimiter = ',')]
    pub deny_ports: Vec<u16>,

    /// An Ed25519 private key (PKCS#8 PEM) that signs deliveries; all that are given sign (repeatable)
    #[arg(long = "signing-key", env = "ORDERLY_SIGNING_KEY", value_name = "FILE", value_delimiter = ',')]
    pub signing_keys: Vec<PathBuf>,

    /// Encrypts header values and secrets at rest; the first one seals, all open (repeatable)
    #[arg(
        long = "secrets-key",
        env = "ORDERLY_SECRETS_KEY",
        value_name = "BASE64",
        value_delimiter = ',',
        hide_env_values = true
    )]
    pub secrets_keys: Vec<String>,

    /// A DNS server for destinations' names (repeatable), with a port if it is not 53; names are then whole, and
    /// search domains do not apply [default: those of /etc/resolv.conf]
    #[arg(long = "name-server", env = "ORDERLY_NAME_SERVER", value_name = "ADDR", value_delimiter = ',',
          value_parser = parse_name_server)]
    pub name_servers: Vec<SocketAddr>,

    /// An HTTP proxy that all deliveries go through; it, not Orderly, then resolves names
    #[arg(long, env = "ORDERLY_EGRESS_PROXY", value_name = "URL", hide_env_values = true)]
    pub egress_proxy: Option<String>,
}

impl std::fmt::Debug for CommonSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CommonSettings").field("environment", &self.environment).finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, Args)]
pub struct WorkerSettings {
    /// Run until SIGINT or SIGTERM instead of ending when all that was queued is delivered
    #[arg(long, env = "ORDERLY_PERSISTENT")]
    pub persistent: bool,

    /// Serve this destination and no other
    #[arg(long, env = "ORDERLY_DESTINATION", value_name = "ID", value_parser = clap::value_parser!(i64).range(1..))]
    pub destination: Option<i64>,

    /// Tries after the first, where a destination does not say
    #[arg(long, env = "ORDERLY_RETRY", value_name = "N", default_value_t = 3)]
    pub retry: u32,

    /// From the end of one try to the start of the next, where a destination does not say
    #[arg(long, env = "ORDERLY_RETRY_DELAY", value_name = "SECONDS", default_value = "1", value_parser = parse_seconds)]
    pub retry_delay: Duration,

    /// Requests in flight, all destinations together; those older than a second count apart, to 16 times as many
    #[arg(long, env = "ORDERLY_CONCURRENCY", value_name = "N", default_value_t = 256,
          value_parser = clap::value_parser!(u32).range(1..=65536))]
    pub concurrency: u32,

    /// How long the log of tries and the outcomes it tells are kept
    #[arg(long, env = "ORDERLY_KEEP_ATTEMPTS", value_name = "DAYS", default_value_t = 7,
          value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub keep_attempts: u32,

    /// How long dead letters are kept
    #[arg(long, env = "ORDERLY_KEEP_DEAD_LETTERS", value_name = "DAYS", default_value_t = 30,
          value_parser = clap::value_parser!(u32).range(1..=3650))]
    pub keep_dead_letters: u32,

    /// Keep delivered payloads this long, for replay; 0 keeps none
    #[arg(long, env = "ORDERLY_KEEP_PAYLOADS", value_name = "HOURS", default_value_t = 0)]
    pub keep_payloads: u32,

    /// Where Prometheus may read what this worker does, at /metrics
    #[arg(long, env = "ORDERLY_METRICS_LISTEN", value_name = "ADDR")]
    pub metrics_listen: Option<SocketAddr>,

    /// How long a graceful stop waits for requests in flight before it aborts them
    #[arg(long, env = "ORDERLY_GRACE", value_name = "SECONDS", default_value = "40", value_parser = parse_seconds)]
    pub grace: Duration,
}

impl WorkerSettings {
    /// What holds where a destination has no policy of its own.
    pub fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy { max_retries: self.retry, delay: self.retry_delay, backoff: 1.0 }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Of every command.
#[derive(Debug, Clone, Args)]
pub struct LogSettings {
    /// How the log on stderr is written
    #[arg(long, env = "ORDERLY_LOG_FORMAT", value_enum, default_value = "text", global = true)]
    pub log_format: LogFormat,

    /// What is logged: a level (error, warn, info, debug, trace), or one for each part, as in
    /// info,orderly::worker=debug
    #[arg(long, env = "ORDERLY_LOG", value_name = "FILTER", default_value = "info,refinery_core=warn", global = true,
          value_parser = parse_log_filter)]
    pub log: String,
}

fn parse_log_filter(text: &str) -> Result<String, String> {
    tracing_subscriber::EnvFilter::try_new(text).map_err(|error| error.to_string())?;
    Ok(text.to_owned())
}

fn parse_name_server(text: &str) -> Result<SocketAddr, String> {
    let with_port = || Some(SocketAddr::new(text.parse().ok()?, 53));
    text.parse().ok().or_else(with_port).ok_or_else(|| "not an address such as 192.0.2.53".to_owned())
}

/// A number of seconds: 0 and fractions are fine, at most a day.
pub fn parse_seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "not a number of seconds".to_owned())?;
    if !(0.0..=86_400.0).contains(&seconds) {
        return Err("must be between 0 and 86400 seconds".to_owned());
    }
    Ok(Duration::from_secs_f64(seconds))
}

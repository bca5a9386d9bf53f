//! Which settings have the commands for trying things out?

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use clap::Args;

use super::{CommonSettings, ServeSettings, WorkerSettings};

#[derive(Debug, Clone, Args)]
pub struct DevSettings {
    /// Where the private Postgres keeps its data
    #[arg(long, env = "ORDERLY_DATA_DIR", value_name = "FOLDER", default_value = ".orderly")]
    pub data_dir: PathBuf,

    /// The folder with Postgres' programs (postgres, initdb); found when not given
    #[arg(long, env = "ORDERLY_PG_BIN", value_name = "FOLDER")]
    pub pg_bin: Option<PathBuf>,

    /// The private Postgres' port; a free one when not given
    #[arg(long, env = "ORDERLY_PG_PORT", value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub pg_port: Option<u16>,

    #[command(flatten)]
    pub serve: ServeSettings,

    #[command(flatten)]
    pub worker: WorkerSettings,

    #[command(flatten)]
    pub common: CommonSettings,
}

#[derive(Debug, Clone, Args)]
pub struct ReceiverSettings {
    /// The port on 127.0.0.1 to listen on
    #[arg(long, env = "ORDERLY_RECEIVER_PORT", default_value_t = 9000)]
    pub port: u16,

    /// The address to listen on, instead of the port on 127.0.0.1
    #[arg(long = "listen", env = "ORDERLY_RECEIVER_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,

    /// Answer 500 to every Nth request
    #[arg(long, env = "ORDERLY_RECEIVER_FAIL_EVERY", value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    pub fail_every: Option<u64>,

    /// Answer with this status (200 when not given)
    #[arg(long, env = "ORDERLY_RECEIVER_STATUS", value_name = "CODE", default_value_t = 200,
          value_parser = clap::value_parser!(u16).range(200..=599))]
    pub status: u16,

    /// Wait this long before each answer
    #[arg(long, env = "ORDERLY_RECEIVER_DELAY_MS", value_name = "MILLISECONDS", default_value_t = 0)]
    pub delay_ms: u64,
}

impl ReceiverSettings {
    pub fn address(&self) -> SocketAddr {
        self.listen.unwrap_or(SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), self.port))
    }
}

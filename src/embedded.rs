//! How does Orderly run a Postgres of its own, from whatever is installed?
//!
//! For `orderly dev`, tests and benchmarks: no service, no root needed, and it works as root too. It listens
//! on 127.0.0.1 alone and wants a password, since any local user could otherwise enter.
//!
//! ```text
//! <dir>/lock          held as long as somebody runs this Postgres
//! <dir>/password      of its one role
//! <dir>/postgres.log  what it says (the last run's is beside it, .old)
//! <dir>/postgres/     its data; as root, owned by an unprivileged user, for Postgres refuses root
//! ```
//!
//! It runs in a process group of its own, so that a terminal's Ctrl-C does not reach it before its clients
//! have finished; and a watchdog stops it should this process die in any way (see `watchdog`).

mod binaries;
mod cluster;
mod error;
mod leftover;
mod place;
mod server;
mod watchdog;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use tokio_postgres::{Config, NoTls};

pub use error::EmbeddedError;

use binaries::Binaries;
use place::Place;
use server::Server;

/// The one role, a superuser.
const ROLE: &str = "orderly";
/// A start may include recovery from a crash.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Longer than a checkpoint of a small database takes; then it is stopped the hard way.
const STOP_LIMIT: Duration = Duration::from_secs(30);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keep {
    /// The data folder stays for the next start.
    Data,
    /// The whole folder goes when this process ends, however it ends. Nothing is synced when it is made.
    Nothing,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Waits until all clients have left.
    Smart,
    /// Ends the clients' sessions, then writes all down.
    Fast,
    /// As after a crash: the next start recovers.
    Immediate,
}

#[derive(Debug, Clone)]
pub struct EmbeddedOptions {
    /// Where it all goes; made when it is not there.
    pub dir: PathBuf,
    /// The folder with `postgres` and `initdb`; found when not given.
    pub bin: Option<PathBuf>,
    /// A free one when not given.
    pub port: Option<u16>,
    /// Settings of the server, as in postgresql.conf; they win over those given here by default.
    pub settings: Vec<(String, String)>,
    pub keep: Keep,
}

/// A running Postgres. Dropping it stops it, and waits for that a few seconds; [`stop`](Self::stop) is better.
#[derive(Debug)]
pub struct EmbeddedPostgres {
    options: EmbeddedOptions,
    binaries: Binaries,
    password: String,
    port: u16,
    server: Option<Server>,
    // Declared last: unlocked after all else is gone.
    place: Place,
}

impl EmbeddedOptions {
    /// Found binaries, a free port, no settings, data kept.
    pub fn new(dir: impl Into<PathBuf>) -> EmbeddedOptions {
        EmbeddedOptions { dir: dir.into(), bin: None, port: None, settings: Vec::new(), keep: Keep::Data }
    }
}

impl EmbeddedPostgres {
    /// Makes the data folder if need be, starts the server and waits until it lets clients in. A server that an
    /// earlier run left behind in this folder is stopped first.
    pub async fn start(options: EmbeddedOptions) -> Result<EmbeddedPostgres, EmbeddedError> {
        let place = Place::take(&options.dir)?;
        if place.moved {
            tracing::warn!(
                wanted = %options.dir.display(), folder = %place.base.display(),
                "the unprivileged user that runs Postgres cannot reach the data folder; another is used"
            );
        }
        let binaries = Binaries::find(options.bin.as_deref(), place.major()?)?;
        if let Some(pid) = leftover::stop(&place.data()).await? {
            tracing::warn!(pid, "stopped the Postgres that an earlier run left behind");
        }
        let password = cluster::prepare(&place, &binaries, options.keep).await?;
        let mut postgres = EmbeddedPostgres { options, binaries, password, port: 0, server: None, place };
        postgres.launch().await?;
        Ok(postgres)
    }

    /// Starts it again after [`stop`](Self::stop) or [`kill`](Self::kill), on the same port. Does nothing when
    /// it runs.
    pub async fn launch(&mut self) -> Result<(), EmbeddedError> {
        if self.pid().is_some() {
            return Ok(());
        }
        self.server = None;
        let deadline = tokio::time::Instant::now() + START_LIMIT;
        loop {
            let port = match (self.port, self.options.port) {
                (0, None) => place::free_port()?,
                (0, Some(wanted)) => wanted,
                (known, _) => known,
            };
            let settings = self.settings(port);
            let mut server = Server::spawn(&self.place, &self.binaries, &settings, self.options.keep)?;
            match server.ready(&self.config("postgres", port), deadline).await {
                Ok(()) => {
                    self.port = port;
                    self.server = Some(server);
                    return Ok(());
                }
                // Somebody was quicker to take the port we found free.
                Err(EmbeddedError::PortTaken { .. }) if self.port == 0 && self.options.port.is_none() => {}
                // After a kill -9 the sessions need a moment to notice that their server is gone.
                Err(EmbeddedError::StillInUse { .. }) if tokio::time::Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    pub async fn stop(&mut self, mode: StopMode) -> Result<(), EmbeddedError> {
        let Some(server) = self.server.as_mut() else { return Ok(()) };
        let signal = match mode {
            StopMode::Smart => Signal::TERM,
            StopMode::Fast => Signal::INT,
            StopMode::Immediate => Signal::QUIT,
        };
        server.signal(signal);
        if !server.exited_within(STOP_LIMIT).await {
            tracing::warn!("Postgres did not stop in time and is stopped the hard way");
            server.signal(Signal::QUIT);
            if !server.exited_within(STOP_LIMIT).await {
                server.signal(Signal::KILL);
                server.exited_within(STOP_LIMIT).await;
            }
        }
        self.server = None;
        Ok(())
    }

    pub async fn restart(&mut self, mode: StopMode) -> Result<(), EmbeddedError> {
        self.stop(mode).await?;
        self.launch().await
    }

    /// `kill -9` of the server process; its sessions notice and end by themselves.
    pub async fn kill(&mut self) -> Result<(), EmbeddedError> {
        if let Some(server) = self.server.as_mut() {
            server.signal(Signal::KILL);
            server.exited_within(STOP_LIMIT).await;
            self.server = None;
        }
        Ok(())
    }

    /// Waits until the server process ends, by itself or by [`stop`](Self::stop); at once when it does not run.
    pub async fn ended(&self) {
        if let Some(server) = &self.server {
            server.ended().await;
        }
    }

    /// Of the database `postgres`.
    pub fn url(&self) -> String {
        self.url_for("postgres")
    }

    /// With the password in it. `database` is a plain name.
    pub fn url_for(&self, database: &str) -> String {
        format!("postgres://{ROLE}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// The server process; None when it was stopped or died.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().filter(|server| !server.has_exited()).map(Server::pid)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// Where it all is: the folder asked for, or the one that Postgres' user can reach.
    pub fn dir(&self) -> &Path {
        &self.place.base
    }

    pub fn log_file(&self) -> PathBuf {
        self.place.log()
    }

    /// Makes the database when it is not there. `database` is a plain name.
    pub async fn create_database(&self, database: &str) -> Result<(), EmbeddedError> {
        let (client, connection) = self.config("postgres", self.port).connect(NoTls).await?;
        let reader = tokio::spawn(connection);
        let found = client.query_opt("select from pg_database where datname = $1", &[&database]).await?;
        if found.is_none() {
            client.batch_execute(&format!("create database \"{database}\"")).await?;
        }
        drop(client);
        reader.abort();
        Ok(())
    }

    fn config(&self, database: &str, port: u16) -> Config {
        let mut config = Config::new();
        config.host("127.0.0.1").port(port).user(ROLE).password(&self.password).dbname(database);
        config.connect_timeout(Duration::from_secs(5)).application_name("orderly start");
        config
    }

    fn settings(&self, port: u16) -> Vec<(String, String)> {
        let mut settings: Vec<(String, String)> = vec![
            ("listen_addresses".into(), "127.0.0.1".into()),
            ("port".into(), port.to_string()),
            ("unix_socket_directories".into(), self.place.socket_folder()),
            ("unix_socket_permissions".into(), "0700".into()),
            ("logging_collector".into(), "off".into()),
            ("log_destination".into(), "stderr".into()),
        ];
        settings.extend(self.options.settings.iter().cloned());
        settings
    }
}

impl Drop for EmbeddedPostgres {
    fn drop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop_blocking();
        }
        if self.options.keep == Keep::Nothing {
            // What cannot be removed now is somebody else's to clean; there is nobody to tell.
            let _ = std::fs::remove_dir_all(&self.place.base);
        }
    }
}

/// Stops what runs in the folder and removes it: for folders whose process is gone. An
/// [`InUse`](EmbeddedError::InUse) one is left alone.
pub async fn remove(dir: &Path) -> Result<(), EmbeddedError> {
    let place = Place::take(dir)?;
    leftover::stop(&place.data()).await?;
    std::fs::remove_dir_all(&place.base).map_err(EmbeddedError::io("removing", &place.base))
}

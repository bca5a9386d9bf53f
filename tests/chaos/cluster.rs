//! Which processes are there? A private Postgres that syncs what it commits, and `orderly`, several times.

use std::fs::File;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use orderly::embedded::{EmbeddedOptions, EmbeddedPostgres, Keep};
use orderly::store::connect::{Connector, Dedicated};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};
use tokio::sync::Mutex;

use super::proxy::Proxy;

pub type Failure = Box<dyn std::error::Error + Send + Sync>;

const DATABASE: &str = "chaos";

pub struct Cluster {
    pub postgres: Mutex<EmbeddedPostgres>,
    /// Straight to the server, past the proxies.
    pub url: String,
    /// Workers first, then API processes.
    pub nodes: Vec<Node>,
    pub workers: usize,
    logs: PathBuf,
    orderly: PathBuf,
}

/// A process that is started again when it has ended, behind a proxy of its own.
pub struct Node {
    pub name: String,
    pub proxy: Proxy,
    /// Of an API process.
    pub base: Option<String>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    child: Mutex<Option<Child>>,
    /// False while a fault keeps it down.
    wanted: AtomicBool,
    starts: AtomicU32,
    logs: PathBuf,
    orderly: PathBuf,
}

#[derive(Debug, Clone)]
pub struct Shape {
    pub workers: usize,
    pub apis: usize,
    pub broken: Option<String>,
    pub orderly: PathBuf,
    pub retries: u32,
    pub retry_delay: Duration,
}

impl Cluster {
    /// All started; the API answers.
    pub async fn start(out: &Path, shape: &Shape) -> Result<Cluster, Failure> {
        let logs = out.join("logs");
        // What an earlier run's tell of the sweep would be counted again.
        let _ = std::fs::remove_dir_all(&logs);
        std::fs::create_dir_all(&logs)?;
        let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let options = EmbeddedOptions {
            bin: std::env::var_os("ORDERLY_PG_BIN").map(PathBuf::from),
            settings: vec![setting("max_connections", "300"), setting("log_lock_waits", "on")],
            keep: Keep::Nothing,
            ..EmbeddedOptions::new(scratch_folder())
        };
        let postgres = EmbeddedPostgres::start(options).await?;
        postgres.create_database(DATABASE).await?;
        let url = postgres.url_for(DATABASE);
        let status =
            command(&shape.orderly, &["migrate"], &[("DATABASE_URL".to_owned(), url.clone())]).status().await?;
        if !status.success() {
            return Err("the schema could not be made".into());
        }
        let mut nodes = Vec::new();
        for index in 0..shape.workers + shape.apis {
            let proxy = Proxy::start(postgres.port()).await?;
            let through = url.replace(&format!(":{}/", postgres.port()), &format!(":{}/", proxy.port));
            let mut environment = vec![("DATABASE_URL".to_owned(), through)];
            environment.extend(shape.broken.iter().map(|name| ("ORDERLY_BROKEN".to_owned(), name.clone())));
            let (name, base, arguments) = if index < shape.workers {
                let retry = [shape.retries.to_string(), shape.retry_delay.as_secs_f64().to_string()];
                let arguments = ["worker", "--persistent", "--retry", &retry[0], "--retry-delay", &retry[1]];
                (format!("worker-{}", index + 1), None, arguments.map(str::to_owned).to_vec())
            } else {
                let address = format!("127.0.0.1:{}", free_port()?);
                let arguments = ["serve", "--listen", &address].map(str::to_owned).to_vec();
                (format!("api-{}", index - shape.workers + 1), Some(format!("http://{address}")), arguments)
            };
            let arguments = [arguments, vec!["--allow-network".to_owned(), "127.0.0.0/8".to_owned()]].concat();
            let (child, starts, wanted, logs) =
                (Mutex::default(), AtomicU32::new(0), AtomicBool::new(true), logs.clone());
            let node = Node {
                name,
                proxy,
                base,
                arguments,
                environment,
                child,
                wanted,
                starts,
                logs,
                orderly: shape.orderly.clone(),
            };
            node.start().await?;
            nodes.push(node);
        }
        Ok(Cluster {
            postgres: Mutex::new(postgres),
            url,
            nodes,
            workers: shape.workers,
            logs,
            orderly: shape.orderly.clone(),
        })
    }

    pub fn apis(&self) -> &[Node] {
        &self.nodes[self.workers..]
    }

    /// A connection straight to the server, if it answers.
    pub async fn connect(&self) -> Result<Dedicated, Failure> {
        Ok(Connector::parse(&self.url)?.dedicated().await?)
    }

    /// Runs what is no server to its end, straight on the database.
    pub async fn run(&self, arguments: &[&str], limit: Duration) -> Result<ExitStatus, Failure> {
        let log = File::create(self.logs.join(format!("{}-last.log", arguments.first().unwrap_or(&"run"))))?;
        let mut command = command(&self.orderly, arguments, &[("DATABASE_URL".to_owned(), self.url.clone())]);
        let mut child = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(tokio::time::timeout(limit, child.wait()).await.map_err(|_| "it did not end in time")??)
    }
}

impl Node {
    /// Does nothing when it runs.
    pub async fn start(&self) -> Result<(), Failure> {
        self.wanted.store(true, Ordering::Relaxed);
        let mut child = self.child.lock().await;
        if let Some(child) = child.as_mut()
            && child.try_wait()?.is_none()
        {
            return Ok(());
        }
        let number = self.starts.fetch_add(1, Ordering::Relaxed);
        let log = File::create(self.logs.join(format!("{}.{number}.log", self.name)))?;
        let arguments: Vec<&str> = self.arguments.iter().map(String::as_str).collect();
        let mut command = command(&self.orderly, &arguments, &self.environment);
        *child = Some(command.stdout(log.try_clone()?).stderr(log).kill_on_drop(true).spawn()?);
        Ok(())
    }

    /// Until [`Node::start`].
    pub fn keep_down(&self) {
        self.wanted.store(false, Ordering::Relaxed);
    }

    /// As a supervisor does: one that ended by itself (it was started while there was no database) is
    /// started again.
    pub async fn supervise(&self) {
        if self.wanted.load(Ordering::Relaxed)
            && let Err(error) = self.start().await
        {
            eprintln!("  {} could not be started: {error}", self.name);
        }
    }

    pub async fn pid(&self) -> Option<Pid> {
        let mut child = self.child.lock().await;
        let child = child.as_mut()?;
        match child.try_wait() {
            Ok(None) => Pid::from_raw(child.id()?.cast_signed()),
            Ok(Some(_)) | Err(_) => None,
        }
    }

    /// False: it does not run.
    pub async fn signal(&self, signal: Signal) -> bool {
        match self.pid().await {
            Some(pid) => kill_process(pid, signal).is_ok(),
            None => false,
        }
    }

    /// None: it still runs after `limit`.
    pub async fn wait(&self, limit: Duration) -> Option<ExitStatus> {
        let until = tokio::time::Instant::now() + limit;
        // Not locked for long: it may have to be resumed meanwhile.
        while tokio::time::Instant::now() < until {
            if let Some(status) = self.child.lock().await.as_mut()?.try_wait().ok()? {
                return Some(status);
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }
}

fn command(orderly: &Path, arguments: &[&str], environment: &[(String, String)]) -> Command {
    let mut command = Command::new(orderly);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("ORDERLY_") || text == "DATABASE_URL" {
            command.env_remove(&name);
        }
    }
    command.args(arguments).envs(environment.iter().map(|(name, value)| (name, value)));
    // A terminal's Ctrl-C is for the checker.
    command.stdin(Stdio::null()).process_group(0);
    command
}

fn free_port() -> Result<u16, Failure> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// Postgres does not run as root, and its user must get there.
fn scratch_folder() -> PathBuf {
    std::env::temp_dir().join(format!("orderly-chaos-{}-{:08x}", std::process::id(), rand::random::<u32>()))
}

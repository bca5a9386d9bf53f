//! How do tests run the executable, read what it says, and end it?

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::PATIENCE;

/// A running `orderly`; killed with `kill -9` when this is dropped.
pub struct Process {
    child: Child,
    pid: Pid,
    stdout: Lines,
    stderr: Lines,
}

struct Lines {
    said: watch::Receiver<Vec<String>>,
    reader: JoinHandle<()>,
}

/// What a process left when it had ended.
#[derive(Debug)]
pub struct Ended {
    pub status: ExitStatus,
    pub stdout: Vec<String>,
    pub stderr: Vec<String>,
}

impl Ended {
    /// The exit code; panics when a signal ended it.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or_else(|| panic!("ended by a signal: {self:?}"))
    }
}

impl Process {
    /// Settings of this program's own environment do not reach it.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Process {
        Process::start_by(&[], arguments, environment)
    }

    /// By another program, which puts it somewhere and then becomes it (`ip netns exec <name>`).
    pub fn start_by(starter: &[&str], arguments: &[&str], environment: &[(&str, &str)]) -> Process {
        const ORDERLY: &str = env!("CARGO_BIN_EXE_orderly");
        let mut command = Command::new(starter.first().unwrap_or(&ORDERLY));
        if let Some((_, rest)) = starter.split_first() {
            command.args(rest).arg(ORDERLY);
        }
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy();
            if (text.starts_with("ORDERLY_") && text != "ORDERLY_PG_BIN") || text == "DATABASE_URL" {
                command.env_remove(&name);
            }
        }
        command.args(arguments).envs(environment.iter().copied()).kill_on_drop(true);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the executable starts");
        let pid = child.id().and_then(|id| Pid::from_raw(id.cast_signed())).expect("it was just started");
        let stdout = Lines::read(child.stdout.take().expect("it is piped"));
        let stderr = Lines::read(child.stderr.take().expect("it is piped"));
        Process { child, pid, stdout, stderr }
    }

    /// Runs it to its end.
    pub async fn run(arguments: &[&str], environment: &[(&str, &str)]) -> Ended {
        Process::start(arguments, environment).ended().await
    }

    pub fn pid(&self) -> Pid {
        self.pid
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid, signal).expect("the process is there");
    }

    /// The first line on stdout with this in it, waiting for it.
    pub async fn stdout_line(&mut self, part: &str) -> String {
        self.stdout.wait(part).await.unwrap_or_else(|| self.missing("stdout", part))
    }

    /// The first line on stderr with this in it, waiting for it.
    pub async fn stderr_line(&mut self, part: &str) -> String {
        self.stderr.wait(part).await.unwrap_or_else(|| self.missing("stderr", part))
    }

    /// What it said on stdout so far.
    pub fn stdout(&self) -> Vec<String> {
        self.stdout.said.borrow().clone()
    }

    /// What it said on stderr so far.
    pub fn stderr(&self) -> Vec<String> {
        self.stderr.said.borrow().clone()
    }

    /// Waits for its end, at most [`PATIENCE`].
    pub async fn ended(self) -> Ended {
        self.ended_within(PATIENCE).await
    }

    pub async fn ended_within(mut self, limit: Duration) -> Ended {
        let Ok(status) = tokio::time::timeout(limit, self.child.wait()).await else {
            panic!("it still runs after {limit:?}; {}", self.told())
        };
        let status = status.expect("it can be waited for");
        // A child of its own may still hold the pipes; what it says is not waited for long.
        let readers = async {
            let _ = (&mut self.stdout.reader).await;
            let _ = (&mut self.stderr.reader).await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), readers).await;
        Ended { status, stdout: self.stdout(), stderr: self.stderr() }
    }

    fn missing(&self, stream: &str, part: &str) -> ! {
        panic!("{part:?} did not come on {stream}; {}", self.told())
    }

    fn told(&self) -> String {
        format!("stdout: {:#?}\nstderr: {:#?}", self.stdout(), self.stderr())
    }
}

impl Lines {
    fn read(stream: impl AsyncRead + Unpin + Send + 'static) -> Lines {
        let (sender, said) = watch::channel(Vec::new());
        let reader = tokio::spawn(async move {
            let mut lines = BufReader::new(stream).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|said| said.push(line));
            }
        });
        Lines { said, reader }
    }

    /// None when the stream ended, or patience did, without such a line.
    async fn wait(&mut self, part: &str) -> Option<String> {
        let find = |said: &Vec<String>| said.iter().find(|line| line.contains(part)).cloned();
        let found = tokio::time::timeout(PATIENCE, self.said.wait_for(|said| find(said).is_some())).await;
        found.ok()?.ok().and_then(|said| find(&said))
    }
}

//! How is the server process started, watched and ended?

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::watch;
use tokio_postgres::{Config, NoTls};

use super::binaries::Binaries;
use super::place::{Place, User};
use super::watchdog::Watchdog;
use super::{EmbeddedError, Keep};

/// How long a server that lets nobody in with our password is taken for one that is just starting.
const PASSWORD_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Server {
    pid: Pid,
    log: PathBuf,
    /// Filled once, by the thread that waits for the process.
    exit: watch::Receiver<Option<ExitStatus>>,
    // Released (dropped) only when the process is gone.
    watchdog: Watchdog,
}

/// A program of Postgres, to be run as its user: out of reach of the terminal's signals, without our
/// environment (it holds secrets, and PG… variables would change what the program does), speaking English.
pub(super) fn command(program: &Path, user: Option<User>) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("LC_ALL", "C").current_dir("/").stdin(Stdio::null()).process_group(0);
    if let Some(user) = user {
        command.uid(user.uid).gid(user.gid);
    }
    command
}

impl Server {
    pub fn spawn(
        place: &Place,
        binaries: &Binaries,
        settings: &[(String, String)],
        keep: Keep,
    ) -> Result<Server, EmbeddedError> {
        let log = place.log();
        let output = open_log(&log)?;
        let errors = output.try_clone().map_err(EmbeddedError::io("opening", &log))?;
        let mut command = command(&binaries.postgres(), place.user);
        command.arg("-D").arg(place.data()).stdout(output).stderr(errors);
        for (name, value) in settings {
            command.arg("-c").arg(format!("{name}={value}"));
        }
        let mut watchdog = Watchdog::start(&place.data(), (keep == Keep::Nothing).then_some(place.base.as_path()))?;
        let mut child = command.spawn().map_err(EmbeddedError::io("running", &binaries.postgres()))?;
        let pid = Pid::from_child(&child);
        watchdog.guard(pid);
        let (sender, exit) = watch::channel(None);
        // A thread, since the server may outlive the runtime it was started in (each test has its own).
        std::thread::spawn(move || {
            let status = child.wait().unwrap_or_default();
            sender.send_replace(Some(status));
        });
        Ok(Server { pid, log, exit, watchdog })
    }

    /// Waits until a client gets in.
    pub async fn ready(&mut self, config: &Config, deadline: tokio::time::Instant) -> Result<(), EmbeddedError> {
        let started = Instant::now();
        let mut pause = Duration::from_millis(10);
        loop {
            let refused = match config.connect(NoTls).await {
                Ok((client, connection)) => {
                    drop(client);
                    // Ends at once, and politely, now that its client is gone.
                    let _ = connection.await;
                    return Ok(());
                }
                Err(error) => error,
            };
            if self.exited_within(pause).await {
                return Err(self.failure(config));
            }
            let answered = refused.code().is_some_and(|code| code.code().starts_with("28"));
            if tokio::time::Instant::now() > deadline || (answered && started.elapsed() > PASSWORD_PATIENCE) {
                self.signal(Signal::QUIT);
                self.exited_within(Duration::from_secs(10)).await;
                return Err(EmbeddedError::Refused(refused));
            }
            pause = (pause * 2).min(Duration::from_millis(100));
        }
    }

    fn failure(&self, config: &Config) -> EmbeddedError {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let tail = last_lines(&text);
        if text.contains("Address already in use") {
            return EmbeddedError::PortTaken { port: config.get_ports().first().copied().unwrap_or(0) };
        }
        if text.contains("is still in use") {
            return EmbeddedError::StillInUse { tail };
        }
        EmbeddedError::Start { tail }
    }

    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    pub fn has_exited(&self) -> bool {
        self.exit.borrow().is_some()
    }

    pub fn signal(&self, signal: Signal) {
        if !self.has_exited() {
            // It may have ended since; then there is nothing to end.
            let _ = kill_process(self.pid, signal);
        }
    }

    pub async fn ended(&self) {
        // An error means that the thread that waits for it is gone, which ends after the server.
        let _ = self.exit.clone().wait_for(Option::is_some).await;
    }

    pub async fn exited_within(&mut self, limit: Duration) -> bool {
        tokio::time::timeout(limit, self.exit.wait_for(Option::is_some)).await.is_ok()
    }

    /// For where nothing can be awaited.
    pub fn stop_blocking(self) {
        for (signal, limit) in [(Signal::INT, 5), (Signal::QUIT, 3), (Signal::KILL, 3)] {
            self.signal(signal);
            let until = Instant::now() + Duration::from_secs(limit);
            while Instant::now() < until {
                if self.has_exited() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.has_exited() {
            self.watchdog.release();
        }
        // Else the watchdog ends it: its other end closes with this struct.
    }
}

fn open_log(path: &Path) -> Result<File, EmbeddedError> {
    if path.exists() {
        let old = path.with_extension("log.old");
        std::fs::rename(path, &old).map_err(EmbeddedError::io("renaming", path))?;
    }
    let mut options = OpenOptions::new();
    options.append(true).create(true).mode(0o600).open(path).map_err(EmbeddedError::io("opening", path))
}

/// The end of what a program of Postgres said, in one line, without the times.
pub(super) fn last_lines(text: &str) -> String {
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let wanted = lines.len().saturating_sub(6);
    let said: Vec<&str> = lines[wanted..].iter().map(|line| without_time(line)).collect();
    if said.is_empty() { "it said nothing".to_owned() } else { said.join(" | ") }
}

/// `2025-01-02 03:04:05.678 UTC [42] FATAL:  …` without what stands before the level.
fn without_time(line: &str) -> &str {
    match line.split_once("] ") {
        Some((before, rest)) if before.starts_with(|c: char| c.is_ascii_digit()) => rest,
        _ => line,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log_fits_a_line() {
        let log = "2025-01-02 03:04:05.678 UTC [42] LOG:  one\n\n2025-01-02 03:04:05.678 UTC [42] FATAL:  two [3] x\n";
        assert_eq!(last_lines(log), "LOG:  one | FATAL:  two [3] x");
        assert_eq!(last_lines("\n"), "it said nothing");
    }
}

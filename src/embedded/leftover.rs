//! Does a server of an earlier run still use the data folder, and how does it go?

use std::path::Path;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use super::EmbeddedError;

/// Stops a server whose starter is gone; its pid if there was one. The caller holds the folder's lock, so
/// nobody alive wants it.
pub(super) async fn stop(data: &Path) -> Result<Option<i32>, EmbeddedError> {
    let file = data.join("postmaster.pid");
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(EmbeddedError::io("reading", &file)(error)),
    };
    let number = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok());
    let Some(pid) = number.and_then(Pid::from_raw) else { return Ok(None) };
    if test_kill_process(pid).is_err() {
        // Dead: Postgres removes the file itself.
        return Ok(None);
    }
    if !serves(pid, data) {
        if number_was_given_away(pid) {
            // Postgres would refuse to start as long as some process has this number.
            std::fs::remove_file(&file).map_err(EmbeddedError::io("removing", &file))?;
        }
        return Ok(None);
    }
    for (signal, patience) in [(Signal::INT, 100), (Signal::QUIT, 50), (Signal::KILL, 50)] {
        // An error means that it went in this moment.
        let _ = kill_process(pid, signal);
        for _ in 0..patience {
            if !serves(pid, data) {
                return Ok(Some(pid.as_raw_pid()));
            }
            // Not our child, so there is nothing to wait on.
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    Err(EmbeddedError::InUse { dir: data.to_owned(), pid: u32::try_from(pid.as_raw_pid()).ok() })
}

/// Whether the process is a server of this very folder: Postgres makes it its working folder.
#[cfg(target_os = "linux")]
fn serves(pid: Pid, data: &Path) -> bool {
    let process = Path::new("/proc").join(pid.as_raw_pid().to_string());
    let here = std::fs::canonicalize(data).ok();
    here.is_some() && std::fs::read_link(process.join("cwd")).ok() == here
}

#[cfg(not(target_os = "linux"))]
fn serves(pid: Pid, data: &Path) -> bool {
    command_of(pid).is_some_and(|command| command.contains(&*data.to_string_lossy()))
}

/// Whether the number in the file is by now that of something else altogether, as after a restart of a
/// container, where numbers start again from 1.
#[cfg(target_os = "linux")]
fn number_was_given_away(pid: Pid) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_pid()));
    name.is_ok_and(|name| !name.trim().starts_with("post"))
}

#[cfg(not(target_os = "linux"))]
fn number_was_given_away(pid: Pid) -> bool {
    command_of(pid).is_some_and(|command| !command.contains("postgres"))
}

#[cfg(not(target_os = "linux"))]
fn command_of(pid: Pid) -> Option<String> {
    let number = pid.as_raw_pid().to_string();
    let output = std::process::Command::new("ps").args(["-o", "command=", "-p", &number]).output().ok()?;
    String::from_utf8(output.stdout).ok()
}

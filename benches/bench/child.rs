//! How are the processes that are measured started, spoken with, and ended?

use std::cell::Cell;
use std::io::{BufRead, BufReader, Write};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};

use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use serde::de::DeserializeOwned;

use super::Result;
use super::measure;

/// A process of this run. Dropping it ends it.
pub struct Child {
    pub name: &'static str,
    process: std::process::Child,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    /// Known once it has ended.
    final_cpu: Cell<Option<f64>>,
}

impl Child {
    /// The executable that is measured, with the environment's own settings taken away.
    pub fn orderly(name: &'static str, url: &str, arguments: &[&str]) -> Result<Child> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_orderly"));
        for (key, _) in std::env::vars_os() {
            if key.to_string_lossy().starts_with("ORDERLY_") {
                command.env_remove(&key);
            }
        }
        command.env("DATABASE_URL", url).env("ORDERLY_LOG", "warn,orderly::worker::lane=error").args(arguments);
        Child::spawn(name, command)
    }

    /// This program again.
    pub fn part(name: &'static str, arguments: &[String]) -> Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments);
        Child::spawn(name, command)
    }

    /// The same, with a database.
    pub fn part_on(name: &'static str, arguments: &[String], url: &str) -> Result<Child> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(arguments).env("DATABASE_URL", url);
        Child::spawn(name, command)
    }

    /// Somebody else's.
    pub fn program(name: &'static str, command: Command) -> Result<Child> {
        Child::spawn(name, command)
    }

    fn spawn(name: &'static str, mut command: Command) -> Result<Child> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().map_err(|error| format!("{name} does not start: {error}"))?;
        let stdin = process.stdin.take();
        let stdout = BufReader::new(process.stdout.take().ok_or("its stdout is piped")?);
        Ok(Child { name, process, stdin, stdout, final_cpu: Cell::new(None) })
    }

    pub fn pid(&self) -> u32 {
        self.process.id()
    }

    pub fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().ok_or("its stdin is closed")?;
        writeln!(stdin, "{line}")?;
        Ok(stdin.flush()?)
    }

    /// Ends it where it reads until its stdin ends; dropping it ends it anyway.
    pub fn hang_up(&mut self) {
        self.stdin = None;
    }

    /// Its next line.
    pub fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        if self.stdout.read_line(&mut line)? == 0 {
            return Err(format!("{} ended early", self.name).into());
        }
        Ok(line.trim_end().to_owned())
    }

    pub fn json<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.line()?;
        serde_json::from_str(&line).map_err(|error| format!("{}: {error}: {line}", self.name).into())
    }

    /// Waits for its end by itself.
    pub fn ended(&mut self) -> Result<()> {
        self.note_cpu()?;
        let status = self.process.wait()?;
        if status.success() { Ok(()) } else { Err(format!("{}: {status}", self.name).into()) }
    }

    /// Seconds of all its threads so far, or in all when it has ended.
    pub fn cpu(&self) -> f64 {
        self.final_cpu.get().or_else(|| measure::cpu_of(self.pid())).unwrap_or(0.0)
    }

    fn id(&self) -> Result<Pid> {
        Pid::from_raw(self.pid().cast_signed()).ok_or_else(|| "no process".into())
    }

    /// An ended process shows its times until it is waited for.
    fn note_cpu(&self) -> Result<()> {
        waitid(WaitId::Pid(self.id()?), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        self.final_cpu.set(measure::cpu_of(self.pid()));
        Ok(())
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if self.final_cpu.get().is_none() {
            let _ = self.process.kill();
            let _ = self.process.wait();
        }
    }
}

//! Who stops Postgres when the process that started it is killed?
//!
//! A shell that reads from a pipe whose other end only this process has: it reads to its end in the moment
//! this process is gone, `kill -9` included, and then stops the server. Unlike Linux' parent-death signal it
//! works everywhere, needs no unsafe code, and does not depend on which thread started the server.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::Pid;

use super::EmbeddedError;

/// $1: the data folder; $2: what to remove in the end, or nothing. The file with the server's number goes when
/// the server has gone; the number itself could be a zombie's.
const SCRIPT: &str = r#"
read -r pid || exit 0
read -r released && exit 0
kill -INT "$pid" 2>/dev/null
tries=0
while [ -e "$1/postmaster.pid" ] && [ "$tries" -lt 300 ]; do sleep 0.1; tries=$((tries + 1)); done
[ -z "$2" ] || rm -rf "$2"
"#;

#[derive(Debug)]
pub(super) struct Watchdog(Child);

impl Watchdog {
    pub fn start(data: &Path, remove: Option<&Path>) -> Result<Watchdog, EmbeddedError> {
        let shell = Path::new("/bin/sh");
        let mut command = Command::new(shell);
        command.arg("-c").arg(SCRIPT).arg("orderly-watchdog").arg(data).arg(remove.unwrap_or(Path::new("")));
        // Its own group: a Ctrl-C is for this process, not for it.
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).current_dir("/").process_group(0);
        command.spawn().map(Watchdog).map_err(EmbeddedError::io("running", shell))
    }

    pub fn guard(&mut self, server: Pid) {
        self.tell(&format!("{}\n", server.as_raw_pid()));
    }

    /// The server is gone: there is nothing left to do.
    pub fn release(&mut self) {
        self.tell("released\n");
        let _ = self.0.wait();
    }

    fn tell(&mut self, line: &str) {
        if let Some(pipe) = self.0.stdin.as_mut() {
            // If somebody killed the shell there is none to tell, and the next start finds what is left.
            let _ = pipe.write_all(line.as_bytes());
        }
    }
}

//! How is the data folder made?

use std::fs::{DirBuilder, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;
use std::process::Stdio;

use super::binaries::Binaries;
use super::place::{Place, User};
use super::{EmbeddedError, Keep, ROLE, server};

/// The password of what is there, after making it if nothing was.
pub(super) async fn prepare(place: &Place, binaries: &Binaries, keep: Keep) -> Result<String, EmbeddedError> {
    let (data, file) = (place.data(), place.password());
    match place.major()? {
        Some(found) if found != binaries.major => {
            Err(EmbeddedError::OtherMajor { data, found, installed: binaries.major })
        }
        Some(_) => match std::fs::read_to_string(&file) {
            Ok(password) if !password.trim().is_empty() => Ok(password.trim().to_owned()),
            _ => Err(EmbeddedError::NoPassword(file)),
        },
        None => {
            let password: String = rand::random::<[u8; 16]>().iter().map(|byte| format!("{byte:02x}")).collect();
            write_secret(&file, &password, None)?;
            make(place, binaries, keep, &password).await?;
            Ok(password)
        }
    }
}

/// Made beside and then renamed: what is there under its name is whole, whenever this is interrupted.
async fn make(place: &Place, binaries: &Binaries, keep: Keep, password: &str) -> Result<(), EmbeddedError> {
    let unfinished = place.base.join("postgres.new");
    if unfinished.exists() {
        std::fs::remove_dir_all(&unfinished).map_err(EmbeddedError::io("removing", &unfinished))?;
    }
    DirBuilder::new().mode(0o700).create(&unfinished).map_err(EmbeddedError::io("making", &unfinished))?;
    if let Some(user) = place.user {
        give(&unfinished, user)?;
    }
    // A copy that initdb's user may read.
    let password_copy = place.base.join("password.new");
    write_secret(&password_copy, password, place.user)?;
    let mut command = server::command(&binaries.initdb(), place.user);
    command.arg("-D").arg(&unfinished).arg("--pwfile").arg(&password_copy);
    command.args(["-U", ROLE, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]);
    if keep == Keep::Nothing {
        command.arg("--no-sync");
    }
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    let output = tokio::process::Command::from(command).kill_on_drop(true).output().await;
    let _ = std::fs::remove_file(&password_copy);
    let output = output.map_err(EmbeddedError::io("running", &binaries.initdb()))?;
    if !output.status.success() {
        return Err(EmbeddedError::Initdb { tail: server::last_lines(&String::from_utf8_lossy(&output.stderr)) });
    }
    let data = place.data();
    if data.exists() {
        // Without PG_VERSION it is no data folder; only an empty one is taken for ours.
        std::fs::remove_dir(&data).map_err(EmbeddedError::io("replacing", &data))?;
    }
    std::fs::rename(&unfinished, &data).map_err(EmbeddedError::io("making", &data))
}

/// For its owner alone, and never through a link that somebody laid there.
fn write_secret(path: &Path, text: &str, owner: Option<User>) -> Result<(), EmbeddedError> {
    let failed = |error| EmbeddedError::io("writing", path)(error);
    match std::fs::remove_file(path) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    writeln!(file, "{text}").map_err(failed)?;
    if let Some(user) = owner {
        std::os::unix::fs::fchown(&file, Some(user.uid), Some(user.gid)).map_err(failed)?;
    }
    Ok(())
}

fn give(path: &Path, user: User) -> Result<(), EmbeddedError> {
    std::os::unix::fs::chown(path, Some(user.uid), Some(user.gid)).map_err(EmbeddedError::io("giving away", path))
}

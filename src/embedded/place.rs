//! In which folder does the private Postgres live, and as which user?

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{Read, Seek, Write};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::EmbeddedError;

/// Longer socket paths are refused by the kernel (108 bytes on Linux, 104 on macOS), the file's name included.
const SOCKET_FOLDER_LIMIT: usize = 80;

/// The folder, locked for as long as this lives.
#[derive(Debug)]
pub(super) struct Place {
    pub base: PathBuf,
    /// Whether another folder was taken than asked for.
    pub moved: bool,
    /// Whom Postgres runs as, where it cannot be us.
    pub user: Option<User>,
    _lock: FolderLock,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct User {
    pub uid: u32,
    pub gid: u32,
}

impl Place {
    pub fn take(wanted: &Path) -> Result<Place, EmbeddedError> {
        let wanted = std::path::absolute(wanted).map_err(EmbeddedError::io("finding", wanted))?;
        let user = if rustix::process::geteuid().is_root() { Some(unprivileged_user()?) } else { None };
        let base = match user {
            None => {
                make_folder(&wanted, 0o700)?;
                wanted.clone()
            }
            Some(user) => reachable_folder(&wanted, user)?,
        };
        let lock = take_lock(&base)?;
        Ok(Place { moved: base != wanted, base, user, _lock: lock })
    }

    pub fn data(&self) -> PathBuf {
        self.base.join("postgres")
    }

    pub fn log(&self) -> PathBuf {
        self.base.join("postgres.log")
    }

    pub fn password(&self) -> PathBuf {
        self.base.join("password")
    }

    /// Empty (no socket) where its path would be too long.
    pub fn socket_folder(&self) -> String {
        let data = self.data();
        // A comma would make two folders of it.
        match data.to_str() {
            Some(text) if text.len() <= SOCKET_FOLDER_LIMIT && !text.contains([',', '"']) => text.to_owned(),
            _ => String::new(),
        }
    }

    /// The version of the data that is there, if any is.
    pub fn major(&self) -> Result<Option<u32>, EmbeddedError> {
        let file = self.data().join("PG_VERSION");
        match std::fs::read_to_string(&file) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EmbeddedError::io("reading", &file)(error)),
        }
    }
}

/// A port that nobody has at this moment.
pub(super) fn free_port() -> Result<u16, EmbeddedError> {
    let address = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
    address.map(|address| address.port()).map_err(EmbeddedError::io("finding a free port of", Path::new("127.0.0.1")))
}

fn make_folder(path: &Path, mode: u32) -> Result<(), EmbeddedError> {
    if path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        std::fs::create_dir_all(parent).map_err(EmbeddedError::io("making", parent))?;
    }
    DirBuilder::new().mode(mode).create(path).map_err(EmbeddedError::io("making", path))?;
    // The umask may have taken away what the other user needs.
    std::fs::set_permissions(path, Permissions::from_mode(mode)).map_err(EmbeddedError::io("making", path))
}

/// `wanted` if the user can come to it, else one in /var/tmp whose name follows from it.
fn reachable_folder(wanted: &Path, user: User) -> Result<PathBuf, EmbeddedError> {
    if can_pass(wanted.ancestors().skip(1), user) {
        make_folder(wanted, 0o711)?;
        if can_pass(wanted.ancestors(), user) {
            return Ok(wanted.to_owned());
        }
    }
    let hash = Sha256::digest(wanted.as_os_str().as_encoded_bytes());
    let name: String = hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let base = Path::new("/var/tmp").join(format!("orderly-{name}"));
    make_folder(&base, 0o711)?;
    // Anybody may have put something there under this name.
    let found = std::fs::symlink_metadata(&base).map_err(EmbeddedError::io("looking at", &base))?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(EmbeddedError::Foreign(base));
    }
    Ok(base)
}

/// Whether the user may go through those of the folders that exist.
fn can_pass<'a>(folders: impl Iterator<Item = &'a Path>, user: User) -> bool {
    folders.filter_map(|folder| std::fs::metadata(folder).ok()).all(|found| {
        let mode = found.mode();
        let bit = match (found.uid() == user.uid, found.gid() == user.gid) {
            (true, _) => 0o100,
            (false, true) => 0o010,
            (false, false) => 0o001,
        };
        mode & bit != 0
    })
}

fn unprivileged_user() -> Result<User, EmbeddedError> {
    let file = Path::new("/etc/passwd");
    let known = std::fs::read_to_string(file).map_err(EmbeddedError::io("reading", file))?;
    find_user(&known, "postgres").or_else(|| find_user(&known, "nobody")).ok_or(EmbeddedError::NoUser)
}

fn find_user(passwd: &str, name: &str) -> Option<User> {
    let fields: Vec<&str> = passwd
        .lines()
        .map(|line| line.split(':').collect())
        .find(|fields: &Vec<&str>| fields.first() == Some(&name))?;
    Some(User { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? })
}

/// Ends with this process, however it ends.
#[derive(Debug)]
struct FolderLock(File);

impl Drop for FolderLock {
    /// Said, not only closed: a process that is being started at this moment has the file open as well, until
    /// it executes its program, and would keep the lock for so long.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}

fn take_lock(base: &Path) -> Result<FolderLock, EmbeddedError> {
    let path = base.join("lock");
    let failed = |error| EmbeddedError::io("locking", &path)(error);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            // Only for the message: without it, it says less.
            let _ = file.read_to_string(&mut pid);
            return Err(EmbeddedError::InUse { dir: base.to_owned(), pid: pid.trim().parse().ok() });
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(failed(error)),
    }
    file.set_len(0).map_err(failed)?;
    file.rewind().map_err(failed)?;
    writeln!(file, "{}", std::process::id()).map_err(failed)?;
    Ok(FolderLock(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_their_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres2:x:7:7::/:\npostgres:x:101:104:,,,:/x:/bin/bash\n";
        assert_eq!(find_user(passwd, "postgres"), Some(User { uid: 101, gid: 104 }));
        assert_eq!(find_user(passwd, "nobody"), None);
    }
}

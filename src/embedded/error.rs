//! Why can a private Postgres not be started?

use std::path::{Path, PathBuf};

#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    #[error(
        "no Postgres is installed here: apt-get install postgresql (Debian, Ubuntu), brew install postgresql@17 (macOS), or give its folder with ORDERLY_PG_BIN"
    )]
    NoBinaries,
    #[error("{} holds no Postgres that runs (postgres and initdb are needed)", .0.display())]
    NotBinaries(PathBuf),
    #[error("the Postgres in {} is in use by another process{}", dir.display(), holder(pid))]
    InUse { dir: PathBuf, pid: Option<u32> },
    #[error(
        "the data in {} is of Postgres {found} and Postgres {installed} is what is installed: install {found}, or move the folder away to start afresh",
        data.display()
    )]
    OtherMajor { data: PathBuf, found: u32, installed: u32 },
    #[error("{} is not there, though the data is: move the folder away to start afresh", .0.display())]
    NoPassword(PathBuf),
    #[error("run as root, Postgres needs an unprivileged user, and neither postgres nor nobody is known here")]
    NoUser,
    #[error("{} belongs to somebody else", .0.display())]
    Foreign(PathBuf),
    #[error("the data folder could not be made: {tail}")]
    Initdb { tail: String },
    #[error("port {port} of 127.0.0.1 is taken")]
    PortTaken { port: u16 },
    #[error("the data folder is still in use by the sessions of an earlier server: {tail}")]
    StillInUse { tail: String },
    #[error("Postgres did not start: {tail}")]
    Start { tail: String },
    #[error("the private Postgres refused us")]
    Refused(#[from] tokio_postgres::Error),
    #[error("{doing} {}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: std::io::Error },
}

fn holder(pid: &Option<u32>) -> String {
    pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
}

impl EmbeddedError {
    pub(super) fn io(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> EmbeddedError {
        move |source| EmbeddedError::Io { doing, path: path.to_owned(), source }
    }
}

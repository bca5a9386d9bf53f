//! Where are Postgres' programs on this machine?

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::EmbeddedError;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    folder: PathBuf,
    pub major: u32,
}

/// Folders whose every child may hold an installation; the second part is what follows the child.
const FAMILIES: [(&str, &str, &str); 4] = [
    ("/usr/lib/postgresql", "", "bin"),
    ("/opt/homebrew/opt", "postgresql@", "bin"),
    ("/usr/local/opt", "postgresql@", "bin"),
    ("/usr", "pgsql-", "bin"),
];

impl Binaries {
    /// Those in `given`, else the first found; among several, those that fit existing data of `wanted` major
    /// version, else the newest.
    pub fn find(given: Option<&Path>, wanted: Option<u32>) -> Result<Binaries, EmbeddedError> {
        let candidates = match given {
            Some(folder) => {
                vec![Binaries::in_folder(folder).ok_or_else(|| EmbeddedError::NotBinaries(folder.to_owned()))?]
            }
            None => installed(),
        };
        choose(candidates, wanted)
    }

    pub fn postgres(&self) -> PathBuf {
        self.folder.join("postgres")
    }

    pub fn initdb(&self) -> PathBuf {
        self.folder.join("initdb")
    }

    fn in_folder(folder: &Path) -> Option<Binaries> {
        if !folder.join("initdb").is_file() {
            return None;
        }
        let folder = std::path::absolute(folder).ok()?;
        let output = Command::new(folder.join("postgres")).arg("--version").stdin(Stdio::null()).output().ok()?;
        let major = parse_major(&String::from_utf8_lossy(&output.stdout))?;
        Some(Binaries { folder, major })
    }
}

fn choose(candidates: Vec<Binaries>, wanted: Option<u32>) -> Result<Binaries, EmbeddedError> {
    let newest = candidates.iter().max_by_key(|b| b.major).cloned().ok_or(EmbeddedError::NoBinaries)?;
    match wanted {
        // Another version than wanted is the caller's to refuse: it knows the folder.
        Some(major) => Ok(candidates.into_iter().find(|b| b.major == major).unwrap_or(newest)),
        None => Ok(newest),
    }
}

fn installed() -> Vec<Binaries> {
    let mut folders: Vec<PathBuf> = Vec::new();
    folders.extend(answer_of("pg_config", &["--bindir"]).map(PathBuf::from));
    for (parent, prefix, rest) in FAMILIES {
        let children = std::fs::read_dir(parent).into_iter().flatten().flatten();
        folders.extend(
            children
                .filter(|child| child.file_name().to_string_lossy().starts_with(prefix))
                .map(|child| child.path().join(rest)),
        );
    }
    // The shell, for it knows PATH.
    let on_path = answer_of("sh", &["-c", "command -v postgres"]);
    folders.extend(on_path.and_then(|program| Path::new(&program).parent().map(Path::to_owned)));
    folders.sort();
    folders.dedup();
    folders.iter().filter_map(|folder| Binaries::in_folder(folder)).collect()
}

fn answer_of(program: &str, arguments: &[&str]) -> Option<String> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// From `postgres (PostgreSQL) 15.12 (Debian …)`, `… 18beta1`, `… 19devel`.
fn parse_major(version: &str) -> Option<u32> {
    let number = version.split_whitespace().nth(2)?;
    let digits: String = number.chars().take_while(char::is_ascii_digit).collect();
    digits.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_postgres_says() {
        for (text, major) in [
            ("postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)", Some(15)),
            ("postgres (PostgreSQL) 18beta1", Some(18)),
            ("postgres (PostgreSQL) 19devel", Some(19)),
            ("postgres", None),
            ("", None),
        ] {
            assert_eq!(parse_major(text), major, "{text}");
        }
    }

    #[test]
    fn the_version_of_existing_data_wins_over_the_newest() {
        let of = |major| Binaries { folder: PathBuf::from(format!("/{major}")), major };
        let all = || vec![of(15), of(17), of(16)];
        assert_eq!(choose(all(), None).expect("some are there"), of(17));
        assert_eq!(choose(all(), Some(15)).expect("some are there"), of(15));
        assert_eq!(choose(all(), Some(14)).expect("some are there"), of(17));
        assert!(matches!(choose(vec![], Some(14)), Err(EmbeddedError::NoBinaries)));
    }
}

//! Does each part use only what it may, as docs/ARCHITECTURE.md says, and are there the tests that
//! docs/GUARANTEES.md names?

use std::path::{Path, PathBuf};

/// A part of the crate, and the parts it may name.
const PARTS: [(&str, &[&str]); 10] = [
    ("domain", &[]),
    ("config", &["domain"]),
    ("telemetry", &["config"]),
    // Ways to break the engine, for the checker; nothing without its feature.
    ("broken", &[]),
    ("store", &["domain", "broken"]),
    ("delivery", &["domain"]),
    ("embedded", &[]),
    ("worker", &["store", "delivery", "domain", "config", "broken"]),
    // Of a worker only its counters, for metrics.
    ("api", &["store", "delivery", "domain", "config", "worker"]),
    ("cli", &["api", "worker", "embedded", "config", "telemetry", "store", "delivery", "domain"]),
];

/// What only some parts may name: another crate, SQL, the environment.
const KEPT_TO: [(&str, &[&str]); 10] = [
    ("poem::", &["api"]),
    ("poem_openapi::", &["api"]),
    ("reqwest::", &["delivery"]),
    ("client::legacy", &["delivery"]),
    // embedded creates one database, before there is a schema.
    ("tokio_postgres::", &["store", "embedded"]),
    ("deadpool::", &["store"]),
    ("refinery::", &["store"]),
    ("from orderly.", &["store"]),
    ("select orderly.", &["store"]),
    ("env::var", &["config", "broken"]),
];

struct Line {
    part: String,
    place: String,
    text: String,
}

/// The code of `src/`: without comments, and without the tests beside it.
fn code() -> Vec<Line> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut lines = Vec::new();
    for file in files(&root) {
        let name = file.strip_prefix(&root).expect("below src").to_string_lossy().into_owned();
        let part = name.split(['/', '.']).next().expect("a name").to_owned();
        if name.ends_with("tests.rs") || ["main", "lib"].contains(&part.as_str()) {
            continue;
        }
        let text = std::fs::read_to_string(&file).expect("a file of ours");
        let production = text.split("#[cfg(test)]").next().expect("a first piece");
        lines.extend(production.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//")).map(
            |(index, line)| Line {
                part: part.clone(),
                place: format!("src/{name}:{}", index + 1),
                text: line.to_owned(),
            },
        ));
    }
    lines
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let children = std::fs::read_dir(folder).expect("a folder of ours").map(|child| child.expect("a name").path());
    children.flat_map(|child| if child.is_dir() { files(&child) } else { vec![child] }).collect()
}

/// The parts that a line names as `crate::part`.
fn named(line: &str) -> impl Iterator<Item = &str> {
    line.split("crate::").skip(1).map(|rest| {
        let end = rest.find(|c: char| !c.is_ascii_lowercase() && c != '_').unwrap_or(rest.len());
        &rest[..end]
    })
}

#[test]
fn parts_use_only_what_they_may() {
    let lines = code();
    assert!(lines.len() > 1_000, "the sources were not found");
    let mut wrong = Vec::new();
    for line in &lines {
        let Some((_, allowed)) = PARTS.iter().find(|(part, _)| *part == line.part) else {
            panic!("{}: a part that docs/ARCHITECTURE.md and this test do not know", line.place);
        };
        for other in named(&line.text) {
            let only_counters = line.part == "api" && other == "worker";
            if other != line.part && !allowed.contains(&other)
                || only_counters && !line.text.contains("crate::worker::Counters")
            {
                wrong.push(format!("{}: {}", line.place, line.text.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn crates_sql_and_the_environment_stay_where_they_belong() {
    let lines = code();
    for (what, parts) in KEPT_TO {
        let users: Vec<&Line> = lines.iter().filter(|line| line.text.contains(what)).collect();
        let wrong: Vec<&str> =
            users.iter().filter(|line| !parts.contains(&line.part.as_str())).map(|line| line.place.as_str()).collect();
        assert!(wrong.is_empty(), "{what} is for {parts:?} alone: {wrong:#?}");
    }
}

#[test]
fn the_tests_that_the_guarantees_name_exist() {
    let page = include_str!("../docs/GUARANTEES.md");
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let named: Vec<(&str, &str)> =
        page.split('`').skip(1).step_by(2).filter_map(|name| name.split_once("::")).collect();
    assert!(named.len() > 10, "the page names its tests");
    for (file, test) in named {
        let text = std::fs::read_to_string(tests.join(format!("{file}.rs"))).unwrap_or_default();
        assert!(text.contains(&format!("fn {test}(")), "there is no test {file}::{test}");
    }
}

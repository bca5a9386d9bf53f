//! Will this Postgres keep what it is given, and can workers stand on it?

use std::time::Duration;

use super::finding::Finding;
use crate::cli::wording::duration;
use crate::store::doctor::{Replication, Server, Settings, StuckCommits};

const SLOW_COMMIT: Duration = Duration::from_millis(100);
const BIG_SLOT: i64 = 1 << 30;

pub(super) fn judge_server(server: &Server, production: bool) -> Vec<Finding> {
    let Server { database, role, .. } = server;
    let place = server.address.as_deref().unwrap_or("a local socket");
    let tls = if server.has_tls { ", over TLS" } else { "" };
    let mut findings = Vec::new();
    let who = format!("{database} at {place} as {role}{tls}");
    if server.is_standby {
        let mend = "let DATABASE_URL name the primary, or all hosts: postgres://…@host1,host2/…";
        findings.push(Finding::fail("database", format!("{who} is a standby: it takes no writes")).mend(mend));
    } else if server.is_read_only {
        let mend = "reset default_transaction_read_only for this role and database";
        findings.push(Finding::fail("database", format!("{who} is set to read only")).mend(mend));
    } else {
        findings.push(Finding::ok("database", format!("{who} answers and takes writes")));
    }
    if production && !server.has_tls && !server.is_local {
        let mend = "add sslmode=verify-full to DATABASE_URL";
        findings.push(Finding::warn("database", "the connection is not encrypted").mend(mend));
    }
    if server.encoding != "UTF8" {
        let text = format!("the database's encoding is {}: other texts than its own are refused", server.encoding);
        findings.push(Finding::fail("database", text).mend("make one with encoding UTF8"));
    }
    findings
}

pub(super) fn judge_version(server: &Server) -> Finding {
    let text = format!("Postgres {}", server.version);
    match server.version_number {
        140_000.. => Finding::ok("version", text),
        _ => Finding::fail("version", format!("{text} is too old")).mend("use 14 or later"),
    }
}

pub(super) fn judge_pooler(hears_itself: bool) -> Finding {
    if hears_itself {
        return Finding::ok("connection", "direct: notifications come back to who listens");
    }
    Finding::warn("connection", "notifications do not come back: this looks like a transaction pooler; `orderly serve` works over it, a worker does not start")
        .mend("give workers a DATABASE_URL that goes to Postgres itself")
}

pub(super) fn judge_timeout(in_force_ms: i64, is_local: bool) -> Vec<Finding> {
    if in_force_ms > 0 || is_local {
        return Vec::new();
    }
    vec![
        Finding::warn(
            "connection",
            "the server's system knows no tcp_user_timeout: a lost host may keep its destinations for longer than 15 s",
        )
        .mend("run Postgres on Linux"),
    ]
}

/// What a crash of the server would take with it.
pub(super) fn judge_safety(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (name, harm) in [
        ("fsync", "a crash of the server's machine loses accepted messages and may ruin the database"),
        ("full_page_writes", "a crash in the middle of a write ruins pages"),
    ] {
        if settings.text(name) == "off" {
            let mend = format!("{name} = on in postgresql.conf, and reload");
            findings.push(Finding::fail("commits", format!("{name} is off: {harm}")).mend(mend));
        }
    }
    let commit = settings.text("synchronous_commit");
    let text = match commit {
        "off" | "local" => format!("synchronous_commit is {commit}; Orderly sets it on where a message is at stake"),
        _ => format!("synchronous_commit is {commit}"),
    };
    findings.push(Finding::ok("commits", text));
    findings
}

pub(super) fn judge_commit(took: Duration) -> Finding {
    let text = format!("a durable commit took {:.1} ms", took.as_secs_f64() * 1_000.0);
    if took < SLOW_COMMIT {
        return Finding::ok("commits", text);
    }
    Finding::warn("commits", text).mend("look at the disk that has pg_wal, and at the synchronous standby")
}

fn is_synchronous(state: Option<&str>) -> bool {
    matches!(state, Some("sync" | "quorum"))
}

/// A standby is waited for, and none is there.
pub(super) fn commits_hang(settings: &Settings, found: &Replication) -> bool {
    !settings.text("synchronous_standby_names").is_empty()
        && !found.standbys.iter().any(|one| one.sync_state.is_none() || is_synchronous(one.sync_state.as_deref()))
}

pub(super) fn judge_stuck(stuck: &StuckCommits) -> Vec<Finding> {
    if stuck.count == 0 {
        return Vec::new();
    }
    let (count, longest) = (stuck.count, duration(stuck.longest_seconds));
    let text = format!("commits wait for a synchronous standby: {count}, the longest for {longest}");
    vec![Finding::fail("replication", text).mend("bring a standby back, or take it out of synchronous_standby_names")]
}

/// Across a failover, G1 (nothing is lost) and G2 (order) need a synchronous standby.
pub(super) fn judge_replication(settings: &Settings, found: &Replication) -> Vec<Finding> {
    let names = settings.text("synchronous_standby_names");
    let count = i64::try_from(found.standbys.len()).unwrap_or(i64::MAX);
    let mut findings = Vec::new();
    if commits_hang(settings, found) {
        let text = format!("commits wait for a standby ({names}), and none of them is there");
        let mend = "start the standby, or take it out of synchronous_standby_names";
        findings.push(Finding::fail("replication", text).mend(mend));
    } else if !names.is_empty() {
        let waited: Vec<&str> = found.standbys.iter().map(|one| one.name.as_str()).collect();
        let text = format!("commits wait for a standby; there: {}", waited.join(", "));
        findings.push(Finding::ok("replication", text));
        if settings.text("synchronous_commit") == "remote_write" {
            let text = "synchronous_commit is remote_write: a crash of both machines at once loses messages";
            findings.push(Finding::warn("replication", text).mend("synchronous_commit = on"));
        }
    } else if count > 0 {
        let text = format!(
            "{} and commits do not wait: a failover may lose accepted messages and change their order (G1, G2)",
            if count == 1 { "a standby follows".to_owned() } else { format!("{count} standbys follow") }
        );
        let mend = "synchronous_standby_names = 'ANY 1 (…)', with a second standby so that one may fail";
        findings.push(Finding::warn("replication", text).mend(mend));
    } else {
        findings.push(Finding::ok("replication", "no standby follows: there is no failover to lose anything in"));
    }
    for slot in found.idle_slots.iter().filter(|slot| slot.retained_bytes > BIG_SLOT) {
        let text =
            format!("nobody reads slot {}, and {} GiB of WAL are kept for it", slot.name, slot.retained_bytes >> 30);
        let mend = format!("start its reader, or select pg_drop_replication_slot('{}')", slot.name);
        findings.push(Finding::warn("replication", text).mend(mend));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level::{self, Fail, Ok, Warn};
    use super::*;
    use crate::store::doctor::{Slot, Standby};

    fn standby(state: Option<&str>) -> Standby {
        Standby { name: "b".to_owned(), sync_state: state.map(str::to_owned) }
    }

    fn worst(findings: &[Finding]) -> Level {
        findings.iter().map(|finding| finding.level).max().expect("a finding")
    }

    #[test]
    fn a_failover_keeps_what_a_synchronous_standby_has() {
        for (names, standbys, expected) in [
            ("", vec![], Ok),
            ("", vec![standby(Some("async"))], Warn),
            ("", vec![standby(None)], Warn),
            ("b", vec![standby(Some("sync"))], Ok),
            ("ANY 1 (b, c)", vec![standby(Some("quorum")), standby(Some("async"))], Ok),
            ("b", vec![standby(None)], Ok),
            ("b", vec![], Fail),
            ("b", vec![standby(Some("async"))], Fail),
        ] {
            let settings = Settings::from([("synchronous_standby_names", names), ("synchronous_commit", "on")]);
            let found = Replication { standbys: standbys.clone(), idle_slots: Vec::new() };
            assert_eq!(worst(&judge_replication(&settings, &found)), expected, "{names:?} {standbys:?}");
            assert_eq!(commits_hang(&settings, &found), expected == Fail);
        }
        let settings = Settings::from([("synchronous_standby_names", "b"), ("synchronous_commit", "remote_write")]);
        let idle_slots = vec![Slot { name: "s".to_owned(), retained_bytes: 3 << 30 }];
        let found = Replication { standbys: vec![standby(Some("sync"))], idle_slots };
        assert_eq!(judge_replication(&settings, &found).len(), 3);
    }

    #[test]
    fn what_a_crash_takes_with_it_fails() {
        let judge = |fsync, pages, commit| {
            judge_safety(&Settings::from([
                ("fsync", fsync),
                ("full_page_writes", pages),
                ("synchronous_commit", commit),
            ]))
        };
        assert_eq!(worst(&judge("on", "on", "off")), Ok);
        assert_eq!(worst(&judge("off", "on", "on")), Fail);
        assert_eq!(judge("off", "off", "on").iter().filter(|finding| finding.level == Fail).count(), 2);
    }

    #[test]
    fn versions_before_14_are_told() {
        let server = |version_number| Server {
            version: "x".to_owned(),
            version_number,
            address: None,
            database: "d".to_owned(),
            role: "r".to_owned(),
            encoding: "UTF8".to_owned(),
            is_standby: version_number == 1,
            is_read_only: false,
            has_tls: false,
            is_local: false,
            sees_all: true,
        };
        for (number, expected) in [(130_022, Fail), (140_000, Ok), (150_014, Ok), (190_000, Ok)] {
            assert_eq!(judge_version(&server(number)).level, expected, "{number}");
        }
        assert_eq!(worst(&judge_server(&server(1), false)), Fail);
        assert_eq!(worst(&judge_server(&server(150_000), true)), Warn);
        assert_eq!(worst(&judge_server(&server(150_000), false)), Ok);
    }
}

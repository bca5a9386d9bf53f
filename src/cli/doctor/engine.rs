//! Does Orderly itself stand well: its schema, its workers, its queues?

use super::finding::Finding;
use crate::cli::wording::{name_some, several};
use crate::store::doctor::{Blocked, Incarnation, Partitions, Registered, Unserved};

pub(super) fn judge_schema(found: i32, known: i32) -> Finding {
    if found == known {
        return Finding::ok("schema", format!("version {found}, which is this program's"));
    }
    if found > known {
        return Finding::fail("schema", format!("it has version {found}, and this program knows {known}"))
            .mend("run a newer orderly");
    }
    let text = match found {
        0 => "there is none".to_owned(),
        _ => format!("it has version {found}, and this program needs {known}"),
    };
    Finding::fail("schema", text).mend("run `orderly migrate`")
}

/// What tells a restart, a crash and a failover apart; see the design of `orderly.fence()`.
pub(super) fn judge_incarnation(found: &Incarnation) -> Vec<Finding> {
    let mut findings = Vec::new();
    if found.cluster_rows != 1 || found.rows > 1 {
        let text = format!("orderly.cluster has {} rows and orderly.incarnation {}", found.cluster_rows, found.rows);
        findings.push(Finding::fail("incarnation", text).mend("each must have one: restore them, or ask for help"));
    } else if !found.is_current {
        let text = "Postgres was started since anybody used it; the next message or worker notes it";
        findings.push(Finding::ok("incarnation", text));
    } else if found.noted_timeline != found.timeline {
        let (noted, timeline) =
            (found.noted_timeline.as_deref().unwrap_or("none"), found.timeline.as_deref().unwrap_or("none"));
        let text = format!("timeline {noted} was noted, and Postgres is on {timeline}");
        findings.push(Finding::fail("incarnation", text).mend("restart Postgres, so that it is noted anew"));
    } else {
        let timeline = found.timeline.as_deref().unwrap_or("?");
        findings.push(Finding::ok("incarnation", format!("this start of Postgres is noted, on timeline {timeline}")));
    }
    if found.last_given < found.highest_known {
        let text = format!(
            "the counter of messages stands at {}, and {} was given before: ids would be given twice (G1)",
            found.last_given, found.highest_known
        );
        findings.push(Finding::fail("incarnation", text).mend(found.catching_up()));
    }
    findings
}

pub(super) fn judge_partitions(found: &Partitions, workers: usize) -> Finding {
    let mend = if workers == 0 {
        "start a worker: it makes them"
    } else if found.default_in_use {
        "rows in orderly.attempts_default stand in the way: they go after --keep-attempts, or move them by hand"
    } else {
        "a worker makes them within 10 minutes; if not, see its log for a lock that is held for long"
    };
    match (found.today, found.tomorrow) {
        (true, true) => Finding::ok("partitions", "the log of attempts has those of today and tomorrow"),
        (false, _) => {
            Finding::warn("partitions", "the log of attempts has none for today; the default one takes them").mend(mend)
        }
        (true, false) => Finding::warn("partitions", "the log of attempts has none for tomorrow").mend(mend),
    }
}

pub(super) fn judge_workers(workers: &[Registered]) -> Vec<Finding> {
    let (alive, dead): (Vec<_>, Vec<_>) = workers.iter().partition(|worker| worker.is_alive);
    let mut findings = Vec::new();
    if alive.is_empty() {
        let text = "none is alive: nothing is delivered";
        findings.push(Finding::warn("workers", text).mend("start `orderly worker --persistent`"));
    } else {
        let names: Vec<String> = alive
            .iter()
            .take(5)
            .map(|worker| format!("{} on {} serves {}", worker.id, worker.host, worker.owned))
            .collect();
        let more = if alive.len() > 5 { ", …" } else { "" };
        findings.push(Finding::ok("workers", format!("{} alive: {}{more}", alive.len(), names.join(", "))));
        if alive.iter().all(|worker| worker.kind == "pinned") {
            let text = "all of them are pinned to one destination each: the others are served by nobody";
            findings.push(Finding::warn("workers", text).mend("start one without --destination"));
        } else if alive.len() == 1 && alive[0].kind == "general" {
            findings.push(Finding::ok("workers", "one alone: nobody takes over when its host is lost"));
        }
    }
    if !dead.is_empty() {
        let names: Vec<String> =
            dead.iter().take(5).map(|worker| format!("{} on {}", worker.id, worker.host)).collect();
        let text = format!("{} still registered without a session: {}", dead.len(), names.join(", "));
        findings.push(Finding::warn("workers", text).mend("the next worker to start takes over what they had"));
    }
    findings
}

/// Owners without a session keep nobody from taking over, but somebody must be there to do it.
pub(super) fn judge_owners(workers: &[Registered], orphans: i64) -> Finding {
    let of_dead: i64 = workers.iter().filter(|worker| !worker.is_alive).map(|worker| worker.owned).sum();
    let count = orphans + of_dead;
    if count == 0 {
        return Finding::ok("owners", "each destination that has one has one that is alive");
    }
    let text = format!("{} whose worker is gone", several(count, "destination"));
    let alive = workers.iter().any(|worker| worker.is_alive);
    Finding::warn("owners", text).mend(if alive {
        "those with messages are taken over within 15 s; look again"
    } else {
        "start `orderly worker --persistent`"
    })
}

pub(super) fn judge_blocked(found: &Blocked) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut report = |count: i64, first: &[i64], what: &str, mend: &str| {
        if count > 0 {
            let text = format!("{} {what}: {}", several(count, "queue"), name_some(first, count));
            findings.push(Finding::warn("queues", text).mend(mend));
        }
    };
    report(
        found.held,
        &found.first_held,
        "held at a message that is out of tries",
        "mend the receiver and `orderly destinations retry-now ID`, or `… skip ID`",
    );
    report(
        found.disabled,
        &found.first_disabled,
        "disabled, since the receiver answered 410",
        "`orderly destinations resume ID`, or delete it",
    );
    report(
        found.backing_off,
        &found.first_backing_off,
        "backing off after a failed try",
        "`orderly queues --blocked` says why",
    );
    if findings.is_empty() {
        let paused = if found.paused > 0 { format!(", {} paused", found.paused) } else { String::new() };
        findings.push(Finding::ok(
            "queues",
            format!("{}{paused}, none held or backing off", several(found.destinations, "destination")),
        ));
    } else if found.paused > 0 {
        findings.push(Finding::ok("queues", format!("{} paused", several(found.paused, "queue"))));
    }
    findings
}

pub(super) fn judge_unserved(found: &Unserved, workers: usize) -> Vec<Finding> {
    if found.count == 0 {
        return Vec::new();
    }
    let text = format!(
        "{} with a message older than 30 s that nobody serves: {}",
        several(found.count, "queue"),
        name_some(&found.first, found.count)
    );
    let mend = if workers == 0 { "start a worker" } else { "start more workers, or raise max_locks_per_transaction" };
    vec![Finding::warn("queues", text).mend(mend)]
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level::{Fail, Ok, Warn};
    use super::*;

    #[test]
    fn a_schema_of_another_version_fails() {
        for (found, expected) in [(0, Fail), (5, Fail), (6, Ok), (7, Fail)] {
            assert_eq!(judge_schema(found, 6).level, expected, "{found}");
        }
    }

    #[test]
    fn a_counter_that_went_back_fails() {
        let sane = Incarnation {
            rows: 1,
            is_current: true,
            noted_timeline: Some("00000001".to_owned()),
            timeline: Some("00000001".to_owned()),
            cluster_rows: 1,
            last_given: 10,
            highest_known: 10,
        };
        let worst = |found: Incarnation| judge_incarnation(&found).iter().map(|finding| finding.level).max();
        assert_eq!(worst(sane.clone()), Some(Ok));
        assert_eq!(worst(Incarnation { last_given: 9, ..sane.clone() }), Some(Fail));
        assert_eq!(worst(Incarnation { cluster_rows: 0, ..sane.clone() }), Some(Fail));
        assert_eq!(worst(Incarnation { noted_timeline: None, ..sane.clone() }), Some(Fail));
        assert_eq!(worst(Incarnation { noted_timeline: None, is_current: false, rows: 0, ..sane }), Some(Ok));
    }

    #[test]
    fn who_works_and_who_does_not() {
        let worker = |id, kind: &str, is_alive| Registered {
            id,
            host: "h".to_owned(),
            pid: 1,
            kind: kind.to_owned(),
            destination: None,
            is_alive,
            owned: 2,
        };
        let worst = |workers: &[Registered]| judge_workers(workers).iter().map(|finding| finding.level).max();
        assert_eq!(worst(&[]), Some(Warn));
        assert_eq!(worst(&[worker(1, "general", true)]), Some(Ok));
        assert_eq!(worst(&[worker(1, "pinned", true)]), Some(Warn));
        assert_eq!(worst(&[worker(1, "general", true), worker(2, "general", false)]), Some(Warn));
        assert_eq!(judge_owners(&[worker(1, "general", true)], 0).level, Ok);
        assert!(judge_owners(&[worker(1, "general", false)], 3).text.starts_with("5 destinations"));
        let held = Blocked { held: 7, first_held: vec![1, 2], ..Blocked::default() };
        assert!(judge_blocked(&held)[0].text.contains("1, 2 and 5 more"));
        assert_eq!(judge_blocked(&Blocked::default())[0].level, Ok);
        assert!(judge_unserved(&Unserved::default(), 1).is_empty());
    }
}

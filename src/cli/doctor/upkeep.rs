//! Is there room for what is to come: sessions, locks, notifications, dead rows, time?

use std::time::{Duration, SystemTime};

use chrono::{DateTime, Utc};

use super::finding::Finding;
use crate::cli::wording::{duration, several};
use crate::cli::{serve, worker};
use crate::store::doctor::{Locks, Session, Settings, VacuumSettings};

/// A worker's session, aide and watch, beside its pool.
const WORKER_SESSIONS: i64 = 3;
const OLD_TRANSACTION_SECONDS: f64 = 300.0;
const MANY_DEAD: i64 = 1_000_000;
const CLOCK_TOLERANCE: Duration = Duration::from_secs(5);

/// One more API process and one more worker should find room.
pub(super) fn judge_sessions(settings: &Settings, locks: &Locks) -> Vec<Finding> {
    let reserved = settings.number("superuser_reserved_connections") + settings.number("reserved_connections");
    let (limit, used) = (settings.number("max_connections"), locks.sessions);
    let free = limit - reserved - used;
    let (api, worker) = (sessions(serve::CONNECTIONS), sessions(worker::CONNECTIONS) + WORKER_SESSIONS);
    let text = format!(
        "{used} of max_connections = {limit} are in use; an API process takes up to {api}, a worker up to {worker}"
    );
    if free >= api + worker {
        vec![Finding::ok("sessions", text)]
    } else {
        let text = format!("{text}: the next ones may not get in");
        vec![Finding::warn("sessions", text).mend("raise max_connections, or put the API behind a pooler")]
    }
}

fn sessions(pool: usize) -> i64 {
    i64::try_from(pool).unwrap_or(i64::MAX)
}

pub(super) fn judge_idle_timeout(settings: &Settings, production: bool) -> Vec<Finding> {
    if settings.number("idle_in_transaction_session_timeout") > 0 || !production {
        return Vec::new();
    }
    vec![
        Finding::warn("sessions", "idle_in_transaction_session_timeout is 0: a forgotten transaction that called orderly.enqueue blocks all who post to that destination")
            .mend("set it to 60s for the applications' roles"),
    ]
}

/// Workers together hold at most half of the lock table, one entry for each destination they serve.
pub(super) fn judge_locks(settings: &Settings, locks: &Locks, destinations: Option<i64>) -> Finding {
    let size = settings.lock_table_size().max(1);
    let served = size / 2;
    let text = format!(
        "{} of about {size} entries of the lock table are in use ({} advisory); {served} destinations may be served at once",
        locks.all, locks.advisory
    );
    let connections = (size / settings.number("max_locks_per_transaction").max(1)).max(1);
    let raise = |entries: i64| {
        let needed = (entries / connections + 1).unsigned_abs().next_power_of_two();
        format!("max_locks_per_transaction = {needed} (needs a restart)")
    };
    if locks.all * 10 > size * 9 {
        let text = format!("{text}: when it is full, nobody can connect");
        return Finding::fail("locks", text).mend(raise(locks.all * 2));
    }
    if locks.all * 10 > size * 7 {
        return Finding::warn("locks", text).mend(raise(locks.all * 2));
    }
    match destinations {
        Some(many) if many > served => {
            let text = format!("{text}; there are {many}, so that busy ones take turns");
            Finding::warn("locks", text).mend(raise(many * 2))
        }
        _ => Finding::ok("locks", text),
    }
}

pub(super) fn judge_bells(part: f64) -> Finding {
    let text = format!("{:.1} % of the notification queue is in use", part * 100.0);
    let mend = "a session that listens is in a long transaction: end it (pg_stat_activity, oldest xact_start)";
    if part > 0.5 {
        Finding::fail("notifications", format!("{text}; when it is full, commits that notify fail")).mend(mend)
    } else if part > 0.05 {
        Finding::warn("notifications", text).mend(mend)
    } else {
        Finding::ok("notifications", text)
    }
}

pub(super) fn judge_oldest(oldest: Option<&Session>, sees_all: bool) -> Finding {
    let blind = if sees_all { "" } else { " (of this role; grant pg_read_all_stats to see all)" };
    match oldest {
        None => Finding::ok("transactions", format!("no other transaction is open{blind}")),
        Some(session) => {
            let age = duration(session.age_seconds);
            if session.age_seconds < OLD_TRANSACTION_SECONDS {
                return Finding::ok("transactions", format!("the oldest one is {age} old{blind}"));
            }
            let pid = session.pid.unwrap_or(0);
            let text = format!(
                "process {pid} of {} has a transaction open for {age} ({}): rows deleted since stay dead until it ends{blind}",
                session.who, session.state
            );
            Finding::warn("transactions", text).mend(format!("end it, or select pg_terminate_backend({pid})"))
        }
    }
}

pub(super) fn judge_prepared(oldest: Option<&Session>) -> Vec<Finding> {
    let Some(oldest) = oldest.filter(|oldest| oldest.age_seconds >= OLD_TRANSACTION_SECONDS) else { return Vec::new() };
    let text = format!(
        "the prepared transaction {} is {} old: it holds its locks and keeps dead rows, across restarts too",
        oldest.who,
        duration(oldest.age_seconds)
    );
    vec![Finding::warn("transactions", text).mend("commit prepared or rollback prepared")]
}

pub(super) fn judge_vacuum(settings: &Settings, vacuum: &VacuumSettings) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in ["autovacuum", "track_counts"] {
        if settings.text(name) == "off" {
            let text = format!("{name} is off: what was delivered is never cleared away, and all gets slower");
            findings.push(Finding::fail("vacuum", text).mend(format!("{name} = on in postgresql.conf, and reload")));
        }
    }
    for table in &vacuum.exempt {
        let mend = format!("alter table orderly.{table} reset (autovacuum_enabled)");
        findings.push(Finding::fail("vacuum", format!("autovacuum leaves orderly.{table} alone")).mend(mend));
    }
    match &vacuum.worst {
        Some(worst) if worst.dead > MANY_DEAD && worst.dead > worst.live => {
            let text = format!("orderly.{} has {} dead rows beside {} live ones", worst.table, worst.dead, worst.live);
            let mend = "see the oldest transaction, the slots and the prepared ones; then vacuum it";
            findings.push(Finding::warn("vacuum", text).mend(mend));
        }
        Some(worst) => {
            let dead = several(worst.dead, "dead row");
            findings.push(Finding::ok("vacuum", format!("on; at most {dead} in a table ({})", worst.table)));
        }
        None => {}
    }
    findings
}

/// The database's clock was read between `before` and `after` on this machine's.
pub(super) fn judge_clock(before: SystemTime, theirs: DateTime<Utc>, after: SystemTime) -> Finding {
    let theirs = SystemTime::from(theirs);
    let ahead = theirs.duration_since(after).ok();
    let behind = before.duration_since(theirs).ok();
    let mend = "run a time service (chrony, systemd-timesyncd) on both";
    let (apart, which) = match (ahead, behind) {
        (Some(apart), _) => (apart, "ahead of"),
        (None, Some(apart)) => (apart, "behind"),
        (None, None) => (Duration::ZERO, ""),
    };
    if apart > CLOCK_TOLERANCE {
        let text = format!(
            "the database's clock is {} {which} this machine's: signatures and tokens carry the time",
            duration(apart.as_secs_f64())
        );
        return Finding::warn("clock", text).mend(mend);
    }
    Finding::ok("clock", format!("the database's and this machine's agree within {} ms", apart.as_millis() + 1))
}

#[cfg(test)]
mod tests {
    use super::super::finding::Level::{Fail, Ok, Warn};
    use super::*;
    use crate::store::doctor::DeadTuples;

    fn settings() -> Settings {
        Settings::from([("max_connections", "100"), ("max_locks_per_transaction", "64"), ("autovacuum", "on")])
    }

    #[test]
    fn the_lock_table_bounds_what_is_served() {
        for (all, destinations, expected) in [
            (10, Some(3_200), Ok),
            (10, Some(3_201), Warn),
            (10, None, Ok),
            (4_500, Some(1), Warn),
            (5_800, None, Fail),
        ] {
            let locks = Locks { all, advisory: 0, sessions: 1 };
            assert_eq!(judge_locks(&settings(), &locks, destinations).level, expected, "{all} {destinations:?}");
        }
        let locks = Locks { all: 10, advisory: 0, sessions: 1 };
        let mend = judge_locks(&settings(), &locks, Some(100_000)).mend.expect("advice");
        assert!(mend.contains("= 2048 "), "{mend}");
    }

    #[test]
    fn sessions_run_out_before_they_are_gone() {
        let judge = |sessions| judge_sessions(&settings(), &Locks { all: 0, advisory: 0, sessions })[0].level;
        assert_eq!((judge(20), judge(90)), (Ok, Warn));
        assert_eq!((judge_idle_timeout(&settings(), false).len(), judge_idle_timeout(&settings(), true).len()), (0, 1));
    }

    #[test]
    fn clocks_may_differ_by_what_the_question_took() {
        let now = SystemTime::now();
        let at = |seconds: i64| DateTime::<Utc>::from(now) + chrono::TimeDelta::seconds(seconds);
        let judge = |seconds| judge_clock(now, at(seconds), now + Duration::from_secs(1));
        for (seconds, expected) in [(0, Ok), (1, Ok), (5, Ok), (7, Warn), (-4, Ok), (-7, Warn)] {
            assert_eq!(judge(seconds).level, expected, "{seconds}");
        }
        assert!(judge(60).text.contains("59 s ahead of") && judge(-60).text.contains("60 s behind"));
    }

    #[test]
    fn what_keeps_dead_rows_is_told() {
        let session =
            |age_seconds| Session { pid: Some(7), who: "me".to_owned(), state: "active".to_owned(), age_seconds };
        assert_eq!(judge_oldest(None, true).level, Ok);
        assert_eq!(judge_oldest(Some(&session(10.0)), true).level, Ok);
        assert_eq!(judge_oldest(Some(&session(1_000.0)), true).level, Warn);
        assert!(judge_prepared(Some(&session(10.0))).is_empty() && judge_prepared(None).is_empty());
        assert_eq!(judge_prepared(Some(&session(1_000.0)))[0].level, Warn);
        let worst = |dead| Some(DeadTuples { table: "messages".to_owned(), live: 5, dead });
        let judge = |settings: &Settings, exempt: &[&str], dead| {
            let exempt = exempt.iter().map(|name| (*name).to_owned()).collect();
            judge_vacuum(settings, &VacuumSettings { exempt, worst: worst(dead) }).iter().map(|f| f.level).max()
        };
        assert_eq!(judge(&settings(), &[], 10), Some(Ok));
        assert_eq!(judge(&settings(), &[], 2_000_000), Some(Warn));
        assert_eq!(judge(&settings(), &["messages"], 0), Some(Fail));
        assert_eq!(judge(&Settings::from([("autovacuum", "off")]), &[], 0), Some(Fail));
        assert_eq!([judge_bells(0.0).level, judge_bells(0.1).level, judge_bells(0.6).level], [Ok, Warn, Fail]);
    }
}

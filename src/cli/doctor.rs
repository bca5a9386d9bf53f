//! `orderly doctor`: is all as it should be, and what is to be mended?
//!
//! The store tells facts, the judges here say what they mean, one line each. A question that could not be
//! answered is a finding, too, and hides no other.

mod engine;
mod finding;
mod keys;
mod server;
mod upkeep;

use std::time::SystemTime;

use clap::Args;

use self::finding::{Finding, Level};
use super::{CliError, print};
use crate::config::{CommonSettings, DatabaseSettings, Environment};
use crate::store::connect::Connector;
use crate::store::doctor::Examiner;
use crate::store::migrate::known_version;
use crate::store::{StoreError, chain};

#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// Print a JSON array instead of lines
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    database: DatabaseSettings,

    #[command(flatten)]
    common: CommonSettings,
}

/// Ends with 1 when something failed; a warning is none.
pub(super) async fn run(arguments: Arguments) -> Result<(), CliError> {
    let production = arguments.common.environment == Environment::Production;
    let mut findings = keys::judge_settings(&arguments.common);
    let connected = match Connector::parse(&arguments.database.url) {
        Ok(connector) => Examiner::connect(&connector).await,
        Err(error) => Err(error),
    };
    match connected {
        Ok(mut examiner) => examine(&mut examiner, &arguments.common, production, &mut findings).await,
        Err(error) => findings.push(
            Finding::fail("database", chain(&error)).mend("check DATABASE_URL, the network, and that Postgres runs"),
        ),
    }
    findings.sort_by_key(|finding| ORDER.iter().position(|name| *name == finding.check));
    print(&if arguments.json { finding::to_json(&findings) } else { finding::to_text(&findings) })?;
    match findings.iter().filter(|finding| finding.level == Level::Fail).count() {
        0 => Ok(()),
        failed => Err(CliError::Unhealthy(failed)),
    }
}

/// From what all depends on to what depends on it.
const ORDER: [&str; 19] = [
    "database",
    "version",
    "schema",
    "connection",
    "commits",
    "replication",
    "sessions",
    "locks",
    "notifications",
    "transactions",
    "vacuum",
    "clock",
    "keys",
    "secrets",
    "incarnation",
    "partitions",
    "workers",
    "owners",
    "queues",
];

async fn examine(examiner: &mut Examiner, common: &CommonSettings, production: bool, findings: &mut Vec<Finding>) {
    let server = match examiner.server().await {
        Ok(server) => server,
        Err(error) => return findings.push(unanswered("database", &error)),
    };
    let settings = match examiner.settings().await {
        Ok(settings) => settings,
        Err(error) => return findings.push(unanswered("database", &error)),
    };
    let mut note = |check: &'static str, judged: Result<Vec<Finding>, StoreError>| match judged {
        Ok(judged) => findings.extend(judged),
        Err(error) => findings.push(unanswered(check, &error)),
    };
    note("database", Ok(server::judge_server(&server, production)));
    note("version", Ok(vec![server::judge_version(&server)]));
    note("connection", examiner.hears_itself().await.map(|hears| vec![server::judge_pooler(hears)]));
    note("connection", examiner.tcp_user_timeout_ms().await.map(|ms| server::judge_timeout(ms, server.is_local)));
    note("commits", Ok(server::judge_safety(&settings)));
    let stuck = examiner.stuck_commits().await;
    let replication = examiner.replication().await;
    // Where commits hang, one more would hang, too.
    let hangs = stuck.as_ref().is_ok_and(|stuck| stuck.count > 0)
        || replication.as_ref().is_ok_and(|replication| server::commits_hang(&settings, replication));
    if !server.is_standby && !hangs {
        note("commits", examiner.time_commit().await.map(|took| vec![server::judge_commit(took)]));
    }
    note("replication", stuck.map(|stuck| server::judge_stuck(&stuck)));
    note("replication", replication.map(|found| server::judge_replication(&settings, &found)));
    let locks = examiner.locks().await;
    note("sessions", locks.as_ref().map(|locks| upkeep::judge_sessions(&settings, locks)).map_err(again));
    note("sessions", Ok(upkeep::judge_idle_timeout(&settings, production)));
    note("notifications", examiner.notification_queue_usage().await.map(|part| vec![upkeep::judge_bells(part)]));
    let oldest = examiner.oldest_transaction().await;
    note("transactions", oldest.map(|oldest| vec![upkeep::judge_oldest(oldest.as_ref(), server.sees_all)]));
    note("transactions", examiner.oldest_prepared().await.map(|oldest| upkeep::judge_prepared(oldest.as_ref())));
    note("vacuum", examiner.vacuum().await.map(|vacuum| upkeep::judge_vacuum(&settings, &vacuum)));
    let before = SystemTime::now();
    note("clock", examiner.clock().await.map(|theirs| vec![upkeep::judge_clock(before, theirs, SystemTime::now())]));

    let usable = examiner.may_use_schema().await;
    let version = examiner.schema_version().await;
    let fits = matches!((&version, &usable), (Ok(found), Ok(true)) if *found >= known_version());
    note("schema", version.map(|found| vec![engine::judge_schema(found, known_version(), usable.unwrap_or(false))]));
    // What is asked below is asked of this program's schema.
    if !fits {
        note("locks", locks.map(|locks| vec![upkeep::judge_locks(&settings, &locks, None)]));
        return;
    }
    let blocked = examiner.blocked().await;
    let destinations = blocked.as_ref().ok().map(|blocked| blocked.destinations);
    note("locks", locks.map(|locks| vec![upkeep::judge_locks(&settings, &locks, destinations)]));
    note("secrets", examiner.sealed().await.map(|sealed| keys::judge_sealed(common, &sealed)));
    note("incarnation", examiner.incarnation().await.map(|found| engine::judge_incarnation(&found)));
    let workers = examiner.workers().await;
    let alive = workers.as_ref().map_or(0, |workers| workers.iter().filter(|worker| worker.is_alive).count());
    note("partitions", examiner.partitions().await.map(|found| vec![engine::judge_partitions(&found, alive)]));
    let orphans = examiner.count_orphans().await;
    note(
        "owners",
        orphans.and_then(|orphans| {
            let workers = workers.as_ref().map_err(again)?;
            Ok(vec![engine::judge_owners(workers, orphans)])
        }),
    );
    note("workers", workers.map(|workers| engine::judge_workers(&workers)));
    note("queues", blocked.map(|blocked| engine::judge_blocked(&blocked)));
    note("queues", examiner.unserved().await.map(|unserved| engine::judge_unserved(&unserved, alive)));
}

fn unanswered(check: &'static str, error: &StoreError) -> Finding {
    Finding::fail(check, format!("this could not be found out: {}", chain(error)))
        .mend("run the doctor as the role that owns the schema")
}

/// For a second finding from one answer.
fn again(error: &StoreError) -> StoreError {
    StoreError::Corrupt(chain(error))
}

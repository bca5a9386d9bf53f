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
use crate::store::doctor::{Examiner, Settings};
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
    let mut report = Report { findings: keys::judge_settings(&arguments.common), denied: Vec::new() };
    let connected = match Connector::parse(&arguments.database.url) {
        Ok(connector) => Examiner::connect(&connector).await,
        Err(error) => Err(error),
    };
    match connected {
        Ok(mut examiner) => {
            if let Err(error) = examine(&mut examiner, &arguments.common, &mut report).await {
                report.note("database", Err(error));
            }
            tell_denied(&examiner, &mut report).await;
        }
        Err(error) => report.findings.push(
            Finding::fail("database", chain(&error)).mend("check DATABASE_URL, the network, and that Postgres runs"),
        ),
    }
    let mut findings = report.findings;
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

/// What was found so far.
struct Report {
    findings: Vec<Finding>,
    /// What this role may not be told of.
    denied: Vec<&'static str>,
}

impl Report {
    fn note(&mut self, check: &'static str, judged: Result<Vec<Finding>, StoreError>) {
        match judged {
            Ok(judged) => self.findings.extend(judged),
            Err(error) if error.is_denied() => {
                if !self.denied.contains(&check) {
                    self.denied.push(check);
                }
            }
            Err(error) => {
                let text = format!("this could not be found out: {}", chain(&error));
                self.findings.push(Finding::fail(check, text));
            }
        }
    }
}

async fn examine(examiner: &mut Examiner, common: &CommonSettings, report: &mut Report) -> Result<(), StoreError> {
    let production = common.environment == Environment::Production;
    let server = examiner.server().await?;
    let settings = examiner.settings().await?;
    report.note("database", Ok(server::judge_server(&server, production)));
    report.note("version", Ok(vec![server::judge_version(&server)]));
    // The rest is the primary's to answer.
    if server.is_standby {
        return Ok(());
    }
    report.note("connection", examiner.hears_itself().await.map(|hears| vec![server::judge_pooler(hears)]));
    let timeout = examiner.tcp_user_timeout_ms().await;
    report.note("connection", timeout.map(|ms| server::judge_timeout(ms, server.is_local)));
    examine_commits(examiner, &settings, report).await;

    let locks = examiner.locks().await?;
    report.note("sessions", Ok(upkeep::judge_sessions(&settings, &locks)));
    report.note("sessions", Ok(upkeep::judge_idle_timeout(&settings, production)));
    report.note("notifications", examiner.notification_queue_usage().await.map(|part| vec![upkeep::judge_bells(part)]));
    let oldest = examiner.oldest_transaction().await;
    report.note("transactions", oldest.map(|oldest| vec![upkeep::judge_oldest(oldest.as_ref(), server.sees_all)]));
    report.note("transactions", examiner.oldest_prepared().await.map(|oldest| upkeep::judge_prepared(oldest.as_ref())));
    report.note("vacuum", examiner.vacuum().await.map(|vacuum| upkeep::judge_vacuum(&settings, &vacuum)));
    let before = SystemTime::now();
    let clock = examiner.clock().await;
    report.note("clock", clock.map(|theirs| vec![upkeep::judge_clock(before, theirs, SystemTime::now())]));

    if !examiner.may_use_schema().await? {
        report.denied.push("schema");
        return Ok(());
    }
    let version = examiner.schema_version().await;
    // What is asked below is asked of this program's schema.
    let fits = version.as_ref().is_ok_and(|found| *found >= known_version());
    report.note("schema", version.map(|found| vec![engine::judge_schema(found, known_version())]));
    let destinations = if fits { examine_engine(examiner, common, report).await } else { None };
    report.note("locks", Ok(vec![upkeep::judge_locks(&settings, &locks, destinations)]));
    Ok(())
}

async fn examine_commits(examiner: &Examiner, settings: &Settings, report: &mut Report) {
    report.note("commits", Ok(server::judge_safety(settings)));
    let stuck = examiner.stuck_commits().await;
    let replication = examiner.replication().await;
    // Where commits hang, one more would hang, too.
    let hangs = stuck.as_ref().is_ok_and(|stuck| stuck.count > 0)
        || replication.as_ref().is_ok_and(|replication| server::commits_hang(settings, replication));
    if !hangs {
        report.note("commits", examiner.time_commit().await.map(|took| vec![server::judge_commit(took)]));
    }
    report.note("replication", stuck.map(|stuck| server::judge_stuck(&stuck)));
    report.note("replication", replication.map(|found| server::judge_replication(settings, &found)));
}

/// How many destinations there are.
async fn examine_engine(examiner: &Examiner, common: &CommonSettings, report: &mut Report) -> Option<i64> {
    report.note("secrets", examiner.sealed().await.map(|sealed| keys::judge_sealed(common, &sealed)));
    report.note("incarnation", examiner.incarnation().await.map(|found| engine::judge_incarnation(&found)));
    let workers = examiner.workers().await;
    let alive = workers.as_ref().map_or(0, |workers| workers.iter().filter(|worker| worker.is_alive).count());
    report.note("partitions", examiner.partitions().await.map(|found| vec![engine::judge_partitions(&found, alive)]));
    if let Ok(workers) = &workers {
        let orphans = examiner.count_orphans().await;
        report.note("owners", orphans.map(|orphans| vec![engine::judge_owners(workers, orphans)]));
    }
    report.note("workers", workers.map(|workers| engine::judge_workers(&workers)));
    report.note("queues", examiner.unserved().await.map(|unserved| engine::judge_unserved(&unserved, alive)));
    let blocked = examiner.blocked().await;
    let destinations = blocked.as_ref().ok().map(|blocked| blocked.destinations);
    report.note("queues", blocked.map(|blocked| engine::judge_blocked(&blocked)));
    destinations
}

/// One line for all that this role may not ask, and who may.
async fn tell_denied(examiner: &Examiner, report: &mut Report) {
    if report.denied.is_empty() {
        return;
    }
    let (me, owner) = examiner.roles().await.unwrap_or_else(|_| ("this role".to_owned(), None));
    let text = format!("{me} may not look at all there is; not examined: {}", report.denied.join(", "));
    let owner =
        owner.map_or_else(|| "the role that owns the schema".to_owned(), |owner| format!("{owner}, which owns it"));
    report.findings.push(Finding::warn("schema", text).mend(format!("run the doctor as {owner}")));
}

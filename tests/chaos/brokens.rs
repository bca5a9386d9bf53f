//! Which engines are broken on purpose, to show that the checker sees it, and what brings it out?
//!
//! All but one are switches in the engine that exist only with the feature `broken` (see `src/broken.rs`);
//! that one replaces a function in the run's own database.

use super::cluster::{Cluster, Failure};
use super::record::FaultKind;

/// Name, and the faults among which it shows.
pub const ALL: [(&str, &[FaultKind]); 7] = [
    ("pool-acknowledges", &[FaultKind::Zombie, FaultKind::SessionEnd]),
    ("skip-locked-messages", &[FaultKind::RowLock]),
    (NUMBER_BEFORE_LOCK, &[FaultKind::RowLock]),
    ("bell-before-commit", &[FaultKind::RowLock]),
    ("quiet-after-look", &[FaultKind::LinkDelay]),
    ("no-freshness", &[FaultKind::Zombie]),
    ("no-grace", &[FaultKind::RestartBehind]),
];
const NUMBER_BEFORE_LOCK: &str = "number-before-lock";

/// The number is drawn before the queue's lock is had: numbers no longer rise in commit order.
pub async fn break_database(cluster: &Cluster, broken: &str) -> Result<(), Failure> {
    if broken != NUMBER_BEFORE_LOCK {
        return Ok(());
    }
    let connection = cluster.connect().await?;
    let client = &connection.client;
    let sql = "select pg_get_functiondef('orderly.enqueue_bytes'::regproc)";
    let function: String = client.query_one(sql, &[]).await?.get(0);
    let draw = "given := nextval('orderly.message_sequence');";
    let lock = "select * into queue from orderly.queues q";
    if !function.contains(draw) || !function.contains(lock) {
        return Err("orderly.enqueue_bytes reads otherwise than was thought".into());
    }
    let changed = function.replace(draw, "").replace(lock, &format!("{draw} {lock}"));
    client.batch_execute(&changed).await?;
    Ok(())
}

//! Does each hot statement read what it returns, and no more?
//!
//! The tables are filled right after the migration, so that their statistics are those of empty ones: the
//! planner's worst case. auto_explain tells the plans inside the functions.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};

use orderly::store::session::{Place, READ_AHEAD};
use serde_json::Value;
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::support::TestDatabase;

/// Destinations, and how many are claimed, read and acknowledged at once. What a planner guesses of tables without
/// statistics grows with their size, and plans change with it.
const SIZES: [(i64, i64); 4] = [(40, 1), (300, 1), (1_000, 1), (3_000, 100)];
const EACH: i64 = 20;

/// What a worker's session sets, and the plans of all that runs.
const SETTINGS: &str = "
    load 'auto_explain';
    set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on; set auto_explain.log_analyze = on;
    set auto_explain.log_timing = off; set auto_explain.log_format = json; set client_min_messages = log;
    set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off;
    set plan_cache_mode = force_generic_plan";

struct Explained {
    client: Client,
    plans: Arc<Mutex<Vec<Value>>>,
}

impl Explained {
    async fn connect(database: &TestDatabase) -> Explained {
        let (client, mut connection) = tokio_postgres::connect(database.url(), NoTls).await.unwrap();
        let plans = Arc::new(Mutex::new(Vec::new()));
        let kept = plans.clone();
        tokio::spawn(async move {
            while let Some(Ok(message)) = poll_fn(|cx| connection.poll_message(cx)).await {
                if let AsyncMessage::Notice(notice) = message
                    && let Some((_, plan)) = notice.message().split_once("plan:")
                {
                    let plan = serde_json::from_str(plan).unwrap();
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push(plan);
                }
            }
        });
        Explained { client, plans }
    }

    /// Those that came since the last time.
    fn plans(&self) -> Vec<Value> {
        std::mem::take(&mut *self.plans.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Rows read since the last time.
    fn reads(&self) -> BTreeMap<String, f64> {
        read_by(&self.plans())
    }
}

/// Rows read of each table, by index and otherwise.
fn read_by(plans: &[Value]) -> BTreeMap<String, f64> {
    let mut reads = BTreeMap::new();
    for plan in plans {
        count(&plan["Plan"], &mut reads);
    }
    reads
}

/// Rows a plan's scans took from each table, those it threw away included.
fn count(node: &Value, reads: &mut BTreeMap<String, f64>) {
    let number = |name: &str| node[name].as_f64().unwrap_or(0.0);
    if let Some(table) = node["Relation Name"].as_str()
        && node["Node Type"].as_str().is_some_and(|kind| kind.ends_with("Scan"))
    {
        let rows = number("Actual Rows") + number("Rows Removed by Filter") + number("Rows Removed by Index Recheck");
        *reads.entry(table.to_owned()).or_default() += rows * number("Actual Loops");
    }
    for child in node["Plans"].as_array().into_iter().flatten() {
        count(child, reads);
    }
}

/// At most so many rows of the tables that grow.
#[track_caller]
fn assert_reads(what: &str, reads: &BTreeMap<String, f64>, most: i64) {
    assert!(!reads.is_empty(), "no plan of {what} came");
    for table in ["messages", "queues", "claims", "destinations", "requests", "skips"] {
        let read = reads.get(table).copied().unwrap_or(0.0);
        assert!(read <= most as f64, "{what} read {read} rows of {table}, not {most}: {reads:?}");
    }
}

#[tokio::test]
async fn hot_statements_read_no_more_than_they_return() {
    for (destinations, at_once) in SIZES {
        read_no_more(destinations, at_once).await;
    }
}

async fn read_no_more(destinations: i64, at_once: i64) {
    let database = TestDatabase::new().await;
    let session = Explained::connect(&database).await;
    let client = &session.client;
    if client.batch_execute(SETTINGS).await.is_err() {
        // Not a superuser's database: its plans cannot be seen.
        return;
    }
    client
        .batch_execute(&format!(
            "set auto_explain.log_min_duration = -1;
             with d as (insert into orderly.destinations (url, headers) select 'http://127.0.0.1/' || n, '\\x007b7d'::bytea
                        from generate_series(1, {destinations}) n returning id),
                  q as (insert into orderly.queues (destination_id) select id from d)
             insert into orderly.claims (destination_id) select id from d;
             insert into orderly.messages (destination_id, sequence, created_at, expires_at, brief, content_type, payload)
             select d.id, nextval('orderly.message_sequence'), now(), now() + interval '1 day', false, 'application/json', '{{}}'
             from orderly.destinations d, generate_series(1, {EACH}) n;
             insert into orderly.workers (id, process, host, pid, kind) values (1, 'p', 'h', 1, 'general');
             set auto_explain.log_min_duration = 0"
        ))
        .await
        .unwrap();
    let ids: Vec<i64> = (1..=at_once).map(|n| n * 7).collect();

    let posted = destinations.min(500);
    let items: Vec<i64> = (0..1_000).map(|n| 1 + n % posted).collect();
    let count = items.len();
    let groups: Vec<i32> = (0..count).map(|n| (n / 10) as i32).collect();
    client
        .query(
            "select * from orderly.enqueue_batch($1, $2, $3, $4, $5, $6, $7, $8, $9, null)",
            &[
                &groups,
                &items,
                &vec![None::<&str>; count],
                &vec![&b"{}"[..]; count],
                &vec!["application/json"; count],
                &vec![None::<&str>; count],
                &vec![86_400_i32; count],
                &(1..=posted).collect::<Vec<_>>(),
                &vec![None::<&str>; posted.unsigned_abs() as usize],
            ],
        )
        .await
        .unwrap();
    assert_reads("enqueue_batch", &session.reads(), posted);

    client.query("select * from orderly.claim(1, $1)", &[&ids]).await.unwrap();
    // Looked at, then chosen, then written.
    assert_reads("claim", &session.reads(), 3 * at_once);

    client.query("select * from orderly.lanes($1)", &[&ids]).await.unwrap();
    assert_reads("lanes", &session.reads(), at_once);

    let floors = vec![0_i64; ids.len()];
    let rows = client.query(READ_AHEAD, &[&ids, &floors, &8_i64, &4_096_i64]).await.unwrap();
    assert_eq!(rows.len(), ids.len() * 8);
    assert_reads("read-ahead", &session.reads(), at_once * 8);

    let heads: Vec<i64> = rows.chunks(8).map(|rows| rows[0].get(1)).collect();
    let places: Vec<Place> = rows.chunks(8).map(|rows| rows[0].get(8)).collect();
    client
        .query(
            "select orderly.acknowledge($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, false, $11)",
            &[
                &vec!["d"; ids.len()],
                &ids,
                &heads,
                &vec![1_i32; ids.len()],
                &vec![Some(200_i16); ids.len()],
                &vec![None::<&str>; ids.len()],
                &vec![5_i32; ids.len()],
                &vec![None::<&[u8]>; ids.len()],
                &floors,
                &(ids.len() as i32),
                &places,
            ],
        )
        .await
        .unwrap();
    let plans = session.plans();
    assert!(plans.iter().any(|plan| plan.to_string().contains("Tid Scan")), "not by place: {plans:?}");
    assert_reads("acknowledge", &read_by(&plans), at_once);

    client.query("select orderly.release(1, $1, $2, $2, $3, false)", &[&ids, &heads, &floors]).await.unwrap();
    assert_reads("release", &session.reads(), at_once);
}

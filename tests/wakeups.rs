//! Is a bell heard whatever the worker is doing in that moment?

use serde_json::json;

use crate::support::{Queue, Receiver, TestDatabase, worker};

/// A lock of the test's own, in no tag of Orderly's.
const GATE: i64 = 77;

/// Of a claim that finds a destination owned: what its owner says when it has given it back, before the claim's
/// answer is read, would be the last word.
#[tokio::test]
async fn a_bell_rung_while_a_claim_finds_an_owner_is_not_forgotten() {
    let database = TestDatabase::new().await;
    let (queue, owner) = (Queue::on(&database).await, Queue::on(&database).await);
    let receiver = Receiver::start().await;
    let id = queue.destination(&receiver.url("/x")).await;
    // An owner that lives, and a claim that takes its time after it has looked.
    owner
        .sql(&format!(
            "insert into orderly.workers (id, process, host, pid, kind) values (900, 'p', 'h', 1, 'once');
             update orderly.claims set owner = 900, last_owner = 900, epoch = 1 where destination_id = {id};
             do $$ begin
                 perform pg_advisory_lock(orderly.worker_lock(900)), pg_advisory_lock(orderly.pulse_lock(900));
             end $$;
             alter function orderly.claim(bigint, bigint[]) rename to claim_at_once;
             create function orderly.claim(me bigint, ids bigint[])
                 returns table (destination_id bigint, verdict text, holder bigint, wait_ms bigint)
                 language plpgsql as $$
             begin
                 return query select * from orderly.claim_at_once(me, ids);
                 perform pg_advisory_xact_lock_shared({GATE});
             end $$;
             select pg_advisory_lock({GATE})"
        ))
        .await;
    let worker = worker(&database, &["--persistent"]).await;
    queue.enqueue(id, json!("wakes it")).await;
    let waits = format!("select count(*) from pg_locks where locktype = 'advisory' and objid = {GATE} and not granted");
    queue.until(&waits, 1).await;
    // Given back, and told. The claim has looked before.
    owner.sql(&format!("update orderly.claims set owner = null where destination_id = {id}")).await;
    owner.sql(&format!("select orderly.ring('b{id}')")).await;
    owner.sql(&format!("select pg_advisory_unlock({GATE})")).await;
    receiver.wait_for_ended(1).await;
    let swept = worker.stderr().iter().any(|line| line.contains("no bell had told of"));
    assert!(!swept, "only the sweep found it: {:#?}", worker.stderr());
    drop(owner);
}

//! Is a bell heard whatever the worker is doing in that moment?

use std::time::{Duration, Instant};

use bytes::Bytes;
use orderly::domain::{DestinationId, Headers, NewMessage};
use orderly::store::Store;
use orderly::store::enqueue::Enqueuer;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::support::{PATIENCE, Queue, Receiver, TestDatabase, worker};

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

/// A bell that is sent right behind a post, before that is judged, is only for who may be expected to post there.
#[tokio::test]
async fn who_posts_in_vain_rings_for_nobody_and_who_posts_rings_each_time() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let (own, foreign) =
        (queue.destination("http://127.0.0.1:9/").await, queue.destination("http://127.0.0.1:9/").await);
    queue.sql(&format!("update orderly.queues set tenant = 'me' where destination_id = {own}")).await;
    let store = Store::open(database.url(), 2, Default::default()).expect("a pool");
    let stop = CancellationToken::new();
    let enqueuer = Enqueuer::start(store, stop.clone());
    let mut listener = database.connect().await;
    listener.client.batch_execute("listen orderly").await.expect("it listens");
    let message = |id| NewMessage {
        destination: DestinationId(id),
        payload: Bytes::from_static(b"1"),
        content_type: "text/plain".to_owned(),
        headers: Headers::default(),
        ttl_seconds: 60,
    };
    for _ in 0..3 {
        enqueuer.enqueue(Some("me"), vec![message(own)]).await.expect("it is taken");
        // In vain for longer than bells are apart: of some it could be the turn to ring at once.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_millis(50) {
            enqueuer.enqueue(Some("me"), vec![message(foreign)]).await.expect_err("it is another's");
        }
    }
    stop.cancel();
    enqueuer.stopped().await;
    let mut heard = Vec::new();
    for _ in 0..3 {
        let bell = tokio::time::timeout(PATIENCE, listener.notifications.recv())
            .await
            .expect("a bell for each that was taken");
        heard.push(bell.expect("the connection lives").1);
    }
    listener.client.simple_query("select 1").await.expect("it lives");
    while let Ok((_, more)) = listener.notifications.try_recv() {
        heard.push(more);
    }
    assert_eq!(heard, vec![format!("b{own}"); 3]);
}

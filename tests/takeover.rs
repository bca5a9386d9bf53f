//! When something dies, does exactly the right thing go on?

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{Answer, Queue, Receiver, TestDatabase, destinations, worker};

#[tokio::test]
async fn a_killed_workers_destinations_go_on_within_a_second() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(10))).await;
    let ids = destinations(&queue, &receiver, 12).await;
    let (first, second) = (worker(&database, &["--persistent"]).await, worker(&database, &["--persistent"]).await);
    let total = 12 * 100;
    for n in 0..total {
        queue.enqueue(ids[n % 12], json!({ "n": n })).await;
    }
    receiver.wait_for_count(300).await;
    let theirs = queue
        .number("select count(*) from orderly.claims where owner = (select min(id) from orderly.workers)", &[])
        .await;
    assert!(theirs > 0);
    first.signal(Signal::KILL);
    let killed = Instant::now();
    let received = receiver
        .wait_for(|all| {
            all.iter()
                .filter(|one| one.number("orderly-attempt") >= 1)
                .map(|one| one.sequence())
                .collect::<std::collections::HashSet<_>>()
                .len()
                == total
        })
        .await;
    for n in 0..12 {
        let path = format!("/{n}");
        receiver.assert_in_order(&path);
        let on_path: Vec<_> = received.iter().filter(|one| one.path == path).collect();
        assert!(on_path.len() <= 101, "only what was in flight is sent again");
        if let Some(after) = on_path.iter().find(|one| one.number("orderly-epoch") == 2) {
            assert!(after.arrived_at - killed < Duration::from_secs(1), "{:?}", after.arrived_at - killed);
        }
    }
    drop(second);
}

#[tokio::test]
async fn a_worker_whose_session_is_ended_sends_nothing_more_and_comes_back() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(20))).await;
    let id = queue.destination(&receiver.url("/x")).await;
    for n in 0..50 {
        queue.enqueue(id, json!({ "n": n })).await;
    }
    let mut only = worker(&database, &["--persistent"]).await;
    receiver.wait_for_count(5).await;
    queue.sql("select orderly.end_session((select max(id) from orderly.workers))").await;
    only.stderr_line("the session was lost").await;
    let received = receiver.wait_for(|all| all.iter().any(|one| one.json()["n"] == 49 && one.ended_at.is_some())).await;
    receiver.assert_in_order("/x");
    assert!(received.len() <= 51, "{}", received.len());
    assert!(received.iter().any(|one| one.number("orderly-epoch") == 2));
}

#[tokio::test]
async fn messages_without_a_bell_are_found_by_the_sweep() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::start().await;
    let id = queue.destination(&receiver.url("/x")).await;
    let worker = worker(&database, &["--persistent"]).await;
    // An API process that died between its commit and its bell.
    queue
        .sql(&format!(
            "select orderly.enqueue_batch(array[0], array[{id}], array[null::text], array['\\x31'::bytea], array['text/plain'],
                                          array[null::text], array[60], array[{id}], array[null::text], null)"
        ))
        .await;
    let committed = Instant::now();
    receiver.wait_for_within(Duration::from_secs(40), |all| !all.is_empty()).await;
    assert!(committed.elapsed() < Duration::from_secs(30), "{:?}", committed.elapsed());
    drop(worker);
}

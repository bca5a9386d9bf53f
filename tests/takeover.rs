//! When something dies, does exactly the right thing go on?

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::{
    Answer, Queue, Received, Receiver, Stopped, TestDatabase, destinations, private_postgres_with, until, worker,
};

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

/// Stopped, and its session ended meanwhile: when it wakes, a retry is due in the same instant as the news (G3).
#[tokio::test]
async fn a_worker_that_wakes_without_its_session_sends_nothing_for_it() {
    const QUEUES: usize = 60;
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|received| match received.number("orderly-attempt") {
        1 => Answer::status(503),
        _ => Answer::ok(),
    })
    .await;
    let ids = destinations(&queue, &receiver, QUEUES).await;
    queue.sql("update orderly.destinations set max_retries = 5, delay_seconds = 4, backoff = 1").await;
    let worker = worker(&database, &["--persistent"]).await;
    for id in &ids {
        queue.enqueue(*id, json!("fails once")).await;
    }
    receiver.wait_for_ended(QUEUES).await;
    queue.until("select count(*) from orderly.claims where head_attempts = 1", QUEUES as i64).await;
    worker.signal(Signal::STOP);
    queue.sql("select orderly.end_session((select max(id) from orderly.workers))").await;
    let all_due = receiver.received()[0].ended_at.expect("it ended") + Duration::from_secs(6);
    tokio::time::sleep_until(all_due.into()).await;
    worker.signal(Signal::CONT);
    let received = receiver.wait_for_count(2 * QUEUES).await;
    let stray = received[QUEUES..].iter().filter(|one| one.number("orderly-epoch") == 1).count();
    assert_eq!(stray, 0, "of {QUEUES} were sent for a session that had ended");
}

/// A process that comes back has given up all that its old session held; behind a line that leads nowhere that would live on
/// with its locks, and without its row nobody would look after it.
#[tokio::test]
async fn a_process_that_joins_anew_ends_the_session_it_had() {
    let database = TestDatabase::new().await;
    let (old, new) = (Queue::on(&database).await, Queue::on(&database).await);
    old.sql("select pg_advisory_lock(orderly.worker_lock(900))").await;
    new.sql("select orderly.join(900, 'the process', 'h', 1, 'once', null)").await;
    new.sql(
        "select pg_advisory_lock(orderly.worker_lock(901)), orderly.join(901, 'the process', 'h', 1, 'once', null)",
    )
    .await;
    let held = "select count(*) from pg_locks where locktype = 'advisory' and objid = 900 and granted
                and database = (select oid from pg_database where datname = current_database())";
    new.until(held, 0).await;
    assert_eq!(new.number("select id from orderly.workers", &[]).await, 901);
    assert!(old.connection.client.simple_query("select 1").await.is_err());
}

/// Nothing is in flight, and it does not listen any more: it has to find out by the first thing that it asks.
#[tokio::test]
async fn a_session_that_stands_still_is_given_up_also_when_it_is_to_claim() {
    let postgres = private_postgres_with(&[]).await;
    let database = TestDatabase::on(&postgres).await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|received| Answer::status(if received.count == 1 { 500 } else { 200 })).await;
    let id = queue.destination(&receiver.url("/x")).await;
    queue.sql("update orderly.destinations set max_retries = 5, delay_seconds = 8, backoff = 1").await;
    let worker = worker(&database, &["--persistent"]).await;
    queue.enqueue(id, json!("fails once")).await;
    queue.until("select count(*) from orderly.claims where owner is null and head_attempts = 1", 1).await;
    let session = "select pid::bigint from pg_locks where locktype = 'advisory' and mode = 'ExclusiveLock'
                   and classid::bigint >> 24 = 80";
    let stopped = Stopped::stop(&queue, session).await;
    let given_up = async || worker.stderr().iter().any(|line| line.contains("the session is given up"));
    until(Duration::from_secs(75), given_up, |given_up| *given_up).await;
    drop(stopped);
    receiver.wait_for_ended(2).await;
}

/// The locks are free then, so that others begin: half a second later is too late (G3).
#[tokio::test]
async fn a_worker_whose_session_is_ended_hangs_up_at_once() {
    const TIMES: usize = 7;
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|_| Answer::hang()).await;
    let id = queue.destination(&receiver.url("/x")).await;
    queue.enqueue(id, json!("in flight")).await;
    let only = worker(&database, &["--persistent"]).await;
    let mut took = Vec::new();
    for n in 1..=TIMES {
        receiver.wait_for_count(n).await;
        queue.sql("select orderly.end_session((select max(id) from orderly.workers))").await;
        let ended = Instant::now();
        let received = receiver.wait_for_ended(n).await;
        took.push(received[n - 1].ended_at.expect("it ended").saturating_duration_since(ended));
    }
    took.sort_unstable();
    println!("from the end of the session to the closing: {took:?}");
    assert!(took[TIMES / 2] < Duration::from_millis(150), "{took:?}");
    drop(only);
}

/// Queues a message as an API process would that died between its commit and its bell.
async fn queue_without_a_bell(queue: &Queue, id: i64) {
    queue
        .sql(&format!(
            "select orderly.enqueue_batch(array[0], array[{id}], array[null::text], array['\\x31'::bytea], array['text/plain'],
                                          array[null::text], array[60], array[{id}], array[null::text], null)"
        ))
        .await;
}

#[tokio::test]
async fn messages_without_a_bell_are_found_by_the_sweep_and_told_of() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::start().await;
    let id = queue.destination(&receiver.url("/x")).await;
    let mut worker = worker(&database, &["--persistent"]).await;
    queue_without_a_bell(&queue, id).await;
    let committed = Instant::now();
    receiver.wait_for_within(Duration::from_secs(40), |all| !all.is_empty()).await;
    assert!(committed.elapsed() < Duration::from_secs(30), "{:?}", committed.elapsed());
    worker.stderr_line("no bell had told of").await;
}

#[tokio::test]
async fn workers_that_hang_delay_only_what_they_serve() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::start().await;
    let ids = destinations(&queue, &receiver, 48).await;
    // By the hash some are the third's only after both of those that will hang.
    let hang = [worker(&database, &["--persistent"]).await, worker(&database, &["--persistent"]).await];
    let _works = worker(&database, &["--persistent"]).await;
    // All have read that all are there: whatever is posted is claimed by whose it is.
    for id in &ids {
        queue.enqueue(*id, json!("first")).await;
    }
    receiver.wait_for_count(48).await;
    // What a release has written it has not unlocked yet; stopped in between, it would serve that in the eyes of others.
    let locked =
        "select count(*) from pg_locks l join pg_database d on d.oid = l.database and d.datname = current_database()
                  where l.locktype = 'advisory' and l.classid::bigint >> 24 = 79";
    queue.until(locked, 0).await;
    hang.iter().for_each(|worker| worker.signal(Signal::STOP));
    let stopped = Instant::now();
    for id in &ids {
        queue.enqueue(*id, json!("second")).await;
    }
    receiver.wait_for(|all| all.iter().filter(|one| one.json() == "second").count() == 48).await;
    assert!(stopped.elapsed() < Duration::from_secs(8), "{:?}", stopped.elapsed());
    let alive = queue.number("select count(*) from orderly.workers", &[]).await;
    assert_eq!(alive, 3, "those that hang are not taken for dead yet");
    for n in 0..48 {
        receiver.assert_in_order(&format!("/{n}"));
    }
    hang.iter().for_each(|worker| worker.signal(Signal::CONT));
    for id in &ids {
        queue.enqueue(*id, json!("third")).await;
    }
    receiver.wait_for(|all| all.iter().filter(|one| one.json() == "third").count() == 48).await;
}

/// On a host that swaps, say: the one that watches the next one hangs as well.
#[tokio::test]
async fn neighbours_that_hang_together_are_all_noticed_within_a_minute() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(50))).await;
    let ids = destinations(&queue, &receiver, 24).await;
    let mut hang = Vec::new();
    for _ in 0..3 {
        hang.push(worker(&database, &["--persistent"]).await);
    }
    let _works = worker(&database, &["--persistent"]).await;
    for n in 0..24 * 40 {
        queue.enqueue(ids[n % 24], json!(n)).await;
    }
    let owners = "select count(distinct owner) from orderly.claims where owner is not null";
    queue.until(owners, 4).await;
    hang.iter().for_each(|worker| worker.signal(Signal::STOP));
    let stopped = Instant::now();
    let ended = |all: &[Received]| {
        let done = all.iter().filter(|one| one.status == Some(200)).map(Received::sequence);
        done.collect::<std::collections::HashSet<_>>().len() == 24 * 40
    };
    receiver.wait_for_within(Duration::from_secs(75), ended).await;
    assert!(stopped.elapsed() < Duration::from_secs(65), "{:?}", stopped.elapsed());
    for n in 0..24 {
        receiver.assert_in_order(&format!("/{n}"));
    }
    hang.iter().for_each(|worker| worker.signal(Signal::CONT));
}

/// The server's clock was ahead when it started, and has been set right since.
#[tokio::test]
async fn a_clock_that_was_set_back_delays_no_takeover() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    queue.sql("select orderly.fence(); update orderly.incarnation set since = since + interval '10 minutes'").await;
    let receiver = Receiver::answering(|_| Answer::hang()).await;
    let id = queue.destination(&receiver.url("/x")).await;
    let first = worker(&database, &["--persistent"]).await;
    queue.enqueue(id, json!(1)).await;
    receiver.wait_for_count(1).await;
    let _second = worker(&database, &["--persistent"]).await;
    first.signal(Signal::KILL);
    let killed = Instant::now();
    receiver.wait_for_count(2).await;
    assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
}

#[tokio::test]
async fn a_pinned_worker_finds_what_no_bell_told_of() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::start().await;
    let id = queue.destination(&receiver.url("/x")).await;
    let _worker = worker(&database, &["--persistent", "--destination", &id.to_string()]).await;
    queue.enqueue(id, json!("with a bell")).await;
    receiver.wait_for_ended(1).await;
    // Its lane has lingered and looked once more: what it writes then, it writes before it waits for a bell.
    queue.until("select count(*) from orderly.claims c where c.owner is not null and c.floor >= (select max(sequence) from orderly.attempts)", 1).await;
    queue_without_a_bell(&queue, id).await;
    let committed = Instant::now();
    receiver.wait_for_within(Duration::from_secs(40), |all| all.len() == 2).await;
    assert!(committed.elapsed() < Duration::from_secs(30), "{:?}", committed.elapsed());
}

#[tokio::test]
async fn a_death_is_noticed_also_while_its_watcher_hangs() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(50))).await;
    let ids = destinations(&queue, &receiver, 24).await;
    // In a ring by their ids: the second watches the third.
    let (_first, second) = (worker(&database, &["--persistent"]).await, worker(&database, &["--persistent"]).await);
    let third = worker(&database, &["--persistent"]).await;
    let watched = "select count(*) from pg_stat_activity where datname = current_database() and query like 'call orderly.watch%' and state = 'active'";
    queue.until(watched, 3).await;
    for n in 0..24 * 100 {
        queue.enqueue(ids[n % 24], json!(n)).await;
    }
    receiver.wait_for_count(200).await;
    let busy = "select count(*) from orderly.claims c
                where exists (select from orderly.messages m where m.destination_id = c.destination_id) and c.owner";
    assert!(queue.number(&format!("{busy} = (select max(id) from orderly.workers)"), &[]).await > 0);
    second.signal(Signal::STOP);
    third.signal(Signal::KILL);
    let killed = Instant::now();
    queue.until("select count(*) from orderly.workers", 2).await;
    queue.until(&format!("{busy} not in (select id from orderly.workers)"), 0).await;
    assert!(killed.elapsed() < Duration::from_secs(8), "{:?}", killed.elapsed());
    second.signal(Signal::CONT);
    queue.until_empty().await;
    for n in 0..24 {
        receiver.assert_in_order(&format!("/{n}"));
    }
}

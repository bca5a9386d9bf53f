//! Is a destination's pace kept, and does a change of it, of its URL or of its headers apply at once?

use std::collections::HashSet;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use orderly::embedded::EmbeddedPostgres;
use orderly::store::connect::Connector;

use crate::support::{Answer, Process, Queue, Received, Receiver, Stage, assert_chain, private_postgres_with};

fn gaps(received: &[Received]) -> Vec<Duration> {
    received.windows(2).map(|pair| pair[1].arrived_at - pair[0].arrived_at).collect()
}

/// What the way to the receiver may take off a gap, on a machine that is busy.
const TRAVEL: Duration = Duration::from_millis(150);

#[tokio::test]
async fn requests_start_no_closer_than_max_per_second_also_across_takeovers() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| Answer::status(if received.count == 6 { 500 } else { 200 })).await;
    let settings =
        json!({ "url": receiver.url("/x"), "max_per_second": 2, "retry": { "max_retries": 2, "delay_seconds": 0 } });
    let id = stage.api.post_destination_with(settings).await;
    let ids = stage.post_many(id, 12).await;
    let first = stage.worker(&[]).await;
    receiver.wait_for_count(3).await;
    first.signal(Signal::KILL);
    let second = stage.worker(&[]).await;
    receiver.wait_for_count(6).await;
    second.signal(Signal::TERM);
    let third = stage.worker(&[]).await;
    receiver.wait_for_count(9).await;
    // A pause and a change are no way around it.
    stage.api.steer(id, "pause").await;
    stage.api.steer(id, "resume").await;
    stage.api.patch(&format!("/v1/destinations/{id}"), json!({ "description": "x" })).await.expect(200);
    stage.until_empty(id).await;
    let received = receiver.received();
    assert_chain(&received, &ids);
    for gap in gaps(&received) {
        assert!(gap + TRAVEL >= Duration::from_millis(500), "{gap:?} of {:?}", gaps(&received));
    }
    // No bursts after an idle time either.
    let before = received.len();
    stage.post_many(id, 3).await;
    let received = receiver.wait_for_ended(before + 3).await;
    assert!(gaps(&received[before..]).iter().all(|gap| *gap + TRAVEL >= Duration::from_millis(500)));
    // A test request counts.
    let before = received.len();
    stage.api.post(&format!("/v1/destinations/{id}/test"), json!({})).await.expect(200);
    stage.api.post_message(id, json!("after a test")).await;
    let received = receiver.wait_for_ended(before + 2).await;
    let gap = gaps(&received[before..])[0];
    assert!(gap + TRAVEL >= Duration::from_millis(500), "{gap:?}");
    stage.until_empty(id).await;
    // A faster pace applies at once.
    stage.api.patch(&format!("/v1/destinations/{id}"), json!({ "max_per_second": null })).await.expect(200);
    stage.until_empty(id).await;
    let before = received.len();
    stage.post_many(id, 20).await;
    let received = receiver.wait_for_ended(before + 20).await;
    assert!(received[before + 19].arrived_at - received[before].arrived_at < Duration::from_secs(5));
    drop(third);
}

#[tokio::test]
async fn a_pace_is_neither_broken_nor_begun_again_when_a_queue_changes_hands() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    const INTERVAL: Duration = Duration::from_secs(10);
    let id = stage.api.post_destination_with(json!({ "url": receiver.url("/x"), "max_per_second": 0.1 })).await;
    let ids = stage.post_many(id, 2).await;
    let begun = Instant::now();
    let mut worker = stage.worker(&[]).await;
    receiver.wait_for_ended(1).await;
    assert!(begun.elapsed() < INTERVAL / 2, "the first of all waits for none: {:?}", begun.elapsed());
    let mut holder = stage.until_queue(id, |queue| queue["worker"]["id"].is_number()).await["worker"]["id"].clone();
    // Given back in order each time, and taken by another: each would have to begin anew.
    for _ in 0..3 {
        let next = stage.worker(&[]).await;
        worker.signal(Signal::TERM);
        let taken = |queue: &serde_json::Value| queue["worker"]["id"].is_number() && queue["worker"]["id"] != holder;
        holder = stage.until_queue(id, taken).await["worker"]["id"].clone();
        worker = next;
    }
    let received = receiver.wait_for_ended(2).await;
    assert_chain(&received, &ids);
    assert!(received[1].number("orderly-epoch") >= 4, "it changed hands");
    let gap = gaps(&received)[0];
    assert!(gap + TRAVEL >= INTERVAL && gap < INTERVAL + Duration::from_secs(2), "{gap:?}");
}

#[tokio::test]
async fn a_pace_of_many_seconds_still_moves() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let id = stage.api.post_destination_with(json!({ "url": receiver.url("/x"), "max_per_second": 0.15 })).await;
    let ids = stage.post_many(id, 3).await;
    let _worker = stage.worker(&[]).await;
    let received = receiver.wait_for_count(3).await;
    assert_chain(&received, &ids);
    for gap in gaps(&received) {
        assert!(gap + TRAVEL >= Duration::from_secs_f64(1.0 / 0.15), "{gap:?}");
    }
}

#[tokio::test]
async fn a_changed_url_and_headers_apply_from_the_next_try_on_also_to_what_is_read_ahead() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| match received.path.as_str() {
        "/old" => Answer::ok().after(Duration::from_millis(30)),
        _ => Answer::ok(),
    })
    .await;
    let settings = json!({ "url": receiver.url("/old"), "headers": { "X-Key": "one" } });
    let id = stage.api.post_destination_with(settings).await;
    let ids = stage.post_many(id, 60).await;
    let _worker = stage.worker(&[]).await;
    receiver.wait_for_count(5).await;
    let change = json!({ "url": receiver.url("/new"), "headers": { "X-Key": "two", "X-More": "yes" } });
    stage.api.patch(&format!("/v1/destinations/{id}"), change).await.expect(200);
    let at_change = receiver.received_on("/old");
    let received = receiver.wait_for_ended(60).await;
    assert_chain(&received, &ids);
    let old: Vec<_> = received.iter().filter(|one| one.path == "/old").collect();
    let in_flight = at_change.iter().filter(|one| one.ended_at.is_none()).count();
    assert!(old.len() + in_flight <= at_change.len() + 1, "{} then {}", at_change.len(), old.len());
    for one in &received {
        let (key, more) = (one.header("x-key"), one.headers.get("x-more"));
        assert!(if one.path == "/old" { key == "one" && more.is_none() } else { key == "two" && more.is_some() });
    }
}

#[tokio::test]
async fn a_failing_message_goes_to_the_new_url_on_its_next_try_and_by_the_new_policy() {
    let stage = Stage::new().await;
    let receiver =
        Receiver::answering(|received| Answer::status(if received.path == "/old" { 500 } else { 200 })).await;
    let _worker = stage.worker(&[]).await;
    // One that a lane waits for, and one whose wait is long.
    for delay in [2, 8] {
        let settings = json!({ "url": receiver.url("/old"), "retry": { "max_retries": 0, "delay_seconds": delay },
                               "on_exhausted": "hold" });
        let id = stage.api.post_destination_with(settings).await;
        let path = format!("/v1/destinations/{id}");
        let ids = stage.post_many(id, 1).await;
        stage.until_state(id, "held").await;
        let retry = json!({ "retry": { "max_retries": 2, "delay_seconds": delay } });
        stage.api.patch(&path, retry).await.expect(200);
        stage.api.steer(id, "retry-now").await;
        stage.until_queue(id, |queue| queue["head"]["attempts"] == 2).await;
        let failed = Instant::now();
        stage.api.patch(&path, json!({ "url": receiver.url("/new") })).await.expect(200);
        let received = receiver
            .wait_for(|all| all.iter().any(|one| one.header("webhook-id") == ids[0] && one.path == "/new"))
            .await;
        let last = received.last().expect("it came");
        assert_eq!(last.number("orderly-attempt"), 3);
        let wait = last.arrived_at - failed;
        assert!(
            wait + Duration::from_millis(300) >= Duration::from_secs(delay),
            "a change does not shorten a delay: {wait:?}"
        );
        assert!(wait < Duration::from_secs(delay + 3), "{wait:?}");
        stage.until_empty(id).await;
    }
}

#[tokio::test]
async fn a_pace_holds_and_all_move_where_more_queues_have_messages_than_may_be_served_at_once() {
    let (_postgres, url) = small_postgres().await;
    let env = [("DATABASE_URL", url.as_str())];
    let connection = Connector::parse(&url).expect("a URL").dedicated().await.expect("it lets us in");
    let queue = Queue { connection };
    let receiver = Receiver::start().await;
    const QUEUES: usize = 450;
    const INTERVAL: Duration = Duration::from_secs(4);
    // A turn is over after a second where others wait: each queue has to go and come back before its next start.
    queue
        .sql(&format!(
            "with made as (
                 insert into orderly.destinations (url, headers, max_per_second)
                 select '{}' || n, '\\x007b7d', 0.25 from generate_series(1, {QUEUES}) n returning id),
             queue as (insert into orderly.queues (destination_id) select id from made)
             insert into orderly.claims (destination_id) select id from made;
             select orderly.enqueue(d.id, '1') from orderly.destinations d, generate_series(1, 2)",
            receiver.url("/")
        ))
        .await;
    let mut worker = Process::start(&["worker", "--persistent", "--allow-network", "127.0.0.0/8"], &env);
    worker.stderr_line("worker ready").await;
    receiver.wait_for_count(150).await;
    // What a sweep would tell now: the worker knows of them all, served or not.
    queue.sql("select orderly.ring('s' || string_agg(id::text, ',')) from orderly.destinations").await;
    receiver.wait_for_within(Duration::from_secs(120), |all| all.len() == 2 * QUEUES).await;
    for n in 1..=QUEUES {
        let received = receiver.received_on(&format!("/{n}"));
        receiver.assert_in_order(&format!("/{n}"));
        let gap = gaps(&received)[0];
        assert!(gap + TRAVEL >= INTERVAL, "{gap:?}");
    }
    let log = worker.stderr().join("\n");
    assert!(!log.contains("lock table is full"), "{log}");
    assert!(!log.contains("no bell had told of"), "{log}");
    // And then there is silence: quiet queues do not push each other out for ever.
    queue.until("select count(*) from orderly.claims where owner is not null", 0).await;
}

/// A lane whose receiver hangs goes only after its timeout: it is no use to wait for that where others can go at once.
#[tokio::test]
async fn where_queues_take_turns_receivers_that_hang_do_not_use_up_the_turns() {
    let (_postgres, url) = small_postgres().await;
    let connection = Connector::parse(&url).expect("a URL").dedicated().await.expect("it lets us in");
    let queue = Queue { connection };
    let receiver = Receiver::answering(|received| {
        if received.path.starts_with("/hangs") {
            Answer::hang()
        } else {
            Answer::ok().after(Duration::from_millis(500))
        }
    })
    .await;
    // 150 may be served at once: 10 have to wait.
    register(&queue, &receiver.url("/hangs/"), 60, 1).await;
    let mut worker = Process::start(
        &["worker", "--persistent", "--allow-network", "127.0.0.0/8"],
        &[("DATABASE_URL", url.as_str())],
    );
    worker.stderr_line("worker ready").await;
    receiver.wait_for_count(60).await;
    register(&queue, &receiver.url("/works/"), 100, 40).await;
    let begun = Instant::now();
    let paths = |all: &[Received]| {
        all.iter().map(|one| &one.path).filter(|path| path.starts_with("/works")).collect::<HashSet<_>>().len()
    };
    receiver.wait_for_within(Duration::from_secs(60), |all| paths(all) == 100).await;
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
}

/// Half of its lock table is for queues: 150 at once.
async fn small_postgres() -> (EmbeddedPostgres, String) {
    let postgres = private_postgres_with(&[("max_locks_per_transaction", "10"), ("max_connections", "30")]).await;
    postgres.create_database("small").await.expect("a database is made");
    let url = postgres.url_for("small");
    assert_eq!(Process::run(&["migrate"], &[("DATABASE_URL", url.as_str())]).await.code(), 0);
    (postgres, url)
}

/// So many destinations on paths of their own, with so many messages each.
async fn register(queue: &Queue, url: &str, count: usize, messages: usize) {
    queue
        .sql(&format!(
            "with made as (
                 insert into orderly.destinations (url, headers)
                 select '{url}' || n, '\\x007b7d' from generate_series(1, {count}) n returning id),
             queue as (insert into orderly.queues (destination_id) select id from made)
             insert into orderly.claims (destination_id) select id from made;
             select orderly.enqueue(d.id, '1') from orderly.destinations d, generate_series(1, {messages})
             where d.url like '{url}%'"
        ))
        .await;
}

//! Are messages delivered, in order, and once the worker is told to stop, left in order?

use std::time::Duration;

use orderly::domain::{DestinationId, Sequence};
use orderly::store::control::{Control, ControlError};
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Answer, Queue, Receiver, TestDatabase, destinations, start_worker, worker};

#[tokio::test]
async fn a_worker_delivers_what_is_queued_waits_out_the_retries_and_ends() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver =
        Receiver::answering(|received| Answer::status(if received.count.is_multiple_of(3) { 500 } else { 200 })).await;
    let ids = destinations(&queue, &receiver, 3).await;
    for n in 0..30 {
        queue.enqueue(ids[n % 3], json!({ "n": n })).await;
    }
    let ended = start_worker(&database, &["--retry-delay", "0"]).ended().await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!(ended.stdout, ["delivered 30, failed tries 12, given up 0, expired 0"], "{ended:?}");
    assert_eq!(queue.queued().await, 0);
    for n in 0..3 {
        receiver.assert_in_order(&format!("/{n}"));
        let received = receiver.received_on(&format!("/{n}"));
        let mut previous = 0;
        for one in &received {
            assert_eq!(one.number("orderly-previous-sequence"), previous);
            assert_eq!(one.number("orderly-skipped"), 0);
            assert_eq!(one.number("orderly-epoch"), 1);
            if !one.count.is_multiple_of(3) {
                previous = one.sequence();
            }
        }
    }
}

#[tokio::test]
async fn a_message_is_tried_once_more_than_its_retries_apart_and_then_makes_way() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver =
        Receiver::answering(|received| Answer::status(if received.json()["n"] == 1 { 503 } else { 204 })).await;
    let id = queue.destination(&receiver.url("/x")).await;
    for n in 0..3 {
        queue.enqueue(id, json!({ "n": n })).await;
    }
    let ended = start_worker(&database, &["--retry", "2", "--retry-delay", "0.3"]).ended().await;
    assert_eq!(ended.stdout, ["delivered 2, failed tries 3, given up 1, expired 0"], "{ended:?}");
    let received = receiver.received_on("/x");
    let attempts: Vec<i64> = received.iter().map(|one| one.number("orderly-attempt")).collect();
    assert_eq!(attempts, [1, 1, 2, 3, 1]);
    for pair in received[1..4].windows(2) {
        let apart = pair[1].arrived_at - pair[0].ended_at.expect("it was answered");
        assert!((Duration::from_millis(299)..Duration::from_millis(800)).contains(&apart), "{apart:?}");
    }
    // The hole is told.
    let last = &received[4];
    assert_eq!(last.number("orderly-previous-sequence"), received[0].sequence());
    assert_eq!(last.number("orderly-skipped"), 1);
    let dead =
        queue.number("select count(*) from orderly.ends where outcome = 'exhausted' and attempts = 3", &[]).await;
    assert_eq!(dead, 1);
}

#[tokio::test]
async fn an_idle_workers_message_starts_at_once() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::start().await;
    let id = queue.destination(&receiver.url("/x")).await;
    let worker = worker(&database, &["--persistent"]).await;
    let mut waits = Vec::new();
    for n in 0..20 {
        queue.enqueue(id, json!({ "n": n })).await;
        let committed = std::time::Instant::now();
        let received = receiver.wait_for_count(n + 1).await;
        waits.push(received[n].arrived_at.saturating_duration_since(committed));
    }
    waits.sort();
    // The first one has to be claimed. A busy machine may be slow; a poll would be slower.
    assert!(waits[10] < Duration::from_millis(250), "{waits:?}");
    worker.signal(Signal::INT);
    assert_eq!(worker.ended().await.code(), 0);
}

/// A worker remembers where each row lay when it was read, and deletes it there.
#[tokio::test]
async fn rows_that_somebody_moves_while_they_are_delivered_are_found_all_the_same() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let slow = Duration::from_secs(2);
    let receiver = Receiver::answering(move |received| {
        Answer::ok().after(if received.count == 3 { slow } else { Duration::ZERO })
    })
    .await;
    let ids = destinations(&queue, &receiver, 2).await;
    for n in 0..12 {
        queue.enqueue(ids[n % 2], json!({ "n": n })).await;
    }
    let worker = worker(&database, &["--persistent"]).await;
    receiver.wait_for(|received| received.iter().filter(|one| one.count == 3).count() == 2).await;
    queue.sql("create table places as select sequence, ctid as place from orderly.messages").await;
    queue.sql("vacuum full orderly.messages").await;
    let moved = "select count(*) from places p join orderly.messages m using (sequence) where m.ctid <> p.place";
    assert!(queue.number(moved, &[]).await > 0, "they were to be moved");
    receiver.wait_for_ended(12).await;
    queue.until_empty().await;
    for n in 0..2 {
        receiver.assert_in_order(&format!("/{n}"));
    }
    assert_eq!(receiver.received().len(), 12, "none twice");
    assert_eq!(queue.number("select count(*) from orderly.attempts where delivered", &[]).await, 12);
    worker.signal(Signal::INT);
    assert_eq!(worker.ended().await.code(), 0);
}

#[tokio::test]
async fn a_stop_finishes_what_is_in_flight_and_hands_the_rest_over() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(200))).await;
    let id = queue.destination(&receiver.url("/x")).await;
    let first = worker(&database, &["--persistent"]).await;
    for n in 0..5 {
        queue.enqueue(id, json!({ "n": n })).await;
    }
    receiver.wait_for_count(1).await;
    let second = worker(&database, &["--persistent"]).await;
    receiver.wait_for_count(2).await;
    first.signal(Signal::TERM);
    second.signal(Signal::CONT);
    assert_eq!(first.ended().await.code(), 0);
    receiver.wait_for_ended(5).await;
    receiver.assert_in_order("/x");
    assert_eq!(receiver.received().len(), 5, "none twice");
    drop(second);
}

#[tokio::test]
async fn a_worker_that_joins_gets_its_share_and_gives_it_back() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    // Slow until both are there, however long that takes here.
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_secs(1))).await;
    let ids = destinations(&queue, &receiver, 20).await;
    let total = 20 * 100;
    for n in 0..total {
        queue.enqueue(ids[n % 20], json!({ "n": n })).await;
    }
    let mut first = worker(&database, &["--persistent"]).await;
    receiver.wait_for_count(20).await;
    let second = worker(&database, &["--persistent"]).await;
    queue.until("select count(distinct owner) from orderly.claims where owner is not null", 2).await;
    receiver.answer(|_| Answer::ok().after(Duration::from_millis(20)));
    receiver.wait_for_count(total / 2).await;
    second.signal(Signal::TERM);
    let ended = second.ended().await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert!(!ended.stdout[0].starts_with("delivered 0,"), "{ended:?}");
    let received = receiver.wait_for_ended(total).await;
    assert_eq!(received.len(), total, "none twice, none lost");
    for n in 0..20 {
        receiver.assert_in_order(&format!("/{n}"));
    }
    assert!(first.stderr().iter().all(|line| !line.contains("no bell had told of")));
    first.signal(Signal::TERM);
    first.stderr_line("").await;
}

#[tokio::test]
async fn numbers_rise_in_commit_order_though_one_producer_commits_late() {
    let database = TestDatabase::new().await;
    let (queue, late) = (Queue::on(&database).await, Queue::on(&database).await);
    let receiver = Receiver::start().await;
    let (a, b) = (queue.destination(&receiver.url("/a")).await, queue.destination(&receiver.url("/b")).await);
    let worker = worker(&database, &["--persistent"]).await;
    late.sql("begin").await;
    let held = late.enqueue(a, json!({ "late": true })).await;
    // Another destination is not held up; the same one waits for the commit.
    queue.enqueue(b, json!({})).await;
    receiver.wait_for_count(1).await;
    let (after, ()) = tokio::join!(queue.enqueue(a, json!({ "late": false })), async {
        let waits = "select count(*) from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock' and query like '%orderly.enqueue%'";
        late.until(waits, 1).await;
        late.sql("commit").await;
    });
    assert!(after > held);
    receiver.wait_for_count(3).await;
    queue.until_empty().await;
    receiver.assert_in_order("/a");
    assert_eq!(receiver.received_on("/a")[0].sequence(), held);
    // Rolled back, it never was.
    late.sql("begin").await;
    late.enqueue(a, json!({})).await;
    late.sql("rollback").await;
    assert_eq!(queue.queued().await, 0);
    drop(worker);
}

#[tokio::test]
async fn a_second_worker_for_a_destination_stands_by_and_takes_over_at_once() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::start().await;
    let id = queue.destination(&receiver.url("/x")).await;
    let name = id.to_string();
    let first = worker(&database, &["--persistent", "--destination", &name]).await;
    queue.enqueue(id, json!(1)).await;
    receiver.wait_for_count(1).await;
    let mut second = worker(&database, &["--persistent", "--destination", &name]).await;
    second.stderr_line("standing by").await;
    let once = start_worker(&database, &["--destination", &name]).ended().await;
    assert_eq!(once.code(), 0, "{once:?}");
    first.signal(Signal::KILL);
    queue.enqueue(id, json!(2)).await;
    let killed = std::time::Instant::now();
    let received = receiver.wait_for_count(2).await;
    assert!(received[1].arrived_at - killed < Duration::from_secs(1), "takeover within a second (G4)");
    assert_eq!(received[1].number("orderly-epoch"), 2);
    let unknown = start_worker(&database, &["--destination", "999"]).ended().await;
    assert_eq!(unknown.code(), 1, "{unknown:?}");
}

#[tokio::test]
async fn what_clients_ask_of_a_busy_queue_is_done_exactly() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let store = database.store();
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(50))).await;
    let id = queue.destination(&receiver.url("/x")).await;
    let destination = DestinationId(id);
    let mut sequences = Vec::new();
    for n in 0..40 {
        sequences.push(queue.enqueue(id, json!({ "n": n })).await);
    }
    let worker = worker(&database, &["--persistent"]).await;
    receiver.wait_for_count(3).await;

    // A message read ahead is deleted; the one in flight is not to be had.
    store.control(destination, Control::DeleteMessage(Sequence(sequences[20]))).await.expect("it is queued");
    let gone = store.control(destination, Control::DeleteMessage(Sequence(sequences[20]))).await;
    assert!(matches!(gone, Err(ControlError::NotFound)), "{gone:?}");

    // After pause answers, at most the request in flight completes.
    store.control(destination, Control::Pause).await.expect("it is active");
    let at_pause = receiver.received().len();
    queue.until("select count(*) from orderly.claims where owner is null", 1).await;
    let stopped = receiver.received().len();
    assert!(stopped <= at_pause + 1, "{at_pause} {stopped}");
    let received_before = receiver.received();
    assert!(received_before.iter().all(|one| one.ended_at.is_some()));

    // Nobody serves it now: the same calls act by themselves.
    let next = queue.number("select orderly.head($1)", &[&id]).await;
    let other = store.control(destination, Control::Skip(Some(Sequence(next + 1)))).await;
    assert!(matches!(other, Err(ControlError::Conflict(_))), "{other:?}");
    store.control(destination, Control::Skip(Some(Sequence(next)))).await.expect("it is the head");
    store.control(destination, Control::Resume).await.expect("it is paused");
    let expected = 40 - 2;
    let received = receiver.wait_for_ended(expected).await;
    receiver.assert_in_order("/x");
    assert_eq!(received.len(), expected);
    assert!(received.iter().all(|one| one.sequence() != sequences[20] && one.sequence() != next));
    let skipped: i64 = received.iter().map(|one| one.number("orderly-skipped")).sum();
    assert_eq!(skipped, 2, "both holes are told");
    drop(worker);
}

#[tokio::test]
async fn the_message_in_flight_is_nobodys_to_delete() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let store = database.store();
    let receiver =
        Receiver::answering(|received| if received.count == 1 { Answer::hang() } else { Answer::ok() }).await;
    let id = queue.destination(&receiver.url("/x")).await;
    let first = queue.enqueue(id, json!(1)).await;
    let second = queue.enqueue(id, json!(2)).await;
    let worker = worker(&database, &["--persistent"]).await;
    receiver.wait_for_count(1).await;
    let in_flight = store.control(DestinationId(id), Control::DeleteMessage(Sequence(first))).await;
    assert!(matches!(in_flight, Err(ControlError::Conflict(_))), "{in_flight:?}");
    let skip = store.control(DestinationId(id), Control::Skip(None)).await;
    assert!(matches!(skip, Err(ControlError::Conflict(_))), "{skip:?}");
    // What stands behind it goes, while it is in flight.
    store.control(DestinationId(id), Control::DeleteMessage(Sequence(second))).await.expect("it is queued");
    // The end of the destination does not wait for a receiver that hangs.
    store.remove_destination(DestinationId(id), None).await.expect("it is there");
    let received = receiver.wait_for_ended(1).await;
    assert_eq!(received.len(), 1);
    queue.until_empty().await;
    queue.until("select count(*) from orderly.removals", 0).await;
    drop(worker);
}

#[tokio::test]
async fn a_purge_leaves_what_is_in_flight_and_takes_the_rest() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let store = database.store();
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(300))).await;
    let id = queue.destination(&receiver.url("/x")).await;
    let count = "select count(orderly.enqueue($1, to_jsonb(n))) from generate_series(1, 6000) n";
    assert_eq!(queue.number(count, &[&id]).await, 6_000);
    let worker = worker(&database, &["--persistent"]).await;
    receiver.wait_for_count(1).await;
    store.control(DestinationId(id), Control::Purge).await.expect("there is a queue");
    assert!(queue.queued().await <= 1);
    let next = queue.enqueue(id, json!("next")).await;
    let received = receiver.wait_for(|all| all.iter().any(|one| one.sequence() == next)).await;
    assert!(received.len() <= 3, "{}", received.len());
    let last = received.last().expect("it was waited for");
    let told = i64::try_from(received.len()).expect("few") - 1 + last.number("orderly-skipped");
    assert_eq!(told, 6_000, "each was delivered or is told of");
    drop(worker);
}

#[tokio::test]
async fn what_expires_ends_wherever_it_stands() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|_| Answer::status(500)).await;
    let id = queue.destination(&receiver.url("/x")).await;
    queue.sql(&format!("select orderly.enqueue({id}, '1', ttl_seconds => 2)")).await;
    let ended = start_worker(&database, &["--retry", "100", "--retry-delay", "0.5"]).ended().await;
    assert!(ended.stdout[0].ends_with("given up 0, expired 1"), "{ended:?}");
    assert_eq!(queue.queued().await, 0);
    assert_eq!(queue.number("select count(*) from orderly.ends where outcome = 'expired'", &[]).await, 1);
}

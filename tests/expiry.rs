//! Does a message end when its time is over, wherever its queue stands?

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Answer, Receiver, Stage, assert_chain, until};

/// The sweep comes every 20 s.
const SWEPT: Duration = Duration::from_secs(27);

/// Waits until the database, past the API, has ended them: what is asked for may settle it itself.
async fn until_ended(stage: &Stage, count: i64) {
    let ended = async || stage.queue.number("select count(*) from orderly.ends where outcome = 'expired'", &[]).await;
    until(SWEPT, ended, |ended| *ended == count).await;
}

fn short(destination: i64, ttl: u64) -> Value {
    json!({ "destination_id": destination, "payload": { "short": true }, "ttl_seconds": ttl })
}

#[tokio::test]
async fn what_expires_in_a_queue_that_stands_still_is_gone_within_half_a_minute() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| match received.path.as_str() {
        "/gone" if received.count == 1 => Answer::status(410),
        "/held" | "/backoff" if received.count <= 1 => Answer::status(500),
        _ => Answer::ok(),
    })
    .await;
    let mut ids = Vec::new();
    for (path, settings) in [
        ("/paused", json!({})),
        ("/held", json!({ "on_exhausted": "hold", "retry": { "max_retries": 0 } })),
        ("/gone", json!({})),
        ("/backoff", json!({ "retry": { "max_retries": 5, "delay_seconds": 600 } })),
    ] {
        let mut settings = settings;
        settings["url"] = json!(receiver.url(path));
        ids.push(stage.api.post_destination_with(settings).await);
    }
    stage.api.steer(ids[0], "pause").await;
    let worker = stage.worker(&[]).await;
    // Each: a head that stops the queue, one that expires behind it, and one that stays.
    let mut posted = Vec::new();
    for id in &ids {
        let head = if *id == ids[2] { short(*id, 3) } else { json!({ "destination_id": id, "payload": "head" }) };
        let messages = vec![head, short(*id, 3), json!({ "destination_id": id, "payload": "stays" })];
        posted.push(stage.api.post_batch(messages).await);
    }
    for (id, state) in ids.iter().zip(["paused", "held", "disabled", "backoff"]) {
        stage.until_state(*id, state).await;
    }
    until_ended(&stage, 5).await;
    for (id, posted) in ids.iter().zip(&posted) {
        let letters = stage.api.dead_letters(*id).await;
        let expired: Vec<&str> = letters.iter().map(|one| one["id"].as_str().expect("an id")).collect();
        let wanted = if *id == ids[2] { &posted[..2] } else { &posted[1..2] };
        assert_eq!(expired, wanted);
        assert!(letters.iter().all(|one| one["state"] == "expired"), "{letters:#?}");
        assert_eq!(stage.api.message(&posted[1]).await["state"], "expired");
    }
    stage.api.steer(ids[0], "resume").await;
    stage.api.steer(ids[1], "retry-now").await;
    stage.api.steer(ids[2], "resume").await;
    stage.api.steer(ids[3], "retry-now").await;
    for id in &ids {
        stage.until_empty(*id).await;
    }
    for (path, posted) in ["/paused", "/held", "/gone", "/backoff"].iter().zip(&posted) {
        let received = receiver.received_on(path);
        assert_chain(&received, posted);
        let last = received.last().expect("one stayed");
        assert_eq!(last.json(), "stays");
    }
    drop(worker);
}

#[tokio::test]
async fn what_has_expired_reads_so_at_once_without_any_worker_and_is_never_sent() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let ids =
        stage.api.post_batch(vec![short(id, 1), short(id, 1), json!({ "destination_id": id, "payload": 1 })]).await;
    let posted = Instant::now();
    let message =
        until(Duration::from_secs(5), async || stage.api.message(&ids[0]).await, |one| one["state"] == "expired").await;
    assert!(posted.elapsed() >= Duration::from_millis(900), "not before its time: {message}");
    let queue = stage.api.queue(id).await;
    assert_eq!((&queue["depth"], queue["head"]["id"].as_str()), (&json!(1), Some(ids[2].as_str())), "{queue}");
    let list = stage.api.get(&format!("/v1/messages?destination_id={id}")).await.expect(200).json();
    assert_eq!(list["data"].as_array().map(Vec::len), Some(1), "{list}");
    assert_eq!(stage.api.dead_letters(id).await.len(), 2);
    let _worker = stage.worker(&[]).await;
    let received = receiver.wait_for_ended(1).await;
    stage.until_empty(id).await;
    assert_chain(&received, &ids);
    assert_eq!(received[0].number("orderly-skipped"), 2);
}

#[tokio::test]
async fn what_expires_behind_a_head_that_is_tried_again_and_again_is_gone_in_time() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::status(500)).await;
    let retry = json!({ "max_retries": 100, "delay_seconds": 2 });
    let id = stage.api.post_destination_with(json!({ "url": receiver.url("/x"), "retry": retry })).await;
    stage.api.post_message(id, json!("head")).await;
    let behind = stage.api.post_message_with(short(id, 3)).await;
    let _worker = stage.worker(&[]).await;
    until_ended(&stage, 1).await;
    assert_eq!(stage.api.dead_letters(id).await[0]["id"].as_str(), Some(behind.as_str()));
}

#[tokio::test]
async fn a_worker_of_one_destination_removes_what_expires_in_others_when_it_is_alone() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let (own, other) = (
        stage.api.post_destination(&receiver.url("/own")).await,
        stage.api.post_destination(&receiver.url("/other")).await,
    );
    let active = stage.api.post_destination(&receiver.url("/active")).await;
    stage.api.steer(other, "pause").await;
    stage.api.post_message_with(short(other, 1)).await;
    // More than one piece.
    for _ in 0..5 {
        stage.api.post_batch(vec![short(active, 1); 1_000]).await;
    }
    let worker = stage.worker(&["--destination", &own.to_string()]).await;
    until_ended(&stage, 5_001).await;
    let said = worker.stderr().join("\n");
    assert!(!said.contains("no bell"), "nobody should have served it: {said}");
    assert_eq!(stage.queue.queued().await, 0);
    assert!(receiver.received().is_empty());
}

#[tokio::test]
async fn what_expires_deep_in_a_busy_queue_is_gone_in_time() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(100))).await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    stage.post_many(id, 600).await;
    // More than one piece, behind a minute of work.
    for _ in 0..3 {
        stage.api.post_batch(vec![short(id, 3); 1_000]).await;
    }
    let _worker = stage.worker(&[]).await;
    receiver.wait_for_count(1).await;
    until_ended(&stage, 3_000).await;
    assert!(stage.api.queue(id).await["depth"].as_i64() > Some(0), "it is still at what came before");
    assert!(receiver.received().iter().all(|one| one.json()["short"].is_null()));
    receiver.assert_in_order("/x");
}

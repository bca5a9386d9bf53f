//! Is what a client takes back never sent, to the message, whoever serves the queue at that moment?

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::api::Reply;
use crate::support::{Answer, Queue, Receiver, Stage, assert_chain};

#[tokio::test]
async fn a_message_can_be_taken_back_before_it_is_sent_not_while_and_not_after() {
    let stage = Stage::new().await;
    let receiver =
        Receiver::answering(|received| if received.count == 2 { Answer::hang() } else { Answer::ok() }).await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let ids = stage.post_many(id, 4).await;
    let path = |n: usize| format!("/v1/messages/{}", ids[n]);
    // Nobody serves it.
    stage.api.delete(&path(1)).await.expect(204);
    stage.api.delete(&path(1)).await.expect(404);
    stage.api.get(&path(1)).await.expect(404);
    stage.api.get(&format!("{}/attempts", path(1))).await.expect(404);

    let _worker = stage.worker(&[]).await;
    receiver.wait_for_count(2).await;
    // The first was sent, the third is in flight, the fourth was read ahead.
    stage.api.delete(&path(0)).await.expect(404);
    assert_eq!(stage.api.message(&ids[0]).await["state"], "delivered");
    stage.api.delete(&path(2)).await.expect(409);
    assert_eq!(stage.api.message(&ids[2]).await["state"], "delivering");
    stage.api.delete(&path(3)).await.expect(204);
    stage.api.get(&path(3)).await.expect(404);
    // The one in flight goes with its destination; then everything of it is unknown.
    stage.api.delete(&format!("/v1/destinations/{id}")).await.expect(204);
    for n in 0..4 {
        stage.api.delete(&path(n)).await.expect(404);
        stage.api.get(&path(n)).await.expect(404);
    }
    let received = receiver.wait_for_ended(2).await;
    assert_eq!(received.len(), 2);
    assert_eq!(received[1].status, None, "aborted");
    stage.queue.until_empty().await;
}

#[tokio::test]
async fn a_failing_head_can_be_taken_back_between_its_tries_and_the_next_goes_at_once() {
    let stage = Stage::new().await;
    let receiver =
        Receiver::answering(|received| Answer::status(if received.json()["n"] == 0 { 500 } else { 200 })).await;
    for (n, delay) in [3.0, 60.0].into_iter().enumerate() {
        let path = format!("/{n}");
        let retry = json!({ "max_retries": 9, "delay_seconds": delay });
        let id = stage.api.post_destination_with(json!({ "url": receiver.url(&path), "retry": retry })).await;
        let ids = stage.post_many(id, 2).await;
        let _worker = stage.worker(&[]).await;
        stage.until_queue(id, |queue| queue["head"]["attempts"] == 1).await;
        if delay > 5.0 {
            // The long wait keeps no worker.
            stage.until_queue(id, |queue| queue["worker"].is_null()).await;
        }
        assert_eq!(stage.api.message(&ids[0]).await["state"], "retrying");
        stage.api.delete(&format!("/v1/messages/{}", ids[0])).await.expect(204);
        let deleted = Instant::now();
        let received = receiver.wait_for(|all| all.iter().filter(|one| one.path == path).count() == 2).await;
        let next = received.iter().rfind(|one| one.path == path).expect("it came");
        assert!(next.arrived_at - deleted < Duration::from_secs(2), "{:?}", next.arrived_at - deleted);
        assert_eq!(next.number("orderly-attempt"), 1);
        assert_eq!(next.number("orderly-skipped"), 1);
        stage.until_empty(id).await;
    }
}

#[tokio::test]
async fn what_a_lane_has_read_ahead_is_not_sent_once_it_was_taken_back() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(25))).await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let ids = stage.post_many(id, 80).await;
    let _worker = stage.worker(&[]).await;
    receiver.wait_for_count(5).await;
    // From the front, racing with the lane: which answer each gets is open, but it must be true.
    let mut gone = Vec::new();
    for id in ids.iter().skip(4).step_by(3) {
        let asked = Instant::now();
        match stage.api.delete(&format!("/v1/messages/{id}")).await.status.as_u16() {
            204 => gone.push(id.clone()),
            409 | 404 => {
                let sent = receiver.received().iter().any(|one| one.header("webhook-id") == id.as_str());
                assert!(sent, "{id} was neither sent nor taken back");
            }
            other => panic!("{other}"),
        }
        assert!(asked.elapsed() < Duration::from_secs(5));
    }
    assert!(!gone.is_empty(), "some were read ahead");
    let received = receiver.wait_for_ended(80 - gone.len()).await;
    stage.until_empty(id).await;
    assert_eq!(received.len(), 80 - gone.len(), "each other one came once");
    assert!(
        received.iter().all(|one| !gone.contains(&one.header("webhook-id").to_owned())),
        "none that was taken back"
    );
    assert_chain(&received, &ids);
}

#[tokio::test]
async fn a_destination_that_ends_while_it_is_served_gets_nothing_more() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(10))).await;
    let mut ids = Vec::new();
    for n in 0..6 {
        let id = stage.api.post_destination(&receiver.url(&format!("/{n}"))).await;
        stage.post_many(id, 100).await;
        ids.push(id);
    }
    let _worker = stage.worker(&[]).await;
    receiver.wait_for_count(30).await;
    let mut ended = Vec::new();
    for (n, id) in ids.iter().take(5).enumerate() {
        stage.api.delete(&format!("/v1/destinations/{id}")).await.expect(204);
        let answered = Instant::now();
        stage.api.post("/v1/messages", json!({ "destination_id": id, "payload": 1 })).await.expect(422);
        stage.api.get(&format!("/v1/destinations/{id}/queue")).await.expect(404);
        ended.push((format!("/{n}"), answered));
    }
    // The last one is delivered whole, and by then nothing had come for the others, save what was under way.
    receiver
        .wait_for(|all| all.iter().any(|one| one.path == "/5" && one.json()["n"] == 99 && one.ended_at.is_some()))
        .await;
    for (path, answered) in ended {
        let late: Vec<_> = receiver.received_on(&path).into_iter().filter(|one| one.arrived_at > answered).collect();
        assert!(late.len() <= 1, "{} requests to {path} after the answer", late.len());
        assert!(late.iter().all(|one| one.arrived_at - answered < Duration::from_millis(100)));
    }
    receiver.assert_in_order("/5");
    stage.queue.until("select count(*) from orderly.removals", 0).await;
    stage.queue.until_empty().await;
}

#[tokio::test]
async fn a_purge_takes_all_that_is_queued_and_leaves_what_is_in_flight() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| {
        let slow = received.count == 1;
        Answer::ok().after(Duration::from_millis(if slow { 1_500 } else { 0 }))
    })
    .await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let mut ids = stage.post_many(id, 300).await;
    let _worker = stage.worker(&[]).await;
    receiver.wait_for_count(1).await;
    let queue = stage.api.steer(id, "purge").await;
    assert_eq!(queue["depth"], 1, "{queue}");
    assert_eq!(queue["head"]["id"].as_str(), Some(ids[0].as_str()), "{queue}");
    assert_eq!(queue["state"], "delivering");
    ids.push(stage.api.post_message(id, json!("after")).await);
    let received = receiver.wait_for_ended(2).await;
    stage.until_empty(id).await;
    assert_eq!(received[0].status, Some(200), "it was left alone");
    assert_eq!(receiver.received().len(), 2);
    assert_chain(&received, &ids);
    assert_eq!(stage.api.dead_letters(id).await.len(), 0, "what a client purged is no dead letter");
    // A queue that nobody serves.
    stage.api.steer(id, "pause").await;
    stage.post_many(id, 20).await;
    let queue = stage.api.steer(id, "purge").await;
    assert_eq!((&queue["depth"], &queue["head"]), (&json!(0), &json!(null)), "{queue}");
    stage.api.post(&format!("/v1/destinations/{}/purge", id + 1), json!({})).await.expect(404);
}

#[tokio::test]
async fn who_is_told_503_is_told_who_holds_what_was_asked_for_and_nothing_was_done() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::hang()).await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let posted = stage.post_many(id, 2).await;
    let path = format!("/v1/destinations/{id}");
    let detail = |reply: Reply| reply.expect(503).json()["detail"].as_str().expect("a text").to_owned();

    let application = Queue::on(&stage.database).await;
    application.sql("begin").await;
    application.enqueue(id, json!("undecided")).await;
    let body = json!({ "destination_id": id, "payload": "late" });
    let told = detail(stage.api.post("/v1/messages", body).await);
    assert_eq!(told, "another transaction holds the destination's queue");
    application.sql("rollback").await;

    let worker = stage.worker(&[]).await;
    receiver.wait_for_count(1).await;
    worker.signal(Signal::STOP);
    let pause = format!("{path}/pause");
    let (paused, removed) = tokio::join!(stage.api.post(&pause, json!({})), stage.api.delete(&path));
    assert_eq!(detail(paused), "the worker that serves the destination did not answer");
    assert_eq!(detail(removed), "the worker that serves the destination did not give it away");
    let destination = stage.api.get(&path).await.expect(200).json();
    assert_eq!(destination["state"], "active");
    assert_eq!(stage.api.queue(id).await["depth"], posted.len());
    worker.signal(Signal::CONT);
}

/// What is in flight is aborted only when nothing else stands in the way: an application's transaction has the queue.
#[tokio::test]
async fn a_destination_that_cannot_be_removed_now_keeps_what_is_in_flight() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_secs(8))).await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    stage.post_many(id, 1).await;
    let _worker = stage.worker(&[]).await;
    receiver.wait_for_count(1).await;
    let application = Queue::on(&stage.database).await;
    application.sql(&format!("begin; select orderly.enqueue({id}, '1')")).await;
    let path = format!("/v1/destinations/{id}");
    stage.api.delete(&path).await.expect(503);
    application.sql("rollback").await;
    stage.until_empty(id).await;
    assert_eq!(receiver.received().len(), 1, "sent once");
    stage.api.delete(&path).await.expect(204);
}

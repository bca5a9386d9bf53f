//! What can a person do with a queue that does not move, and does it hold through restarts?

use std::time::{Duration, Instant};

use http::Method;
use rustix::process::Signal;
use serde_json::json;

use crate::support::{Answer, Api, Queue, Receiver, Stage, assert_chain};

#[tokio::test]
async fn a_410_disables_and_what_was_queued_waits_until_it_is_resumed() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| Answer::status(if received.count == 2 { 410 } else { 200 })).await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let ids = stage.post_many(id, 4).await;
    let worker = stage.worker(&[]).await;
    let queue = stage.until_state(id, "disabled").await;
    assert_eq!((&queue["depth"], &queue["head"]["id"]), (&json!(3), &json!(ids[1])), "{queue}");
    let path = format!("/v1/destinations/{id}");
    assert_eq!(stage.api.get(&path).await.expect(200).json()["state"], "disabled");
    let disabled = stage.api.get("/v1/destinations?state=disabled").await.expect(200).json();
    assert_eq!(disabled["data"][0]["id"], id);
    // Nothing comes in, by no way, and nothing goes out.
    stage.api.post("/v1/messages", json!({ "destination_id": id, "payload": 1 })).await.expect(409);
    let batch = json!({ "messages": [{ "destination_id": id, "payload": 1 }] });
    stage.api.post("/v1/messages/batch", batch).await.expect(409);
    let refused = stage.queue.connection.client.query("select orderly.enqueue($1, '1')", &[&id]).await;
    assert!(refused.is_err(), "SQL is no way around");
    stage.api.post(&format!("{path}/pause"), json!({})).await.expect(409);
    // A restart changes nothing.
    worker.signal(Signal::KILL);
    let _worker = stage.worker(&[]).await;
    assert_eq!(stage.api.queue(id).await["state"], "disabled");
    let before = receiver.received().len();
    assert_eq!(before, 2);

    let queue = stage.api.steer(id, "resume").await;
    assert_ne!(queue["state"], "disabled", "{queue}");
    let resumed = Instant::now();
    let received = receiver.wait_for_ended(5).await;
    assert!(received[2].arrived_at - resumed < Duration::from_secs(2), "at once");
    let attempts: Vec<i64> = received.iter().map(|one| one.number("orderly-attempt")).collect();
    assert_eq!(attempts, [1, 1, 2, 1, 1]);
    assert_chain(&received, &ids);
    stage.api.post_message(id, json!("again")).await;
    receiver.wait_for_ended(6).await;
}

#[tokio::test]
async fn a_410_counts_also_while_an_application_holds_the_queue() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| Answer::status(if received.count == 1 { 410 } else { 200 })).await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let application = Queue::on(&stage.database).await;
    stage.api.post_message(id, json!("first")).await;
    application.sql("begin").await;
    application.enqueue(id, json!("held")).await;
    let mut worker = stage.worker(&[]).await;
    worker.stderr_line("a 410 could not be written down yet").await;
    // Clients are answered meanwhile, as while it is in flight.
    let asked = Instant::now();
    let reply = stage.api.post(&format!("/v1/destinations/{id}/skip"), json!({})).await.expect(409);
    assert!(reply.json()["detail"].as_str().is_some_and(|detail| detail.contains("in flight")), "{reply:?}");
    assert!(asked.elapsed() < Duration::from_secs(4), "{:?}", asked.elapsed());
    application.sql("commit").await;
    let queue = stage.until_state(id, "disabled").await;
    assert_eq!(queue["depth"], 2, "{queue}");
    stage.api.post("/v1/messages", json!({ "destination_id": id, "payload": 1 })).await.expect(409);
    assert_eq!(receiver.received().len(), 1, "nothing meanwhile");
    stage.api.steer(id, "resume").await;
    receiver.wait_for_ended(3).await;
    stage.api.post_message(id, json!("again")).await;
}

#[tokio::test]
async fn an_exhausted_head_is_held_until_somebody_retries_or_skips_it() {
    let mut stage = Stage::new().await;
    let receiver =
        Receiver::answering(|received| Answer::status(if received.json()["n"] == 1 { 500 } else { 200 })).await;
    let retry = json!({ "max_retries": 1, "delay_seconds": 0 });
    let url = receiver.url("/x");
    let id = stage.api.post_destination_with(json!({ "url": url, "retry": retry, "on_exhausted": "hold" })).await;
    let ids = stage.post_many(id, 4).await;
    let worker = stage.worker(&[]).await;
    let queue = stage.until_state(id, "held").await;
    assert_eq!((&queue["depth"], &queue["head"]["attempts"]), (&json!(3), &json!(2)), "{queue}");
    assert_eq!(queue["head"]["id"].as_str(), Some(ids[1].as_str()), "{queue}");
    assert_eq!(receiver.received().len(), 3);
    assert_eq!(stage.api.message(&ids[1]).await["attempts"], 2);
    assert_eq!(stage.api.dead_letters(id).await.len(), 0, "it is not given up on");

    // It is held in the database, not in a process.
    worker.signal(Signal::KILL);
    let worker = stage.worker(&[]).await;
    stage.restart_api().await;
    stage.api.post_message(id, json!({ "n": 9 })).await;
    assert_eq!(stage.api.queue(id).await["state"], "held");

    let path = format!("/v1/destinations/{id}");
    for verb in ["skip", "retry-now"] {
        stage.api.post(&format!("{path}/{verb}"), json!({ "message_id": ids[2] })).await.expect(409);
        stage.api.post(&format!("{path}/{verb}"), json!({ "message_id": format!("{}-1", id + 1) })).await.expect(409);
    }
    // One more try, and it is held again.
    stage.api.post(&format!("{path}/retry-now"), json!({ "message_id": ids[1] })).await.expect(200);
    let received = receiver.wait_for_ended(4).await;
    assert_eq!(received[3].number("orderly-attempt"), 3);
    let queue = stage.until_queue(id, |queue| queue["head"]["attempts"] == 3).await;
    assert_eq!(queue["state"], "held", "{queue}");
    // Without a body, too.
    stage.api.send(Method::POST, &format!("{path}/retry-now"), "").await.expect(200);
    receiver.wait_for_ended(5).await;
    stage.until_queue(id, |queue| queue["head"]["attempts"] == 4 && queue["state"] == "held").await;

    stage.api.post(&format!("{path}/skip"), json!({ "message_id": ids[1] })).await.expect(200);
    receiver.wait_for_ended(8).await;
    stage.until_empty(id).await;
    let received = receiver.received();
    let last = &received[5];
    assert_eq!(last.json()["n"], 2);
    assert_eq!((last.number("orderly-skipped"), last.number("orderly-previous-sequence")), (1, received[0].sequence()));
    assert_eq!(stage.api.message(&ids[1]).await["state"], "skipped");
    assert_eq!(stage.api.dead_letters(id).await.len(), 0, "a skipped one is no dead letter");
    for verb in ["skip", "retry-now"] {
        stage.api.post(&format!("{path}/{verb}"), json!({})).await.expect(409);
    }
    assert_eq!(stage.api.attempts(&ids[1]).await.len(), 4);
    drop(worker);
}

#[tokio::test]
async fn retry_now_ends_a_wait_short_or_long_and_is_409_while_the_head_is_in_flight() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| match received.count {
        1 => Answer::status(500),
        2 => Answer::ok().after(Duration::from_millis(1_500)),
        _ => Answer::ok(),
    })
    .await;
    let _worker = stage.worker(&[]).await;
    for (n, delay) in [4, 600].into_iter().enumerate() {
        let retry = json!({ "max_retries": 3, "delay_seconds": delay });
        let url = receiver.url(&format!("/{n}"));
        let id = stage.api.post_destination_with(json!({ "url": url, "retry": retry })).await;
        let ids = stage.post_many(id, 2).await;
        stage.until_queue(id, |queue| queue["head"]["attempts"] == 1).await;
        assert_eq!(stage.api.queue(id).await["state"], "backoff");
        stage.api.steer(id, "retry-now").await;
        let asked = Instant::now();
        let received = receiver.wait_for_count(3 * n + 2).await;
        assert!(received[3 * n + 1].arrived_at.saturating_duration_since(asked) < Duration::from_secs(2));
        for verb in ["retry-now", "skip"] {
            let reply = stage.api.post(&format!("/v1/destinations/{id}/{verb}"), json!({})).await.expect(409);
            assert!(reply.json()["detail"].as_str().is_some_and(|detail| detail.contains("in flight")), "{reply:?}");
        }
        assert_eq!(stage.api.queue(id).await["state"], "delivering");
        stage.until_empty(id).await;
        assert_chain(&receiver.received_on(&format!("/{n}")), &ids);
    }
}

#[tokio::test]
async fn pause_and_resume_are_exact_and_survive_restarts_of_both() {
    let mut stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(20))).await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let mut ids = stage.post_many(id, 100).await;
    let mut worker = stage.worker(&[]).await;
    for round in 1..=5 {
        receiver.wait_for_count(round * 8).await;
        let queue = stage.api.steer(id, "pause").await;
        let at_pause = receiver.received();
        assert_eq!(queue["state"], "paused");
        // What was in flight may complete; nothing starts.
        let in_flight = at_pause.iter().filter(|one| one.ended_at.is_none()).count();
        assert!(in_flight <= 1);
        stage.until_queue(id, |queue| queue["worker"].is_null()).await;
        ids.push(stage.api.post_message(id, json!("queued while paused")).await);
        if round == 2 {
            worker.signal(Signal::KILL);
            worker = stage.worker(&[]).await;
        }
        if round == 3 {
            stage.restart_api().await;
        }
        let queue = stage.api.queue(id).await;
        assert_eq!((&queue["state"], &queue["worker"]), (&json!("paused"), &json!(null)), "{queue}");
        let received = receiver.received();
        // The one in flight may have been under way to here.
        assert!(received.len() + in_flight <= at_pause.len() + 1, "{} then {}", at_pause.len(), received.len());
        let left = ids.len() - received.len();
        assert_eq!(queue["depth"], left, "{queue}");
        // Twice is as once.
        stage.api.steer(id, "pause").await;
        stage.api.steer(id, "resume").await;
        let queue = stage.api.steer(id, "resume").await;
        assert_ne!(queue["state"], "paused");
    }
    let received = receiver.wait_for_ended(ids.len()).await;
    assert_eq!(received.len(), ids.len(), "each once");
    assert_chain(&received, &ids);
    drop(worker);
}

#[tokio::test]
async fn a_queue_says_why_it_moves_or_does_not() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| match received.count {
        1 => Answer::hang(),
        _ => Answer::ok(),
    })
    .await;
    let settings = json!({ "url": receiver.url("/x"), "timeout_seconds": 3,
                           "retry": { "max_retries": 2, "delay_seconds": 2 } });
    let id = stage.api.post_destination_with(settings).await;
    let empty = json!({ "depth": 0, "oldest_created_at": null, "state": "idle", "head": null, "worker": null });
    assert_eq!(stage.api.queue(id).await, empty);
    let ids = stage.post_many(id, 3).await;
    let _worker = stage.worker(&[]).await;
    receiver.wait_for_count(1).await;
    let queue = stage.api.queue(id).await;
    assert_eq!((&queue["state"], &queue["depth"]), (&json!("delivering"), &json!(3)), "{queue}");
    assert_eq!(queue["head"]["id"].as_str(), Some(ids[0].as_str()));
    assert_eq!(queue["oldest_created_at"], stage.api.message(&ids[0]).await["created_at"]);
    let workers = stage.api.get("/v1/workers").await.expect(200).json();
    assert_eq!(queue["worker"]["id"], workers["data"][0]["id"], "{queue}");
    assert_eq!(queue["worker"]["host"], workers["data"][0]["host"]);
    assert!(queue["worker"]["since"].is_string());
    let queue = stage.until_state(id, "backoff").await;
    assert_eq!((&queue["head"]["attempts"], &queue["depth"]), (&json!(1), &json!(3)), "{queue}");
    assert!(queue["head"]["last_error"].as_str().is_some_and(|error| error.contains("timeout")), "{queue}");
    assert!(queue["head"]["next_attempt_at"].as_str() > queue["oldest_created_at"].as_str(), "{queue}");
    stage.until_empty(id).await;
    let queue = stage.api.queue(id).await;
    assert_eq!((&queue["state"], &queue["head"]), (&json!("idle"), &json!(null)), "{queue}");
    assert_chain(&receiver.received(), &ids);
}

#[tokio::test]
async fn a_killed_worker_that_was_alone_is_seen_to_be_gone() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::hang()).await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let ids = stage.post_many(id, 1).await;
    let worker = stage.worker(&[]).await;
    receiver.wait_for_count(1).await;
    assert!(metrics(&stage.api).await.contains("orderly_workers 1\n"));
    assert_eq!(stage.api.message(&ids[0]).await["state"], "delivering");
    worker.signal(Signal::KILL);
    let queue = stage.until_state(id, "idle").await;
    assert_eq!((&queue["depth"], &queue["worker"]), (&json!(1), &json!(null)), "{queue}");
    assert_eq!(stage.api.message(&ids[0]).await["state"], "queued");
    assert_eq!(stage.api.get("/v1/workers").await.expect(200).json()["data"], json!([]));
    assert!(metrics(&stage.api).await.contains("orderly_workers 0\n"));
}

async fn metrics(api: &Api) -> String {
    let reply = api.get("/metrics").await.expect(200);
    String::from_utf8(reply.body.to_vec()).expect("text")
}

#[tokio::test]
async fn a_resume_that_meets_a_bell_is_never_lost() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let _worker = stage.worker(&[]).await;
    const QUEUES: usize = 25;
    for round in 1..=4 {
        let each = (0..QUEUES).map(|n| {
            let (stage, url) = (&stage, receiver.url(&format!("/{round}/{n}")));
            async move {
                let id = stage.api.post_destination(&url).await;
                stage.api.steer(id, "pause").await;
                // The worker follows the bell of this one and finds the queue paused, before or after the resume.
                let message = json!({ "destination_id": id, "payload": n });
                let path = format!("/v1/destinations/{id}/resume");
                let (posted, resumed) =
                    tokio::join!(stage.api.post("/v1/messages", message), stage.api.post(&path, json!({})));
                posted.expect(201);
                resumed.expect(200);
            }
        });
        futures_util::future::join_all(each).await;
        receiver.wait_for_ended(round * QUEUES).await;
    }
}

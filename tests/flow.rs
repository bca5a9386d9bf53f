//! Does everything arrive, in order and once, when many post and many deliver at the same time?

use std::collections::HashMap;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::{Answer, Api, Received, Receiver, Stage, assert_chain, until};

const MESSAGES: usize = 20_000;
const DESTINATIONS: usize = 200;
const CLIENTS: usize = 8;

/// Real webhook bodies where they are at hand; else made-up ones.
fn payloads() -> Vec<String> {
    let path = std::env::var("ORDERLY_TEST_PAYLOADS").unwrap_or_else(|_| {
        concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/payloads/github-webhooks.ndjson").to_owned()
    });
    let real: Vec<String> = std::fs::read_to_string(path).unwrap_or_default().lines().map(str::to_owned).collect();
    if real.is_empty() {
        (0..300).map(|n| format!(r#"{{"z": {n}, "a": "{}", "big": 1e400}}"#, "é\u{1F980}".repeat(n))).collect()
    } else {
        real
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_workers_deliver_what_many_clients_post_in_order_and_nothing_is_missing() {
    let stage = Stage::new().await;
    let receiver =
        Receiver::answering(|received| Answer::status(if received.count.is_multiple_of(10) { 500 } else { 200 })).await;
    let mut ids = Vec::new();
    for n in 0..DESTINATIONS {
        ids.push(stage.api.post_destination(&receiver.url(&format!("/{n}"))).await);
    }
    let mut workers = Vec::new();
    for _ in 0..4 {
        workers.push(stage.worker(&["--retry", "5", "--retry-delay", "0"]).await);
    }
    let payloads = payloads();
    let clients =
        (0..CLIENTS).map(|client| tokio::spawn(post(stage.api.clone(), client, ids.clone(), payloads.clone())));
    let mut queued: HashMap<i64, Vec<String>> = HashMap::new();
    let mut bodies: HashMap<String, usize> = HashMap::new();
    for client in futures_util::future::join_all(clients).await {
        for (id, payload) in client.expect("a client posts all") {
            let destination = id.split_once('-').expect("an id").0.parse().expect("a number");
            queued.entry(destination).or_default().push(id.clone());
            assert!(bodies.insert(id, payload).is_none(), "an id was given twice");
        }
    }
    assert_eq!(bodies.len(), MESSAGES);
    let left = async || stage.queue.number("select count(*) from (select from orderly.messages limit 1) m", &[]).await;
    until(Duration::from_secs(150), left, |left| *left == 0).await;

    let mut by_path: HashMap<String, Vec<Received>> = HashMap::new();
    for one in receiver.received() {
        by_path.entry(one.path.clone()).or_default().push(one);
    }
    let mut delivered = 0;
    for (n, id) in ids.iter().enumerate() {
        let received = by_path.remove(&format!("/{n}")).unwrap_or_default();
        let queued = queued.remove(id).unwrap_or_default();
        assert_chain(&received, &queued);
        for one in &received {
            assert_eq!(one.body, payloads[bodies[one.header("webhook-id")]], "byte for byte");
        }
        let good = received.iter().filter(|one| one.status == Some(200)).count();
        assert_eq!(good, queued.len(), "each once, on /{n}");
        delivered += good;
    }
    assert_eq!(delivered, MESSAGES);
    let mut told = 0;
    for worker in workers {
        worker.signal(Signal::TERM);
        let ended = worker.ended().await;
        assert_eq!(ended.code(), 0, "{ended:?}");
        let swept = ended.stderr.iter().any(|line| line.contains("no bell had told of"));
        assert!(!swept, "a bell was lost: {:?}", ended.stderr);
        let count = ended.stdout[0].strip_prefix("delivered ").and_then(|rest| rest.split(',').next()?.parse().ok());
        let count: usize = count.expect("a summary");
        assert!(count > 0, "each had its share");
        told += count;
    }
    assert_eq!(told, MESSAGES);
}

/// Posts a client's share, in singles and in batches, one after the other. Ids, and the payload's index.
async fn post(api: Api, client: usize, ids: Vec<i64>, payloads: Vec<String>) -> Vec<(String, usize)> {
    let mut posted = Vec::new();
    let share = MESSAGES / CLIENTS;
    let message = |n: usize| {
        let destination = ids[(n * 7 + client * 31) % ids.len()];
        let payload = (n * 13 + client) % payloads.len();
        (format!(r#"{{"destination_id": {destination}, "payload": {}}}"#, payloads[payload]), payload)
    };
    let mut n = 0;
    while n < share {
        let size = if n.is_multiple_of(3) { 1 } else { 40.min(share - n) };
        let (items, chosen): (Vec<String>, Vec<usize>) = (n..n + size).map(message).unzip();
        let answered: Vec<Value> = if size == 1 {
            vec![api.send(http::Method::POST, "/v1/messages", items[0].clone()).await.expect(201).json()]
        } else {
            let body = format!(r#"{{"messages": [{}]}}"#, items.join(","));
            let reply = api.send(http::Method::POST, "/v1/messages/batch", body).await.expect(201).json();
            reply["data"].as_array().expect("a list").clone()
        };
        assert_eq!(answered.len(), size);
        posted.extend(answered.iter().map(|one| one["id"].as_str().expect("an id").to_owned()).zip(chosen));
        n += size;
    }
    posted
}

#[tokio::test]
async fn two_api_processes_number_one_destination_as_if_they_were_one() {
    let stage = Stage::new().await;
    let (_second, other) = Api::serve(&stage.database).await;
    let receiver = Receiver::start().await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let _worker = stage.worker(&[]).await;
    let chain = |apis: [Api; 2], name: usize| async move {
        let mut posted: Vec<String> = Vec::new();
        for n in 0..50 {
            posted.push(apis[n % 2].post_message(id, json!({ "client": name, "n": n })).await);
        }
        posted
    };
    let apis = [stage.api.clone(), other];
    let chains = futures_util::future::join_all((0..4).map(|name| chain(apis.clone(), name))).await;
    for posted in &chains {
        let sequences: Vec<i64> = posted.iter().map(|id| crate::support::stage::sequence(id)).collect();
        assert!(sequences.is_sorted(), "what was answered first comes first, whoever answered: {sequences:?}");
    }
    let queued = chains.concat();
    let received = receiver.wait_for_ended(200).await;
    assert_eq!(received.len(), 200);
    assert_chain(&received, &queued);
    let seen = |api: Api| async move {
        // Both show the same destination, and a change through one is seen through the other.
        api.get(&format!("/v1/destinations/{id}")).await.expect(200).json()
    };
    apis[1].patch(&format!("/v1/destinations/{id}"), json!({ "description": "changed" })).await.expect(200);
    assert_eq!(seen(apis[0].clone()).await, seen(apis[1].clone()).await);
    assert_eq!(seen(apis[0].clone()).await["description"], "changed");
}

#[tokio::test]
async fn a_worker_told_to_stop_while_delivering_leaves_nothing_behind_and_nothing_twice() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(30))).await;
    let (mut ids, mut queued) = (Vec::new(), Vec::new());
    for n in 0..10 {
        let id = stage.api.post_destination(&receiver.url(&format!("/{n}"))).await;
        queued.push(stage.post_many(id, 30).await);
        ids.push(id);
    }
    let first = stage.worker(&[]).await;
    receiver.wait_for_count(20).await;
    let second = stage.worker(&[]).await;
    receiver.wait_for_count(60).await;
    first.signal(Signal::TERM);
    let ended = first.ended().await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert!(ended.stdout[0].contains("failed tries 0"), "{ended:?}");
    let received = receiver.wait_for_ended(300).await;
    assert_eq!(received.len(), 300, "none twice");
    for (n, queued) in queued.iter().enumerate() {
        let received = receiver.received_on(&format!("/{n}"));
        assert_chain(&received, queued);
        assert!(received.iter().all(|one| one.status == Some(200)), "none was aborted");
    }
    // The last one stops, too, with nobody to hand over to, and what is left waits.
    for id in &ids {
        stage.post_many(*id, 50).await;
    }
    receiver.wait_for_count(320).await;
    second.signal(Signal::INT);
    assert_eq!(second.ended().await.code(), 0);
    let sent = receiver.received().len();
    let left = stage.queue.queued().await;
    assert_eq!(i64::try_from(sent).expect("few") + left, 800, "what was sent was written down");
    assert_eq!(stage.api.get("/v1/workers").await.expect(200).json()["data"], json!([]));
}

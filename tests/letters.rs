//! What becomes of messages that were given up on?

use std::time::Duration;

use serde_json::json;

use crate::support::{Answer, Receiver, Stage, assert_chain};

#[tokio::test]
async fn dead_letters_are_listed_read_thrown_away_and_redriven_to_the_tail() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| {
        let bad = received.number("orderly-sequence") < 100_000 && received.json()["n"].as_i64() < Some(5);
        Answer::status(if bad { 500 } else { 200 })
    })
    .await;
    let id = stage.api.post_destination_with(json!({ "url": receiver.url("/x"), "retry": { "max_retries": 0 } })).await;
    let ids = stage.post_many(id, 8).await;
    let _worker = stage.worker(&[]).await;
    stage.until_empty(id).await;
    assert_chain(&receiver.received(), &ids);

    let letters = stage.api.dead_letters(id).await;
    let listed: Vec<&str> = letters.iter().map(|one| one["id"].as_str().expect("an id")).collect();
    assert_eq!(listed, &ids[..5], "by sequence");
    for one in &letters {
        assert_eq!((&one["state"], &one["attempts"]), (&json!("exhausted"), &json!(1)), "{one}");
        assert!(one["last_error"].is_string() && one.get("payload").is_none(), "{one}");
    }
    let path = |n: usize| format!("/v1/dead-letters/{}", ids[n]);
    let one = stage.api.get(&path(2)).await.expect(200).json();
    assert_eq!(one["payload"], json!({ "n": 2 }), "{one}");
    stage.api.get(&path(6)).await.expect(404);
    stage.api.delete(&path(2)).await.expect(204);
    stage.api.get(&path(2)).await.expect(404);
    stage.api.delete(&path(2)).await.expect(404);
    stage.api.post(&format!("{}/redrive", path(2)), json!({})).await.expect(404);

    // From now on it takes everything.
    receiver.answer(|_| Answer::ok());
    let before = stage.api.post_message(id, json!({ "n": 50 })).await;
    let redriven = stage.api.send(http::Method::POST, &format!("{}/redrive", path(3)), "").await.expect(201).json();
    let again = redriven["id"].as_str().expect("an id").to_owned();
    assert_ne!(again, ids[3]);
    assert!(crate::support::stage::sequence(&again) > crate::support::stage::sequence(&before), "at the tail");
    assert_eq!(redriven["destination_id"], id);
    stage.api.get(&path(3)).await.expect(404);
    stage.until_empty(id).await;
    let received = receiver.received();
    let last = received.last().expect("it came");
    assert_eq!(
        (last.header("webhook-id"), &last.json(), last.number("orderly-attempt")),
        (again.as_str(), &json!({ "n": 3 }), 1)
    );

    let all = stage.api.post("/v1/dead-letters/redrive", json!({ "destination_id": id })).await.expect(201).json();
    assert_eq!(all["data"].as_array().map(Vec::len), Some(3), "{all}");
    stage.until_empty(id).await;
    let received = receiver.received();
    let order: Vec<_> = received[received.len() - 3..].iter().map(|one| one.json()["n"].as_i64()).collect();
    assert_eq!(order, [Some(0), Some(1), Some(4)], "in the order in which they had been");
    assert_eq!(stage.api.dead_letters(id).await.len(), 0);
    stage.api.post("/v1/dead-letters/redrive", json!({ "destination_id": id + 1 })).await.expect(422);
}

#[tokio::test]
async fn thousands_are_redriven_at_once_in_order_while_others_post() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::status(500)).await;
    let id = stage.api.post_destination_with(json!({ "url": receiver.url("/x"), "retry": { "max_retries": 0 } })).await;
    let other = stage.api.post_destination(&receiver.url("/other")).await;
    const COUNT: usize = 2_200;
    stage.api.steer(id, "pause").await;
    for start in (0..COUNT).step_by(550) {
        let message = |n: usize| json!({ "destination_id": id, "payload": { "n": n } });
        stage.api.post_batch((start..start + 550).map(message).collect()).await;
    }
    // All are given up on, each after one try.
    let _worker = stage.worker(&[]).await;
    stage.api.steer(id, "resume").await;
    stage.until_queue_within(Duration::from_secs(60), id, |queue| queue["depth"] == 0).await;
    receiver.answer(|_| Answer::ok());
    let failed = receiver.received().len();
    assert_eq!(failed, COUNT);
    let redrive = stage.api.post("/v1/dead-letters/redrive", json!({ "destination_id": id }));
    let post = async {
        for n in 0..20 {
            stage.api.post_message(other, json!(n)).await;
            stage.api.post_message(id, json!({ "new": n })).await;
        }
    };
    let (redriven, ()) = tokio::join!(redrive, post);
    let redriven = redriven.expect(201).json();
    assert_eq!((redriven["data"].as_array().map(Vec::len), &redriven["more"]), (Some(COUNT), &json!(false)));
    receiver.wait_for_within(Duration::from_secs(60), |all| all.len() == failed + COUNT + 40).await;
    stage.until_empty(id).await;
    let received = receiver.received();
    let old = received.iter().skip(failed).filter_map(|one| one.json()["n"].as_u64());
    assert!(old.eq(0..COUNT as u64), "in their order");
    receiver.assert_in_order("/other");
}

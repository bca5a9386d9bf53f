//! Are dead letters seen, queued again and thrown away?

use serde_json::{Value, json};

use super::{Site, ids};

/// Makes dead letters of all that is queued, as a worker would.
async fn exhaust(site: &Site) {
    site.sql(
        "with gone as (delete from orderly.messages returning *)
         insert into orderly.ends (destination_id, sequence, outcome, created_at, expires_at, attempts, last_error, content_type, headers, payload)
         select destination_id, sequence, 'exhausted', created_at, expires_at, 4, 'status: 500', content_type, headers, payload from gone",
    )
    .await;
}

#[tokio::test]
async fn a_dead_letter_is_shown_with_its_payload_and_its_last_error() {
    let site = Site::new().await;
    let id = site.destination().await;
    let message = site.message(id, json!({"n": 1})).await;
    exhaust(&site).await;
    let listed = site.get("/v1/dead-letters").await.expect(200);
    assert_eq!(ids(&listed), [message.as_str()]);
    assert!(listed["data"][0].get("payload").is_none());
    let shown = site.get(&format!("/v1/dead-letters/{message}")).await.expect(200);
    assert_eq!(
        (&shown["payload"], &shown["last_error"], &shown["attempts"]),
        (&json!({"n": 1}), &json!("status: 500"), &json!(4))
    );
    assert_eq!(shown["state"], "exhausted");
    assert_eq!(site.get(&format!("/v1/messages/{message}")).await.expect(200)["state"], "exhausted");
    site.delete(&format!("/v1/dead-letters/{message}")).await.expect(204);
    site.delete(&format!("/v1/dead-letters/{message}")).await.expect(404);
    assert_eq!(site.get("/v1/dead-letters").await.expect(200)["data"], json!([]));
}

#[tokio::test]
async fn an_expired_message_is_a_dead_letter_at_once() {
    let site = Site::new().await;
    let id = site.destination().await;
    let early = site.message_with(json!({"destination_id": id, "payload": 1, "ttl_seconds": 1})).await;
    let late = site.message(id, json!(2)).await;
    site.sql("update orderly.messages set expires_at = now() - interval '1 ms' where brief").await;
    assert_eq!(site.get(&format!("/v1/messages/{early}")).await.expect(200)["state"], "expired");
    assert_eq!(ids(&site.get("/v1/messages").await.expect(200)), [late.as_str()]);
    let queue = site.get(&format!("/v1/destinations/{id}/queue")).await.expect(200);
    assert_eq!((&queue["depth"], &queue["head"]["id"]), (&json!(1), &json!(late)));
    let listed = site.get(&format!("/v1/dead-letters?destination_id={id}")).await.expect(200);
    assert_eq!(ids(&listed), [early.as_str()]);
    assert_eq!(site.get(&format!("/v1/dead-letters/{early}")).await.expect(200)["state"], "expired");
    site.delete(&format!("/v1/messages/{early}")).await.expect(404);
}

#[tokio::test]
async fn one_is_redriven_to_the_tail_under_a_new_id() {
    let site = Site::new().await;
    let id = site.destination().await;
    let dead = site
        .message_with(
            json!({"destination_id": id, "payload": "old", "content_type": "text/plain", "headers": {"X-A": "1"}}),
        )
        .await;
    exhaust(&site).await;
    let waiting = site.message(id, json!("new")).await;
    let redriven = site.poke(&format!("/v1/dead-letters/{dead}/redrive")).await.expect(201);
    let name = redriven["id"].as_str().expect("an id").to_owned();
    assert_eq!(redriven["redriven_from"], dead);
    assert_eq!(ids(&site.get("/v1/messages").await.expect(200)), [waiting, name.clone()]);
    let shown = site.get(&format!("/v1/messages/{name}")).await.expect(200);
    assert_eq!(
        (&shown["payload"], &shown["content_type"], &shown["headers"]),
        (&json!("old"), &json!("text/plain"), &json!({"X-A": "1"}))
    );
    site.poke(&format!("/v1/dead-letters/{dead}/redrive")).await.expect(404);
    site.get(&format!("/v1/dead-letters/{dead}")).await.expect(404);
}

#[tokio::test]
async fn thousands_are_redriven_in_order() {
    let site = Site::new().await;
    let id = site.destination().await;
    let other = site.destination().await;
    site.message(other, json!("other")).await;
    for start in [0, 1000] {
        let messages: Vec<Value> = (start..start + 1000).map(|n| json!({"destination_id": id, "payload": n})).collect();
        site.post("/v1/messages/batch", json!({"messages": messages})).await.expect(201);
    }
    exhaust(&site).await;
    let answer = site.post("/v1/dead-letters/redrive", json!({"destination_id": id})).await.expect(201);
    let data = answer["data"].as_array().expect("data");
    assert_eq!((data.len(), &answer["more"]), (2000, &json!(false)));
    let sequence = |item: &Value| item["sequence"].as_i64().expect("a number");
    assert!(data.is_sorted_by_key(sequence));
    let old = |item: &Value| {
        item["redriven_from"].as_str().and_then(|name| name.split('-').nth(1)?.parse::<i64>().ok()).expect("a name")
    };
    assert!(data.is_sorted_by_key(old));
    let first = site.get(&format!("/v1/messages/{}", data[0]["id"].as_str().expect("an id"))).await.expect(200);
    assert_eq!(first["payload"], 0);
    assert_eq!(ids(&site.get("/v1/dead-letters").await.expect(200)).len(), 1, "the other destination's stays");
    let again = site.post("/v1/dead-letters/redrive", json!({"destination_id": id})).await.expect(201);
    assert_eq!(again["data"], json!([]));
}

#[tokio::test]
async fn a_queue_without_room_takes_no_dead_letters() {
    let site = Site::new().await;
    let id = site.destination_with(json!({"url": "http://a/", "max_queue_depth": 3})).await;
    let mut names = Vec::new();
    for n in 0..3 {
        names.push(site.message(id, json!(n)).await);
    }
    exhaust(&site).await;
    for n in 0..2 {
        site.message(id, json!(n)).await;
    }
    let answer = site.post("/v1/dead-letters/redrive", json!({"destination_id": id})).await.expect(201);
    assert_eq!((answer["data"].as_array().map(Vec::len), &answer["more"]), (Some(1), &json!(true)));
    site.poke(&format!("/v1/dead-letters/{}/redrive", names[2])).await.expect(429);
    site.post("/v1/dead-letters/redrive", json!({"destination_id": id})).await.expect(429);
    site.sql("update orderly.destinations set state = 'disabled'; update orderly.queues set accepting = false").await;
    site.poke(&format!("/v1/dead-letters/{}/redrive", names[2])).await.expect(409);
}

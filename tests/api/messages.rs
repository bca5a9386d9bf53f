//! Are messages taken, shown and taken back as they stood?

use http::Method;
use serde_json::{Value, json};

use super::Site;

#[tokio::test]
async fn a_message_gets_its_place_and_is_shown() {
    let site = Site::new().await;
    let id = site.destination().await;
    let queued = site.post("/v1/messages", json!({"destination_id": id, "payload": {"a": 1}})).await.expect(201);
    let sequence = queued["sequence"].as_i64().expect("a number");
    assert_eq!(queued["id"], format!("{id}-{sequence}"));
    assert_eq!(queued["destination_id"], id);
    assert_eq!(queued.as_object().map(serde_json::Map::len), Some(5), "{queued}");
    let shown = site.get(&format!("/v1/messages/{id}-{sequence}")).await.expect(200);
    for member in ["id", "destination_id", "sequence", "created_at", "expires_at"] {
        assert_eq!(shown[member], queued[member], "{member}");
    }
    assert_eq!((&shown["state"], &shown["attempts"]), (&json!("queued"), &json!(0)));
    assert_eq!((&shown["payload"], &shown["content_type"]), (&json!({"a": 1}), &json!("application/json")));
    let attempts = site.get(&format!("/v1/messages/{id}-{sequence}/attempts")).await.expect(200);
    assert_eq!(attempts, json!({"data": [], "next": null}));
    let next = site.post("/v1/messages", json!({"destination_id": id, "payload": 2})).await.expect(201);
    assert!(next["sequence"].as_i64() > queued["sequence"].as_i64());
}

#[tokio::test]
async fn a_json_payload_is_kept_byte_for_byte() {
    let site = Site::new().await;
    let id = site.destination().await;
    for payload in [
        r#"{"z":1,"a":{"c":2,"b":3}}"#,
        r#"{"same":1,"same":2}"#,
        "1e400",
        "[123456789012345678901234567890.12345678901234567890, -0, 1E+2]",
        "{ \"spaced\" :\t[ 1 ,2 ]\n}",
        r#""\u0000 \ud800 \/ ü""#,
        "null",
        "false",
        "\"\"",
    ] {
        let body = format!("{{\"payload\": {payload} ,\"destination_id\":{id}}}");
        let queued = site.call(Method::POST, "/v1/messages", body).await.expect(201);
        let name = queued["id"].as_str().expect("an id");
        let shown = site.get(&format!("/v1/messages/{name}")).await;
        let text = String::from_utf8(shown.body.to_vec()).expect("UTF-8");
        assert!(text.contains(&format!("\"payload\":{payload}")), "{payload} in {text}");
        let sequence: i64 = name.split('-').nth(1).and_then(|part| part.parse().ok()).expect("a sequence");
        let row = site.database.connect().await;
        let row = row.client.query_one("select payload from orderly.messages where sequence = $1", &[&sequence]).await;
        assert_eq!(row.expect("a row").get::<_, Vec<u8>>(0), payload.as_bytes());
    }
}

#[tokio::test]
async fn other_content_is_text_or_base64() {
    let site = Site::new().await;
    let id = site.destination().await;
    let show = async |body: Value| {
        let name = site.message_with(body).await;
        site.get(&format!("/v1/messages/{name}")).await.expect(200)
    };
    let text = show(json!({"destination_id": id, "payload": "<ü/>\u{0}", "content_type": "text/xml; charset=utf-8",
                           "headers": {"X-Custom": "v"}, "ttl_seconds": 60}))
    .await;
    assert_eq!((&text["payload"], &text["headers"]), (&json!("<ü/>\u{0}"), &json!({"X-Custom": "v"})));
    assert!(text.get("payload_base64").is_none());
    let seconds = |member: &str| {
        chrono::DateTime::parse_from_rfc3339(text[member].as_str().expect(member)).expect("a time").timestamp_micros()
    };
    assert_eq!(seconds("expires_at") - seconds("created_at"), 60_000_000);
    let bytes = show(json!({"destination_id": id, "payload_base64": "AP8=", "content_type": "image/png"})).await;
    assert_eq!(bytes["payload_base64"], "AP8=");
    assert!(bytes.get("payload").is_none());
    let json_bytes = show(json!({"destination_id": id, "payload_base64": "eyJhIjoxfQ=="})).await;
    assert_eq!(json_bytes["payload"], json!({"a": 1}));
    let null = show(json!({"destination_id": id, "payload": null})).await;
    assert_eq!(null.get("payload"), Some(&Value::Null));
}

#[tokio::test]
async fn a_batch_keeps_its_order_and_is_all_or_none() {
    let site = Site::new().await;
    let (first, second) = (site.destination().await, site.destination().await);
    let messages: Vec<Value> =
        (0..20).map(|n| json!({"destination_id": if n % 3 == 0 { first } else { second }, "payload": n})).collect();
    let queued = site.post("/v1/messages/batch", json!({"messages": messages})).await.expect(201);
    let data = queued["data"].as_array().expect("data");
    assert_eq!(data.len(), 20);
    for (n, item) in data.iter().enumerate() {
        let shown = site.get(&format!("/v1/messages/{}", item["id"].as_str().expect("an id"))).await.expect(200);
        assert_eq!(shown["payload"], n);
    }
    for destination in [first, second] {
        let own: Vec<i64> = data
            .iter()
            .filter(|item| item["destination_id"] == destination)
            .filter_map(|item| item["sequence"].as_i64())
            .collect();
        assert!(own.is_sorted(), "{own:?}");
    }
    let before = site.rows().await;
    let wrong =
        json!({"messages": [{"destination_id": first, "payload": 1}, {"destination_id": 999_999, "payload": 1}]});
    assert_eq!(site.post("/v1/messages/batch", wrong).await.pointers(422), ["/messages/1/destination_id"]);
    assert_eq!(site.rows().await, before);
}

#[tokio::test]
async fn a_deleted_message_is_gone() {
    let site = Site::new().await;
    let id = site.destination().await;
    let message = site.message(id, json!(1)).await;
    site.delete(&format!("/v1/messages/{message}")).await.expect(204);
    site.get(&format!("/v1/messages/{message}")).await.expect(404);
    site.get(&format!("/v1/messages/{message}/attempts")).await.expect(404);
    site.get(&format!("/v1/dead-letters/{message}")).await.expect(404);
    site.delete(&format!("/v1/messages/{message}")).await.expect(404);
}

#[tokio::test]
async fn a_full_queue_is_429_and_a_disabled_one_409() {
    let site = Site::new().await;
    let id = site.destination_with(json!({"url": "http://a/", "max_queue_depth": 2})).await;
    let message = json!({"destination_id": id, "payload": 1});
    site.post("/v1/messages/batch", json!({"messages": [message, message, message]})).await.expect(429);
    site.post("/v1/messages", message.clone()).await.expect(201);
    site.post("/v1/messages", message.clone()).await.expect(201);
    assert_eq!(site.post("/v1/messages", message.clone()).await.pointers(429), ["/destination_id"]);
    site.call(Method::PATCH, &format!("/v1/destinations/{id}"), r#"{"max_queue_depth":null}"#).await.expect(200);
    site.post("/v1/messages", message.clone()).await.expect(201);

    site.sql(&format!(
        "update orderly.destinations set state = 'disabled' where id = {id};
         update orderly.queues set accepting = false where destination_id = {id}"
    ))
    .await;
    site.post("/v1/messages", message.clone()).await.expect(409);
    site.post("/v1/messages/batch", json!({"messages": [message]})).await.expect(409);
    assert_eq!(site.poke(&format!("/v1/destinations/{id}/resume")).await.expect(200)["depth"], 3);
    site.post("/v1/messages", message).await.expect(201);
}

#[tokio::test]
async fn a_message_shows_where_it_is_in_its_life() {
    let site = Site::new().await;
    let id = site.destination().await;
    let mut names = Vec::new();
    for n in 0..4 {
        names.push(site.message(id, json!(n)).await);
    }
    let sequence = |n: usize| names[n].split('-').nth(1).expect("a sequence").to_owned();
    let state = async |n: usize| {
        let shown = site.get(&format!("/v1/messages/{}", names[n])).await.expect(200);
        (shown["state"].as_str().expect("a state").to_owned(), shown["attempts"].as_i64().expect("a count"))
    };
    let list = async || {
        let page = site.get(&format!("/v1/messages?destination_id={id}")).await.expect(200);
        let shown = page["data"].as_array().expect("data").iter();
        shown
            .map(|item| {
                (item["state"].as_str().expect("a state").to_owned(), item["attempts"].as_i64().expect("a count"))
            })
            .collect::<Vec<_>>()
    };
    assert_eq!(state(0).await, ("queued".to_owned(), 0));
    let alive = site.database.connect().await;
    let sql = format!(
        "insert into orderly.workers (id, process, host, pid, kind) values (7, 'p', 'h', 1, 'general');
         update orderly.claims set owner = 7, since = now() where destination_id = {id};
         select pg_advisory_lock(orderly.worker_lock(7))"
    );
    alive.client.batch_execute(&sql).await.expect("a worker that lives");
    assert_eq!(state(0).await, ("delivering".to_owned(), 0));
    assert_eq!(state(1).await, ("queued".to_owned(), 0));
    site.sql(&format!(
        "update orderly.claims set head_sequence = {}, head_attempts = 2, last_error = 'status: 500',
                next_attempt_at = now() + interval '1 hour' where destination_id = {id}",
        sequence(0)
    ))
    .await;
    assert_eq!(state(0).await, ("retrying".to_owned(), 2));
    assert_eq!(list().await[0], ("retrying".to_owned(), 2));
    assert_eq!(list().await[1], ("queued".to_owned(), 0));
    let queue = site.get(&format!("/v1/destinations/{id}/queue")).await.expect(200);
    assert_eq!((&queue["state"], &queue["head"]["attempts"]), (&json!("backoff"), &json!(2)));
    assert_eq!((&queue["worker"]["id"], &queue["worker"]["host"]), (&json!(7), &json!("h")));

    // Delivered at the third try; the next one was skipped.
    let sql = "select orderly.acknowledge(array['d'], array[ID]::bigint[], array[SEQ]::bigint[], array[3], array[200]::smallint[],
        array[null]::text[], array[12], array['\\x6f6b']::bytea[], array[null]::bigint[], 0, false)";
    site.sql(&sql.replace("ID", &id.to_string()).replace("SEQ", &sequence(0))).await;
    site.sql("delete from orderly.workers; update orderly.claims set owner = null").await;
    site.poke(&format!("/v1/destinations/{id}/skip")).await.expect(200);
    assert_eq!(state(0).await, ("delivered".to_owned(), 3));
    assert_eq!(state(1).await, ("skipped".to_owned(), 0));
    let attempts = site.get(&format!("/v1/messages/{}/attempts", names[0])).await.expect(200);
    let attempt = &attempts["data"][0];
    assert_eq!(
        (&attempt["number"], &attempt["status_code"], &attempt["response"]),
        (&json!(3), &json!(200), &json!("ok"))
    );
    assert_eq!((&attempt["error"], &attempt["duration_ms"]), (&Value::Null, &json!(12)));
    assert_eq!(list().await.len(), 2);
}

//! Are destinations made, shown, replaced, changed and removed as the contract says?

use http::Method;
use poem::Request;
use serde_json::{Value, json};

use super::{Site, ids};

fn without_times(mut destination: Value) -> Value {
    let members = destination.as_object_mut().expect("an object");
    for time in ["created_at", "updated_at"] {
        let text = members.remove(time).expect(time);
        let text = text.as_str().expect("a time");
        assert!(text.ends_with('Z') && chrono::DateTime::parse_from_rfc3339(text).is_ok(), "{text}");
    }
    destination
}

#[tokio::test]
async fn a_url_suffices_and_the_rest_has_defaults() {
    let site = Site::new().await;
    let answer = site.post("/v1/destinations", json!({"url": "http://example.com"})).await;
    let made = answer.expect(201);
    let id = made["id"].as_i64().expect("an id");
    assert_eq!(answer.headers["location"], format!("/v1/destinations/{id}"));
    assert_eq!(made["created_at"], made["updated_at"]);
    let expected = json!({
        "id": id, "url": "http://example.com", "description": null, "headers": {}, "state": "active",
        "on_exhausted": "discard", "retry": null, "timeout_seconds": 30, "max_per_second": null, "max_queue_depth": null,
        "has_hmac_secret": false,
    });
    assert_eq!(without_times(made.clone()), expected);
    assert_eq!(site.get(&format!("/v1/destinations/{id}")).await.expect(200), made);
}

#[tokio::test]
async fn what_was_chosen_comes_back_and_secrets_do_not() {
    let site = Site::new().await;
    let body = json!({
        "url": "https://example.com/a?b=c", "description": "Ünïcode \u{1F980}", "headers": {"X-Key": "a-hidden-value", "accept": "*/*"},
        "on_exhausted": "hold", "retry": {"max_retries": 0, "delay_seconds": 0.25, "backoff": 1.5},
        "timeout_seconds": 1.5, "max_per_second": 0.1, "max_queue_depth": 7,
    });
    let id = site.destination_with(body.clone()).await;
    let mut expected = body;
    expected["id"] = json!(id);
    expected["state"] = json!("active");
    expected["has_hmac_secret"] = json!(false);
    expected["headers"] = json!({"X-Key": "***", "accept": "***"});
    let shown = site.get(&format!("/v1/destinations/{id}")).await;
    assert_eq!(without_times(shown.expect(200)), expected);
    assert!(!String::from_utf8_lossy(&shown.body).contains("a-hidden-value"));
}

async fn stored_headers(site: &Site, id: i64) -> Value {
    let row = site.database.connect().await;
    let row =
        row.client.query_one("select headers from orderly.destinations where id = $1", &[&id]).await.expect("a row");
    let sealed: Vec<u8> = row.get(0);
    let start = sealed.iter().position(|byte| *byte == b'{').expect("plain JSON without a key");
    serde_json::from_slice(&sealed[start..]).expect("JSON")
}

#[tokio::test]
async fn put_replaces_and_patch_merges() {
    let site = Site::new().await;
    let id = site
        .destination_with(
            json!({"url": "http://a/", "description": "d", "headers": {"X-A": "1", "X-B": "2"}, "max_per_second": 5}),
        )
        .await;
    let path = format!("/v1/destinations/{id}");
    site.poke(&format!("{path}/pause")).await.expect(200);

    let put =
        site.call(Method::PUT, &path, r#"{"url":"http://b/","headers":{"x-a":"***","X-C":"3"}}"#).await.expect(200);
    assert_eq!(put["state"], "paused", "a PUT leaves the state alone");
    assert_eq!((&put["description"], &put["max_per_second"]), (&Value::Null, &Value::Null));
    assert_eq!(stored_headers(&site, id).await, json!({"x-a": "1", "X-C": "3"}));
    assert!(put["updated_at"].as_str() > put["created_at"].as_str());

    let patch = r#"{"description":"new","headers":{"x-c":null,"X-D":"4"},"retry":{"max_retries":9}}"#;
    let request = Request::builder().method(Method::PATCH).uri_str(&path).content_type("application/merge-patch+json");
    let patched = site.send(request.body(patch)).await.expect(200);
    assert_eq!((&patched["url"], &patched["description"]), (&json!("http://b/"), &json!("new")));
    assert_eq!(patched["retry"], json!({"max_retries": 9, "delay_seconds": 1, "backoff": 1}));
    assert_eq!(stored_headers(&site, id).await, json!({"x-a": "1", "X-D": "4"}));

    let reset =
        site.call(Method::PATCH, &path, r#"{"description":null,"headers":null,"retry":null}"#).await.expect(200);
    assert_eq!((&reset["description"], &reset["headers"], &reset["retry"]), (&Value::Null, &json!({}), &Value::Null));
    let same = site.call(Method::PATCH, &path, "{}").await.expect(200);
    assert_eq!(same["url"], "http://b/");
    for wrong in [r#"{"url":null}"#, r#"{"state":"active"}"#, r#"{"id":1}"#, r#"[]"#, r#"{"timeout_seconds":0}"#] {
        site.call(Method::PATCH, &path, wrong).await.expect(422);
    }
}

#[tokio::test]
async fn changes_at_once_lose_none() {
    let site = Site::new().await;
    let id = site.destination().await;
    let path = format!("/v1/destinations/{id}");
    let patches =
        (0..6).map(|n| site.call(Method::PATCH, &path, json!({"headers": {format!("x-{n}"): "v"}}).to_string()));
    for answer in futures_util::future::join_all(patches).await {
        answer.expect(200);
    }
    let stored = stored_headers(&site, id).await;
    assert_eq!(stored.as_object().map(serde_json::Map::len), Some(6), "{stored}");
}

#[tokio::test]
async fn a_removed_destination_takes_its_messages_along() {
    let site = Site::new().await;
    let id = site.destination().await;
    let message = site.message(id, json!(1)).await;
    let answer = site.delete(&format!("/v1/destinations/{id}")).await;
    answer.expect(204);
    assert!(answer.body.is_empty());
    for path in [
        format!("/v1/destinations/{id}"),
        format!("/v1/messages/{message}"),
        format!("/v1/messages/{message}/attempts"),
    ] {
        site.get(&path).await.expect(404);
    }
    site.delete(&format!("/v1/destinations/{id}")).await.expect(404);
    assert_eq!(site.get("/v1/messages").await.expect(200)["data"], json!([]));
    let answer = site.post("/v1/messages", json!({"destination_id": id, "payload": 1})).await;
    assert_eq!(answer.pointers(422), ["/destination_id"]);
}

#[tokio::test]
async fn lists_filter_by_url_and_state() {
    let site = Site::new().await;
    let first = site.destination_with(json!({"url": "http://a/?x=1&y=2"})).await;
    let second = site.destination_with(json!({"url": "http://b"})).await;
    site.poke(&format!("/v1/destinations/{second}/pause")).await.expect(200);
    let list = async |query: &str| ids(&site.get(&format!("/v1/destinations{query}")).await.expect(200));
    assert_eq!(list("").await, [first.to_string(), second.to_string()]);
    assert_eq!(list("?url=http%3A%2F%2Fa%2F%3Fx%3D1%26y%3D2").await, [first.to_string()]);
    assert_eq!(list("?url=http://b").await, [second.to_string()]);
    assert_eq!(list("?url=http://c").await, [""; 0]);
    assert_eq!(list("?state=paused").await, [second.to_string()]);
    assert_eq!(list("?state=disabled").await, [""; 0]);
}

#[tokio::test]
async fn the_document_and_its_page_are_served() {
    let site = Site::new().await;
    for path in ["/doc", "/doc/"] {
        let page = site.get(path).await;
        assert!(page.headers["content-type"].to_str().is_ok_and(|kind| kind.starts_with("text/html")), "{path}");
        assert!(String::from_utf8_lossy(&page.body).contains("SwaggerUIBundle"));
    }
    let document = site.get("/openapi.json").await.expect(200);
    assert_eq!(document["paths"]["/v1/messages"]["post"]["operationId"], "postMessage");
    assert!(site.get("/openapi.yaml").await.body.starts_with(b"openapi:"));
    assert_eq!(site.get("/health/live").await.expect(200)["status"], "ok");
}

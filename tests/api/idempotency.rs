//! Does the same request twice do its work once?

use serde_json::json;

use super::Site;

#[tokio::test]
async fn the_same_key_and_body_get_the_first_answer_again() {
    let site = Site::new().await;
    let id = site.destination().await;
    let one = format!(r#"{{"destination_id":{id},"payload":1}}"#);
    let batch = format!(r#"{{"messages":[{one},{one}]}}"#);
    for (path, body) in [
        ("/v1/messages", one.as_str()),
        ("/v1/messages/batch", &batch),
        ("/v1/destinations", r#"{"url":"http://a/","headers":{"X-Key":"secret"}}"#),
    ] {
        // One name for all: a key belongs to its path.
        let first = site.post_under("k 1", path, body).await;
        first.expect(201);
        let rows = site.rows().await;
        let again = site.post_under("k 1", path, body).await;
        assert_eq!(
            (&again.body, again.headers.get("location")),
            (&first.body, first.headers.get("location")),
            "{path}"
        );
        again.expect(201);
        site.post_under("k 1", path, &format!("{body} ")).await.expect(422);
        assert_eq!(site.rows().await, rows, "{path}");
        let other = site.post_under("k 2", path, body).await;
        other.expect(201);
        assert_ne!(other.body, first.body, "{path}");
    }
}

#[tokio::test]
async fn twins_at_the_same_moment_are_one() {
    let site = Site::new().await;
    let id = site.destination().await;
    let message = format!(r#"{{"destination_id":{id},"payload":1}}"#);
    for (path, body) in [("/v1/messages", message.as_str()), ("/v1/destinations", r#"{"url":"http://twin/"}"#)] {
        let rows = site.rows().await;
        let twins = futures_util::future::join_all((0..8).map(|_| site.post_under("twin", path, body))).await;
        for twin in &twins {
            twin.expect(201);
            assert_eq!(twin.body, twins[0].body);
        }
        assert_eq!(site.rows().await, rows + 2, "one thing and one key: {path}");
    }
}

#[tokio::test]
async fn what_was_refused_may_be_tried_again_under_its_key() {
    let site = Site::new().await;
    let body = r#"{"destination_id":1,"payload":1}"#;
    site.post_under("k", "/v1/messages", body).await.expect(422);
    assert_eq!(site.destination().await, 1);
    site.post_under("k", "/v1/messages", body).await.expect(201);
}

#[tokio::test]
async fn a_key_that_is_none_is_400() {
    let site = Site::new().await;
    let id = site.destination().await;
    let body = json!({"destination_id": id, "payload": 1}).to_string();
    for key in ["", "\t", &"k".repeat(256)] {
        site.post_under(key, "/v1/messages", &body).await.expect(400);
    }
    let binary =
        poem::Request::builder().method(http::Method::POST).uri_str("/v1/messages").content_type("application/json");
    let value = http::HeaderValue::from_bytes(b"k\xe9").expect("a value");
    site.send(binary.header("idempotency-key", value).body(body.clone())).await.expect(400);
    assert_eq!(site.rows().await, 1);
    site.post_under(&"k".repeat(255), "/v1/messages", &body).await.expect(201);
}

//! Is everything that is wrong answered with a clear problem, and nothing stored?

use std::sync::Arc;

use http::Method;
use poem::{Body, Request};
use serde_json::json;

use super::Site;

#[tokio::test]
async fn a_body_that_does_not_parse_is_400() {
    let site = Site::new().await;
    for path in ["/v1/destinations", "/v1/messages", "/v1/messages/batch", "/v1/dead-letters/redrive"] {
        for body in [
            &b""[..],
            b"{",
            b"nul",
            b"{\"url\": }",
            b"{} {}",
            b"\xff\xfe",
            b"{\"url\": \"\xc3\x28\"}",
            b"\xef\xbb\xbf{}",
        ] {
            site.call(Method::POST, path, body).await.expect(400);
        }
        let deep = "[".repeat(1 << 20);
        site.call(Method::POST, path, deep).await.expect(400);
        let deep = format!("{{\"x\":{}{}}}", "[".repeat(1 << 20), "]".repeat(1 << 20));
        site.call(Method::POST, path, deep).await.expect(422);
    }
    assert_eq!(site.rows().await, 0);
}

#[tokio::test]
async fn a_destination_that_is_wrong_is_422_and_says_where() {
    let site = Site::new().await;
    for (body, pointer) in [
        (json!({}), "/url"),
        (json!([]), ""),
        (json!(["http://a/"]), ""),
        (json!(null), ""),
        (json!("http://a/"), ""),
        (json!({"url": 1}), "/url"),
        (json!({"url": null}), "/url"),
        (json!({"url": ""}), "/url"),
        (json!({"url": "http://"}), "/url"),
        (json!({"url": "ftp://example.com/"}), "/url"),
        (json!({"url": "javascript:alert(1)"}), "/url"),
        (json!({"url": "/relative"}), "/url"),
        (json!({"url": "http://user:password@example.com/"}), "/url"),
        (json!({"url": "http://a/\u{0}"}), "/url"),
        (json!({"url": "http://a/", "id": 7}), "/id"),
        (json!({"url": "http://a/", "state": "paused"}), "/state"),
        (json!({"url": "http://a/", "created_at": "2026-01-01T00:00:00Z"}), "/created_at"),
        (json!({"url": "http://a/", "updated_at": null}), "/updated_at"),
        (json!({"url": "http://a/", "tenant": "t"}), "/tenant"),
        (json!({"url": "http://a/", "no/such~field": 1}), "/no~1such~0field"),
        (json!({"url": "http://a/", "description": 1}), "/description"),
        (json!({"url": "http://a/", "description": "a\u{0}b"}), "/description"),
        (json!({"url": "http://a/", "headers": []}), "/headers"),
        (json!({"url": "http://a/", "headers": null}), "/headers"),
        (json!({"url": "http://a/", "headers": {"a": 1}}), "/headers/a"),
        (json!({"url": "http://a/", "headers": {"a": null}}), "/headers/a"),
        (json!({"url": "http://a/", "headers": {"a": "x\u{0}"}}), "/headers/a"),
        (json!({"url": "http://a/", "headers": {"a": "***"}}), "/headers/a"),
        (json!({"url": "http://a/", "headers": {"Webhook-Id": "x"}}), "/headers/Webhook-Id"),
        (json!({"url": "http://a/", "headers": {"Content-Type": "x"}}), "/headers/Content-Type"),
        (json!({"url": "http://a/", "on_exhausted": "explode"}), "/on_exhausted"),
        (json!({"url": "http://a/", "retry": {}, "timeout_seconds": "30"}), "/timeout_seconds"),
        (json!({"url": "http://a/", "timeout_seconds": 0.9}), "/timeout_seconds"),
        (json!({"url": "http://a/", "timeout_seconds": 301}), "/timeout_seconds"),
        (json!({"url": "http://a/", "timeout_seconds": null}), "/timeout_seconds"),
        (json!({"url": "http://a/", "retry": {"max_retries": 101}}), "/retry/max_retries"),
        (json!({"url": "http://a/", "retry": {"max_retries": 1.5}}), "/retry/max_retries"),
        (json!({"url": "http://a/", "retry": {"delay_seconds": -1}}), "/retry/delay_seconds"),
        (json!({"url": "http://a/", "retry": {"backoff": 11}}), "/retry/backoff"),
        (json!({"url": "http://a/", "retry": {"jitter": 1}}), "/retry/jitter"),
        (json!({"url": "http://a/", "retry": [3, 1, 1.0]}), "/retry"),
        (json!({"url": "http://a/", "max_per_second": 0}), "/max_per_second"),
        (json!({"url": "http://a/", "max_per_second": 10001}), "/max_per_second"),
        (json!({"url": "http://a/", "max_queue_depth": 0}), "/max_queue_depth"),
    ] {
        let answer = site.post("/v1/destinations", body.clone()).await;
        assert_eq!(answer.pointers(422), [pointer], "{body}");
    }
    // Numbers that JSON has and no float holds.
    let answer = site.call(Method::POST, "/v1/destinations", r#"{"url":"http://a/","timeout_seconds":1e400}"#).await;
    assert_eq!(answer.pointers(422), ["/timeout_seconds"]);
    assert_eq!(site.rows().await, 0);
}

#[tokio::test]
async fn a_message_that_is_wrong_is_422_and_says_where() {
    let site = Site::new().await;
    let id = site.destination().await;
    for (body, pointer) in [
        (json!({"payload": 1}), "/destination_id"),
        (json!({"destination_id": "1", "payload": 1}), "/destination_id"),
        (json!({"destination_id": 1.0, "payload": 1}), "/destination_id"),
        (json!({"destination_id": null, "payload": 1}), "/destination_id"),
        (json!({"destination_id": 18446744073709551615u64, "payload": 1}), "/destination_id"),
        (json!({"destination_id": id + 1, "payload": 1}), "/destination_id"),
        (json!({"destination_id": 0, "payload": 1}), "/destination_id"),
        (json!({"destination_id": -5, "payload": 1}), "/destination_id"),
        (json!({"destination_id": id}), "/payload"),
        (json!({"destination_id": id, "payload": 1, "payload_base64": ""}), "/payload_base64"),
        (json!({"destination_id": id, "payload_base64": "*"}), "/payload_base64"),
        (json!({"destination_id": id, "payload_base64": null}), "/payload_base64"),
        (json!({"destination_id": id, "payload": {}, "content_type": "text/plain"}), "/payload"),
        (json!({"destination_id": id, "payload": 1, "content_type": "json"}), "/content_type"),
        (json!({"destination_id": id, "payload": 1, "content_type": "a/b\u{0}"}), "/content_type"),
        (json!({"destination_id": id, "payload": 1, "headers": {"x": "\u{0}"}}), "/headers/x"),
        (json!({"destination_id": id, "payload": 1, "headers": {"orderly-epoch": "1"}}), "/headers/orderly-epoch"),
        (json!({"destination_id": id, "payload": 1, "ttl_seconds": 0}), "/ttl_seconds"),
        (json!({"destination_id": id, "payload": 1, "ttl_seconds": 86401}), "/ttl_seconds"),
        (json!({"destination_id": id, "payload": 1, "ttl_seconds": 1.5}), "/ttl_seconds"),
        (json!({"destination_id": id, "payload": 1, "id": "1-1"}), "/id"),
        (json!({"destination_id": id, "payload": 1, "priority": 1}), "/priority"),
        (json!([id, 1]), ""),
    ] {
        let answer = site.post("/v1/messages", body.clone()).await;
        assert_eq!(answer.pointers(422), [pointer], "{body}");
        if body.is_object() {
            let good = json!({"destination_id": id, "payload": "good"});
            let answer = site.post("/v1/messages/batch", json!({"messages": [good, body]})).await;
            assert_eq!(answer.pointers(422), [format!("/messages/1{pointer}")], "{body}");
        }
    }
    for (body, pointer) in [
        (json!({}), "/messages"),
        (json!({"messages": []}), "/messages"),
        (json!({"messages": {}}), "/messages"),
        (json!({"messages": [1]}), "/messages/0"),
        (json!({"messages": vec![json!({"destination_id": id, "payload": 1}); 1001]}), "/messages"),
        (json!({"messages": [], "more": 1}), "/more"),
    ] {
        let answer = site.post("/v1/messages/batch", body).await;
        assert_eq!(answer.pointers(422), [pointer]);
    }
    assert_eq!(site.rows().await, 1, "the destination alone");
    site.post("/v1/messages/batch", json!({"messages": vec![json!({"destination_id": id, "payload": 1}); 1000]}))
        .await
        .expect(201);
}

#[tokio::test]
async fn what_is_too_large_is_413_whether_announced_or_not() {
    let site = Site::new().await;
    let id = site.destination().await;
    let text = |length: usize| "x".repeat(length - 2);
    site.message(id, json!(text(1 << 20))).await;
    let answer = site.post("/v1/messages", json!({"destination_id": id, "payload": text((1 << 20) + 1)})).await;
    assert_eq!(answer.pointers(413), ["/payload"]);
    let body = format!("{{\"destination_id\": {id}, \"payload\": \"{}\"}}", "x".repeat(16 << 20));
    site.call(Method::POST, "/v1/messages", body.clone()).await.expect(413);
    let announced = Request::builder().method(Method::POST).uri_str("/v1/messages").content_type("application/json");
    site.send(announced.header("content-length", (16 << 20) + 1).body("{")).await.expect(413);
    let pieces =
        body.into_bytes().chunks(1 << 16).map(|piece| Ok::<_, std::io::Error>(piece.to_vec())).collect::<Vec<_>>();
    let stream = Body::from_bytes_stream(futures_util::stream::iter(pieces));
    site.call(Method::POST, "/v1/messages", stream).await.expect(413);
    assert_eq!(site.rows().await, 2);
}

#[tokio::test]
async fn what_is_not_there_is_404_and_what_is_no_id_as_well() {
    let site = Site::new().await;
    for path in [
        "/",
        "/v1",
        "/v2/messages",
        "/v1/nothing",
        "/v1/destinations/1",
        "/v1/destinations/0",
        "/v1/destinations/-1",
        "/v1/destinations/x",
        "/v1/destinations/01",
        "/v1/destinations/1.0",
        "/v1/destinations/9223372036854775808",
        "/v1/destinations/%00",
        "/v1/destinations/%ff",
        "/v1/destinations/1/queue",
        "/v1/messages/1",
        "/v1/messages/1-1",
        "/v1/messages/1-x",
        "/v1/messages/1-1/attempts",
        "/v1/messages/-/attempts",
        "/v1/dead-letters/1-1",
        "/v1/dead-letters/x",
    ] {
        site.get(path).await.expect(404);
    }
    for path in
        ["/v1/destinations/1", "/v1/destinations/x", "/v1/messages/1-1", "/v1/messages/x", "/v1/dead-letters/1-1"]
    {
        site.delete(path).await.expect(404);
    }
    for path in ["pause", "resume", "skip", "retry-now", "purge"] {
        site.poke(&format!("/v1/destinations/1/{path}")).await.expect(404);
    }
    site.poke("/v1/dead-letters/1-1/redrive").await.expect(404);
    site.call(Method::PUT, "/v1/destinations/1", r#"{"url":"http://a/"}"#).await.expect(404);
    site.call(Method::PATCH, "/v1/destinations/1", "{}").await.expect(404);
    let answer = site.post("/v1/dead-letters/redrive", json!({"destination_id": 1})).await;
    assert_eq!(answer.pointers(422), ["/destination_id"]);
}

#[tokio::test]
async fn methods_types_and_parameters_are_checked() {
    let site = Site::new().await;
    let answer = site.delete("/v1/messages").await;
    answer.expect(405);
    assert_eq!(answer.headers["allow"], "GET, POST");
    let answer = site.call(Method::POST, "/v1/destinations/1", "{}").await;
    answer.expect(405);
    assert_eq!(answer.headers["allow"], "DELETE, GET, PATCH, PUT");

    let post = || Request::builder().method(Method::POST).uri_str("/v1/messages");
    site.send(post().body("{}")).await.expect(415);
    for kind in
        ["text/plain", "application/xml", "application/json-patch+json", "application/merge-patch+json", "json", ""]
    {
        site.send(post().header("content-type", kind).body("{}")).await.expect(415);
    }
    site.send(post().content_type("application/json").header("content-encoding", "gzip").body("{}")).await.expect(415);
    site.send(post().content_type("Application/JSON ; charset=utf-8").body("{}")).await.expect(422);

    for path in [
        "/v1/messages?limit=0",
        "/v1/messages?limit=501",
        "/v1/messages?limit=x",
        "/v1/messages?limit=-1",
        "/v1/messages?limit=",
        "/v1/messages?destination_id=x",
        "/v1/destinations?state=on",
        "/v1/destinations?limit=99999999999999999999",
        "/v1/workers?limit=0",
        "/v1/dead-letters?destination_id=1-1",
    ] {
        site.get(path).await.expect(400);
    }
    for path in ["/v1/messages", "/v1/destinations", "/v1/dead-letters", "/v1/workers"] {
        for cursor in ["x", "", "AAAA", "%00", "%F0%9F%A6%80", "AW0AAAAAAAAAAA", &"A".repeat(5000)] {
            site.get(&format!("{path}?after={cursor}")).await.expect(422);
        }
    }
    site.get("/v1/destinations?url=%00").await.expect(200);
}

#[tokio::test]
async fn a_forbidden_url_is_422_and_another_change_does_not_ask_again() {
    let site = Site::with(|state| {
        state.check_url = std::sync::Arc::new(|url| {
            let answer =
                if url.path() == "/forbidden" { Err("it leads to a forbidden address".to_owned()) } else { Ok(()) };
            Box::pin(std::future::ready(answer))
        });
    })
    .await;
    let forbidden = json!({"url": "http://a/forbidden"});
    assert_eq!(site.post("/v1/destinations", forbidden.clone()).await.pointers(422), ["/url"]);
    let id = site.destination().await;
    for method in [Method::PUT, Method::PATCH] {
        let answer = site.call(method, &format!("/v1/destinations/{id}"), forbidden.to_string()).await;
        assert_eq!(answer.pointers(422), ["/url"]);
    }
    assert_eq!(site.get(&format!("/v1/destinations/{id}")).await.expect(200)["url"], "http://127.0.0.1:9/hook");
}

#[tokio::test]
async fn without_a_database_everything_is_503() {
    let site = Site::new().await;
    let id = site.destination().await;
    site.get("/health/ready").await.expect(200);
    let unreachable =
        orderly::store::Store::open("postgres://nobody@127.0.0.1:1/none", 2, Default::default()).expect("a URL");
    let stop = tokio_util::sync::CancellationToken::new();
    let enqueuer = orderly::store::enqueue::Enqueuer::start(unreachable.clone(), stop);
    let site = Site::with(|state| (state.store, state.enqueuer) = (unreachable, enqueuer)).await;
    site.get("/health/live").await.expect(200);
    for path in
        ["/health/ready", "/v1/destinations", "/v1/destinations/1", "/v1/messages", "/v1/messages/1-1", "/v1/workers"]
    {
        site.get(path).await.expect(503);
    }
    site.post("/v1/messages", json!({"destination_id": id, "payload": 1})).await.expect(503);
    site.post("/v1/destinations", json!({"url": "http://a/"})).await.expect(503);
    site.poke("/v1/destinations/1/pause").await.expect(503);
}

/// A page elsewhere is told of it too, and the next request is answered as if nothing had been.
#[tokio::test]
async fn a_handler_that_panics_is_a_500_that_every_allowed_origin_may_read() {
    let site = Site::with(|state| {
        state.cors_origins = vec!["https://a.example".to_owned()];
        state.check_url = Arc::new(|url| {
            assert_ne!(url.path(), "/panics", "a defect");
            Box::pin(std::future::ready(Ok(())))
        });
    })
    .await;
    let request = Request::builder().method(Method::POST).uri_str("/v1/destinations").content_type("application/json");
    let request = request.header("origin", "https://a.example").body(r#"{"url": "http://127.0.0.1:9/panics"}"#);
    let answer = site.send(request).await;
    assert_eq!(answer.headers["access-control-allow-origin"], "https://a.example");
    let problem = answer.expect(500);
    assert!(!problem.to_string().contains("a defect"), "{problem}");
    site.destination().await;
}

//! Are queues shown and steered as the contract says, where no worker holds them?

use http::Method;
use orderly::domain::DestinationId;
use serde_json::{Value, json};

use super::Site;

#[tokio::test]
async fn a_queue_tells_why_it_moves_or_does_not() {
    let site = Site::new().await;
    let id = site.destination().await;
    let queue = async || site.get(&format!("/v1/destinations/{id}/queue")).await.expect(200);
    let empty = json!({"depth": 0, "oldest_created_at": null, "state": "idle", "head": null, "worker": null});
    assert_eq!(queue().await, empty);
    let message = site.message(id, json!(1)).await;
    site.message(id, json!(2)).await;
    let waiting = queue().await;
    assert_eq!((&waiting["depth"], &waiting["state"]), (&json!(2), &json!("idle")));
    let head = json!({"id": message, "attempts": 0, "last_error": null, "next_attempt_at": null});
    assert_eq!(waiting["head"], head);
    let paused = site.poke(&format!("/v1/destinations/{id}/pause")).await.expect(200);
    assert_eq!((&paused["state"], &paused["depth"]), (&json!("paused"), &json!(2)));
    site.message(id, json!(3)).await;
    assert_eq!(site.get(&format!("/v1/destinations/{id}")).await.expect(200)["state"], "paused");
    assert_eq!(site.poke(&format!("/v1/destinations/{id}/resume")).await.expect(200)["state"], "idle");
    let sequence = message.split('-').nth(1).expect("a sequence");
    site.sql(&format!(
        "update orderly.claims set head_sequence = {sequence}, head_attempts = 4, last_error = 'timeout', held = true"
    ))
    .await;
    let held = queue().await;
    assert_eq!((&held["state"], &held["head"]["last_error"]), (&json!("held"), &json!("timeout")));
    assert_eq!(site.poke(&format!("/v1/destinations/{id}/purge")).await.expect(200), empty);
}

#[tokio::test]
async fn a_queue_tells_of_its_own_destination_alone() {
    let site = Site::new().await;
    let (first, second) = (site.destination().await, site.destination().await);
    site.poke(&format!("/v1/destinations/{second}/pause")).await.expect(200);
    for (id, state) in [(first, "idle"), (second, "paused")] {
        assert_eq!(site.get(&format!("/v1/destinations/{id}/queue")).await.expect(200)["state"], state);
    }
    site.get("/v1/destinations/999/queue").await.expect(404);
    site.sql(&format!("update orderly.destinations set tenant = 'a' where id = {first}")).await;
    for (id, expected) in [(first, true), (second, false)] {
        let seen = site.database.store().queue_state(DestinationId(id), Some("a")).await.expect("an answer");
        assert_eq!(seen.is_some(), expected, "{id}");
    }
}

#[tokio::test]
async fn skip_and_retry_now_name_the_head() {
    let site = Site::new().await;
    let id = site.destination().await;
    let (skip, retry) = (format!("/v1/destinations/{id}/skip"), format!("/v1/destinations/{id}/retry-now"));
    for path in [&skip, &retry] {
        site.poke(path).await.expect(409);
    }
    let first = site.message(id, json!(1)).await;
    let second = site.message(id, json!(2)).await;
    for path in [&skip, &retry] {
        site.post(path, json!({"message_id": second})).await.expect(409);
        site.post(path, json!({"message_id": "999-1"})).await.expect(409);
        for (wrong, pointer) in [
            (json!({"message_id": 1}), "/message_id"),
            (json!({"message_id": "x"}), "/message_id"),
            (json!({"id": first}), "/id"),
            (json!([]), ""),
        ] {
            assert_eq!(site.post(path, wrong).await.pointers(422), [pointer]);
        }
        site.call(Method::POST, path, "{").await.expect(400);
    }
    site.post(&retry, json!({"message_id": first})).await.expect(200);
    site.post(&retry, json!({})).await.expect(200);
    let after = site.post(&skip, json!({"message_id": first})).await.expect(200);
    assert_eq!((&after["head"]["id"], &after["depth"]), (&json!(second), &json!(1)));
    let after = site.poke(&skip).await.expect(200);
    assert_eq!((&after["head"], &after["depth"]), (&Value::Null, &json!(0)));
    site.get(&format!("/v1/dead-letters/{first}")).await.expect(404);
    assert_eq!(site.get(&format!("/v1/messages/{first}")).await.expect(200)["state"], "skipped");
}

#[tokio::test]
async fn workers_are_listed() {
    let site = Site::new().await;
    let id = site.destination().await;
    assert_eq!(site.get("/v1/workers").await.expect(200), json!({"data": [], "next": null}));
    let alive = site.database.connect().await;
    let sql = format!(
        "insert into orderly.workers (id, process, host, pid, kind, destination_id, since)
         values (1, 'p', 'a', 11, 'general', null, '2026-01-01T00:00:00Z'), (2, 'q', 'b', 22, 'pinned', {id}, now()),
                (3, 'r', 'c', 33, 'general', null, now());
         update orderly.claims set owner = 1;
         select pg_advisory_lock(orderly.worker_lock(n)) from generate_series(1, 2) n"
    );
    alive.client.batch_execute(&sql).await.expect("two of three have their locks");
    let page = site.get("/v1/workers?limit=1").await.expect(200);
    let first = json!({"id": 1, "host": "a", "pid": 11, "kind": "general", "destination_id": null,
                       "since": "2026-01-01T00:00:00Z", "destinations": 1});
    assert_eq!(page["data"], json!([first]));
    let page = site.get(&format!("/v1/workers?after={}", page["next"].as_str().expect("a cursor"))).await.expect(200);
    assert_eq!((&page["data"][0]["destination_id"], &page["next"]), (&json!(id), &Value::Null));
    assert_eq!(page["data"].as_array().map(Vec::len), Some(1), "the third is dead");
}

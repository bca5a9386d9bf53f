//! Can a destination be tried out beside its queue, and can delivered messages be sent again?

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::json;

use crate::support::{Answer, Api, Receiver, Stage, TestDatabase, worker};

#[tokio::test]
async fn a_test_request_goes_out_beside_the_queue_and_never_beside_a_message() {
    let database = TestDatabase::new().await;
    let receiver = Receiver::answering(|received| {
        if received.path == "/hangs" { Answer::hang() } else { Answer::status(418).body("teapot") }
    })
    .await;
    let (_server, api) = Api::serve(&database).await;
    let id = api.post_destination(&receiver.url("/x")).await;

    // Without a worker, and paused.
    api.post(&format!("/v1/destinations/{id}/pause"), json!({})).await.expect(200);
    let outcome = api.post(&format!("/v1/destinations/{id}/test"), json!({})).await.expect(200).json();
    assert_eq!(outcome["delivered"], false);
    assert_eq!(outcome["status_code"], 418);
    assert_eq!(outcome["error"], "status");
    assert_eq!(outcome["response"], "teapot");
    let received = receiver.received();
    assert_eq!(received[0].header("webhook-id"), format!("{id}-0"));
    assert_eq!(received[0].header("orderly-test"), "1");
    assert!(received[0].header("webhook-signature").starts_with("v1a,"));

    // Lent by a worker that serves it, which then goes on.
    api.post(&format!("/v1/destinations/{id}/resume"), json!({})).await.expect(200);
    receiver.answer(|_| Answer::ok());
    let _worker = worker(&database, &["--persistent"]).await;
    api.post_message(id, json!(1)).await;
    receiver.wait_for_ended(2).await;
    let outcome = api.post(&format!("/v1/destinations/{id}/test"), json!({})).await.expect(200).json();
    assert_eq!(outcome["delivered"], true);
    api.post_message(id, json!(2)).await;
    let received = receiver.wait_for_ended(4).await;
    assert_eq!(received[3].json(), 2);
    assert!(received.iter().all(|one| one.overlap == 1));

    // Not while a message is in flight.
    receiver.answer(|_| Answer::hang());
    api.post_message(id, json!(3)).await;
    receiver.wait_for_count(5).await;
    api.post(&format!("/v1/destinations/{id}/test"), json!({})).await.expect(409);
    api.post("/v1/destinations/999/test", json!({})).await.expect(404);
}

/// It takes three seconds for a test request, and none for a message.
async fn slow_with_tests() -> Receiver {
    Receiver::answering(|received| {
        let test = received.headers.contains_key("orderly-test");
        Answer::ok().after(Duration::from_secs(if test { 3 } else { 0 }))
    })
    .await
}

/// The database ends the session that has the destination's lock, in the midst of the request.
#[tokio::test]
async fn a_test_request_is_alone_also_when_its_lock_is_lost() {
    let stage = Stage::new().await;
    let receiver = slow_with_tests().await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let _worker = stage.worker(&[]).await;
    let path = format!("/v1/destinations/{id}/test");
    let meanwhile = async {
        receiver.wait_for_count(1).await;
        let end = "select count(pg_terminate_backend(pid)) from pg_stat_activity
                   where datname = current_database() and state = 'idle in transaction'";
        assert_eq!(stage.queue.number(end, &[]).await, 1);
        stage.api.post_message(id, json!(1)).await;
        // Nor beside another test request, whatever that comes to.
        stage.api.post(&path, json!({})).await;
    };
    let (tested, ()) = tokio::join!(stage.api.post(&path, json!({})), meanwhile);
    assert_eq!(tested.expect(200).json()["delivered"], true);
    let received = receiver.wait_for_ended(2).await;
    assert!(received.iter().all(|one| one.overlap == 1), "{received:#?}");
}

#[tokio::test]
async fn a_client_that_hangs_up_on_its_test_request_leaves_the_queue_free_and_so_do_many() {
    let stage = Stage::new().await;
    let receiver = slow_with_tests().await;
    let ids = [
        stage.api.post_destination(&receiver.url("/0")).await,
        stage.api.post_destination(&receiver.url("/1")).await,
        stage.api.post_destination(&receiver.url("/2")).await,
        stage.api.post_destination(&receiver.url("/3")).await,
        stage.api.post_destination(&receiver.url("/4")).await,
    ];
    let _worker = stage.worker(&[]).await;
    let paths = ids.map(|id| format!("/v1/destinations/{id}/test"));
    let tests = paths.iter().map(|path| stage.api.post(path, json!({})));
    tokio::select! {
        _ = join_all(tests) => panic!("they take three seconds"),
        received = receiver.wait_for_count(4) => assert_eq!(received.len(), 4, "not more at once"),
    }
    let hung_up = Instant::now();
    for id in ids {
        stage.api.post_message(id, json!(1)).await;
    }
    receiver.wait_for(|all| all.iter().filter(|one| one.body == "1").count() == 5).await;
    assert!(hung_up.elapsed() < Duration::from_secs(10), "{:?}", hung_up.elapsed());
    assert!(receiver.received().iter().all(|one| one.overlap == 1));
}

#[tokio::test]
async fn delivered_messages_that_were_kept_are_sent_again_in_order() {
    let database = TestDatabase::new().await;
    let receiver = Receiver::start().await;
    let (_server, api) = Api::serve(&database).await;
    let id = api.post_destination(&receiver.url("/x")).await;
    let _worker = worker(&database, &["--persistent", "--keep-payloads", "1"]).await;
    for n in 0..5 {
        api.post_message(id, json!({ "n": n })).await;
    }
    let first = receiver.wait_for_ended(5).await;
    let from = first[2].sequence();
    let kept = crate::support::Queue::on(&database).await;
    kept.until("select count(*) from orderly.kept", 5).await;
    let answer = api.post(&format!("/v1/destinations/{id}/replay"), json!({ "from_sequence": from })).await.expect(200);
    assert_eq!(answer.json()["queued"], 3);
    let all = receiver.wait_for_ended(8).await;
    for (again, original) in all[5..].iter().zip(&first[2..]) {
        assert_eq!(again.body, original.body);
        assert_eq!(again.number("orderly-replay-of"), original.sequence());
        assert!(again.sequence() > original.sequence());
    }
    receiver.assert_in_order("/x");
    api.post(&format!("/v1/destinations/{id}/replay"), json!({ "from_sequence": 0 })).await.expect(422);
    api.post("/v1/destinations/999/replay", json!({ "from_sequence": 1 })).await.expect(404);
}

//! Does the tests' own receiver see what it must, so that the other tests prove something?

use serde_json::json;

use crate::support::{Answer, Api, Receiver};

fn client(receiver: &Receiver, sequence: i64, previous: i64) -> Api {
    Api::new(&receiver.url(""))
        .with_header("orderly-sequence", &sequence.to_string())
        .with_header("orderly-previous-sequence", &previous.to_string())
}

#[tokio::test]
async fn an_overlap_is_seen_and_a_sender_that_gives_up_ends_its_request() {
    let receiver =
        Receiver::answering(
            |received| {
                if received.path == "/a" && received.count == 1 { Answer::hang() } else { Answer::ok() }
            },
        )
        .await;
    let hanging = client(&receiver, 1, 0);
    let first = tokio::spawn(async move { hanging.post("/a", json!(1)).await });
    receiver.wait_for_count(1).await;
    client(&receiver, 1, 0).post("/a", json!(1)).await.expect(200);
    client(&receiver, 1, 0).post("/b", json!(1)).await.expect(200);
    first.abort();
    let received = receiver.wait_for_ended(3).await;
    assert_eq!(received.iter().map(|one| one.overlap).collect::<Vec<_>>(), [1, 2, 1]);
    assert_eq!(received.iter().map(|one| one.status).collect::<Vec<_>>(), [None, Some(200), Some(200)]);
}

#[tokio::test]
async fn a_chain_with_a_failure_and_a_repetition_is_in_order() {
    let receiver = Receiver::answering(|received| Answer::status(if received.count == 2 { 500 } else { 200 })).await;
    for (sequence, previous) in [(3, 0), (5, 3), (5, 3), (5, 3), (9, 5)] {
        client(&receiver, sequence, previous).post("/", json!(1)).await;
    }
    receiver.assert_in_order("/");
}

#[tokio::test]
#[should_panic(expected = "a hole")]
async fn a_hole_is_found() {
    let receiver = Receiver::start().await;
    for (sequence, previous) in [(3, 0), (9, 5)] {
        client(&receiver, sequence, previous).post("/", json!(1)).await;
    }
    receiver.assert_in_order("/");
}

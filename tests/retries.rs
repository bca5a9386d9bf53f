//! Is a failing message tried as its destination's policy says, also when workers die in between?

use std::time::{Duration, Instant, SystemTime};

use rustix::process::Signal;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::support::{Answer, Api, Queue, Received, Receiver, Stage, TestDatabase, assert_chain};

/// From the end of each try to the start of the next.
fn waits(received: &[Received]) -> Vec<Duration> {
    let wait = |pair: &[Received]| pair[1].arrived_at - pair[0].ended_at.expect("it was answered");
    received.windows(2).map(wait).collect()
}

/// Clocks of two processes, and a timer's grain.
const GRAIN: Duration = Duration::from_millis(5);

fn seconds(seconds: f64) -> Duration {
    Duration::from_secs_f64(seconds)
}

#[tokio::test]
async fn a_destinations_own_policy_counts_not_the_workers_flags() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| {
        let bad = received.json()["n"] == 0;
        Answer::status(if bad { 503 } else { 200 }).body("x".repeat(3_000))
    })
    .await;
    let retry = json!({ "max_retries": 3, "delay_seconds": 0.3, "backoff": 2.0 });
    let id = stage.api.post_destination_with(json!({ "url": receiver.url("/x"), "retry": retry })).await;
    let flags = stage.api.post_destination(&receiver.url("/flags")).await;
    let ids = stage.post_many(id, 2).await;
    let by_flags = stage.post_many(flags, 2).await;
    let _worker = stage.worker(&["--retry", "1", "--retry-delay", "0.7"]).await;
    receiver.wait_for_ended(5 + 3).await;
    stage.until_empty(id).await;
    stage.until_empty(flags).await;

    let received = receiver.received_on("/x");
    let attempts: Vec<i64> = received.iter().map(|one| one.number("orderly-attempt")).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 1], "once, and as often again as it says");
    for (wait, least) in waits(&received[..4]).into_iter().zip([0.3, 0.6, 1.2]) {
        assert!(wait + GRAIN >= seconds(least), "{wait:?} is less than {least}");
        assert!(wait < seconds(least * 1.1 + 1.0), "{wait:?} is much more than {least}");
    }
    assert_chain(&received, &ids);
    let received = receiver.received_on("/flags");
    assert_eq!(received.len(), 3);
    assert!(waits(&received[..2])[0] + GRAIN >= seconds(0.7));

    // The log of tries, oldest first, and the end.
    let tries = stage.api.attempts(&ids[0]).await;
    assert_eq!(tries.len(), 4, "{tries:#?}");
    for (n, one) in tries.iter().enumerate() {
        assert_eq!(one["number"], n + 1);
        assert_eq!(one["status_code"], 503);
        assert!(one["error"].is_string(), "{one}");
        assert!(one["duration_ms"].is_number() && one["at"].as_str().is_some_and(|at| at.ends_with('Z')), "{one}");
        assert_eq!(one["response"].as_str().map(str::len), Some(1_024), "the start of the answer");
    }
    let good = stage.api.attempts(&ids[1]).await;
    assert_eq!((good.len(), &good[0]["status_code"], &good[0]["error"]), (1, &json!(200), &json!(null)));
    let (first, second) = (stage.api.message(&ids[0]).await, stage.api.message(&ids[1]).await);
    assert_eq!((&first["state"], &first["attempts"]), (&json!("exhausted"), &json!(4)));
    assert_eq!((&second["state"], &second["attempts"]), (&json!("delivered"), &json!(1)));
    assert_eq!(stage.api.attempts(&by_flags[0]).await.len(), 2);
}

#[tokio::test]
async fn a_killed_worker_neither_forgets_a_try_nor_shortens_a_delay() {
    let stage = Stage::new().await;
    // The third try is never answered: it is in flight when its worker dies.
    let receiver = Receiver::answering(|received| match received.count {
        3 => Answer::hang(),
        1 | 2 | 4 => Answer::status(500),
        _ => Answer::ok(),
    })
    .await;
    let retry = json!({ "max_retries": 9, "delay_seconds": 2 });
    let id = stage.api.post_destination_with(json!({ "url": receiver.url("/x"), "retry": retry })).await;
    let ids = stage.post_many(id, 2).await;
    let first = stage.worker(&[]).await;
    stage.until_queue(id, |queue| queue["head"]["attempts"] == 1).await;
    first.signal(Signal::KILL);
    let second = stage.worker(&[]).await;
    let queue = stage.until_queue(id, |queue| queue["head"]["attempts"] == 2).await;
    assert!(queue["head"]["next_attempt_at"].is_string(), "{queue}");
    // Another one is ready when this one dies with the request in flight.
    let third = stage.worker(&[]).await;
    receiver.wait_for_count(3).await;
    let holder = stage.api.queue(id).await["worker"]["id"].as_i64().expect("somebody serves it");
    let youngest = stage.queue.number("select max(id) from orderly.workers", &[]).await;
    let dies = if holder == youngest { &third } else { &second };
    dies.signal(Signal::KILL);
    receiver.wait_for_ended(6).await;
    stage.until_empty(id).await;
    let received = receiver.received();
    let attempts: Vec<i64> = received.iter().map(|one| one.number("orderly-attempt")).collect();
    assert_eq!(attempts, [1, 2, 3, 3, 4, 1], "the one in flight comes again under its number");
    for n in [1, 2, 4] {
        let wait = received[n].arrived_at - received[n - 1].ended_at.expect("it was answered");
        assert!(wait + GRAIN >= seconds(2.0), "try {n}: {wait:?}");
    }
    let epochs: Vec<i64> = received.iter().map(|one| one.number("orderly-epoch")).collect();
    assert!(epochs.is_sorted() && epochs[3] > epochs[2] && epochs[1] > epochs[0], "{epochs:?}");
    assert_chain(&received, &ids);
    let numbers: Vec<_> = stage.api.attempts(&ids[0]).await.iter().map(|one| one["number"].clone()).collect();
    assert_eq!(numbers, [1, 2, 3, 4]);
}

#[tokio::test]
async fn a_long_wait_keeps_no_worker_and_ends_on_time_whoever_is_alive_then() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| Answer::status(if received.count == 1 { 500 } else { 200 })).await;
    let retry = json!({ "max_retries": 1, "delay_seconds": 8 });
    let mut ids = Vec::new();
    for n in 0..6 {
        let url = receiver.url(&format!("/{n}"));
        let id = stage.api.post_destination_with(json!({ "url": url, "retry": retry })).await;
        stage.api.post_message(id, json!({ "n": n })).await;
        ids.push(id);
    }
    let first = stage.worker(&[]).await;
    for id in &ids {
        let queue = stage.until_queue(*id, |queue| queue["state"] == "backoff" && queue["worker"].is_null()).await;
        assert_eq!((&queue["depth"], &queue["head"]["attempts"]), (&json!(1), &json!(1)), "{queue}");
        assert!(queue["head"]["last_error"].is_string(), "{queue}");
    }
    assert_eq!(stage.queue.number("select count(*) from orderly.claims where owner is not null", &[]).await, 0);
    // Its timer dies with it.
    let _second = stage.worker(&[]).await;
    first.signal(Signal::KILL);
    receiver.wait_for_ended(12).await;
    for n in 0..6 {
        let wait = waits(&receiver.received_on(&format!("/{n}")))[0];
        assert!(wait + GRAIN >= seconds(8.0) && wait < seconds(10.0), "{wait:?}");
    }
}

#[tokio::test]
async fn retry_after_is_obeyed_in_seconds_and_as_a_date_and_never_comes_earlier_than_the_policy() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| {
        if received.count > 1 {
            return Answer::ok();
        }
        let soon = SystemTime::now() + seconds(4.0);
        match received.path.as_str() {
            "/seconds" => Answer::status(429).header("retry-after", "3"),
            "/date" => Answer::status(503).header("retry-after", httpdate::fmt_http_date(soon)),
            "/less" => Answer::status(503).header("retry-after", "1"),
            "/long" => Answer::status(429).header("retry-after", "7"),
            _ => Answer::status(503).header("retry-after", "soon"),
        }
    })
    .await;
    let url = |path: &str| receiver.url(path);
    let quick = json!({ "max_retries": 1, "delay_seconds": 0.1 });
    let slow = json!({ "max_retries": 1, "delay_seconds": 2 });
    let cases = [
        ("/seconds", &quick, 3.0),
        ("/date", &quick, 3.0),
        ("/less", &slow, 2.0),
        ("/long", &quick, 7.0),
        ("/no", &quick, 0.1),
    ];
    for (path, retry, _) in &cases {
        let id = stage.api.post_destination_with(json!({ "url": url(path), "retry": retry })).await;
        stage.api.post_message(id, json!(1)).await;
    }
    let _worker = stage.worker(&[]).await;
    receiver.wait_for_ended(10).await;
    for (path, _, least) in cases {
        let wait = waits(&receiver.received_on(path))[0];
        // A date has whole seconds: it may ask for up to one less.
        assert!(wait + GRAIN >= seconds(least), "{path}: {wait:?}");
        assert!(wait < seconds(least + 2.5), "{path}: {wait:?}");
    }
}

#[tokio::test]
async fn a_wait_for_a_receiver_ends_with_the_message_at_the_latest() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| {
        if received.json() == "short" { Answer::status(503).header("retry-after", "3600") } else { Answer::ok() }
    })
    .await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let message = json!({ "destination_id": id, "payload": "short", "ttl_seconds": 7 });
    let short = stage.api.post_message_with(message).await;
    let posted = Instant::now();
    let next = stage.api.post_message(id, json!("next")).await;
    let _worker = stage.worker(&[]).await;
    let received = receiver.wait_for_ended(2).await;
    assert!(received[1].arrived_at - posted < seconds(10.0), "{:?}", received[1].arrived_at - posted);
    assert_eq!(stage.api.message(&short).await["state"], "expired");
    assert_chain(&received, &[short.clone(), next]);
    let letters = stage.api.dead_letters(id).await;
    assert_eq!(
        (letters.len(), &letters[0]["id"], &letters[0]["attempts"]),
        (1, &json!(short), &json!(1)),
        "{letters:#?}"
    );
}

#[tokio::test]
async fn tries_are_counted_to_the_last_though_each_has_a_worker_that_dies_after_it() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| match received.count {
        1 => Answer::status(429).header("retry-after", "3"),
        2..=4 => Answer::status(500),
        _ => Answer::ok(),
    })
    .await;
    let retry = json!({ "max_retries": 3, "delay_seconds": 1, "backoff": 1.5 });
    let id = stage.api.post_destination_with(json!({ "url": receiver.url("/x"), "retry": retry })).await;
    let ids = stage.post_many(id, 2).await;
    for attempts in 1..=3 {
        let worker = stage.worker(&[]).await;
        stage.until_queue(id, |queue| queue["head"]["attempts"] == attempts).await;
        worker.signal(Signal::KILL);
    }
    let _last = stage.worker(&[]).await;
    receiver.wait_for_ended(5).await;
    stage.until_empty(id).await;
    let received = receiver.received();
    assert_chain(&received, &ids);
    let attempts: Vec<i64> = received.iter().map(|one| one.number("orderly-attempt")).collect();
    assert_eq!(attempts, [1, 2, 3, 4, 1], "no try more, and none less");
    for (wait, least) in waits(&received[..4]).into_iter().zip([3.0, 1.5, 2.25]) {
        assert!(wait + GRAIN >= seconds(least), "{wait:?} is less than {least}");
    }
    assert_eq!(received[4].number("orderly-skipped"), 1);
    let letters = stage.api.dead_letters(id).await;
    assert_eq!((letters.len(), &letters[0]["attempts"]), (1, &json!(4)), "{letters:#?}");
}

/// Answers every connection with these bytes, and closes it.
async fn answer_raw(bytes: Vec<u8>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request).await;
            let _ = stream.write_all(&bytes).await;
        }
    });
    format!("http://{address}/")
}

#[tokio::test]
async fn every_way_to_fail_is_named_and_counted() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|received| match received.path.as_str() {
        "/hang" => Answer::hang(),
        "/gone" => Answer::status(410),
        _ => Answer::status(302).header("location", "/elsewhere"),
    })
    .await;
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
    let headers = "x: y\r\n".repeat(2_000);
    let cases = [
        (receiver.url("/hang"), "timeout", json!(null)),
        (receiver.url("/moved"), "status", json!(302)),
        (receiver.url("/gone"), "gone", json!(410)),
        (format!("http://{free}/"), "refused", json!(null)),
        (format!("https://{}/", receiver.address()), "tls", json!(null)),
        (answer_raw(format!("HTTP/1.1 200 OK\r\n{headers}\r\n").into()).await, "too_large", json!(null)),
        (answer_raw(b"SSH-2.0-what\r\n".to_vec()).await, "broken", json!(null)),
        // Past the API, which would refuse it: a label is too long to be resolved, by whatever server.
        (format!("http://{}.example/", "a".repeat(64)), "dns", json!(null)),
        ("http://10.255.255.1/".to_owned(), "forbidden_address", json!(null)),
    ];
    let port = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
    let _worker = stage.worker(&["--retry", "0", "--metrics-listen", &port.to_string()]).await;
    for (url, error, status) in &cases {
        let id = stage.queue.destination(url).await;
        stage.api.patch(&format!("/v1/destinations/{id}"), json!({ "timeout_seconds": 2 })).await.expect(200);
        let message = stage.api.post_message(id, json!(1)).await;
        stage.until_queue(id, |queue| queue["depth"] == 0 || queue["state"] == "disabled").await;
        let tries = stage.api.attempts(&message).await;
        assert_eq!(tries.len(), 1);
        assert_eq!((&tries[0]["error"], &tries[0]["status_code"]), (&json!(error), status), "{url}: {tries:#?}");
    }
    assert!(receiver.received_on("/elsewhere").is_empty(), "redirects are never followed");
    let reply = Api::new(&format!("http://{port}")).get("/metrics").await.expect(200);
    let metrics = String::from_utf8_lossy(&reply.body);
    for (_, error, _) in &cases {
        let line = format!("orderly_tries_failed_total{{error=\"{error}\"}} 1");
        assert!(metrics.lines().any(|one| one == line), "{line} in {metrics}");
    }
}

/// One commit takes what many destinations came to: some delivered at once, and first among the arguments, some not.
#[tokio::test]
async fn outcomes_of_one_commit_are_each_written_to_its_own_destination() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    // In an order in which no outcome stands at the place of another's destination.
    let kinds = ["d", "d", "r", "x", "e", "h"];
    let (mut ids, mut sequences) = (Vec::new(), Vec::new());
    for kind in kinds {
        let id = queue.destination("http://127.0.0.1:9/").await;
        sequences.push(queue.enqueue(id, json!(kind)).await);
        ids.push(id);
    }
    let found = queue
        .number(
            "select orderly.acknowledge($1, $2, $3, array[1, 1, 3, 4, 0, 6], array[200, 200, 503, 500, null, 502]::smallint[],
                                        array[null, null, 'later', 'never', null, 'stop'], array_fill(5, array[6]),
                                        array_fill(null::bytea, array[6]), array[0, 0, 60000, 0, 0, 0], 2, false)",
            &[&kinds.as_slice(), &ids, &sequences],
        )
        .await;
    assert_eq!(found, 4, "all but the one to be tried again and the one that is held have ended");
    let number = async |sql: &str, which: usize| queue.number(sql, &[&ids[which]]).await;
    for (which, kind) in kinds.iter().enumerate() {
        let queued = number("select count(*) from orderly.messages where destination_id = $1", which).await;
        assert_eq!(queued, i64::from(matches!(*kind, "r" | "h")), "{kind}");
        let tried = number("select count(*) from orderly.attempts where destination_id = $1", which).await;
        assert_eq!(tried, i64::from(*kind != "e"), "{kind}");
        let skipped = number("select count(*) from orderly.skips where destination_id = $1", which).await;
        assert_eq!(skipped, i64::from(matches!(*kind, "x" | "e")), "{kind}");
        let attempts =
            number("select head_attempts::bigint from orderly.claims where destination_id = $1", which).await;
        assert_eq!(attempts, [0, 0, 3, 0, 0, 6][which], "{kind}");
        let held = number("select held::int::bigint from orderly.claims where destination_id = $1", which).await;
        assert_eq!(held, i64::from(*kind == "h"), "{kind}");
    }
    let letter =
        "select count(*) from orderly.ends where destination_id = $1 and outcome = 'exhausted' and attempts = 4
                  and last_error = 'never'";
    assert_eq!(number(letter, 3).await, 1);
    let expired = "select count(*) from orderly.ends where destination_id = $1 and outcome = 'expired'";
    assert_eq!(number(expired, 4).await, 1);
    let waits = "select count(*) from orderly.claims c where c.destination_id = $1 and c.last_error = 'later'
                 and c.next_attempt_at > clock_timestamp() + interval '30 s'
                 and c.head_sequence = (select m.sequence from orderly.messages m where m.destination_id = c.destination_id)";
    assert_eq!(number(waits, 2).await, 1);
}

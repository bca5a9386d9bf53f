//! Is what many clients post at the same moment counted exactly, and does an application's own transaction keep to it?

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde_json::{Value, json};

use crate::support::api::Reply;
use crate::support::{Answer, Api, Queue, Receiver, Stage, TestDatabase, assert_chain, private_postgres_with, worker};

/// The same request, so many times at the same moment, to two API processes in turn.
async fn at_once(apis: &[Api; 2], times: usize, path: &str, body: &Value) -> Vec<Reply> {
    join_all((0..times).map(|n| apis[n % 2].post(path, body.clone()))).await
}

#[tokio::test]
async fn twenty_equal_requests_at_the_same_moment_at_two_api_processes_are_one() {
    let stage = Stage::new().await;
    let (_second, other) = Api::serve(&stage.database).await;
    let receiver = Receiver::start().await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let message = json!({ "destination_id": id, "payload": { "n": 1 } });
    let batch = json!({ "messages": [&message, &message, &message] });
    let destination = json!({ "url": receiver.url("/new"), "description": "once" });
    let cases = [("/v1/messages", &message), ("/v1/messages/batch", &batch), ("/v1/destinations", &destination)];
    for (path, body) in cases {
        for round in 0..3 {
            let apis = [&stage.api, &other].map(|api| api.with_header("idempotency-key", &format!("key {round} ~")));
            let replies = at_once(&apis, 20, path, body).await;
            let first = replies[0].json();
            for reply in &replies {
                assert_eq!(reply.status.as_u16(), 201, "{path}: {reply:?}");
                assert_eq!(reply.json(), first, "{path}: all get the first answer");
            }
            // Later again, and with another body.
            for api in &apis {
                assert_eq!(api.post(path, body.clone()).await.expect(201).json(), first);
                let mut another = body.clone();
                another[if path.ends_with("batch") { "messages" } else { "description" }] = json!([]);
                api.post(path, another).await.expect(422);
                let spaced = format!(" {body}");
                api.send(http::Method::POST, path, spaced).await.expect(422);
            }
        }
    }
    assert_eq!(stage.api.queue(id).await["depth"], 3 * (1 + 3), "each key queued once");
    let made = stage.api.get("/v1/destinations?limit=500").await.expect(200).json();
    assert_eq!(made["data"].as_array().map(Vec::len), Some(1 + 3));
    // The same key on another path, and another key, are new.
    let key = stage.api.with_header("idempotency-key", "another");
    let first = key.post_message_with(message.clone()).await;
    assert_ne!(first, stage.api.post_message_with(message).await);
}

#[tokio::test]
async fn a_queue_takes_exactly_as_many_as_it_may_hold_whoever_posts() {
    let stage = Stage::new().await;
    let (_second, other) = Api::serve(&stage.database).await;
    let receiver = Receiver::start().await;
    let settings = json!({ "url": receiver.url("/x"), "max_queue_depth": 10 });
    let id = stage.api.post_destination_with(settings).await;
    let apis = [stage.api.clone(), other];
    let message = json!({ "destination_id": id, "payload": 1 });
    let replies = at_once(&apis, 40, "/v1/messages", &message).await;
    let queued = replies.iter().filter(|reply| reply.status.as_u16() == 201).count();
    assert_eq!(queued, 10);
    for reply in replies.iter().filter(|reply| reply.status.as_u16() != 201) {
        assert_eq!(reply.status.as_u16(), 429, "{reply:?}");
        assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
    }
    let full = stage.queue.connection.client.query("select orderly.enqueue($1, '1')", &[&id]).await;
    assert!(full.is_err(), "SQL is no way around");
    // A batch is all or none.
    stage.api.patch(&format!("/v1/destinations/{id}"), json!({ "max_queue_depth": 12 })).await.expect(200);
    let batch = |count: usize| json!({ "messages": vec![&message; count] });
    stage.api.post("/v1/messages/batch", batch(3)).await.expect(429);
    stage.api.post("/v1/messages/batch", batch(2)).await.expect(201);
    let _worker = stage.worker(&[]).await;
    let received = receiver.wait_for_ended(12).await;
    stage.until_empty(id).await;
    assert_eq!(received.len(), 12);
    stage.api.post_message(id, json!("there is room again")).await;
}

#[tokio::test]
async fn sql_queues_with_its_transaction_and_wakes_on_its_commit() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let _worker = stage.worker(&[]).await;
    let application = Queue::on(&stage.database).await;
    application.sql("create table orders (id int)").await;
    application.sql("begin; insert into orders values (1)").await;
    application.enqueue(id, json!({ "n": "rolled back" })).await;
    application.sql("rollback").await;
    application.sql("begin; insert into orders values (2)").await;
    let sequence = application.enqueue(id, json!({ "n": 2 })).await;
    // It is not there before the commit, for nobody.
    assert_eq!(stage.api.queue(id).await["depth"], 0);
    stage.api.get(&format!("/v1/messages/{id}-{sequence}")).await.expect(404);
    application.sql("commit").await;
    let committed = Instant::now();
    let received = receiver.wait_for_count(1).await;
    let took = received[0].arrived_at.saturating_duration_since(committed);
    assert!(took < Duration::from_secs(2), "it wakes a worker: {took:?}");
    assert_eq!((received[0].sequence(), &received[0].json()), (sequence, &json!({ "n": 2 })));
    // Bytes, with headers, a content type and a time to live.
    let sql = "select orderly.enqueue_bytes($1, '\\x00ff', 'application/octet-stream', '{\"X-A\": \"b\"}', 60)";
    let row = application.connection.client.query_one(sql, &[&id]).await.expect("it is queued");
    let bytes: String = row.get(0);
    let received = receiver.wait_for_ended(2).await;
    assert_eq!(received[1].header("webhook-id"), bytes);
    assert_eq!((&received[1].body[..], received[1].header("x-a")), (&b"\x00\xff"[..], "b"));
    assert_eq!(received[1].header("content-type"), "application/octet-stream");
    // What the API refuses, it refuses; each leaves nothing.
    for wrong in [
        "select orderly.enqueue(999999, '1')",
        "select orderly.enqueue(null, '1')",
        "select orderly.enqueue($1, null)",
        "select orderly.enqueue($1, '1', ttl_seconds => 0)",
        "select orderly.enqueue($1, '1', ttl_seconds => 86401)",
        "select orderly.enqueue($1, '1', content_type => 'nonsense')",
        "select orderly.enqueue($1, '1', content_type => e'text/plain\\r\\nx: y')",
        "select orderly.enqueue($1, '1', headers => '[]')",
        "select orderly.enqueue($1, '1', headers => '{\"a\": 1}')",
        "select orderly.enqueue($1, '1', headers => '{\"webhook-id\": \"x\"}')",
        "select orderly.enqueue($1, '1', headers => '{\"Orderly-Epoch\": \"x\"}')",
        "select orderly.enqueue($1, '1', headers => '{\"Host\": \"x\"}')",
        "select orderly.enqueue($1, '1', headers => '{\"a b\": \"x\"}')",
        "select orderly.enqueue($1, '1', headers => '{\"a\": \"x\\r\\ny\"}')",
        "select orderly.enqueue_bytes($1, convert_to(repeat('x', 1048577), 'UTF8'), 'text/plain')",
    ] {
        let text = wrong.replace("$1", &id.to_string());
        let refused = application.connection.client.simple_query(&text).await;
        let error = refused.err().unwrap_or_else(|| panic!("{text} was taken"));
        let code = error.code().unwrap_or_else(|| panic!("{text}: {error}"));
        assert!(!code.code().starts_with("XX") && code.code() != "42883", "{text}: {error:?}");
    }
    stage.queue.until_empty().await;
    assert_eq!(receiver.received().len(), 2);
}

#[tokio::test]
async fn a_long_transaction_on_one_destination_stalls_no_other_and_is_answered_within_five_seconds() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let held = stage.api.post_destination(&receiver.url("/held")).await;
    let free = stage.api.post_destination(&receiver.url("/free")).await;
    let application = Queue::on(&stage.database).await;
    application.sql("begin").await;
    application.enqueue(held, json!("first")).await;
    // Who waits for this application, or behind who does. A batch for both is seen to lock the free one for an
    // instant, so that another may wait for that.
    let application_pid = application.number("select pg_backend_pid()::bigint", &[]).await;
    let waits_for_it = format!(
        "with waits as (
             select a.pid, pg_blocking_pids(a.pid) as others from pg_stat_activity a
             where a.datname = current_database() and a.wait_event_type = 'Lock' and a.query like '%orderly.enqueue%')
         select count(*) from waits w where {application_pid} = any (w.others)
            or exists (select from waits o where o.pid = any (w.others) and {application_pid} = any (o.others))"
    );
    let begun = Instant::now();
    // Clients that come one after the other, every fifth with a batch for both; and many with keys at once.
    let to_held = (0..70u64).map(|n| {
        let (key, delay) = (n >= 40, Duration::from_millis(if n >= 40 { 500 } else { n * 70 }));
        let api = if key { stage.api.with_header("idempotency-key", &format!("k{n}")) } else { stage.api.clone() };
        async move {
            tokio::time::sleep_until((begun + delay).into()).await;
            let one = |id: i64| json!({ "destination_id": id, "payload": { "n": n } });
            let asked = Instant::now();
            let reply = if n.is_multiple_of(5) {
                api.post("/v1/messages/batch", json!({ "messages": [one(free), one(held)] })).await
            } else {
                api.post("/v1/messages", one(held)).await
            };
            (reply, asked.elapsed(), n)
        }
    });
    let to_free = async {
        let mut slowest = Duration::ZERO;
        let mut count = 0;
        while begun.elapsed() < Duration::from_secs(6) {
            let asked = Instant::now();
            stage.api.post_message(free, json!("free")).await;
            slowest = slowest.max(asked.elapsed());
            count += 1;
        }
        (slowest, count)
    };
    let most_waits = async {
        let mut most = 0;
        while begun.elapsed() < Duration::from_secs(6) {
            most = most.max(stage.queue.number(&waits_for_it, &[]).await);
        }
        most
    };
    let (answers, (slowest, count), most) = tokio::join!(join_all(to_held), to_free, most_waits);
    assert_eq!(most, 1, "one connection waits for one lock, whoever waits, with a key or without");
    assert!(slowest < Duration::from_secs(2), "{slowest:?} for one of {count} others");
    for (reply, took, n) in &answers {
        assert_eq!(reply.status.as_u16(), 503, "{reply:?}");
        assert!(reply.headers.contains_key("retry-after"), "{reply:?}");
        assert!(*took < Duration::from_millis(5_300), "number {n} after {took:?}");
    }
    assert_eq!(stage.api.queue(held).await["depth"], 0);
    assert_eq!(stage.api.queue(free).await["depth"], count, "nothing of a batch that failed");
    // One that waits when it is released is queued, behind what the application queued.
    let waits = {
        let api = stage.api.clone();
        tokio::spawn(async move { api.post_message(held, json!("second")).await })
    };
    // It waits for the lock by then.
    stage.queue.until(LOCK_WAITS, 1).await;
    application.sql("commit").await;
    let second = waits.await.expect("a 201");
    let _worker = stage.worker(&[]).await;
    let received = receiver.wait_for(|all| all.iter().filter(|one| one.path == "/held").count() == 2).await;
    let on_held: Vec<_> = received.into_iter().filter(|one| one.path == "/held").collect();
    assert_eq!((on_held[0].json(), on_held[1].header("webhook-id")), (json!("first"), second.as_str()));
    stage.until_empty(free).await;
    assert_chain(&on_held, &[on_held[0].header("webhook-id").to_owned(), second]);
}

#[tokio::test]
async fn a_lock_held_for_an_instant_is_waited_for_though_many_others_are_held_for_long() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let application = Queue::on(&stage.database).await;
    let free = stage.api.post_destination(&receiver.url("/free")).await;
    let mut held = Vec::new();
    application.sql("begin").await;
    for _ in 0..16 {
        let id = stage.api.post_destination(&receiver.url("/held")).await;
        application.enqueue(id, json!("first")).await;
        held.push(id);
    }
    let wave = |name: &str| {
        join_all(held.iter().map(|id| {
            let api = stage.api.with_header("idempotency-key", &format!("{name} {id}"));
            let body = message(*id);
            async move { api.post("/v1/messages", body).await }
        }))
    };
    let later = async {
        // As many wait for locks that are held for long as may; and more come.
        stage.queue.until(LOCK_WAITS, 4).await;
        let brief = async {
            let other = Queue::on(&stage.database).await;
            other.sql("begin").await;
            other.enqueue(free, json!("brief")).await;
            let post = stage.api.post("/v1/messages", message(free));
            tokio::join!(post, other.sql("select pg_sleep(0.2); commit")).0
        };
        tokio::join!(wave("second"), brief)
    };
    let (first, (second, posted)) = tokio::join!(wave("first"), later);
    posted.expect(201);
    for reply in first.into_iter().chain(second) {
        reply.expect(503);
    }
}

#[tokio::test]
async fn twins_that_wait_for_a_lock_are_one_when_it_is_let_go_whatever_process_they_ask() {
    let stage = Stage::new().await;
    let (_second, other) = Api::serve(&stage.database).await;
    let receiver = Receiver::start().await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let application = Queue::on(&stage.database).await;
    application.sql("begin").await;
    application.enqueue(id, json!("first")).await;
    let named = |name: &str| [&stage.api, &other].map(|api| api.with_header("idempotency-key", name));
    let (twins, others) = (named("twin"), named("other"));
    let let_go = async {
        stage.queue.until(LOCK_WAITS, 1).await;
        application.sql("commit").await;
    };
    let body = message(id);
    let (same, another, ()) =
        tokio::join!(at_once(&twins, 40, "/v1/messages", &body), at_once(&others, 10, "/v1/messages", &body), let_go);
    for replies in [same, another] {
        let first = replies[0].json();
        for reply in replies {
            assert_eq!(reply.expect(201).json(), first);
        }
    }
    assert_eq!(stage.api.queue(id).await["depth"], 3, "the application's, and one for each key");
}

#[tokio::test]
async fn whatever_needs_a_queue_that_an_application_holds_is_answered_within_five_seconds() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::status(500)).await;
    let retry = json!({ "max_retries": 0 });
    let id = stage.api.post_destination_with(json!({ "url": receiver.url("/x"), "retry": retry })).await;
    stage.api.post_message(id, json!("given up on")).await;
    let _worker = stage.worker(&[]).await;
    stage.until_queue(id, |queue| queue["depth"] == 0 && queue["worker"].is_null()).await;
    let (holder, waiter) = (Queue::on(&stage.database).await, Queue::on(&stage.database).await);
    holder.sql("begin").await;
    holder.enqueue(id, json!(1)).await;
    // What comes behind another waiter waits for two locks.
    let blocked = tokio::spawn(async move { waiter.enqueue(id, json!(2)).await });
    stage.queue.until(LOCK_WAITS, 1).await;
    let path = format!("/v1/destinations/{id}");
    let timed = async |answer: &mut (dyn Future<Output = Reply> + Unpin)| {
        let asked = Instant::now();
        let reply = answer.await;
        (reply.status.as_u16(), asked.elapsed())
    };
    let mut change = Box::pin(stage.api.patch(&path, json!({ "max_queue_depth": 5 })));
    let mut redrive = Box::pin(stage.api.post("/v1/dead-letters/redrive", json!({ "destination_id": id })));
    let mut remove = Box::pin(stage.api.delete(&path));
    let answers = tokio::join!(timed(&mut change), timed(&mut redrive), timed(&mut remove));
    for (status, took) in [answers.0, answers.1, answers.2] {
        assert_eq!(status, 503);
        assert!(took < Duration::from_secs(5), "{took:?}");
    }
    holder.sql("commit").await;
    blocked.await.expect("it is queued");
    stage.api.patch(&path, json!({ "max_queue_depth": 5 })).await.expect(200);
    stage.api.post("/v1/dead-letters/redrive", json!({ "destination_id": id })).await.expect(201);
    stage.api.delete(&path).await.expect(204);
}

#[tokio::test]
async fn the_trigger_of_the_page_queues_what_the_page_shows() {
    const PAGE: &str = include_str!("../docs/FAILURES.md");
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let section = PAGE.split_once("create table orders (").expect("the page has the example").1;
    let example = section.split_once("```").expect("the block ends").0;
    let addressed = example.replace("orderly.enqueue(\n        1,", &format!("orderly.enqueue({id},"));
    assert_ne!(addressed, example, "its destination is 1");
    stage.queue.sql(&format!("create table orders ({addressed}")).await;
    let _worker = stage.worker(&[]).await;
    let received = receiver.wait_for_ended(2).await;
    let shown =
        |event: &str, state: &str| json!({ "event": event, "order": { "id": 1, "state": state, "customer": "Ada" } });
    assert_eq!(received[0].json(), shown("insert", "open"));
    assert_eq!(received[1].json(), shown("update", "paid"));
    assert_eq!((received[0].header("x-event"), received[0].body.len()), ("order.insert", 75));
    stage.until_empty(id).await;
    // One that is rolled back queues nothing.
    stage.queue.sql("begin; insert into orders (customer) values ('Eve'); rollback").await;
    assert_eq!(stage.queue.queued().await, 0);
    assert!(PAGE.contains(std::str::from_utf8(&received[0].body).expect("text")), "the page shows its bytes");
}

fn message(destination: i64) -> Value {
    json!({ "destination_id": destination, "payload": 1 })
}

/// Connections of this database that wait for a lock.
const LOCK_WAITS: &str = "select count(*) from pg_stat_activity where datname = current_database()
     and wait_event_type = 'Lock' and query like '%orderly.enqueue%'";

#[tokio::test]
async fn an_applications_transaction_after_a_restart_stops_nobody() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let (held, free) = (
        stage.api.post_destination(&receiver.url("/held")).await,
        stage.api.post_destination(&receiver.url("/free")).await,
    );
    let application = Queue::on(&stage.database).await;
    // What a restart of Postgres leaves: nobody has been there since.
    application.sql("delete from orderly.incarnation").await;
    application.sql(&format!("begin; select orderly.enqueue({held}, '1')")).await;
    stage.api.post_message(free, json!("first")).await;
    let _worker = stage.worker(&[]).await;
    receiver.wait_for_ended(1).await;
    application.sql("commit").await;
    receiver.wait_for_ended(2).await;
    // After a failover it has to try again.
    application.sql("delete from orderly.incarnation; update orderly.cluster set timeline = '000000FF'").await;
    let refused = application.connection.client.batch_execute(&format!("select orderly.enqueue({held}, '2')")).await;
    let code = refused.expect_err("numbers may be given twice").code().cloned();
    assert_eq!(code, Some(tokio_postgres::error::SqlState::T_R_SERIALIZATION_FAILURE));
    stage.api.post_message(free, json!("second")).await;
    application.sql(&format!("select orderly.enqueue({held}, '3')")).await;
    receiver.wait_for_ended(4).await;
}

#[tokio::test]
async fn what_is_committed_after_its_503_is_rung_for() {
    let postgres = private_postgres_with(&[]).await;
    let database = TestDatabase::on(&postgres).await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::start().await;
    let id = queue.destination(&receiver.url("/x")).await;
    let (_serving, api) = Api::serve(&database).await;
    let worker = worker(&database, &["--persistent"]).await;
    queue.sql("create table written (n int)").await;
    let (_, writing) = queue.make_commits_wait(&database, "insert into written values (1)").await;
    api.post("/v1/messages", json!({ "destination_id": id, "payload": "late" })).await.expect(503);
    queue.let_commits_end().await;
    writing.await.expect("it commits");
    receiver.wait_for_ended(1).await;
    let log = worker.stderr().join("\n");
    assert!(!log.contains("no bell had told of"), "{log}");
}

#[tokio::test]
async fn what_is_accepted_or_taken_back_is_durable_whatever_the_servers_default_is() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let id = queue.destination("http://127.0.0.1:9/").await;
    for call in [
        "enqueue($1, '1')",
        "try_control($1, 'pause', '{}', null)",
        "try_control($1, 'skip', '{}', null)",
        "disable($1)",
        "remove_destination($1, null)",
    ] {
        for (default, wanted) in [("off", "on"), ("local", "on"), ("remote_apply", "remote_apply")] {
            queue.sql(&format!("begin; set local synchronous_commit = {default}")).await;
            queue.number(&format!("select count(orderly.{call}::text)"), &[&id]).await;
            let raised = format!("select (current_setting('synchronous_commit') = '{wanted}')::int::bigint");
            assert_eq!(queue.number(&raised, &[]).await, 1, "{call} with {default}");
            queue.sql("rollback").await;
        }
    }
}

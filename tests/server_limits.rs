//! When something that all sessions of Postgres share is used up, is everybody told, and does all go on after it?

use std::time::Duration;

use serde_json::json;

use crate::support::posters::{assert_all_arrived, assert_told_in_time};
use crate::support::{
    Answer, Api, PATIENCE, Posters, Queue, Receiver, Stopped, TestDatabase, destinations, private_postgres_with, skip,
    until, worker,
};

#[tokio::test]
async fn with_the_lock_table_full_clients_hear_503_and_all_goes_on_when_there_is_room() {
    const QUEUES: usize = 60;
    let postgres = private_postgres_with(&[("max_locks_per_transaction", "10"), ("max_connections", "30")]).await;
    let database = TestDatabase::on(&postgres).await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(5))).await;
    let ids = destinations(&queue, &receiver, QUEUES).await;
    let (_serving, api) = Api::serve(&database).await;
    let worker = worker(&database, &["--persistent"]).await;
    let posters = Posters::start(&api, &ids[..4]);
    posters.wait_for_each(3, |one| one.accepted()).await;
    // An application that locks whatever it can; its locks survive the error. 1,000 at a time, then one by one.
    let thief = Queue::on(&database).await;
    let (mut taken, mut piece) = (0, 1_000);
    while piece > 0 {
        let sql = format!("select count(pg_advisory_lock(n)) from generate_series({taken}, {taken} + {piece} - 1) n");
        match thief.connection.client.query_one(&sql, &[]).await {
            Ok(_) => taken += piece,
            Err(error) => {
                assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::OUT_OF_MEMORY), "{error:?}");
                // What it got of them it keeps.
                piece /= 1_000;
            }
        }
    }
    // More destinations than there are locks for, and their bells.
    for id in &ids[4..] {
        let body = json!({ "destination_id": id, "payload": "more" });
        let told = async || api.post("/v1/messages", body.clone()).await.status.as_u16();
        let accepted = tokio::time::timeout(Duration::from_millis(200), told()).await;
        assert!(accepted.is_err() || accepted.is_ok_and(|status| status == 201 || status == 503));
    }
    let full = || worker.stderr().iter().filter(|line| line.contains("out of shared memory")).count();
    until(Duration::from_secs(30), async || full(), |full| *full > 0).await;
    drop(thief);
    posters.wait_for_each(5, |one| one.accepted()).await;
    let posted = posters.stop().await;
    let slowest = assert_told_in_time(&posted);
    let lost = worker.stderr().iter().filter(|line| line.contains("the session was lost")).count();
    assert_all_arrived(&receiver, &posted, &["/0", "/1", "/2", "/3"], lost).await;
    queue.until_empty().await;
    println!(
        "{} accepted, {} told 503, the slowest after {slowest:?}; the worker met the full table {} times and lost {lost} \
         sessions",
        posted.iter().filter(|one| one.accepted()).count(),
        posted.iter().filter(|one| !one.accepted()).count(),
        full(),
    );
}

/// Only since 17 the queue can be made small; before it is 8 GB.
#[tokio::test]
async fn with_the_notification_queue_full_posts_are_accepted_and_delivered_when_it_moves_again() {
    let probe = TestDatabase::new().await;
    let version = Queue::on(&probe).await.number("select current_setting('server_version_num')::bigint", &[]).await;
    if version < 170_000 {
        return skip("before Postgres 17 the notification queue cannot be made small enough to be filled");
    }
    let postgres = private_postgres_with(&[("max_notify_queue_pages", "64")]).await;
    let database = TestDatabase::on(&postgres).await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::start().await;
    let ids = destinations(&queue, &receiver, 2).await;
    let (mut serving, api) = Api::serve(&database).await;
    let workers = [worker(&database, &["--persistent"]).await, worker(&database, &["--persistent"]).await];
    let mut posted = vec![api.post_message(ids[0], json!(0)).await];
    receiver.wait_for_ended(1).await;
    // A session that listens and does not read.
    let stuck = Queue::on(&database).await;
    stuck.sql("listen anything").await;
    stuck.sql("begin").await;
    let filled = std::time::Instant::now();
    while queue.connection.client.execute("select pg_notify('anything', repeat('x', 7900))", &[]).await.is_ok() {
        assert!(filled.elapsed() < PATIENCE, "the queue does not fill");
    }
    for n in 1..20 {
        posted.push(api.post_message(ids[n % 2], json!(n)).await);
    }
    serving.stderr_line("the bell could not be rung; it will be").await;
    let refused = queue.connection.client.query("select orderly.enqueue($1, '1')", &[&ids[0]]).await;
    assert!(refused.is_err(), "a commit that could not tell of itself fails");
    // Workers say what they have to say later, and keep their sessions.
    let late = |line: &String| line.contains("a notification could not be sent; it will be");
    until(
        Duration::from_secs(60),
        async || workers.iter().any(|worker| worker.stderr().iter().any(late)),
        |late| *late,
    )
    .await;
    drop(stuck);
    let received = receiver.wait_for_ended(posted.len()).await;
    assert_eq!(received.len(), posted.len());
    for path in ["/0", "/1"] {
        receiver.assert_in_order(path);
    }
    for worker in &workers {
        assert!(!worker.stderr().iter().any(|line| line.contains("the session was lost")), "{:#?}", worker.stderr());
    }
}

/// The lock that all NOTIFYs of a cluster take is held by a commit that does not end.
#[tokio::test]
async fn with_notify_hanging_posts_are_accepted_and_delivered_when_it_goes_on() {
    let postgres = private_postgres_with(&[]).await;
    let database = TestDatabase::on(&postgres).await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::start().await;
    let ids = destinations(&queue, &receiver, 4).await;
    let (mut serving, api) = Api::serve(&database).await;
    let worker = worker(&database, &["--persistent"]).await;
    for id in &ids {
        api.post_message(*id, json!("first")).await;
    }
    receiver.wait_for_ended(4).await;
    // It waits for a standby, and its process is stopped there: nobody else has to wait for one.
    queue.sql("create table written (n int)").await;
    let notify = "insert into written values (1); notify anything";
    let (backend, notifying) = queue.make_commits_wait(&database, notify).await;
    let stopped = Stopped::by_pid(backend);
    queue.let_commits_end().await;

    let posters = Posters::start(&api, &ids);
    serving.stderr_line("the bell could not be rung; it will be").await;
    posters.wait_for_each(20, |one| one.accepted()).await;
    let ringing =
        "select count(*) from pg_locks where locktype = 'object' and classid = 1262 and objid = 0 and not granted
                   and pid in (select pid from pg_stat_activity where query like '%orderly.ring%')";
    let ringing = queue.number(ringing, &[]).await;
    assert!(ringing <= 4, "{ringing} sessions wait");
    let posted = posters.stop().await;
    drop(stopped);
    notifying.await.expect("it commits");
    assert!(posted.iter().all(|one| one.accepted()), "{posted:?}");
    let lost = worker.stderr().iter().filter(|line| line.contains("the session was lost")).count();
    assert_eq!(lost, 0, "{:#?}", worker.stderr());
    queue.until_empty().await;
    for path in ["/0", "/1", "/2", "/3"] {
        receiver.assert_in_order(path);
    }
    assert_eq!(receiver.received().len(), 4 + posted.len(), "each once");
}

fn list(pids: &[i32]) -> String {
    pids.iter().map(i32::to_string).collect::<Vec<_>>().join(",")
}

/// As `vacuum full` would lock it, or `alter table`: what was given up must not wait on in the server.
#[tokio::test]
async fn while_a_table_is_locked_clients_hear_503_and_connections_do_not_pile_up() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::start().await;
    let ids = destinations(&queue, &receiver, 4).await;
    let (_serving, api) = Api::serve(&database).await;
    let worker = worker(&database, &["--persistent"]).await;
    let posters = Posters::start(&api, &ids);
    posters.wait_for_each(3, |one| one.accepted()).await;
    let locks = Queue::on(&database).await;
    locks.sql("begin; lock table orderly.queues in access exclusive mode").await;
    posters.wait_for_each(1, |one| !one.accepted()).await;
    let waiting = "select array_agg(pid) from pg_locks where relation = 'orderly.queues'::regclass and not granted";
    let given_up: Vec<i32> = locks.connection.client.query_one(waiting, &[]).await.expect("pids").get(0);
    assert!(!given_up.is_empty());
    let still_there =
        format!("select count(*) from pg_locks where not granted and pid = any ('{{{}}}')", list(&given_up));
    locks.until(&still_there, 0).await;
    locks.sql("rollback").await;
    posters.wait_for_each(5, |one| one.accepted()).await;
    let posted = posters.stop().await;
    assert_told_in_time(&posted);
    assert_all_arrived(&receiver, &posted, &["/0", "/1", "/2", "/3"], 0).await;
    drop(worker);
}

/// As `reindex`, or `vacuum full`, for longer than a worker's statements wait for a lock.
#[tokio::test]
async fn while_messages_cannot_be_read_what_is_in_flight_goes_on() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|received| match received.path.as_str() {
        "/0" => Answer::ok().after(Duration::from_secs(6)),
        _ => Answer::ok(),
    })
    .await;
    let ids = destinations(&queue, &receiver, 2).await;
    let mut worker = worker(&database, &["--persistent"]).await;
    queue.enqueue(ids[0], json!("in flight")).await;
    receiver.wait_for_count(1).await;
    let locks = Queue::on(&database).await;
    locks.sql("begin; lock table orderly.messages in access exclusive mode").await;
    queue.sql(&format!("select orderly.ring('b{}')", ids[1])).await;
    worker.stderr_line("the database does not let this be read yet").await;
    locks.sql("rollback").await;
    queue.enqueue(ids[1], json!("after it")).await;
    queue.until_empty().await;
    assert_eq!(receiver.received().len(), 2, "each once");
    let log = worker.stderr().join("\n");
    assert!(!log.contains("the session was lost"), "{log}");
}

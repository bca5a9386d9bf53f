//! What happens when a connection breaks, a client hangs up, or there is no database at all?

use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::{Answer, Process, Receiver, Stage, until};

/// Cuts the connections that `which` chooses of the worker's three, while it delivers.
async fn cut(which: &str) {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(15))).await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(stage.api.post_destination(&receiver.url(&format!("/{n}"))).await);
    }
    let mut worker = stage.worker(&[]).await;
    for id in &ids {
        stage.post_many(*id, 60).await;
    }
    receiver.wait_for_count(20).await;
    let sql = format!(
        "select count(pg_terminate_backend(pid)) from pg_stat_activity a
         where datname = current_database() and application_name = 'orderly' and pid <> pg_backend_pid() and {which}"
    );
    let ended = stage.queue.number(&sql, &[]).await;
    assert_eq!(ended, 1, "the worker has one such connection");
    worker.stderr_line("the session was lost").await;
    let cut = Instant::now();
    let everything = |all: &[crate::support::Received]| {
        (0..4).all(|n| {
            let path = format!("/{n}");
            all.iter().any(|one| one.path == path && one.json()["n"] == 59 && one.ended_at.is_some())
        })
    };
    let received = receiver.wait_for(everything).await;
    assert!(received.len() <= 4 * 60 + 4, "only what was in flight comes again: {}", received.len());
    for n in 0..4 {
        receiver.assert_in_order(&format!("/{n}"));
    }
    let after = received.iter().find(|one| one.arrived_at > cut).expect("it went on");
    assert!(after.arrived_at - cut < Duration::from_secs(5), "{:?}", after.arrived_at - cut);
    // It listens again: an idle destination's message starts at once.
    stage.queue.until("select count(*) from orderly.messages", 0).await;
    let idle = stage.api.post_destination(&receiver.url("/idle")).await;
    stage.api.post_message(idle, json!(1)).await;
    let posted = Instant::now();
    let received = receiver.wait_for(|all| all.iter().any(|one| one.path == "/idle")).await;
    let first = received.iter().find(|one| one.path == "/idle").expect("it came");
    assert!(first.arrived_at.saturating_duration_since(posted) < Duration::from_secs(3), "a bell, not a sweep");
}

#[tokio::test]
async fn a_workers_session_that_is_cut_repeats_only_what_was_in_flight() {
    cut("exists (select from pg_locks l where l.pid = a.pid and l.locktype = 'advisory' and l.mode = 'ExclusiveLock'
                 and l.classid::bigint >> 24 = 80)")
    .await;
}

#[tokio::test]
async fn a_workers_second_connection_that_is_cut_repeats_only_what_was_in_flight() {
    cut("query like '%unnest($1::bigint[], $2::bigint[])%'").await;
}

#[tokio::test]
async fn a_workers_watch_that_is_cut_repeats_only_what_was_in_flight() {
    cut("query like '%orderly.watch(%'").await;
}

#[tokio::test]
async fn a_client_that_hangs_up_leaves_a_whole_message_or_none() {
    let stage = Stage::new().await;
    let receiver = Receiver::start().await;
    let id = stage.api.post_destination(&receiver.url("/x")).await;
    let address = stage.api.base().strip_prefix("http://").expect("plain HTTP").to_owned();
    let body = |n: usize| format!(r#"{{"destination_id": {id}, "payload": {{"n": {n}}}}}"#);
    let head = |length: usize| {
        format!(
            "POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        )
    };
    // In the middle of the head, of the body, and with all said and no answer waited for.
    for n in 0..30 {
        let body = body(n);
        let whole = format!("{}{body}", head(body.len()));
        let mut stream = TcpStream::connect(&address).await.expect("it listens");
        let part = match n % 3 {
            0 => 20,
            1 => whole.len() - 3,
            _ => whole.len(),
        };
        stream.write_all(&whole.as_bytes()[..part]).await.expect("it is taken");
        drop(stream);
    }
    // The same with a half-closed socket, whose answer still comes.
    let body = body(30);
    let mut stream = TcpStream::connect(&address).await.expect("it listens");
    stream.write_all(format!("{}{body}", head(body.len())).as_bytes()).await.expect("it is taken");
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.expect("an answer");
    assert_eq!(&answer[..], b"HTTP/1.1 201");
    let last = stage.api.post_message(id, json!({ "n": 99 })).await;
    let _worker = stage.worker(&[]).await;
    let received = receiver.wait_for(|all| all.iter().any(|one| one.header("webhook-id") == last)).await;
    let mut seen: Vec<i64> = received.iter().map(|one| one.json()["n"].as_i64().expect("whole")).collect();
    seen.sort_unstable();
    assert!(seen.is_sorted_by(|a, b| a < b), "none twice: {seen:?}");
    assert!(seen.iter().all(|n| *n >= 30 || n % 3 == 2), "half a message is none: {seen:?}");
    assert!(seen.contains(&30) && seen.contains(&99));
    until(
        Duration::from_secs(5),
        async || stage.api.get("/health/ready").await.status.as_u16(),
        |status| *status == 200,
    )
    .await;
}

#[tokio::test]
async fn without_a_database_a_process_says_so_in_one_line_and_exits_1() {
    // A port that was free a moment ago.
    let free = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port").local_addr().expect("bound");
    let url = format!("postgres://nobody@{free}/nothing");
    let environment = [("DATABASE_URL", url.as_str())];
    for arguments in [&["serve", "--listen", "127.0.0.1:0"][..], &["worker"], &["worker", "--persistent"], &["migrate"]]
    {
        let ended = Process::run(arguments, &environment).await;
        assert_eq!(ended.code(), 1, "{arguments:?}: {ended:?}");
        let said: Vec<_> = ended.stderr.iter().filter(|line| !line.is_empty()).collect();
        assert_eq!(said.len(), 1, "{arguments:?}: {said:#?}");
        assert!(said[0].contains("out of reach") || said[0].contains("refused"), "{said:?}");
        assert!(ended.stdout.is_empty(), "{ended:?}");
    }
}

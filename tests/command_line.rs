//! Does the executable behave as a shell's user expects?

use serde_json::json;

use rustix::process::Signal;

use crate::support::{Api, Process, scratch_folder};

/// Port 1 of this machine: nobody is there.
const NO_DATABASE: (&str, &str) = ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");

#[tokio::test]
async fn wrong_usage_ends_with_2() {
    for arguments in [
        &["frobnicate"][..],
        &[],
        &["worker", "--retry", "-1", "--database-url", "postgres://x/y"],
        &["worker", "--retry-delay", "soon", "--database-url", "postgres://x/y"],
        &["serve", "--listen", "nowhere", "--database-url", "postgres://x/y"],
        &["migrate"],
        &["openapi", "--format", "xml"],
        &["migrate", "--log", "a=b=c", "--database-url", "postgres://x/y"],
    ] {
        let ended = Process::run(arguments, &[]).await;
        assert_eq!(ended.code(), 2, "{arguments:?}: {ended:?}");
        assert!(ended.stdout.is_empty(), "{arguments:?}: {ended:?}");
    }
}

#[tokio::test]
async fn without_a_database_there_is_one_line_and_a_1() {
    for arguments in [&["worker"][..], &["worker", "--persistent"], &["migrate"], &["serve"]] {
        let ended = Process::run(arguments, &[NO_DATABASE]).await;
        assert_eq!(ended.code(), 1, "{ended:?}");
        assert_eq!(ended.stderr.len(), 1, "{ended:?}");
        assert!(ended.stderr[0].contains("the database is out of reach"), "{ended:?}");
        assert!(ended.stdout.is_empty(), "{ended:?}");
    }
}

#[tokio::test]
async fn a_url_that_is_none_is_told_in_one_line() {
    let ended = Process::run(&["migrate"], &[("DATABASE_URL", "not a url")]).await;
    assert_eq!((ended.code(), ended.stderr.len()), (1, 1), "{ended:?}");
}

#[tokio::test]
async fn help_and_version_go_to_stdout() {
    let ended = Process::run(&["--help"], &[]).await;
    assert_eq!(ended.code(), 0);
    for command in ["dev", "serve", "worker", "migrate", "openapi", "receiver", "doctor", "queues"] {
        assert!(ended.stdout.iter().any(|line| line.trim_start().starts_with(command)), "{command} in {ended:?}");
    }
    let ended = Process::run(&["--version"], &[]).await;
    assert_eq!(ended.stdout, [format!("orderly {}", env!("CARGO_PKG_VERSION"))]);
}

#[tokio::test]
async fn the_receiver_prints_sequences_and_warns_of_holes() {
    let mut receiver = Process::start(&["receiver", "--port", "0", "--fail-every", "4"], &[]);
    let line = receiver.stdout_line("receiving on ").await;
    let api = Api::new(line.split_whitespace().last().unwrap());
    let send = |sequence: i64, previous: i64| {
        let api = api
            .with_header("orderly-sequence", &sequence.to_string())
            .with_header("orderly-previous-sequence", &previous.to_string())
            .with_header("orderly-attempt", "1")
            .with_header("webhook-id", "1-7");
        async move { api.post("/hook", json!({"hello": "world"})).await.status.as_u16() }
    };
    assert_eq!(send(7, 0).await, 200);
    let line = receiver.stdout_line("sequence 7 ").await;
    assert!(line.contains("attempt 1 previous 0 id 1-7 /hook application/json 17 bytes -> 200"), "{line}");
    assert!(line.contains(r#"{"hello":"world"}"#), "{line}");
    assert_eq!(send(8, 7).await, 200);
    assert_eq!(send(12, 10).await, 200);
    receiver.stdout_line("WARNING: /hook got 8 last, and 10 is said to be the one before 12").await;
    assert_eq!(send(13, 12).await, 500, "every fourth fails");
    receiver.signal(Signal::INT);
    let ended = receiver.ended().await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!(ended.stdout.iter().filter(|line| line.starts_with("WARNING")).count(), 1, "{ended:?}");
}

#[tokio::test]
async fn a_taken_port_is_one_line() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Process::run(&["receiver", "--listen", &address], &[]).await;
    assert_eq!((ended.code(), ended.stderr.len()), (1, 1), "{ended:?}");
    assert!(ended.stderr[0].contains(&address), "{ended:?}");
}

#[tokio::test]
async fn dev_runs_once_for_a_folder_keeps_its_data_and_stops_on_a_signal() {
    let folder = scratch_folder();
    let path = folder.to_str().unwrap();
    let arguments = ["dev", "--data-dir", path, "--listen", "127.0.0.1:0"];
    for signal in [Signal::INT, Signal::TERM] {
        let mut dev = Process::start(&arguments, &[]);
        dev.stdout_line("/doc").await;

        let second = Process::run(&arguments, &[]).await;
        assert_eq!(second.code(), 1, "{second:?}");
        assert_eq!(second.stderr.len(), 1, "{second:?}");
        assert!(second.stderr[0].contains("in use by another process"), "{second:?}");

        dev.signal(signal);
        assert_eq!(dev.ended().await.code(), 0);
        assert!(!folder.join("postgres/postmaster.pid").exists(), "Postgres was stopped before");
    }
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ended = Process::run(&["dev", "--data-dir", path, "--listen", &address], &[]).await;
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert!(ended.stderr.last().is_some_and(|line| line.contains(&address)), "{ended:?}");
    assert!(!folder.join("postgres/postmaster.pid").exists(), "Postgres was stopped before");
    orderly::embedded::remove(&folder).await.expect("nobody uses it any more");
}

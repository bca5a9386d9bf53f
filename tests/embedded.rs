//! Does the private Postgres start, stop, and come back from whatever happened to it?

use std::path::Path;

use orderly::embedded::{EmbeddedError, EmbeddedOptions, EmbeddedPostgres, Keep, StopMode, remove};
use orderly::store::connect::{Connector, Dedicated};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

use crate::support::{PATIENCE, Process, postgres_bin, private_postgres, scratch_folder};

fn options(folder: &Path) -> EmbeddedOptions {
    EmbeddedOptions { bin: postgres_bin(), ..EmbeddedOptions::new(folder) }
}

async fn connect(postgres: &EmbeddedPostgres) -> Dedicated {
    let connector = Connector::parse(&postgres.url()).expect("its URL is sound");
    connector.dedicated().await.expect("it lets us in")
}

async fn count_notes(postgres: &EmbeddedPostgres) -> i64 {
    connect(postgres).await.client.query_one("select count(*) from notes", &[]).await.expect("the table").get(0)
}

async fn write_note(postgres: &EmbeddedPostgres) {
    let sql = "create table if not exists notes (at timestamptz); insert into notes values (now())";
    connect(postgres).await.client.batch_execute(sql).await.expect("a durable write");
}

#[tokio::test]
async fn data_outlives_a_stop_a_restart_and_a_kill() {
    let folder = scratch_folder("kept");
    let mut postgres = EmbeddedPostgres::start(options(&folder)).await.expect("it starts");
    write_note(&postgres).await;
    let port = postgres.port();
    postgres.restart(StopMode::Fast).await.expect("it restarts");
    assert_eq!(postgres.port(), port, "clients find it where it was");
    write_note(&postgres).await;
    postgres.restart(StopMode::Immediate).await.expect("it recovers");
    write_note(&postgres).await;
    // A session that is open must not keep the next start from coming.
    let _open = connect(&postgres).await;
    postgres.kill().await.expect("it is killed");
    assert_eq!(postgres.pid(), None);
    postgres.launch().await.expect("it recovers");
    assert_eq!(count_notes(&postgres).await, 3);

    postgres.stop(StopMode::Fast).await.expect("it stops");
    drop(postgres);
    let postgres = EmbeddedPostgres::start(options(&folder)).await.expect("it starts a second time");
    assert_eq!(count_notes(&postgres).await, 3);
    drop(postgres);
    remove(&folder).await.expect("nobody uses it any more");
    assert!(!folder.exists());
}

#[tokio::test]
async fn one_folder_has_one_postgres() {
    let postgres = private_postgres().await;
    let second = EmbeddedPostgres::start(options(postgres.dir())).await;
    assert!(matches!(&second, Err(EmbeddedError::InUse { pid, .. }) if *pid == Some(std::process::id())), "{second:?}");
    assert!(matches!(remove(postgres.dir()).await, Err(EmbeddedError::InUse { .. })));
    assert_eq!(connect(&postgres).await.client.query_one("select 1", &[]).await.unwrap().get::<_, i32>(0), 1);
}

#[tokio::test]
async fn nobody_gets_in_without_the_password() {
    let postgres = private_postgres().await;
    let url = format!("postgres://orderly:guess@127.0.0.1:{}/postgres", postgres.port());
    assert!(Connector::parse(&url).expect("a URL").dedicated().await.is_err());
}

#[tokio::test]
async fn a_taken_port_and_a_wrong_setting_are_told() {
    let first = private_postgres().await;
    let taken =
        EmbeddedOptions { port: Some(first.port()), keep: Keep::Nothing, ..options(&scratch_folder("private")) };
    let error = EmbeddedPostgres::start(taken).await.expect_err("the port is taken");
    assert!(matches!(error, EmbeddedError::PortTaken { port } if port == first.port()), "{error:?}");
    let wrong = EmbeddedOptions {
        settings: vec![("shared_buffers".to_owned(), "plenty".to_owned())],
        keep: Keep::Nothing,
        ..options(&scratch_folder("private"))
    };
    let error = EmbeddedPostgres::start(wrong).await.expect_err("no such value").to_string();
    assert!(error.contains("shared_buffers") && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn data_of_another_version_is_left_alone() {
    let folder = scratch_folder("kept");
    drop(EmbeddedPostgres::start(options(&folder)).await.expect("it starts"));
    let base = moved_or(&folder);
    std::fs::write(base.join("postgres/PG_VERSION"), "9\n").unwrap();
    let error = EmbeddedPostgres::start(options(&folder)).await.expect_err("the versions differ");
    assert!(matches!(error, EmbeddedError::OtherMajor { found: 9, .. }), "{error:?}");
    remove(&folder).await.expect("nobody uses it any more");
}

/// The folder, where the user that runs Postgres can reach it.
fn moved_or(folder: &Path) -> std::path::PathBuf {
    assert!(folder.join("postgres").is_dir(), "run the tests where others may enter the build's folder");
    folder.to_owned()
}

#[tokio::test]
async fn a_killed_starter_takes_its_postgres_along() {
    let folder = scratch_folder("kept");
    let dev = dev_process(&folder).await;
    let server = postmaster(&folder);
    dev.signal(Signal::KILL);
    dev.ended().await;
    wait_until_gone(server).await;
    remove(&folder).await.expect("nobody uses it any more");
}

#[tokio::test]
async fn what_a_killed_starter_left_behind_is_stopped_by_the_next() {
    let folder = scratch_folder("kept");
    // Without its starter and its watchdog, as after both were killed: the test starts it itself.
    let mut postgres = EmbeddedPostgres::start(options(&folder)).await.expect("it starts");
    write_note(&postgres).await;
    postgres.stop(StopMode::Fast).await.expect("it stops");
    drop(postgres);
    let dev = dev_process(&folder).await;
    let server = postmaster(&folder);
    kill_watchdog_of(&dev);
    dev.signal(Signal::KILL);
    dev.ended().await;
    assert!(test_kill_process(server).is_ok(), "without the watchdog it runs on");

    let postgres = EmbeddedPostgres::start(options(&folder)).await.expect("it takes the folder over");
    assert!(test_kill_process(server).is_err() || postmaster(&folder) != server);
    assert_eq!(count_notes(&postgres).await, 1);
    drop(postgres);
    remove(&folder).await.expect("nobody uses it any more");
}

async fn dev_process(folder: &Path) -> Process {
    let folder = folder.to_str().expect("a path in UTF-8");
    let mut dev = Process::start(&["dev", "--data-dir", folder, "--listen", "127.0.0.1:0"], &[]);
    dev.stdout_line("Orderly runs").await;
    dev
}

/// The server's number, from the file it keeps it in.
fn postmaster(folder: &Path) -> Pid {
    let text = std::fs::read_to_string(folder.join("postgres/postmaster.pid")).expect("it runs");
    Pid::from_raw(text.lines().next().unwrap().trim().parse().unwrap()).unwrap()
}

/// `kill -9` of the shell that guards the server of this process, found by its parent and its name.
fn kill_watchdog_of(process: &Process) {
    let output = std::process::Command::new("ps").args(["-A", "-o", "pid=,ppid=,args="]).output().expect("ps is there");
    let parent = process.pid().as_raw_pid().to_string();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let watchdog = text
        .lines()
        .map(|line| line.split_whitespace().collect::<Vec<_>>())
        .find(|words| words.get(1) == Some(&parent.as_str()) && words.contains(&"orderly-watchdog"))
        .and_then(|words| words[0].parse().ok())
        .and_then(Pid::from_raw)
        .expect("the watchdog runs");
    kill_process(watchdog, Signal::KILL).unwrap();
}

async fn wait_until_gone(process: Pid) {
    // Not our child: there is no event to wait for.
    let gone = async {
        while test_kill_process(process).is_ok() && !is_zombie(process) {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the server ends with its starter");
}

/// Where nobody collects orphans, as in some containers, they stay as zombies.
fn is_zombie(process: Pid) -> bool {
    let output =
        std::process::Command::new("ps").args(["-o", "stat=", "-p", &process.as_raw_pid().to_string()]).output();
    output.is_ok_and(|output| output.stdout.first() == Some(&b'Z'))
}

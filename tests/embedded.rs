//! Does the private Postgres start, stop, and come back from whatever happened to it?

use std::path::Path;
use std::time::Duration;

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
    let folder = scratch_folder();
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
    let taken = EmbeddedOptions { port: Some(first.port()), keep: Keep::Nothing, ..options(&scratch_folder()) };
    let error = EmbeddedPostgres::start(taken).await.expect_err("the port is taken");
    assert!(matches!(error, EmbeddedError::PortTaken { port } if port == first.port()), "{error:?}");
    let wrong = EmbeddedOptions {
        settings: vec![("shared_buffers".to_owned(), "plenty".to_owned())],
        keep: Keep::Nothing,
        ..options(&scratch_folder())
    };
    let error = EmbeddedPostgres::start(wrong).await.expect_err("no such value").to_string();
    assert!(error.contains("shared_buffers") && !error.contains('\n'), "{error}");
}

#[tokio::test]
async fn data_of_another_version_is_left_alone() {
    let folder = scratch_folder();
    drop(EmbeddedPostgres::start(options(&folder)).await.expect("it starts"));
    std::fs::write(folder.join("postgres/PG_VERSION"), "9\n").unwrap();
    let error = EmbeddedPostgres::start(options(&folder)).await.expect_err("the versions differ");
    assert!(matches!(error, EmbeddedError::OtherMajor { found: 9, .. }), "{error:?}");
    remove(&folder).await.expect("nobody uses it any more");
}

#[tokio::test]
async fn a_killed_starter_takes_its_postgres_along() {
    let folder = scratch_folder();
    let dev = dev_process(&folder).await;
    dev.signal(Signal::KILL);
    dev.ended().await;
    // Not our child, so there is no event to wait for; it removes this file last.
    let gone = async {
        while folder.join("postgres/postmaster.pid").exists() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("the server ends with its starter");
    remove(&folder).await.expect("nobody uses it any more");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn what_a_killed_starter_left_behind_is_stopped_by_the_next() {
    let folder = scratch_folder();
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

#[tokio::test]
async fn dev_starts_a_postgres_that_died_again() {
    let folder = scratch_folder();
    let mut dev = dev_process(&folder).await;
    let url = std::fs::read_to_string(folder.join("url")).expect("its URL");
    kill_process(postmaster(&folder), Signal::KILL).unwrap();
    dev.stderr_line("Postgres ended by itself and is started again").await;
    let connector = Connector::parse(url.trim()).expect("its URL is sound");
    let back = async {
        while connector.dedicated().await.is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, back).await.expect("it comes back where it was");
    dev.signal(Signal::INT);
    assert_eq!(dev.ended().await.code(), 0);
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
#[cfg(target_os = "linux")]
fn kill_watchdog_of(process: &Process) {
    let parent = format!("PPid:\t{}\n", process.pid().as_raw_pid());
    let watchdog = std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .find(|entry| {
            let read = |name| std::fs::read_to_string(entry.path().join(name)).unwrap_or_default();
            read("status").contains(&parent) && read("cmdline").contains("orderly-watchdog")
        })
        .and_then(|entry| Pid::from_raw(entry.file_name().to_str()?.parse().ok()?))
        .expect("the watchdog runs");
    kill_process(watchdog, Signal::KILL).unwrap();
}

//! When the disk is full, is a client told so, is nothing sent twice, and does all go on when there is room?
//!
//! Each test mounts a small tmpfs, which takes root.

use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use orderly::embedded::{EmbeddedPostgres, StopMode};

use crate::support::posters::{assert_all_arrived, assert_told_in_time, random_text};
use crate::support::{
    Answer, Api, Posters, Queue, Receiver, TestDatabase, destinations, private_postgres, private_postgres_with,
    scratch_folder, skip, until, worker,
};

const PATHS: [&str; 3] = ["/0", "/1", "/2"];
/// Of each message, and of what a receiver says to it: so that there is no room for them among what is left.
const FILLER: usize = 20_000;

/// A small disk, unmounted with this.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// `None`, said aloud, where nothing can be mounted. Its owner is that of the server's data.
    fn mount(at: &Path, megabytes: u32, postgres: &EmbeddedPostgres) -> Option<SmallDisk> {
        if !rustix::process::geteuid().is_root() {
            skip("a small disk is mounted, which takes root");
            return None;
        }
        let owner = postgres.dir().join("postgres").metadata().expect("it has data");
        let options = format!("size={megabytes}m,mode=0700,uid={},gid={}", owner.uid(), owner.gid());
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(at).output();
        match mounted {
            Ok(output) if output.status.success() => Some(SmallDisk(at.to_owned())),
            other => {
                skip(&format!("nothing can be mounted here: {other:?}"));
                None
            }
        }
    }

    fn filler(&self) -> PathBuf {
        self.0.join("filler")
    }

    fn fill(&self) {
        let mut file = std::fs::File::create(self.filler()).expect("it is there");
        while file.write_all(&[b'x'; 4096]).is_ok() {}
    }

    fn make_room(&self) {
        std::fs::remove_file(self.filler()).expect("it was filled");
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: a server that is stopped the hard way may still be there.
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn with_the_tables_disk_full_clients_hear_503_and_a_worker_waits_without_sending_again() {
    let postgres = private_postgres().await;
    let folder = scratch_folder();
    std::fs::create_dir(&folder).expect("a folder");
    let Some(disk) = SmallDisk::mount(&folder, 40, &postgres) else { return };
    let admin = Queue { connection: TestDatabase::at(postgres.url()).connect().await };
    admin.sql(&format!("create tablespace small location '{}'", folder.display())).await;
    admin.sql("create database orders tablespace small").await;
    let database = TestDatabase::migrated(postgres.url_for("orders")).await;
    let slow = Arc::new(AtomicBool::new(false));
    let receiver = {
        let slow = slow.clone();
        Receiver::answering(move |_| {
            let after = Duration::from_millis(if slow.load(Ordering::Relaxed) { 1_000 } else { 5 });
            Answer::ok().body(random_text(FILLER)).after(after)
        })
        .await
    };
    let ids = destinations(&Queue::on(&database).await, &receiver, PATHS.len()).await;
    let (_serving, api) = Api::serve(&database).await;
    let worker = worker(&database, &["--persistent"]).await;
    let posters = Posters::with_filler(&api, &ids, FILLER);
    posters.wait_for_each(3, |one| one.accepted()).await;
    // So many wait that their outcomes do not fit into pages that are there already.
    slow.store(true, Ordering::Relaxed);
    posters.wait_for_each(20, |one| one.accepted()).await;

    disk.fill();
    slow.store(false, Ordering::Relaxed);
    posters.wait_for_each(3, |one| !one.accepted()).await;
    let waits = || worker.stderr().iter().filter(|line| line.contains("outcomes cannot be written yet")).count();
    until(Duration::from_secs(30), async || waits(), |waits| *waits >= 6).await;
    disk.make_room();
    posters.wait_for_each(5, |one| one.accepted()).await;
    let posted = posters.stop().await;
    let slowest = assert_told_in_time(&posted);
    let received = assert_all_arrived(&receiver, &posted, &PATHS, 0).await;
    Queue::on(&database).await.until_empty().await;
    assert!(!worker.stderr().iter().any(|line| line.contains("the session was lost")), "{:#?}", worker.stderr());
    println!(
        "{} accepted, {} told 503, the slowest after {slowest:?}; {} requests, none of them twice; {} waits of the worker",
        posted.iter().filter(|one| one.accepted()).count(),
        posted.iter().filter(|one| !one.accepted()).count(),
        received.len(),
        waits(),
    );
    drop((worker, admin, database, postgres, disk));
    let _ = std::fs::remove_dir(&folder);
}

#[tokio::test]
async fn with_the_logs_disk_full_postgres_ends_and_all_goes_on_once_there_is_room_and_it_is_started() {
    let mut postgres = private_postgres_with(&[("max_wal_size", "32MB"), ("min_wal_size", "32MB")]).await;
    let (wal, aside) = (postgres.dir().join("postgres/pg_wal"), postgres.dir().join("pg_wal.aside"));
    postgres.stop(StopMode::Fast).await.expect("it stops");
    std::fs::rename(&wal, &aside).expect("it is ours");
    std::fs::create_dir(&wal).expect("it is ours");
    let Some(disk) = SmallDisk::mount(&wal, 96, &postgres) else { return };
    let copied = Command::new("cp").args(["-a", "-T"]).args([&aside, &wal]).status().expect("cp runs");
    assert!(copied.success());
    postgres.launch().await.expect("it starts again");
    let database = TestDatabase::on(&postgres).await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(5))).await;
    let ids = destinations(&Queue::on(&database).await, &receiver, PATHS.len()).await;
    let (_serving, api) = Api::serve(&database).await;
    let worker = worker(&database, &["--persistent"]).await;
    let posters = Posters::with_filler(&api, &ids, FILLER);
    posters.wait_for_each(3, |one| one.accepted()).await;

    disk.fill();
    // What is left of the log's files is used up by what is posted; then Postgres panics.
    posters.wait_for_each(3, |one| !one.accepted()).await;
    disk.make_room();
    {
        // It may have given up; a supervisor starts it again.
        let again = posters.wait_for_each(5, |one| one.accepted());
        let mut again = std::pin::pin!(again);
        loop {
            tokio::select! {
                () = &mut again => break,
                () = postgres.ended() => {}
            }
            postgres.launch().await.expect("it starts again");
        }
    }
    let posted = posters.stop().await;
    let slowest = assert_told_in_time(&posted);
    let lost = worker.stderr().iter().filter(|line| line.contains("the session was lost")).count();
    assert!(lost >= 1, "{:#?}", worker.stderr());
    let received = assert_all_arrived(&receiver, &posted, &PATHS, lost).await;
    Queue::on(&database).await.until_empty().await;
    println!(
        "{} accepted, {} told 503, the slowest after {slowest:?}; {} requests; {lost} sessions lost",
        posted.iter().filter(|one| one.accepted()).count(),
        posted.iter().filter(|one| !one.accepted()).count(),
        received.len(),
    );
    drop((worker, database));
    postgres.stop(StopMode::Immediate).await.expect("it stops");
    drop((disk, postgres));
}

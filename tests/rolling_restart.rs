//! When all workers are replaced one by one while clients post, does nothing wait and nothing come twice?

use std::collections::HashMap;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::posters::{assert_all_arrived, assert_told_in_time};
use crate::support::{Answer, Posters, Receiver, Stage};

const WORKERS: usize = 3;
const DESTINATIONS: usize = 8;

/// From an accepted post to the start of its request; the one thing here that depends on the machine's speed.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

#[tokio::test]
async fn replacing_every_worker_in_turn_delays_nothing_for_a_second_and_repeats_nothing() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|_| Answer::ok().after(Duration::from_millis(5))).await;
    let paths: Vec<String> = (0..DESTINATIONS).map(|n| format!("/{n}")).collect();
    let mut ids = Vec::new();
    for path in &paths {
        ids.push(stage.api.post_destination(&receiver.url(path)).await);
    }
    let mut workers = Vec::new();
    for _ in 0..WORKERS {
        workers.push(stage.worker(&[]).await);
    }
    let posters = Posters::start(&stage.api, &ids);
    posters.wait_for_each(10, |one| one.accepted()).await;

    let begun = Instant::now();
    for worker in &mut workers {
        let old = std::mem::replace(worker, stage.worker(&[]).await);
        old.signal(Signal::TERM);
        let ended = old.ended().await;
        assert_eq!(ended.code(), 0, "{ended:?}");
        posters.wait_for_each(10, |one| one.accepted()).await;
    }
    // The same with nobody in its place until it has ended.
    for worker in &mut workers {
        worker.signal(Signal::TERM);
        let old = std::mem::replace(worker, stage.worker(&[]).await);
        assert_eq!(old.ended().await.code(), 0);
        posters.wait_for_each(10, |one| one.accepted()).await;
    }
    let took = begun.elapsed();
    let posted = posters.stop().await;
    assert_told_in_time(&posted);
    assert!(posted.iter().all(|one| one.accepted()), "no post was refused");
    let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
    let received = assert_all_arrived(&receiver, &posted, &paths, 0).await;

    let arrived: HashMap<&str, Instant> =
        received.iter().map(|one| (one.header("webhook-id"), one.arrived_at)).collect();
    let mut waits: Vec<Duration> = posted
        .iter()
        .filter_map(|one| Some((one, one.id.as_deref()?)))
        .map(|(one, id)| arrived[id].saturating_duration_since(one.began_at + one.took))
        .collect();
    waits.sort_unstable();
    let epochs: i64 = paths
        .iter()
        .map(|path| receiver.received_on(path).iter().map(|one| one.number("orderly-epoch")).max().unwrap_or(0))
        .sum();
    println!(
        "{} restarts in {took:?} under {} messages to {DESTINATIONS} destinations, {epochs} changes of worker: none sent \
         twice; from its 201 to its request a message waited {:?} (median), {:?} (99 %), {:?} (longest)",
        2 * WORKERS,
        posted.len(),
        waits[waits.len() / 2],
        waits[waits.len() * 99 / 100],
        waits[waits.len() - 1],
    );
    assert!(waits[waits.len() - 1] < LONGEST_WAIT, "{:?}", waits[waits.len() - 1]);
}

/// One that joins while another finishes a long request must not leave to it what is its own.
#[tokio::test]
async fn a_worker_that_joins_while_another_drains_serves_its_share_at_once() {
    let stage = Stage::new().await;
    let receiver = Receiver::answering(|one| if one.path == "/slow" { Answer::hang() } else { Answer::ok() }).await;
    let slow = stage.api.post_destination(&receiver.url("/slow")).await;
    let mut ids = Vec::new();
    for n in 0..40 {
        ids.push(stage.api.post_destination(&receiver.url(&format!("/{n}"))).await);
    }
    let draining = stage.worker(&[]).await;
    stage.api.post_message(slow, json!("hangs")).await;
    receiver.wait_for_count(1).await;
    let staying = stage.worker(&[]).await;
    draining.signal(Signal::TERM);
    // It says so before it gives anything back; what it holds it keeps until its request ends.
    let joined = stage.worker(&[]).await;
    for id in &ids {
        stage.api.post_message(*id, json!("for whoever stays")).await;
    }
    receiver.wait_for_within(Duration::from_secs(5), |all| all.len() > ids.len()).await;
    for worker in [&draining, &staying, &joined] {
        assert!(!worker.stderr().iter().any(|line| line.contains("no bell had told of")), "only the sweep found some");
    }
}

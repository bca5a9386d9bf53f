//! Who posts while something breaks, and what were they told?

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{Api, PATIENCE, Received, Receiver};

/// From one answer to the next post.
const PAUSE: Duration = Duration::from_millis(20);

/// Clients that post to one destination each, one message after the other, until they are stopped.
pub struct Posters {
    posted: Arc<watch::Sender<Vec<Posted>>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

/// A post and its answer.
#[derive(Debug, Clone)]
pub struct Posted {
    /// Which of the posters.
    pub poster: usize,
    pub began_at: Instant,
    pub took: Duration,
    pub status: u16,
    /// Of a 503.
    pub retry_after: Option<String>,
    /// Of a 201.
    pub id: Option<String>,
}

impl Posted {
    pub fn accepted(&self) -> bool {
        self.status == 201
    }
}

impl Posters {
    /// As many as `destinations` has entries; the payload of each message is `{"poster", "n", "filler"}`.
    pub fn start(api: &Api, destinations: &[i64]) -> Posters {
        Posters::with_filler(api, destinations, 0)
    }

    /// With so many random characters in each message.
    pub fn with_filler(api: &Api, destinations: &[i64], filler: usize) -> Posters {
        let (posted, stop) = (Arc::new(watch::Sender::new(Vec::new())), CancellationToken::new());
        let mut tasks = JoinSet::new();
        for (poster, destination) in destinations.iter().copied().enumerate() {
            let (api, posted, stop) = (Api::new(api.base()), posted.clone(), stop.clone());
            tasks.spawn(async move {
                let mut n = 0;
                while !stop.is_cancelled() {
                    let payload = json!({ "poster": poster, "n": n, "filler": random_text(filler) });
                    let one = post(&api, poster, json!({ "destination_id": destination, "payload": payload })).await;
                    n += 1;
                    posted.send_modify(|all| all.push(one));
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
        Posters { posted, stop, tasks }
    }

    pub fn so_far(&self) -> Vec<Posted> {
        self.posted.borrow().clone()
    }

    /// Waits until each poster has had so many answers, from now on, that are wanted.
    pub async fn wait_for_each(&self, count: usize, wanted: impl Fn(&Posted) -> bool) {
        let (now, posters) = (Instant::now(), self.tasks.len());
        let mut changes = self.posted.subscribe();
        let enough = |all: &Vec<Posted>| {
            (0..posters).all(|poster| {
                let own = all.iter().filter(|one| one.poster == poster && one.began_at + one.took > now);
                own.filter(|one| wanted(one)).count() >= count
            })
        };
        let found = tokio::time::timeout(PATIENCE * 2, changes.wait_for(enough)).await;
        let last: Vec<_> = self.so_far().into_iter().rev().take(10).collect();
        assert!(found.is_ok(), "the posters wait in vain; the last answers: {last:#?}");
    }

    pub async fn stop(mut self) -> Vec<Posted> {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.expect("no poster met what it did not expect");
        }
        self.so_far()
    }
}

async fn post(api: &Api, poster: usize, body: Value) -> Posted {
    let began_at = Instant::now();
    let reply = api.send(Method::POST, "/v1/messages", body.to_string()).await;
    Posted {
        poster,
        began_at,
        took: began_at.elapsed(),
        status: reply.status.as_u16(),
        retry_after: reply.headers.get("retry-after").map(|value| value.to_str().expect("ASCII").to_owned()),
        id: (reply.status == 201).then(|| reply.json()["id"].as_str().expect("an id").to_owned()),
    }
}

/// Which does not get smaller when it is compressed.
pub fn random_text(length: usize) -> String {
    (0..length.div_ceil(16)).map(|_| format!("{:016x}", rand::random::<u64>())).collect()
}

/// A client was told 201, or 503 with `Retry-After`, and nothing else, and within 5 s (API.md).
pub fn assert_told_in_time(posted: &[Posted]) -> Duration {
    for one in posted {
        assert!(one.status == 201 || one.status == 503, "{one:?}");
        assert_eq!(one.retry_after.is_some(), one.status == 503, "{one:?}");
        assert!(one.took < Duration::from_secs(5), "{one:?}");
    }
    posted.iter().filter(|one| !one.accepted()).map(|one| one.took).max().unwrap_or_default()
}

/// Waits until all that was accepted has arrived, and nothing is queued any more; then: each in order, no two at
/// a time, and on each path at most `repeats` came twice (G1 to G4). All requests.
pub async fn assert_all_arrived(
    receiver: &Receiver,
    posted: &[Posted],
    paths: &[&str],
    repeats: usize,
) -> Vec<Received> {
    let accepted: Vec<&str> = posted.iter().filter_map(|one| one.id.as_deref()).collect();
    assert!(!accepted.is_empty());
    let mut changes = tokio::time::interval(Duration::from_millis(100));
    let begun = Instant::now();
    let received = loop {
        changes.tick().await;
        let received = receiver.received();
        let done: std::collections::HashSet<&str> =
            received.iter().filter(|one| one.status == Some(200)).map(|one| one.header("webhook-id")).collect();
        let missing: Vec<_> = accepted.iter().filter(|id| !done.contains(*id)).collect();
        if missing.is_empty() {
            break received;
        }
        assert!(begun.elapsed() < PATIENCE * 2, "accepted, and never delivered: {missing:?}");
    };
    for path in paths {
        receiver.assert_in_order(path);
        let on_path: Vec<_> = received.iter().filter(|one| one.path == *path).collect();
        let distinct: std::collections::HashSet<i64> = on_path.iter().map(|one| one.sequence()).collect();
        assert!(on_path.len() - distinct.len() <= repeats, "{path}: {} of {}", on_path.len(), distinct.len());
    }
    // One id, one message.
    let mut bodies = std::collections::HashMap::new();
    for one in &received {
        let before = bodies.entry(one.header("webhook-id").to_owned()).or_insert_with(|| one.body.clone());
        assert_eq!(before, &one.body, "an id was given twice");
    }
    received
}

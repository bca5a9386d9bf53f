//! What does a test of the whole need: the API as a process, workers as processes, one database?

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use super::{Api, PATIENCE, Process, Queue, Received, TestDatabase, worker};

/// `orderly serve` on a database of its own; workers are started as the test wants them.
pub struct Stage {
    _serving: Process,
    pub api: Api,
    /// Past the API, for what it does not show.
    pub queue: Queue,
    pub database: TestDatabase,
}

impl Stage {
    pub async fn new() -> Stage {
        let database = TestDatabase::new().await;
        let (serving, api) = Api::serve(&database).await;
        Stage { _serving: serving, api, queue: Queue::on(&database).await, database }
    }

    /// One that runs until it is told to stop.
    pub async fn worker(&self, arguments: &[&str]) -> Process {
        worker(&self.database, &[&["--persistent"], arguments].concat()).await
    }

    /// The API dies without a word, and another process takes its place.
    pub async fn restart_api(&mut self) {
        (self._serving, self.api) = Api::serve(&self.database).await;
    }

    /// Its ids, in order; the payloads are `{"n": 0}`, `{"n": 1}` …
    pub async fn post_many(&self, destination: i64, count: usize) -> Vec<String> {
        let message = |n: usize| json!({ "destination_id": destination, "payload": { "n": n } });
        self.api.post_batch((0..count).map(message).collect()).await
    }

    /// Waits until the queue looks as the test wants it, and gives it.
    pub async fn until_queue(&self, destination: i64, wanted: impl Fn(&Value) -> bool) -> Value {
        self.until_queue_within(PATIENCE, destination, wanted).await
    }

    pub async fn until_queue_within(
        &self,
        limit: Duration,
        destination: i64,
        wanted: impl Fn(&Value) -> bool,
    ) -> Value {
        until(limit, async || self.api.queue(destination).await, wanted).await
    }

    pub async fn until_state(&self, destination: i64, state: &str) -> Value {
        self.until_queue(destination, |queue| queue["state"] == state).await
    }

    pub async fn until_empty(&self, destination: i64) {
        self.until_queue(destination, |queue| queue["depth"] == 0).await;
    }
}

impl Api {
    /// Their ids, in order.
    pub async fn post_batch(&self, messages: Vec<Value>) -> Vec<String> {
        let reply = self.post("/v1/messages/batch", json!({ "messages": messages })).await.expect(201);
        let id = |one: &Value| one["id"].as_str().expect("an id").to_owned();
        reply.json()["data"].as_array().expect("a list").iter().map(id).collect()
    }

    /// `pause`, `resume`, `skip` and so on: the queue after it.
    pub async fn steer(&self, destination: i64, verb: &str) -> Value {
        self.post(&format!("/v1/destinations/{destination}/{verb}"), json!({})).await.expect(200).json()
    }

    pub async fn message(&self, id: &str) -> Value {
        self.get(&format!("/v1/messages/{id}")).await.expect(200).json()
    }

    /// All tries of a message, oldest first.
    pub async fn attempts(&self, id: &str) -> Vec<Value> {
        let list = self.get(&format!("/v1/messages/{id}/attempts?limit=500")).await.expect(200).json();
        list["data"].as_array().expect("a list").clone()
    }

    /// Of one destination, at most a page.
    pub async fn dead_letters(&self, destination: i64) -> Vec<Value> {
        let path = format!("/v1/dead-letters?limit=500&destination_id={destination}");
        self.get(&path).await.expect(200).json()["data"].as_array().expect("a list").clone()
    }
}

/// Asks again and again until the answer is wanted: for what has no event to wait for.
pub async fn until<T: std::fmt::Debug>(limit: Duration, ask: impl AsyncFn() -> T, wanted: impl Fn(&T) -> bool) -> T {
    let begun = Instant::now();
    loop {
        let found = ask().await;
        if wanted(&found) {
            return found;
        }
        assert!(begun.elapsed() < limit, "after {limit:?} it is still {found:#?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// The number in `<destination>-<sequence>`.
pub fn sequence(id: &str) -> i64 {
    id.split_once('-').expect("an id").1.parse().expect("a sequence")
}

/// What came for one destination names, each time, exactly the one delivered before it and how many of `queued`
/// (all ids that were ever queued there) ended otherwise in between; sequences rise, one at a time (G2, G3). A
/// success comes again only from another worker, which the first one's death kept from hearing of it (G4).
pub fn assert_chain(received: &[Received], queued: &[String]) {
    let mut queued: Vec<i64> = queued.iter().map(|id| sequence(id)).collect();
    queued.sort_unstable();
    let (mut before, mut delivered, mut epoch) = (0, 0, 0);
    for one in received {
        let now = one.sequence();
        assert_eq!(one.overlap, 1, "two at a time at {now}");
        assert!(one.number("orderly-epoch") >= epoch, "an old epoch at {now}");
        assert!(now > delivered || now == delivered && one.number("orderly-epoch") > epoch, "{now} after {delivered}");
        let previous = if now == delivered { before } else { delivered };
        assert_eq!(one.number("orderly-previous-sequence"), previous, "before {now}");
        let holes = queued.iter().filter(|sequence| (previous + 1..now).contains(sequence)).count();
        assert_eq!(one.number("orderly-skipped"), i64::try_from(holes).expect("few"), "before {now}");
        epoch = one.number("orderly-epoch");
        if one.status.is_some_and(|status| (200..300).contains(&status)) {
            (before, delivered) = (previous, now);
        }
    }
    for pair in received.windows(2) {
        assert!(pair[0].sequence() <= pair[1].sequence(), "{} after {}", pair[1].sequence(), pair[0].sequence());
    }
}

//! Can an operator do the daily work from a terminal, over the network and straight on the database?

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::keys::{private_key, public_key};
use crate::support::process::Ended;
use crate::support::{Answer, Api, Process, Queue, Receiver, TestDatabase, worker};

const LOCAL: (&str, &str) = ("ORDERLY_ALLOW_NETWORK", "127.0.0.0/8");

/// Runs commands in one place.
struct Operator<'a> {
    place: Vec<(&'a str, &'a str)>,
}

impl Operator<'_> {
    async fn run(&self, arguments: &[&str]) -> Ended {
        Process::run(arguments, &self.place).await
    }

    #[track_caller]
    fn checked(ended: Ended, arguments: &[&str]) -> Vec<String> {
        assert_eq!(ended.code(), 0, "{arguments:?}: {ended:#?}");
        ended.stdout
    }

    async fn lines(&self, arguments: &[&str]) -> Vec<String> {
        Self::checked(self.run(arguments).await, arguments)
    }

    async fn json(&self, arguments: &[&str]) -> Value {
        let lines = self.lines(&[arguments, &["--json"]].concat()).await;
        serde_json::from_str(&lines.join("\n")).unwrap_or_else(|error| panic!("{error}: {lines:?}"))
    }

    /// Its one line on stderr.
    async fn refused(&self, arguments: &[&str]) -> String {
        let ended = self.run(arguments).await;
        assert_eq!((ended.code(), ended.stderr.len(), ended.stdout.len()), (1, 1, 0), "{arguments:?}: {ended:#?}");
        ended.stderr[0].clone()
    }
}

async fn work_a_day(operator: &Operator<'_>, receiver: &Receiver) {
    let url = receiver.url("/hook");
    let made = operator.json(&["destinations", "create", &url, "--description", "Orders", "--max-retries", "5"]).await;
    assert_eq!((&made["retry"]["max_retries"], &made["description"]), (&json!(5), &json!("Orders")));
    let id = made["id"].to_string();
    let id = id.as_str();
    let all = operator.lines(&["destinations", "list"]).await;
    assert!(all[0].starts_with("ID") && all.iter().any(|line| line.contains(&url)), "{all:?}");
    assert_eq!(operator.json(&["destinations", "list", "--url", &url]).await.as_array().unwrap().len(), 1);

    let paused = operator.json(&["destinations", "pause", id]).await;
    assert_eq!(paused["state"], "paused");
    let payload = r#"{"z": 1e400, "a": "\u00e9"}"#;
    let first = operator.json(&["messages", "post", id, payload]).await;
    let first_id = first["id"].as_str().unwrap();
    operator
        .lines(&["messages", "post", id, "-5 is no flag", "--content-type", "text/plain", "--ttl-seconds", "600"])
        .await;
    let shown = operator.lines(&["messages", "show", first_id]).await;
    assert!(shown.iter().any(|line| line.ends_with(payload)), "{shown:?}");
    let listed = operator.json(&["messages", "list", "--destination", id]).await;
    assert_eq!((listed.as_array().unwrap().len(), &listed[0]["id"]), (2, &first["id"]));
    assert_eq!(
        operator.json(&["messages", "list", "--destination", id, "--limit", "1"]).await.as_array().unwrap().len(),
        1
    );

    let table = operator.lines(&["queues"]).await;
    assert!(table[0].ends_with(" messages") && table[1].starts_with("DESTINATION"), "{table:?}");
    let row = table.iter().find(|line| line.contains(&url)).unwrap_or_else(|| panic!("{table:?}"));
    assert!(row.contains("paused") && row.contains(first_id), "{row}");
    let queue = operator.json(&["queues", "--blocked", "--destination", id]).await;
    assert_eq!((&queue[0]["depth"], &queue[0]["state"], &queue[0]["url"]), (&json!(2), &json!("paused"), &json!(url)));

    let wrong = operator.refused(&["destinations", "skip", id, "--message", &format!("{id}-999999")]).await;
    assert!(wrong.contains("(409 Conflict)"), "{wrong}");
    let skipped = operator.json(&["destinations", "skip", id, "--message", first_id]).await;
    assert_eq!(skipped["depth"], 1);
    let second = operator.json(&["messages", "list", "--destination", id]).await[0]["id"].as_str().unwrap().to_owned();
    assert_eq!(operator.lines(&["messages", "delete", &second]).await, [format!("message {second} is deleted")]);
    operator.lines(&["messages", "post", id, "1"]).await;
    assert_eq!(operator.json(&["destinations", "purge", id]).await["depth"], 0);
    assert_eq!(operator.json(&["destinations", "resume", id]).await["state"], "idle");
    let empty = operator.refused(&["destinations", "retry-now", id]).await;
    assert!(empty.contains("(409 Conflict)"), "{empty}");
    assert!(
        operator
            .lines(&["destinations", "show", id])
            .await
            .iter()
            .any(|line| line == "state         idle" || line.ends_with("idle"))
    );

    let secret = operator.json(&["destinations", "hmac-secret", id]).await["secret"].clone();
    assert!(secret.as_str().is_some_and(|secret| secret.starts_with("whsec_")), "{secret}");
    assert_eq!(operator.json(&["destinations", "hmac-secret", id, "--remove"]).await, json!({ "removed": id }));

    let wrong = operator.refused(&["destinations", "create", "ftp://example.com/"]).await;
    assert!(wrong.contains("/url the scheme must be http or https (422"), "{wrong}");
    let wrong = operator.refused(&["messages", "post", id, "{oops"]).await;
    assert!(wrong.contains("not JSON"), "{wrong}");
    let deleted = operator.json(&["destinations", "delete", id]).await;
    assert_eq!(deleted, json!({ "deleted": id }));
    assert!(operator.refused(&["destinations", "show", id]).await.contains("(404 Not Found)"));
}

#[tokio::test]
async fn a_days_work_over_the_network() {
    let database = TestDatabase::new().await;
    let (serving, api) = Api::serve(&database).await;
    let receiver = Receiver::start().await;
    work_a_day(&Operator { place: vec![("ORDERLY_API", api.base())] }, &receiver).await;
    drop(serving);
}

#[tokio::test]
async fn a_days_work_straight_on_the_database() {
    let database = TestDatabase::new().await;
    let receiver = Receiver::start().await;
    work_a_day(&Operator { place: vec![database.env(), LOCAL] }, &receiver).await;
}

#[tokio::test]
async fn exactly_one_place_is_named() {
    let (api, database) =
        (("ORDERLY_API", "http://127.0.0.1:1"), ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none"));
    for place in [&[][..], &[api, database]] {
        for command in
            [&["queues"][..], &["destinations", "list"], &["messages", "show", "1-1"], &["dead-letters", "list"]]
        {
            let ended = Process::run(command, place).await;
            assert_eq!((ended.code(), ended.stdout.len()), (2, 0), "{command:?} {ended:?}");
        }
    }
    for place in [api, database] {
        let ended = Process::run(&["queues"], &[place]).await;
        assert_eq!((ended.code(), ended.stderr.len(), ended.stdout.len()), (1, 1, 0), "{ended:?}");
    }
    let ended = Process::run(&["dead-letters", "redrive"], &[api]).await;
    assert_eq!(ended.code(), 2, "neither one nor all: {ended:?}");
}

#[tokio::test]
async fn a_token_is_carried_and_not_shown() {
    let database = TestDatabase::new().await;
    let (key, public) = (private_key(), public_key());
    let (serving, api) = Api::serve_with(&database, &["--jwt-public-key", public]).await;
    let refused = Operator { place: vec![("ORDERLY_API", api.base())] }.refused(&["queues"]).await;
    assert!(refused.contains("(401 Unauthorized)"), "{refused}");
    let token = Process::run(&["token", "--key", key, "--scope", "destinations:read"], &[]).await.stdout[0].clone();
    let operator = Operator { place: vec![("ORDERLY_API", api.base()), ("ORDERLY_TOKEN", &token)] };
    assert_eq!(operator.lines(&["queues"]).await, ["0 queues, 0 messages"]);
    let refused = operator.refused(&["messages", "post", "1", "1"]).await;
    assert!(refused.contains("messages:write") && refused.contains("(403 Forbidden)"), "{refused}");
    let help = operator.lines(&["queues", "--help"]).await;
    assert!(!help.iter().any(|line| line.contains(&token)), "{help:?}");
    drop(serving);
}

#[tokio::test]
async fn what_is_posted_on_the_database_wakes_a_worker_at_once() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::start().await;
    let id = queue.destination(&receiver.url("/x")).await;
    let running = worker(&database, &["--persistent"]).await;
    let operator = Operator { place: vec![database.env()] };
    operator.lines(&["messages", "post", &id.to_string(), r#"{"a":1}"#]).await;
    let posted = Instant::now();
    let received = receiver.wait_for_count(1).await;
    assert_eq!(&received[0].body[..], br#"{"a":1}"#);
    // The sweep would come after 20 s.
    assert!(posted.elapsed() < Duration::from_secs(10), "{:?}", posted.elapsed());
    drop(running);
}

#[tokio::test]
async fn dead_letters_are_seen_redriven_and_thrown_away() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let receiver = Receiver::answering(|_| Answer::status(500).body("no\u{1b}[2Jroom")).await;
    let id = queue.destination(&receiver.url("/x")).await;
    let name = id.to_string();
    for n in 0..3 {
        queue.enqueue(id, json!({ "n": n })).await;
    }
    let drained = Process::run(&["worker", "--retry", "0", "--allow-network", "127.0.0.0/8"], &[database.env()]).await;
    assert_eq!(drained.code(), 0, "{drained:?}");
    let (serving, api) = Api::serve(&database).await;
    let operator = Operator { place: vec![("ORDERLY_API", api.base())] };
    let letters = operator.json(&["dead-letters", "list", "--destination", &name]).await;
    let ids: Vec<&str> = letters.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(ids.len(), 3, "{letters}");
    let shown = operator.lines(&["dead-letters", "show", ids[0]]).await;
    assert!(
        shown.iter().any(|line| line.ends_with("exhausted")) && shown.iter().any(|line| line.starts_with("last_error")),
        "{shown:?}"
    );
    let attempts = operator.lines(&["messages", "attempts", ids[0]]).await;
    assert!(attempts[1].contains("500") && attempts.iter().all(|line| !line.contains('\u{1b}')), "{attempts:?}");
    assert_eq!(operator.json(&["dead-letters", "redrive", ids[0]]).await["redriven_from"], ids[0]);
    let told = operator.lines(&["dead-letters", "redrive", "--destination", &name]).await;
    assert_eq!(told, ["2 messages queued again, in their order"]);
    assert_eq!(queue.queued().await, 3);
    Process::run(&["worker", "--retry", "0", "--allow-network", "127.0.0.0/8"], &[database.env()]).await;
    let on_database = Operator { place: vec![database.env()] };
    let again = on_database.json(&["dead-letters", "list"]).await;
    let one = again[0]["id"].as_str().unwrap();
    assert_eq!(on_database.json(&["dead-letters", "delete", one]).await, json!({ "deleted": one }));
    assert_eq!(
        on_database.lines(&["dead-letters", "delete", "--destination", &name]).await,
        ["2 dead letters deleted"]
    );
    assert_eq!(on_database.json(&["dead-letters", "list"]).await, json!([]));
    drop(serving);
}

#[tokio::test]
async fn a_watch_looks_again_until_it_is_told_to_stop() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let id = queue.destination("http://127.0.0.1:1/").await;
    let mut watching = Process::start(&["queues", "--watch"], &[database.env()]);
    watching.stdout_line("0 queues, 0 messages").await;
    queue.enqueue(id, json!(1)).await;
    let row = watching.stdout_line("unserved").await;
    assert!(row.contains("http://127.0.0.1:1/"), "{row}");
    watching.signal(Signal::INT);
    assert_eq!(watching.ended().await.code(), 0);
}

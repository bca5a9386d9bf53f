//! Do the API and the workers run on the roles of docs/SECURITY.md, and may these roles do no more?

use std::time::Duration;

use orderly::embedded::EmbeddedPostgres;
use orderly::store::connect::{Connector, Dedicated};
use rustix::process::Signal;
use serde_json::json;

use crate::support::keys::private_key;
use crate::support::{Answer, Api, PATIENCE, Process, Receiver, private_postgres};

const PAGE: &str = include_str!("../docs/SECURITY.md");

/// The page's SQL: what creates the roles, and what grants them their rights.
fn blocks() -> (&'static str, &'static str) {
    let section = PAGE.split_once("\n## Roles\n").expect("the page has roles").1;
    let mut blocks = section.split("```sql\n").skip(1).map(|rest| rest.split_once("```").expect("the block ends").0);
    let pair = (blocks.next().expect("a first block"), blocks.next().expect("a second block"));
    assert_eq!(blocks.next(), None);
    pair
}

/// A cluster of this test alone, since roles belong to all of a cluster's databases.
struct Site {
    postgres: EmbeddedPostgres,
}

impl Site {
    async fn new() -> Site {
        let postgres = private_postgres().await;
        postgres.create_database("app").await.expect("a database");
        let site = Site { postgres };
        let (roles, grants) = blocks();
        let admin = site.connect("orderly").await;
        run(&admin, roles).await;
        // An application's role, and passwords: this cluster lets nobody in without.
        run(&admin, "create role shop login; grant orderly_producer to shop").await;
        for role in ["orderly_owner", "orderly_api", "orderly_worker", "shop"] {
            run(&admin, &format!("alter role {role} password 'secret'")).await;
        }
        let url = site.url("orderly_owner");
        let ended = Process::run(&["migrate"], &[("DATABASE_URL", &url)]).await;
        assert_eq!(ended.code(), 0, "{ended:?}");
        run(&site.connect("orderly_owner").await, grants).await;
        site
    }

    /// `orderly` is the cluster's superuser.
    fn url(&self, role: &str) -> String {
        let url = self.postgres.url_for("app");
        if role == "orderly" {
            return url;
        }
        let (_, place) = url.split_once('@').expect("a URL with a user");
        format!("postgres://{role}:secret@{place}")
    }

    async fn connect(&self, role: &str) -> Dedicated {
        Connector::parse(&self.url(role)).expect("a URL").dedicated().await.expect("the role gets in")
    }

    async fn worker(&self) -> Process {
        let arguments = ["worker", "--persistent", "--keep-payloads", "1", "--allow-network", "127.0.0.0/8"];
        let url = self.url("orderly_worker");
        let mut worker = Process::start(&arguments, &[("DATABASE_URL", &url), ("ORDERLY_SIGNING_KEY", private_key())]);
        worker.stderr_line("worker ready").await;
        worker
    }
}

async fn run(connection: &Dedicated, sql: &str) {
    connection.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn refused(connection: &Dedicated, sql: &str) {
    let error = connection.client.batch_execute(sql).await.expect_err(sql);
    assert_eq!(error.code().map(|code| code.code()), Some("42501"), "{sql}: {error:?}");
}

#[tokio::test]
async fn everything_works_on_the_roles_of_the_page() {
    let site = Site::new().await;
    let receiver = Receiver::answering(|received| match received.path.as_str() {
        "/gone" => Answer::status(410),
        "/bad" => Answer::status(500),
        "/slow" => Answer::ok().after(Duration::from_millis(50)),
        _ => Answer::ok(),
    })
    .await;
    let arguments =
        ["serve", "--listen", "127.0.0.1:0", "--allow-network", "127.0.0.0/8", "--signing-key", private_key()];
    let mut serve = Process::start(&arguments, &[("DATABASE_URL", &site.url("orderly_api"))]);
    let line = serve.stdout_line("the API listens on ").await;
    let api = Api::new(line.split_whitespace().find(|word| word.starts_with("http://")).unwrap().trim_end_matches(','));
    let (first, second) = (site.worker().await, site.worker().await);

    // What clients do.
    let keyed = api.with_header("idempotency-key", "once");
    let good = keyed.post_destination(&receiver.url("/good")).await;
    assert_eq!(keyed.post_destination(&receiver.url("/good")).await, good);
    let retry = json!({"max_retries": 0, "delay_seconds": 0, "backoff": 1});
    let bad = api.post_destination_with(json!({"url": receiver.url("/bad"), "retry": retry})).await;
    let gone = api.post_destination(&receiver.url("/gone")).await;
    api.patch(&format!("/v1/destinations/{good}"), json!({"max_queue_depth": 100})).await.expect(200);
    let message = keyed.post_message(good, json!(1)).await;
    assert_eq!(keyed.post_message(good, json!(1)).await, message);
    for id in [good, bad, gone] {
        api.post_message(id, json!(2)).await;
    }
    receiver.wait_for_ended(4).await;
    until(async || api.get(&format!("/v1/destinations/{gone}")).await.json()["state"] == "disabled").await;
    until(async || api.get("/v1/dead-letters").await.json()["data"].as_array().is_some_and(|all| all.len() == 1)).await;
    api.get(&format!("/v1/messages/{message}/attempts")).await.expect(200);
    api.get(&format!("/v1/messages/{message}")).await.expect(200);
    // 409 while the head is in flight: what was sent before a pause may still be.
    let control = async |id: i64, verb: &str| {
        until(async || {
            let reply = api.post(&format!("/v1/destinations/{id}/{verb}"), json!({})).await;
            reply.status != 409 && reply.expect(200).status == 200
        })
        .await;
    };
    // Free, and held by a worker.
    for id in [bad, good] {
        control(id, "pause").await;
        api.post("/v1/dead-letters/redrive", json!({"destination_id": bad})).await.expect(201);
        for n in 0..3 {
            api.post_message(id, json!(n)).await;
        }
        let brief = json!({"destination_id": id, "payload": 0, "ttl_seconds": 600});
        let unwanted = api.post_message_with(brief).await;
        control(id, "retry-now").await;
        control(id, "skip").await;
        api.delete(&format!("/v1/messages/{unwanted}")).await.expect(204);
        api.get(&format!("/v1/messages?destination_id={id}")).await.expect(200);
        control(id, "purge").await;
        control(id, "resume").await;
    }
    let slow = api.post_destination(&receiver.url("/slow")).await;
    for n in 0..40 {
        api.post_message(slow, json!(n)).await;
    }
    receiver.wait_for(|all| all.iter().any(|one| one.path == "/slow")).await;
    for verb in ["pause", "skip", "purge", "resume"] {
        control(slow, verb).await;
    }
    api.post("/v1/messages", json!({"destination_id": gone, "payload": 1})).await.expect(409);
    for id in [good, gone] {
        control(id, "test").await;
    }
    api.post(&format!("/v1/destinations/{good}/replay"), json!({"from_sequence": 1})).await.expect(200);
    api.get("/v1/workers").await.expect(200);
    api.get("/metrics").await.expect(200);
    api.delete(&format!("/v1/destinations/{slow}")).await.expect(204);
    api.delete(&format!("/v1/destinations/{bad}")).await.expect(204);

    // An application queues in its own transaction, and a worker is killed.
    let shop = site.connect("shop").await;
    run(&shop, &format!("select orderly.enqueue({good}, '\"from SQL\"')")).await;
    receiver.wait_for(|all| all.iter().any(|one| &one.body[..] == b"\"from SQL\"")).await;
    first.signal(Signal::KILL);
    let mut second = second;
    second.stderr_line("a worker died").await;
    run(&shop, &format!("select orderly.enqueue_bytes({good}, 'after', 'text/plain')")).await;
    receiver.wait_for(|all| all.iter().any(|one| &one.body[..] == b"after")).await;

    // What one worker does for all, some seconds after its start.
    let worker = site.connect("orderly_worker").await;
    for sql in [
        "select orderly.sweep(4), orderly.expire_unserved(10), orderly.expire_served()",
        "select orderly.ask(0, 'expire', '{}', 1)",
        "select orderly.maintain_partitions(7)",
        "select orderly.prune(7, 30, 1, 100)",
        "select orderly.remove_leftovers(100)",
        "select orderly.end_session(0)",
        "select orderly.unlock_strays('{}')",
    ] {
        run(&worker, sql).await;
    }
    for (name, process) in [("serve", &serve), ("worker", &second)] {
        let log = process.stderr().join("\n");
        assert!(!log.contains("denied") && !log.contains("ERROR"), "{name}: {log}");
    }
}

#[tokio::test]
async fn no_role_of_the_page_may_do_more() {
    let site = Site::new().await;
    let shop = site.connect("shop").await;
    for sql in [
        "select * from orderly.messages",
        "select * from orderly.destinations",
        "select orderly.maintain_partitions(0)",
        "select orderly.fence()",
        "select nextval('orderly.message_sequence')",
    ] {
        refused(&shop, sql).await;
    }
    let worker = site.connect("orderly_worker").await;
    for sql in [
        "update orderly.destinations set url = 'http://elsewhere.example/'",
        "insert into orderly.destinations (url, headers) values ('http://elsewhere.example/', '')",
        "delete from orderly.destinations",
        "update orderly.queues set tenant = 'x'",
        "update orderly.messages set payload = ''",
        "select * from orderly.signing_keys",
        "drop table orderly.attempts",
        "create table orderly.mine ()",
    ] {
        refused(&worker, sql).await;
    }
    let api = site.connect("orderly_api").await;
    for sql in [
        "update orderly.messages set payload = ''",
        "update orderly.ends set payload = ''",
        "delete from orderly.attempts",
        "select * from orderly.signing_keys",
        "select orderly.maintain_partitions(0)",
        "insert into orderly.workers (id, process, host, pid, kind) values (1, '', '', 1, 'general')",
    ] {
        refused(&api, sql).await;
    }
}

#[tokio::test]
async fn the_doctor_says_in_one_line_what_a_role_may_not_ask_and_who_may() {
    let site = Site::new().await;
    for (role, missing) in [
        ("orderly_api", vec!["secrets", "incarnation", "partitions"]),
        ("orderly_worker", vec!["secrets"]),
        ("shop", vec!["schema"]),
        ("orderly_owner", vec![]),
    ] {
        let ended = Process::run(&["doctor"], &[("DATABASE_URL", &site.url(role))]).await;
        assert_eq!(ended.code(), 0, "{role}: {ended:#?}");
        assert!(!ended.stdout.iter().any(|line| line.contains("denied")), "{role}: {ended:#?}");
        let told: Vec<_> = ended.stdout.iter().filter(|line| line.contains("not examined")).collect();
        if missing.is_empty() {
            assert!(told.is_empty(), "{told:?}");
            continue;
        }
        assert_eq!(told.len(), 1, "{role}: {ended:#?}");
        assert!(told[0].starts_with("warn  schema") && told[0].contains(role), "{told:?}");
        assert!(told[0].ends_with("run the doctor as orderly_owner, which owns it"), "{told:?}");
        for check in missing {
            assert!(told[0].contains(check), "{check} in {told:?}");
        }
    }
}

/// What the API shows has no event to wait for.
async fn until(reached: impl AsyncFn() -> bool) {
    let waiting = async {
        while !reached().await {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.expect("it comes about");
}

//! Does the doctor find what is wrong, and nothing where nothing is?

use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::process::Ended;
use crate::support::{Process, Queue, TestDatabase, private_postgres, worker};

/// What it said of one thing: level and text.
fn told<'a>(ended: &'a Ended, check: &str) -> Vec<&'a str> {
    let of_check = |line: &&str| line.get(6..).is_some_and(|rest| rest.starts_with(&format!("{check} ")));
    ended.stdout.iter().map(String::as_str).filter(of_check).collect()
}

#[track_caller]
fn assert_told(ended: &Ended, level: &str, check: &str, part: &str) {
    let lines = told(ended, check);
    assert!(lines.iter().any(|line| line.starts_with(level) && line.contains(part)), "{level} {part:?} in {ended:#?}");
}

#[tokio::test]
async fn a_sound_system_passes_and_what_breaks_is_told() {
    let mut postgres = private_postgres().await;
    postgres.create_database("sound").await.expect("a database is made");
    let url = postgres.url_for("sound");
    let env = [("DATABASE_URL", url.as_str())];

    let ended = Process::run(&["doctor"], &env).await;
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert_told(&ended, "FAIL", "schema", "run `orderly migrate`");

    assert_eq!(Process::run(&["migrate"], &env).await.code(), 0);
    let mut serving = Process::start(&["worker", "--persistent", "--allow-network", "127.0.0.0/8"], &env);
    serving.stderr_line("worker ready").await;
    let ended = Process::run(&["doctor"], &env).await;
    assert_eq!(ended.code(), 0, "{ended:#?}");
    assert!(!ended.stdout.iter().any(|line| line.starts_with("FAIL") || line.starts_with("warn")), "{ended:#?}");
    let mut checks: Vec<&str> =
        ended.stdout.iter().filter_map(|line| line.get(6..)?.split_once("  ")).map(|(check, _)| check).collect();
    checks.dedup();
    let expected = "database version schema connection commits replication sessions locks notifications transactions \
                    vacuum clock keys secrets incarnation partitions workers owners queues";
    assert_eq!(checks.join(" "), expected, "{ended:#?}");
    assert!(ended.stdout.last().is_some_and(|line| line.ends_with(" ok, 0 warn, 0 FAIL")), "{ended:?}");
    assert_told(&ended, "ok", "connection", "direct");
    assert_told(&ended, "ok", "workers", "1 alive");

    serving.signal(Signal::KILL);
    serving.ended().await;
    let owner = orderly::store::connect::Connector::parse(&url).unwrap().dedicated().await.unwrap();
    owner
        .client
        .batch_execute(
            "update orderly.cluster set timeline = 'elsewhere';
             alter table orderly.messages set (autovacuum_enabled = false);
             drop table if exists orderly.attempts_gone;
             do $$ begin execute format('drop table orderly.attempts_%s', to_char((clock_timestamp() at time zone 'UTC')::date, 'YYYYMMDD')); end $$;
             insert into orderly.claims (destination_id, floor, owner) values (77, 5000, 9999)",
        )
        .await
        .expect("it can be broken");
    let ended = Process::run(&["doctor"], &env).await;
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert_told(&ended, "FAIL", "incarnation", "timeline elsewhere");
    assert_told(&ended, "FAIL", "incarnation", "setval('orderly.message_sequence'");
    assert_told(&ended, "FAIL", "vacuum", "orderly.messages");
    assert_told(&ended, "warn", "partitions", "none for today");
    assert_told(&ended, "warn", "workers", "nothing is delivered");
    assert_told(&ended, "warn", "owners", "1 destination whose worker is gone");
    assert_eq!(ended.stderr.len(), 1, "{ended:?}");
    drop(owner);
    postgres.stop(orderly::embedded::StopMode::Fast).await.expect("it stops");
}

#[tokio::test]
async fn queues_that_do_not_move_are_named() {
    let database = TestDatabase::new().await;
    let queue = Queue::on(&database).await;
    let mut ids = Vec::new();
    for n in 0..4 {
        ids.push(queue.destination(&format!("http://127.0.0.1:1/{n}")).await);
    }
    let message = queue.enqueue(ids[0], json!(1)).await;
    queue
        .sql(&format!(
            "update orderly.claims set held = true, head_sequence = {message}, head_attempts = 4 where destination_id = {};
             update orderly.destinations set state = 'disabled' where id = {};
             update orderly.claims set next_attempt_at = clock_timestamp() + interval '1 h' where destination_id = {};
             update orderly.messages set created_at = created_at - interval '1 min'",
            ids[0], ids[1], ids[2]
        ))
        .await;
    queue.enqueue(ids[3], json!(1)).await;
    queue.sql("update orderly.messages set created_at = created_at - interval '1 min'").await;
    let ended = Process::run(&["doctor", "--json"], &[database.env()]).await;
    // The tests' server does not sync.
    assert_eq!(ended.code(), 1, "{ended:?}");
    let findings: Vec<Value> = serde_json::from_str(&ended.stdout.join("\n")).expect("an array");
    let found = |level: &str, part: String| {
        let found =
            findings.iter().any(|one| one["level"] == level && one["finding"].as_str().unwrap().contains(&part));
        assert!(found, "{part} in {findings:#?}");
    };
    found("fail", "fsync is off".to_owned());
    found("warn", format!("held at a message that is out of tries: {}", ids[0]));
    found("warn", format!("410: {}", ids[1]));
    found("warn", format!("backing off after a failed try: {}", ids[2]));
    found("warn", format!("that nobody serves: {}", ids[3]));
}

#[tokio::test]
async fn keys_are_looked_at_without_a_database_too() {
    let none = ("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    let ended =
        Process::run(&["doctor", "--environment", "production", "--signing-key", "/nowhere.pem"], &[none]).await;
    assert_eq!(ended.code(), 1, "{ended:?}");
    assert_told(&ended, "FAIL", "database", "out of reach");
    assert_told(&ended, "FAIL", "keys", "/nowhere.pem");
    assert_told(&ended, "warn", "secrets", "--secrets-key");
}

#[tokio::test]
async fn secrets_sealed_with_a_key_that_is_lost_fail() {
    let database = TestDatabase::new().await;
    let seal = ("ORDERLY_SECRETS_KEY", "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=");
    let create =
        ["destinations", "create", "http://127.0.0.1:1/", "--allow-network", "127.0.0.0/8", "--header", "X-Key: 1"];
    let made = Process::run(&create, &[database.env(), seal]).await;
    assert_eq!(made.code(), 0, "{made:?}");
    let ended = Process::run(&["doctor"], &[database.env(), seal]).await;
    assert_told(&ended, "ok", "secrets", "the key opens what is stored (1)");
    let ended = Process::run(&["doctor"], &[database.env()]).await;
    assert_told(&ended, "FAIL", "secrets", "1 of headers of destinations cannot be opened");
}

#[tokio::test]
async fn a_pooler_that_swallows_notifications_is_told() {
    let database = TestDatabase::new().await;
    let address = proxy_without_notifications(database.url()).await;
    let mut url = url::Url::parse(database.url()).unwrap();
    url.set_port(Some(address)).unwrap();
    url.set_query(Some("sslmode=disable"));
    let ended = Process::run(&["doctor"], &[("DATABASE_URL", url.as_str())]).await;
    assert_told(&ended, "warn", "connection", "transaction pooler");
}

#[tokio::test]
async fn an_old_transaction_is_named_by_its_process() {
    let database = TestDatabase::new().await;
    let running = worker(&database, &["--persistent"]).await;
    let other = database.connect().await;
    other.client.batch_execute("begin isolation level repeatable read; select 1").await.unwrap();
    let ended = Process::run(&["doctor"], &[database.env()]).await;
    assert_told(&ended, "ok", "transactions", "the oldest one is ");
    drop(running);
}

/// Passes all on but what is unasked for, as a transaction pooler would; its port.
async fn proxy_without_notifications(url: &str) -> u16 {
    let server = url::Url::parse(url).unwrap();
    let server = format!("{}:{}", server.host_str().unwrap(), server.port().unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let Ok(server) = TcpStream::connect(&server).await else { return };
            let (mut from_client, mut to_client) = client.into_split();
            let (mut from_server, mut to_server) = server.into_split();
            tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
            tokio::spawn(async move {
                // A type, a length that counts itself, and what it says.
                let mut head = [0; 5];
                while from_server.read_exact(&mut head).await.is_ok() {
                    let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize - 4;
                    let mut body = vec![0; length];
                    if from_server.read_exact(&mut body).await.is_err() {
                        return;
                    }
                    if head[0] != b'A' && to_client.write_all(&[&head[..], &body].concat()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

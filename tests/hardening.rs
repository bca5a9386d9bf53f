//! Do the defences that docs/SECURITY.md promises hold in the executable, with its own settings?

use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use crate::support::keys::private_key;
use crate::support::{Api, NameServer, Process, Queue, Receiver, TestDatabase};

const LOCAL: [&str; 2] = ["--allow-network", "127.0.0.0/8"];

#[tokio::test]
async fn causes_are_told_in_development_and_never_in_production() {
    let database = TestDatabase::new().await;
    let (_developing, development) = Api::serve(&database).await;
    let production = ["--environment", "production", "--no-authentication", "--signing-key", private_key()];
    let (mut serving, production) = Api::serve_with(&database, &production).await;
    let id = development.post_destination("http://127.0.0.1:9/").await;
    let connection = database.connect().await;
    let sql = "update orderly.destinations set headers = '\\x07'";
    connection.client.batch_execute(sql).await.expect("a row that cannot be read");
    let path = format!("/v1/destinations/{id}");

    let told = development.get(&path).await.expect(500).json();
    let causes = told["debug"].as_array().expect("causes");
    assert!(causes.iter().any(|cause| cause.as_str().is_some_and(|text| text.contains("not sealed"))), "{told}");

    let reply = production.get(&path).await.expect(500);
    let told = reply.json();
    assert_eq!(told["detail"], "something went wrong here; the log says what");
    assert_eq!(told.get("debug"), None);
    let text = String::from_utf8_lossy(&reply.body).to_lowercase();
    assert!(!text.contains("sealed") && !text.contains("stored"), "{text}");
    // The log has it, with the id that the answer carries.
    let id = reply.headers["x-request-id"].to_str().expect("text").to_owned();
    let line = serving.stderr_line("not sealed").await;
    assert!(line.contains(&id), "{line} without {id}");

    // A statement that Postgres refuses has a cause of its own.
    connection.client.batch_execute("alter table orderly.workers rename to gone").await.expect("a broken schema");
    let told = development.get("/v1/workers").await.expect(500).json();
    assert!(told["debug"].as_array().is_some_and(|causes| causes.len() >= 2), "{told}");
    assert!(told.to_string().contains("orderly.workers"), "{told}");
    let told = production.get("/v1/workers").await.expect(500).json();
    assert!(told.get("debug").is_none() && !told.to_string().contains("orderly.workers"), "{told}");
}

#[tokio::test]
async fn the_environments_proxies_are_ignored_and_one_that_is_chosen_is_used() {
    let database = TestDatabase::new().await;
    let (receiver, proxy) = (Receiver::start().await, Receiver::start().await);
    let queue = Queue::on(&database).await;
    let id = queue.destination(&receiver.url("/x")).await;
    let through = proxy.url("");
    let environment = ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"];
    let mut environment = environment.map(|name| (name, through.as_str())).to_vec();
    environment.push(database.env());
    queue.enqueue(id, json!(1)).await;
    let ended = Process::run(&[&["worker"], &LOCAL[..]].concat(), &environment).await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!((receiver.received().len(), proxy.received().len()), (1, 0));

    queue.enqueue(id, json!(2)).await;
    let ended = Process::run(&[&["worker", "--egress-proxy", &through], &LOCAL[..]].concat(), &[database.env()]).await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!((receiver.received().len(), proxy.received().len()), (1, 1));
    assert_eq!(proxy.received()[0].header("host"), receiver.address().to_string());
}

#[tokio::test]
async fn a_denied_port_is_refused_when_registered_and_when_delivered() {
    let database = TestDatabase::new().await;
    let receiver = Receiver::start().await;
    let port = receiver.address().port().to_string();
    let (_server, api) = Api::serve_with(&database, &["--deny-port", &port]).await;
    let refused = api.post("/v1/destinations", json!({"url": receiver.url("/x")})).await.expect(422).json();
    assert_eq!(refused["errors"][0]["pointer"], "/url");
    // Registered before the port was denied.
    let queue = Queue::on(&database).await;
    let id = queue.destination(&receiver.url("/x")).await;
    let message = format!("{id}-{}", queue.enqueue(id, json!(1)).await);
    let arguments = [&["worker", "--retry", "0", "--deny-port", &port], &LOCAL[..]].concat();
    assert_eq!(Process::run(&arguments, &[database.env()]).await.code(), 0);
    let tries = api.get(&format!("/v1/messages/{message}/attempts")).await.expect(200).json();
    assert_eq!(tries["data"][0]["error"], "forbidden_address", "{tries}");
    assert!(receiver.received().is_empty());
}

#[tokio::test]
async fn above_the_rate_is_429_with_a_time_to_wait_and_health_is_not_counted() {
    let database = TestDatabase::new().await;
    let (_server, api) = Api::serve_with(&database, &["--rate-limit", "1"]).await;
    let mut refused = None;
    // More than one a second: one of these comes too early, unless each takes a second.
    for _ in 0..20 {
        let reply = api.get("/v1/destinations").await;
        if reply.status == StatusCode::TOO_MANY_REQUESTS {
            refused = Some(reply);
            break;
        }
    }
    let refused = refused.expect("one of twenty at once");
    let wait: u64 = refused.headers["retry-after"].to_str().expect("text").parse().expect("seconds");
    assert!(wait <= 1);
    assert_eq!(refused.headers["content-type"], "application/problem+json");
    assert!(refused.headers.contains_key("x-request-id"));
    assert!(!refused.headers.contains_key("access-control-allow-origin"));
    for _ in 0..20 {
        api.get("/health/live").await.expect(200);
    }
}

#[tokio::test]
async fn a_page_of_another_origin_is_told_nothing_unless_it_was_named() {
    let database = TestDatabase::new().await;
    let (_silent, silent) = Api::serve(&database).await;
    let (_named, named) = Api::serve_with(&database, &["--cors-origin", "https://admin.example.com"]).await;
    for (api, origin, expected) in [
        (&silent, "https://admin.example.com", None),
        (&named, "https://admin.example.com", Some("https://admin.example.com")),
        (&named, "https://evil.example.com", None),
    ] {
        let reply = api.with_header("origin", origin).get("/v1/destinations").await.expect(200);
        let allowed = reply.headers.get("access-control-allow-origin").map(|value| value.to_str().expect("text"));
        assert_eq!(allowed, expected, "{origin}");
    }
}

#[tokio::test]
async fn a_redirect_to_a_private_place_is_a_failed_try_and_nothing_more() {
    let database = TestDatabase::new().await;
    let inside = Receiver::start().await;
    let to = inside.url("/secret");
    let outside =
        Receiver::answering(move |_| crate::support::Answer::status(307).header("location", to.clone())).await;
    let servers = NameServer::answering(|_, _| Some(vec!["127.0.0.1".parse().expect("an address")])).await;
    let server = servers.address().to_string();
    let queue = Queue::on(&database).await;
    let id = queue.destination(&format!("http://outside.example:{}/x", outside.address().port())).await;
    queue.enqueue(id, json!(1)).await;
    let arguments = [&["worker", "--retry", "1", "--retry-delay", "0", "--name-server", &server], &LOCAL[..]].concat();
    let ended = Process::start(&arguments, &[database.env()]).ended_within(Duration::from_secs(60)).await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    assert_eq!((outside.received().len(), inside.received().len()), (2, 0));
    assert!(outside.received().iter().all(|one| one.json() == 1));
}

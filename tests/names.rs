//! Do names that never resolve, or that change their mind, harm anybody?

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use orderly::delivery::{
    AlwaysOpen, ClientSettings, DeliveryClient, Guard, Lookup, Meta, SigningKey, SigningKeys, SystemLookup,
};
use orderly::domain::{DestinationId, Headers, Message, MessageId, OnExhausted, Outcome, Policy, Sequence};
use serde_json::json;

use crate::support::{Api, NameServer, Process, Queue, Receiver, TestDatabase, scratch_folder};

const LOCAL: &str = "127.0.0.0/8";

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// `alive` names are this machine; nobody ever hears of the others.
async fn half_dead() -> NameServer {
    NameServer::answering(|name, _| name.starts_with("alive").then(|| vec![address("127.0.0.1")])).await
}

fn client(servers: &NameServer) -> DeliveryClient {
    let lookup = Arc::new(SystemLookup::with_servers(vec![servers.address()]));
    let guard = Guard::new(vec![LOCAL.parse().expect("a network")], Vec::new(), false).with_lookup(lookup);
    let keys = SigningKeys::new(vec![SigningKey::generate().expect("random numbers")]).expect("one key");
    let settings = ClientSettings { guard, keys, egress_proxy: None, extra_roots: Vec::new() };
    DeliveryClient::new(settings).expect("a client")
}

async fn deliver(client: &DeliveryClient, url: &str) -> Outcome {
    let target = client.target(&Policy {
        url: url.parse().expect("a URL"),
        headers: Headers::default(),
        on_exhausted: OnExhausted::Discard,
        retry: None,
        timeout: Duration::from_secs(300),
        max_per_second: None,
        hmac_secret: None,
    });
    let message = Message {
        sequence: Sequence(1),
        payload: Bytes::from_static(b"1"),
        content_type: "application/json".to_owned(),
        headers: Headers::default(),
        created_at: chrono::Utc::now(),
        replay_of: None,
    };
    let id = MessageId { destination: DestinationId(1), sequence: Sequence(1) };
    let meta = Meta { id, attempt: 1, epoch: 1, previous: Sequence(0), skipped: 0 };
    client.deliver(&target, &message, &meta, AlwaysOpen).await.expect("the gate is open")
}

#[tokio::test]
async fn names_without_an_answer_take_nothing_from_others() {
    // More than there are threads for `getaddrinfo`.
    const DEAD: usize = 600;
    let servers = half_dead().await;
    let receiver = Receiver::start().await;
    let client = client(&servers);
    let mut dead = Vec::new();
    while dead.len() < DEAD {
        // So many at a time: a socket keeps few datagrams that are not read yet, and drops the rest.
        for n in dead.len()..dead.len() + 50 {
            let client = client.clone();
            dead.push(tokio::spawn(async move { deliver(&client, &format!("http://dead-{n}.example/")).await }));
        }
        servers.wait_for_names("dead", dead.len()).await;
    }
    let outcome = deliver(&client, &format!("http://alive.example:{}/", receiver.address().port())).await;
    assert!(outcome.delivered(), "{:?}", outcome.result);
    let ended = dead.iter().filter(|task| task.is_finished()).count();
    assert!(ended < DEAD, "all the others had ended before");
    println!("delivered in {:?}, with {} names still looked up", outcome.duration, DEAD - ended);
    for task in dead {
        let failure = task.await.expect("it does not panic").result.expect_err("nobody answers");
        assert!(["dns", "timeout"].contains(&failure.kind.as_str()), "{failure:?}");
    }
}

#[tokio::test]
async fn destinations_whose_names_never_resolve_do_not_delay_one_whose_name_does() {
    const DEAD: usize = 300;
    const MESSAGES: i64 = 20;
    let database = TestDatabase::new().await;
    let servers = half_dead().await;
    let receiver = Receiver::start().await;
    let queue = Queue::on(&database).await;
    for n in 0..DEAD {
        let id = queue.destination(&format!("http://dead-{n}.example/")).await;
        queue.enqueue(id, json!(n)).await;
    }
    let alive = queue.destination(&format!("http://alive.example:{}/x", receiver.address().port())).await;
    let server = servers.address().to_string();
    let arguments = ["worker", "--persistent", "--retry", "100", "--allow-network", LOCAL, "--name-server", &server];
    let _worker = Process::start(&arguments, &[database.env()]);
    // More than `--concurrency`.
    servers.wait_for_names("dead", DEAD).await;
    let mut longest = Duration::ZERO;
    for n in 0..MESSAGES {
        let posted = Instant::now();
        queue.enqueue(alive, json!(n)).await;
        receiver.wait_for_ended(usize::try_from(n).expect("small") + 1).await;
        longest = longest.max(posted.elapsed());
    }
    println!("{MESSAGES} messages past {DEAD} dead names; the slowest took {longest:?}");
    receiver.assert_in_order("/x");
    // A lookup takes 10 s to fail. It may be a slow machine, but nobody waited for one of those.
    assert!(longest < Duration::from_secs(9), "{longest:?}");
}

/// Not opened to loopback, unlike those of other tests.
fn closed(part: &[&str], database: &TestDatabase, servers: &NameServer) -> Process {
    let server = servers.address().to_string();
    Process::start(&[part, &["--name-server", &server]].concat(), &[database.env()])
}

#[tokio::test]
async fn a_name_that_is_public_when_registered_and_private_when_dialled_is_refused() {
    let database = TestDatabase::new().await;
    let registered = Arc::new(AtomicBool::new(false));
    let turned = registered.clone();
    let servers = NameServer::answering(move |name, _| {
        let (public, private) = (address("93.184.215.14"), address("127.0.0.1"));
        Some(match (name, turned.load(Ordering::SeqCst)) {
            ("turns.example", false) => vec![public],
            ("turns.example", true) => vec![private],
            ("six.example", false) => vec![address("2606:2800:21f:cb07:6820:80da:af6b:8b2c")],
            ("six.example", true) => vec![address("::1")],
            ("both.example", _) => vec![public, private],
            ("mapped.example", _) => vec![public, address("::ffff:127.0.0.1")],
            _ => vec![],
        })
    })
    .await;
    let receiver = Receiver::start().await;
    let port = receiver.address().port();
    let mut server = closed(&["serve", "--listen", "127.0.0.1:0"], &database, &servers);
    let line = server.stdout_line("the API listens on ").await;
    let base = line.split_whitespace().find(|word| word.starts_with("http://")).expect("its URL");
    let api = Api::new(base.trim_end_matches(','));

    for name in ["both", "mapped"] {
        let refused = api.post("/v1/destinations", json!({"url": format!("http://{name}.example:{port}/")})).await;
        let problem = refused.expect(422).json();
        assert_eq!(problem["errors"][0]["pointer"], "/url");
        assert!(problem["errors"][0]["detail"].as_str().expect("why").contains("127.0.0.1"), "{problem}");
    }
    let mut messages = Vec::new();
    for name in ["turns", "six"] {
        let id = api.post_destination(&format!("http://{name}.example:{port}/")).await;
        messages.push(api.post_message(id, json!(1)).await);
    }
    registered.store(true, Ordering::SeqCst);
    let ended = closed(&["worker", "--retry", "1", "--retry-delay", "0"], &database, &servers).ended().await;
    assert_eq!(ended.code(), 0, "{ended:?}");
    for message in messages {
        let attempts = api.get(&format!("/v1/messages/{message}/attempts")).await.expect(200).json();
        let errors: Vec<_> = attempts["data"].as_array().expect("tries").iter().map(|one| &one["error"]).collect();
        assert_eq!(errors, ["forbidden_address", "forbidden_address"], "{attempts}");
    }
    assert!(receiver.received().is_empty());
}

#[tokio::test]
async fn the_hosts_file_counts_in_both_families_and_is_read_again() {
    let folder = scratch_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    let (hosts, conf) = (folder.join("hosts"), folder.join("resolv.conf"));
    // Nobody is there: whoever asks a server waits in vain.
    std::fs::write(&conf, "nameserver 127.0.0.99\noptions timeout:1 attempts:1\n").expect("written");
    std::fs::write(&hosts, "# ours\n192.0.2.7 shop.example Shop # both\n\nnonsense\n").expect("written");
    let lookup = SystemLookup::from_files(hosts.clone(), conf);
    for name in ["shop.example", "SHOP", "shop.example."] {
        assert_eq!(lookup.lookup(name).await.expect(name), [address("192.0.2.7")]);
    }
    assert!(lookup.lookup("other.example").await.is_err());
    std::fs::write(&hosts, "192.0.2.8 shop.example\n2001:db8::8 shop.example\n").expect("written");
    assert_eq!(lookup.lookup("shop.example").await.expect("both"), [address("192.0.2.8"), address("2001:db8::8")]);
    std::fs::remove_file(&hosts).expect("removed");
    assert!(lookup.lookup("shop.example").await.is_err());
    let _ = std::fs::remove_dir_all(&folder);
}

#[tokio::test]
async fn search_domains_and_ndots_count() {
    let zone =
        |name: &str, _: usize| Some(if name.ends_with("corp.example") { vec![address("192.0.2.9")] } else { vec![] });
    // A name server in resolv.conf has port 53.
    let servers = match NameServer::on("127.0.0.77:53".parse().expect("an address"), zone).await {
        Ok(servers) => servers,
        Err(error) => {
            eprintln!("SKIPPED: port 53 of 127.0.0.77 cannot be had: {error}");
            return;
        }
    };
    let folder = scratch_folder();
    std::fs::create_dir_all(&folder).expect("a folder");
    let conf = folder.join("resolv.conf");
    let text = "nameserver 127.0.0.77\nsearch corp.example\noptions ndots:2 timeout:5\n";
    std::fs::write(&conf, text).expect("written");
    let lookup = SystemLookup::from_files(folder.join("none"), conf);
    // Below two dots: with the domain first. Above: as it stands first. With the root's dot: as it stands only.
    for (name, first) in
        [("shop", "shop.corp.example"), ("shop.eu", "shop.eu.corp.example"), ("a.b.corp.example", "a.b.corp.example")]
    {
        let before = servers.asked().len();
        assert_eq!(lookup.lookup(name).await.expect(name), [address("192.0.2.9")]);
        assert_eq!(servers.asked()[before], first);
    }
    let before = servers.asked().len();
    assert!(lookup.lookup("shop.").await.is_err());
    assert_eq!(servers.asked()[before..], ["shop"]);
    let _ = std::fs::remove_dir_all(&folder);
}

//! Does the API work through a transaction pooler, and does a worker refuse to?

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

use orderly::store::connect::Connector;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_postgres::SimpleQueryMessage;
use url::Url;

use crate::support::{Api, PATIENCE, Process, Receiver, TestDatabase, scratch_folder, worker};

const SERVER_CONNECTIONS: usize = 4;

/// PgBouncer in transaction mode before a test database; ended with this.
struct Pooler {
    child: Child,
    url: String,
    folder: PathBuf,
}

impl Pooler {
    /// `None`, said aloud, where PgBouncer is not installed.
    async fn start(database: &TestDatabase) -> Option<Pooler> {
        let Some(program) =
            ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|path| Path::new(path).exists())
        else {
            eprintln!("SKIPPED: pgbouncer is not installed");
            return None;
        };
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut url = Url::parse(database.url()).expect("a URL");
        let name = url.path().trim_start_matches('/').to_owned();
        let folder = scratch_folder();
        std::fs::create_dir_all(&folder).unwrap();
        let config = folder.join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{name} = host={} port={} dbname={name} user={} password={}\n\
             [pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = transaction\ndefault_pool_size = {SERVER_CONNECTIONS}\nmax_client_conn = 100\nlog_connections = 0\n",
            url.host_str().expect("a host"),
            url.port().unwrap_or(5432),
            url.username(),
            url.password().unwrap_or_default(),
        );
        std::fs::write(&config, text).unwrap();
        let mut command = Command::new(program);
        if rustix::process::geteuid().is_root() {
            // It does not run as root.
            std::os::unix::fs::chown(&config, Some(65_534), Some(65_534)).unwrap();
            command.args(["-u", "nobody"]);
        }
        let child = command.arg(&config).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.expect("pgbouncer starts");
        url.set_port(Some(port)).unwrap();
        let begun = Instant::now();
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            assert!(begun.elapsed() < PATIENCE, "pgbouncer does not listen");
        }
        Some(Pooler { child, url: url.into(), folder })
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test]
async fn the_api_works_through_a_transaction_pooler_and_a_worker_says_that_it_cannot() {
    let database = TestDatabase::new().await;
    let Some(pooler) = Pooler::start(&database).await else { return };
    let receiver = Receiver::start().await;
    let arguments = ["serve", "--listen", "127.0.0.1:0", "--allow-network", "127.0.0.0/8"];
    let mut server = Process::start(&arguments, &[("DATABASE_URL", &pooler.url)]);
    let line = server.stdout_line("the API listens on").await;
    let base = line.split_whitespace().find(|word| word.starts_with("http://")).expect("its address");
    let api = Api::new(base.trim_end_matches(','));
    let _worker = worker(&database, &["--persistent"]).await;

    let id = api.post_destination(&receiver.url("/x")).await;
    let posts = (0..40).map(|n| {
        let api = api.clone();
        tokio::spawn(async move { api.post_message(id, json!(n)).await })
    });
    for post in posts.collect::<Vec<_>>() {
        post.await.expect("it was accepted");
    }
    receiver.wait_for_ended(40).await;
    let once = api.with_header("idempotency-key", "k");
    let (first, again) = (once.post_message(id, json!("k")).await, once.post_message(id, json!("k")).await);
    assert_eq!(first, again);
    receiver.wait_for_ended(41).await;
    receiver.assert_in_order("/x");
    // What is asked of the holder, and a transaction that stays open for the time of a request.
    api.post(&format!("/v1/destinations/{id}/pause"), json!({})).await.expect(200);
    api.post(&format!("/v1/destinations/{id}/test"), json!({})).await.expect(200);
    api.post(&format!("/v1/destinations/{id}/resume"), json!({})).await.expect(200);
    api.delete(&format!("/v1/destinations/{id}")).await.expect(204);

    // Several, since what a worker hears of itself depends on which of the pooler's connections is free.
    let environment = [("DATABASE_URL", pooler.url.as_str())];
    let refused = (0..8).map(|_| Process::run(&["worker", "--persistent"], &environment));
    for refused in futures_util::future::join_all(refused).await {
        assert_eq!(refused.code(), 1, "{refused:?}");
        assert!(refused.stderr.iter().any(|line| line.contains("transaction pooler")), "{refused:?}");
    }
    // And left nothing of a worker's own on the connections that others get next: all of them, each in a transaction.
    let mut held = Vec::new();
    for _ in 0..SERVER_CONNECTIONS {
        let connection = Connector::parse(&pooler.url).unwrap().dedicated().await.unwrap();
        let said = connection.client.simple_query("begin; select current_setting('enable_seqscan')").await.unwrap();
        let setting = said.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => row.get(0),
            _ => None,
        });
        assert_eq!(setting, Some("on"));
        held.push(connection);
    }
}

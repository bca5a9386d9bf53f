//! When a worker's host is gone, or cannot be reached any more, does another take over within 15 s, and alone?
//!
//! The host is a network namespace with two lines, to Postgres and to the receivers, which takes root and `ip`. A
//! line is cut by giving each end a wrong hardware address of the other: packets get lost and nobody is told.

use std::process::Command;
use std::time::{Duration, Instant};

use orderly::embedded::EmbeddedPostgres;
use serde_json::json;

use crate::support::posters::assert_all_arrived;
use crate::support::{
    Answer, Api, Posters, Process, Queue, Receiver, TestDatabase, private_postgres_with, skip, worker,
};

/// What API.md promises.
const WITHIN: Duration = Duration::from_secs(15);
/// The lost worker aborts what it has in flight 9 s after it asked its last question that was answered, at most 3 s
/// before the cut; half a second is its clock's tick.
const NOT_BEFORE: Duration = Duration::from_secs(9);

/// A host of its own, removed with this.
struct Host {
    name: String,
    to_postgres: Link,
    to_receivers: Link,
}

/// A line between this host (`.1`) and the other (`.2`).
struct Link {
    host: String,
    device: String,
    subnet: String,
}

fn ip(arguments: &str) {
    let done = Command::new("ip").args(arguments.split(' ')).output().expect("ip runs");
    assert!(done.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&done.stderr));
}

impl Host {
    /// `None`, said aloud, where no namespace can be made.
    fn new() -> Option<Host> {
        let tag = format!("{:06x}", rand::random::<u32>() & 0xff_ffff);
        let name = format!("orderly-{tag}");
        if !rustix::process::geteuid().is_root() {
            skip("a network namespace is made, which takes root");
            return None;
        }
        match Command::new("ip").args(["netns", "add", &name]).output() {
            Ok(made) if made.status.success() => {}
            other => {
                skip(&format!("no network namespace can be made here: {other:?}"));
                return None;
            }
        }
        let [x, y] = [rand::random::<u8>(), rand::random::<u8>() & 0xfe];
        let link = |letter: char, y: u8| Link {
            host: name.clone(),
            device: format!("o{letter}{tag}"),
            subnet: format!("10.{}.{y}", 128 + (x & 0x7f)),
        };
        let host = Host { to_postgres: link('p', y), to_receivers: link('r', y + 1), name };
        for link in [&host.to_postgres, &host.to_receivers] {
            let Link { device, subnet, .. } = link;
            ip(&format!("link add {device} type veth peer name {device}x"));
            ip(&format!("link set {device}x netns {}", host.name));
            ip(&format!("addr add {subnet}.1/30 dev {device}"));
            ip(&format!("link set {device} up"));
            ip(&format!("-n {} addr add {subnet}.2/30 dev {device}x", host.name));
            ip(&format!("-n {} link set {device}x up", host.name));
        }
        Some(host)
    }

    async fn worker(&self, database: &TestDatabase) -> Process {
        let starter = ["ip", "netns", "exec", &self.name];
        let arguments = ["worker", "--persistent", "--allow-network", "10.0.0.0/8"];
        let mut worker = Process::start_by(&starter, &arguments, &[database.env()]);
        worker.stderr_line("worker ready").await;
        worker
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for link in [&self.to_postgres, &self.to_receivers] {
            let _ = Command::new("ip").args(["link", "del", &link.device]).status();
        }
        let _ = Command::new("ip").args(["netns", "del", &self.name]).status();
    }
}

impl Link {
    /// Of this host.
    fn here(&self) -> String {
        format!("{}.1", self.subnet)
    }

    fn cut(&self) {
        let Link { host, device, subnet } = self;
        ip(&format!("-n {host} neigh replace {subnet}.1 lladdr 02:00:00:00:00:01 nud permanent dev {device}x"));
        ip(&format!("neigh replace {subnet}.2 lladdr 02:00:00:00:00:02 nud permanent dev {device}"));
    }

    fn mend(&self) {
        let Link { host, device, subnet } = self;
        ip(&format!("-n {host} neigh del {subnet}.1 dev {device}x"));
        ip(&format!("neigh del {subnet}.2 dev {device}"));
    }
}

/// One worker on the host that will be lost, one here, and a receiver that both reach.
struct Scene {
    api: Api,
    queue: Queue,
    receiver: Receiver,
    paths: Vec<String>,
    ids: Vec<i64>,
    lost: Process,
    _serving: Process,
    _staying: Process,
    _postgres: EmbeddedPostgres,
    host: Host,
}

impl Scene {
    async fn new() -> Option<Scene> {
        let host = Host::new()?;
        let postgres = private_postgres_with(&[("listen_addresses", "*")]).await;
        let database = TestDatabase::on(&postgres).await;
        let rules = postgres.dir().join("postgres/pg_hba.conf");
        let mut text = std::fs::read_to_string(&rules).expect("initdb wrote it");
        text.push_str("host all all 10.0.0.0/8 scram-sha-256\n");
        std::fs::write(&rules, text).expect("it is ours");
        let queue = Queue::on(&database).await;
        queue.sql("select pg_reload_conf()").await;
        let address = format!("{}:0", host.to_receivers.here()).parse().expect("an address");
        let receiver = Receiver::on(address, |_| Answer::ok().after(Duration::from_millis(5))).await;
        let paths: Vec<String> = (0..10).map(|n| format!("/{n}")).collect();
        let mut ids = Vec::new();
        for path in &paths {
            ids.push(queue.destination(&receiver.url(path)).await);
        }
        let (serving, api) = Api::serve_with(&database, &["--allow-network", "10.0.0.0/8"]).await;
        let seen = TestDatabase::at(database.url().replace("127.0.0.1", &host.to_postgres.here()));
        let lost = host.worker(&seen).await;
        let staying = worker(&database, &["--persistent", "--allow-network", "10.0.0.0/8"]).await;
        Some(Scene {
            api,
            queue,
            receiver,
            paths,
            ids,
            lost,
            _serving: serving,
            _staying: staying,
            _postgres: postgres,
            host,
        })
    }

    fn paths(&self) -> Vec<&str> {
        self.paths.iter().map(String::as_str).collect()
    }

    async fn lost_id(&self) -> i64 {
        let pid = i64::from(self.lost.pid().as_raw_pid());
        self.queue.number("select id from orderly.workers where pid = $1::bigint", &[&pid]).await
    }

    /// What the worker that will be lost serves now.
    async fn its_paths(&self) -> Vec<&str> {
        let me = self.lost_id().await;
        let rows = self
            .queue
            .connection
            .client
            .query("select destination_id from orderly.claims where owner = $1", &[&me])
            .await
            .expect("they are there");
        let its: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
        let all = self.ids.iter().zip(&self.paths).filter(|(id, _)| its.contains(id));
        all.map(|(_, path)| path.as_str()).collect()
    }
}

/// The database can no longer be reached, the receivers can: what is in flight must be aborted before another
/// begins.
#[tokio::test]
async fn a_worker_cut_off_from_the_database_hangs_up_before_another_takes_over() {
    let Some(mut scene) = Scene::new().await else { return };
    let posters = Posters::start(&scene.api, &scene.ids);
    posters.wait_for_each(5, |one| one.accepted()).await;
    let its = scene.its_paths().await;
    assert!(!its.is_empty(), "ten destinations, two workers");
    // Each of its requests hangs from now on, so that it has one in flight for each.
    let from = scene.receiver.received().len();
    scene.receiver.answer(|_| Answer::hang());
    let hanging = |all: &[crate::support::Received]| {
        its.iter().all(|path| all[from.min(all.len())..].iter().any(|one| one.path == *path))
    };
    scene.receiver.wait_for(hanging).await;

    scene.host.to_postgres.cut();
    let cut = Instant::now();
    scene.receiver.answer(|_| Answer::ok().after(Duration::from_millis(5)));
    let seen = scene.receiver.received().len();
    let after = |all: &[crate::support::Received], path: &str| {
        let later = all.get(seen..).unwrap_or_default().iter().find(|one| one.path == path);
        later.map(|one| one.arrived_at - cut)
    };
    let received = scene.receiver.wait_for(|all| its.iter().all(|path| after(all, path).is_some())).await;
    let times: Vec<Duration> = its.iter().filter_map(|path| after(&received, path)).collect();
    println!("{} destinations went on elsewhere, the last {:?} after the cut", its.len(), times.iter().max());
    assert!(times.iter().all(|time| *time < WITHIN), "{times:?}");
    scene.lost.stderr_line("the session was lost").await;
    scene.host.to_postgres.mend();
    let posted = posters.stop().await;
    // The receiver sees each end of the worker's requests, so `overlap` is the truth.
    assert_all_arrived(&scene.receiver, &posted, &scene.paths(), 2).await;
    scene.queue.until_empty().await;
    scene.queue.until("select count(*) from orderly.workers", 2).await;
}

/// All lines are cut, in the midst of work.
#[tokio::test]
async fn what_a_lost_host_served_goes_on_elsewhere_within_fifteen_seconds() {
    let Some(scene) = Scene::new().await else { return };
    let posters = Posters::start(&scene.api, &scene.ids);
    posters.wait_for_each(5, |one| one.accepted()).await;
    let its = scene.its_paths().await;
    assert!(!its.is_empty(), "ten destinations, two workers");
    let me = scene.lost_id().await;
    scene.host.to_postgres.cut();
    scene.host.to_receivers.cut();
    let cut = Instant::now();
    let epochs = "select count(*) from orderly.claims where last_owner = ";
    scene.queue.until(&format!("{epochs}{me}"), 0).await;
    let taken = cut.elapsed();
    println!("{} destinations went on elsewhere {taken:?} after the cut", its.len());
    assert!(taken > NOT_BEFORE && taken < WITHIN, "{taken:?}");
    posters.wait_for_each(3, |one| one.accepted()).await;
    drop(posters);
    scene.queue.until_empty().await;
}

/// The same in a quiet system, where the server has nothing to say to the lost host until just before it would
/// have given it up, and then has to wait for an answer anew.
#[tokio::test]
async fn a_lost_host_is_noticed_as_soon_when_all_is_quiet() {
    let Some(scene) = Scene::new().await else { return };
    let me = scene.lost_id().await;
    let mut listener =
        scene.queue.connection.client.batch_execute("listen orderly").await.map(|()| Vec::new()).unwrap();
    let mut queue = scene.queue;
    // Right after an answered ping: the next one is 20 s away.
    loop {
        let (_, payload) = queue.connection.notifications.recv().await.expect("the connection lives");
        let done = payload == format!("o{me}");
        listener.push(payload);
        if done {
            break;
        }
    }
    queue.sql("unlisten orderly").await;
    scene.host.to_postgres.cut();
    scene.host.to_receivers.cut();
    let cut = Instant::now();
    tokio::time::sleep(Duration::from_millis(9_500)).await;
    for id in &scene.ids {
        scene.api.post_message(*id, json!("late")).await;
    }
    let received = scene.receiver.wait_for_ended(scene.ids.len()).await;
    let last = received.iter().map(|one| one.arrived_at - cut).max().expect("they came");
    println!("all destinations are served {last:?} after the cut");
    assert!(last < WITHIN, "{last:?}");
    queue.until_empty().await;
}

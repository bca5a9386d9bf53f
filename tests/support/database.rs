//! How does each test get a database of its own, already migrated, in some milliseconds?
//!
//! One thread with its own runtime holds one Postgres for the whole run (libtest gives each test a thread and
//! a runtime that end with it), or speaks with the one in ORDERLY_TEST_DATABASE_URL. It makes one migrated
//! template, and copies of it one at a time. The watchdog stops that Postgres when the test program has ended.

use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use orderly::embedded::{EmbeddedOptions, EmbeddedPostgres, Keep};
use orderly::store::connect::{Connector, Dedicated};
use orderly::store::{Store, migrate};
use tokio::sync::{mpsc, oneshot};

use super::{postgres_bin, scratch_folder, sweep_scratch_folders};

/// Databases of runs that ended without dropping them go after this long.
const LEFTOVER_SECONDS: u64 = 3600;

/// A database of one test, dropped with this.
pub struct TestDatabase {
    /// None: it goes with its server.
    name: Option<String>,
    url: String,
}

enum Job {
    Create { migrated: bool, answer: oneshot::Sender<Result<TestDatabase, String>> },
    Drop { name: String, done: std::sync::mpsc::Sender<()> },
}

/// The server of this run.
struct Databases {
    _postgres: Option<EmbeddedPostgres>,
    /// Of any database of the server, with `{}` for its name.
    url: String,
    admin: Dedicated,
    template: String,
}

impl TestDatabase {
    /// Migrated and empty.
    pub async fn new() -> TestDatabase {
        TestDatabase::create(true).await
    }

    /// Without a schema.
    pub async fn unmigrated() -> TestDatabase {
        TestDatabase::create(false).await
    }

    /// Migrated, on a server that the test itself stops, kills or fills.
    pub async fn on(postgres: &EmbeddedPostgres) -> TestDatabase {
        TestDatabase::migrated(postgres.url()).await
    }

    /// An empty database of such a server, migrated.
    pub async fn migrated(url: String) -> TestDatabase {
        let database = TestDatabase::at(url);
        migrate::migrate(&database.store()).await.expect("a fresh database is migrated");
        database
    }

    /// What is there already.
    pub fn at(url: String) -> TestDatabase {
        TestDatabase { name: None, url }
    }

    /// The same as seen through another port of 127.0.0.1.
    pub fn through(&self, port: u16) -> TestDatabase {
        let mut url = url::Url::parse(&self.url).expect("the URL is ours");
        url.set_port(Some(port)).expect("it has a host");
        TestDatabase::at(url.into())
    }

    async fn create(migrated: bool) -> TestDatabase {
        let (answer, answered) = oneshot::channel();
        assert!(jobs().send(Job::Create { migrated, answer }).is_ok(), "the databases' thread lives");
        match answered.await.expect("the databases' thread answers") {
            Ok(database) => database,
            Err(error) => panic!("no test database: {error}"),
        }
    }

    pub fn url(&self) -> &str {
        &self.url
    }

    /// For [`super::Process`].
    pub fn env(&self) -> (&'static str, &str) {
        ("DATABASE_URL", &self.url)
    }

    /// With at most 5 connections.
    pub fn store(&self) -> Store {
        Store::open(&self.url, 5, Default::default()).expect("the URL is ours")
    }

    /// A connection of one's own, for looking behind the scenes.
    pub async fn connect(&self) -> Dedicated {
        connect(&self.url).await.expect("the test database answers")
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let Some(name) = self.name.take() else { return };
        let (done, waiting) = std::sync::mpsc::channel();
        if jobs().send(Job::Drop { name, done }).is_ok() {
            // An error means that the thread has gone, and the server with it.
            let _ = waiting.recv();
        }
    }
}

fn jobs() -> &'static mpsc::UnboundedSender<Job> {
    static JOBS: OnceLock<mpsc::UnboundedSender<Job>> = OnceLock::new();
    JOBS.get_or_init(|| {
        let (sender, receiver) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime can be made").block_on(work(receiver));
        });
        sender
    })
}

async fn work(mut jobs: mpsc::UnboundedReceiver<Job>) {
    let mut databases = Databases::start().await;
    while let Some(job) = jobs.recv().await {
        match (job, &mut databases) {
            (Job::Create { migrated, answer }, Ok(databases)) => {
                let _ = answer.send(databases.create(migrated).await);
            }
            (Job::Create { answer, .. }, Err(error)) => {
                let _ = answer.send(Err(error.clone()));
            }
            (Job::Drop { name, done }, Ok(databases)) => {
                databases.drop(&name).await;
                let _ = done.send(());
            }
            (Job::Drop { .. }, Err(_)) => {}
        }
    }
}

impl Databases {
    async fn start() -> Result<Databases, String> {
        let (postgres, url) = match std::env::var("ORDERLY_TEST_DATABASE_URL") {
            Ok(url) => (None, with_placeholder(&url)?),
            Err(_) => {
                sweep_scratch_folders().await;
                let postgres = EmbeddedPostgres::start(shared_options()).await.map_err(one_line)?;
                let url = postgres.url_for("{}");
                (Some(postgres), url)
            }
        };
        let admin = connect(&url.replace("{}", "postgres")).await?;
        sweep_databases(&admin).await?;
        let template = fresh_name();
        let databases = Databases { _postgres: postgres, url, admin, template };
        databases.run(&format!("create database {}", databases.template)).await?;
        let store = Store::open(&databases.url_of(&databases.template), 1, Default::default()).map_err(one_line)?;
        migrate::migrate(&store).await.map_err(one_line)?;
        Ok(databases)
    }

    async fn create(&self, migrated: bool) -> Result<TestDatabase, String> {
        let name = fresh_name();
        let template = if migrated { &self.template } else { "template0" };
        self.run(&format!("create database {name} template {template}")).await?;
        Ok(TestDatabase { url: self.url_of(&name), name: Some(name) })
    }

    async fn drop(&self, name: &str) {
        if let Err(error) = self.run(&format!("drop database if exists {name} with (force)")).await {
            eprintln!("a test database stays: {error}");
        }
    }

    async fn run(&self, sql: &str) -> Result<(), String> {
        self.admin.client.batch_execute(sql).await.map_err(one_line)
    }

    fn url_of(&self, name: &str) -> String {
        self.url.replace("{}", name)
    }
}

/// What a crash would lose is of no use here.
fn shared_options() -> EmbeddedOptions {
    let off = |name: &str| (name.to_owned(), "off".to_owned());
    EmbeddedOptions {
        bin: postgres_bin(),
        settings: vec![("max_connections".to_owned(), "400".to_owned()), off("fsync"), off("full_page_writes")],
        keep: Keep::Nothing,
        ..EmbeddedOptions::new(scratch_folder())
    }
}

async fn sweep_databases(admin: &Dedicated) -> Result<(), String> {
    let rows = admin
        .client
        .query("select datname::text from pg_database where datname like 'orderly\\_test\\_%'", &[])
        .await
        .map_err(one_line)?;
    for name in rows.iter().map(|row| row.get::<_, String>(0)) {
        let made_at = name.split('_').nth(2).and_then(|seconds| seconds.parse::<u64>().ok());
        if made_at.is_some_and(|at| at + LEFTOVER_SECONDS < now_seconds()) {
            admin.client.batch_execute(&format!("drop database if exists {name}")).await.map_err(one_line)?;
        }
    }
    Ok(())
}

fn fresh_name() -> String {
    format!("orderly_test_{}_{:016x}", now_seconds(), rand::random::<u64>())
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// `postgres://…/name?…` with `{}` for the name.
fn with_placeholder(text: &str) -> Result<String, String> {
    let (base, query) = text.split_once('?').map_or((text, None), |(base, query)| (base, Some(query)));
    let after_scheme = base.find("://").map(|at| at + 3).ok_or("ORDERLY_TEST_DATABASE_URL is no URL")?;
    let end = base[after_scheme..].find('/').map_or(base.len(), |at| after_scheme + at);
    let query = query.map_or_else(String::new, |query| format!("?{query}"));
    Ok(format!("{}/{{}}{query}", &base[..end]))
}

async fn connect(url: &str) -> Result<Dedicated, String> {
    Connector::parse(url).map_err(one_line)?.dedicated().await.map_err(one_line)
}

fn one_line(error: impl std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

//! How do API processes share connections?

use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use deadpool::Runtime;
use deadpool::managed::{Manager, Metrics, QueueMode, RecycleError, RecycleResult};
use tokio::sync::Semaphore;
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row};

use super::borrow::LOANS;
use super::connect::{Connector, Dedicated, ReaderGuard};
use super::{Sealer, StoreError};

/// A client hears 503 within 5 s when the database is out of reach: so long may its connection and its
/// statement take together.
pub(super) const PATIENCE: Duration = Duration::from_millis(4_500);
/// To a pool whose connections lead nowhere nobody waits longer than for their statements.
const WAIT_TIMEOUT: Duration = Duration::from_secs(4);

/// What is given up while it waits for a lock must not wait on in the server for ever: with each try there would be more,
/// until no connection was left for anybody. Long after [`PATIENCE`]: what works is to come to its end (a piece of a purge,
/// say, else all of it would have to be done again).
const NOTICE_HANGUPS: &str = "set client_connection_check_interval = '15s'";

/// The database, for everything but a worker's session. Cheap to clone.
#[derive(Clone)]
pub struct Store {
    pool: deadpool::managed::Pool<Connector>,
    connector: Connector,
    pub(super) loans: Arc<Semaphore>,
    pub(crate) sealer: Sealer,
}

/// A connection as the pool keeps it: one that is given up is closed, whatever it was doing.
pub struct Pooled {
    client: Client,
    _reader: ReaderGuard,
}

impl Deref for Pooled {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

/// A connection of the pool's; it goes back when this is dropped.
pub(super) type Object = deadpool::managed::Object<Connector>;

/// Connections like all others: each host has its time, so that one that takes connections and says nothing does not
/// keep the pool from the next (which tokio-postgres' own limit, on TCP alone, would).
impl Manager for Connector {
    type Type = Pooled;
    type Error = StoreError;

    async fn create(&self) -> Result<Pooled, StoreError> {
        // Boxed: else the future of each statement had room for a log-in over TLS, 15 KB of it.
        let Dedicated { client, reader, .. } = Box::pin(self.dedicated()).await?;
        // Some systems cannot look; behind a transaction pooler one of its connections hears this.
        let _ = client.batch_execute(NOTICE_HANGUPS).await;
        Ok(Pooled { client, _reader: reader })
    }

    async fn recycle(&self, pooled: &mut Pooled, _: &Metrics) -> RecycleResult<StoreError> {
        if pooled.client.is_closed() { Err(RecycleError::message("it is closed")) } else { Ok(()) }
    }
}

/// A parameter with its type, so that no statement needs a name and none is described first: a
/// transaction pooler may give each statement another server connection.
pub(crate) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

impl Store {
    /// Nothing is connected until the first use. `size` is the most connections held at once.
    pub fn open(url: &str, size: usize, sealer: Sealer) -> Result<Store, StoreError> {
        let connector = Connector::parse(url)?;
        let pool = deadpool::managed::Pool::builder(connector.clone())
            .max_size(size)
            // The one used last is the warmest, on both sides; and room for large statements is kept by fewer.
            .queue_mode(QueueMode::Lifo)
            .wait_timeout(Some(WAIT_TIMEOUT))
            .create_timeout(Some(WAIT_TIMEOUT))
            .recycle_timeout(Some(Duration::from_secs(2)))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| StoreError::Settings(error.to_string()))?;
        Ok(Store { pool, connector, loans: Arc::new(Semaphore::new(LOANS)), sealer })
    }

    /// For connections outside the pool.
    pub fn connector(&self) -> &Connector {
        &self.connector
    }

    pub(super) async fn client(&self) -> Result<Object, StoreError> {
        Ok(self.pool.get().await?)
    }

    /// One unnamed statement; its rows.
    pub(crate) async fn query(&self, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, StoreError> {
        self.query_within(PATIENCE, sql, parameters).await
    }

    /// The same with a limit of its own, the wait for a connection included. When the statement itself took too
    /// long, what became of it is not known; its connection is given up, lest dead ones fill the pool.
    pub(crate) async fn query_within(
        &self,
        limit: Duration,
        sql: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, StoreError> {
        let until = Instant::now() + limit;
        self.lend(until).await?.query(until, sql, parameters).await
    }

    async fn lend(&self, until: Instant) -> Result<Lent, StoreError> {
        let client = timeout_at(until, self.client()).await.map_err(too_long)??;
        Ok(Lent { client: Some(client), given_up: AtomicBool::new(false) })
    }

    /// [`Store::query`], and right behind it whatever `then` says on the same connection, in transactions of its own: that
    /// is sent before the first is answered, so that nothing but the server lies between them.
    pub(crate) async fn query_and_then(
        &self,
        sql: &str,
        parameters: &[Parameter<'_>],
        then: impl FnOnce(Arc<Lent>),
    ) -> Result<Vec<Row>, StoreError> {
        let until = Instant::now() + PATIENCE;
        let lent = Arc::new(self.lend(until).await?);
        let mut first = pin!(lent.query(until, sql, parameters));
        // The first poll sends it.
        let answered = futures_util::poll!(first.as_mut());
        then(lent.clone());
        match answered {
            Poll::Ready(rows) => rows,
            Poll::Pending => first.await,
        }
    }

    /// Whether the database answers.
    pub async fn ping(&self) -> Result<(), StoreError> {
        self.query("select 1", &[]).await.map(drop)
    }
}

fn too_long(elapsed: Elapsed) -> StoreError {
    StoreError::Unreachable(Box::new(elapsed))
}

/// A connection of the pool's: goes back, or is given up when a statement took too long, once nobody has it any more.
pub(crate) struct Lent {
    client: Option<Object>,
    given_up: AtomicBool,
}

impl Lent {
    pub async fn query(&self, until: Instant, sql: &str, parameters: &[Parameter<'_>]) -> Result<Vec<Row>, StoreError> {
        let Some(client) = &self.client else { return Ok(Vec::new()) };
        match timeout_at(until, client.query_typed(sql, parameters)).await {
            Ok(rows) => Ok(rows?),
            Err(elapsed) => {
                self.given_up.store(true, Ordering::Relaxed);
                Err(too_long(elapsed))
            }
        }
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(client) = self.client.take().filter(|_| self.given_up.load(Ordering::Relaxed)) {
            drop(Object::take(client));
        }
    }
}

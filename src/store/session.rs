//! What does a worker say on connections of its own?
//!
//! The session is the worker's identity: it claims, holds the locks and commits the acknowledgements; if it
//! ends, its locks are gone and it can acknowledge nothing. Never `begin` on it: a pipelined acknowledgement
//! would report success before its commit. The aide LISTENs, reads ahead and answers pings, so that neither
//! waits behind the other: a session looks at each lock it holds whenever a transaction of its ends, and each
//! notification is one. The watch waits for a peer's death, and shows that the line to this host is whole. All
//! three end together.

mod hearing;
mod lane;
mod place;

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustix::time::{ClockId, clock_gettime};
use serde_json::Value;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Statement};

pub use self::hearing::Notifications;
use self::hearing::{hear_oneself, server};
use self::lane::millis;
pub(super) use self::lane::read_lane;
pub use self::lane::{Acknowledgement, Claimed, Ending, HeadState, LaneStart, Read, Release};
pub use self::place::Place;
use super::connect::{Connector, Dedicated, ReaderGuard, Socket};
use super::{Sealer, StoreError};
use crate::broken::{self, Broken};
use crate::domain::{DestinationId, Headers, Message, Sequence, WorkerId};

/// Settings of a session: plans by index whatever the statistics say; it never waits long for a lock; the
/// server notices in 11 s that our host is gone, and within half a second that our process is.
const SESSION_SETTINGS: &str = "
    set synchronous_commit = on; set lock_timeout = '2s'; set statement_timeout = '20s';
    set enable_seqscan = off; set enable_hashjoin = off; set enable_mergejoin = off; set jit = off;
    set plan_cache_mode = force_generic_plan; set timezone = 'UTC';
    set client_connection_check_interval = '500ms';
    set tcp_keepalives_idle = 5; set tcp_keepalives_interval = 2; set tcp_keepalives_count = 2; set tcp_user_timeout = '11s';
    set idle_in_transaction_session_timeout = '30s'; set idle_session_timeout = 0";

/// The watch gives up waiting each second, so that it never keeps a snapshot from vacuum for longer.
const WATCH_SETTINGS: &str = "set lock_timeout = '1s'; set statement_timeout = 0";

/// Three connections to the last of several hosts, and a dozen statements.
const OPEN_LIMIT: Duration = Duration::from_secs(40);

/// What a message needs in memory beside its payload, about; [`READ_AHEAD`] counts it, too.
pub const BESIDE_PAYLOAD: usize = 256;

pub const READ_AHEAD: &str = "
    select w.n::int, m.sequence, m.payload, m.content_type, m.headers::text, m.created_at,
           (date_part('epoch', m.expires_at - clock_timestamp()) * 1000)::bigint, m.replay_of, m.place
    from unnest($1::bigint[], $2::bigint[]) with ordinality as w (destination_id, above, n)
    cross join lateral (
        select * from (
            select f.*, sum(octet_length(f.payload) + 256) over (order by f.sequence rows between unbounded preceding and 1 preceding)
                        as before
            from (select q.ctid as place, q.* from orderly.messages q
                  where q.destination_id = w.destination_id and q.sequence > w.above order by q.sequence limit $3) f
        ) r where coalesce(r.before, 0) < $4
    ) m";

const ACKNOWLEDGE: &str = "select orderly.acknowledge($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)";

pub struct Session {
    pub me: WorkerId,
    client: Client,
    pub socket: Socket,
    fresh_at_ms: AtomicI64,
    acknowledge: Statement,
    claim: Statement,
    lanes: Statement,
    aide: Client,
    read_ahead: Statement,
    watch: Client,
    sealer: Sealer,
    /// The cluster's lock table: how many advisory locks all workers together may hold.
    pub lock_budget: usize,
    _connections: [ReaderGuard; 3],
}

#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(
        "notifications do not come back: this looks like a transaction pooler; give the worker a direct DATABASE_URL"
    )]
    Pooler,
    #[error("the two connections of this worker reached different servers; is a failover under way?")]
    TwoServers,
}

/// What a wait for the next worker's end came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watched {
    Alive,
    Alone,
    /// Its session has ended; whether its row is taken away, so that all take over what it served.
    Gone(WorkerId, bool),
}

/// Milliseconds of a clock that also runs while the machine is suspended (`Instant` may not).
pub fn boottime_ms() -> i64 {
    #[cfg(target_os = "linux")]
    let now = clock_gettime(ClockId::Boottime);
    #[cfg(not(target_os = "linux"))]
    let now = clock_gettime(ClockId::Monotonic);
    now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
}

impl Session {
    /// Connects, takes a new worker id and its lock, and listens. The worker is not known to others yet.
    /// Gives up after some time, since a line that has gone silent may never break.
    pub async fn open(connector: &Connector, sealer: Sealer) -> Result<(Session, Notifications), SessionError> {
        match tokio::time::timeout(OPEN_LIMIT, Session::connect(connector, sealer)).await {
            Ok(opened) => opened,
            Err(elapsed) => Err(StoreError::Unreachable(Box::new(elapsed)).into()),
        }
    }

    async fn connect(connector: &Connector, sealer: Sealer) -> Result<(Session, Notifications), SessionError> {
        let Dedicated { client, notifications: silence, socket, reader } = connector.dedicated().await?;
        let mut aide = connector.dedicated().await?;
        let watch = connector.dedicated().await?;
        let all = [&client, &aide.client, &watch.client];
        // First of all, and without prepared statements: a pooler would lose those, and keep settings for others.
        let mut servers = Vec::new();
        for connection in all {
            servers.push(server(connection).await?);
        }
        if servers.iter().any(|server| *server != servers[0]) {
            return Err(SessionError::TwoServers);
        }
        aide.client.batch_execute("listen orderly").await.map_err(StoreError::from)?;
        hear_oneself(&aide.client, &client, &mut aide.notifications).await?;
        for connection in all {
            connection.batch_execute(SESSION_SETTINGS).await.map_err(StoreError::from)?;
        }
        watch.client.batch_execute(WATCH_SETTINGS).await.map_err(StoreError::from)?;

        let me: i64 =
            client.query_one("select nextval('orderly.worker_ids')", &[]).await.map_err(StoreError::from)?.get(0);
        // Held before the worker's row appears: a free lock on a known id means that its session is gone.
        let held: bool = client
            .query_one("select pg_try_advisory_lock(orderly.worker_lock($1))", &[&me])
            .await
            .map_err(StoreError::from)?
            .get(0);
        // The same for the line to this host, by the connection over which the server says something each second.
        let pulse: bool = watch
            .client
            .query_one("select pg_try_advisory_lock(orderly.pulse_lock($1))", &[&me])
            .await
            .map_err(StoreError::from)?
            .get(0);
        if !held || !pulse {
            return Err(StoreError::Corrupt(format!("worker id {me} was given twice")).into());
        }
        let locks: i64 = client
            .query_one(
                "select current_setting('max_locks_per_transaction')::bigint
                        * (current_setting('max_connections')::bigint + current_setting('max_prepared_transactions')::bigint)",
                &[],
            )
            .await
            .map_err(StoreError::from)?
            .get(0);
        let read_ahead = if broken::is(Broken::SkipLockedMessages) {
            READ_AHEAD.replace("limit $3", "limit $3 for update skip locked")
        } else {
            READ_AHEAD.to_owned()
        };
        let prepare = async |sql: &str| client.prepare(sql).await.map_err(StoreError::from);
        let session = Session {
            me: WorkerId(me),
            socket,
            fresh_at_ms: AtomicI64::new(boottime_ms()),
            acknowledge: if broken::is(Broken::PoolAcknowledges) {
                aide.client.prepare(ACKNOWLEDGE).await.map_err(StoreError::from)?
            } else {
                prepare(ACKNOWLEDGE).await?
            },
            claim: prepare("select destination_id, verdict, holder, wait_ms from orderly.claim($1, $2)").await?,
            lanes: prepare("select * from orderly.lanes($1)").await?,
            read_ahead: aide.client.prepare(&read_ahead).await.map_err(StoreError::from)?,
            client,
            aide: aide.client,
            watch: watch.client,
            sealer,
            lock_budget: usize::try_from(locks / 2).unwrap_or(1_000),
            _connections: [reader, aide.reader, watch.reader],
        };
        Ok((session, Notifications { heard: aide.notifications, silent: [silence, watch.notifications] }))
    }

    pub fn is_closed(&self) -> bool {
        self.client.is_closed() || self.aide.is_closed() || self.watch.is_closed() || self.socket.hung_up()
    }

    /// Milliseconds since the last question was sent that has been answered.
    pub fn stale_ms(&self) -> i64 {
        boottime_ms() - self.fresh_at_ms.load(Ordering::Acquire)
    }

    /// A question that does no harm when it is asked again, while what stands in its way passes (a lock, a lack of memory):
    /// giving the session up would make all requests in flight anew.
    pub async fn patiently<T, F>(&self, ask: impl Fn() -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>>,
    {
        let mut pause = Duration::from_millis(20);
        loop {
            match ask().await {
                Err(error) if error.is_passing() && !self.is_closed() => {
                    tracing::warn!(error = super::chain(&error), "the database does not let this be read yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                other => return other,
            }
        }
    }

    /// Asks the session whether it lives; its answer makes it fresh.
    pub async fn ask_alive(&self) -> Result<(), StoreError> {
        self.timed(self.client.simple_query("select 1")).await.map(drop)
    }

    /// Freshness counts from when the question was *sent*: what is read now may have been buffered long ago.
    async fn timed<T>(
        &self,
        question: impl Future<Output = Result<T, tokio_postgres::Error>>,
    ) -> Result<T, StoreError> {
        let asked_at = boottime_ms();
        let answer = question.await?;
        self.fresh_at_ms.fetch_max(asked_at, Ordering::AcqRel);
        Ok(answer)
    }

    /// Appears among the workers; the row of an older session of this process goes.
    pub async fn join(
        &self,
        process: &str,
        host: &str,
        kind: &str,
        destination: Option<DestinationId>,
    ) -> Result<(), StoreError> {
        let pid = i32::try_from(std::process::id()).unwrap_or(0);
        let destination = destination.map(|id| id.0);
        self.timed(self.client.query(
            "select orderly.join($1, $2, $3, $4, $5, $6)",
            &[&self.me.0, &process, &host, &pid, &kind, &destination],
        ))
        .await
        .map(drop)
    }

    pub async fn leave(&self) -> Result<(), StoreError> {
        self.timed(self.client.query("select orderly.leave($1)", &[&self.me.0])).await.map(drop)
    }

    /// At most 100 at once (see the function).
    pub async fn claim(&self, ids: &[i64]) -> Result<Vec<(DestinationId, Claimed)>, StoreError> {
        let rows = self.timed(self.client.query(&self.claim, &[&self.me.0, &ids])).await?;
        let mut claimed = Vec::new();
        let mut outcomes = Vec::with_capacity(rows.len());
        for row in rows {
            let id: i64 = row.get(0);
            let outcome = match row.get::<_, &str>(1) {
                "claimed" => {
                    claimed.push(id);
                    continue;
                }
                "owned" => Claimed::Owned(WorkerId(row.get(2))),
                "dormant" => Claimed::Dormant(row.get::<_, Option<i64>>(3).map(millis)),
                "busy" => Claimed::Busy,
                _ => Claimed::Gone,
            };
            outcomes.push((DestinationId(id), outcome));
        }
        if !claimed.is_empty() {
            let rows = self.timed(self.client.query(&self.lanes, &[&claimed])).await?;
            for row in &rows {
                let id = row.get("destination_id");
                claimed.retain(|other| *other != id);
                // One that cannot be read must not keep the others from being served.
                let outcome = match read_lane(&self.sealer, row) {
                    Ok(lane) => Claimed::Lane(Box::new(lane)),
                    Err(error) => {
                        tracing::error!(
                            destination.id = id,
                            error = super::chain(&error),
                            "a destination cannot be served"
                        );
                        Claimed::Unreadable
                    }
                };
                outcomes.push((DestinationId(id), outcome));
            }
            outcomes.extend(claimed.into_iter().map(|id| (DestinationId(id), Claimed::Unreadable)));
        }
        Ok(outcomes)
    }

    /// The state of a destination whose lock is held here, now.
    pub async fn find_lane(&self, id: DestinationId) -> Result<Option<LaneStart>, StoreError> {
        let rows = self.timed(self.client.query(&self.lanes, &[&[id.0].as_slice()])).await?;
        rows.first().map(|row| read_lane(&self.sealer, row)).transpose()
    }

    /// One commit for all of them, at most one of a destination. `keep` keeps what was delivered. Without `details` the
    /// receiver's answers and error texts are left out.
    pub async fn acknowledge(&self, items: &[Acknowledgement], keep: bool, details: bool) -> Result<(), StoreError> {
        // The plain ones first.
        let mut items: Vec<&Acknowledgement> = items.iter().collect();
        items.sort_by_key(|item| !item.is_plain());
        let plain = items.partition_point(|item| item.is_plain());
        let plain = i32::try_from(plain).unwrap_or(0);
        let kinds: Vec<&str> = items
            .iter()
            .map(|item| match item.ending {
                Ending::Delivered => "d",
                Ending::Retry { .. } => "r",
                Ending::Exhausted => "x",
                Ending::Held => "h",
                Ending::Expired => "e",
            })
            .collect();
        let destinations: Vec<i64> = items.iter().map(|item| item.destination.0).collect();
        let sequences: Vec<i64> = items.iter().map(|item| item.sequence.0).collect();
        let numbers: Vec<i32> = items.iter().map(|item| i32::try_from(item.number).unwrap_or(i32::MAX)).collect();
        let statuses: Vec<Option<i16>> =
            items.iter().map(|item| item.status_code.and_then(|code| i16::try_from(code).ok())).collect();
        let errors: Vec<Option<&str>> = items.iter().map(|item| item.error.as_deref().filter(|_| details)).collect();
        let durations: Vec<i32> =
            items.iter().map(|item| i32::try_from(item.duration.as_millis()).unwrap_or(i32::MAX)).collect();
        let responses: Vec<Option<&[u8]>> =
            items.iter().map(|item| Some(&item.response[..]).filter(|body| details && !body.is_empty())).collect();
        let retries: Vec<i64> = items
            .iter()
            .map(|item| match item.ending {
                Ending::Retry { after } => i64::try_from(after.as_millis()).unwrap_or(i64::MAX),
                Ending::Delivered | Ending::Exhausted | Ending::Held | Ending::Expired => 0,
            })
            .collect();
        let places: Vec<Place> = items.iter().map(|item| item.place).collect();
        let acknowledging = if broken::is(Broken::PoolAcknowledges) { &self.aide } else { &self.client };
        let row = self
            .timed(acknowledging.query_one(
                &self.acknowledge,
                &[
                    &kinds,
                    &destinations,
                    &sequences,
                    &numbers,
                    &statuses,
                    &errors,
                    &durations,
                    &responses,
                    &retries,
                    &plain,
                    &keep,
                    &places,
                ],
            ))
            .await?;
        let ended = items.iter().filter(|item| !matches!(item.ending, Ending::Retry { .. } | Ending::Held)).count();
        if row.get::<_, i64>(0) != i64::try_from(ended).unwrap_or(0) {
            tracing::error!(
                expected = ended,
                found = row.get::<_, i64>(0),
                "somebody else removed messages of destinations served here"
            );
        }
        Ok(())
    }

    /// Writes what lanes know; unless `keep`, gives the ownership up. Those that were ours.
    pub async fn release(&self, lanes: &[Release], keep: bool) -> Result<(), StoreError> {
        let ids: Vec<i64> = lanes.iter().map(|lane| lane.destination.0).collect();
        let floors: Vec<i64> = lanes.iter().map(|lane| lane.floor.0).collect();
        let delivered: Vec<i64> = lanes.iter().map(|lane| lane.last_delivered.0).collect();
        let started: Vec<Option<i64>> = lanes
            .iter()
            .map(|lane| lane.last_start.map(|at| i64::try_from(at.elapsed().as_millis()).unwrap_or(i64::MAX)))
            .collect();
        self.timed(self.client.query(
            "select orderly.release($1, $2, $3, $4, $5, $6)",
            &[&self.me.0, &ids, &floors, &delivered, &started, &keep],
        ))
        .await
        .map(drop)
    }

    /// Only after [`Session::release`] has committed.
    pub async fn unlock(&self, ids: &[i64]) -> Result<(), StoreError> {
        self.timed(self.client.query("select orderly.unlock($1)", &[&ids])).await.map(drop)
    }

    /// After an error: unlocks what is locked and should not be.
    pub async fn unlock_strays(&self, held: &[i64]) -> Result<Vec<i64>, StoreError> {
        let rows = self.timed(self.client.query("select orderly.unlock_strays($1)", &[&held])).await?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// What it owns by the database.
    pub async fn list_owned(&self) -> Result<Vec<DestinationId>, StoreError> {
        let rows = self.timed(self.client.query("select orderly.owned_by($1)", &[&self.me.0])).await?;
        Ok(rows.iter().map(|row| DestinationId(row.get(0))).collect())
    }

    /// What clients ask of a destination served here: ids and kinds, oldest first.
    pub async fn pending_requests(&self, id: DestinationId) -> Result<Vec<(i64, String)>, StoreError> {
        let rows = self
            .timed(self.client.query(
                "select id, kind from orderly.requests
                 where destination_id = $1 and state = 'pending' and deadline > clock_timestamp() order by id",
                &[&id.0],
            ))
            .await?;
        Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Executes and answers one; `None`: it is no longer wanted.
    pub async fn execute_request(
        &self,
        request: i64,
        in_flight: Option<Sequence>,
    ) -> Result<Option<Value>, StoreError> {
        let in_flight = in_flight.map(|sequence| sequence.0);
        let row = self
            .timed(self.client.query_one("select orderly.execute_request($1, $2)", &[&request, &in_flight]))
            .await?;
        Ok(row.get(0))
    }

    /// For each want (destination, above which sequence): its oldest messages, at most `messages` and, past
    /// the first, `bytes`. Only the holder ends messages, so a second connection reads no lie.
    pub async fn read_ahead(
        &self,
        wants: &[(DestinationId, Sequence)],
        messages: i64,
        bytes: i64,
    ) -> Result<Vec<Read>, StoreError> {
        let ids: Vec<i64> = wants.iter().map(|want| want.0.0).collect();
        let above: Vec<i64> = wants.iter().map(|want| want.1.0).collect();
        let rows = self.aide.query(&self.read_ahead, &[&ids, &above, &messages, &bytes]).await?;
        rows.iter()
            .map(|row| {
                let headers = match row.get::<_, Option<&str>>(4) {
                    Some(json) => serde_json::from_str(json)
                        .map_err(|error| StoreError::Corrupt(format!("message headers: {error}")))?,
                    None => std::collections::BTreeMap::new(),
                };
                Ok(Read {
                    want: usize::try_from(row.get::<_, i32>(0) - 1).unwrap_or(0),
                    message: Message {
                        sequence: Sequence(row.get(1)),
                        payload: Bytes::copy_from_slice(row.get(2)),
                        content_type: row.get(3),
                        headers: Headers::from_stored(headers),
                        created_at: row.get(5),
                        replay_of: row.get::<_, Option<i64>>(7).map(Sequence),
                    },
                    expires_in_ms: row.get(6),
                    place: row.get(8),
                })
            })
            .collect()
    }

    /// NOTIFY on the aide, where a commit that hangs stops no acknowledgement.
    pub async fn notify(&self, payload: &str) -> Result<(), StoreError> {
        ring(&self.aide, payload).await
    }

    /// Waits up to `seconds` for the end of the next worker's session in the ring of all.
    pub async fn watch(&self, seconds: i32, grace: Duration) -> Result<Watched, StoreError> {
        let parameters: [&(dyn ToSql + Sync); 3] = [&self.me.0, &seconds, &grace.as_secs_f64()];
        let row = self.watch.query_one("call orderly.watch($1, $2, $3, null, false)", &parameters).await?;
        Ok(match row.get::<_, Option<i64>>(0) {
            None => Watched::Alive,
            Some(0) => Watched::Alone,
            Some(id) => Watched::Gone(WorkerId(id), row.get(1)),
        })
    }
}

/// NOTIFY. One that is refused makes room for the next attempt (see there).
async fn ring(client: &Client, payload: &str) -> Result<(), StoreError> {
    let Err(error) = client.query("select orderly.ring($1)", &[&payload]).await else { return Ok(()) };
    let _ = client.query(super::bell::MOVE_NOTIFICATIONS, &[]).await;
    Err(error.into())
}

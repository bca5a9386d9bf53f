//! In which condition is what Orderly itself keeps in the database?

use super::Examiner;
use crate::store::StoreError;

/// A worker that has a row, and whether its session is there.
#[derive(Debug, Clone)]
pub struct Registered {
    pub id: i64,
    pub host: String,
    pub pid: i32,
    pub kind: String,
    pub destination: Option<i64>,
    pub is_alive: bool,
    /// Destinations that are its own by the table.
    pub owned: i64,
}

/// Queues that do not move, by reason; of some, the first few destinations.
#[derive(Debug, Clone, Default)]
pub struct Blocked {
    pub destinations: i64,
    pub paused: i64,
    pub disabled: i64,
    pub held: i64,
    pub backing_off: i64,
    pub first_disabled: Vec<i64>,
    pub first_held: Vec<i64>,
    pub first_backing_off: Vec<i64>,
}

/// Queues that could move, and that nobody serves.
#[derive(Debug, Clone, Default)]
pub struct Unserved {
    pub count: i64,
    pub first: Vec<i64>,
}

#[derive(Debug, Clone)]
pub struct Incarnation {
    pub rows: i64,
    /// Whether it is this start of Postgres that is noted.
    pub is_current: bool,
    /// Of the one row of `cluster`; `None`: never noted, or no row.
    pub noted_timeline: Option<String>,
    pub timeline: Option<String>,
    pub cluster_rows: i64,
    /// What the counter of messages stands at, and the highest number that is known to be given.
    pub last_given: i64,
    pub highest_known: i64,
}

#[derive(Debug, Clone, Copy)]
pub struct Partitions {
    pub today: bool,
    pub tomorrow: bool,
    pub default_in_use: bool,
}

impl Incarnation {
    /// The statement that sets the counter past all that is known to be given, and far past what is not known of.
    pub fn catching_up(&self) -> String {
        format!("select setval('orderly.message_sequence', {})", self.highest_known + 1_000_000)
    }
}

/// Secrets sealed alike, and one of them.
#[derive(Debug, Clone)]
pub struct Sealed {
    pub what: String,
    pub count: i64,
    pub sample: Vec<u8>,
}

impl Examiner {
    /// Also when there is none.
    pub async fn may_use_schema(&self) -> Result<bool, StoreError> {
        let row =
            self.row("select coalesce(has_schema_privilege(to_regnamespace('orderly')::oid, 'usage'), true)").await?;
        Ok(row.try_get(0)?)
    }

    /// Who asks, and who owns the schema, if there is one.
    pub async fn roles(&self) -> Result<(String, Option<String>), StoreError> {
        let row = self
            .row(
                "select current_user::text,
                        (select pg_get_userbyid(n.nspowner)::text from pg_namespace n where n.nspname = 'orderly')",
            )
            .await?;
        Ok((row.try_get(0)?, row.try_get(1)?))
    }

    /// A worker holds the lock on its id as long as its session lives.
    pub async fn workers(&self) -> Result<Vec<Registered>, StoreError> {
        let rows = self
            .rows(
                "with held as materialized (
                     select (l.classid::bigint << 32) | l.objid::bigint as key from pg_locks l
                     where l.locktype = 'advisory' and l.granted and l.mode = 'ExclusiveLock' and l.objsubid = 1
                       and l.database = (select d.oid from pg_database d where d.datname = current_database()))
                 select w.id, w.host, w.pid, w.kind, w.destination_id,
                        exists (select from held h where h.key = orderly.worker_lock(w.id)),
                        (select count(*) from orderly.claims c where c.owner = w.id)
                 from orderly.workers w order by w.id",
                &[],
            )
            .await?;
        rows.iter()
            .map(|row| {
                Ok(Registered {
                    id: row.try_get(0)?,
                    host: row.try_get(1)?,
                    pid: row.try_get(2)?,
                    kind: row.try_get(3)?,
                    destination: row.try_get(4)?,
                    is_alive: row.try_get(5)?,
                    owned: row.try_get(6)?,
                })
            })
            .collect()
    }

    /// Claims whose owner has no row.
    pub async fn count_orphans(&self) -> Result<i64, StoreError> {
        let row = self
            .row(
                "select count(*) from orderly.claims c
                 where c.owner is not null and not exists (select from orderly.workers w where w.id = c.owner)",
            )
            .await?;
        Ok(row.try_get(0)?)
    }

    /// Reads each destination and its claim once.
    pub async fn blocked(&self) -> Result<Blocked, StoreError> {
        let row = self
            .row(
                "with queue as (
                     select d.id, d.state, d.state = 'active' and c.held as held,
                            d.state = 'active' and not c.held and coalesce(c.next_attempt_at > clock_timestamp(), false) as backing_off
                     from orderly.destinations d join orderly.claims c on c.destination_id = d.id)
                 select count(*), count(*) filter (where state = 'paused'), count(*) filter (where state = 'disabled'),
                        count(*) filter (where held), count(*) filter (where backing_off),
                        coalesce((array_agg(id order by id) filter (where state = 'disabled'))[1:5], '{}'),
                        coalesce((array_agg(id order by id) filter (where held))[1:5], '{}'),
                        coalesce((array_agg(id order by id) filter (where backing_off))[1:5], '{}')
                 from queue",
            )
            .await?;
        Ok(Blocked {
            destinations: row.try_get(0)?,
            paused: row.try_get(1)?,
            disabled: row.try_get(2)?,
            held: row.try_get(3)?,
            backing_off: row.try_get(4)?,
            first_disabled: row.try_get(5)?,
            first_held: row.try_get(6)?,
            first_backing_off: row.try_get(7)?,
        })
    }

    /// Those whose head could be sent and is older than `orderly.sweep` and a claim may take.
    pub async fn unserved(&self) -> Result<Unserved, StoreError> {
        let row = self
            .row(
                "select count(*), coalesce((array_agg(u.destination_id order by u.destination_id))[1:5], '{}')
                 from orderly.unserved(0) u
                 join orderly.claims c on c.destination_id = u.destination_id
                 cross join lateral (
                     select m.created_at from orderly.messages m
                     where m.destination_id = u.destination_id and m.sequence > c.floor and m.expires_at > clock_timestamp()
                     order by m.sequence limit 1) h
                 where u.wait_ms is null and h.created_at < clock_timestamp() - interval '30 s'
                   and coalesce(c.next_attempt_at < clock_timestamp() - interval '30 s', true)",
            )
            .await?;
        Ok(Unserved { count: row.try_get(0)?, first: row.try_get(1)? })
    }

    pub async fn incarnation(&self) -> Result<Incarnation, StoreError> {
        let row = self
            .row(
                "select (select count(*) from orderly.incarnation),
                        coalesce((select bool_and(i.started = pg_postmaster_start_time()) from orderly.incarnation i), false),
                        (select c.timeline from orderly.cluster c),
                        case when not pg_is_in_recovery() then substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) end,
                        (select count(*) from orderly.cluster),
                        (select case when s.is_called then s.last_value else 0 end from orderly.message_sequence s),
                        (select coalesce(max(greatest(c.floor, c.last_delivered, c.head_sequence)), 0) from orderly.claims c)",
            )
            .await?;
        Ok(Incarnation {
            rows: row.try_get(0)?,
            is_current: row.try_get(1)?,
            noted_timeline: row.try_get(2)?,
            timeline: row.try_get(3)?,
            cluster_rows: row.try_get(4)?,
            last_given: row.try_get(5)?,
            highest_known: row.try_get(6)?,
        })
    }

    /// Days are UTC's.
    pub async fn partitions(&self) -> Result<Partitions, StoreError> {
        let row = self
            .row(
                "with day as (select (clock_timestamp() at time zone 'UTC')::date as today)
                 select to_regclass('orderly.attempts_' || to_char(today, 'YYYYMMDD')) is not null,
                        to_regclass('orderly.attempts_' || to_char(today + 1, 'YYYYMMDD')) is not null,
                        exists (select from orderly.attempts_default)
                 from day",
            )
            .await?;
        Ok(Partitions { today: row.try_get(0)?, tomorrow: row.try_get(1)?, default_in_use: row.try_get(2)? })
    }

    /// One of each way in which secrets are sealed: the first byte is the form, the next four name the key.
    /// Empty sets of headers are no secrets.
    pub async fn sealed(&self) -> Result<Vec<Sealed>, StoreError> {
        let rows = self
            .rows(
                "with secret as (
                     select 'headers of destinations' as what, headers as sealed from orderly.destinations where headers <> '\\x007b7d'
                     union all select 'HMAC secrets of destinations', hmac_secret from orderly.destinations where hmac_secret is not null
                     union all select 'the shared signing key', secret from orderly.signing_keys)
                 select what, count(*), (array_agg(sealed))[1] from secret
                 group by what, substr(sealed, 1, case when get_byte(sealed || '\\x00', 0) = 0 then 1 else 5 end) order by 1, 2",
                &[],
            )
            .await?;
        rows.iter()
            .map(|row| Ok(Sealed { what: row.try_get(0)?, count: row.try_get(1)?, sample: row.try_get(2)? }))
            .collect()
    }
}

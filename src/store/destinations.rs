//! How are destinations registered, changed and found?

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::Type;

use super::enqueue::IdempotencyKey;
use super::{Store, StoreError};
use crate::domain::{
    Destination, DestinationId, DestinationSettings, DestinationState, Headers, HmacSecret, OnExhausted, RetryPolicy,
};

/// Stands in for the columns wherever a destination is read; [`read`] takes them in this order.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select id, tenant, url, description, headers, state, on_exhausted, max_retries, delay_seconds, backoff,
                    timeout_seconds, max_per_second, max_queue_depth, created_at, updated_at, hmac_secret is not null
             from orderly.destinations ",
            $rest
        )
    };
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Registered {
    pub id: DestinationId,
    pub created_at: DateTime<Utc>,
}

#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// The idempotency key came with another body before.
    #[error("the idempotency key was used with another body")]
    KeyReused,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How a change of settings went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// When.
    Done(DateTime<Utc>),
    /// Somebody else changed it since it was read.
    Stale,
    NotFound,
}

/// Which destinations a list shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct DestinationFilter<'a> {
    pub tenant: Option<&'a str>,
    /// Equal to what the client wrote.
    pub url: Option<&'a str>,
    pub state: Option<DestinationState>,
}

impl Store {
    /// Registers a destination; under a key, once in 24 hours.
    pub async fn create_destination(
        &self,
        tenant: Option<&str>,
        settings: &DestinationSettings,
        key: Option<&IdempotencyKey>,
    ) -> Result<Registered, RegisterError> {
        let columns = Columns::of(self, settings);
        let (path, name, hash) =
            (key.map(|key| &key.path), key.map(|key| &key.key), key.map(|key| key.body_hash.as_slice()));
        let rows = self
            .query(
                "select status, id, created_at from orderly.create_destination(
                    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
                &[
                    (&tenant, Type::TEXT),
                    (&settings.url, Type::TEXT),
                    (&settings.description, Type::TEXT),
                    (&columns.headers, Type::BYTEA),
                    (&settings.on_exhausted.as_str(), Type::TEXT),
                    (&columns.max_retries, Type::INT4),
                    (&columns.delay_seconds, Type::FLOAT8),
                    (&columns.backoff, Type::FLOAT8),
                    (&columns.timeout_seconds, Type::FLOAT8),
                    (&settings.max_per_second, Type::FLOAT8),
                    (&settings.max_queue_depth, Type::INT8),
                    (&path, Type::TEXT),
                    (&name, Type::TEXT),
                    (&hash, Type::BYTEA),
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| StoreError::Corrupt("create_destination answered nothing".to_owned()))?;
        read_registered(row)?.ok_or(RegisterError::KeyReused)
    }

    /// What this key made in the last 24 hours, if it was used.
    pub async fn find_registered(
        &self,
        tenant: Option<&str>,
        key: &IdempotencyKey,
    ) -> Result<Option<Registered>, RegisterError> {
        let rows = self
            .query(
                "select case when body_hash = $4 then 'known' else 'reused' end,
                        (answer ->> 'id')::bigint, (answer ->> 'created_at')::timestamptz
                 from orderly.idempotency_keys
                 where tenant = coalesce($1, '') and path = $2 and key = $3
                   and created_at > clock_timestamp() - interval '24 hours'",
                &[
                    (&tenant, Type::TEXT),
                    (&key.path, Type::TEXT),
                    (&key.key, Type::TEXT),
                    (&key.body_hash, Type::BYTEA),
                ],
            )
            .await?;
        match rows.first() {
            None => Ok(None),
            Some(row) => read_registered(row)?.map(Some).ok_or(RegisterError::KeyReused),
        }
    }

    /// By primary key.
    pub async fn find_destination(
        &self,
        id: DestinationId,
        tenant: Option<&str>,
    ) -> Result<Option<Destination>, StoreError> {
        let rows = self
            .query(
                select!("where id = $1 and ($2::text is null or tenant = $2)"),
                &[(&id.0, Type::INT8), (&tenant, Type::TEXT)],
            )
            .await?;
        rows.first().map(|row| self.read_destination(row)).transpose()
    }

    /// The next ones after `after`, by id. Served by the primary key, `destinations_by_tenant` or
    /// `destinations_by_url`: the planner knows which parameters are null.
    pub async fn list_destinations(
        &self,
        filter: DestinationFilter<'_>,
        after: i64,
        limit: i64,
    ) -> Result<Vec<Destination>, StoreError> {
        let state = filter.state.map(DestinationState::as_str);
        let rows = self
            .query(
                select!(
                    "where id > $1 and ($2::text is null or tenant = $2) and ($3::text is null or url = $3)
                       and ($4::text is null or state = $4)
                     order by id limit $5"
                ),
                &[
                    (&after, Type::INT8),
                    (&filter.tenant, Type::TEXT),
                    (&filter.url, Type::TEXT),
                    (&state, Type::TEXT),
                    (&limit, Type::INT8),
                ],
            )
            .await?;
        rows.iter().map(|row| self.read_destination(row)).collect()
    }

    /// Replaces the settings if nobody changed them since `before` was read.
    pub async fn change_destination(
        &self,
        before: &Destination,
        settings: &DestinationSettings,
    ) -> Result<Change, StoreError> {
        let columns = Columns::of(self, settings);
        let rows = self
            .query(
                "select status, updated_at from orderly.change_destination(
                    $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                &[
                    (&before.id.0, Type::INT8),
                    (&before.updated_at, Type::TIMESTAMPTZ),
                    (&settings.url, Type::TEXT),
                    (&settings.description, Type::TEXT),
                    (&columns.headers, Type::BYTEA),
                    (&settings.on_exhausted.as_str(), Type::TEXT),
                    (&columns.max_retries, Type::INT4),
                    (&columns.delay_seconds, Type::FLOAT8),
                    (&columns.backoff, Type::FLOAT8),
                    (&columns.timeout_seconds, Type::FLOAT8),
                    (&settings.max_per_second, Type::FLOAT8),
                    (&settings.max_queue_depth, Type::INT8),
                ],
            )
            .await?;
        let row = rows.first().ok_or_else(|| StoreError::Corrupt("change_destination answered nothing".to_owned()))?;
        match row.try_get(0)? {
            "changed" => Ok(Change::Done(row.try_get(1)?)),
            "stale" => Ok(Change::Stale),
            "not_found" => Ok(Change::NotFound),
            other => Err(StoreError::Corrupt(format!("change_destination answered {other:?}"))),
        }
    }

    /// Gives a destination this secret, sealed, in place of what it had; `None` takes it away. Whether there is
    /// such a destination, for this tenant.
    ///
    /// Locks the one row, at most for 2 s; `updated_at` rises, so that a change made at once begins anew.
    pub async fn set_hmac_secret(
        &self,
        id: DestinationId,
        tenant: Option<&str>,
        secret: Option<&HmacSecret>,
    ) -> Result<bool, StoreError> {
        let sealed = secret.map(|HmacSecret(secret)| self.sealer.seal(secret));
        let rows = self
            .query(
                "select orderly.set_hmac_secret($1, $2, $3)",
                &[(&id.0, Type::INT8), (&tenant, Type::TEXT), (&sealed, Type::BYTEA)],
            )
            .await?;
        Ok(rows.first().map(|row| row.try_get(0)).transpose()?.unwrap_or(false))
    }

    /// Whether there is such a destination, for this tenant.
    pub async fn destination_is_visible(&self, id: DestinationId, tenant: Option<&str>) -> Result<bool, StoreError> {
        let rows = self
            .query(
                "select from orderly.destinations where id = $1 and ($2::text is null or tenant = $2)",
                &[(&id.0, Type::INT8), (&tenant, Type::TEXT)],
            )
            .await?;
        Ok(!rows.is_empty())
    }

    fn read_destination(&self, row: &Row) -> Result<Destination, StoreError> {
        let id: i64 = row.try_get(0)?;
        let corrupt = |what: &str| StoreError::Corrupt(format!("destination {id}: {what}"));
        let sealed: &[u8] = row.try_get(4)?;
        let opened = self.sealer.open(sealed).map_err(|error| corrupt(&error.to_string()))?;
        let entries: BTreeMap<String, String> =
            serde_json::from_slice(&opened).map_err(|_| corrupt("its headers are not JSON"))?;
        let retry = match (row.try_get::<_, Option<i32>>(7)?, row.try_get(8)?, row.try_get(9)?) {
            (Some(max_retries), Some(delay), Some(backoff)) => Some(RetryPolicy {
                max_retries: u32::try_from(max_retries).map_err(|_| corrupt("its max_retries"))?,
                delay: seconds(delay).ok_or_else(|| corrupt("its delay_seconds"))?,
                backoff,
            }),
            _ => None,
        };
        Ok(Destination {
            id: DestinationId(id),
            tenant: row.try_get(1)?,
            state: DestinationState::from_name(row.try_get(5)?).ok_or_else(|| corrupt("its state"))?,
            settings: DestinationSettings {
                url: row.try_get(2)?,
                description: row.try_get(3)?,
                headers: Headers::from_stored(entries),
                on_exhausted: OnExhausted::from_name(row.try_get(6)?).ok_or_else(|| corrupt("its on_exhausted"))?,
                retry,
                timeout: seconds(row.try_get(10)?).ok_or_else(|| corrupt("its timeout_seconds"))?,
                max_per_second: row.try_get(11)?,
                max_queue_depth: row.try_get(12)?,
            },
            created_at: row.try_get(13)?,
            updated_at: row.try_get(14)?,
            has_hmac_secret: row.try_get(15)?,
        })
    }
}

/// `None`: the key was used with another body.
fn read_registered(row: &Row) -> Result<Option<Registered>, StoreError> {
    match row.try_get(0)? {
        "created" | "known" => Ok(Some(Registered { id: DestinationId(row.try_get(1)?), created_at: row.try_get(2)? })),
        "reused" => Ok(None),
        other => Err(StoreError::Corrupt(format!("create_destination answered {other:?}"))),
    }
}

fn seconds(value: f64) -> Option<Duration> {
    Duration::try_from_secs_f64(value).ok()
}

/// The settings whose columns have another form.
struct Columns {
    headers: Vec<u8>,
    max_retries: Option<i32>,
    delay_seconds: Option<f64>,
    backoff: Option<f64>,
    timeout_seconds: f64,
}

impl Columns {
    fn of(store: &Store, settings: &DestinationSettings) -> Columns {
        Columns {
            headers: store.sealer.seal(settings.headers.to_json().as_bytes()),
            max_retries: settings.retry.map(|retry| i32::try_from(retry.max_retries).unwrap_or(i32::MAX)),
            delay_seconds: settings.retry.map(|retry| retry.delay.as_secs_f64()),
            backoff: settings.retry.map(|retry| retry.backoff),
            timeout_seconds: settings.timeout.as_secs_f64(),
        }
    }
}

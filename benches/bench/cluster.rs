//! On which Postgres is measured, and how does it get its load?

use std::path::{Path, PathBuf};

use orderly::embedded::{self, EmbeddedOptions, EmbeddedPostgres, Keep};
use orderly::store::connect::{Connector, Dedicated};
use orderly::store::{Store, migrate};
use tokio_postgres::Client;

use super::payloads::Payloads;
use super::{Result, measure};

const SCRATCH: &str = "orderly-bench-";

/// A private Postgres with its default settings (`synchronous_commit = on`, fsync on).
pub struct Cluster {
    postgres: EmbeddedPostgres,
    /// In a database that is not measured.
    admin: Dedicated,
    database: Option<Dedicated>,
    name: String,
    count: usize,
}

impl Cluster {
    pub async fn start(settings: &[(&str, &str)]) -> Result<Cluster> {
        sweep().await;
        let folder = scratch_root().join(format!("{SCRATCH}{}-{:08x}", std::process::id(), rand::random::<u32>()));
        let options = EmbeddedOptions {
            bin: std::env::var_os("ORDERLY_PG_BIN").map(PathBuf::from),
            settings: settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            keep: Keep::Nothing,
            ..EmbeddedOptions::new(folder)
        };
        let postgres = EmbeddedPostgres::start(options).await?;
        let admin = connect(&postgres.url()).await?;
        Ok(Cluster { postgres, admin, database: None, name: String::new(), count: 0 })
    }

    /// An empty, migrated database; the one before it goes.
    pub async fn fresh(&mut self) -> Result<()> {
        self.database = None;
        if !self.name.is_empty() {
            self.admin.client.batch_execute(&format!("drop database {} with (force)", self.name)).await?;
        }
        self.count += 1;
        self.name = format!("bench_{}", self.count);
        self.postgres.create_database(&self.name).await?;
        migrate::migrate(&Store::open(&self.url(), 1, Default::default())?).await?;
        self.database = Some(connect(&self.url()).await?);
        Ok(())
    }

    pub fn url(&self) -> String {
        self.postgres.url_for(&self.name)
    }

    /// On the measured database; what goes over it counts as a statement of the run.
    pub fn client(&self) -> Result<&Client> {
        self.database.as_ref().map(|database| &database.client).ok_or_else(|| "no database yet".into())
    }

    pub async fn version(&self) -> Result<String> {
        Ok(self.admin.client.query_one("show server_version", &[]).await?.get(0))
    }

    /// Registered destinations `<base>/d/1` to `<base>/d/<count>`; the first one's id.
    pub async fn add_destinations(&self, base: &str, count: u64) -> Result<i64> {
        // The keeper of header values writes a 0 before what it does not seal.
        let row = self
            .client()?
            .query_one(
                "with d as (insert into orderly.destinations (url, headers)
                            select $1 || '/d/' || n, '\\x007b7d'::bytea from generate_series(1, $2::bigint) n returning id),
                      q as (insert into orderly.queues (destination_id) select id from d),
                      c as (insert into orderly.claims (destination_id) select id from d)
                 select min(id) from d",
                &[&base, &i64::try_from(count)?],
            )
            .await?;
        Ok(row.get(0))
    }

    /// Queues `each` messages for each of `count` destinations from `first` on, in turn.
    pub async fn fill(&self, first: i64, count: u64, each: u64, payloads: &Payloads) -> Result<()> {
        let bodies: Vec<&[u8]> = payloads.bodies.iter().map(AsRef::as_ref).collect();
        self.client()?
            .execute(
                "insert into orderly.messages (destination_id, sequence, created_at, expires_at, brief, content_type, payload)
                 select d, nextval('orderly.message_sequence'), now(), now() + interval '1 day', false, 'application/json',
                        ($4::bytea[])[1 + (n * $2 + d) % cardinality($4::bytea[])]
                 from (select n, d from generate_series(1, $3::bigint) n, generate_series($1::bigint, $1 + $2::bigint - 1) d
                       order by n, d) x",
                &[&first, &i64::try_from(count)?, &i64::try_from(each)?, &bodies],
            )
            .await?;
        Ok(())
    }

    /// Tells the workers, as the API's bell does.
    pub async fn ring(&self, first: i64, count: u64) -> Result<()> {
        let ids: Vec<i64> = (first..first + i64::try_from(count)?).collect();
        for part in ids.chunks(500) {
            let payload = format!("b{}", part.iter().map(i64::to_string).collect::<Vec<_>>().join(","));
            self.client()?.query("select orderly.ring($1)", &[&payload]).await?;
        }
        Ok(())
    }

    /// Writes out what the load left dirty, so that the run does not pay for it.
    pub async fn settle(&self) -> Result<()> {
        Ok(self.admin.client.batch_execute("checkpoint").await?)
    }

    /// WAL written so far in bytes, and transactions of the measured database: Orderly's hot statements are
    /// one transaction each.
    pub async fn counters(&self) -> Result<(i64, i64)> {
        // A session's own counts show a second after its last transaction, or when it ends.
        tokio::time::sleep(std::time::Duration::from_millis(1_100)).await;
        let row = self
            .admin
            .client
            .query_one(
                "select (pg_current_wal_lsn() - '0/0')::bigint,
                        coalesce((select xact_commit + xact_rollback from pg_stat_database where datname = $1), 0)",
                &[&self.name],
            )
            .await?;
        Ok((row.get(0), row.get(1)))
    }

    /// What clients have said to the measured database, where the extension counts it; this not included.
    pub async fn statements(&self) -> Result<i64> {
        let counted = "select coalesce(sum(calls), 0)::bigint from public.pg_stat_statements
                       where dbid = (select oid from pg_database where datname = current_database())
                         and query not like '%pg_stat_statements%'";
        Ok(self.client()?.query_one(counted, &[]).await?.get(0))
    }

    /// Waits until so many workers have joined.
    pub async fn workers_ready(&self, count: usize) -> Result<()> {
        for _ in 0..300 {
            let joined: i64 = self.client()?.query_one("select count(*) from orderly.workers", &[]).await?.get(0);
            if usize::try_from(joined)? == count {
                return Ok(());
            }
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        Err(format!("{count} workers did not join").into())
    }

    /// Seconds of CPU of the server and all its sessions.
    pub fn cpu(&self) -> f64 {
        self.postgres.pid().map_or(0.0, measure::cpu_of_family)
    }
}

pub async fn connect(url: &str) -> Result<Dedicated> {
    Ok(Connector::parse(url)?.dedicated().await?)
}

/// Below the build's folder; as root only if others may enter that, for Postgres does not run as root.
fn scratch_root() -> PathBuf {
    use std::os::unix::fs::MetadataExt;
    let build = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let enterable = |folder: &Path| folder.metadata().is_ok_and(|found| found.mode() & 0o001 != 0);
    let fits = !rustix::process::geteuid().is_root() || build.ancestors().all(enterable);
    if fits { build } else { std::env::temp_dir() }
}

/// Folders of runs that were killed together with their watchdog; one in use is left alone.
async fn sweep() {
    let Ok(folders) = std::fs::read_dir(scratch_root()) else { return };
    for folder in folders.flatten() {
        if folder.file_name().to_string_lossy().starts_with(SCRATCH) && folder.path().join("lock").exists() {
            let _ = embedded::remove(&folder.path()).await;
        }
    }
}

//! Which key do development processes share?

use tokio_postgres::types::Type;

use super::{Store, StoreError};

impl Store {
    /// The first process's key for all: `candidate` (PEM) if there is none yet, else what is there.
    pub async fn share_signing_key(&self, candidate: &str) -> Result<String, StoreError> {
        const STORED: &str = "select secret from orderly.signing_keys where id = 'development'";
        let mut rows = self.query(STORED, &[]).await?;
        // Looked for first: of a standby, which may be promoted, a worker only reads.
        if rows.is_empty() {
            let sealed = self.sealer.seal(candidate.as_bytes());
            self.query(
                "insert into orderly.signing_keys (id, secret) values ('development', $1) on conflict do nothing",
                &[(&sealed, Type::BYTEA)],
            )
            .await?;
            rows = self.query(STORED, &[]).await?;
        }
        let stored: &[u8] = rows.first().map(|row| row.get(0)).unwrap_or_default();
        let opened =
            self.sealer.open(stored).map_err(|error| StoreError::Corrupt(format!("the signing key: {error}")))?;
        String::from_utf8(opened).map_err(|_| StoreError::Corrupt("the signing key is not text".to_owned()))
    }
}

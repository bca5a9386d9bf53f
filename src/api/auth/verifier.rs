//! Whose token is this?
//!
//! A signature costs some 50 µs (EdDSA) to 200 µs (ES256, RS256) of a core, more than all else a POST costs;
//! and a client sends the same token for an hour. So a token that was found good is remembered, by its hash,
//! until it expires or the keys change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;

use super::key::{KeyError, KeySet};
use super::source::{FetchedKeys, Pace, Snapshot, Source, SourceError};
use super::token::{Expectations, MAX_TOKEN_BYTES, Unverified, Verified};
use super::{AuthError, Principal};
use crate::config::{ServeSettings, TokenKeys};

/// Only good tokens are remembered, so strangers cannot fill this.
const MAX_REMEMBERED: usize = 10_000;

#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    #[error("the file {file} {source}")]
    File { file: String, source: KeyError },
    #[error("the keys that tokens are signed with cannot be had")]
    Source(#[from] SourceError),
}

/// Tells whose a token is. Cheap to clone.
#[derive(Clone)]
pub struct Verifier(Option<Arc<Enabled>>);

struct Enabled {
    keys: Keys,
    expected: Expectations,
    remembered: Mutex<Remembered>,
}

enum Keys {
    Fixed(Arc<KeySet>),
    Fetched(FetchedKeys),
}

#[derive(Default)]
struct Remembered {
    generation: u64,
    tokens: HashMap<[u8; 32], (Arc<Principal>, f64)>,
}

impl Verifier {
    /// Lets everybody do everything.
    pub fn disabled() -> Verifier {
        Verifier(None)
    }

    pub fn with_keys(keys: KeySet, expected: Expectations) -> Verifier {
        Verifier::enabled(Keys::Fixed(Arc::new(keys)), expected)
    }

    /// Keys that are fetched now, and again in the background until `stop`.
    pub async fn with_source(
        source: Source,
        expected: Expectations,
        pace: Pace,
        stop: CancellationToken,
    ) -> Result<Verifier, SourceError> {
        Ok(Verifier::enabled(Keys::Fetched(FetchedKeys::start(source, pace, stop).await?), expected))
    }

    /// What the settings ask for; call [`ServeSettings::validate`] before.
    pub async fn from_settings(settings: &ServeSettings, stop: CancellationToken) -> Result<Verifier, SetupError> {
        let mut expected =
            Expectations { issuer: settings.jwt_issuer.clone(), audiences: settings.jwt_audiences.clone() };
        let source = match settings.token_keys() {
            TokenKeys::None => return Ok(Verifier::disabled()),
            TokenKeys::File(path) => {
                let keys = KeySet::from_pem_file(path)
                    .map_err(|source| SetupError::File { file: path.display().to_string(), source })?;
                return Ok(Verifier::with_keys(keys, expected));
            }
            TokenKeys::Jwks(url) => Source::Jwks(url.clone()),
            TokenKeys::Issuer(issuer) => {
                expected.issuer.get_or_insert_with(|| issuer.to_owned());
                Source::Issuer(issuer.to_owned())
            }
        };
        Ok(Verifier::with_source(source, expected, Pace::default(), stop).await?)
    }

    fn enabled(keys: Keys, expected: Expectations) -> Verifier {
        Verifier(Some(Arc::new(Enabled { keys, expected, remembered: Mutex::default() })))
    }

    pub fn is_enabled(&self) -> bool {
        self.0.is_some()
    }

    /// Where clients get tokens, when an OAuth issuer told.
    pub fn token_endpoint(&self) -> Option<&str> {
        match &self.0.as_ref()?.keys {
            Keys::Fixed(_) => None,
            Keys::Fetched(keys) => keys.token_endpoint.as_deref(),
        }
    }

    pub async fn verify(&self, token: &str) -> Result<Arc<Principal>, AuthError> {
        match &self.0 {
            Some(enabled) => enabled.verify(token, now()).await,
            None => Ok(Arc::new(Principal::unrestricted())),
        }
    }
}

impl Enabled {
    async fn verify(&self, token: &str, now: f64) -> Result<Arc<Principal>, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid("longer than 8 KiB"));
        }
        let (mut keys, mut generation) = self.keys.current();
        let hash: [u8; 32] = Sha256::digest(token).into();
        if let Some(principal) = self.recall(&hash, generation, now) {
            return Ok(principal);
        }
        let unverified = Unverified::parse(token)?;
        if let (Keys::Fetched(fetched), Some(id)) = (&self.keys, &unverified.key_id)
            && keys.lacks(id)
            && let Some(newer) = fetched.newer().await
        {
            Snapshot { keys, generation, .. } = newer;
        }
        let verified = unverified.verify(&keys, &self.expected, now)?;
        Ok(self.remember(hash, generation, verified, now))
    }

    fn recall(&self, hash: &[u8; 32], generation: u64, now: f64) -> Option<Arc<Principal>> {
        let remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        if remembered.generation != generation {
            return None;
        }
        remembered.tokens.get(hash).filter(|(_, until)| now < *until).map(|(principal, _)| principal.clone())
    }

    fn remember(&self, hash: [u8; 32], generation: u64, verified: Verified, now: f64) -> Arc<Principal> {
        let principal = Arc::new(verified.principal);
        let mut remembered = self.remembered.lock().unwrap_or_else(PoisonError::into_inner);
        // What was verified with older keys than the last is not remembered.
        if generation > remembered.generation {
            *remembered = Remembered { generation, tokens: HashMap::new() };
        }
        if generation == remembered.generation {
            if remembered.tokens.len() >= MAX_REMEMBERED {
                remembered.tokens.retain(|_, (_, until)| now < *until);
            }
            if remembered.tokens.len() >= MAX_REMEMBERED {
                remembered.tokens.clear();
            }
            remembered.tokens.insert(hash, (principal.clone(), verified.until));
        }
        principal
    }
}

impl Keys {
    fn current(&self) -> (Arc<KeySet>, u64) {
        match self {
            Keys::Fixed(keys) => (keys.clone(), 0),
            Keys::Fetched(fetched) => {
                let snapshot = fetched.current();
                (snapshot.keys, snapshot.generation)
            }
        }
    }
}

/// Unix seconds. A clock before 1970 makes every token one that is not valid yet.
fn now() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |elapsed| elapsed.as_secs_f64())
}

#[cfg(test)]
mod tests;

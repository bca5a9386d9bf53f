//! How are secrets kept at rest?

/// Seals what must not stand in the database in the clear.
#[derive(Clone, Default)]
pub struct Sealer;

#[derive(Debug, thiserror::Error)]
pub enum SealError {
    #[error("sealed with a key that was not given (--secrets-key)")]
    UnknownKey,
    #[error("what is stored was not sealed by Orderly")]
    Malformed,
}

/// The first byte of what is stored tells how it is sealed.
const PLAIN: u8 = 0;

impl Sealer {
    pub fn seal(&self, secret: &[u8]) -> Vec<u8> {
        [&[PLAIN], secret].concat()
    }

    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        match sealed {
            [PLAIN, secret @ ..] => Ok(secret.to_vec()),
            _ => Err(SealError::Malformed),
        }
    }
}

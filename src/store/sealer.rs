//! How are secrets kept at rest?
//!
//! A sealed secret is one byte that tells the format, then for format 1: four bytes that name the key, a
//! random nonce of 24 bytes, and the secret under XChaCha20-Poly1305. What stood in the database before
//! there was a key is readable after, and is sealed the next time it is written.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{Key, XChaCha20Poly1305, XNonce};
use sha2::{Digest, Sha256};

/// Seals what must not stand in the database in the clear. Cheap to clone; without keys it seals nothing.
#[derive(Clone, Default)]
pub struct Sealer {
    /// The first one seals, all open.
    keys: Arc<[SecretsKey]>,
}

struct SecretsKey {
    name: [u8; NAME],
    cipher: XChaCha20Poly1305,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error("sealed with a key that was not given (--secrets-key)")]
    UnknownKey,
    #[error("what is stored was not sealed by Orderly")]
    Malformed,
    #[error("what is stored was changed, or its key is another one of the same name")]
    Forged,
}

/// `--secrets-key` is wrong; the key itself is not shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("secrets key number {0} is not 32 bytes in base64 (make one with `openssl rand -base64 32`)")]
pub struct SecretsKeyError(pub usize);

/// The first byte of what is stored tells how it is sealed.
const PLAIN: u8 = 0;
const XCHACHA20_POLY1305: u8 = 1;
const NAME: usize = 4;
const NONCE: usize = 24;

impl Sealer {
    /// Keys of 32 bytes in base64: the first one seals, all open. Without any: as [`Sealer::default`].
    pub fn from_keys(keys: &[String]) -> Result<Sealer, SecretsKeyError> {
        let parse = |(index, text): (usize, &String)| {
            let bytes = STANDARD.decode(text.trim()).ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
            bytes.map(|bytes| SecretsKey::new(&bytes)).ok_or(SecretsKeyError(index + 1))
        };
        Ok(Sealer { keys: keys.iter().enumerate().map(parse).collect::<Result<_, _>>()? })
    }

    /// Whether secrets are stored in the clear.
    pub fn is_plain(&self) -> bool {
        self.keys.is_empty()
    }

    pub fn seal(&self, secret: &[u8]) -> Vec<u8> {
        match self.keys.first() {
            Some(key) => key.seal(secret),
            None => [&[PLAIN], secret].concat(),
        }
    }

    pub fn open(&self, sealed: &[u8]) -> Result<Vec<u8>, SealError> {
        match sealed {
            [PLAIN, secret @ ..] => Ok(secret.to_vec()),
            [XCHACHA20_POLY1305, rest @ ..] => self.open_sealed(rest),
            _ => Err(SealError::Malformed),
        }
    }

    fn open_sealed(&self, rest: &[u8]) -> Result<Vec<u8>, SealError> {
        let (name, rest) = rest.split_first_chunk::<NAME>().ok_or(SealError::Malformed)?;
        let (nonce, ciphertext) = rest.split_first_chunk::<NONCE>().ok_or(SealError::Malformed)?;
        // Two keys may have one name, once in four billion pairs.
        let mut error = SealError::UnknownKey;
        for key in self.keys.iter().filter(|key| key.name == *name) {
            match key.open(nonce, ciphertext) {
                Some(secret) => return Ok(secret),
                None => error = SealError::Forged,
            }
        }
        Err(error)
    }
}

impl SecretsKey {
    fn new(bytes: &[u8; 32]) -> SecretsKey {
        let digest = Sha256::new().chain_update(b"orderly secrets key").chain_update(bytes).finalize();
        let mut name = [0; NAME];
        name.copy_from_slice(&digest[..NAME]);
        SecretsKey { name, cipher: XChaCha20Poly1305::new(&Key::from(*bytes)) }
    }

    fn seal(&self, secret: &[u8]) -> Vec<u8> {
        // 192 random bits never repeat, however many processes seal with one key.
        let nonce: [u8; NONCE] = rand::random();
        let ciphertext = self
            .cipher
            .encrypt(&XNonce::from(nonce), Payload { msg: secret, aad: &self.head() })
            .expect("only texts beyond 256 GiB cannot be sealed");
        [&self.head()[..], &nonce, &ciphertext].concat()
    }

    fn open(&self, nonce: &[u8; NONCE], ciphertext: &[u8]) -> Option<Vec<u8>> {
        self.cipher.decrypt(&XNonce::from(*nonce), Payload { msg: ciphertext, aad: &self.head() }).ok()
    }

    fn head(&self) -> [u8; 1 + NAME] {
        let [a, b, c, d] = self.name;
        [XCHACHA20_POLY1305, a, b, c, d]
    }
}

/// Keys are never shown.
impl std::fmt::Debug for Sealer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Sealer({} keys)", self.keys.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> String {
        STANDARD.encode([byte; 32])
    }

    fn sealer(keys: &[u8]) -> Sealer {
        Sealer::from_keys(&keys.iter().map(|byte| key(*byte)).collect::<Vec<_>>()).expect("good keys")
    }

    #[test]
    fn keys_rotate() {
        let sealed = sealer(&[1]).seal(b"secret");
        assert!(!sealed.windows(6).any(|window| window == b"secret"));
        assert_eq!(sealer(&[2, 1]).open(&sealed).as_deref(), Ok(&b"secret"[..]));
        assert_eq!(sealer(&[2]).open(&sealed), Err(SealError::UnknownKey));
        assert_eq!(Sealer::default().open(&sealed), Err(SealError::UnknownKey));
        let sealed_anew = sealer(&[2, 1]).seal(b"secret");
        assert_eq!(sealer(&[2]).open(&sealed_anew).as_deref(), Ok(&b"secret"[..]));
    }

    #[test]
    fn what_was_plain_stays_readable_once_there_is_a_key() {
        assert!(Sealer::default().is_plain() && sealer(&[]).is_plain() && !sealer(&[1]).is_plain());
        let plain = Sealer::default().seal(b"secret");
        assert_eq!(sealer(&[1]).open(&plain).as_deref(), Ok(&b"secret"[..]));
        assert_eq!(sealer(&[1]).open(&sealer(&[1]).seal(b"")).as_deref(), Ok(&b""[..]));
    }

    #[test]
    fn no_byte_can_be_changed_and_none_left_out() {
        let sealer = sealer(&[1]);
        let sealed = sealer.seal(b"secret");
        assert_ne!(sealed, sealer.seal(b"secret"));
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            // Not into format 0: whoever can write there can write what he likes in the clear.
            changed[at] ^= 0x80;
            assert!(sealer.open(&changed).is_err(), "byte {at}");
            assert!(sealer.open(&sealed[..at]).is_err(), "{at} bytes");
        }
        assert_eq!(sealer.open(&[]), Err(SealError::Malformed));
    }

    #[test]
    fn a_wrong_key_is_told_by_its_number_and_not_shown() {
        for wrong in ["", "secret", &STANDARD.encode([1; 31]), &STANDARD.encode([1; 33]), "!"] {
            let error = Sealer::from_keys(&[key(1), wrong.to_owned()]).expect_err("a wrong key");
            assert_eq!(error, SecretsKeyError(2));
        }
        assert_eq!(format!("{:?}", sealer(&[1])), "Sealer(1 keys)");
    }
}

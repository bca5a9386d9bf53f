//! Which keys sign deliveries, and how are they stored and published?

use std::path::{Path, PathBuf};
use std::sync::Arc;

use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ed25519_dalek::SigningKey as Secret;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey, KeypairBytes};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// All of them sign, so that receivers can change over while an old one still counts.
#[derive(Clone, Default)]
pub struct SigningKeys(Vec<SigningKey>);

/// An Ed25519 key pair with its public name.
#[derive(Clone)]
pub struct SigningKey {
    secret: Secret,
    /// The same, ready to sign.
    pair: Arc<Ed25519KeyPair>,
    id: String,
}

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot read {}", path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("{}: {source}", path.display())]
    InFile { path: PathBuf, source: Box<KeyError> },
    #[error("not an Ed25519 private key in PKCS#8 PEM form (\"BEGIN PRIVATE KEY\")")]
    Format,
    #[error("the same signing key is given twice")]
    Twice,
    #[error("the system gives no random numbers")]
    Random,
}

impl SigningKey {
    /// A new one, from the system's random numbers.
    pub fn generate() -> Result<SigningKey, KeyError> {
        use rand::TryRng;
        let mut seed = [0u8; 32];
        rand::rngs::SysRng.try_fill_bytes(&mut seed).map_err(|_| KeyError::Random)?;
        Ok(SigningKey::new(Secret::from_bytes(&seed)))
    }

    /// PKCS#8, version 1 or 2 (RFC 8410), as `orderly keygen` and `openssl genpkey -algorithm ed25519`
    /// write it.
    pub fn from_pem(pem: &str) -> Result<SigningKey, KeyError> {
        Secret::from_pkcs8_pem(pem.trim()).map(SigningKey::new).map_err(|_| KeyError::Format)
    }

    fn new(secret: Secret) -> SigningKey {
        let x = URL_SAFE_NO_PAD.encode(secret.verifying_key().as_bytes());
        // RFC 7638: the required members in this order, without spaces; for OKP see RFC 8037, appendix A.3.
        let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
        let id = URL_SAFE_NO_PAD.encode(Sha256::digest(canonical.as_bytes()));
        let pair = Ed25519KeyPair::from_seed_and_public_key(secret.as_bytes(), secret.verifying_key().as_bytes())
            .expect("the halves belong together");
        SigningKey { secret, pair: Arc::new(pair), id }
    }

    /// The private key as PKCS#8 PEM. Version 1, without the public key: OpenSSL 3.0 reads no other.
    pub fn to_pem(&self) -> String {
        let bytes = KeypairBytes { secret_key: self.secret.to_bytes(), public_key: None };
        bytes.to_pkcs8_pem(LineEnding::LF).expect("32 bytes always encode").to_string()
    }

    /// RFC 7638 thumbprint of the public key.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub fn public_bytes(&self) -> [u8; 32] {
        self.secret.verifying_key().to_bytes()
    }

    /// The public key in Standard Webhooks' form.
    pub fn whpk(&self) -> String {
        format!("whpk_{}", STANDARD.encode(self.public_bytes()))
    }

    /// The public key as a JWK (RFC 8037).
    pub fn jwk(&self) -> Value {
        json!({
            "kty": "OKP",
            "crv": "Ed25519",
            "x": URL_SAFE_NO_PAD.encode(self.public_bytes()),
            "kid": self.id,
            "use": "sig",
            "alg": "EdDSA",
        })
    }

    pub(super) fn sign(&self, content: &[u8]) -> [u8; 64] {
        self.pair.sign(content).as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }
}

impl SigningKeys {
    /// One key each; the order is kept.
    pub fn load(files: &[impl AsRef<Path>]) -> Result<SigningKeys, KeyError> {
        let read = |file: &Path| {
            let pem =
                std::fs::read_to_string(file).map_err(|source| KeyError::File { path: file.to_owned(), source })?;
            SigningKey::from_pem(&pem)
                .map_err(|source| KeyError::InFile { path: file.to_owned(), source: Box::new(source) })
        };
        SigningKeys::new(files.iter().map(|file| read(file.as_ref())).collect::<Result<_, _>>()?)
    }

    pub fn new(keys: Vec<SigningKey>) -> Result<SigningKeys, KeyError> {
        let mut ids: Vec<&str> = keys.iter().map(SigningKey::id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(KeyError::Twice);
        }
        Ok(SigningKeys(keys))
    }

    pub fn iter(&self) -> impl Iterator<Item = &SigningKey> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What `/.well-known/jwks.json` answers (RFC 7517).
    pub fn jwks(&self) -> Value {
        json!({ "keys": self.0.iter().map(SigningKey::jwk).collect::<Vec<_>>() })
    }
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("SigningKey").field(&self.id).finish()
    }
}

impl std::fmt::Debug for SigningKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// RFC 8037, appendix A: the key, its public part and its thumbprint.
    const RFC_8037_PEM: &str = "-----BEGIN PRIVATE KEY-----\n\
        MC4CAQAwBQYDK2VwBCIEIJ1hsZ3v/VpguoRK9JLsLMREScVpezJpGXA7rAMcrn9g\n\
        -----END PRIVATE KEY-----\n";

    #[test]
    fn a_key_is_named_by_its_thumbprint() {
        let key = SigningKey::from_pem(RFC_8037_PEM).expect("a good key");
        assert_eq!(key.id(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
        assert_eq!(key.jwk()["x"], "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        assert_eq!(key.whpk(), "whpk_11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=");
        assert_eq!(key.to_pem(), RFC_8037_PEM);
    }

    #[test]
    fn a_new_key_survives_its_file() {
        let key = SigningKey::generate().expect("random numbers");
        let again = SigningKey::from_pem(&key.to_pem()).expect("its own form");
        assert_eq!(again.public_bytes(), key.public_bytes());
        assert_ne!(key.id(), SigningKey::generate().expect("random numbers").id());
    }

    #[test]
    fn what_is_no_key_is_refused_and_not_shown() {
        for wrong in ["", "secret", "-----BEGIN PRIVATE KEY-----\nsecret\n-----END PRIVATE KEY-----\n"] {
            let error = SigningKey::from_pem(wrong).expect_err("not a key");
            assert!(!format!("{error} {error:?}").contains("secret"));
        }
        let key = SigningKey::from_pem(RFC_8037_PEM).expect("a good key");
        assert!(!format!("{key:?}").contains("nWGxne"));
        assert!(matches!(SigningKeys::new(vec![key.clone(), key]), Err(KeyError::Twice)));
    }

    #[test]
    fn all_keys_are_published_in_their_order() {
        let keys = vec![SigningKey::generate().expect("random"), SigningKey::generate().expect("random")];
        let ids: Vec<String> = keys.iter().map(|key| key.id().to_owned()).collect();
        let jwks = SigningKeys::new(keys).expect("two keys").jwks();
        let published: Vec<&str> = (0..2).filter_map(|i| jwks["keys"][i]["kid"].as_str()).collect();
        assert_eq!(published, ids);
        assert!(!jwks.to_string().contains("\"d\""));
    }
}

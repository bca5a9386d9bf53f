//! Which public key may verify which tokens?
//!
//! A key is good for exactly one algorithm, which it says itself; what a token's header claims only has to
//! agree. So no header can make a public key into an HMAC secret, or turn verification off. Keys are checked
//! in full when they are read: jsonwebtoken 10.3 panics on an Ed25519 key that is too short.

use std::fmt;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::ObjectIdentifier;
use ed25519_dalek::pkcs8::spki::SubjectPublicKeyInfoRef;
use ed25519_dalek::pkcs8::spki::der::asn1::UintRef;
use ed25519_dalek::pkcs8::spki::der::{Decode, Reader, SliceReader};
use jsonwebtoken::DecodingKey;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, SubjectPublicKeyInfoDer};
use rustls::server::ParsedCertificate;
use serde::Deserialize;

const ED25519: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.101.112");
const EC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.2.1");
const P256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.3.1.7");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");

#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    #[error("cannot be read: {0}")]
    Read(#[source] std::io::Error),
    #[error("holds {0} public keys, must hold one (for several use --jwt-jwks-url)")]
    Count(usize),
    #[error("is not a public key in PEM (BEGIN PUBLIC KEY or BEGIN CERTIFICATE)")]
    NotPublicKey,
    #[error("holds a private key; give the public one")]
    Private,
    #[error("is of a kind that is not supported; Ed25519, P-256 and RSA are")]
    Unsupported,
    #[error("is an RSA key that is not of 2048 to 4096 bits")]
    RsaSize,
    #[error("is malformed")]
    Malformed,
    #[error("holds no key that can be used")]
    Empty,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Algorithm {
    EdDsa,
    Es256,
    Rs256,
}

impl Algorithm {
    /// By the exact name; `none`, HMAC, and every other spelling are no algorithms here.
    pub fn parse(name: &str) -> Option<Algorithm> {
        match name {
            "EdDSA" => Some(Algorithm::EdDsa),
            "ES256" => Some(Algorithm::Es256),
            "RS256" => Some(Algorithm::Rs256),
            _ => None,
        }
    }

    fn native(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::Rs256 => jsonwebtoken::Algorithm::RS256,
        }
    }
}

pub struct PublicKey {
    id: Option<String>,
    algorithm: Algorithm,
    key: DecodingKey,
}

impl PublicKey {
    /// `signature` in base64url, as it stands in the token.
    pub fn verifies(&self, message: &str, signature: &str) -> bool {
        jsonwebtoken::crypto::verify(signature, message.as_bytes(), &self.key, self.algorithm.native()).unwrap_or(false)
    }

    fn ed25519(bytes: &[u8]) -> Result<PublicKey, KeyError> {
        if bytes.len() != ed25519_dalek::PUBLIC_KEY_LENGTH {
            return Err(KeyError::Malformed);
        }
        PublicKey { id: None, algorithm: Algorithm::EdDsa, key: DecodingKey::from_ed_der(bytes) }.tried()
    }

    /// `point` is SEC 1's, compressed or not.
    fn p256(point: &[u8]) -> Result<PublicKey, KeyError> {
        PublicKey { id: None, algorithm: Algorithm::Es256, key: DecodingKey::from_ec_der(point) }.tried()
    }

    fn rsa(modulus: &[u8], exponent: &[u8]) -> Result<PublicKey, KeyError> {
        let modulus = strip_zeros(modulus);
        let exponent = strip_zeros(exponent);
        if !(256..=512).contains(&modulus.len()) {
            return Err(KeyError::RsaSize);
        }
        let odd_and_above_one = exponent.last().is_some_and(|last| last % 2 == 1) && exponent != [1];
        if !odd_and_above_one || exponent.len() > 4 {
            return Err(KeyError::Malformed);
        }
        let key = DecodingKey::from_rsa_raw_components(modulus, exponent);
        PublicKey { id: None, algorithm: Algorithm::Rs256, key }.tried()
    }

    /// A key that is no point of its curve is found out now, not at the first token.
    fn tried(self) -> Result<PublicKey, KeyError> {
        match jsonwebtoken::crypto::verify("", b"", &self.key, self.algorithm.native()) {
            Ok(_) => Ok(self),
            Err(_) => Err(KeyError::Malformed),
        }
    }

    fn from_spki(der: &[u8]) -> Result<PublicKey, KeyError> {
        let info = SubjectPublicKeyInfoRef::try_from(der).map_err(|_| KeyError::Malformed)?;
        let bits = info.subject_public_key.as_bytes().ok_or(KeyError::Malformed)?;
        match info.algorithm.oid {
            ED25519 => PublicKey::ed25519(bits),
            EC => match info.algorithm.parameters_oid() {
                Ok(P256) => PublicKey::p256(bits),
                _ => Err(KeyError::Unsupported),
            },
            RSA => {
                let mut reader = SliceReader::new(bits).map_err(|_| KeyError::Malformed)?;
                let (modulus, exponent) = reader
                    .sequence(|numbers| {
                        let modulus = UintRef::decode(numbers)?;
                        Ok::<_, ed25519_dalek::pkcs8::spki::der::Error>((modulus, UintRef::decode(numbers)?))
                    })
                    .map_err(|_| KeyError::Malformed)?;
                PublicKey::rsa(modulus.as_bytes(), exponent.as_bytes())
            }
            _ => Err(KeyError::Unsupported),
        }
    }

    /// None for keys that are not for us: other kinds, encryption, secrets (RFC 7517 section 5: ignore them).
    fn from_jwk(jwk: Jwk) -> Option<PublicKey> {
        let for_signatures = jwk.usage.as_deref().is_none_or(|usage| usage == "sig")
            && jwk.operations.as_ref().is_none_or(|all| all.iter().any(|operation| operation == "verify"));
        if !for_signatures {
            return None;
        }
        let decode = |field: &Option<String>| URL_SAFE_NO_PAD.decode(field.as_deref()?).ok();
        let key = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("OKP", Some("Ed25519")) => PublicKey::ed25519(&decode(&jwk.x)?),
            ("EC", Some("P-256")) => {
                let (x, y) = (decode(&jwk.x)?, decode(&jwk.y)?);
                let whole = x.len() == 32 && y.len() == 32;
                if whole { PublicKey::p256(&[&[4], &x[..], &y[..]].concat()) } else { Err(KeyError::Malformed) }
            }
            ("RSA", _) => PublicKey::rsa(&decode(&jwk.n)?, &decode(&jwk.e)?),
            _ => return None,
        };
        let key = PublicKey { id: jwk.kid, ..key.ok()? };
        let says_the_same = jwk.alg.as_deref().is_none_or(|name| Algorithm::parse(name) == Some(key.algorithm));
        says_the_same.then_some(key)
    }
}

fn strip_zeros(number: &[u8]) -> &[u8] {
    &number[number.iter().take_while(|byte| **byte == 0).count()..]
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    #[serde(rename = "key_ops")]
    operations: Option<Vec<String>>,
    alg: Option<String>,
    crv: Option<String>,
    x: Option<String>,
    y: Option<String>,
    n: Option<String>,
    e: Option<String>,
}

/// A JWK set as it is fetched; each key is looked at by itself, so that a strange one spoils no other.
#[derive(Deserialize)]
pub struct JwksDocument {
    keys: Vec<serde_json::Value>,
}

/// All keys that are good at one time; never empty.
pub struct KeySet(Vec<PublicKey>);

impl KeySet {
    /// A PEM file with one public key, or a certificate that holds it.
    pub fn from_pem_file(path: &Path) -> Result<KeySet, KeyError> {
        KeySet::from_pem(&std::fs::read(path).map_err(KeyError::Read)?)
    }

    pub fn from_pem(pem: &[u8]) -> Result<KeySet, KeyError> {
        if rustls::pki_types::PrivateKeyDer::from_pem_slice(pem).is_ok() {
            return Err(KeyError::Private);
        }
        let mut found = Vec::new();
        for key in SubjectPublicKeyInfoDer::pem_slice_iter(pem) {
            found.push(key.map_err(|_| KeyError::NotPublicKey)?.as_ref().to_vec());
        }
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|_| KeyError::NotPublicKey)?;
            let certificate = ParsedCertificate::try_from(&certificate).map_err(|_| KeyError::Malformed)?;
            found.push(certificate.subject_public_key_info().as_ref().to_vec());
        }
        match &found[..] {
            [] => Err(KeyError::NotPublicKey),
            [key] => Ok(KeySet(vec![PublicKey::from_spki(key)?])),
            several => Err(KeyError::Count(several.len())),
        }
    }

    pub fn from_jwks(document: JwksDocument) -> Result<KeySet, KeyError> {
        let usable = |jwk| PublicKey::from_jwk(serde_json::from_value(jwk).ok()?);
        let keys: Vec<PublicKey> = document.keys.into_iter().filter_map(usable).collect();
        if keys.is_empty() { Err(KeyError::Empty) } else { Ok(KeySet(keys)) }
    }

    /// The keys that a token with this header may be signed with. A token must name its key where there are
    /// several; a key without a name is only good where it is the only one.
    pub fn candidates<'a>(&'a self, algorithm: Algorithm, id: Option<&'a str>) -> impl Iterator<Item = &'a PublicKey> {
        let alone = self.0.len() == 1;
        self.0.iter().filter(move |key| {
            let named = match (id, key.id.as_deref()) {
                (Some(id), Some(own)) => id == own,
                _ => alone,
            };
            named && key.algorithm == algorithm
        })
    }

    /// Whether a key of this name could be in a newer set and is not in this one.
    pub fn lacks(&self, id: &str) -> bool {
        !self.0.iter().any(|key| key.id.as_deref() == Some(id))
    }
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| (&key.id, key.algorithm))).finish()
    }
}

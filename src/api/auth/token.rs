//! Is this token sound?
//!
//! Nothing here trusts jsonwebtoken beyond the signature itself: header and claims are read strictly, and
//! each rule stands where it can be seen. RFC 7515, 7519, 8725. Pure: the clock is an argument.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer};

use super::key::{Algorithm, KeySet};
use super::{AuthError, Principal, Scopes};

/// A token is part of a header; identity providers stay below 4 KiB.
pub const MAX_TOKEN_BYTES: usize = 8 * 1024;
/// How far clocks may differ.
const SKEW_SECONDS: f64 = 60.0;
const MAX_TENANT_CHARS: usize = 255;

/// What a token must say beside being signed.
#[derive(Debug, Clone, Default)]
pub struct Expectations {
    pub issuer: Option<String>,
    /// One of them. With none, a token that names an audience is refused: it was made for somebody else
    /// (RFC 7519 section 4.1.3).
    pub audiences: Vec<String>,
}

/// A token taken apart, not believed yet.
pub struct Unverified<'a> {
    algorithm: Algorithm,
    pub key_id: Option<String>,
    message: &'a str,
    claims: &'a str,
    signature: &'a str,
}

/// A principal, and the Unix time until which it is one.
pub struct Verified {
    pub principal: Principal,
    pub until: f64,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    typ: Option<String>,
    /// Extensions that must be understood, and we understand none.
    #[serde(default, deserialize_with = "is_there")]
    crit: bool,
    /// RFC 7797: a payload that is not base64url.
    #[serde(default, deserialize_with = "is_there")]
    b64: bool,
}

#[derive(Deserialize)]
struct Claims {
    exp: f64,
    #[serde(default, deserialize_with = "given")]
    nbf: Option<f64>,
    #[serde(default, deserialize_with = "given")]
    iss: Option<String>,
    #[serde(default, deserialize_with = "given")]
    aud: Option<Audience>,
    #[serde(default, deserialize_with = "given")]
    sub: Option<String>,
    #[serde(default, deserialize_with = "given")]
    scope: Option<String>,
    #[serde(default, deserialize_with = "given")]
    tenant: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// A claim that is null is not absent: `"tenant": null` must not open everybody's rows.
fn given<'de, D: Deserializer<'de>, T: Deserialize<'de>>(deserializer: D) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// One JSON object in base64url. (serde would also take an array for a struct.)
fn decode<T: serde::de::DeserializeOwned>(part: &str) -> Option<T> {
    let json = URL_SAFE_NO_PAD.decode(part).ok()?;
    if json.first() != Some(&b'{') {
        return None;
    }
    serde_json::from_slice(&json).ok()
}

impl<'a> Unverified<'a> {
    pub fn parse(token: &'a str) -> Result<Unverified<'a>, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(AuthError::Invalid("longer than 8 KiB"));
        }
        let shape = AuthError::Invalid("not three parts");
        let (message, signature) = token.rsplit_once('.').ok_or(shape)?;
        let (header, claims) = message.split_once('.').ok_or(shape)?;
        if claims.contains('.') {
            return Err(shape);
        }
        let header: Header = decode(header).ok_or(AuthError::Invalid("the header cannot be read"))?;
        let algorithm = Algorithm::parse(&header.alg).ok_or(AuthError::Invalid("the algorithm is not allowed"))?;
        if header.crit || header.b64 {
            return Err(AuthError::Invalid("the header asks for an extension"));
        }
        // RFC 8725 section 3.11: a log-out token or a security event of the same issuer lets nobody in.
        let typ = header.typ.as_deref().unwrap_or("JWT");
        if !["JWT", "at+jwt", "application/at+jwt"].iter().any(|known| typ.eq_ignore_ascii_case(known)) {
            return Err(AuthError::Invalid("not an access token"));
        }
        Ok(Unverified { algorithm, key_id: header.kid, message, claims, signature })
    }

    /// `now` in Unix seconds.
    pub fn verify(&self, keys: &KeySet, expected: &Expectations, now: f64) -> Result<Verified, AuthError> {
        let mut candidates = keys.candidates(self.algorithm, self.key_id.as_deref()).peekable();
        if candidates.peek().is_none() {
            return Err(AuthError::Invalid("no key of that name and algorithm"));
        }
        if !candidates.any(|key| key.verifies(self.message, self.signature)) {
            return Err(AuthError::Invalid("the signature is wrong"));
        }
        let claims: Claims = decode(self.claims).ok_or(AuthError::Invalid("the claims cannot be read"))?;
        expected.check(claims, now)
    }
}

impl Expectations {
    fn check(&self, claims: Claims, now: f64) -> Result<Verified, AuthError> {
        if claims.nbf.is_some_and(|from| now < from - SKEW_SECONDS) {
            return Err(AuthError::Invalid("not valid yet"));
        }
        if self.issuer.is_some() && claims.iss != self.issuer {
            return Err(AuthError::Invalid("another issuer"));
        }
        let for_us = match &claims.aud {
            None => self.audiences.is_empty(),
            Some(Audience::One(one)) => self.audiences.contains(one),
            Some(Audience::Several(all)) => all.iter().any(|one| self.audiences.contains(one)),
        };
        if !for_us {
            return Err(AuthError::Invalid("another audience"));
        }
        if let Some(tenant) = &claims.tenant {
            let fits = !tenant.is_empty() && tenant.chars().count() <= MAX_TENANT_CHARS;
            if !fits || tenant.chars().any(char::is_control) {
                return Err(AuthError::Invalid("the tenant is not a name"));
            }
        }
        // Last, so that only who was let in before learns it.
        let until = claims.exp + SKEW_SECONDS;
        if now >= until {
            return Err(AuthError::Expired);
        }
        let scopes = Scopes::parse(claims.scope.as_deref().unwrap_or_default());
        Ok(Verified { principal: Principal { subject: claims.sub, tenant: claims.tenant, scopes }, until })
    }
}

/// Takes a stranger's text apart; must neither panic nor hang.
#[doc(hidden)]
pub fn parse_for_fuzzing(token: &str) -> bool {
    Unverified::parse(token).is_ok_and(|parsed| decode::<Claims>(parsed.claims).is_some())
}

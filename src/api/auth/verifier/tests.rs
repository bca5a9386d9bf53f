//! Does any forged token get in?
//!
//! Each known attack on JWT verifiers, against keys of each kind. The tokens are put together by hand: a
//! library would refuse to make most of them.

use std::sync::LazyLock;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use ed25519_dalek::pkcs8::DecodePrivateKey;
use ed25519_dalek::{Signer, SigningKey};
use hmac::{Hmac, KeyInit, Mac};
use jsonwebtoken::{Algorithm, EncodingKey};
use rcgen::{
    CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
};
use rsa::RsaPrivateKey;
use rsa::pkcs8::{EncodePrivateKey, EncodePublicKey, LineEnding};
use rsa::rand_core::OsRng;
use serde_json::{Value, json};
use sha2::Sha256;

use super::*;
use crate::api::auth::key::JwksDocument;
use crate::api::auth::{Scope, Scopes};

/// Made once for a run: none stands in the sources.
struct Pair {
    private: String,
    public: String,
}

impl Pair {
    fn of(algorithm: &'static rcgen::SignatureAlgorithm) -> Pair {
        let pair = KeyPair::generate_for(algorithm).expect("random numbers");
        Pair { private: pair.serialize_pem(), public: pair.public_key_pem() }
    }

    fn rsa(bits: usize) -> Pair {
        let key = RsaPrivateKey::new(&mut OsRng, bits).expect("primes");
        let private = key.to_pkcs8_pem(LineEnding::LF).expect("it can be written").to_string();
        Pair { private, public: key.to_public_key().to_public_key_pem(LineEnding::LF).expect("it can be written") }
    }
}

static ED: LazyLock<Pair> = LazyLock::new(|| Pair::of(&PKCS_ED25519));
static EC: LazyLock<Pair> = LazyLock::new(|| Pair::of(&PKCS_ECDSA_P256_SHA256));
static RSA: LazyLock<Pair> = LazyLock::new(|| Pair::rsa(2048));
static RSA_CERTIFICATE: LazyLock<String> = LazyLock::new(|| {
    let key = KeyPair::from_pkcs8_pem_and_sign_algo(&RSA.private, &PKCS_RSA_SHA256).expect("a key");
    CertificateParams::default().self_signed(&key).expect("a certificate").pem()
});
/// Of a curve that nothing here makes keys for.
const SECP256K1_PUBLIC: &str = "-----BEGIN PUBLIC KEY-----\n\
    MFYwEAYHKoZIzj0CAQYFK4EEAAoDQgAE7JLda/z+Mf6qcrPCV7ZaxRzqsXDPeD3O\n\
    5NYSs7L4V5Pfi9fm+8XOaC78KYFUSa1G6ezwh5t8mUoJmYbKSbFSIQ==\n\
    -----END PUBLIC KEY-----\n";

const NOW: f64 = 1_700_000_000.0;

fn claims() -> Value {
    json!({"exp": NOW as u64 + 600, "scope": "messages:read messages:write", "sub": "me", "iss": "us", "aud": "orderly"})
}

fn with(mut base: Value, key: &str, value: Value) -> Value {
    base[key] = value;
    base
}

fn without(mut base: Value, key: &str) -> Value {
    base.as_object_mut().expect("an object").remove(key);
    base
}

fn encode(value: &Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

fn assemble(header: &Value, claims: &Value, sign: impl Fn(&[u8]) -> Vec<u8>) -> String {
    let message = format!("{}.{}", encode(header), encode(claims));
    let signature = URL_SAFE_NO_PAD.encode(sign(message.as_bytes()));
    format!("{message}.{signature}")
}

fn by_ed(message: &[u8]) -> Vec<u8> {
    SigningKey::from_pkcs8_pem(&ED.private).expect("a key").sign(message).to_bytes().to_vec()
}

fn by_jsonwebtoken(key: EncodingKey, algorithm: Algorithm) -> impl Fn(&[u8]) -> Vec<u8> {
    move |message| {
        let text = jsonwebtoken::crypto::sign(message, &key, algorithm).expect("it signs");
        URL_SAFE_NO_PAD.decode(text).expect("base64url")
    }
}

fn by_ec(message: &[u8]) -> Vec<u8> {
    by_jsonwebtoken(EncodingKey::from_ec_pem(EC.private.as_bytes()).expect("a key"), Algorithm::ES256)(message)
}

fn by_rsa(message: &[u8]) -> Vec<u8> {
    by_jsonwebtoken(EncodingKey::from_rsa_pem(RSA.private.as_bytes()).expect("a key"), Algorithm::RS256)(message)
}

fn by_nobody(_: &[u8]) -> Vec<u8> {
    Vec::new()
}

fn by_hmac(secret: &[u8]) -> impl Fn(&[u8]) -> Vec<u8> + '_ {
    move |message| {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length");
        mac.update(message);
        mac.finalize().into_bytes().to_vec()
    }
}

fn der(pem: &str) -> Vec<u8> {
    let body: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
    STANDARD.decode(body).expect("PEM")
}

fn expected() -> Expectations {
    Expectations { issuer: Some("us".into()), audiences: vec!["other".into(), "orderly".into()] }
}

fn verifier(pem: &str) -> Verifier {
    Verifier::with_keys(KeySet::from_pem(pem.as_bytes()).expect("a public key"), expected())
}

async fn judge(verifier: &Verifier, token: &str) -> Result<Arc<Principal>, AuthError> {
    verifier.0.as_ref().expect("it is on").verify(token, NOW).await
}

async fn refused(verifier: &Verifier, token: &str, attack: &str) {
    // Twice: a refusal must not be remembered as anything else.
    for _ in 0..2 {
        match judge(verifier, token).await {
            Err(AuthError::Invalid(_)) => {}
            other => panic!("{attack}: {other:?}"),
        }
    }
}

fn ed_header() -> Value {
    json!({"alg": "EdDSA", "typ": "JWT"})
}

#[tokio::test]
async fn good_tokens_of_each_kind_are_taken() {
    let scopes: Scopes = [Scope::MessagesRead, Scope::MessagesWrite].into_iter().collect();
    for (public, token) in [
        (ED.public.as_str(), assemble(&ed_header(), &claims(), by_ed)),
        (&EC.public, assemble(&json!({"alg": "ES256"}), &claims(), by_ec)),
        (&RSA.public, assemble(&json!({"alg": "RS256", "kid": "any"}), &claims(), by_rsa)),
        (&RSA_CERTIFICATE, assemble(&json!({"alg": "RS256", "typ": "at+JWT"}), &claims(), by_rsa)),
    ] {
        let verifier = verifier(public);
        for _ in 0..2 {
            let principal = judge(&verifier, &token).await.expect("a good token");
            let wanted = Principal { subject: Some("me".into()), tenant: None, scopes };
            assert_eq!(*principal, wanted);
        }
    }
}

#[tokio::test]
async fn a_header_cannot_choose_how_it_is_verified() {
    for public in [ED.public.as_str(), &EC.public, &RSA.public] {
        let verifier = verifier(public);
        for none in ["none", "None", "NONE", "nOnE", "none ", "", "null"] {
            refused(&verifier, &assemble(&json!({"alg": none}), &claims(), by_nobody), none).await;
            refused(&verifier, &assemble(&json!({"alg": none}), &claims(), by_ed), none).await;
        }
        for missing in [json!({}), json!({"alg": null}), json!({"alg": ["EdDSA"]}), json!(["EdDSA"]), json!("EdDSA")] {
            refused(&verifier, &assemble(&missing, &claims(), by_nobody), "no algorithm").await;
        }
        let body = der(public);
        let trimmed = public.trim_end();
        let raw = &body[body.len() - 32..];
        let secrets: [&[u8]; 6] = [public.as_bytes(), trimmed.as_bytes(), &body, raw, b"", b"secret"];
        for secret in secrets {
            for name in ["HS256", "hs256", "HS384", "HS512"] {
                let token = assemble(&json!({"alg": name}), &claims(), by_hmac(secret));
                refused(&verifier, &token, "the public key as an HMAC secret").await;
            }
            for name in ["EdDSA", "ES256", "RS256"] {
                let token = assemble(&json!({"alg": name}), &claims(), by_hmac(secret));
                refused(&verifier, &token, "an HMAC under another name").await;
            }
        }
    }
}

#[tokio::test]
async fn a_key_is_good_for_its_own_algorithm_only() {
    type Sign = fn(&[u8]) -> Vec<u8>;
    let cases: [(&str, [(&str, Sign); 2]); 3] = [
        (&ED.public, [("ES256", by_ec), ("RS256", by_rsa)]),
        (&EC.public, [("EdDSA", by_ed), ("RS256", by_rsa)]),
        (&RSA.public, [("EdDSA", by_ed), ("ES256", by_ec)]),
    ];
    for (public, others) in cases {
        let verifier = verifier(public);
        for (name, sign) in others {
            refused(&verifier, &assemble(&json!({"alg": name}), &claims(), sign), name).await;
            for own in ["EdDSA", "ES256", "RS256"] {
                refused(&verifier, &assemble(&json!({"alg": own}), &claims(), sign), own).await;
            }
        }
    }
    // The right key, a signature of a sibling algorithm.
    let rsa = verifier(&RSA.public);
    for algorithm in [Algorithm::PS256, Algorithm::RS512] {
        let sign = by_jsonwebtoken(EncodingKey::from_rsa_pem(RSA.private.as_bytes()).expect("a key"), algorithm);
        for name in [format!("{algorithm:?}"), "RS256".to_owned()] {
            refused(&rsa, &assemble(&json!({"alg": name}), &claims(), &sign), &name).await;
        }
    }
    // Psychic signatures (CVE-2022-21449) and friends.
    let ec = verifier(&EC.public);
    for signature in [vec![0; 64], vec![0; 63], vec![0xff; 64], vec![], vec![0x30, 6, 2, 1, 0, 2, 1, 0]] {
        refused(&ec, &assemble(&json!({"alg": "ES256"}), &claims(), |_| signature.clone()), "zero").await;
    }
    let ed = verifier(&ED.public);
    for length in [0, 32, 63, 64, 65, 128] {
        refused(&ed, &assemble(&ed_header(), &claims(), |_| vec![0; length]), "zero").await;
    }
}

#[tokio::test]
async fn keys_and_links_in_a_header_are_not_followed() {
    let mallory = SigningKey::from_bytes(&[7; 32]);
    let x = URL_SAFE_NO_PAD.encode(mallory.verifying_key().as_bytes());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
    let verifier = verifier(&ED.public);
    for (name, value) in [
        ("jwk", jwk.clone()),
        ("jku", json!("http://127.0.0.1:9/jwks")),
        ("x5u", json!("http://127.0.0.1:9/cert")),
        ("x5c", json!([STANDARD.encode(der(&RSA_CERTIFICATE))])),
        ("kid", json!("../../../../dev/null")),
        ("kid", json!("' or 1=1 --")),
    ] {
        let token = assemble(&with(ed_header(), name, value), &claims(), |m| mallory.sign(m).to_bytes().to_vec());
        refused(&verifier, &token, name).await;
    }
    for (name, value) in [
        ("crit", json!(["exp"])),
        ("crit", json!([])),
        ("crit", Value::Null),
        ("b64", json!(false)),
        ("typ", json!("logout+jwt")),
        ("typ", json!("secevent+jwt")),
        ("typ", json!("dpop+jwt")),
    ] {
        refused(&verifier, &assemble(&with(ed_header(), name, value), &claims(), by_ed), name).await;
    }
}

#[tokio::test]
async fn a_token_that_was_touched_is_refused() {
    let verifier = verifier(&ED.public);
    let good = assemble(&ed_header(), &claims(), by_ed);
    let parts: Vec<&str> = good.split('.').collect();
    let [header, body, signature] = parts[..] else { panic!("three parts") };
    let other = encode(&with(claims(), "scope", json!("destinations:write")));
    let padded = URL_SAFE.encode(URL_SAFE_NO_PAD.decode(signature).expect("base64url"));
    for (attack, token) in [
        ("another payload", format!("{header}.{other}.{signature}")),
        ("no signature", format!("{header}.{body}.")),
        ("two parts", format!("{header}.{body}")),
        ("four parts", format!("{header}.{body}.{signature}.{signature}")),
        ("JWE", format!("{header}.{body}.{signature}.{signature}.{signature}")),
        ("two tokens", format!("{good},{good}")),
        ("two tokens", format!("{good} {good}")),
        ("padding", format!("{header}.{body}.{padded}")),
        ("white space", format!("{header}.{body}.{signature}\n")),
        ("white space", format!("{header}.{body} .{signature}")),
        ("dots", "...".into()),
        ("dots", "..".into()),
        ("nothing", String::new()),
        ("not base64", format!("{header}.{body}.%%%")),
        ("not UTF-8", format!("{}.{body}.{signature}", URL_SAFE_NO_PAD.encode([0xff, 0xfe]))),
        ("a JWS in JSON", json!({"payload": body, "protected": header, "signature": signature}).to_string()),
        ("huge", format!("{header}.{}.{signature}", "A".repeat(1 << 20))),
    ] {
        refused(&verifier, &token, attack).await;
    }
    // Base64 leaves unused bits at the end; only one spelling of a signature may be good.
    let last = signature.as_bytes()[signature.len() - 1];
    for byte in (b'A'..=b'Z').chain(b'a'..=b'z').chain(b'0'..=b'9').chain([b'-', b'_']).filter(|byte| *byte != last) {
        let touched = format!("{}{}", &good[..good.len() - 1], byte as char);
        refused(&verifier, &touched, "the last character").await;
    }
    let large = with(claims(), "pad", json!("x".repeat(8 * 1024)));
    refused(&verifier, &assemble(&ed_header(), &large, by_ed), "longer than 8 KiB, well signed").await;
}

#[tokio::test]
async fn claims_are_read_strictly() {
    let verifier = verifier(&ED.public);
    let now = NOW as i64;
    let text = |claims: &str| {
        let message = format!("{}.{}", encode(&ed_header()), URL_SAFE_NO_PAD.encode(claims));
        format!("{message}.{}", URL_SAFE_NO_PAD.encode(by_ed(message.as_bytes())))
    };
    for (attack, claims) in [
        ("no exp", without(claims(), "exp")),
        ("exp null", with(claims(), "exp", Value::Null)),
        ("exp text", with(claims(), "exp", json!((now + 600).to_string()))),
        ("nbf ahead", with(claims(), "nbf", json!(now + 61))),
        ("nbf text", with(claims(), "nbf", json!("0"))),
        ("nbf null", with(claims(), "nbf", Value::Null)),
        ("no issuer", without(claims(), "iss")),
        ("another issuer", with(claims(), "iss", json!("us "))),
        ("two issuers", with(claims(), "iss", json!(["us", "them"]))),
        ("no audience", without(claims(), "aud")),
        ("another audience", with(claims(), "aud", json!("orderly2"))),
        ("other audiences", with(claims(), "aud", json!(["a", "b"]))),
        ("audience null", with(claims(), "aud", Value::Null)),
        ("audience of numbers", with(claims(), "aud", json!([1]))),
        ("no audience at all", with(claims(), "aud", json!([]))),
        ("tenant empty", with(claims(), "tenant", json!(""))),
        ("tenant null", with(claims(), "tenant", Value::Null)),
        ("tenant number", with(claims(), "tenant", json!(7))),
        ("tenant list", with(claims(), "tenant", json!(["a"]))),
        ("tenant long", with(claims(), "tenant", json!("é".repeat(256)))),
        ("tenant with NUL", with(claims(), "tenant", json!("a\u{0}"))),
        ("scope list", with(claims(), "scope", json!(["messages:read"]))),
        ("claims are a list", json!([now + 600])),
        ("claims are text", json!("exp")),
    ] {
        refused(&verifier, &assemble(&ed_header(), &claims, by_ed), attack).await;
    }
    for twice in [
        r#"{"exp":1,"exp":9999999999,"iss":"us","aud":"orderly"}"#,
        r#"{"exp":9999999999,"iss":"us","aud":"orderly","tenant":"a","ten\u0061nt":"b"}"#,
        r#"{"exp":1e999,"iss":"us","aud":"orderly"}"#,
        r#"{"exp":9999999999,"iss":"us","aud":"orderly"} x"#,
    ] {
        refused(&verifier, &text(twice), twice).await;
    }
    for (name, claims) in [
        ("nbf within the skew", with(claims(), "nbf", json!(now + 60))),
        ("exp a fraction", with(claims(), "exp", json!(NOW + 0.5))),
        ("exp within the skew", with(claims(), "exp", json!(now - 59))),
        ("one of the audiences", with(claims(), "aud", json!(["x", "orderly"]))),
        ("a long tenant", with(claims(), "tenant", json!("é".repeat(255)))),
        ("claims of others", with(claims(), "https://example.com/x", json!({"a": [1, null]}))),
    ] {
        assert!(judge(&verifier, &assemble(&ed_header(), &claims, by_ed)).await.is_ok(), "{name}");
    }
    for late in [now - 60, now - 61, 0, -5] {
        let token = assemble(&ed_header(), &with(claims(), "exp", json!(late)), by_ed);
        assert_eq!(judge(&verifier, &token).await, Err(AuthError::Expired), "{late}");
    }
}

#[tokio::test]
async fn an_audience_is_somebody_elses_where_none_is_expected() {
    let keys = KeySet::from_pem(ED.public.as_bytes()).expect("a public key");
    let verifier = Verifier::with_keys(keys, Expectations::default());
    refused(&verifier, &assemble(&ed_header(), &claims(), by_ed), "an audience").await;
    assert!(judge(&verifier, &assemble(&ed_header(), &without(claims(), "aud"), by_ed)).await.is_ok());
}

#[tokio::test]
async fn a_remembered_token_expires() {
    let verifier = verifier(&ED.public);
    let enabled = verifier.0.as_ref().expect("it is on");
    let token = assemble(&ed_header(), &claims(), by_ed);
    assert!(enabled.verify(&token, NOW).await.is_ok());
    assert!(enabled.verify(&token, NOW + 659.0).await.is_ok());
    assert_eq!(enabled.verify(&token, NOW + 660.0).await, Err(AuthError::Expired));
}

fn jwks(keys: Value) -> Result<KeySet, KeyError> {
    let document: JwksDocument = serde_json::from_value(json!({"keys": keys})).expect("a document");
    KeySet::from_jwks(document)
}

fn ed_jwk(seed: u8, id: Option<&str>) -> Value {
    let x = URL_SAFE_NO_PAD.encode(SigningKey::from_bytes(&[seed; 32]).verifying_key().as_bytes());
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
    id.map_or(jwk.clone(), |id| with(jwk, "kid", json!(id)))
}

#[tokio::test]
async fn a_token_names_its_key() {
    let by = |seed: u8| move |m: &[u8]| SigningKey::from_bytes(&[seed; 32]).sign(m).to_bytes().to_vec();
    let token = |id: Option<&str>, seed| {
        let header = id.map_or(ed_header(), |id| with(ed_header(), "kid", json!(id)));
        assemble(&header, &claims(), by(seed))
    };
    let two = jwks(json!([ed_jwk(1, Some("a")), ed_jwk(2, Some("b")), ed_jwk(3, None)])).expect("keys");
    let two = Verifier::with_keys(two, expected());
    assert!(judge(&two, &token(Some("a"), 1)).await.is_ok());
    assert!(judge(&two, &token(Some("b"), 2)).await.is_ok());
    for (id, seed) in
        [(Some("a"), 2), (Some("b"), 1), (Some("c"), 1), (Some(""), 1), (None, 1), (None, 3), (Some("x"), 3)]
    {
        refused(&two, &token(id, seed), &format!("{id:?} {seed}")).await;
    }
    let one = Verifier::with_keys(jwks(json!([ed_jwk(1, Some("a"))])).expect("a key"), expected());
    assert!(judge(&one, &token(Some("a"), 1)).await.is_ok());
    assert!(judge(&one, &token(None, 1)).await.is_ok());
    refused(&one, &token(Some("b"), 1), "another name").await;
}

#[test]
fn keys_that_are_not_for_us_are_left_out() {
    let good = ed_jwk(1, Some("a"));
    let bits = der(&RSA.public);
    for ignored in [
        json!({"kty": "oct", "k": "c2VjcmV0", "kid": "a"}),
        json!({"kty": "EC", "crv": "P-384", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"}),
        json!({"kty": "EC", "crv": "P-256", "x": URL_SAFE_NO_PAD.encode([1; 32]), "y": URL_SAFE_NO_PAD.encode([1; 32])}),
        json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
        json!({"kty": "OKP", "crv": "X25519", "x": good["x"]}),
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode([0xff; 128]), "e": "AQAB"}),
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(&bits[..256]), "e": "AQ"}),
        json!({"kty": "RSA", "n": URL_SAFE_NO_PAD.encode(&bits[..256]), "e": "AA"}),
        with(good.clone(), "use", json!("enc")),
        with(good.clone(), "key_ops", json!(["sign"])),
        with(good.clone(), "alg", json!("HS256")),
        with(good.clone(), "alg", json!("none")),
        json!({"kty": 7}),
        json!("a key"),
        Value::Null,
    ] {
        assert!(matches!(jwks(json!([ignored])), Err(KeyError::Empty)), "{ignored}");
        assert!(jwks(json!([ignored, good])).is_ok(), "{ignored}");
    }
}

#[test]
fn files_that_hold_no_public_key_are_refused_with_a_reason() {
    let pem = |text: &str| KeySet::from_pem(text.as_bytes()).err().map(|error| error.to_string()).unwrap_or_default();
    assert!(pem(&ED.private).contains("private key"));
    assert!(pem(&RSA.private).contains("private key"));
    assert!(pem("").contains("not a public key"));
    assert!(pem(&format!("{}{}", ED.public, EC.public)).contains("2 public keys"));
    assert!(pem(&Pair::rsa(1024).public).contains("2048"));
    assert!(pem(&Pair::of(&PKCS_ECDSA_P384_SHA384).public).contains("not supported"));
    assert!(pem(SECP256K1_PUBLIC).contains("not supported"));
    let short =
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(&der(&ED.public)[..40]));
    assert!(pem(&short).contains("malformed"));
}

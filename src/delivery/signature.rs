//! How can a receiver tell that a request is Orderly's?
//!
//! Standard Webhooks 1.0: each key signs `id.timestamp.body`. `v1a` is Ed25519, checked with the public
//! key; `v1`, for destinations that have a secret, is HMAC-SHA256 with it. The signatures stand in one
//! header, separated by spaces.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::domain::HmacSecret;

use super::SigningKeys;

/// The value of `webhook-signature`; empty without any key.
pub fn sign(keys: &SigningKeys, secret: Option<&HmacSecret>, id: &str, timestamp: &str, body: &[u8]) -> String {
    let parts: [&[u8]; 5] = [id.as_bytes(), b".", timestamp.as_bytes(), b".", body];
    // 92 characters each: "v1a,", 88 of base64, a space.
    let mut value = String::with_capacity(96 * (keys.iter().count() + usize::from(secret.is_some())));
    let mut append = |version: &str, signature: &[u8]| {
        if !value.is_empty() {
            value.push(' ');
        }
        value.push_str(version);
        STANDARD.encode_string(signature, &mut value);
    };
    if !keys.is_empty() {
        let content = parts.concat();
        keys.iter().for_each(|key| append("v1a,", &key.sign(&content)));
    }
    if let Some(HmacSecret(secret)) = secret {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("HMAC takes keys of any length");
        parts.iter().for_each(|part| mac.update(part));
        append("v1,", &mac.finalize().into_bytes());
    }
    value
}

/// A new secret: 32 bytes from the system's source; Standard Webhooks asks for 24 to 64.
pub fn generate_hmac_secret() -> HmacSecret {
    HmacSecret(rand::random::<[u8; 32]>().to_vec())
}

/// A destination's secret as it is shown once, to whoever asked for it.
pub fn whsec(secret: &HmacSecret) -> String {
    format!("whsec_{}", STANDARD.encode(&secret.0))
}

#[cfg(test)]
mod tests {
    use super::super::SigningKey;
    use super::*;

    #[test]
    fn hmac_signatures_are_those_of_the_reference_implementation() {
        // From the test suite of Standard Webhooks' own libraries.
        let secret = HmacSecret(STANDARD.decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").expect("base64"));
        let value = sign(
            &SigningKeys::default(),
            Some(&secret),
            "msg_p5jXN8AQM9LWM0D4loKWxJek",
            "1614265330",
            br#"{"test": 2432232314}"#,
        );
        assert_eq!(value, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
        assert_eq!(whsec(&secret), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw");
    }

    #[test]
    fn every_key_signs() {
        let keys = vec![SigningKey::generate().expect("random"), SigningKey::generate().expect("random")];
        let keys = SigningKeys::new(keys).expect("two keys");
        let value = sign(&keys, Some(&HmacSecret(vec![7; 24])), "1-2", "3", b"body");
        let signatures: Vec<&str> = value.split(' ').collect();
        assert_eq!(signatures.len(), 3);
        for (key, signature) in keys.iter().zip(&signatures) {
            let bytes = STANDARD.decode(signature.strip_prefix("v1a,").expect("v1a")).expect("base64");
            let signature = ed25519_dalek::Signature::from_slice(&bytes).expect("64 bytes");
            let public = ed25519_dalek::VerifyingKey::from_bytes(&key.public_bytes()).expect("a point");
            public.verify_strict(b"1-2.3.body", &signature).expect("it verifies");
        }
        assert!(signatures[2].starts_with("v1,"));
    }

    /// Another implementation reads our keys and believes our signatures.
    #[test]
    fn openssl_verifies_what_we_sign() {
        use std::process::Command;
        if !Command::new("openssl").arg("version").output().is_ok_and(|output| output.status.success()) {
            eprintln!("SKIPPED: `openssl` does not run here");
            return;
        }
        let key = SigningKey::generate().expect("random");
        let (pem, id) = (key.to_pem(), key.id().to_owned());
        let value = sign(&SigningKeys::new(vec![key]).expect("one key"), None, "1-2", "3", b"body");
        let signature = STANDARD.decode(value.strip_prefix("v1a,").expect("v1a")).expect("base64");
        let folder = std::env::temp_dir().join(format!("orderly-openssl-{}-{id}", std::process::id()));
        std::fs::create_dir(&folder).expect("a folder");
        let verify = |content: &[u8]| {
            for (file, bytes) in [("key", pem.as_bytes()), ("content", content), ("signature", &signature)] {
                std::fs::write(folder.join(file), bytes).expect("it is written");
            }
            let arguments = "pkeyutl -verify -rawin -inkey key -in content -sigfile signature";
            let output = Command::new("openssl").args(arguments.split(' ')).current_dir(&folder).output();
            output.expect("it ran before").status.success()
        };
        let verdicts = (verify(b"1-2.3.body"), verify(b"1-2.3.Body"));
        let _ = std::fs::remove_dir_all(&folder);
        assert_eq!(verdicts, (true, false));
    }
}

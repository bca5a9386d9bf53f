//! Which key do the tests sign tokens and requests with, and what does a token look like?
//!
//! One that is made when it is first asked for and stays below the build's folder: none stands in the sources.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use orderly::api::auth::{Expectations, KeySet, Scope, Verifier};
use orderly::cli::token::{TokenArgs, sign};
use rcgen::{KeyPair, PKCS_ED25519};

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("keys");
    if !folder.exists() {
        let key = KeyPair::generate_for(&PKCS_ED25519).expect("random numbers");
        let made = folder.with_extension(std::process::id().to_string());
        std::fs::create_dir_all(&made).expect("a folder");
        std::fs::write(made.join(PRIVATE), key.serialize_pem()).expect("it is written");
        std::fs::write(made.join(PUBLIC), key.public_key_pem()).expect("it is written");
        // Both halves appear at once; where another run was faster, its pair counts.
        if std::fs::rename(&made, &folder).is_err() {
            let _ = std::fs::remove_dir_all(&made);
        }
    }
    folder
});

const PRIVATE: &str = "ed25519.pem";
const PUBLIC: &str = "ed25519.pub.pem";

/// An Ed25519 private key, PKCS#8 in PEM.
pub fn private_key() -> &'static str {
    static FILE: LazyLock<String> = LazyLock::new(|| FOLDER.join(PRIVATE).display().to_string());
    &FILE
}

/// Its public half, in PEM.
pub fn public_key() -> &'static str {
    static FILE: LazyLock<String> = LazyLock::new(|| FOLDER.join(PUBLIC).display().to_string());
    &FILE
}

/// What a token for a minute is made from; no scopes: all.
pub fn token_args(scopes: &[Scope], tenant: Option<&str>) -> TokenArgs {
    TokenArgs {
        key: private_key().into(),
        scopes: scopes.to_vec(),
        tenant: tenant.map(str::to_owned),
        subject: None,
        expires_in: Duration::from_secs(60),
        issuer: None,
        audience: Vec::new(),
    }
}

pub fn token(scopes: &[Scope], tenant: Option<&str>) -> String {
    sign(&token_args(scopes, tenant)).expect("a token")
}

/// Lets in who has such a token.
pub fn file_verifier() -> Verifier {
    let keys = KeySet::from_pem_file(Path::new(public_key())).expect("a public key");
    Verifier::with_keys(keys, Expectations::default())
}

//! `orderly token`: how does one get a token to try things out with?

use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Serialize;

use crate::api::auth::Scope;
use crate::config::parse_seconds;

#[derive(Debug, Clone, Args)]
pub struct TokenArgs {
    /// The Ed25519 private key (PKCS#8 PEM) to sign with, as `orderly keygen` makes it
    #[arg(long, env = "ORDERLY_TOKEN_KEY", value_name = "FILE")]
    pub key: PathBuf,

    /// What the token allows (repeatable) [default: everything]
    #[arg(long = "scope", env = "ORDERLY_TOKEN_SCOPE", value_name = "SCOPE", value_delimiter = ' ')]
    pub scopes: Vec<Scope>,

    /// Confines the bearer to this tenant's destinations and messages
    #[arg(long, env = "ORDERLY_TOKEN_TENANT", value_name = "NAME",
          value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub tenant: Option<String>,

    /// Who the bearer is
    #[arg(long, env = "ORDERLY_TOKEN_SUBJECT", value_name = "NAME")]
    pub subject: Option<String>,

    /// How long the token is good
    #[arg(long, env = "ORDERLY_TOKEN_EXPIRES_IN", value_name = "SECONDS", default_value = "3600",
          value_parser = parse_seconds)]
    pub expires_in: Duration,

    /// The `iss` claim, where the API is started with one
    #[arg(long, env = "ORDERLY_JWT_ISSUER", value_name = "TEXT")]
    pub issuer: Option<String>,

    /// The `aud` claim, where the API is started with one
    #[arg(long, env = "ORDERLY_JWT_AUDIENCE", value_name = "TEXT", value_delimiter = ',')]
    pub audience: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    #[error("cannot read {file}")]
    Read { file: String, source: std::io::Error },
    #[error("{file} is not an Ed25519 private key in PKCS#8 PEM")]
    Key { file: String, source: jsonwebtoken::errors::Error },
    #[error("cannot sign")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error("cannot write to standard output")]
    Write(#[source] std::io::Error),
}

#[derive(Serialize)]
struct Claims<'a> {
    iat: u64,
    exp: u64,
    scope: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    tenant: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sub: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iss: Option<&'a str>,
    #[serde(skip_serializing_if = "<[String]>::is_empty")]
    aud: &'a [String],
}

/// Prints the token, alone on a line.
pub fn run(args: &TokenArgs) -> Result<(), TokenError> {
    let token = sign(args)?;
    writeln!(std::io::stdout(), "{token}").map_err(TokenError::Write)
}

pub fn sign(args: &TokenArgs) -> Result<String, TokenError> {
    let file = || args.key.display().to_string();
    let pem = std::fs::read(&args.key).map_err(|source| TokenError::Read { file: file(), source })?;
    let key = EncodingKey::from_ed_pem(&pem).map_err(|source| TokenError::Key { file: file(), source })?;
    // A clock before 1970 makes a token that has expired.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let scopes = if args.scopes.is_empty() { &Scope::ALL[..] } else { &args.scopes };
    let claims = Claims {
        iat: now.as_secs(),
        exp: (now + args.expires_in).as_secs(),
        scope: scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>().join(" "),
        tenant: args.tenant.as_deref(),
        sub: args.subject.as_deref(),
        iss: args.issuer.as_deref(),
        aud: &args.audience,
    };
    jsonwebtoken::encode(&Header::new(Algorithm::EdDSA), &claims, &key).map_err(TokenError::Sign)
}

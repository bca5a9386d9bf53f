//! Which settings has the API alone, and which of them go together?

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use clap::Args;
use url::Url;

use super::{CommonSettings, Environment};

#[derive(Debug, Clone, Args)]
pub struct ServeSettings {
    /// Where the API listens
    #[arg(long, env = "ORDERLY_LISTEN", value_name = "ADDR", default_value = "127.0.0.1:8000")]
    pub listen: SocketAddr,

    /// Takes tokens signed with this key: a public key or a certificate in PEM (Ed25519, P-256 or RSA)
    #[arg(long, env = "ORDERLY_JWT_PUBLIC_KEY", value_name = "FILE")]
    pub jwt_public_key: Option<PathBuf>,

    /// Takes tokens signed with a key of this JWK set, which is fetched again every ten minutes
    #[arg(long, env = "ORDERLY_JWT_JWKS_URL", value_name = "URL")]
    pub jwt_jwks_url: Option<Url>,

    /// Takes tokens of this OAuth issuer; its metadata (RFC 8414) names its keys
    #[arg(long, env = "ORDERLY_OAUTH_ISSUER", value_name = "URL")]
    pub oauth_issuer: Option<String>,

    /// What a token's `iss` must be [default: the OAuth issuer, where one is given]
    #[arg(long, env = "ORDERLY_JWT_ISSUER", value_name = "TEXT")]
    pub jwt_issuer: Option<String>,

    /// What a token's `aud` must name (repeatable: one of them); without it, tokens with an `aud` are refused
    #[arg(long = "jwt-audience", env = "ORDERLY_JWT_AUDIENCE", value_name = "TEXT", value_delimiter = ',')]
    pub jwt_audiences: Vec<String>,

    /// Let everybody in, in production too
    #[arg(long, env = "ORDERLY_NO_AUTHENTICATION")]
    pub no_authentication: bool,

    /// The certificate chain in PEM; with it the API speaks TLS. Read again on SIGHUP
    #[arg(long, env = "ORDERLY_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,

    /// The private key of the certificate in PEM
    #[arg(long, env = "ORDERLY_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,

    /// Connections at a time; more wait to be accepted
    #[arg(long, env = "ORDERLY_MAX_CONNECTIONS", value_name = "N", default_value_t = 4096,
          value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,

    /// Requests a second, all callers together [default: no limit]
    #[arg(long, env = "ORDERLY_RATE_LIMIT", value_name = "N")]
    pub rate_limit: Option<NonZeroU32>,

    /// Requests a second for each tenant [default: no limit]
    #[arg(long, env = "ORDERLY_TENANT_RATE_LIMIT", value_name = "N")]
    pub tenant_rate_limit: Option<NonZeroU32>,

    /// A web origin whose pages may call the API, its scheme, host and port alone (repeatable)
    #[arg(long = "cors-origin", env = "ORDERLY_CORS_ORIGIN", value_name = "ORIGIN", value_delimiter = ',',
          value_parser = parse_origin)]
    pub cors_origins: Vec<String>,
}

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SettingsError {
    #[error(
        "production needs authentication: give --jwt-public-key, --jwt-jwks-url or --oauth-issuer, \
         or say --no-authentication"
    )]
    NoAuthentication,
    #[error("--no-authentication contradicts {0}")]
    Contradiction(&'static str),
    #[error("{0} and {1} both say where keys come from; give one")]
    TwoSources(&'static str, &'static str),
    #[error("{0} asks for tokens, but no key is given: --jwt-public-key, --jwt-jwks-url or --oauth-issuer")]
    NoKeys(&'static str),
    #[error("{0} must be an https URL in production")]
    NotHttps(&'static str),
    #[error("{0} must be an http or https URL")]
    NotUrl(&'static str),
    #[error("{0} needs {1}")]
    Incomplete(&'static str, &'static str),
}

/// Where the keys that tokens are signed with come from.
#[derive(Debug, PartialEq, Eq)]
pub enum TokenKeys<'a> {
    /// Authentication is off.
    None,
    File(&'a Path),
    Jwks(&'a Url),
    Issuer(&'a str),
}

impl ServeSettings {
    pub fn validate(&self, common: &CommonSettings) -> Result<(), SettingsError> {
        let sources = [
            ("--jwt-public-key", self.jwt_public_key.is_some()),
            ("--jwt-jwks-url", self.jwt_jwks_url.is_some()),
            ("--oauth-issuer", self.oauth_issuer.is_some()),
        ];
        let mut given = sources.into_iter().filter(|(_, given)| *given).map(|(name, _)| name);
        match (given.next(), given.next()) {
            (Some(first), Some(second)) => return Err(SettingsError::TwoSources(first, second)),
            (Some(source), None) if self.no_authentication => return Err(SettingsError::Contradiction(source)),
            (None, _) => self.validate_open(common.environment)?,
            (Some(_), None) => {}
        }
        if let Some(url) = &self.jwt_jwks_url {
            check_scheme(url, "--jwt-jwks-url", common.environment)?;
        }
        if let Some(issuer) = &self.oauth_issuer {
            let url = Url::parse(issuer).map_err(|_| SettingsError::NotUrl("--oauth-issuer"))?;
            check_scheme(&url, "--oauth-issuer", common.environment)?;
        }
        match (&self.tls_cert, &self.tls_key) {
            (Some(_), None) => Err(SettingsError::Incomplete("--tls-cert", "--tls-key")),
            (None, Some(_)) => Err(SettingsError::Incomplete("--tls-key", "--tls-cert")),
            _ => Ok(()),
        }
    }

    /// No key is given: that must be meant, above all where somebody believes tokens are checked.
    fn validate_open(&self, environment: Environment) -> Result<(), SettingsError> {
        let checks = [("--jwt-issuer", self.jwt_issuer.is_some()), ("--jwt-audience", !self.jwt_audiences.is_empty())];
        if let Some((name, _)) = checks.into_iter().find(|(_, given)| *given) {
            return Err(if self.no_authentication {
                SettingsError::Contradiction(name)
            } else {
                SettingsError::NoKeys(name)
            });
        }
        match environment {
            Environment::Production if !self.no_authentication => Err(SettingsError::NoAuthentication),
            Environment::Production | Environment::Development => Ok(()),
        }
    }

    pub fn token_keys(&self) -> TokenKeys<'_> {
        match (&self.jwt_public_key, &self.jwt_jwks_url, &self.oauth_issuer) {
            (Some(path), _, _) => TokenKeys::File(path),
            (None, Some(url), _) => TokenKeys::Jwks(url),
            (None, None, Some(issuer)) => TokenKeys::Issuer(issuer),
            (None, None, None) => TokenKeys::None,
        }
    }
}

fn check_scheme(url: &Url, flag: &'static str, environment: Environment) -> Result<(), SettingsError> {
    match (url.scheme(), environment) {
        ("https", _) | ("http", Environment::Development) => Ok(()),
        ("http", Environment::Production) => Err(SettingsError::NotHttps(flag)),
        _ => Err(SettingsError::NotUrl(flag)),
    }
}

/// Exactly what a browser sends as `Origin`: no path, no default port, lower case; and never a wildcard.
fn parse_origin(text: &str) -> Result<String, String> {
    let origin = Url::parse(text).map(|url| url.origin().ascii_serialization()).unwrap_or_default();
    if origin == text && !text.is_empty() && text != "null" {
        Ok(origin)
    } else {
        Err("not an origin such as https://admin.example.com".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        common: CommonSettings,
        #[command(flatten)]
        serve: ServeSettings,
    }

    fn validate(line: &str) -> Result<(), SettingsError> {
        let cli = Cli::try_parse_from(std::iter::once("serve").chain(line.split_whitespace())).expect("it parses");
        cli.serve.validate(&cli.common)
    }

    #[test]
    fn settings_that_do_not_go_together_are_refused() {
        use SettingsError::{Contradiction, Incomplete, NoAuthentication, NoKeys, NotHttps, NotUrl, TwoSources};
        for (line, expected) in [
            ("", Ok(())),
            ("--environment production", Err(NoAuthentication)),
            ("--environment production --no-authentication", Ok(())),
            ("--environment production --jwt-public-key k.pem", Ok(())),
            ("--environment production --jwt-jwks-url https://idp/jwks", Ok(())),
            ("--environment production --jwt-jwks-url http://idp/jwks", Err(NotHttps("--jwt-jwks-url"))),
            ("--environment production --oauth-issuer http://idp", Err(NotHttps("--oauth-issuer"))),
            ("--jwt-jwks-url http://idp/jwks", Ok(())),
            ("--jwt-jwks-url file:///jwks", Err(NotUrl("--jwt-jwks-url"))),
            ("--oauth-issuer idp", Err(NotUrl("--oauth-issuer"))),
            ("--jwt-public-key k --jwt-jwks-url http://i", Err(TwoSources("--jwt-public-key", "--jwt-jwks-url"))),
            ("--jwt-jwks-url http://i --oauth-issuer http://i", Err(TwoSources("--jwt-jwks-url", "--oauth-issuer"))),
            ("--no-authentication --jwt-public-key k", Err(Contradiction("--jwt-public-key"))),
            ("--no-authentication --jwt-issuer i", Err(Contradiction("--jwt-issuer"))),
            ("--jwt-issuer me", Err(NoKeys("--jwt-issuer"))),
            ("--jwt-audience me", Err(NoKeys("--jwt-audience"))),
            ("--tls-cert c", Err(Incomplete("--tls-cert", "--tls-key"))),
            ("--tls-key k", Err(Incomplete("--tls-key", "--tls-cert"))),
            ("--tls-cert c --tls-key k", Ok(())),
        ] {
            assert_eq!(validate(line), expected, "{line:?}");
        }
    }

    #[test]
    fn an_origin_is_what_a_browser_sends() {
        for good in ["https://admin.example.com", "http://localhost:3000", "https://[::1]:8443"] {
            assert_eq!(parse_origin(good).as_deref(), Ok(good));
        }
        let wrong = ["*", "null", "", "https://a.example/", "https://a.example:443", "HTTPS://A.example", "a.example"];
        for wrong in wrong {
            assert!(parse_origin(wrong).is_err(), "{wrong:?}");
        }
    }
}

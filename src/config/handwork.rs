//! Where do the commands for the daily handwork reach Orderly?

use clap::Args;
use url::Url;

use super::CommonSettings;

#[derive(Debug, Clone, Args)]
pub struct ReachSettings {
    #[command(flatten)]
    pub place: PlaceSettings,

    /// The bearer token for the API (see `orderly token`)
    #[arg(long, env = "ORDERLY_TOKEN", value_name = "JWT", hide_env_values = true)]
    pub token: Option<Token>,

    /// Print what the API answers, in JSON
    #[arg(long)]
    pub json: bool,

    #[command(flatten, next_help_heading = "Straight on the database, as `orderly serve` has them")]
    pub common: CommonSettings,
}

/// Exactly one of the two: over the network, or straight on the database.
#[derive(Clone, Args)]
#[group(required = true, multiple = false)]
pub struct PlaceSettings {
    /// The API, for example http://127.0.0.1:8000; or give the database instead
    #[arg(long, env = "ORDERLY_API", value_name = "URL", value_parser = parse_api)]
    pub api: Option<Url>,

    /// Straight on the database, as whoever owns it: without tokens, scopes and tenants
    #[arg(long = "database-url", env = "DATABASE_URL", value_name = "URL", hide_env_values = true)]
    pub database_url: Option<String>,
}

/// Never shown.
#[derive(Clone)]
pub struct Token(pub String);

impl From<String> for Token {
    fn from(text: String) -> Self {
        Token(text)
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(***)")
    }
}

impl std::fmt::Debug for PlaceSettings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PlaceSettings(***)")
    }
}

fn parse_api(text: &str) -> Result<Url, String> {
    let url = Url::parse(text).map_err(|error| error.to_string())?;
    if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err("not an http or https URL".to_owned()) }
}

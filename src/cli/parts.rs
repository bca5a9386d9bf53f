//! How are the parts of a process put together from its settings?

use std::sync::Arc;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use url::Url;

use super::CliError;
use crate::config::{CommonSettings, Environment};
use crate::delivery::{ClientSettings, DeliveryClient, Guard, SigningKey, SigningKeys, SystemLookup};
use crate::store::{Sealer, Store, migrate};

/// What the API and a worker both need.
pub(super) struct Parts {
    pub store: Store,
    pub guard: Guard,
    pub client: DeliveryClient,
    /// The public halves of the keys that sign.
    pub jwks: serde_json::Value,
}

/// The database, with a schema that fits, and where destinations may be.
pub(super) async fn open_checked(
    url: &str,
    connections: usize,
    common: &CommonSettings,
) -> Result<(Store, Guard), CliError> {
    let store = Store::open(url, connections, Sealer::from_keys(&common.secrets_keys)?)?;
    let production = common.environment == Environment::Production;
    let guard = Guard::new(common.allow_networks.clone(), common.deny_ports.clone(), production)
        .with_lookup(Arc::new(SystemLookup::with_servers(common.name_servers.clone())));
    for warning in guard.warnings() {
        tracing::warn!("{warning}");
    }
    migrate::check(&store).await?;
    Ok((store, guard))
}

/// Checks the settings, then the database and its schema.
pub(super) async fn assemble(url: &str, connections: usize, common: &CommonSettings) -> Result<Parts, CliError> {
    if common.environment == Environment::Production && common.signing_keys.is_empty() {
        return Err(CliError::NoSigningKey);
    }
    let egress_proxy = match &common.egress_proxy {
        Some(proxy) => Some(Url::parse(proxy).map_err(|_| CliError::Proxy)?),
        None => None,
    };
    allow_open_files();
    let (store, guard) = open_checked(url, connections, common).await?;
    let keys = if common.signing_keys.is_empty() {
        let pem = store.share_signing_key(&SigningKey::generate()?.to_pem()).await?;
        SigningKeys::new(vec![SigningKey::from_pem(&pem)?])?
    } else {
        SigningKeys::load(&common.signing_keys)?
    };
    let jwks = keys.jwks();
    let client =
        DeliveryClient::new(ClientSettings { guard: guard.clone(), keys, egress_proxy, extra_roots: Vec::new() })?;
    Ok(Parts { store, guard, client, jwks })
}

/// As many files and sockets as this process may have: shells and services often begin with 1,024, for the sake
/// of programs that use `select`. Deliveries that hang are a socket each, names that hang two.
fn allow_open_files() {
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// As others see this host.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

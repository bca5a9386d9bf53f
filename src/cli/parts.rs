//! How are the parts of a process put together from its settings?

use url::Url;

use super::CliError;
use crate::config::{CommonSettings, Environment};
use crate::delivery::{ClientSettings, DeliveryClient, Guard, SigningKey, SigningKeys};
use crate::store::{Sealer, Store, migrate};

/// What the API and a worker both need.
pub(super) struct Parts {
    pub store: Store,
    pub guard: Guard,
    pub client: DeliveryClient,
    /// The public halves of the keys that sign.
    pub jwks: serde_json::Value,
}

/// Checks the settings, then the database and its schema.
pub(super) async fn assemble(url: &str, connections: usize, common: &CommonSettings) -> Result<Parts, CliError> {
    let sealer = Sealer::from_keys(&common.secrets_keys)?;
    let store = Store::open(url, connections, sealer)?;
    let production = common.environment == Environment::Production;
    if production && common.signing_keys.is_empty() {
        return Err(CliError::NoSigningKey);
    }
    let egress_proxy = match &common.egress_proxy {
        Some(proxy) => Some(Url::parse(proxy).map_err(|_| CliError::Proxy)?),
        None => None,
    };
    let guard = Guard::new(common.allow_networks.clone(), common.deny_ports.clone(), production);
    for warning in guard.warnings() {
        tracing::warn!("{warning}");
    }
    migrate::check(&store).await?;
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

/// As others see this host.
pub(super) fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

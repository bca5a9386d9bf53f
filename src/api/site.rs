//! How does a process serve the API?

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::auth::{SetupError, Verifier};
use super::front::ShowCauses;
use super::limits::RateLimits;
use super::routes::{AppState, UrlCheck, app};
use super::server::{self, ServeError, ServerLimits, ServerOptions, TlsFiles};
use crate::config::{CommonSettings, Environment, ServeSettings, SettingsError};
use crate::delivery::{DeliveryClient, Guard};
use crate::store::Store;
use crate::store::enqueue::Enqueuer;
use crate::worker::Counters;

#[derive(Debug, thiserror::Error)]
pub enum SiteError {
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Authentication(#[from] SetupError),
    #[error(transparent)]
    Serve(#[from] ServeError),
}

/// What the API stands on.
pub struct Foundations {
    pub store: Store,
    pub guard: Guard,
    pub client: DeliveryClient,
    /// The public keys that deliveries are signed with.
    pub jwks: serde_json::Value,
    /// Of a worker in this process.
    pub counters: Option<Arc<Counters>>,
}

/// Serves until `stop`.
pub async fn serve(
    foundations: Foundations,
    (settings, common): (&ServeSettings, &CommonSettings),
    stop: CancellationToken,
    on_listening: impl FnOnce(SocketAddr),
) -> Result<(), SiteError> {
    let Foundations { store, guard, client, jwks, counters } = foundations;
    settings.validate(common)?;
    let verifier = Verifier::from_settings(settings, stop.clone()).await?;
    if !verifier.is_enabled() {
        tracing::info!("authentication is off: whoever reaches the API may do everything");
    }
    // What was accepted in the last instant is still written and rung for.
    let writing = CancellationToken::new();
    let enqueuer = Enqueuer::start(store.clone(), writing.clone());
    let state = AppState {
        verifier,
        jwks: Arc::new(jwks),
        limits: RateLimits::new(settings.rate_limit, settings.tenant_rate_limit),
        cors_origins: settings.cors_origins.clone(),
        client: Some(client),
        counters,
        ..base_state(store, enqueuer.clone(), guard, common)
    };
    let tls = settings.tls_cert.clone().zip(settings.tls_key.clone());
    let options = ServerOptions {
        listen: settings.listen,
        tls: tls.map(|(certificate, key)| TlsFiles { certificate, key }),
        limits: ServerLimits { max_connections: settings.max_connections as usize, ..ServerLimits::default() },
    };
    server::serve(app(state), options, stop, on_listening).await?;
    writing.cancel();
    enqueuer.stopped().await;
    Ok(())
}

/// What handlers work with, whoever calls them.
pub(super) fn base_state(store: Store, enqueuer: Enqueuer, guard: Guard, common: &CommonSettings) -> AppState {
    let check_url: UrlCheck = Arc::new(move |url| {
        let guard = guard.clone();
        Box::pin(async move { guard.check_registration(&url).await.map_err(|error| error.to_string()) })
    });
    let production = common.environment == Environment::Production;
    let refuses_secrets = production && common.secrets_keys.is_empty();
    let causes = if production { ShowCauses::No } else { ShowCauses::Yes };
    AppState { check_url, refuses_secrets, causes, ..AppState::new(store, enqueuer) }
}

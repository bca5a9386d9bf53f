//! What stands in for the API and the worker until they are there? (This file is deleted then.)

use std::net::SocketAddr;

#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("cannot listen on {address}")]
    Listen { address: SocketAddr, source: std::io::Error },
}

pub(super) mod api {
    use std::net::SocketAddr;

    use tokio_util::sync::CancellationToken;

    use super::ServeError;
    use crate::config::{CommonSettings, ServeSettings};
    use crate::store::Store;

    pub async fn serve(
        _store: Store,
        settings: &ServeSettings,
        _common: &CommonSettings,
        stop: CancellationToken,
        on_listening: impl FnOnce(SocketAddr),
    ) -> Result<(), ServeError> {
        let failed = |source| ServeError::Listen { address: settings.listen, source };
        let listener = tokio::net::TcpListener::bind(settings.listen).await.map_err(failed)?;
        on_listening(listener.local_addr().map_err(failed)?);
        stop.cancelled().await;
        Ok(())
    }

    pub fn openapi_json() -> String {
        "{}".to_owned()
    }

    pub fn openapi_yaml() -> String {
        "{}".to_owned()
    }
}

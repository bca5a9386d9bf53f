//! How are a certificate and its key read?

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

use super::TlsFiles;

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("no certificate can be read from {file}: {source}")]
    Certificate { file: String, source: pem::Error },
    #[error("no private key can be read from {file}: {source}")]
    Key { file: String, source: pem::Error },
    #[error("the certificate {file} and its key cannot be used: {source}")]
    Pair { file: String, source: rustls::Error },
}

/// TLS 1.2 and 1.3. The key must be the certificate's.
pub fn load(files: &TlsFiles) -> Result<TlsAcceptor, TlsError> {
    let file = || files.certificate.display().to_string();
    let unreadable = |source| TlsError::Certificate { file: file(), source };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(&files.certificate)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    if chain.is_empty() {
        return Err(unreadable(pem::Error::NoItemsFound));
    }
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|source| TlsError::Key { file: files.key.display().to_string(), source })?;
    let unusable = |source| TlsError::Pair { file: file(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(unusable)?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(unusable)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

//! TLS, by rustls: a certificate and its key from files, which are read again on SIGHUP.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_blocking;

use crate::config::TlsFiles;

#[derive(Debug, Error)]
pub enum TlsError {
    #[error("{} cannot be read", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("{} is not a certificate in PEM format", path.display())]
    Certificate { path: PathBuf, source: pem::Error },
    #[error("{} contains no certificate", path.display())]
    NoCertificate { path: PathBuf },
    #[error("{} is not a private key in PEM format, or has a passphrase", path.display())]
    Key { path: PathBuf, source: pem::Error },
    #[error("the certificate and the key do not match")]
    Pair(#[source] rustls::Error),
    #[error("could not set up TLS")]
    SetUp(#[source] rustls::Error),
    #[error("could not set up the handling of SIGHUP")]
    Signal(#[source] io::Error),
}

/// The certificate that is presented to clients. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Certificate {
    files: TlsFiles,
    current: Arc<RwLock<Arc<CertifiedKey>>>,
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // Poisoning does not matter: the certificate is only ever replaced as a whole.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        Some(Arc::clone(&current))
    }
}

impl Certificate {
    pub fn read(files: &TlsFiles) -> Result<Self, TlsError> {
        let current = Arc::new(RwLock::new(Arc::new(read(files)?)));
        Ok(Self { files: files.clone(), current })
    }

    /// TLS 1.2 and 1.3, without client certificates.
    pub fn config(&self) -> Result<ServerConfig, TlsError> {
        let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(TlsError::SetUp)?;
        Ok(config.with_no_client_auth().with_cert_resolver(Arc::new(self.clone())))
    }

    /// Reads the files again at each SIGHUP, as long as this future is polled. If they cannot be
    /// read, the current certificate stays in use.
    pub async fn renew(self) -> Result<(), TlsError> {
        let mut hangup = signal(SignalKind::hangup()).map_err(TlsError::Signal)?;
        while hangup.recv().await.is_some() {
            let files = self.files.clone();
            match spawn_blocking(move || read(&files)).await {
                Ok(Ok(read)) => {
                    *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(read);
                    log::info!("the certificate was renewed");
                }
                Ok(Err(failure)) => {
                    log::error!("the current certificate stays in use: {}", crate::chain(&failure));
                }
                Err(failure) => log::error!("reading the certificate failed: {failure}"),
            }
        }
        Ok(())
    }
}

fn read(files: &TlsFiles) -> Result<CertifiedKey, TlsError> {
    let TlsFiles { certificate, key } = files;
    let chain = certificates(certificate)?;
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|source| match source {
        pem::Error::Io(source) => TlsError::Read { path: key.clone(), source },
        source => TlsError::Key { path: key.clone(), source },
    })?;
    // Fails if the certificate and the key do not match.
    CertifiedKey::from_der(chain, private_key, &default_provider()).map_err(TlsError::Pair)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let path = path.to_owned();
    let read = CertificateDer::pem_file_iter(&path).and_then(Iterator::collect);
    let chain: Vec<_> = read.map_err(|source| match source {
        pem::Error::Io(source) => TlsError::Read { path: path.clone(), source },
        source => TlsError::Certificate { path: path.clone(), source },
    })?;
    if chain.is_empty() { Err(TlsError::NoCertificate { path }) } else { Ok(chain) }
}

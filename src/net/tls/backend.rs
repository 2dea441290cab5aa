//! TLS towards PostgreSQL.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::Resumption;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, CommonState, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::verify::{BackendVerifier, Check};
use super::{TlsError, end_point, provider};
use crate::config;
use crate::config::BackendTlsMode;
use crate::config::pem::{load_authorities, load_identity};

/// How we speak TLS to the servers of one configuration entry; sessions are resumed. Cheap to clone.
#[derive(Clone)]
pub struct BackendTls {
    connector: TlsConnector,
    check: Check,
    warnings: Vec<String>,
}

impl BackendTls {
    /// Reads the authorities and our own certificate. `None` if the mode is `Disable`. Blocks on files.
    ///
    /// # Errors
    /// [`TlsError`]: a file, or no authorities where some are needed.
    pub fn build(config: &config::BackendTls) -> Result<Option<Self>, TlsError> {
        let check = match config.mode {
            BackendTlsMode::Disable => return Ok(None),
            BackendTlsMode::Allow | BackendTlsMode::Prefer | BackendTlsMode::Require => Check::Nothing,
            BackendTlsMode::VerifyCa => Check::Chain,
            BackendTlsMode::VerifyFull => Check::ChainAndHost,
        };
        let mut warnings = Vec::new();
        let (authorities, roots) = match check {
            Check::Nothing => (Vec::new(), RootCertStore::empty()),
            Check::Chain | Check::ChainAndHost => authorities(config, &mut warnings)?,
        };
        let verifier = BackendVerifier::new(check, roots, authorities);
        let builder = ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let rustls = match &config.identity {
            Some(files) => {
                let identity = load_identity(files, SystemTime::now())?;
                warnings.extend(identity.warnings);
                builder.with_client_auth_cert(identity.chain, identity.key)?
            }
            None => builder.with_no_client_auth(),
        };
        Ok(Some(Self { connector: TlsConnector::from(Arc::new(rustls)), check, warnings }))
    }

    /// The same without resumption: every connection pays the full handshake, as a new Lambda environment does.
    #[must_use]
    pub fn without_resumption(&self) -> Self {
        let mut rustls = ClientConfig::clone(self.connector.config());
        rustls.resumption = Resumption::disabled();
        Self { connector: TlsConnector::from(Arc::new(rustls)), ..self.clone() }
    }

    /// The handshake with `host` (name or IP address, as in the configuration). The caller limits the time.
    ///
    /// Not cancel-safe: the stream is lost with the future.
    ///
    /// # Errors
    /// The stream's own; `InvalidData` with a [`rustls::Error`] inside; `InvalidInput` for a host that no certificate
    /// can name, where that matters.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>> {
        let name = match ServerName::try_from(host.to_owned()) {
            Ok(name) => name,
            // Nobody will compare it, and for an address no name is sent.
            Err(_) if self.check != Check::ChainAndHost => ServerName::from(Ipv4Addr::UNSPECIFIED),
            Err(error) => return Err(io::Error::new(io::ErrorKind::InvalidInput, error)),
        };
        self.connector.connect(name, stream).await
    }

    /// What works but probably is not meant: dates of certificates, a key open to all.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }
}

/// Channel binding data of the server's certificate, for SCRAM-SHA-256-PLUS.
pub fn peer_end_point(connection: &CommonState) -> Option<Vec<u8>> {
    end_point(connection.peer_certificates()?.first()?)
}

type Authorities = (Vec<CertificateDer<'static>>, RootCertStore);

/// Those of the configured file, all of which must be usable; or the system's, of which some must be.
fn authorities(config: &config::BackendTls, warnings: &mut Vec<String>) -> Result<Authorities, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = &config.ca else {
        let certificates = rustls_native_certs::load_native_certs().certs;
        roots.add_parsable_certificates(certificates);
        return if roots.is_empty() { Err(TlsError::NoSystemAuthorities) } else { Ok((Vec::new(), roots)) };
    };
    let (certificates, more) = load_authorities(path, SystemTime::now())?;
    warnings.extend(more);
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|source| TlsError::Authority { path: path.clone(), source })?;
    }
    Ok((certificates, roots))
}

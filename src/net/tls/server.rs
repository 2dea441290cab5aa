//! TLS towards clients.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{CommonState, RootCertStore, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{ALPN, TlsError, end_point, provider};
use crate::config::pem::{load_authorities, load_identity};
use crate::config::{ClientTls, ClientTlsMode};
use crate::error::{Error, Side, SqlState};

/// What we show to clients that ask for TLS, and what we ask of them. Cheap to clone.
#[derive(Clone)]
pub struct ServerTls {
    acceptor: TlsAcceptor,
    mode: ClientTlsMode,
    end_point: Option<Arc<[u8]>>,
    warnings: Vec<String>,
}

impl ServerTls {
    /// Reads certificate, key and authorities. `None` if the mode is `Disable`. Blocks on files.
    ///
    /// # Errors
    /// [`TlsError`]: a file, or files that do not fit each other.
    pub fn build(config: &ClientTls) -> Result<Option<Self>, TlsError> {
        if config.mode == ClientTlsMode::Disable {
            return Ok(None);
        }
        let now = SystemTime::now();
        let identity = load_identity(config.identity.as_ref().ok_or(TlsError::NoIdentity)?, now)?;
        let mut warnings = identity.warnings;
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = match config.mode {
            ClientTlsMode::VerifyCa | ClientTlsMode::VerifyFull => {
                let path = config.ca.as_ref().ok_or(TlsError::NoAuthority)?;
                let (certificates, more) = load_authorities(path, now)?;
                warnings.extend(more);
                let mut roots = RootCertStore::empty();
                for certificate in certificates {
                    roots.add(certificate).map_err(|source| TlsError::Authority { path: path.clone(), source })?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(roots.into(), provider()).build()?;
                builder.with_client_cert_verifier(verifier)
            }
            _ => builder.with_no_client_auth(),
        };
        let end_point = identity.chain.first().and_then(|leaf| end_point(leaf)).map(Arc::from);
        let mut rustls = builder.with_single_cert(identity.chain, identity.key)?;
        // A client that offers no ALPN at all is let in by this; `check_direct` then refuses it where it may not.
        rustls.alpn_protocols = vec![ALPN.to_vec()];
        // The cheapest handshake, whatever the client would prefer: see `provider`.
        rustls.ignore_client_order = true;
        // Sessions are resumed from tickets, which the client keeps: nothing here grows with the number of clients.
        // One ticket per connection is enough, since a client opens one connection at a time.
        rustls.ticketer = Ticketer::new()?;
        rustls.send_tls13_tickets = 1;
        rustls.session_storage = Arc::new(NoServerSessionStorage {});
        Ok(Some(Self { acceptor: TlsAcceptor::from(Arc::new(rustls)), mode: config.mode, end_point, warnings }))
    }

    /// The handshake. Box the future where many clients wait: it is large. The caller limits the time.
    ///
    /// Not cancel-safe: the stream is lost with the future.
    ///
    /// # Errors
    /// The stream's own, and `InvalidData` with a [`rustls::Error`] inside.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        self.acceptor.accept(stream).await
    }

    /// Channel binding data of our certificate (RFC 5929). `None`: its kind has none; do not offer -PLUS.
    pub fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }

    /// What works but probably is not meant: dates of certificates, a key open to all.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Under `verify-full`: whether the client's certificate is that of `user`. Otherwise nothing is asked.
    ///
    /// # Errors
    /// 28000, as PostgreSQL's `clientcert=verify-full`.
    pub fn check_user(&self, connection: &CommonState, user: &str) -> Result<(), Error> {
        if self.mode != ClientTlsMode::VerifyFull || peer_common_name(connection).as_deref() == Some(user) {
            return Ok(());
        }
        let message = format!("certificate authentication failed for user \"{user}\"");
        Err(Error::new(Side::Client, SqlState::INVALID_AUTHORIZATION_SPECIFICATION, message)
            .detail("the common name (CN) of the client's certificate is not the user name"))
    }
}

/// The common name of the client's certificate, if it showed one (verified by then).
pub fn peer_common_name(connection: &CommonState) -> Option<String> {
    let leaf = connection.peer_certificates()?.first()?;
    let (_, parsed) = X509Certificate::from_der(leaf).ok()?;
    let name = parsed.subject().iter_common_name().next()?.as_str().ok()?;
    Some(name.to_owned())
}

/// For a connection that began with TLS at once (`sslnegotiation=direct`): the client must have asked for our
/// protocol by ALPN, as in PostgreSQL 17 (`ProcessSSLStartup`), lest another protocol's bytes reach us.
///
/// # Errors
/// 08P01, to be sent over this connection.
pub fn check_direct(connection: &CommonState) -> Result<(), Error> {
    match connection.alpn_protocol() {
        Some(ALPN) => Ok(()),
        _ => Err(Error::protocol("received direct SSL connection request without ALPN protocol negotiation extension")),
    }
}

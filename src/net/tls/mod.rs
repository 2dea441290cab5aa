//! TLS with rustls and aws-lc-rs, 1.2 and 1.3: [`ServerTls`] towards clients, [`BackendTls`] towards PostgreSQL.
//!
//! Both are built from validated configuration and never change; a reload builds new ones and swaps them in when that
//! worked. Building reads files (and for `verify-*` without `ca` the system's authorities): not on an IO thread.
//! Also here: the channel binding data of a certificate, which SCRAM-SHA-256-PLUS needs on both sides.

mod backend;
mod end_point;
mod server;
mod verify;

pub use backend::{BackendTls, peer_end_point};
pub use end_point::end_point;
pub use server::{ServerTls, check_direct, peer_common_name};

use std::path::PathBuf;
use std::sync::Arc;

use rustls::CipherSuite;
use rustls::client::VerifierBuilderError;
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use thiserror::Error;

use crate::config::pem::PemError;

/// The protocol name that PostgreSQL registered for ALPN (manual, "SSL Session Encryption").
pub const ALPN: &[u8] = b"postgresql";

/// Why a TLS configuration cannot be built. The old one stays in force.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A certificate or key file.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// TLS is asked for, but there is no certificate to show.
    #[error("TLS towards clients needs a certificate and a key")]
    NoIdentity,
    /// Certificates are to be verified, but nothing says by whom they must be signed.
    #[error("verifying client certificates needs `ca`, the authorities that sign them")]
    NoAuthority,
    /// The system has no authorities, and the configuration names none.
    #[error("this system has no certificate authorities; set `ca` to the file with the server's (for RDS: its bundle)")]
    NoSystemAuthorities,
    /// An authority that rustls does not take.
    #[error("an authority in \"{path}\" cannot be used: {source}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: rustls::Error,
    },
    /// The authorities make no verifier.
    #[error("certificates cannot be verified: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// Anything else that rustls refuses.
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// The one provider of cryptography; named here, so that nothing depends on a process-wide default. The suite whose
/// handshake costs least comes first: processors hash SHA-256 in hardware, and SHA-384 mostly not.
fn provider() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}

#[cfg(test)]
mod tests;

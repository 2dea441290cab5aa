//! Judging a PostgreSQL server's certificate by libpq's rules, which differ from a browser's in three ways that occur
//! in the field (the recipes of PostgreSQL's own manual lead there):
//!
//! * `require` looks at nothing, so a certificate that webpki cannot parse (X.509 version 1) must do;
//! * a self-signed server certificate may itself be the `ca` file;
//! * a certificate without any subjectAltName names its host in the common name.
//!
//! Whatever is not checked, the server always proves that it holds the certificate's key.

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::provider;

/// What must be true of a server's certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Check {
    /// `require` and below.
    Nothing,
    /// `verify-ca`.
    Chain,
    /// `verify-full`.
    ChainAndHost,
}

#[derive(Debug)]
pub(super) struct BackendVerifier {
    check: Check,
    roots: RootCertStore,
    /// The configured authorities as they are in the file: one of them may be the server's own certificate.
    pinned: Vec<CertificateDer<'static>>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl BackendVerifier {
    pub(super) fn new(check: Check, roots: RootCertStore, pinned: Vec<CertificateDer<'static>>) -> Self {
        Self { check, roots, pinned, algorithms: provider().signature_verification_algorithms }
    }

    fn check_chain(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.pinned.contains(leaf) {
            return check_dates(leaf, now);
        }
        let parsed = ParsedCertificate::try_from(leaf)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)
    }
}

impl ServerCertVerifier for BackendVerifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check != Check::Nothing {
            self.check_chain(leaf, intermediates, now)?;
        }
        if self.check == Check::ChainAndHost {
            check_host(leaf, host)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, leaf, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        if ParsedCertificate::try_from(leaf).is_ok() {
            return verify_tls13_signature(message, leaf, signed, &self.algorithms);
        }
        let parsed = parse(leaf)?;
        let key = SubjectPublicKeyInfoDer::from(parsed.public_key().raw);
        verify_tls13_signature_with_raw_key(message, &key, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn parse<'a>(leaf: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, Error> {
    X509Certificate::from_der(leaf).map(|(_, parsed)| parsed).map_err(|_| CertificateError::BadEncoding.into())
}

fn check_dates(leaf: &CertificateDer<'_>, now: UnixTime) -> Result<(), Error> {
    let parsed = parse(leaf)?;
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < parsed.validity().not_before.timestamp() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > parsed.validity().not_after.timestamp() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// The host against the subjectAltName; only a certificate that has none may use its common name, which must be the
/// host exactly (libpq, `pgtls_verify_peer_name_matches_certificate_guts`; wildcards there are not worth their risk).
fn check_host(leaf: &CertificateDer<'_>, host: &ServerName<'_>) -> Result<(), Error> {
    let parsed = parse(leaf)?;
    if !matches!(parsed.subject_alternative_name(), Ok(None)) {
        return verify_server_name(&ParsedCertificate::try_from(leaf)?, host);
    }
    let name = parsed.subject().iter_common_name().next().and_then(|name| name.as_str().ok());
    match name {
        Some(name) if name.eq_ignore_ascii_case(&host.to_str()) => Ok(()),
        _ => Err(CertificateError::NotValidForNameContext {
            expected: host.to_owned(),
            presented: name.map(|name| format!("CN={name}")).into_iter().collect(),
        }
        .into()),
    }
}

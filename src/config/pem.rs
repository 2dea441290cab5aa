//! Certificates and keys from PEM files, checked before anything uses them: readable, of the right kind, fitting each
//! other; expired ones and keys that everybody can read are worth a warning. Error texts name the file and never
//! quote its content.

use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustls::crypto::aws_lc_rs::default_provider;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, RootCertStore};
use thiserror::Error;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use super::{TlsIdentity, files};

/// A certificate that ends within this time is worth a warning: renewal should have happened by then.
const EXPIRES_SOON: Duration = Duration::from_secs(7 * 24 * 3600);

/// What is wrong with a PEM file.
#[derive(Debug, Error)]
pub enum PemError {
    /// The file cannot be read.
    #[error("cannot read \"{path}\": {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is no PEM.
    #[error("\"{path}\" is not a valid PEM file: {what}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// In words.
        what: &'static str,
    },
    /// It is PEM, but what is needed is not in it.
    #[error("\"{path}\" holds no {wanted}{hint}")]
    Missing {
        /// The file.
        path: PathBuf,
        /// `certificate` or `private key`.
        wanted: &'static str,
        /// What it holds instead, where that is known.
        hint: &'static str,
    },
    /// A certificate that cannot be used.
    #[error("certificate {number} in \"{path}\" cannot be used: {what}")]
    Certificate {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        number: usize,
        /// In words.
        what: String,
    },
    /// A private key that cannot be used.
    #[error(
        "the private key in \"{path}\" cannot be used: {what}; RSA (2048 to 8192 bits), ECDSA P-256/384/521 and Ed25519 can"
    )]
    Key {
        /// The file.
        path: PathBuf,
        /// In words.
        what: String,
    },
    /// Key and certificate belong to different pairs.
    #[error("the private key in \"{key}\" does not fit the (first) certificate in \"{cert}\"")]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
}

/// A certificate chain (leaf first) and its key, which fit each other.
#[derive(Debug)]
pub struct Identity {
    /// The chain, leaf first, never empty.
    pub chain: Vec<CertificateDer<'static>>,
    /// The private key.
    pub key: PrivateKeyDer<'static>,
    /// What works but probably is not meant, in words.
    pub warnings: Vec<String>,
}

/// Loads and checks a chain and its key; `now` judges the dates.
///
/// # Errors
/// [`PemError`], naming the file.
pub fn load_identity(files: &TlsIdentity, now: SystemTime) -> Result<Identity, PemError> {
    let chain = load_certificates(&files.cert)?;
    check_version(&files.cert, &chain)?;
    let key = load_key(&files.key)?;
    let signing = default_provider()
        .key_provider
        .load_private_key(key.clone_key())
        .map_err(|error| PemError::Key { path: files.key.clone(), what: error.to_string() })?;
    match CertifiedKey::new(chain.clone(), signing).keys_match() {
        Ok(()) | Err(rustls::Error::InconsistentKeys(InconsistentKeys::Unknown)) => {}
        Err(rustls::Error::InconsistentKeys(_)) => {
            return Err(PemError::Mismatch { cert: files.cert.clone(), key: files.key.clone() });
        }
        Err(error) => {
            return Err(PemError::Certificate { path: files.cert.clone(), number: 1, what: error.to_string() });
        }
    }
    let mut warnings = validity_warnings(&files.cert, &chain, now);
    warnings.extend(readable_by_all(&files.key));
    Ok(Identity { chain, key, warnings })
}

/// Loads authorities to judge others' certificates by, with warnings about their dates.
///
/// # Errors
/// [`PemError`], naming the file.
pub fn load_authorities(path: &Path, now: SystemTime) -> Result<(Vec<CertificateDer<'static>>, Vec<String>), PemError> {
    let certificates = load_certificates(path)?;
    let mut roots = RootCertStore::empty();
    for (at, certificate) in certificates.iter().enumerate() {
        roots.add(certificate.clone()).map_err(|error| bad_certificate(path, at, error.to_string()))?;
    }
    let warnings = validity_warnings(path, &certificates, now);
    Ok((certificates, warnings))
}

/// Every certificate of a file, each parsed once to see that it can be used.
fn load_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let text = read(path)?;
    let certificates = CertificateDer::pem_slice_iter(&text)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| PemError::Syntax { path: path.into(), what: describe(&error) })?;
    if certificates.is_empty() {
        let hint = if contains(&text, b"PRIVATE KEY-----") { ", but a private key: are the two swapped?" } else { "" };
        return Err(PemError::Missing { path: path.into(), wanted: "certificate", hint });
    }
    for (at, certificate) in certificates.iter().enumerate() {
        X509Certificate::from_der(certificate).map_err(|error| bad_certificate(path, at, error.to_string()))?;
    }
    Ok(certificates)
}

/// rustls presents and accepts only version 3; only an authority may be older.
fn check_version(path: &Path, chain: &[CertificateDer<'_>]) -> Result<(), PemError> {
    let old = |certificate: &CertificateDer<'_>| {
        X509Certificate::from_der(certificate).is_ok_and(|(_, parsed)| parsed.version() != X509Version::V3)
    };
    match chain.iter().position(old) {
        Some(at) => {
            let what = "it is X.509 version 1, and version 3 is needed (openssl makes one if given extensions, \
                e.g. -copy_extensions copy)";
            Err(bad_certificate(path, at, what.to_owned()))
        }
        None => Ok(()),
    }
}

fn load_key(path: &Path) -> Result<PrivateKeyDer<'static>, PemError> {
    let text = read(path)?;
    // As PKCS#8 has it, and OpenSSL's older format, whose header is no base64 (RFC 1421).
    let encrypted = contains(&text, b"ENCRYPTED PRIVATE KEY-----") || contains(&text, b"Proc-Type: 4,ENCRYPTED");
    PrivateKeyDer::from_pem_slice(&text).map_err(|error| match error {
        _ if encrypted => {
            let hint = " without a passphrase (decrypt it: openssl pkey -in … -out …)";
            PemError::Missing { path: path.into(), wanted: "private key", hint }
        }
        pem::Error::NoItemsFound => {
            let hint =
                if contains(&text, b"CERTIFICATE-----") { ", but a certificate: are the two swapped?" } else { "" };
            PemError::Missing { path: path.into(), wanted: "private key", hint }
        }
        error => PemError::Syntax { path: path.into(), what: describe(&error) },
    })
}

fn read(path: &Path) -> Result<Vec<u8>, PemError> {
    files::read(path).map_err(|source| PemError::Read { path: path.into(), source })
}

/// The parser's own texts quote lines of the file; these do not.
fn describe(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "a section has no -----END line (is the file cut off?)",
        pem::Error::IllegalSectionStart { .. } => "a -----BEGIN line is malformed",
        pem::Error::Base64Decode(_) => "a section is not base64",
        _ => "it cannot be parsed",
    }
}

fn bad_certificate(path: &Path, at: usize, what: String) -> PemError {
    PemError::Certificate { path: path.into(), number: at + 1, what }
}

fn contains(text: &[u8], what: &[u8]) -> bool {
    memchr::memmem::find(text, what).is_some()
}

fn validity_warnings(path: &Path, certificates: &[CertificateDer<'_>], now: SystemTime) -> Vec<String> {
    let now = now.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| i64::try_from(d.as_secs()).unwrap_or(i64::MAX));
    let soon = i64::try_from(EXPIRES_SOON.as_secs()).unwrap_or(0);
    let mut warnings = Vec::new();
    for (at, certificate) in certificates.iter().enumerate() {
        let Ok((_, parsed)) = X509Certificate::from_der(certificate) else { continue };
        let (from, until) = (parsed.validity().not_before, parsed.validity().not_after);
        let what = if until.timestamp() < now {
            format!("expired on {until}")
        } else if from.timestamp() > now {
            format!("is not valid before {from}")
        } else if until.timestamp() < now.saturating_add(soon) {
            format!("expires soon, on {until}")
        } else {
            continue;
        };
        warnings.push(format!("certificate {} in \"{}\" ({}) {what}", at + 1, path.display(), parsed.subject()));
    }
    warnings
}

#[cfg(unix)]
fn readable_by_all(path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o777;
    (mode & 0o004 != 0).then(|| {
        format!(
            "private key \"{}\" can be read by every user of this machine (mode {mode:04o}); chmod 0600 it",
            path.display()
        )
    })
}

#[cfg(not(unix))]
fn readable_by_all(_path: &Path) -> Option<String> {
    None
}

#[cfg(test)]
#[path = "pem_tests.rs"]
mod tests;

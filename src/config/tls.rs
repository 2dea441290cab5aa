//! TLS settings -> [`ClientTls`] and [`BackendTls`], with a look at the files they name.

use std::path::PathBuf;
use std::time::SystemTime;

use super::pem::{self, PemError};
use super::raw::{General, Target};
use super::source::{Report, Sourced};
use super::{BackendTls, BackendTlsMode, ClientTls, ClientTlsMode, TlsIdentity};

type PathKey = Option<Sourced<PathBuf>>;

/// TLS towards clients: off without a certificate, offered with one.
pub(super) fn client(general: &General, report: &mut Report) -> ClientTls {
    let identity =
        identity(("client_tls_cert", &general.client_tls_cert), ("client_tls_key", &general.client_tls_key), report);
    let ca = authorities("client_tls_ca", &general.client_tls_ca, report);
    let Some(mode) = &general.client_tls else {
        let mode = if identity.is_some() { ClientTlsMode::Allow } else { ClientTlsMode::Disable };
        return ClientTls { mode, identity, ca };
    };
    let word = word(mode.value);
    if mode.value != ClientTlsMode::Disable && general.client_tls_cert.is_none() && general.client_tls_key.is_none() {
        let message = format!("client_tls = \"{word}\": needs client_tls_cert and client_tls_key");
        report.error(&mode.source, message);
    }
    if matches!(mode.value, ClientTlsMode::VerifyCa | ClientTlsMode::VerifyFull) && general.client_tls_ca.is_none() {
        let message =
            format!("client_tls = \"{word}\": needs client_tls_ca, the authorities that sign client certificates");
        report.error(&mode.source, message);
    }
    ClientTls { mode: mode.value, identity, ca }
}

fn word(mode: ClientTlsMode) -> &'static str {
    match mode {
        ClientTlsMode::Disable => "disable",
        ClientTlsMode::Allow => "allow",
        ClientTlsMode::Prefer => "prefer",
        ClientTlsMode::Require => "require",
        ClientTlsMode::VerifyCa => "verify-ca",
        ClientTlsMode::VerifyFull => "verify-full",
    }
}

/// TLS towards a server. As in libpq, `require` with authorities means `verify-ca` (manual, "SSL Support").
pub(super) fn backend(target: &Target, report: &mut Report) -> BackendTls {
    let identity = identity(("tls_cert", &target.tls_cert), ("tls_key", &target.tls_key), report);
    let ca = authorities("tls_ca", &target.tls_ca, report);
    let mut mode = target.tls.as_ref().map_or(BackendTlsMode::Prefer, |mode| mode.value);
    match (mode, &target.tls_ca) {
        (BackendTlsMode::Require, Some(_)) => mode = BackendTlsMode::VerifyCa,
        (BackendTlsMode::Disable | BackendTlsMode::Allow | BackendTlsMode::Prefer, Some(ca)) => {
            let message = "tls_ca: is not looked at unless tls is \"verify-ca\" or \"verify-full\"";
            report.warning(&ca.source, message);
        }
        _ => {}
    }
    BackendTls { mode, ca, identity }
}

/// A certificate and its key that fit each other; one without the other is an error.
fn identity(cert: (&str, &PathKey), key: (&str, &PathKey), report: &mut Report) -> Option<TlsIdentity> {
    match (cert.1, key.1) {
        (Some(cert_path), Some(key_path)) => {
            let files = TlsIdentity { cert: cert_path.value.clone(), key: key_path.value.clone() };
            match pem::load_identity(&files, SystemTime::now()) {
                Ok(identity) => {
                    let warn = |warning| report.warning(&cert_path.source, format!("{}: {warning}", cert.0));
                    identity.warnings.into_iter().for_each(warn);
                }
                Err(problem) if is_about_key(&problem, &files) => {
                    report.error(&key_path.source, format!("{}: {problem}", key.0));
                }
                Err(problem) => report.error(&cert_path.source, format!("{}: {problem}", cert.0)),
            }
            Some(files)
        }
        (None, None) => None,
        (Some(alone), None) => {
            report.error(&alone.source, format!("{}: needs {}, its private key, as well", cert.0, key.0));
            None
        }
        (None, Some(alone)) => {
            report.error(&alone.source, format!("{}: needs {}, its certificate, as well", key.0, cert.0));
            None
        }
    }
}

fn is_about_key(problem: &PemError, files: &TlsIdentity) -> bool {
    match problem {
        PemError::Read { path, .. } | PemError::Syntax { path, .. } => *path == files.key,
        PemError::Missing { wanted, .. } => *wanted == "private key",
        PemError::Certificate { .. } => false,
        PemError::Key { .. } | PemError::Mismatch { .. } => true,
    }
}

fn authorities(name: &str, ca: &PathKey, report: &mut Report) -> Option<PathBuf> {
    let ca = ca.as_ref()?;
    match pem::load_authorities(&ca.value, SystemTime::now()) {
        Ok((_, warnings)) => {
            warnings.into_iter().for_each(|warning| report.warning(&ca.source, format!("{name}: {warning}")));
        }
        Err(problem) => report.error(&ca.source, format!("{name}: {problem}")),
    }
    Some(ca.value.clone())
}

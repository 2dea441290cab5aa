//! A libpq connection URL (manual, "Connection URIs"). tokio-postgres reads it, apart from the TLS parameters, of
//! which it knows too few. No message ever repeats the URL: it holds a password.

use std::path::PathBuf;

use percent_encoding::percent_decode_str;

use crate::config::{BackendTls, BackendTlsMode, TlsIdentity, check_encoding};

/// Takes the URL apart.
pub(super) fn parse(url: &str) -> Result<(tokio_postgres::Config, BackendTls), String> {
    check_encoding(url).map_err(|problem| format!("the connection URL {problem}"))?;
    let (base, query) = url.split_once('?').unwrap_or((url, ""));
    let (mut mode, mut ca, mut cert, mut key) = (BackendTlsMode::Prefer, None, None, None);
    let mut rest = Vec::new();
    for parameter in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("{name} of the URL is not UTF-8"))?;
        match name {
            "sslmode" => mode = parse_sslmode(&value)?,
            "sslrootcert" => ca = Some(PathBuf::from(&*value)),
            "sslcert" => cert = Some(PathBuf::from(&*value)),
            "sslkey" => key = Some(PathBuf::from(&*value)),
            _ => rest.push(parameter),
        }
    }
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some(TlsIdentity { cert, key }),
        (None, None) => None,
        _ => return Err("sslcert and sslkey of the URL only go together".to_owned()),
    };
    // libpq: `require` with a root certificate verifies against it.
    if mode == BackendTlsMode::Require && ca.is_some() {
        mode = BackendTlsMode::VerifyCa;
    }
    let url = if rest.is_empty() { base.to_owned() } else { format!("{base}?{}", rest.join("&")) };
    let config = url.parse().map_err(|e| format!("wrong connection URL: {}", chain(&e)))?;
    Ok((config, BackendTls { mode, ca, identity }))
}

fn parse_sslmode(value: &str) -> Result<BackendTlsMode, String> {
    Ok(match value {
        "disable" => BackendTlsMode::Disable,
        "allow" => BackendTlsMode::Allow,
        "prefer" => BackendTlsMode::Prefer,
        "require" => BackendTlsMode::Require,
        "verify-ca" => BackendTlsMode::VerifyCa,
        "verify-full" => BackendTlsMode::VerifyFull,
        _ => return Err(format!("sslmode={value} is none of disable, allow, prefer, require, verify-ca, verify-full")),
    })
}

/// An error with its causes, which carry the interesting part.
fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(cause) => format!("{error}: {}", chain(cause)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tls_parameters() {
        let (config, tls) =
            parse("postgres://u:p@h/d?sslmode=verify-full&sslrootcert=/a%20b.pem&options=-cx=1").unwrap();
        assert_eq!(config.get_options(), Some("-cx=1"));
        let expected = BackendTls { mode: BackendTlsMode::VerifyFull, ca: Some("/a b.pem".into()), identity: None };
        assert_eq!(tls, expected);
        assert_eq!(parse("postgres://u@h/d").unwrap().1.mode, BackendTlsMode::Prefer);
        assert_eq!(parse("postgres://u@h/d?sslmode=require").unwrap().1.mode, BackendTlsMode::Require);
        assert_eq!(parse("postgres://u@h/d?sslmode=require&sslrootcert=x").unwrap().1.mode, BackendTlsMode::VerifyCa);
    }

    #[test]
    fn messages_name_the_parameter_and_never_the_password() {
        for url in [
            "postgres://u:hunter2@h/d?sslmode=maybe",
            "postgres://u:hunter2@h/d?sslcert=x",
            "postgres://u:hunter2@h:port/d",
            "postgres://u:hunter2@h/d?nonsense=1",
            "mysql://u:hunter2@h/d",
            "postgres://u:x@hunter2@h/d",
            "postgres://u@h/d?password=x&hunter2=y",
        ] {
            let message = parse(url).unwrap_err();
            assert!(!message.contains("hunter2"), "{message}");
        }
    }
}

//! Good pairs, warnings, and every way a PEM file can be wrong.

use std::os::unix::fs::PermissionsExt;

use rcgen::{CertificateParams, KeyPair, date_time_ymd};
use tempfile::TempDir;

use super::*;

/// Mid 2024.
fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_720_000_000)
}

fn pair(from_year: i32, until: (i32, u8, u8)) -> (String, String) {
    let mut params = CertificateParams::new(vec!["db.example".to_owned()]).unwrap();
    params.not_before = date_time_ymd(from_year, 1, 1);
    params.not_after = date_time_ymd(until.0, until.1, until.2);
    let key = KeyPair::generate().unwrap();
    (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
}

struct Files {
    dir: TempDir,
    files: TlsIdentity,
}

fn write(cert: &str, key: &str, mode: u32) -> Files {
    let dir = tempfile::tempdir().unwrap();
    let files = TlsIdentity { cert: dir.path().join("server.crt"), key: dir.path().join("server.key") };
    std::fs::write(&files.cert, cert).unwrap();
    std::fs::write(&files.key, key).unwrap();
    std::fs::set_permissions(&files.key, std::fs::Permissions::from_mode(mode)).unwrap();
    Files { dir, files }
}

fn error(cert: &str, key: &str) -> String {
    let written = write(cert, key, 0o600);
    let message = load_identity(&written.files, now()).unwrap_err().to_string();
    assert!(message.contains(written.dir.path().to_str().unwrap()), "names the file: {message}");
    message
}

#[test]
fn a_good_pair_has_no_warnings() {
    let (cert, key) = pair(2020, (2030, 1, 1));
    let (other, _) = pair(2020, (2030, 1, 1));
    let written = write(&format!("# a comment\n{cert}{other}"), &key, 0o640);
    let identity = load_identity(&written.files, now()).unwrap();
    assert_eq!((identity.chain.len(), identity.warnings.len()), (2, 0), "{:?}", identity.warnings);
    assert_eq!(load_authorities(&written.files.cert, now()).unwrap().0.len(), 2);
}

#[test]
fn warnings() {
    let table = [
        ((2020, (2023, 1, 1)), 0o600, "expired on Jan  1"),
        ((2025, (2030, 1, 1)), 0o600, "is not valid before Jan  1"),
        ((2020, (2024, 7, 8)), 0o600, "expires soon, on Jul  8"),
        ((2020, (2030, 1, 1)), 0o644, "mode 0644"),
    ];
    for ((from, until), mode, expected) in table {
        let (cert, key) = pair(from, until);
        let warnings = load_identity(&write(&cert, &key, mode).files, now()).unwrap().warnings;
        assert!(warnings.len() == 1 && warnings[0].contains(expected), "{expected}: {warnings:?}");
    }
}

#[test]
fn what_is_wrong_is_said() {
    let (cert, key) = pair(2020, (2030, 1, 1));
    let (_, other) = pair(2020, (2030, 1, 1));
    let cut = &cert[..cert.len() - 40];
    let broken_der = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let broken_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let encrypted = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let traditional = "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,00AA\n\nAAAA\n\
                       -----END RSA PRIVATE KEY-----\n";
    let not_base64 = "-----BEGIN PRIVATE KEY-----\n!hunter2!\n-----END PRIVATE KEY-----\n";
    let table = [
        (cert.as_str(), other.as_str(), "does not fit"),
        ("", &key, "holds no certificate"),
        (&key, &cert, "but a private key: are the two swapped?"),
        (&cert, &cert, "but a certificate: are the two swapped?"),
        (&cert, "", "holds no private key"),
        (&cert, &encrypted, "without a passphrase"),
        (&cert, traditional, "without a passphrase"),
        (cut, &key, "no -----END line"),
        (broken_der, &key, "certificate 1"),
        (&cert, broken_key, "cannot be used"),
        (&cert, not_base64, "not base64"),
    ];
    for (cert, key, expected) in table {
        let message = error(cert, key);
        assert!(message.contains(expected), "{expected}: {message}");
        assert!(!message.contains("hunter2"), "quotes the key: {message}");
    }
}

#[test]
fn missing_files_are_named() {
    let (cert, key) = pair(2020, (2030, 1, 1));
    let mut written = write(&cert, &key, 0o600);
    written.files.key = written.dir.path().join("no.key");
    let message = load_identity(&written.files, now()).unwrap_err().to_string();
    assert!(message.contains("no.key") && message.contains("No such file"), "{message}");
    let message = load_authorities(&written.dir.path().join("no.crt"), now()).unwrap_err().to_string();
    assert!(message.contains("no.crt"), "{message}");
}

/// As the openssl of Debian 12 makes them from `openssl x509 -req` without extensions.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----\n\
    MIHoMIGbAhQdE7yf1MyyxwTmSoFFVZ5k6ozn1zAFBgMrZXAwFjEUMBIGA1UEAwwL\n\
    b2xkLmV4YW1wbGUwIBcNMjYxMTIzMjEyNzMyWhgPMjEyNjEwMzAyMTI3MzJaMBYx\n\
    FDASBgNVBAMMC29sZC5leGFtcGxlMCowBQYDK2VwAyEAK1LvkFiDY4nd9VoluTkC\n\
    8T6M4H4BkoQ7NMjiDNo+p/EwBQYDK2VwA0EAWvGsdAAvOqwagDh2Zbve7HLWYt64\n\
    T7cq80dxeYi05AC/HP4TCuq3i2wQNeFgGydXDRYoB2qBSt/QE9SPwAyFDg==\n\
    -----END CERTIFICATE-----\n";

#[test]
fn version_1_certificates_are_explained() {
    let (_, key) = pair(2020, (2030, 1, 1));
    let message = error(VERSION_1, &key);
    assert!(message.contains("certificate 1") && message.contains("version 1"), "{message}");
    assert!(load_authorities(&write(VERSION_1, "", 0o600).files.cert, now()).is_ok(), "an authority may be old");
}

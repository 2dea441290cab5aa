//! Both ends over an in-memory pipe, with certificates made on the spot.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, PKCS_ECDSA_P256_SHA256,
    PKCS_ECDSA_P384_SHA384, PKCS_ED25519, SignatureAlgorithm, date_time_ymd,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, HandshakeKind, ServerConfig};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};

use super::*;
use crate::config::{self, BackendTlsMode, ClientTls, ClientTlsMode, TlsIdentity};

/// An authority and a directory of what it signed.
struct Authority {
    dir: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let dir = tempfile::tempdir().unwrap();
        // A name of its own, or another authority's signature would be tried.
        params.distinguished_name.push(DnType::CommonName, dir.path().to_str().unwrap());
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        std::fs::write(dir.path().join("ca.crt"), issuer.pem()).unwrap();
        Self { dir, issuer }
    }

    fn ca(&self) -> Option<PathBuf> {
        Some(self.dir.path().join("ca.crt"))
    }

    /// A certificate for `common_name`, and for `hosts` as subjectAltName, until `year`.
    fn sign(&self, common_name: &str, hosts: &[&str], year: i32) -> TlsIdentity {
        let key = KeyPair::generate().unwrap();
        let certificate = params(common_name, hosts, year).signed_by(&key, &self.issuer).unwrap();
        write(self.dir.path(), &certificate.pem(), &key.serialize_pem())
    }

    fn self_signed(&self, common_name: &str, algorithm: &'static SignatureAlgorithm) -> TlsIdentity {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let certificate = params(common_name, &[], 2100).self_signed(&key).unwrap();
        write(self.dir.path(), &certificate.pem(), &key.serialize_pem())
    }
}

fn params(common_name: &str, hosts: &[&str], year: i32) -> CertificateParams {
    let mut params = CertificateParams::new(hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>()).unwrap();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_after = date_time_ymd(year, 1, 1);
    params
}

fn write(dir: &Path, cert: &str, key: &str) -> TlsIdentity {
    let number = std::fs::read_dir(dir).unwrap().count();
    let files = TlsIdentity { cert: dir.join(format!("{number}.crt")), key: dir.join(format!("{number}.key")) };
    std::fs::write(&files.cert, cert).unwrap();
    std::fs::write(&files.key, key).unwrap();
    files
}

fn server_tls(mode: ClientTlsMode, identity: TlsIdentity, ca: Option<PathBuf>) -> ServerTls {
    ServerTls::build(&ClientTls { mode, identity: Some(identity), ca }).unwrap().unwrap()
}

fn backend_tls(mode: BackendTlsMode, ca: Option<PathBuf>, identity: Option<TlsIdentity>) -> BackendTls {
    BackendTls::build(&config::BackendTls { mode, ca, identity }).unwrap().unwrap()
}

type Pair = (server::TlsStream<DuplexStream>, client::TlsStream<DuplexStream>);

/// A handshake and one byte each way (TLS 1.3 sends tickets and refusals of client certificates only then).
async fn shake(server: &ServerTls, client: impl AsyncFnOnce(DuplexStream) -> ClientResult) -> Result<Pair, String> {
    let (left, right) = duplex(64 * 1024);
    let server = async {
        let mut stream = server.accept(left).await.map_err(|error| format!("server: {error}"))?;
        stream.write_all(b"s").await.and(stream.flush().await).map_err(|error| format!("server: {error}"))?;
        Ok::<_, String>(stream)
    };
    let client = async {
        let mut stream = client(right).await.map_err(|error| format!("client: {error}"))?;
        stream.read_u8().await.map_err(|error| format!("client: {error}"))?;
        Ok::<_, String>(stream)
    };
    let (server, client) = tokio::join!(server, client);
    match (server, client) {
        (Ok(server), Ok(client)) => Ok((server, client)),
        (server, client) => Err([server.err(), client.err()].into_iter().flatten().collect::<Vec<_>>().join("; ")),
    }
}

type ClientResult = std::io::Result<client::TlsStream<DuplexStream>>;

async fn shake_backend(server: &ServerTls, backend: &BackendTls, host: &str) -> Result<Pair, String> {
    shake(server, async |stream| backend.connect(host, stream).await).await
}

/// A client with these ALPN names, which trusts `authority`.
fn client(authority: &Authority, alpn: &[&[u8]]) -> TlsConnector {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.issuer.der().clone()).unwrap();
    let builder = ClientConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
    let mut config = builder.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}

#[tokio::test]
async fn alpn() {
    let authority = Authority::new();
    let server = server_tls(ClientTlsMode::Prefer, authority.sign("db", &["db"], 2100), None);
    let shake_with = async |alpn: &[&[u8]]| {
        let connector = client(&authority, alpn);
        shake(&server, async |stream| connector.connect(ServerName::try_from("db").unwrap(), stream).await).await
    };
    let (with, _) = shake_with(&[b"postgresql"]).await.unwrap();
    assert!(check_direct(with.get_ref().1).is_ok());
    let (without, _) = shake_with(&[]).await.unwrap();
    assert_eq!(check_direct(without.get_ref().1).unwrap_err().code.code(), "08P01");
    let error = shake_with(&[b"http/1.1"]).await.map(drop).unwrap_err();
    assert!(error.contains("no application protocol") || error.contains("NoApplicationProtocol"), "{error}");
}

#[tokio::test]
async fn backend_modes() {
    use BackendTlsMode::{Prefer, Require, VerifyCa, VerifyFull};
    let authority = Authority::new();
    let signed = authority.sign("db.example", &["db.example", "10.0.0.5"], 2100);
    let no_san = authority.sign("db.example", &[], 2100);
    let expired = authority.sign("db.example", &["db.example"], 2001);
    let own = authority.self_signed("db.example", &PKCS_ECDSA_P256_SHA256);
    let (ca, pinned, other) = (authority.ca(), Some(own.cert.clone()), Authority::new());
    // Mode, authorities, the server's certificate, host, what goes wrong.
    let table = [
        (Prefer, None, &own, "whatever", ""),
        (Require, None, &expired, "10.0.0.1", ""),
        (Require, None, &signed, "not a host name!", ""),
        (VerifyCa, ca.clone(), &signed, "elsewhere", ""),
        (VerifyCa, other.ca(), &signed, "db.example", "UnknownIssuer"),
        (VerifyCa, ca.clone(), &own, "db.example", "UnknownIssuer"),
        (VerifyCa, ca.clone(), &expired, "db.example", "expired"),
        (VerifyCa, pinned.clone(), &own, "elsewhere", ""),
        (VerifyFull, pinned.clone(), &own, "db.example", ""),
        (VerifyFull, pinned, &own, "elsewhere", "not valid for"),
        (VerifyFull, ca.clone(), &signed, "db.example", ""),
        (VerifyFull, ca.clone(), &signed, "10.0.0.5", ""),
        (VerifyFull, ca.clone(), &signed, "elsewhere", "not valid for"),
        (VerifyFull, ca.clone(), &signed, "10.0.0.6", "not valid for"),
        (VerifyFull, ca.clone(), &signed, "not a host name!", "invalid dns name"),
        (VerifyFull, ca.clone(), &no_san, "DB.example", ""),
        (VerifyFull, ca.clone(), &no_san, "elsewhere", "not valid for"),
        (VerifyFull, ca, &expired, "db.example", "expired"),
    ];
    for (number, (mode, ca, identity, host, expected)) in table.into_iter().enumerate() {
        let server = server_tls(ClientTlsMode::Prefer, identity.clone(), None);
        let result = shake_backend(&server, &backend_tls(mode, ca, None), host).await.map(drop);
        match result {
            Ok(()) => assert_eq!(expected, "", "row {number} should fail"),
            Err(error) => assert!(!expected.is_empty() && error.contains(expected), "row {number}: {error}"),
        }
    }
}

/// As the openssl of Debian 12 makes them from PostgreSQL's manual: no extensions, hence version 1.
const VERSION_1: &str = "-----BEGIN CERTIFICATE-----
MIHoMIGbAhQdE7yf1MyyxwTmSoFFVZ5k6ozn1zAFBgMrZXAwFjEUMBIGA1UEAwwL
b2xkLmV4YW1wbGUwIBcNMjYxMTIzMjEyNzMyWhgPMjEyNjEwMzAyMTI3MzJaMBYx
FDASBgNVBAMMC29sZC5leGFtcGxlMCowBQYDK2VwAyEAK1LvkFiDY4nd9VoluTkC
8T6M4H4BkoQ7NMjiDNo+p/EwBQYDK2VwA0EAWvGsdAAvOqwagDh2Zbve7HLWYt64
T7cq80dxeYi05AC/HP4TCuq3i2wQNeFgGydXDRYoB2qBSt/QE9SPwAyFDg==
-----END CERTIFICATE-----
";
/// Its key, made for this test and used for nothing else.
const VERSION_1_KEY: &str = "-----BEGIN PRIVATE KEY-----
MC4CAQAwBQYDK2VwBCIEIEKnW+wrAhbJh+MfteS9e7hLN8T2JbIEVghIMQRAiUkV
-----END PRIVATE KEY-----
";

#[tokio::test]
async fn a_version_1_certificate_is_enough_for_require() {
    let certificate = CertificateDer::from_pem_slice(VERSION_1.as_bytes()).unwrap();
    let key = PrivateKeyDer::from_pem_slice(VERSION_1_KEY.as_bytes()).unwrap();
    let shake_with = async |key: PrivateKeyDer<'static>, backend: BackendTls| {
        let key = provider().key_provider.load_private_key(key).unwrap();
        let resolver = SingleCertAndKey::from(CertifiedKey::new(vec![certificate.clone()], key));
        let builder = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let config = builder.with_no_client_auth().with_cert_resolver(Arc::new(resolver));
        let (left, right) = duplex(64 * 1024);
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let (_server, client) = tokio::join!(acceptor.accept(left), backend.connect("old.example", right));
        client.map(drop).map_err(|error| error.to_string())
    };
    let require = || backend_tls(BackendTlsMode::Require, None, None);
    assert_eq!(shake_with(key.clone_key(), require()).await, Ok(()));
    let stranger = PrivateKeyDer::try_from(KeyPair::generate_for(&PKCS_ED25519).unwrap().serialize_der()).unwrap();
    let error = shake_with(stranger, require()).await.unwrap_err();
    assert!(error.contains("BadSignature"), "the key must be the certificate's even so: {error}");

    let dir = tempfile::tempdir().unwrap();
    let files = write(dir.path(), VERSION_1, "");
    let result = shake_with(key, backend_tls(BackendTlsMode::VerifyFull, Some(files.cert), None)).await;
    // Its first day is that of its making, which a clock may not have reached; nothing else may be wrong.
    assert!(result.clone().map_or_else(|error| error.contains("not valid yet"), |()| true), "{result:?}");
}

#[tokio::test]
async fn client_certificates() {
    let (authority, other) = (Authority::new(), Authority::new());
    let alice = authority.sign("alice", &[], 2100);
    let table = [
        (ClientTlsMode::Require, None, "bob", ""),
        (ClientTlsMode::VerifyCa, None, "alice", "sent no certificates"),
        (ClientTlsMode::VerifyCa, Some(other.sign("alice", &[], 2100)), "alice", "UnknownIssuer"),
        (ClientTlsMode::VerifyCa, Some(authority.sign("alice", &[], 2001)), "alice", "expired"),
        (ClientTlsMode::VerifyCa, Some(alice.clone()), "bob", ""),
        (ClientTlsMode::VerifyFull, Some(alice.clone()), "alice", ""),
        (ClientTlsMode::VerifyFull, Some(alice), "bob", "certificate authentication failed for user \"bob\""),
    ];
    for (number, (mode, certificate, user, expected)) in table.into_iter().enumerate() {
        let server = server_tls(mode, authority.sign("db", &["db"], 2100), authority.ca());
        let backend = backend_tls(BackendTlsMode::Require, None, certificate);
        let result = match shake_backend(&server, &backend, "db").await {
            Ok((server_side, _)) => server.check_user(server_side.get_ref().1, user).map_err(|error| error.to_string()),
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => assert_eq!(expected, "", "row {number} should fail"),
            Err(error) => assert!(!expected.is_empty() && error.contains(expected), "row {number}: {error}"),
        }
    }
}

#[tokio::test]
async fn sessions_are_resumed() {
    let authority = Authority::new();
    let identity = authority.sign("db", &["db"], 2100);
    let server = server_tls(ClientTlsMode::Prefer, identity.clone(), None);
    let backend = backend_tls(BackendTlsMode::VerifyFull, authority.ca(), None);
    for expected in [HandshakeKind::Full, HandshakeKind::Resumed, HandshakeKind::Resumed] {
        let (server_side, client_side) = shake_backend(&server, &backend, "db").await.unwrap();
        assert_eq!(server_side.get_ref().1.handshake_kind(), Some(expected));
        assert_eq!(client_side.get_ref().1.handshake_kind(), Some(expected));
    }
    // After a reload the tickets' keys are new: a full handshake, not a failure.
    let reloaded = server_tls(ClientTlsMode::Prefer, identity, None);
    let (server_side, _) = shake_backend(&reloaded, &backend, "db").await.unwrap();
    assert_eq!(server_side.get_ref().1.handshake_kind(), Some(HandshakeKind::Full));
}

#[tokio::test]
async fn both_ends_agree_on_the_channel_binding() {
    use ::aws_lc_rs::digest::{SHA256, SHA384, digest};
    let authority = Authority::new();
    let table =
        [(&PKCS_ECDSA_P256_SHA256, Some(&SHA256)), (&PKCS_ECDSA_P384_SHA384, Some(&SHA384)), (&PKCS_ED25519, None)];
    for (algorithm, hash) in table {
        let identity = authority.self_signed("db", algorithm);
        let der = CertificateDer::from_pem_file(&identity.cert).unwrap();
        let expected = hash.map(|hash| digest(hash, &der).as_ref().to_vec());
        let server = server_tls(ClientTlsMode::Prefer, identity, None);
        assert_eq!(server.end_point().map(<[u8]>::to_vec), expected);
        let backend = backend_tls(BackendTlsMode::Require, None, None);
        let (_, client_side) = shake_backend(&server, &backend, "db").await.unwrap();
        assert_eq!(peer_end_point(client_side.get_ref().1), expected);
    }
    assert_eq!(end_point(b"no certificate"), None);
}

#[test]
fn what_cannot_be_built_says_why() {
    let authority = Authority::new();
    let identity = authority.sign("db", &["db"], 2100);
    let build = |mode, identity, ca| ServerTls::build(&ClientTls { mode, identity, ca }).map(|built| built.is_some());
    assert!(!build(ClientTlsMode::Disable, None, None).unwrap());
    assert!(matches!(build(ClientTlsMode::Require, None, None), Err(TlsError::NoIdentity)));
    assert!(matches!(build(ClientTlsMode::VerifyCa, Some(identity.clone()), None), Err(TlsError::NoAuthority)));
    let swapped = TlsIdentity { cert: identity.key.clone(), key: identity.cert.clone() };
    assert!(matches!(build(ClientTlsMode::Require, Some(swapped), None), Err(TlsError::Pem(_))));
    let expired = authority.sign("db", &["db"], 2001);
    assert!(server_tls(ClientTlsMode::Prefer, expired, None).warnings().iter().any(|w| w.contains("expired")));

    let build = |mode, ca| BackendTls::build(&config::BackendTls { mode, ca, identity: None }).map(|b| b.is_some());
    assert!(!build(BackendTlsMode::Disable, None).unwrap());
    let missing = Some(authority.dir.path().join("missing.crt"));
    assert!(build(BackendTlsMode::VerifyCa, missing).unwrap_err().to_string().contains("missing.crt"));
}

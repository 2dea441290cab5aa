//! TLS on both sides: modes, direct start, client certificates, channel binding, reload, bytes behind an SSLRequest.

mod common;

use std::fs;
use std::path::Path;

use common::*;
use tempfile::TempDir;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A cluster, an authority, and a directory with `server.crt` and `server.key` made by it.
fn setup() -> Result<(Cluster, Authority, TempDir)> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("authority")?;
    authority.write(dir.path(), "server")?;
    fs::write(dir.path().join("ca.crt"), authority.pem())?;
    Ok((Cluster::start()?, authority, dir))
}

fn client_tls(dir: &Path, mode: &str) -> String {
    let (cert, key) = (dir.join("server.crt"), dir.join("server.key"));
    format!("client_tls = \"{mode}\"\nclient_tls_cert = {cert:?}\nclient_tls_key = {key:?}")
}

#[test]
fn modes_towards_clients() -> Result {
    let (cluster, authority, dir) = setup()?;
    let tls = authority.client(None, false)?;
    for (mode, plain, secure) in [("allow", true, true), ("prefer", true, true), ("require", false, true)] {
        let proxy = Config::of(&cluster).top(&client_tls(dir.path(), mode)).start()?;
        assert_eq!(proxy.target().login()?.is_ok(), plain, "{mode}, plain");
        assert_eq!(proxy.target().tls(tls.clone()).connect()?.value("select 1")? == "1", secure, "{mode}, TLS");
        if !plain {
            let error = proxy.target().refusal()?;
            assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28000"));
            assert!(error.message.contains("TLS") || error.message.contains("SSL"), "{error:?}");
        }
    }
    let proxy = Config::of(&cluster).start()?;
    assert!(proxy.target().tls(tls).login().is_err(), "without a certificate the answer is N");
    Ok(())
}

#[test]
fn direct_tls() -> Result {
    let (cluster, authority, dir) = setup()?;
    let proxy = Config::of(&cluster).top(&client_tls(dir.path(), "require")).start()?;
    let target = proxy.target().tls(authority.client(None, true)?);
    let mut client = target.connect()?;
    assert_eq!(client.value("select 1")?, "1");
    client.say(&Say::new().query("select pg_sleep(60)"))?;
    eventually("it sleeps", || {
        Ok(cluster
            .sql("select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'")?
            == "1")
    })?;
    client.cancel()?;
    assert_eq!(client.read_ready(1)?.error().code, "57014");
    Ok(())
}

#[test]
fn direct_tls_needs_the_right_alpn() -> Result {
    let (cluster, authority, dir) = setup()?;
    let proxy = Config::of(&cluster).top(&client_tls(dir.path(), "require")).start()?;
    let mut config = (*authority.client(None, true)?).clone();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    assert!(proxy.target().tls(config.into()).login().is_err());
    assert_eq!(proxy.target().tls(authority.client(None, false)?).connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn channel_binding() -> Result {
    let (cluster, authority, dir) = setup()?;
    let proxy = Config::of(&cluster).top(&client_tls(dir.path(), "require")).start()?;
    let optional = Config::of(&cluster).top(&client_tls(dir.path(), "allow")).start()?;
    let mut target = proxy.target().tls(authority.client(None, false)?);
    let pem = fs::read(dir.path().join("server.crt"))?;
    let (_, pem) = x509_parser::pem::parse_x509_pem(&pem)?;
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, &pem.contents);
    target.binding = Some(hash.as_ref().to_vec());
    assert_eq!(target.connect()?.value("select 1")?, "1");
    // A man in the middle has another certificate.
    target.binding = Some(vec![7; 32]);
    assert!(target.login()?.is_err());
    // It is offered over TLS only.
    for (target, offered) in [(&target, true), (&optional.target(), false)] {
        let mut wire = Wire::open(target)?;
        wire.send(&startup(0x0003_0000, &[("user", APP), ("database", APP)]))?;
        let body = wire.read()?.body;
        assert_eq!(body.windows(18).any(|part| part == b"SCRAM-SHA-256-PLUS"), offered);
    }
    Ok(())
}

#[test]
fn client_certificates() -> Result {
    let (cluster, authority, dir) = setup()?;
    let stranger = Authority::new("stranger")?;
    let ca = format!("client_tls_ca = {:?}", dir.path().join("ca.crt"));
    let (app, other) = (authority.sign(APP, &[])?, authority.sign("other", &[])?);
    let forged = stranger.sign(APP, &[])?;
    for (mode, other_passes) in [("verify-ca", true), ("verify-full", false)] {
        let proxy = Config::of(&cluster).top(&client_tls(dir.path(), mode)).top(&ca).start()?;
        let login = |identity| -> Result<bool> {
            let target = proxy.target().tls(authority.client(identity, false)?);
            Ok(matches!(target.login(), Ok(Ok(_))))
        };
        assert!(login(Some(&app))?, "{mode}");
        assert!(!login(None)?, "{mode}: without a certificate");
        assert!(!login(Some(&forged))?, "{mode}: signed by a stranger");
        assert_eq!(login(Some(&other))?, other_passes, "{mode}: somebody else's name");
        assert!(proxy.target().login()?.is_err(), "{mode}: without TLS");
    }
    Ok(())
}

#[test]
fn bytes_behind_an_ssl_request_end_the_connection() -> Result {
    let (cluster, _authority, dir) = setup()?;
    let proxy = Config::of(&cluster).top(&client_tls(dir.path(), "allow")).start()?;
    let mut client = Wire::open(&proxy.target())?;
    let packet = startup(0x0003_0000, &[("user", APP), ("database", APP)]);
    client.send(&[&SSL_REQUEST, &packet[..]].concat())?;
    // CVE-2021-3935: nothing of what came in the clear may count as said inside of TLS.
    let mut answer = Vec::new();
    let mut byte = [0];
    while client.read_exact(&mut byte).is_ok() {
        answer.push(byte[0]);
    }
    assert!(!answer.contains(&b'R'), "the login went on: {}", answer.escape_ascii());
    Ok(())
}

#[test]
fn a_plain_startup_packet_into_a_tls_handshake_is_refused() -> Result {
    let (cluster, authority, dir) = setup()?;
    let proxy = Config::of(&cluster).top(&client_tls(dir.path(), "allow")).start()?;
    let mut client = Wire::open(&proxy.target())?;
    client.send(&SSL_REQUEST)?;
    client.read_exact(&mut [0])?;
    client.send(&startup(0x0003_0000, &[("user", APP), ("database", APP)]))?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while client.read_exact(&mut byte).is_ok() {
        answer.push(byte[0]);
    }
    assert_ne!(answer.first(), Some(&b'R'));
    assert_eq!(proxy.target().tls(authority.client(None, false)?).connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn sessions_are_resumed() -> Result {
    let (cluster, authority, dir) = setup()?;
    let proxy = Config::of(&cluster).top(&client_tls(dir.path(), "require")).start()?;
    let target = proxy.target().tls(authority.client(None, false)?);
    let mut first = target.connect()?;
    // Tickets come behind the handshake, with the first bytes that are read.
    assert_eq!(first.value("select 1")?, "1");
    let mut second = target.connect()?;
    assert_eq!(second.handshake(), Some(rustls::HandshakeKind::Resumed));
    assert_eq!(second.value("select 1")?, "1");
    Ok(())
}

#[test]
fn certificates_are_reloaded() -> Result {
    let (cluster, authority, dir) = setup()?;
    let config = Config::of(&cluster).top(&client_tls(dir.path(), "require"));
    let proxy = config.start()?;
    let mut before = proxy.target().tls(authority.client(None, false)?).connect()?;
    let successor = Authority::new("successor")?;
    successor.write(dir.path(), "server")?;
    proxy.reload(&config)?;
    let target = proxy.target().tls(successor.client(None, false)?);
    eventually("the new certificate is shown", || Ok(matches!(target.login(), Ok(Ok(_)))))?;
    assert!(proxy.target().tls(authority.client(None, false)?).login().is_err(), "the old one is not");
    assert_eq!(before.value("select 'still here'")?, "still here");
    Ok(())
}

/// A cluster whose certificate is signed by an authority, in a directory.
fn tls_cluster(hosts: &[&str], hba: &str) -> Result<(Cluster, Authority, TempDir)> {
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("database authority")?;
    let (cert, key) = authority.sign("database", hosts)?;
    fs::write(dir.path().join("ca.crt"), authority.pem())?;
    fs::write(dir.path().join("wrong.crt"), Authority::new("stranger")?.pem())?;
    let files = vec![("server.crt", cert), ("server.key", key), ("root.crt", authority.pem().to_owned())];
    let conf = "ssl = on\nssl_ca_file = 'root.crt'\n".into();
    let cluster = Cluster::with(Settings { conf, hba: hba.into(), files, bin: None })?;
    Ok((cluster, authority, dir))
}

const IS_TLS: &str = "select ssl from pg_stat_ssl where pid = pg_backend_pid()";

#[test]
fn modes_towards_postgresql() -> Result {
    let (cluster, _authority, dir) = tls_cluster(&["127.0.0.1"], "")?;
    let (ca, wrong) = (dir.path().join("ca.crt"), dir.path().join("wrong.crt"));
    let ca = format!("\ntls_ca = {ca:?}");
    let wrong = format!("\ntls_ca = {wrong:?}");
    for (mode, ca, expected) in [
        ("disable", "", Some("f")),
        ("allow", "", Some("f")),
        ("prefer", "", Some("t")),
        ("require", "", Some("t")),
        ("verify-ca", &ca, Some("t")),
        ("verify-full", &ca, Some("t")),
        ("verify-ca", &wrong, None),
        ("verify-full", &wrong, None),
    ] {
        let proxy = Config::of(&cluster).database(&format!("tls = \"{mode}\"{ca}")).start()?;
        let got = match proxy.target().login()? {
            Ok(mut client) => client.query(IS_TLS)?,
            Err(_) => Answer::default(),
        };
        let got = got.rows().into_iter().next().and_then(|row| row.into_iter().next().flatten());
        assert_eq!(got.as_deref(), expected, "{mode}{ca}");
    }
    Ok(())
}

#[test]
fn verify_full_looks_at_the_host_name() -> Result {
    let (cluster, _authority, dir) = tls_cluster(&["db.example"], "")?;
    let ca = format!("\ntls_ca = {:?}", dir.path().join("ca.crt"));
    let proxy = Config::of(&cluster).database(&format!("tls = \"verify-ca\"{ca}")).start()?;
    assert_eq!(proxy.target().connect()?.value(IS_TLS)?, "t");
    drop(proxy);
    let proxy = Config::of(&cluster).database(&format!("tls = \"verify-full\"{ca}")).start()?;
    let error = proxy.target().first_error()?;
    assert!(error.code.starts_with("08"), "{error:?}");
    assert!(format!("{error:?}").contains("certificate"), "says why: {error:?}");
    Ok(())
}

#[test]
fn a_server_that_insists_on_tls_or_on_none() -> Result {
    let (cluster, ..) = tls_cluster(&["127.0.0.1"], "hostnossl all all 127.0.0.1/32 reject\n")?;
    for (mode, works) in [("disable", false), ("allow", true), ("prefer", true)] {
        let proxy = Config::of(&cluster).database(&format!("tls = \"{mode}\"")).start()?;
        let got = match proxy.target().login()? {
            Ok(mut client) => client.query(IS_TLS)?.rows().len() == 1,
            Err(_) => false,
        };
        assert_eq!(got, works, "{mode}");
    }
    let plain = Cluster::start()?;
    for (mode, works) in [("prefer", true), ("require", false)] {
        let proxy = Config::of(&plain).database(&format!("tls = \"{mode}\"")).start()?;
        let got = match proxy.target().login()? {
            Ok(mut client) => client.query("select 1")?.rows().len() == 1,
            Err(_) => false,
        };
        assert_eq!(got, works, "{mode}, server without TLS");
    }
    Ok(())
}

/// A config in which the proxy shows a certificate of this identity to the server.
fn identified(cluster: &Cluster, dir: &Path, (cert, key): &(String, String)) -> Result<Config> {
    let (cert_path, key_path) = (dir.join("backend.crt"), dir.join("backend.key"));
    fs::write(&cert_path, cert)?;
    fs::write(&key_path, key)?;
    Ok(Config::of(cluster).database(&format!("tls = \"require\"\ntls_cert = {cert_path:?}\ntls_key = {key_path:?}")))
}

#[test]
fn a_certificate_instead_of_a_password_towards_postgresql() -> Result {
    let (cluster, authority, dir) = tls_cluster(&["127.0.0.1"], "hostssl all app 127.0.0.1/32 cert\n")?;
    let proxy = identified(&cluster, dir.path(), &authority.sign(APP, &[])?)?.start()?;
    assert_eq!(proxy.target().connect()?.value("select current_user")?, "app");
    assert!(cluster.log().contains("identity=\"CN=app\" method=cert"));
    drop(proxy);
    let proxy = identified(&cluster, dir.path(), &authority.sign("other", &[])?)?.start()?;
    let error = proxy.target().first_error()?;
    assert_eq!(error.code, "28000", "PostgreSQL's own words: {error:?}");
    drop(proxy);
    let proxy = Config::of(&cluster).database("tls = \"require\"").start()?;
    assert_eq!(proxy.target().first_error()?.code, "28000");
    Ok(())
}

#[test]
fn the_servers_authority_is_reloaded() -> Result {
    let (cluster, authority, dir) = tls_cluster(&["127.0.0.1"], "")?;
    let ca = dir.path().join("ca.crt");
    let config = Config::of(&cluster).top("pool_size = 3\nborrow_timeout = \"1s\"");
    let config = config.database(&format!("tls = \"verify-full\"\ntls_ca = {ca:?}"));
    let proxy = config.start()?;
    let mut holder = proxy.target().connect()?;
    holder.hold()?;
    // While that one is lent, everybody else needs a new one.
    let needs_new = |expected: &str| {
        eventually(&format!("new backends meet {expected:?}"), || {
            cluster.sql(
                "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app' and state = 'idle'",
            )?;
            Ok(proxy.target().first_error()?.code == expected)
        })
    };
    fs::copy(dir.path().join("wrong.crt"), &ca)?;
    assert_eq!(proxy.target().first_error()?.code, "", "not before SIGHUP");
    proxy.reload(&config)?;
    needs_new("08001")?;
    assert_eq!(holder.value("select 'still here'")?, "still here");
    fs::write(&ca, authority.pem())?;
    proxy.reload(&config)?;
    needs_new("")?;
    assert_eq!(holder.value("select 'still here'")?, "still here");
    Ok(())
}

#[test]
fn bytes_behind_the_servers_s_end_the_connection() -> Result {
    let fake = Fake::play(|conversation| {
        use std::io::{Read, Write};
        conversation.stream.read_exact(&mut [0; 8])?;
        // A man in the middle appends his own plain-text greeting to the S.
        conversation.stream.write_all(&[b"S", reply::welcome().bytes()].concat())?;
        std::thread::sleep(std::time::Duration::from_secs(2));
        Ok(())
    })?;
    let proxy = Config::port(fake.port()).database("tls = \"require\"").top("borrow_timeout = \"3s\"").start()?;
    let error = proxy.target().first_error()?;
    assert!(!error.code.is_empty(), "not answered as if all were well");
    Ok(())
}

//! PROXY protocol v2: accepted only from configured addresses, so that logs see the real client.

mod common;

use std::net::{IpAddr, UdpSocket};

use common::*;

/// A v2 header: the real client is 203.0.113.9:4711, over IPv4.
fn header() -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    header.extend([203, 0, 113, 9, 127, 0, 0, 1]);
    header.extend(4711_u16.to_be_bytes());
    header.extend(6432_u16.to_be_bytes());
    header
}

fn target(proxy: &Proxy, preamble: &[u8]) -> Target {
    Target { preamble: preamble.to_vec(), ..proxy.target() }
}

#[test]
fn the_real_client_is_logged() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("proxy_protocol_from = [\"127.0.0.0/8\"]\nlog_connections = true").start()?;
    assert_eq!(target(&proxy, &header()).connect()?.value("select 1")?, "1");
    proxy.wait_log("203.0.113.9")?;
    Ok(())
}

#[test]
fn a_header_is_needed_where_it_is_configured() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("proxy_protocol_from = [\"127.0.0.0/8\"]").start()?;
    // They are told as PostgreSQL would, which clients understand at any point of a login.
    for (first, told) in [
        (&startup(0x0003_0000, &[("user", APP)])[..], "does not begin with"),
        (&[0, 0, 0, 8, 4, 210, 22, 47], "does not begin with"),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", "version 1"),
    ] {
        let error = Wire::open(&target(&proxy, first))?.read_to_close()?.error();
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "08P01"));
        assert!(error.message.contains(told) && error.hint.contains("proxy_protocol_from"), "{error:?}");
    }
    assert_eq!(target(&proxy, &header()).connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn a_header_from_anybody_else_is_refused() -> Result {
    let cluster = Cluster::start()?;
    for top in ["", "proxy_protocol_from = [\"10.0.0.0/8\"]\nlog_connections = true"] {
        let proxy = Config::of(&cluster).top(top).start()?;
        assert!(!matches!(target(&proxy, &header()).login(), Ok(Ok(_))));
        assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
        assert!(!proxy.log().contains("203.0.113.9"), "a stranger's word");
    }
    Ok(())
}

#[test]
fn who_comes_from_elsewhere_by_a_local_load_balancer_is_not_local() -> Result {
    let cluster = Cluster::start()?;
    let any = "proxy_protocol_from = [\"127.0.0.0/8\"]\nauth = \"cleartext\"";
    let proxy = Config::of(&cluster).top(any).start()?;
    let refused = target(&proxy, &header()).refusal()?;
    assert_eq!(refused.code, "28000");
    assert!(refused.message.contains("only accepted over TLS"), "{refused:?}");
    // A health check of the balancer itself is.
    assert_eq!(target(&proxy, b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0").connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn a_load_balancer_elsewhere_makes_nobody_local() -> Result {
    // An address of this machine that is not loopback: nothing is sent, but a route is chosen.
    let routed = UdpSocket::bind("0.0.0.0:0")?;
    if routed.connect("192.0.2.1:9").is_err() {
        // Without a network there is no elsewhere.
        return Ok(());
    }
    let elsewhere = routed.local_addr()?.ip();
    let cluster = Cluster::start()?;
    let port = Port::reserve()?.addr().port();
    let any = format!("proxy_protocol_from = [\"{elsewhere}\"]\nauth = \"cleartext\"");
    let proxy =
        Config::of(&cluster).listen(&format!("[\"{elsewhere}:{port}\", \"127.0.0.1:{port}\"]")).top(&any).start()?;
    // The client is at 127.0.0.1, as this one says.
    let mut header = header();
    header.splice(16..20, [127, 0, 0, 1]);
    let at = |ip: IpAddr, preamble: &[u8]| Target { addr: Addr::Tcp((ip, port).into()), ..target(&proxy, preamble) };
    let refused = at(elsewhere, &header).refusal()?;
    assert_eq!(refused.code, "28000");
    assert!(refused.message.contains("only accepted over TLS"), "{refused:?}");
    assert_eq!(at([127, 0, 0, 1].into(), b"").connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn odd_headers() -> Result {
    let cluster = Cluster::start()?;
    let proxy =
        Config::of(&cluster).top("proxy_protocol_from = [\"127.0.0.0/8\"]\nclient_login_timeout = \"2s\"").start()?;
    // LOCAL (a health check of the load balancer itself) and additional fields are fine.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    assert_eq!(target(&proxy, local).connect()?.value("select 1")?, "1");
    let mut fields = header();
    fields[15] = 0x0c + 7;
    fields.extend([0xea, 0, 4, 1, 2, 3, 4]);
    assert_eq!(target(&proxy, &fields).connect()?.value("select 1")?, "1");
    // These are not: a wrong version, an overlong header, one that is too short for its family.
    let mut version = header();
    version[12] = 0x31;
    let mut long = header();
    (long[14], long[15]) = (0xff, 0xff);
    let mut short = header();
    short[15] = 3;
    for bad in [version, long, short] {
        assert!(!matches!(target(&proxy, &bad).login(), Ok(Ok(_))), "{}", bad.escape_ascii());
    }
    assert_eq!(target(&proxy, &header()).connect()?.value("select 1")?, "1");
    Ok(())
}

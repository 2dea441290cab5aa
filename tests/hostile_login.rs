//! Malformed and hostile clients before their login: each is answered or closed, soon, and nobody gets in.

mod common;

use common::*;

fn setup() -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value("create table t (a int)")?;
    let proxy = Config::of(&cluster).top("pool_size = 2\nclient_login_timeout = \"2s\"").start()?;
    Ok((cluster, proxy))
}

/// Sends bytes instead of a login; what the server says until it closes, which it must.
fn before_login(proxy: &Proxy, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut client = Wire::open(&proxy.target())?;
    // The server may close before all has been sent.
    let _ = client.send(bytes);
    let mut answer = Vec::new();
    let mut byte = [0];
    loop {
        match client.read_exact(&mut byte) {
            Ok(()) => answer.push(byte[0]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                return Err(format!("neither answered nor closed: {}", bytes.escape_ascii()).into());
            }
            Err(_) => return Ok(answer),
        }
        assert!(answer.len() < 1 << 20);
    }
}

#[test]
fn startup_packets() -> Result {
    let (cluster, mut proxy) = setup()?;
    let good = startup(0x0003_0000, &[("user", APP), ("database", APP)]);
    let mut cases: Vec<Vec<u8>> = Vec::new();
    for length in LENGTHS.into_iter().chain([4, 7, 8, 9, 10_001, 100_000]) {
        let mut packet = good.to_vec();
        packet[..4].copy_from_slice(&length.to_be_bytes());
        cases.push(packet);
    }
    // Missing terminators, odd numbers of strings, an empty name, names without values.
    let body =
        |body: &[u8]| [&u32::try_from(body.len() + 8).unwrap_or_default().to_be_bytes(), &[0, 3, 0, 0], body].concat();
    for text in [
        &b""[..],
        b"\0",
        b"user",
        b"user\0",
        b"user\0app",
        b"user\0app\0",
        b"user\0app\0database",
        b"\0\0user\0app\0\0",
        b"user\0\0\0",
        b"user\0app\0user\0app\0\0",
        b"user\0app\0database\0app\0\0trailing",
        b"user\0\xff\xfe\0\0",
    ] {
        cases.push(body(text));
    }
    cases.push(body(&[b"user\0app\0options\0".to_vec(), vec![b'x'; 9000], b"\0\0".to_vec()].concat()));
    // A password, a query, HTTP, SSH, TLS before any startup packet.
    cases.push(Say::new().raw(b'p', b"secret\0").bytes().to_vec());
    cases.push(Say::new().query("select 1").bytes().to_vec());
    cases.push(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec());
    cases.push(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec());
    cases.push(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec());
    cases.push(cancel_request(1, &[0; 4])[..10].to_vec());
    cases.push(cancel_request(1, &[0; 300]).to_vec());
    cases.push(cancel_request(1, &[0; 9000]).to_vec());
    let memory = proxy.memory()?;
    // All at once: most of them only end with the login timeout.
    crowd(cases.len(), |number| {
        let answer = before_login(&proxy, &cases[number])?;
        assert!(
            answer.is_empty() || matches!(answer[0], b'E' | b'R' | b'N' | 0x15),
            "{number}: {}",
            answer.escape_ascii()
        );
        Ok(())
    })?;
    unharmed(&cluster, &mut proxy, memory)
}

#[test]
fn truncated_at_every_byte() -> Result {
    let (cluster, mut proxy) = setup()?;
    let packet = startup(0x0003_0000, &[("user", APP), ("database", APP)]);
    let memory = proxy.memory()?;
    for end in 0..packet.len() {
        let mut client = Wire::open(&proxy.target())?;
        client.send(&packet[..end])?;
        client.half_close()?;
        client.read_to_close()?;
    }
    unharmed(&cluster, &mut proxy, memory)
}

#[test]
fn messages_instead_of_a_password() -> Result {
    let (cluster, mut proxy) = setup()?;
    let memory = proxy.memory()?;
    let sasl =
        |mechanism: &str, length: i32, data: &[u8]| [mechanism.as_bytes(), b"\0", &length.to_be_bytes(), data].concat();
    let mut cases = vec![
        Say::new().query("select 1"),
        Say::new().sync(),
        Say::new().terminate(),
        Say::new().raw(b'p', b""),
        Say::new().raw(b'p', b"no terminator"),
        Say::new().raw(b'p', PASSWORD.as_bytes()),
        Say::new().raw(b'p', &sasl("SCRAM-SHA-1", 4, b"abcd")),
        Say::new().raw(b'p', &sasl("SCRAM-SHA-256-PLUS", 4, b"p=tls-server-end-point,,n=,r=x")),
        Say::new().raw(b'p', &sasl("SCRAM-SHA-256", -1, b"")),
        Say::new().raw(b'p', &sasl("SCRAM-SHA-256", i32::MAX, b"n,,n=,r=abc")),
        Say::new().raw(b'p', &sasl("SCRAM-SHA-256", 5, b"n,,n=,r=abc")),
        Say::new().raw(b'p', &sasl("SCRAM-SHA-256", 7, b"n,,n=,r")),
        Say::new().raw(b'p', &sasl("SCRAM-SHA-256", 3, b"\xff\xfe\xfd")),
        Say::new().raw(b'p', &[sasl("SCRAM-SHA-256", 2000, b"n,,n=,r="), vec![b'x'; 1992]].concat()),
        Say::new().raw(b'p', &vec![b'x'; 100_000]),
        // A proof of nothing.
        Say::new().raw(b'p', &sasl("SCRAM-SHA-256", 11, b"n,,n=,r=abc")).raw(b'p', b"c=biws,r=abc,p=AAAA"),
        Say::new().raw(b'p', &sasl("SCRAM-SHA-256", 11, b"n,,n=,r=abc")).raw(b'p', b""),
        Say::new().raw(b'p', &sasl("SCRAM-SHA-256", 11, b"n,,n=,r=abc")).raw(b'p', b"c=biws"),
    ];
    cases.extend(LENGTHS.map(|length| Say::new().raw_length(b'p', length, b"SCRAM-SHA-256\0")));
    let hello = startup(0x0003_0000, &[("user", APP), ("database", APP)]);
    crowd(cases.len(), |number| {
        let answer = before_login(&proxy, &[&hello[..], cases[number].bytes()].concat())?;
        // AuthenticationOk (R, length 8, 0) never.
        assert!(!answer.windows(9).any(|part| part == b"R\0\0\0\x08\0\0\0\0"), "{number}: let in");
        Ok(())
    })?;
    unharmed(&cluster, &mut proxy, memory)
}

#[test]
fn a_thousand_silent_connections() -> Result {
    let (cluster, mut proxy) = setup()?;
    let _warm = proxy.target().connect()?.value("select 1")?;
    let silent: Vec<_> = (0..1000).map(|_| Wire::open(&proxy.target())).collect::<Result<_>>()?;
    assert_eq!(proxy.target().connect()?.value("select 'served'")?, "served");
    drop(silent);
    let memory = proxy.memory()?;
    unharmed(&cluster, &mut proxy, memory)
}

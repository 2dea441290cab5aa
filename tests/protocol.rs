//! Startup packets of every kind: protocol versions, unknown options, TLS and GSS requests, refusals.

mod common;

use std::time::Duration;

use common::*;

const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];
const GSS_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 48];

fn setup() -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    Ok((cluster, proxy))
}

/// The body of NegotiateProtocolVersion: newest minor version, and the options not understood.
fn negotiated(wire: &Wire) -> Option<(i32, Vec<String>)> {
    let body = wire.negotiated.as_ref()?;
    let (version, rest) = body.split_first_chunk()?;
    let (_count, names) = rest.split_first_chunk::<4>()?;
    let names = names.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let names = names.map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    Some((i32::from_be_bytes(*version), names))
}

#[test]
fn protocol_3_0() -> Result {
    let (cluster, proxy) = setup()?;
    let (direct, mut client) = (cluster.target().connect()?, proxy.target().connect()?);
    assert!(client.negotiated.is_none());
    assert_eq!(client.key.1.len(), 4, "a 3.0 client knows only keys of four bytes");
    assert_eq!(client.value("select 1")?, "1");
    for name in direct.parameters.keys() {
        assert_eq!(client.parameters.get(name), direct.parameters.get(name), "{name}");
    }
    Ok(())
}

#[test]
fn protocol_3_2_is_agreed_or_negotiated_down() -> Result {
    let (_cluster, proxy) = setup()?;
    let mut client = proxy.target().version(0x0003_0002).connect()?;
    assert!(client.negotiated.is_none(), "3.2 is spoken as it is");
    assert!((4..=256).contains(&client.key.1.len()), "a key of 4 to 256 bytes");
    assert_eq!(client.value("select 1")?, "1");
    let client = proxy.target().version(0x0003_0009).connect()?;
    assert_eq!(negotiated(&client), Some((0x0003_0002, vec![])), "the newest that is known");
    Ok(())
}

#[test]
fn unknown_protocol_options_are_listed() -> Result {
    let (_cluster, proxy) = setup()?;
    let target = proxy.target().parameter("_pq_.one", "1").parameter("_pq_.two", "").parameter("application_name", "x");
    for version in [0x0003_0000, 0x0003_0002] {
        let mut client = target.version(version).connect()?;
        let (_, names) = negotiated(&client).ok_or("no NegotiateProtocolVersion")?;
        assert_eq!(names, ["_pq_.one", "_pq_.two"]);
        assert_eq!(client.value("show application_name")?, "x");
    }
    Ok(())
}

#[test]
fn other_major_versions_are_refused() -> Result {
    let (_cluster, proxy) = setup()?;
    for version in [0x0004_0000, 0x04d2_0000, 0x7fff_ffff] {
        let fields = proxy.target().version(version).refusal()?;
        assert_eq!((fields.severity.as_str(), fields.code.as_str()), ("FATAL", "0A000"), "{version:#x}");
    }
    // Clients of protocol 2 expect an error of another form; it begins with the same letter.
    for version in [0, 0x0002_0000, -1] {
        let mut client = Wire::open(&proxy.target())?;
        client.send(&startup(version, &[("user", APP)]))?;
        let mut first = [0];
        client.read_exact(&mut first)?;
        assert_eq!(&first, b"E", "{version:#x}");
    }
    Ok(())
}

#[test]
fn encryption_requests_are_answered_once_each() -> Result {
    let (_cluster, proxy) = setup()?;
    let mut client = Wire::open(&proxy.target())?;
    let mut answer = [0];
    for request in [GSS_REQUEST, SSL_REQUEST] {
        client.send(&request)?;
        client.read_exact(&mut answer)?;
        assert_eq!(&answer, b"N");
    }
    // The login goes on as usual.
    client.send(&startup(0x0003_0000, &[("user", APP), ("database", APP)]))?;
    assert_eq!(client.read()?.tag, b'R');
    Ok(())
}

#[test]
fn encryption_requests_do_not_go_on_for_ever() -> Result {
    let (_cluster, proxy) = setup()?;
    let mut client = Wire::open(&proxy.target())?;
    let mut answered = 0;
    for _ in 0..100 {
        if client.send(&SSL_REQUEST).is_err() {
            break;
        }
        let mut answer = [0];
        match client.read_exact(&mut answer) {
            Ok(()) if answer == *b"N" => answered += 1,
            _ => break,
        }
    }
    assert!(answered < 100, "PostgreSQL answers one of each");
    Ok(())
}

#[test]
fn a_startup_packet_without_user_is_refused() -> Result {
    let (_cluster, proxy) = setup()?;
    let mut client = Wire::open(&proxy.target())?;
    client.send(&startup(0x0003_0000, &[("database", APP)]))?;
    let error = client.read_to_close()?.error();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "28000"));
    Ok(())
}

#[test]
fn the_database_defaults_to_the_user_name() -> Result {
    let (_cluster, proxy) = setup()?;
    let mut client = Wire::open(&proxy.target())?;
    client.send(&startup(0x0003_0000, &[("user", APP)]))?;
    assert_eq!(client.read()?.tag, b'R', "asked for a password, not refused");
    Ok(())
}

#[test]
fn an_unknown_database_is_named() -> Result {
    let (_cluster, proxy) = setup()?;
    let error = proxy.target().database("nowhere").refusal()?;
    assert_eq!(error.code, "3D000");
    assert!(error.message.contains("nowhere"), "{error:?}");
    Ok(())
}

#[test]
fn a_replication_connection_works_or_is_refused_clearly() -> Result {
    let cluster = Cluster::conf("wal_level = replica\nmax_wal_senders = 2\n")?;
    cluster.sql("alter role app replication")?;
    let proxy = Config::of(&cluster).start()?;
    match proxy.target().parameter("replication", "database").login()? {
        Ok(mut client) => {
            let answer = client.query("IDENTIFY_SYSTEM")?;
            assert_eq!(answer.tags(), "TDCZ");
        }
        Err(error) => {
            assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "0A000"));
            assert!(error.message.contains("replication"), "{error:?}");
        }
    }
    // A false value asks for an ordinary connection.
    assert_eq!(proxy.target().parameter("replication", "off").connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn terminate_is_obeyed_at_once() -> Result {
    let (_cluster, proxy) = setup()?;
    let mut client = proxy.target().connect()?;
    client.say(&Say::new().terminate())?;
    assert!(client.read_to_close()?.0.is_empty());
    Ok(())
}

#[test]
fn clients_come_over_a_unix_socket_too() -> Result {
    let cluster = Cluster::start()?;
    let dir = tempfile::tempdir()?;
    let (port, socket) = (Port::reserve()?, dir.path().join(".s.PGSQL.6432"));
    let listen = format!("[\"{}\", {socket:?}]", port.addr());
    let mut proxy = Config::of(&cluster).listen(&listen).start()?;
    let tcp = Target { addr: Addr::Tcp(port.addr()), ..proxy.target() };
    let unix = Target { addr: Addr::Unix(socket.clone()), ..proxy.target() };
    assert_eq!(tcp.connect()?.value("select 1")?, "1");
    let mut client = unix.connect()?;
    client.say(&Say::new().query("select pg_sleep(60)"))?;
    let running = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'";
    eventually("it sleeps", || Ok(cluster.sql(running)? == "1"))?;
    client.cancel()?;
    assert_eq!(client.read_ready(1)?.error().code, "57014");
    drop(client);
    proxy.signal("TERM")?;
    assert!(proxy.wait_exit()?.success());
    assert!(!socket.exists(), "the socket's file is removed");
    Ok(())
}

#[test]
fn what_was_asked_before_terminate_is_answered() -> Result {
    let (cluster, proxy) = setup()?;
    let mut seen = Vec::new();
    for target in [cluster.target(), proxy.target()] {
        let mut client = target.connect()?;
        client.say(&Say::new().query("select 1, pg_sleep(0.2)").query("select 1/0").terminate())?;
        seen.push(client.read_to_close()?);
    }
    compare_answers(&seen[0], &seen[1])
}

#[test]
fn messages_that_nobody_asked_for_arrive() -> Result {
    let (cluster, proxy) = setup()?;
    let mut client = proxy.target().connect()?;
    // ParameterStatus on SET, notices, and ParameterStatus again when the transaction is rolled back.
    let script = Script::new()
        .query("set application_name to 'x'; set timezone to 'Asia/Tokyo'")
        .query("begin; set timezone to 'Europe/Paris'")
        .query("rollback");
    compare(&cluster.target(), &proxy.target(), &script)?;
    // A notification to an idle listener comes without a question.
    client.value("listen chimes")?;
    cluster.sql("notify chimes, 'ding'")?;
    let message = client.read()?;
    assert_eq!(message.tag, b'A');
    assert!(message.body.ends_with(b"chimes\0ding\0"));
    assert!(client.silent_for(Duration::from_millis(50))?);
    assert_eq!(client.value("select 1")?, "1");
    Ok(())
}

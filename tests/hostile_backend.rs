//! Servers that misbehave: in their login, in their answers, when idle, and those that are slow or refuse.

mod common;

use std::io::{Read, Write};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::*;

#[test]
fn a_connect_that_never_ends_is_given_up() -> Result {
    let fake = Fake::play(|conversation| {
        conversation.startup()?;
        let _ = conversation.stream.read(&mut [0]);
        Ok(())
    })?;
    let proxy = Config::port(fake.port()).top("connect_timeout = \"1s\"\nborrow_timeout = \"3s\"").spawn()?;
    eventually("it listens", || Ok(matches!(proxy.get("/healthz"), Ok((200, _)))))?;
    let start = Instant::now();
    let error = proxy.target().first_error()?;
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    assert!(!error.code.is_empty(), "{error:?}");
    Ok(())
}

#[test]
fn no_more_than_connect_concurrency_log_in_at_once() -> Result {
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    let fake = Fake::play(|conversation| {
        conversation.startup()?;
        MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(200));
        NOW.fetch_sub(1, Ordering::SeqCst);
        conversation.send(&reply::welcome())?;
        loop {
            let request = conversation.request()?;
            if request.body.starts_with(b"select 'slow'") {
                std::thread::sleep(Duration::from_millis(500));
            }
            conversation.send(&reply::value("1"))?;
        }
    })?;
    let config = Config::port(fake.port()).top("pool_size = 12\nconnect_concurrency = 3\nborrow_timeout = \"25s\"");
    let proxy = config.start()?;
    crowd(12, |_| proxy.target().connect()?.value("select 'slow'").map(drop))?;
    assert_eq!(MOST.load(Ordering::SeqCst), 3, "several at once, and no more than allowed");
    Ok(())
}

#[test]
fn a_failed_login_counts_until_the_server_has_closed_it() -> Result {
    static NOW: AtomicUsize = AtomicUsize::new(0);
    static MOST: AtomicUsize = AtomicUsize::new(0);
    // Too busy to answer, and to notice that nobody waits any more.
    let fake = Fake::play(|conversation| {
        MOST.fetch_max(NOW.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let _ = conversation.startup();
        std::thread::sleep(Duration::from_secs(3));
        NOW.fetch_sub(1, Ordering::SeqCst);
        Ok(())
    })?;
    let limits = "pool_size = 2\nconnect_timeout = \"200ms\"\nborrow_timeout = \"2s\"";
    let proxy = Config::port(fake.port()).top(limits).spawn()?;
    eventually("it listens", || Ok(matches!(proxy.get("/healthz"), Ok((200, _)))))?;
    crowd(8, |_| {
        assert_eq!(proxy.target().first_error()?.code, "08001");
        Ok(())
    })?;
    assert_eq!(MOST.load(Ordering::SeqCst), 2, "connections at one time");
    Ok(())
}

/// A server that notes the version asked for, and says what it likes about it.
fn protocol_version(answer: impl Fn(&[u8]) -> Say + Send + Sync + 'static) -> Result<(Fake, Proxy)> {
    let fake = Fake::play(move |conversation| {
        let mut packet = [0; 8];
        conversation.stream.read_exact(&mut packet)?;
        let [.., a, b, c, d] = packet;
        if [a, b, c, d] == 80_877_103_u32.to_be_bytes() {
            conversation.stream.write_all(b"N")?;
            conversation.stream.read_exact(&mut packet)?;
        }
        let length = u32::from_be_bytes([packet[0], packet[1], packet[2], packet[3]]);
        conversation.stream.read_exact(&mut vec![0; usize::try_from(length)? - 8])?;
        if packet[4..] == 80_877_102_u32.to_be_bytes() {
            return Ok(());
        }
        conversation.send(&answer(&packet[4..]))?;
        loop {
            conversation.request()?;
            conversation.send(&reply::value("1"))?;
        }
    })?;
    let proxy = Config::port(fake.port()).start()?;
    Ok((fake, proxy))
}

#[test]
fn protocol_3_2_is_asked_for_and_not_insisted_on() -> Result {
    // A server that negotiates down, as PostgreSQL 15 does, and one that refuses, as some proxies do.
    let (_fake, proxy) = protocol_version(|version| {
        assert_eq!(version, [0, 3, 0, 2]);
        Say::new().raw(b'v', &[0, 3, 0, 0, 0, 0, 0, 0]).and(&reply::welcome())
    })?;
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    let (_fake, proxy) = protocol_version(|version| match version {
        [0, 3, 0, 0] => reply::welcome(),
        _ => reply::error("FATAL", "0A000", "unsupported frontend protocol 3.2: server supports 3.0 to 3.0"),
    })?;
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn a_database_that_refuses_is_not_hammered() -> Result {
    static KNOCKS: AtomicUsize = AtomicUsize::new(0);
    let fake = Fake::play(|conversation| {
        KNOCKS.fetch_add(1, Ordering::SeqCst);
        conversation.startup()?;
        Ok(conversation.send(&reply::error("FATAL", "57P03", "the database system is starting up"))?)
    })?;
    let proxy = Config::port(fake.port()).top("pool_size = 20\nborrow_timeout = \"2s\"").spawn()?;
    eventually("it listens", || Ok(matches!(proxy.get("/healthz"), Ok((200, _)))))?;
    crowd(30, |_| {
        let error = proxy.target().first_error()?;
        assert_eq!(error.code, "57P03", "the database's own error: {error:?}");
        Ok(())
    })?;
    let knocks = KNOCKS.load(Ordering::SeqCst);
    assert!(knocks < 200, "{knocks} attempts for 30 clients in two seconds");
    Ok(())
}

/// Sends `greeting` instead of a login, and expects a client to be told about it.
fn hostile_login(name: &str, greeting: &[u8]) -> Result<Fields> {
    let bytes = greeting.to_vec();
    let fake = Fake::play(move |conversation| {
        conversation.startup()?;
        conversation.stream.write_all(&bytes)?;
        let _ = conversation.stream.read(&mut [0; 1024]);
        // Whatever is answered is met with the same again.
        let _ = conversation.stream.write_all(&bytes);
        let _ = conversation.stream.read_to_end(&mut Vec::new());
        Ok(())
    })?;
    let config = Config::port(fake.port()).top("connect_timeout = \"2s\"\nborrow_timeout = \"3s\"");
    let mut proxy = config.spawn()?;
    eventually("it listens", || Ok(matches!(proxy.get("/healthz"), Ok((200, _)))))?;
    let before = proxy.memory()?;
    let start = Instant::now();
    let error = proxy.target().first_error()?;
    assert!(start.elapsed() < Duration::from_secs(20), "{name}: {:?}", start.elapsed());
    assert!(!error.code.is_empty(), "{name}: {error:?}");
    assert!(proxy.alive()?, "{name}");
    let grown = proxy.memory()?.saturating_sub(before);
    assert!(grown < 8192, "{name}: {grown} KiB more");
    Ok(error)
}

#[test]
fn hostile_logins() -> Result {
    let scram = Say::new().raw(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0");
    let loud = Say::new().raw(b'R', &[0; 4]).and(&Say::new().raw_length(b'S', 1 << 30, b"x\0"));
    let cases: [(&str, Say); 16] = [
        ("an error without fields", Say::new().raw(b'E', b"\0")),
        ("an empty error", Say::new().raw(b'E', b"")),
        ("an error without a terminator", Say::new().raw(b'E', b"SFATAL\0C28000\0Mno end")),
        ("an error with a length of 0", Say::new().raw_length(b'E', 0, b"")),
        ("an error with a negative length", Say::new().raw_length(b'E', -1, b"")),
        ("a huge error", Say::new().raw_length(b'E', i32::MAX, b"SFATAL\0")),
        ("an unknown authentication", Say::new().raw(b'R', &[0, 0, 0, 99])),
        ("GSSAPI", Say::new().raw(b'R', &[0, 0, 0, 7])),
        ("a short authentication", Say::new().raw(b'R', &[0])),
        ("a huge authentication", Say::new().raw_length(b'R', i32::MAX, &[0, 0, 0, 10])),
        ("no mechanism that is known", Say::new().raw(b'R', b"\0\0\0\x0aSPECIAL\0\0")),
        ("SASL without a list", Say::new().raw(b'R', b"\0\0\0\x0a")),
        ("SASL that goes on before it began", Say::new().raw(b'R', b"\0\0\0\x0br=x,s=eA==,i=4096")),
        ("SCRAM with the same again", scram),
        ("a row before the login", Say::new().raw(b'D', b"\0\0")),
        ("a parameter of 1 GiB", loud),
    ];
    for (name, say) in &cases {
        hostile_login(name, say.bytes())?;
    }
    hostile_login("HTTP", b"HTTP/1.1 400 Bad Request\r\n\r\n")?;
    hostile_login("zeros", &[0; 512])?;
    hostile_login("all ones", &[0xff; 512])?;
    Ok(())
}

#[test]
fn scram_with_two_billion_iterations_is_refused_at_once() -> Result {
    let fake = Fake::play(|conversation| {
        conversation.startup()?;
        conversation.send(&Say::new().raw(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0"))?;
        let first = conversation.read()?;
        let text = String::from_utf8_lossy(&first.body).into_owned();
        let nonce = text.split_once(",r=").ok_or("no nonce")?.1;
        let challenge = format!("\0\0\0\x0br={nonce}server,s=c2FsdHNhbHRzYWx0c2FsdA==,i=2147483647");
        conversation.send(&Say::new().raw(b'R', challenge.as_bytes()))?;
        let _ = conversation.stream.read_to_end(&mut Vec::new());
        Ok(())
    })?;
    let proxy = Config::port(fake.port()).spawn()?;
    eventually("it listens", || Ok(matches!(proxy.get("/healthz"), Ok((200, _)))))?;
    let start = Instant::now();
    let error = proxy.target().first_error()?;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    assert!(error.code.starts_with("08") || error.code.starts_with("28"), "{error:?}");
    assert!(format!("{error:?}").contains("iteration"), "{error:?}");
    Ok(())
}

/// A server that behaves during the login and for the proxy's own queries, then answers `select 'victim'` with
/// `bytes` and closes. The messages that the client gets.
fn hostile_answer(name: &str, bytes: &[u8]) -> Result<Answer> {
    let bytes = bytes.to_vec();
    let fake = Fake::play(move |conversation| {
        conversation.login()?;
        loop {
            let request = conversation.request()?;
            if request.body.windows(6).any(|part| part == b"victim") {
                conversation.stream.write_all(&bytes)?;
                return Ok(());
            }
            conversation.send(&reply::value("1"))?;
        }
    })?;
    let mut proxy = Config::port(fake.port()).top("borrow_timeout = \"3s\"").start()?;
    let before = proxy.memory()?;
    let mut client = proxy.target().connect()?;
    client.say(&Say::new().query("select 'victim'"))?;
    let mut messages = Vec::new();
    // A message cut off in the middle cannot be followed by an error: it is the end, too.
    while let Ok(Some(message)) = client.read_or_close() {
        let last = message.tag == b'Z';
        messages.push(message);
        if last {
            break;
        }
    }
    assert!(proxy.alive()?, "{name}");
    let grown = proxy.memory()?.saturating_sub(before);
    assert!(grown < 8192, "{name}: {grown} KiB more");
    // Somebody else is served by another backend.
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1", "{name}");
    Ok(Answer(messages))
}

#[test]
fn hostile_answers() -> Result {
    let part = Say::new().raw(b'T', b"\0\x01value\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0");
    let with = |say: Say| part.clone().and(&say);
    let cases = [
        ("nothing", Say::new(), "08006"),
        ("half an answer", part.clone(), "08006"),
        ("half a message", with(Say::new().raw_length(b'D', 100, b"\0\x01")), ""),
        ("a length of 0", with(Say::new().raw_length(b'D', 0, b"")), "08P01"),
        ("a length of 3", with(Say::new().raw_length(b'D', 3, b"")), "08P01"),
        ("a negative length", with(Say::new().raw_length(b'D', i32::MIN, b"")), "08P01"),
        ("an unknown message", with(Say::new().raw(b'?', b"what")), ""),
        ("ReadyForQuery of no known status", with(Say::new().raw(b'Z', b"?")), ""),
        ("ReadyForQuery without a status", with(Say::new().raw(b'Z', b"")), ""),
        (
            "a FATAL",
            with(reply::error("FATAL", "57P01", "terminating connection due to administrator command")),
            "57P01",
        ),
        ("an error without fields", with(Say::new().raw(b'E', b"\0")), ""),
        ("a login request", with(Say::new().raw(b'R', &[0, 0, 0, 3])), ""),
        ("too many ReadyForQuery", reply::value("1").and(&reply::ready(b'I')).and(&reply::ready(b'I')), ""),
    ];
    for (name, say, code) in cases {
        let answer = hostile_answer(name, say.bytes())?;
        assert!(!answer.0.is_empty(), "{name}: closed without a word");
        if !code.is_empty() {
            let codes: Vec<_> = answer.errors().into_iter().map(|error| error.code).collect();
            assert_eq!(codes.last().map(String::as_str), Some(code), "{name}: {answer:?}");
        }
    }
    Ok(())
}

#[test]
fn an_idle_backend_that_talks_is_not_lent() -> Result {
    let fake = Fake::play(|conversation| {
        conversation.login()?;
        loop {
            let request = conversation.request()?;
            conversation.send(&reply::value("asked for"))?;
            if conversation.number == 0 && request.body.starts_with(b"select 'anything'") {
                std::thread::sleep(Duration::from_millis(200));
                conversation.send(&reply::value("not asked for"))?;
            }
        }
    })?;
    let proxy = Config::port(fake.port()).top("pool_size = 4").start()?;
    let mut client = proxy.target().connect()?;
    for _ in 0..5 {
        assert_eq!(client.value("select 'anything'")?, "asked for");
        std::thread::sleep(Duration::from_millis(400));
    }
    Ok(())
}

/// PostgreSQL itself ignores a cancel that comes before the statement that it is meant for.
#[test]
fn a_cancel_that_came_too_early_is_sent_again() -> Result {
    static CANCELS: AtomicUsize = AtomicUsize::new(0);
    let fake = Fake::play(|conversation| {
        // A CancelRequest has nothing but process id and key.
        if conversation.startup()?.len() == 8 {
            CANCELS.fetch_add(1, Ordering::SeqCst);
            return Ok(());
        }
        conversation.send(&reply::welcome())?;
        loop {
            let request = conversation.request()?;
            let slow = request.body.starts_with(b"select 'slow'");
            let answer = if slow {
                eventually("it is cancelled twice", || Ok(CANCELS.load(Ordering::SeqCst) >= 2))?;
                reply::error("ERROR", "57014", "canceling statement").and(&reply::ready(b'I'))
            } else {
                reply::value("1")
            };
            conversation.send(&answer)?;
        }
    })?;
    let proxy = Config::port(fake.port()).top("pool_size = 1\nborrow_timeout = \"8s\"").start()?;
    let mut client = proxy.target().connect()?;
    client.say(&Say::new().query("select 'slow'"))?;
    eventually("it runs", || Ok(proxy.metric("pgfunnel_clients", &["state=\"active\""])? == 1.0))?;
    client.reset()?;
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    assert!(CANCELS.load(Ordering::SeqCst) >= 2);
    Ok(())
}

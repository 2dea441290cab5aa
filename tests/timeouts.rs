//! Frozen clients and slow statements: silence without a lease is normal, with one it has limits.

mod common;

use std::time::{Duration, Instant};

use common::*;

/// The timer of the proxy's socket towards a client (proc(5), /proc/net/tcp): 0 none, 2 keepalive.
fn timer(proxy: &Proxy, client: &Wire) -> Result<u8> {
    let hex = |addr: std::net::SocketAddr| format!("0100007F:{:04X}", addr.port());
    let ends = [hex(proxy.addr()), hex(client.local_addr()?)];
    let table = std::fs::read_to_string("/proc/net/tcp")?;
    for line in table.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        if fields.get(1..3) == Some(&ends.each_ref().map(String::as_str)) {
            let timer = fields.get(5).and_then(|field| field.split(':').next()).ok_or("no timer")?;
            return Ok(timer.parse()?);
        }
    }
    Err(format!("no connection {ends:?} in:\n{table}").into())
}

/// One backend, so that whatever a dead client leaves behind stands in the way of the next.
fn setup(top: &str) -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value("create table t (a int)")?;
    cluster.limit_backends(1)?;
    let proxy = Config::of(&cluster).top("pool_size = 1").top(top).start()?;
    Ok((cluster, proxy))
}

#[test]
fn a_frozen_client_without_a_lease_is_not_closed() -> Result {
    let (_cluster, proxy) =
        setup("idle_transaction_timeout = \"1s\"\nquery_timeout = \"1s\"\nclient_login_timeout = \"2s\"")?;
    let mut frozen = proxy.target().connect()?;
    frozen.value("select 1")?;
    // Silence, longer than any limit that is about something else.
    assert!(frozen.silent_for(Duration::from_secs(4))?);
    assert_eq!(frozen.value("select 'thawed'")?, "thawed");
    Ok(())
}

#[test]
fn a_client_is_probed_only_while_it_holds_a_backend() -> Result {
    let (_cluster, proxy) = setup("")?;
    let mut client = proxy.target().connect()?;
    client.value("select 1")?;
    // What we sent is acknowledged at once; from then on, frozen or not, nothing is asked of it.
    eventually("no timer runs", || Ok(timer(&proxy, &client)? == 0))?;
    std::thread::sleep(Duration::from_secs(6));
    assert_eq!(timer(&proxy, &client)?, 0, "idle");
    for _ in 0..2 {
        client.hold()?;
        eventually("no timer runs yet", || Ok(timer(&proxy, &client)? == 0))?;
        eventually("keepalive is on", || Ok(timer(&proxy, &client)? == 2))?;
        client.value("commit")?;
        eventually("keepalive is off", || Ok(timer(&proxy, &client)? == 0))?;
    }
    Ok(())
}

#[test]
fn idle_transaction_timeout_frees_the_backend() -> Result {
    let (cluster, proxy) = setup("idle_transaction_timeout = \"1s\"\nborrow_timeout = \"20s\"")?;
    let mut frozen = proxy.target().connect()?;
    frozen.value("begin; insert into t values (1)")?;
    let start = Instant::now();
    let mut next = proxy.target().connect()?;
    assert_eq!(next.value("select count(*) from t")?, "0");
    assert!(start.elapsed() > Duration::from_millis(500) && start.elapsed() < Duration::from_secs(15));
    let error = frozen.read_to_close()?.error();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "25P03"));
    let text = format!("{error:?}");
    assert!(text.contains("idle_transaction_timeout") && text.contains("1s"), "{text}");
    assert!(cluster.backends()? <= 1);
    Ok(())
}

/// Freezes a client in some state of work, and expects its backend to be free soon, its work undone.
fn frozen_is_freed(what: &str, freeze: impl Fn(&mut Wire) -> Result) -> Result {
    let (cluster, proxy) = setup("idle_transaction_timeout = \"1s\"\nborrow_timeout = \"20s\"")?;
    let mut frozen = proxy.target().connect()?;
    freeze(&mut frozen)?;
    let start = Instant::now();
    assert_eq!(proxy.target().connect()?.value("select count(*) from t")?, "0", "{what}");
    assert!(start.elapsed() < Duration::from_secs(15), "{what}: {:?}", start.elapsed());
    assert!(cluster.backends()? <= 1, "{what}");
    Ok(())
}

#[test]
fn a_frozen_client_loses_its_backend_wherever_it_stopped() -> Result {
    let insert = Say::new().parse("", "insert into t values (1)", &[]).bind("", "", &[]).execute("", 0);
    frozen_is_freed("in an open batch", |client| {
        client.say(&insert.clone().flush())?;
        client.read_until(b'C', 1).map(drop)
    })?;
    frozen_is_freed("before a Sync", |client| Ok(client.say(&insert)?))?;
    frozen_is_freed("in a COPY", |client| {
        client.say(&Say::new().query("copy t from stdin"))?;
        client.read_until(b'G', 1)?;
        Ok(client.say(&Say::new().copy_data(b"1\n"))?)
    })?;
    frozen_is_freed("in a failed transaction", |client| {
        client.query("begin; insert into t values (1); selec 1").map(drop)
    })?;
    frozen_is_freed("in half a message", |client| {
        client.value("begin; insert into t values (1)")?;
        Ok(client.send(&Say::new().query("commit").bytes()[..7])?)
    })?;
    frozen_is_freed("while it should read", |client| {
        client.say(
            &Say::new().query("insert into t values (1); select repeat('x', 100000) from generate_series(1, 10000)"),
        )?;
        client.read_until(b'D', 1).map(drop)
    })
}

#[test]
fn a_slow_reader_is_not_a_frozen_one() -> Result {
    let (_cluster, proxy) = setup("idle_transaction_timeout = \"2s\"")?;
    let mut client = proxy.target().connect()?;
    client.say(&Say::new().query("select repeat('x', 1 << 20) from generate_series(1, 40)"))?;
    let mut rows = 0;
    // 40 MiB in six seconds and more: slower than the limit, but never still.
    while rows < 40 {
        let message = client.read()?;
        if message.tag == b'D' {
            rows += 1;
            std::thread::sleep(Duration::from_millis(150));
        }
    }
    assert_eq!(client.read_ready(1)?.commands(), ["SELECT 40"]);
    Ok(())
}

#[test]
fn a_busy_transaction_is_not_an_idle_one() -> Result {
    let (_cluster, proxy) = setup("idle_transaction_timeout = \"1s\"")?;
    let mut client = proxy.target().connect()?;
    client.hold()?;
    client.value("select pg_sleep(2.5)")?;
    for _ in 0..4 {
        std::thread::sleep(Duration::from_millis(400));
        client.value("select 1")?;
    }
    client.value("commit")?;
    Ok(())
}

#[test]
fn query_timeout_cancels_the_statement() -> Result {
    let (_cluster, proxy) = setup("query_timeout = \"1s\"")?;
    let mut client = proxy.target().connect()?;
    let start = Instant::now();
    let error = client.query("select pg_sleep(60)")?.error();
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!(error.code, "57014", "{error:?}");
    let text = format!("{error:?}");
    assert!(text.contains("query_timeout") && text.contains("1s"), "{text}");
    assert_eq!(client.value("select 1")?, "1", "the client lives on");
    Ok(())
}

#[test]
fn client_idle_timeout_closes_the_client() -> Result {
    let (_cluster, proxy) = setup("client_idle_timeout = \"1s\"")?;
    let mut client = proxy.target().connect()?;
    client.value("select 1")?;
    let start = Instant::now();
    let error = client.read_to_close()?.error();
    assert!(start.elapsed() > Duration::from_millis(500) && start.elapsed() < Duration::from_secs(20));
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P05"));
    let text = format!("{error:?}");
    assert!(text.contains("client_idle_timeout") && text.contains("1s"), "{text}");
    Ok(())
}

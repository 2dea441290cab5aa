//! The live page, and who may see it.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::Duration;

use common::*;
use socket2::{Domain, Socket, Type};

/// A connection of a client that calls itself so.
fn client(proxy: &Proxy, application: &str) -> Result<Wire> {
    proxy.target().parameter("application_name", application).connect()
}

/// Asks for `path` with these header lines; the status and what follows.
fn ask(proxy: &Proxy, path: &str, headers: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&proxy.http_addr(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nConnection: close\r\n{headers}\r\n").as_bytes())?;
    let mut response = String::new();
    stream.read_to_string(&mut response)?;
    let status = response.split(' ').nth(1).ok_or("no HTTP status")?.parse()?;
    Ok((status, response))
}

/// Asks for `/events`.
fn open(proxy: &Proxy) -> Result<TcpStream> {
    let mut stream = TcpStream::connect_timeout(&proxy.http_addr(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")?;
    Ok(stream)
}

/// Reads until `until` is there.
fn read(mut stream: &TcpStream, until: &str) -> Result {
    let (mut said, mut buffer) = (String::new(), [0; 65536]);
    while !said.contains(until) {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Err(format!("ended before {until}: {said}").into());
        }
        said.push_str(&String::from_utf8_lossy(buffer.get(..count).unwrap_or_default()));
    }
    Ok(())
}

/// A program of tests/clients that shows the page in a browser.
fn browser(program: &str, proxy: &Proxy) -> Result<Command> {
    let modules = std::env::var_os("PGFUNNEL_TEST_NODE_PATH");
    let modules = modules.ok_or("PGFUNNEL_TEST_NODE_PATH is not set: tests/run.sh installs and sets it")?;
    let mut node = Command::new("node");
    node.env("NODE_PATH", modules).arg(format!("{}/tests/clients/{program}", env!("CARGO_MANIFEST_DIR")));
    node.arg(format!("http://{}/", proxy.http_addr()));
    Ok(node)
}

#[test]
fn a_browser_shows_who_holds_the_backends() -> Result {
    let cluster = Cluster::start()?;
    let top = "pool_size = 5\nborrow_timeout = \"25s\"\nmax_waiting = 8";
    let proxy = Config::of(&cluster).top(top).start()?;
    let mut pinned = client(&proxy, "<img src=x onerror='window.hacked=1'>")?;
    pinned.value("create temporary table t ()")?;
    let mut holders = Vec::new();
    for _ in 0..4 {
        let mut holder = client(&proxy, "report-fn")?;
        holder.hold()?;
        holders.push(holder);
    }
    let mut waiters = Vec::new();
    for _ in 0..8 {
        let mut waiter = client(&proxy, "api-fn")?;
        waiter.say(&Say::new().query("select 1"))?;
        waiters.push(waiter);
    }
    eventually("all wait", || Ok(proxy.waiting()? == 8.0))?;
    assert_eq!(client(&proxy, "api-fn")?.query("select 1")?.error().code, "53300");
    // They are asked for again and again, as functions do.
    std::thread::scope(|scope| {
        let keep_waiting = scope.spawn(move || -> Result {
            for mut waiter in waiters {
                waiter.set_read_timeout(Duration::from_secs(60))?;
                waiter.read_ready(1)?;
            }
            Ok(())
        });
        let output = browser("page.js", &proxy)?.output()?;
        drop(holders);
        let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success() && said.trim() == "ok", "{said}\n{complained}");
        keep_waiting.join().map_err(|_| "a waiter panicked")?
    })
}

#[test]
fn a_page_that_was_one_too_many_comes_back() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let viewers = (0..50).map(|_| open(&proxy)).collect::<Result<Vec<_>>>()?;
    viewers.iter().try_for_each(|stream| read(stream, "HTTP/1.1 200"))?;
    let mut page = browser("page_again.js", &proxy)?.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    // It has been refused, and says so.
    let mut said = BufReader::new(page.stdout.take().ok_or("no output")?);
    let mut line = String::new();
    said.read_line(&mut line)?;
    assert_eq!(line, "lost\n");
    drop(viewers);
    let output = page.wait_with_output()?;
    line.clear();
    said.read_line(&mut line)?;
    assert!(output.status.success() && line == "ok\n", "{line}{}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

#[test]
fn whoever_is_shown_the_door_is_told_why() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let local = format!("Host: {}\r\n", proxy.http_addr());
    for path in ["/", "/page.js", "/page.css", "/events", "/history", "/metrics"] {
        // A page of somebody else's, in a browser on this machine.
        let (status, told) = ask(&proxy, path, "Host: rebound.example\r\n")?;
        assert!(status == 403 && told.contains("localhost"), "{path}: {told}");
        if path != "/events" {
            let (status, told) = ask(&proxy, path, &local)?;
            assert!(status == 200 && told.contains("content-security-policy: default-src 'none'"), "{path}: {told}");
        }
    }
    for path in ["/healthz", "/readyz"] {
        assert_eq!(ask(&proxy, path, "Host: rebound.example\r\n")?.0, 200, "{path}");
    }
    Ok(())
}

#[test]
fn the_token_is_wanted_and_can_be_changed() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("http_token = \"open sesame\"").start()?;
    let host = "Host: pgfunnel.example\r\n";
    for path in ["/", "/metrics", "/history"] {
        let (status, told) = ask(&proxy, path, host)?;
        assert!(status == 401 && told.contains("www-authenticate: Basic") && told.contains("http_token"), "{told}");
        assert_eq!(ask(&proxy, path, &format!("{host}Authorization: Bearer open\r\n"))?.0, 401);
        assert_eq!(ask(&proxy, path, &format!("{host}Authorization: Bearer open sesame\r\n"))?.0, 200);
        // "anybody:open sesame"
        assert_eq!(ask(&proxy, path, &format!("{host}Authorization: Basic YW55Ym9keTpvcGVuIHNlc2FtZQ==\r\n"))?.0, 200);
    }
    assert_eq!(ask(&proxy, "/healthz", host)?.0, 200);
    proxy.reload(&Config::of(&cluster).top("http_token = \"changed\""))?;
    proxy.wait_log("configuration reloaded")?;
    assert_eq!(ask(&proxy, "/metrics", &format!("{host}Authorization: Bearer open sesame\r\n"))?.0, 401);
    assert_eq!(ask(&proxy, "/metrics", &format!("{host}Authorization: Bearer changed\r\n"))?.0, 200);
    assert!(!proxy.log().contains("sesame"), "{}", proxy.log());
    Ok(())
}

#[test]
fn those_who_watch_are_bounded_and_hold_nobody_up() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    proxy.target().connect()?.value("select 1")?;
    // Frozen ones: they read one snapshot, and nothing more.
    let mut frozen = (0..50).map(|_| open(&proxy)).collect::<Result<Vec<_>>>()?;
    frozen.iter().try_for_each(|stream| read(stream, "\"sentence\":\"all is well"))?;
    read(&open(&proxy)?, "too many are watching")?;
    let before = proxy.memory()?;
    std::thread::sleep(Duration::from_secs(5));
    let grown = proxy.memory()?.saturating_sub(before);
    assert!(grown < 8 << 20, "{grown} bytes in five seconds");
    proxy.metric("pgfunnel_pool_pressure", &[])?;
    // One that goes makes room.
    frozen.pop();
    eventually("another may watch", || Ok(read(&open(&proxy)?, "\"pools\":[").is_ok()))
}

/// So many connections from 127.0.0.`host` that say half a request.
fn silent(proxy: &Proxy, host: u8, count: usize) -> Result<Vec<Socket>> {
    let open = || -> Result<Socket> {
        let mut socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
        socket.bind(&SocketAddr::from(([127, 0, 0, host], 0)).into())?;
        socket.connect(&proxy.http_addr().into())?;
        // It may be closed at once.
        let _ = socket.write_all(b"GET /metrics HTT");
        Ok(socket)
    };
    (0..count).map(|_| open()).collect()
}

/// That no probe goes unanswered, not for a moment.
fn is_answered(proxy: &Proxy) -> Result {
    for path in ["/healthz", "/readyz"].into_iter().cycle().take(20) {
        assert_eq!(proxy.get(path)?.0, 200, "{path}");
    }
    Ok(())
}

#[test]
fn who_connects_and_says_nothing_makes_room_for_who_does() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    proxy.target().connect()?.value("select 1")?;
    // Who is being answered stays, however many come.
    let watching = open(&proxy)?;
    read(&watching, "\"pools\":[")?;
    let elsewhere = (2..=8).map(|host| silent(&proxy, host, 100)).collect::<Result<Vec<_>>>()?;
    is_answered(&proxy)?;
    let own = silent(&proxy, 1, 500)?;
    is_answered(&proxy)?;
    assert!(proxy.target().connect()?.value("select 1")? == "1", "clients do not notice");
    (0..3).try_for_each(|_| read(&watching, "\"pools\":["))?;
    drop((elsewhere, own));
    Ok(())
}

#[test]
fn a_request_head_is_not_waited_for_long() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let mut silent = silent(&proxy, 1, 1)?.pop().ok_or("none")?;
    silent.set_read_timeout(Some(PATIENCE))?;
    assert_eq!(silent.read(&mut [0; 64])?, 0, "closed");
    Ok(())
}

//! Spans for an OpenTelemetry collector: of the caller's trace, below its span, and never at a client's expense.
#![cfg(feature = "otlp")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use common::*;

/// A span as it arrived.
#[derive(Debug, Clone, Default)]
struct Span {
    trace: String,
    parent: String,
    id: String,
    name: String,
    /// From and until, in nanoseconds since 1970.
    times: (u64, u64),
    attributes: BTreeMap<String, String>,
    failed: bool,
}

/// A collector: answers every request, and keeps the spans.
struct Collector {
    port: u16,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let (port, spans) = (listener.local_addr()?.port(), Arc::new(Mutex::new(Vec::new())));
        let kept = spans.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let kept = kept.clone();
                std::thread::spawn(move || collect(stream, &kept));
            }
        });
        Ok(Self { port, spans })
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits for the spans of a trace, which are so many.
    fn wait(&self, number: u8, count: usize) -> Result<Vec<Span>> {
        let mut found = Vec::new();
        eventually(&format!("{count} spans of trace {number} come"), || {
            found = self.spans().into_iter().filter(|span| span.trace == trace(number).0).collect();
            Ok(found.len() >= count)
        })?;
        assert_eq!(found.len(), count, "{found:?}");
        Ok(found)
    }
}

/// Requests of one connection (RFC 9112, as far as a client with a Content-Length needs it).
fn collect(stream: TcpStream, kept: &Mutex<Vec<Span>>) -> Result {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let (mut head, mut length) = (String::new(), 0);
        loop {
            let mut line = String::new();
            if reader.read_line(&mut line)? == 0 {
                return Ok(());
            }
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse()?;
            }
            if line == "\r\n" {
                break;
            }
            head += &line;
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        assert!(head.starts_with("POST /v1/traces ") && head.contains("application/x-protobuf"), "{head}");
        kept.lock().unwrap_or_else(PoisonError::into_inner).extend(spans_in(&body)?);
        writer.write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")?;
    }
}

/// The fields of a protobuf message: number, and its bytes (of a number: eight, the least significant first).
fn fields(mut message: &[u8]) -> Result<Vec<(u64, Vec<u8>)>> {
    fn varint(message: &mut &[u8]) -> Result<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = message.split_first().ok_or("a cut varint")?;
            *message = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err("a long varint".into())
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let key = varint(&mut message)?;
        let length = match key & 7 {
            0 => {
                found.push((key >> 3, varint(&mut message)?.to_le_bytes().to_vec()));
                continue;
            }
            1 => 8,
            2 => usize::try_from(varint(&mut message)?)?,
            5 => 4,
            other => return Err(format!("wire type {other}").into()),
        };
        let (bytes, rest) = message.split_at_checked(length).ok_or("a cut field")?;
        found.push((key >> 3, bytes.to_vec()));
        message = rest;
    }
    Ok(found)
}

/// The messages in field `number`.
fn within(message: &[u8], number: u64) -> Result<Vec<Vec<u8>>> {
    Ok(fields(message)?.into_iter().filter(|(found, _)| *found == number).map(|(_, bytes)| bytes).collect())
}

/// Spans of an `ExportTraceServiceRequest` (opentelemetry-proto, `trace.proto`).
fn spans_in(request: &[u8]) -> Result<Vec<Span>> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let nanos = |bytes: &[u8]| bytes.try_into().map_or(0, u64::from_le_bytes);
    let mut spans = Vec::new();
    for resource_spans in within(request, 1)? {
        let resource = within(&resource_spans, 1)?.concat();
        assert!(text(&resource).contains("service.name") && text(&resource).contains("pgfunnel"));
        for span in within(&within(&resource_spans, 2)?.concat(), 2)? {
            let mut found = Span::default();
            for (number, bytes) in fields(&span)? {
                match number {
                    1 => found.trace = hex(&bytes),
                    2 => found.id = hex(&bytes),
                    4 => found.parent = hex(&bytes),
                    5 => found.name = text(&bytes),
                    7 => found.times.0 = nanos(&bytes),
                    8 => found.times.1 = nanos(&bytes),
                    9 => {
                        let (key, value) = (within(&bytes, 1)?.concat(), within(&bytes, 2)?.concat());
                        found.attributes.insert(text(&key), text(&within(&value, 1)?.concat()));
                    }
                    15 => found.failed = within(&bytes, 3)?.concat().first() == Some(&2),
                    _ => {}
                }
            }
            spans.push(found);
        }
    }
    Ok(spans)
}

/// The ids of a trace and of the caller's span.
fn trace(number: u8) -> (String, String) {
    (format!("0af7651916cd43dd8448eb211c8031{number:02x}"), format!("b7ad6b71692033{number:02x}"))
}

/// A statement of that trace.
fn traced(sql: &str, number: u8, flags: &str) -> String {
    let (trace, span) = trace(number);
    format!("{sql} /*traceparent='00-{trace}-{span}-{flags}'*/")
}

#[test]
fn waiting_and_the_databases_time_are_spans_of_the_callers_trace() -> Result {
    let collector = Collector::start()?;
    let cluster = Cluster::start()?;
    let top = format!("pool_size = 1\nborrow_timeout = \"1s\"\notlp_endpoint = {:?}", collector.url());
    let proxy = Config::of(&cluster).top(&top).start()?;
    let mut client = proxy.target().parameter("application_name", "report-fn").connect()?;
    client.value("select 1")?;
    client.value(&traced("select pg_sleep(0.2), 'sesame'", 1, "01"))?;
    let [backend] = &collector.wait(1, 1)?[..] else { return Err("not one span".into()) };
    assert_eq!((backend.name.as_str(), &backend.parent, backend.failed), ("backend", &trace(1).1, false));
    let took = Duration::from_nanos(backend.times.1 - backend.times.0);
    assert!((200..2_000).contains(&took.as_millis()), "{took:?}");
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    assert!(now.saturating_sub(Duration::from_nanos(backend.times.1)) < Duration::from_secs(30), "{backend:?}");
    let expected = [
        ("db.namespace", "app"),
        ("db.operation.name", "SELECT"),
        ("db.system.name", "postgresql"),
        ("pgfunnel.application", "report-fn"),
        ("pgfunnel.outcome", "ok"),
        ("pgfunnel.pool", "app/app"),
        ("pgfunnel.user", "app"),
    ];
    assert!(backend.attributes.iter().map(|(key, value)| (key.as_str(), value.as_str())).eq(expected), "{backend:?}");

    // One that waits, prepared; one that waits in vain; one that fails; one that is not sampled.
    let mut waiter = proxy.target().connect()?;
    waiter.ask(&Say::new().parse("s", &traced("values (1)", 2, "01"), &[]).sync())?;
    collector.wait(2, 1)?;
    client.hold()?;
    waiter.say(&Say::new().bind("", "s", &[]).execute("", 0).sync())?;
    eventually("it waits", || Ok(proxy.waiting()? == 1.0))?;
    std::thread::sleep(Duration::from_millis(200));
    client.value("commit")?;
    waiter.read_ready(1)?;
    let spans = collector.wait(2, 3)?;
    let [wait, backend] = &spans[1..] else { return Err("not two spans more".into()) };
    assert_eq!((wait.name.as_str(), backend.name.as_str(), &wait.parent), ("wait", "backend", &trace(2).1));
    assert!(wait.times.1 - wait.times.0 > 150_000_000 && wait.times.1 == backend.times.0, "{spans:?}");
    assert!(wait.id != backend.id && wait.id.len() == 16);
    client.hold()?;
    assert_eq!(waiter.query(&traced("delete from x", 3, "01"))?.error().code, "53300");
    let [wait] = &collector.wait(3, 1)?[..] else { return Err("not one span".into()) };
    assert_eq!((wait.name.as_str(), wait.failed), ("wait", true));
    assert_eq!(wait.attributes["db.response.status_code"], "53300");
    client.query(&traced("select 1/0", 4, "00"))?;
    client.value("rollback")?;
    assert_eq!(client.query(&traced("select 1/0", 5, "01"))?.error().code, "22012");
    let [backend] = &collector.wait(5, 1)?[..] else { return Err("not one span".into()) };
    assert_eq!((backend.failed, backend.attributes["error.type"].as_str()), (true, "22012"));
    assert!(collector.spans().iter().all(|span| span.trace != trace(4).0), "it is not sampled");
    assert!(!format!("{:?}", collector.spans()).contains("sesame"), "a literal in a span");
    Ok(())
}

#[test]
fn what_is_queued_is_sent_when_the_process_ends() -> Result {
    let collector = Collector::start()?;
    let cluster = Cluster::start()?;
    let mut proxy = Config::of(&cluster).top(&format!("otlp_endpoint = {:?}", collector.url())).start()?;
    let mut client = proxy.target().connect()?;
    (1..=100).try_for_each(|number| client.value(&traced("select 1", number, "01")).map(drop))?;
    client.say(&Say::new().terminate())?;
    proxy.signal("TERM")?;
    assert!(proxy.wait_exit()?.success());
    let waits = collector.spans().iter().filter(|span| span.name == "wait").count();
    assert_eq!(collector.spans().len() - waits, 100);
    Ok(())
}

#[test]
fn a_collector_that_is_down_or_silent_costs_no_client_anything() -> Result {
    let cluster = Cluster::start()?;
    let (down, silent) = (Port::reserve()?, TcpListener::bind("127.0.0.1:0")?);
    for (endpoint, event) in
        [(down.addr(), "spans could not be exported"), (silent.local_addr()?, "spans were dropped")]
    {
        let top = format!("otlp_endpoint = \"http://{endpoint}\"");
        let mut proxy = Config::of(&cluster).top(&top).start()?;
        let mut client = proxy.target().connect()?;
        let mut slowest = Duration::ZERO;
        for _ in 0..6_000 {
            let start = Instant::now();
            client.value(&traced("select 1", 1, "01"))?;
            slowest = slowest.max(start.elapsed());
        }
        assert!(slowest < Duration::from_secs(1), "{slowest:?}");
        proxy.wait_line(event, &[])?;
        assert!(proxy.log_lines()?.len() < 100, "a line for each");
        let start = Instant::now();
        proxy.signal("TERM")?;
        assert!(proxy.wait_exit()?.success());
        assert!(start.elapsed() < Duration::from_secs(4), "{:?}", start.elapsed());
    }
    Ok(())
}

#[test]
fn an_endpoint_that_is_none_is_refused() -> Result {
    let cluster = Cluster::start()?;
    for wrong in ["https://127.0.0.1:4318", "127.0.0.1:4318", "http://", "http://127.0.0.1:4318/?x=y", "on"] {
        let mut proxy = Config::of(&cluster).top(&format!("otlp_endpoint = {wrong:?}")).spawn()?;
        assert_eq!(proxy.wait_exit()?.code(), Some(2), "{wrong}");
        let message = "must be the URL of a collector (http), such as \"http://127.0.0.1:4318\", or \"off\"";
        assert!(proxy.log().contains(&format!("otlp_endpoint = {wrong:?}: {message}")), "{}", proxy.log());
    }
    Ok(())
}

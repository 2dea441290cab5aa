//! The log: in a storm lines that repeat are counted; what is slow is told with its reason, and with the trace it is of.

mod common;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use common::*;
use serde_json::Value;

/// How many lines begin with `message`, and how many they stand for.
fn told(proxy: &Proxy, message: &str) -> Result<(usize, u64)> {
    let about = |line: &Value| line["message"].as_str().is_some_and(|text| text.starts_with(message));
    let lines: Vec<Value> = proxy.log_lines()?.into_iter().filter(about).collect();
    Ok((lines.len(), lines.iter().map(|line| line["repeated"].as_u64().unwrap_or(1)).sum()))
}

/// All of them are accounted for, in one line a second and the first.
fn are_few(proxy: &Proxy, message: &str, number: u64, since: Instant) -> Result {
    eventually("all are accounted for", || Ok(told(proxy, message)?.1 >= number))?;
    let (lines, stand_for) = told(proxy, message)?;
    assert_eq!(stand_for, number, "{message}");
    let most = since.elapsed().as_secs() as usize + 2;
    assert!((2..=most).contains(&lines), "{lines} lines of {message}, not {most}");
    Ok(())
}

#[test]
fn a_storm_of_refusals_is_a_few_lines_with_their_number() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"20s\"\nmax_waiting = 1").start()?;
    let mut holder = proxy.target().connect()?;
    holder.hold()?;
    let mut waiter = proxy.target().connect()?;
    waiter.say(&Say::new().query("select 1"))?;
    eventually("one waits", || Ok(proxy.waiting()? == 1.0))?;
    let mut client = proxy.target().connect()?;
    let start = Instant::now();
    for _ in 0..10_000 {
        client.say(&Say::new().query("select 1"))?;
        assert_eq!(client.read_ready(1)?.error().code, "53300");
    }
    are_few(&proxy, "refused", 10_000, start)
}

#[test]
fn a_storm_of_dying_clients_is_a_few_lines_with_their_number() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("auth = \"trust\"").start()?;
    let start = Instant::now();
    for _ in 0..3_000 {
        let mut client = proxy.target().connect()?;
        client.say(&Say::new().raw(b'?', b""))?;
        assert_eq!(client.read_to_close()?.error().code, "08P01");
    }
    are_few(&proxy, "session ended", 3_000, start)?;
    let start = Instant::now();
    for _ in 0..1_000 {
        assert_eq!(proxy.target().database("nowhere").refusal()?.code, "3D000");
    }
    are_few(&proxy, "login refused", 1_000, start)
}

#[test]
fn a_database_that_is_down_is_a_few_lines() -> Result {
    let mut cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("auth = \"trust\"\nborrow_timeout = \"3s\"").start()?;
    let mut clients = (0..40).map(|_| proxy.target().connect()).collect::<Result<Vec<_>>>()?;
    cluster.stop("immediate")?;
    let start = Instant::now();
    clients.iter_mut().try_for_each(|client| client.say(&Say::new().query("select 1")))?;
    for client in &mut clients {
        assert_eq!(client.read_ready(1)?.error().code, "08001");
    }
    let failed = proxy.metric("pgfunnel_backend_connects_total", &["outcome=\"failed\""])?;
    assert!(failed > 20.0, "{failed} attempts");
    are_few(&proxy, "connecting to the database failed", failed as u64, start)
}

#[test]
fn what_is_slow_is_told_with_where_the_time_went() -> Result {
    let cluster = Cluster::start()?;
    let settings = "pool_size = 1\nborrow_timeout = \"2s\"\nlog_slow_query = \"300ms\"\nlog_slow_borrow = \"300ms\"";
    let proxy = Config::of(&cluster).top(settings).start()?;
    let mut client = proxy.target().parameter("application_name", "report-fn").connect()?;
    client.value("select 'sesame'")?;
    assert!(!proxy.log().contains("slow"), "{}", proxy.log());
    client.value("select pg_sleep(0.5), 'sesame'")?;
    let line =
        proxy.wait_line("slow query", &[("command", "SELECT"), ("application", "report-fn"), ("pool", "app/app")])?;
    assert_eq!(line["peer"], client.local_addr()?.to_string());
    assert!(line["database_ms"].as_u64() >= Some(500) && line["waited_ms"].as_u64() < Some(300), "{line}");
    assert!(!proxy.log().contains("slow borrow"), "{}", proxy.log());
    // Prepared, and run later: what it does is known all the same.
    client.ask(&Say::new().parse("s", "/* x */ values (pg_sleep(0.4), 'sesame')", &[]).sync())?;
    std::thread::sleep(Duration::from_millis(2500));
    client.ask(&Say::new().bind("", "s", &[]).execute("", 0).sync())?;
    proxy.wait_line("slow query", &[("command", "VALUES")])?;
    client.hold()?;
    let mut waiter = proxy.target().connect()?;
    waiter.say(&Say::new().query("with x as (select 'sesame') table x"))?;
    eventually("it waits", || Ok(proxy.waiting()? == 1.0))?;
    std::thread::sleep(Duration::from_millis(500));
    client.value("commit")?;
    waiter.read_ready(1)?;
    let line = proxy.wait_line("slow borrow", &[("command", "WITH"), ("pool_size", "1"), ("backends_lent", "1")])?;
    assert!(line["waited_ms"].as_u64() >= Some(500), "{line}");
    // One that never gets a backend is slow, too.
    client.hold()?;
    assert_eq!(waiter.query("delete from pg_class")?.error().code, "53300");
    let line = proxy.wait_line("slow borrow", &[("command", "DELETE"), ("sqlstate", "53300")])?;
    assert!(line["waited_ms"].as_u64() >= Some(2000) && line["clients_waiting"].is_u64(), "{line}");
    assert!(!proxy.log().contains("sesame"), "a literal in the log");
    Ok(())
}

/// A trace context, and what a line of it says.
fn trace(number: u8) -> (String, [(&'static str, String); 2]) {
    let (trace_id, span_id) =
        (format!("0af7651916cd43dd8448eb211c8031{number:02x}"), format!("b7ad6b71692033{number:02x}"));
    (format!("00-{trace_id}-{span_id}-01"), [("trace_id", trace_id), ("span_id", span_id)])
}

/// Waits for a line of this trace.
fn wait_trace(proxy: &Proxy, message: &str, number: u8) -> Result<Value> {
    let (_, fields) = trace(number);
    proxy.wait_line(message, &fields.each_ref().map(|(name, value)| (*name, value.as_str())))
}

#[test]
fn lines_say_which_trace_they_are_of() -> Result {
    let cluster = Cluster::start()?;
    let top = "pool_size = 1\nborrow_timeout = \"1s\"\nidle_transaction_timeout = \"3s\"";
    let config = Config::of(&cluster).top(top);
    let proxy = config.clone().top("log_slow_query = \"1ms\"").start()?;
    let sleep = |number: u8| format!("select pg_sleep(0.1) /*action='x',traceparent='{}'*/", trace(number).0);
    // A line of each kind is only logged if there was none within the last second.
    let pause = || std::thread::sleep(Duration::from_millis(2500));
    let mut client = proxy.target().connect()?;
    client.ask(&Say::new().query(&sleep(1)))?;
    wait_trace(&proxy, "slow query", 1)?;
    pause();
    // Prepared and bound later, when another one is on its way.
    client.ask(&Say::new().parse("s", &sleep(2), &[]).sync())?;
    pause();
    client.ask(&Say::new().bind("", "s", &[]).execute("", 0).sync().query(&sleep(3)))?;
    wait_trace(&proxy, "slow query", 2)?;
    pause();
    client.ask(&Say::new().parse("", &sleep(4), &[]).sync())?;
    pause();
    client.ask(&Say::new().bind("", "", &[]).execute("", 0).sync())?;
    wait_trace(&proxy, "slow query", 4)?;
    pause();
    client.value(&format!("set application_name = 'fn {}'", trace(5).0))?;
    pause();
    client.value("select pg_sleep(0.1)")?;
    wait_trace(&proxy, "slow query", 5)?;
    let unknown = proxy.log_lines()?.iter().filter(|line| line["trace_id"].as_str() == Some(&trace(3).1[0].1)).count();
    assert_eq!(unknown, 0, "it is among those that were counted");

    // Without a threshold: refusals and what ends a session, for the statement's trace.
    let proxy = config.start()?;
    let mut holder = proxy.target().connect()?;
    holder.value("begin /*traceparent='none'*/")?;
    holder.query(&sleep(6))?;
    let mut client = proxy.target().connect()?;
    assert_eq!(client.query(&sleep(7))?.error().code, "53300");
    let line = wait_trace(&proxy, "refused", 7)?;
    assert_eq!((line["command"].as_str(), line["sqlstate"].as_str()), (Some("SELECT"), Some("53300")));
    assert_eq!(holder.read_to_close()?.error().code, "25P03");
    wait_trace(&proxy, "session ended", 6)?;
    Ok(())
}

#[test]
fn a_caller_is_one_caller_whatever_it_traces() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("log_slow_query = \"1ms\"").start()?;
    let name = |number: u8| format!("report-fn;traceparent={}", trace(number).0);
    let mut clients = (1..=5)
        .map(|number| proxy.target().parameter("application_name", &name(number)).connect())
        .collect::<Result<Vec<_>>>()?;
    let caller = ["application=\"report-fn\"", "state=\"idle\""];
    eventually("they are one caller", || Ok(proxy.metric("pgfunnel_caller_clients", &caller)? == 5.0))?;
    assert_eq!(proxy.metric("pgfunnel_caller_clients", &["traceparent"])?, 0.0);
    assert_eq!(clients[0].value("show application_name")?, name(1)[..63], "PostgreSQL has it as it was sent");
    // Lines that are alike are one within a second; so here and below.
    std::thread::sleep(Duration::from_millis(2500));
    clients[2].value("select pg_sleep(0.1)")?;
    assert_eq!(wait_trace(&proxy, "slow query", 3)?["application"], "report-fn");
    // In a parameter of its own, which PostgreSQL does not know.
    std::thread::sleep(Duration::from_millis(2500));
    let traced = proxy.target().parameter("pgfunnel_traceparent", &trace(9).0);
    traced.connect()?.value("select pg_sleep(0.1)")?;
    wait_trace(&proxy, "slow query", 9)?;
    std::thread::sleep(Duration::from_millis(2500));
    let options = format!("-c pgfunnel_traceparent={} -c search_path=public", trace(10).0);
    let mut client = proxy.target().parameter("options", &options).connect()?;
    assert_eq!(client.value("select current_setting('search_path') from pg_sleep(0.1)")?, "public");
    wait_trace(&proxy, "slow query", 10)?;
    assert_eq!(client.query("show pgfunnel_traceparent")?.error().code, "42704");
    // Not one: no trace, and nobody is turned away for it.
    proxy.target().parameter("pgfunnel_traceparent", "sesame").connect()?.value("select 1")?;
    Ok(())
}

#[test]
fn on_a_terminal_a_client_cannot_make_up_lines() -> Result {
    let (port, dir) = (Port::reserve()?, tempfile::tempdir()?);
    let path = dir.path().join("terminal");
    // A terminal of its own, on stderr as well (script(1)).
    let run = format!("exec setpriv --pdeathsig KILL -- {} run", env!("CARGO_BIN_EXE_pgfunnel"));
    let mut terminal = Command::new("setpriv")
        .args(["--pdeathsig", "KILL", "--", "script", "-qefc", &run])
        .arg(&path)
        .envs([("PGFUNNEL_LISTEN", port.addr().to_string()), ("PGFUNNEL_HTTP_LISTEN", "off".to_owned())])
        .env("DATABASE_URL", "postgres://app@127.0.0.1:1/app")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let name = "a\nforged\u{2028}\u{1b}[31m";
    let target = Target::new(Addr::Tcp(port.addr()), name, PASSWORD, APP);
    let seen = || String::from_utf8_lossy(&std::fs::read(&path).unwrap_or_default()).into_owned();
    let told = eventually("it is refused", || Ok(matches!(target.login(), Ok(Err(_)))))
        .and_then(|()| eventually("that is shown", || Ok(seen().contains("login refused"))));
    let _ = terminal.kill();
    terminal.wait()?;
    told?;
    let log = seen();
    assert!(log.contains("login refused") && log.contains("\"a\\nforged\\u{2028}\\u{1b}[31m\""), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("forged")) && !log.contains('\u{2028}'), "{log}");
    assert!(log.contains("\u{1b}[3msqlstate\u{1b}[0m\u{1b}[2m=\u{1b}[0m\"28P01\""), "in colour: {log}");
    Ok(())
}

/// Clients come and go, and it stops when it is told to.
fn goes_on_without_its_log(cluster: &Cluster, stderr: impl Into<Stdio>) -> Result {
    let mut proxy = Config::of(cluster).top("log_connections = true").start_logging_into(stderr)?;
    // Several times what a pipe takes and what waits to be written.
    for _ in 0..3_000 {
        proxy.target().connect()?.value("select 1")?;
    }
    assert_eq!(proxy.get("/healthz")?.0, 200);
    assert!(proxy.metric("pgfunnel_log_lines_lost_total", &[])? > 0.0);
    proxy.signal("TERM")?;
    assert_eq!(proxy.wait_exit()?.code(), Some(0));
    Ok(())
}

#[test]
fn a_log_that_nobody_reads_holds_nobody_up() -> Result {
    let cluster = Cluster::start()?;
    let (_reader, pipe) = std::io::pipe()?;
    goes_on_without_its_log(&cluster, pipe)
}

#[test]
fn a_log_that_cannot_be_written_ends_nobody() -> Result {
    let cluster = Cluster::start()?;
    goes_on_without_its_log(&cluster, std::fs::OpenOptions::new().write(true).open("/dev/full")?)?;
    let (reader, pipe) = std::io::pipe()?;
    drop(reader);
    goes_on_without_its_log(&cluster, pipe)
}

#[test]
fn a_backend_that_is_ended_while_idle_is_told_with_its_pool() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let mut client = proxy.target().connect()?;
    let pid = client.value("select pg_backend_pid()")?;
    cluster.sql(&format!("select pg_terminate_backend({pid})"))?;
    eventually("it is gone", || Ok(cluster.backends()? == 0))?;
    // It is noticed as the backend is lent again.
    assert_ne!(client.value("select pg_backend_pid()")?, pid);
    proxy.wait_line("an idle backend was ended", &[("pool", "app/app"), ("sqlstate", "57P01"), ("backend", &pid)])?;
    Ok(())
}

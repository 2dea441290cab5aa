//! What is counted of logins, limits and failures.

mod common;

use common::*;

#[test]
fn logins_are_told_by_phase_and_by_tls() -> Result {
    let cluster = Cluster::start()?;
    let dir = tempfile::tempdir()?;
    let authority = Authority::new("authority")?;
    let (cert, key) = authority.write(dir.path(), "server")?;
    let proxy = Config::of(&cluster).top(&format!("client_tls_cert = {cert:?}\nclient_tls_key = {key:?}")).start()?;
    let plain = proxy.target().connect()?;
    let encrypted = proxy.target().tls(authority.client(None, false)?).connect()?;
    assert_eq!(proxy.metric("pgfunnel_clients_tls", &[])?, 1.0);
    for phase in ["startup", "auth"] {
        let count = proxy.metric("pgfunnel_login_seconds_count", &[&format!("phase=\"{phase}\"")])?;
        assert_eq!(count, 2.0, "{phase}");
    }
    drop((plain, encrypted));
    eventually("they are gone", || Ok(proxy.metric("pgfunnel_clients_tls", &[])? == 0.0))?;
    let version = format!("version=\"{}\"", env!("CARGO_PKG_VERSION"));
    assert_eq!(proxy.metric("pgfunnel_build_info", &[&version])?, 1.0);
    assert!(proxy.metric("process_open_fds", &[])? > 3.0 && proxy.metric("process_resident_memory_bytes", &[])? > 1e6);
    assert!(proxy.metric("pgfunnel_config_read_timestamp_seconds", &[])? > 1.7e9);
    assert!(proxy.metric("pgfunnel_worker_busy_seconds_total", &["worker=\"0\""])? > 0.0);
    Ok(())
}

#[test]
fn ends_of_logins_and_of_clients_are_told_apart() -> Result {
    let cluster = Cluster::start()?;
    let top = "idle_transaction_timeout = \"300ms\"\nclient_idle_timeout = \"1s\"";
    let mut proxy = Config::of(&cluster).top(top).user("max_clients = 3").start()?;
    let count = |name: &str, label: &str| proxy.metric(name, &[label]);
    let login = |outcome: &str| count("pgfunnel_logins_total", &format!("outcome=\"{outcome}\""));
    let end = |how: &str| count("pgfunnel_disconnects_total", &format!("how=\"{how}\""));
    assert!(proxy.target().user(APP, "wrong").connect().is_err());
    drop(std::net::TcpStream::connect(proxy.addr())?);
    let mut clients = (0..3).map(|_| proxy.target().connect()).collect::<Result<Vec<_>>>()?;
    assert!(proxy.target().connect().is_err(), "one too many");
    eventually("they are counted", || Ok((login("denied")?, login("left")?, login("failed")?) == (1.0, 1.0, 1.0)))?;
    assert_eq!(login("ok")?, 3.0);
    // One says goodbye, one vanishes, one is silent in a transaction.
    let mut frozen = clients.remove(0);
    frozen.hold()?;
    clients.remove(0).reset()?;
    clients.remove(0).say(&Say::new().terminate())?;
    assert_eq!(frozen.read_to_close()?.error().code, "25P03");
    eventually("all have ended", || Ok((end("goodbye")?, end("vanished")?, end("frozen")?) == (1.0, 1.0, 1.0)))?;
    assert_eq!(proxy.target().connect()?.read_to_close()?.error().code, "57P05");
    eventually("it is counted", || Ok(end("idle")? == 1.0))?;
    let mut lost = proxy.target().connect()?;
    let _ = lost.query("select pg_terminate_backend(pg_backend_pid())");
    eventually("it is counted", || Ok(end("database")? == 1.0))?;
    let mut busy = proxy.target().connect()?;
    busy.say(&Say::new().query("select pg_sleep(2)"))?;
    let _idle = proxy.target().connect()?;
    proxy.signal("TERM")?;
    eventually("the idle one is ended", || Ok(end("stopped")? == 1.0))?;
    assert_eq!(proxy.metric("pgfunnel_draining", &[])?, 1.0);
    drop(busy.read_ready(1)?);
    assert!(proxy.wait_exit()?.success());
    Ok(())
}

#[test]
fn what_is_being_undone_is_a_state_of_its_own() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let state = |name: &str| proxy.metric("pgfunnel_backends", &[&format!("state=\"{name}\"")]);
    let mut client = proxy.target().connect()?;
    // It takes its time to be cancelled: the error is caught, once.
    let stubborn = "do $$ begin perform pg_sleep(20); exception when query_canceled then perform pg_sleep(2); end $$";
    client.say(&Say::new().query(stubborn))?;
    eventually("it runs", || Ok(state("active")? == 1.0))?;
    client.reset()?;
    eventually("it is being cancelled", || Ok((state("cancelling")?, state("active")?) == (1.0, 0.0)))?;
    eventually("it is idle", || Ok((state("cancelling")?, state("idle")?) == (0.0, 1.0)))?;
    assert_eq!(state("cleaning")?, 0.0);
    Ok(())
}

#[test]
fn the_first_row_has_a_time_of_its_own() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let mut client = proxy.target().connect()?;
    let time = |name: &str| proxy.metric(&format!("pgfunnel_query_{name}seconds_sum"), &[]);
    // Enough for the first rows to be sent at once.
    let slow = "select repeat('x', 100), case n when 1000 then pg_sleep(1) end from generate_series(1, 1000) n";
    assert!(client.query(slow)?.errors().is_empty());
    eventually("it is counted", || Ok(proxy.metric("pgfunnel_query_first_bytes_seconds_count", &[])? == 1.0))?;
    let (first, whole) = (time("first_bytes_")?, time("")?);
    assert!(first < 0.8 && whole > 1.0, "{first} of {whole}");
    assert!(client.query("select pg_sleep(0.5)")?.errors().is_empty());
    eventually("it is counted", || Ok(proxy.metric("pgfunnel_query_first_bytes_seconds_count", &[])? == 2.0))?;
    assert!(time("first_bytes_")? > first + 0.4, "what comes at once is there at its end");
    Ok(())
}

#[test]
fn the_configuration_has_a_hash() -> Result {
    let cluster = Cluster::start()?;
    let config = Config::of(&cluster);
    let proxy = config.start()?;
    let hash = || -> Result<String> {
        let (_, text) = proxy.get("/metrics")?;
        let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("pgfunnel_config_info{")).collect();
        assert_eq!(lines.len(), 1, "{lines:?}");
        Ok(lines.concat())
    };
    let first = hash()?;
    assert_eq!(proxy.metric("pgfunnel_max_clients", &[])?, 10_000.0);
    proxy.reload(&config.clone().top("max_clients = 77"))?;
    eventually("it is reloaded", || Ok(proxy.metric("pgfunnel_max_clients", &[])? == 77.0))?;
    assert_ne!(hash()?, first);
    proxy.reload(&config)?;
    eventually("it is as it was", || Ok(hash()? == first))?;
    Ok(())
}

#[test]
fn backends_by_tls_are_counted() -> Result {
    let (cert, key) = Authority::new("authority")?.sign("server", &["127.0.0.1"])?;
    let files = vec![("server.crt", cert), ("server.key", key)];
    let cluster = Cluster::with(Settings { conf: "ssl = on\n".into(), files, ..Settings::default() })?;
    for (tls, count) in [("disable", 0.0), ("prefer", 1.0), ("require", 1.0)] {
        let proxy = Config::of(&cluster).database(&format!("tls = \"{tls}\"")).start()?;
        proxy.target().connect()?.value("select 1")?;
        for name in ["pgfunnel_backends_tls", "pgfunnel_backend_connects_tls_total"] {
            assert_eq!(proxy.metric(name, &[])?, count, "{name} with {tls}");
        }
        assert_eq!(proxy.metric("pgfunnel_queries_tls_total", &[])?, 0.0);
    }
    Ok(())
}

#[test]
fn limits_in_time_are_counted_by_their_setting() -> Result {
    let cluster = Cluster::start()?;
    let top = "idle_transaction_timeout = \"300ms\"\nclient_idle_timeout = \"1s\"\nquery_timeout = \"300ms\"";
    let proxy = Config::of(&cluster).top(top).start()?;
    let count = |setting: &str| proxy.metric("pgfunnel_timeouts_total", &[&format!("setting=\"{setting}\"")]);
    assert_eq!(proxy.target().connect()?.query("select pg_sleep(20)")?.error().code, "57014");
    assert_eq!(count("query_timeout")?, 1.0);
    let mut silent = proxy.target().connect()?;
    silent.hold()?;
    assert_eq!(silent.read_to_close()?.error().code, "25P03");
    assert_eq!(count("idle_transaction_timeout")?, 1.0);
    assert_eq!(proxy.target().connect()?.read_to_close()?.error().code, "57P05");
    eventually("it is counted", || Ok(count("client_idle_timeout")? >= 1.0))?;
    let told = proxy.metric("pgfunnel_errors_total", &["side=\"proxy\"", "sqlstate=\"25P03\""])?;
    assert_eq!(told, 1.0);
    Ok(())
}

#[test]
fn backends_that_cannot_be_opened_are_counted_by_sqlstate() -> Result {
    let mut cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("borrow_timeout = \"1s\"").start()?;
    let mut client = proxy.target().connect()?;
    client.value("select 1")?;
    cluster.stop("immediate")?;
    assert!(!client.query("select 1").is_ok_and(|answer| answer.errors().is_empty()));
    let failed = |code: &str| proxy.metric("pgfunnel_backend_connect_errors_total", &[&format!("sqlstate=\"{code}\"")]);
    eventually("it is counted", || Ok(failed("08001")? >= 1.0))?;
    let unreachable = || proxy.metric("pgfunnel_database_unreachable_seconds_total", &[]);
    eventually("the time is counted", || Ok(unreachable()? >= 2.0))?;
    let (_, history) = proxy.get("/history")?;
    assert!(history.contains("\"app/app\":["), "{history}");
    Ok(())
}

#[test]
fn sqlstates_that_a_server_makes_up_are_no_labels() -> Result {
    let fake = Fake::play(|conversation| {
        conversation.startup()?;
        let code = format!("Q{:04}", conversation.number);
        Ok(conversation.send(&reply::error("FATAL", &code, "no"))?)
    })?;
    let proxy = Config::port(fake.port()).top("borrow_timeout = \"500ms\"").start()?;
    let told = || proxy.metric("pgfunnel_backend_connect_errors_total", &["sqlstate=\"other\""]);
    eventually("three have been counted", || {
        let _ = proxy.target().first_error();
        Ok(told()? >= 3.0)
    })?;
    let (_, text) = proxy.get("/metrics")?;
    assert!(!text.contains("sqlstate=\"Q"), "{text}");
    assert_eq!(text.matches("\npgfunnel_backend_connect_errors_total{").count(), 1);
    Ok(())
}

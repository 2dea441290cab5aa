//! Signals, health, metrics: draining, stopping at once, reloading without dropping anyone.

mod common;

use std::time::{Duration, Instant};

use common::*;

/// Reads one error that ends the connection.
fn last_words(client: &mut Wire) -> Result<Fields> {
    Ok(client.read_to_close()?.error())
}

#[test]
fn sigterm_drains() -> Result {
    let cluster = Cluster::start()?;
    let mut proxy = Config::of(&cluster).top("pool_size = 3\ndrain_timeout = \"20s\"").start()?;
    let (mut idle, mut busy, mut open) =
        (proxy.target().connect()?, proxy.target().connect()?, proxy.target().connect()?);
    idle.value("select 1")?;
    busy.say(&Say::new().query("select pg_sleep(2), 'finished'"))?;
    open.value("begin; create table kept (a int)")?;
    proxy.signal("TERM")?;
    // Idle clients are told at once.
    let error = last_words(&mut idle)?;
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P01"));
    // The load balancer is told, and nobody new is taken.
    eventually("readyz fails", || Ok(!matches!(proxy.get("/readyz"), Ok((200, _)))))?;
    assert!(!matches!(proxy.target().login(), Ok(Ok(_))), "a new client was taken while draining");
    // Those at work finish.
    assert_eq!(busy.read_until(b'Z', 1)?.rows()[0][1].as_deref(), Some("finished"));
    assert_eq!(last_words(&mut busy)?.code, "57P01");
    assert_eq!(open.value("insert into kept values (1)")?, "");
    assert_eq!(open.query("commit")?.commands(), ["COMMIT"]);
    assert_eq!(last_words(&mut open)?.code, "57P01");
    assert!(proxy.wait_exit()?.success());
    assert_eq!(cluster.sql("select count(*) from kept")?, "1");
    eventually("no backend is left", || Ok(cluster.backends()? == 0))
}

#[test]
fn drain_timeout_ends_what_does_not_end() -> Result {
    let cluster = Cluster::start()?;
    let mut proxy = Config::of(&cluster).top("drain_timeout = \"1s\"").start()?;
    let (mut running, mut open) = (proxy.target().connect()?, proxy.target().connect()?);
    running.say(&Say::new().query("select pg_sleep(60)"))?;
    open.hold()?;
    let start = Instant::now();
    proxy.signal("TERM")?;
    let errors = [running.read_to_close()?.errors(), open.read_to_close()?.errors()];
    assert!(proxy.wait_exit()?.success());
    assert!(start.elapsed() > Duration::from_millis(900) && start.elapsed() < Duration::from_secs(15));
    for error in errors {
        assert_eq!(error.last().map(|error| error.code.as_str()), Some("57P01"), "{error:?}");
    }
    eventually("nothing goes on in the database", || Ok(cluster.backends()? == 0))
}

#[test]
fn an_idle_proxy_drains_at_once() -> Result {
    let cluster = Cluster::start()?;
    let mut proxy = Config::of(&cluster).top("drain_timeout = \"60s\"").start()?;
    proxy.target().connect()?.value("select 1")?;
    let start = Instant::now();
    proxy.signal("TERM")?;
    assert!(proxy.wait_exit()?.success());
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    Ok(())
}

#[test]
fn sigint_stops_at_once() -> Result {
    let cluster = Cluster::start()?;
    let mut proxy = Config::of(&cluster).top("drain_timeout = \"60s\"").start()?;
    let mut running = proxy.target().connect()?;
    running.say(&Say::new().query("select pg_sleep(60)"))?;
    eventually("it runs", || {
        Ok(cluster
            .sql("select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'")?
            == "1")
    })?;
    let start = Instant::now();
    proxy.signal("INT")?;
    running.read_to_close()?;
    proxy.wait_exit()?;
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    Ok(())
}

#[test]
fn sigint_ends_a_drain() -> Result {
    let cluster = Cluster::start()?;
    let mut proxy = Config::of(&cluster).top("drain_timeout = \"60s\"").start()?;
    let mut open = proxy.target().connect()?;
    open.hold()?;
    proxy.signal("TERM")?;
    eventually("readyz fails", || Ok(!matches!(proxy.get("/readyz"), Ok((200, _)))))?;
    assert!(proxy.alive()?);
    proxy.signal("INT")?;
    proxy.wait_exit()?;
    Ok(())
}

#[test]
fn sighup_changes_pool_sizes_without_dropping_anyone() -> Result {
    let cluster = Cluster::start()?;
    let config = Config::of(&cluster).top("borrow_timeout = \"20s\"");
    let size = |size: usize| config.clone().database(&format!("pool_size = {size}"));
    let proxy = size(1).start()?;
    let mut holders = vec![proxy.target().connect()?];
    holders[0].hold()?;
    let mut waiting = proxy.target().connect()?;
    waiting.say(&Say::new().query("select 'served'"))?;
    assert!(waiting.silent_for(Duration::from_millis(300))?, "there is only one backend");
    proxy.reload(&size(3))?;
    assert_eq!(waiting.read_ready(1)?.value(), "served", "a second one");
    for _ in 0..2 {
        let mut client = proxy.target().connect()?;
        client.hold()?;
        holders.push(client);
    }
    assert_eq!(cluster.backends()?, 3);
    // Smaller again: nobody is cut off, the surplus goes as it comes free.
    proxy.reload(&size(1))?;
    for client in &mut holders {
        assert_eq!(client.value("select 'still here'")?, "still here");
        client.value("commit")?;
    }
    eventually("one backend remains", || Ok(cluster.backends()? == 1))?;
    for client in &mut holders {
        assert_eq!(client.value("select 1")?, "1");
    }
    Ok(())
}

#[test]
fn a_pool_made_smaller_keeps_as_many_idle_backends_as_it_may() -> Result {
    let cluster = Cluster::start()?;
    let config = Config::of(&cluster);
    let size = |size: usize| config.clone().database(&format!("pool_size = {size}"));
    let proxy = size(5).start()?;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = proxy.target().connect()?;
        client.hold()?;
        clients.push(client);
    }
    let pids = "select string_agg(pid::text, ' ') from pg_stat_activity where usename = 'app'";
    let before = cluster.sql(pids)?;
    clients.iter_mut().try_for_each(|client| client.value("commit").map(drop))?;
    proxy.reload(&size(2))?;
    eventually("the surplus is closed", || Ok(cluster.backends()? <= 2))?;
    // Not more than the surplus, then or a round of upkeep later.
    std::thread::sleep(Duration::from_millis(2_500));
    let after = cluster.sql(pids)?;
    assert_eq!(after.split(' ').filter(|pid| before.contains(pid)).count(), 2, "{before} -> {after}");
    Ok(())
}

#[test]
fn sighup_changes_users_and_limits() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("create role late login password 'better late'")?;
    let config = Config::of(&cluster);
    let proxy = config.start()?;
    let late = proxy.target().user("late", "better late");
    assert_eq!(late.refusal()?.code, "28P01");
    let mut client = proxy.target().connect()?;
    proxy.reload(&config.clone().section("[users.late]\npassword = \"better late\""))?;
    eventually("the new user gets in", || Ok(late.login()?.is_ok()))?;
    assert_eq!(late.connect()?.value("select current_user")?, "late");
    proxy.reload(&config.clone().top("max_clients = 2"))?;
    eventually("the user is gone", || Ok(late.login()?.is_err()))?;
    let _second = proxy.target().connect()?;
    eventually("a third client is refused", || {
        Ok(proxy.target().login()?.err().is_some_and(|error| error.code == "53300"))
    })?;
    assert!(proxy.metric("pgfunnel_refusals_total", &["setting=\"max_clients\""])? >= 1.0);
    assert_eq!(client.value("select 1")?, "1");
    Ok(())
}

#[test]
fn sighup_moves_a_database_to_another_server() -> Result {
    let (old, new) = (Cluster::start()?, Cluster::start()?);
    let proxy = Config::of(&old).start()?;
    let mut client = proxy.target().connect()?;
    let port = "select inet_server_port()";
    assert_eq!(client.value(port)?, old.port().to_string());
    let mut open = proxy.target().connect()?;
    open.hold()?;
    proxy.reload(&Config::of(&new))?;
    eventually("clients are served by the new one", || Ok(client.value(port)? == new.port().to_string()))?;
    assert_eq!(open.value(port)?, old.port().to_string(), "a transaction stays where it is");
    open.value("commit")?;
    assert_eq!(open.value(port)?, new.port().to_string(), "the next one moves");
    eventually("nobody is left on the old one", || Ok(old.backends()? == 0))
}

#[test]
fn a_wrong_configuration_is_never_half_applied() -> Result {
    let cluster = Cluster::start()?;
    let config = Config::of(&cluster);
    let proxy = config.start()?;
    let mut client = proxy.target().connect()?;
    proxy.reload(&config.clone().top("pool_size = 0\nmax_clients = 1"))?;
    proxy.wait_log("pool_size")?;
    let wrong = config.clone().top("max_clients = 1\npool_sise = 3");
    proxy.reload(&wrong)?;
    // In a log of JSON.
    proxy.wait_log(r#"unknown key \"pool_sise\"; did you mean \"pool_size\"?"#)?;
    let _others: Vec<_> = (0..3).map(|_| proxy.target().connect()).collect::<Result<_>>()?;
    assert_eq!(client.value("select 1")?, "1");
    Ok(())
}

#[test]
fn health_and_metrics() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2\nborrow_timeout = \"500ms\"").start()?;
    assert_eq!(proxy.get("/healthz")?.0, 200);
    assert_eq!(proxy.get("/readyz")?.0, 200);
    assert_eq!(proxy.get("/nothing")?.0, 404);
    let mut holder = proxy.target().connect()?;
    holder.hold()?;
    let mut pinned = proxy.target().connect()?;
    pinned.value("create temp table pin (a int)")?;
    assert_eq!(proxy.target().first_error()?.code, "53300");
    eventually("two clients are left", || Ok(proxy.metric("pgfunnel_clients", &[])? == 2.0))?;
    assert_eq!(proxy.metric("pgfunnel_backends", &[])?, 2.0);
    assert_eq!(proxy.waiting()?, 0.0);
    assert!(proxy.metric("pgfunnel_pins_total", &["reason="])? >= 1.0);
    assert!(proxy.metric("pgfunnel_errors_total", &["side=\"proxy\"", "53"])? >= 1.0);
    assert!(proxy.metric("pgfunnel_borrow_wait_seconds_count", &[])? >= 2.0);
    let (status, text) = proxy.get("/metrics")?;
    assert_eq!(status, 200);
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let (name, value) = line.rsplit_once(' ').ok_or("a line without a value")?;
        assert!(name.starts_with("pgfunnel_") || name.starts_with("process_"), "{line}");
        value.parse::<f64>()?;
    }
    Ok(())
}

#[test]
fn a_port_in_use_is_named() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("second.toml");
    let http = Port::reserve()?;
    let config = format!(
        "listen = \"{}\"\nhttp_listen = \"{}\"\n[databases.app]\nhost = \"127.0.0.1\"\n",
        proxy.addr(),
        http.addr()
    );
    std::fs::write(&file, config)?;
    let output =
        std::process::Command::new(env!("CARGO_BIN_EXE_pgfunnel")).arg("run").arg("--config").arg(&file).output()?;
    assert!(!output.status.success());
    let text = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    assert!(text.contains(&proxy.addr().to_string()) && text.contains("in use"), "{text}");
    Ok(())
}

#[test]
fn a_slow_http_client_does_not_matter() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let _silent: Vec<_> =
        (0..50).map(|_| std::net::TcpStream::connect(proxy.http_addr())).collect::<std::io::Result<_>>()?;
    assert_eq!(proxy.get("/healthz")?.0, 200);
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    Ok(())
}

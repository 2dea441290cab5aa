//! What happens on the database's side: killed backends, restarts, refusals, and servers that misbehave.

mod common;

use std::io::Read;
use std::time::{Duration, Instant};

use common::*;

const KILL_ALL: &str = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app'";

/// Ends all backends of the role and waits until they have said so.
fn kill_all(cluster: &Cluster) -> Result {
    cluster.sql(KILL_ALL)?;
    eventually("they are gone", || Ok(cluster.backends()? == 0))
}

/// Those who watch are not sent to `pool_size` where it is the database's fault.
fn nobody_was_refused(proxy: &Proxy) -> Result {
    assert_eq!(proxy.metric("pgfunnel_refusals_total", &[])?, 0.0);
    let waits = |outcome| proxy.metric("pgfunnel_borrow_wait_seconds_count", &[outcome]);
    assert_eq!((waits("outcome=\"timed_out\"")?, waits("outcome=\"refused\"")?), (0.0, 1.0));
    Ok(())
}

#[test]
fn a_backend_killed_in_mid_query() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 3").start()?;
    let mut other = proxy.target().connect()?;
    other.value("select 1")?;
    let mut client = proxy.target().connect()?;
    client.say(&Say::new().query("select pg_sleep(60)"))?;
    let pid = "select pid from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'";
    eventually("it sleeps", || Ok(!cluster.sql(pid)?.is_empty()))?;
    cluster.sql(&format!("select pg_terminate_backend(({pid}))"))?;
    // The database's own words; afterwards the client is served again, or closed as PostgreSQL would.
    let error = client.read_until(b'E', 1)?.error();
    assert_eq!((error.code.as_str(), error.message.contains("administrator command")), ("57P01", true), "{error:?}");
    if client.read_or_close()?.is_some_and(|message| message.tag == b'Z') {
        assert_eq!(client.value("select 1")?, "1");
    }
    assert_eq!(other.value("select 'nothing noticed'")?, "nothing noticed");
    Ok(())
}

#[test]
fn killing_every_idle_backend_between_two_queries_is_invisible() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 4").start()?;
    let mut clients: Vec<_> = (0..4).map(|_| proxy.target().connect()).collect::<Result<_>>()?;
    for round in 0..10 {
        for client in &mut clients {
            client.say(&Say::new().query("select pg_sleep(0.02)"))?;
        }
        for client in &mut clients {
            assert_eq!(client.read_ready(1)?.error().code, "");
        }
        kill_all(&cluster)?;
        for client in &mut clients {
            let named = format!("s{round}");
            let say = Say::new().parse(&named, "select 'served'", &[]).bind("", &named, &[]).execute("", 0).sync();
            assert_eq!(client.ask(&say)?.value(), "served", "round {round}");
        }
    }
    Ok(())
}

#[test]
fn prepared_statements_survive_their_backends() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let mut client = proxy.target().connect()?;
    client.ask(&Say::new().parse("s", "select $1::int * 2", &[]).sync())?;
    for number in 0..5 {
        kill_all(&cluster)?;
        let say = Say::new().bind("", "s", &[Some(&number.to_string())]).execute("", 0).sync();
        assert_eq!(client.ask(&say)?.value(), (number * 2).to_string());
    }
    Ok(())
}

#[test]
fn a_backend_killed_in_an_idle_transaction() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let mut client = proxy.target().connect()?;
    client.value("begin; create temp table t (a int)")?;
    kill_all(&cluster)?;
    // Told at once or at the next statement, but told, and never served as if nothing had happened.
    let _ = client.say(&Say::new().query("select 'in a transaction that is lost'"));
    let error = client.read_until(b'E', 1)?.error();
    assert_eq!(error.code, "57P01", "{error:?}");
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn the_backend_of_an_idle_pinned_client_is_killed() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let mut client = proxy.target().connect()?;
    client.value("create temp table mine as select 1 as a")?;
    kill_all(&cluster)?;
    // Its session is lost with its backend: it is told, not given another that lacks the table.
    let _ = client.say(&Say::new().query("select a from mine"));
    let error = client.read_until(b'E', 1)?.error();
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "57P01"), "{error:?}");
    assert!(client.read_to_close()?.0.is_empty());
    Ok(())
}

#[test]
fn the_database_restarts() -> Result {
    let mut cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 4").start()?;
    for mode in ["fast", "immediate"] {
        let mut clients: Vec<_> = (0..4).map(|_| proxy.target().connect()).collect::<Result<_>>()?;
        for client in &mut clients {
            client.value("select 1")?;
        }
        let mut away = proxy.target().connect()?;
        cluster.stop(mode)?;
        // Who asks while it is away is told what the trouble is; the others never notice.
        let start = Instant::now();
        let error = away.first_error(&Say::new().query("select 1"))?;
        assert!(start.elapsed() < Duration::from_secs(15));
        assert!(error.code.starts_with("08") || error.code.starts_with("57P"), "{mode}: {error:?}");
        cluster.boot()?;
        for client in &mut clients {
            assert_eq!(client.value("select 1")?, "1", "{mode}");
        }
    }
    Ok(())
}

#[test]
fn the_database_is_not_there_yet() -> Result {
    let mut cluster = Cluster::start()?;
    cluster.stop("fast")?;
    let proxy = Config::of(&cluster).spawn()?;
    eventually("it listens", || Ok(matches!(proxy.get("/healthz"), Ok((200, _)))))?;
    let start = Instant::now();
    let error = proxy.target().first_error()?;
    assert!(start.elapsed() < Duration::from_secs(20));
    assert!(error.code.starts_with("08") || error.code.starts_with("57P"), "{error:?}");
    cluster.boot()?;
    eventually("clients are served", || Ok(proxy.target().first_error()? == Fields::default()))
}

#[test]
fn nobody_listens_there() -> Result {
    let port = Port::reserve()?;
    let proxy = Config::port(port.number()).spawn()?;
    eventually("it listens", || Ok(matches!(proxy.get("/healthz"), Ok((200, _)))))?;
    let error = proxy.target().first_error()?;
    assert!(error.code.starts_with("08"), "{error:?}");
    assert!(format!("{error:?}").contains(&port.number().to_string()), "says where: {error:?}");
    nobody_was_refused(&proxy)
}

#[test]
fn a_database_that_accepts_connections_and_says_nothing() -> Result {
    let fake = Fake::play(|conversation| Ok(conversation.stream.read_to_end(&mut Vec::new()).map(drop)?))?;
    let proxy = Config::port(fake.port()).top("borrow_timeout = \"1500ms\"").console().spawn()?;
    eventually("it listens", || Ok(matches!(proxy.get("/healthz"), Ok((200, _)))))?;
    let target = proxy.target();
    let asking = std::thread::spawn(move || target.first_error().map_err(|error| format!("{error:?}")));
    let mut console = proxy.console().connect()?;
    // Long before connect_timeout makes an error of it.
    let sentence = "gets no more than 0 of 20 backends; the database has not answered a login for";
    eventually("it is said", || Ok(console.table("SHOW DIAGNOSIS")?[0]["sentence"].contains(sentence)))?;
    let error = asking.join().map_err(|_| "it panicked")??;
    assert_eq!(error.code, "08001", "{error:?}");
    let text = format!("{error:?}");
    assert!(text.contains(&format!("127.0.0.1:{}: no answer for 1.", fake.port())), "{text}");
    assert!(!text.contains("pool_size") && text.contains("borrow_timeout"), "{text}");
    let database = ["side=\"database\"", "sqlstate=\"08001\""];
    assert_eq!(proxy.metric("pgfunnel_errors_total", &database)?, 1.0);
    nobody_was_refused(&proxy)
}

#[test]
fn a_wrong_backend_password_is_told_in_the_databases_words() -> Result {
    let cluster = Cluster::start()?;
    let config = Config::of(&cluster).top("borrow_timeout = \"25s\"").user("backend_password = \"outdated\"");
    let proxy = config.spawn()?;
    eventually("it listens", || Ok(matches!(proxy.get("/healthz"), Ok((200, _)))))?;
    let start = Instant::now();
    let error = proxy.target().first_error()?;
    assert_eq!(error.code, "28P01", "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(15), "at once, not after borrow_timeout");
    assert!(error.detail.contains("pgfunnel's own login as \"app\""), "not the client's: {error:?}");
    assert!(error.hint.contains("backend_password of [users.app]"), "{error:?}");
    assert!(!proxy.log().contains("outdated"), "a password in the log");
    Ok(())
}

#[test]
fn what_postgresql_refuses_pgfunnel_names_the_setting() -> Result {
    let cluster = Cluster::start()?;
    let unknown = Config::of(&cluster).database("dbname = \"elsewhere\"").console().spawn()?;
    let fake = Fake::play(|conversation| {
        conversation.startup()?;
        Ok(conversation.send(&reply::error("FATAL", "28000", "no pg_hba.conf entry for host"))?)
    })?;
    let shut_out = Config::port(fake.port()).console().spawn()?;
    for (proxy, code, hint, sentence) in [
        (unknown, "3D000", "\"elsewhere\" is the name on the server", "look at dbname"),
        (shut_out, "28000", "pg_hba.conf", "look at the server's pg_hba.conf"),
    ] {
        eventually("it listens", || Ok(matches!(proxy.get("/healthz"), Ok((200, _)))))?;
        let error = proxy.target().first_error()?;
        assert_eq!(error.code, code, "{error:?}");
        assert!(error.detail.contains("pgfunnel's own login") && error.hint.contains(hint), "{error:?}");
        let said = proxy.console().connect()?.table("SHOW DIAGNOSIS")?[0]["sentence"].clone();
        assert!(said.contains(sentence), "{said}");
    }
    Ok(())
}

#[test]
fn too_many_connections_on_the_server() -> Result {
    let cluster = Cluster::conf("max_connections = 8\nsuperuser_reserved_connections = 3\n")?;
    let hogs: Vec<_> = (0..5).map(|_| cluster.target().connect()).collect::<Result<_>>()?;
    let proxy = Config::of(&cluster).top("pool_size = 4").spawn()?;
    eventually("it listens", || Ok(matches!(proxy.get("/healthz"), Ok((200, _)))))?;
    let start = Instant::now();
    let error = proxy.target().first_error()?;
    assert!(start.elapsed() < Duration::from_secs(15));
    assert_eq!(error.code, "53300", "{error:?}");
    assert!(error.message.contains("connection") || error.message.contains("clients"), "{error:?}");
    drop(hogs);
    eventually("clients are served", || Ok(proxy.target().first_error()? == Fields::default()))
}

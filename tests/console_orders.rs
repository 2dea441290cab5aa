//! What an operator can do on the admin console, and what clients notice of it.

mod common;

use std::time::Duration;

use common::*;

#[test]
fn clients_are_ended_and_what_they_did_is_rolled_back() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("create table t (n int); grant all on t to app")?;
    let proxy = Config::of(&cluster).console().start()?;
    let mut console = proxy.console().connect()?;
    let connect = |name: &str| proxy.target().parameter("application_name", name).connect();
    let (mut victim, mut other) = (connect("victim")?, connect("other")?);
    victim.value("begin; insert into t values (1)")?;
    let id = console.row("SHOW CLIENTS", "application_name", "victim")?["id"].clone();
    console.order(&format!("KILL_CLIENT {id}"))?;
    let error = victim.read_to_close()?.error();
    assert_eq!((error.code.as_str(), error.message.contains("administrator command")), ("57P01", true), "{error:?}");
    assert_eq!(console.query(&format!("KILL_CLIENT {id}"))?.error().code, "42704");
    assert_eq!(other.value("select count(*) from t")?, "0");
    // All of a database, whatever they do; who comes then waits.
    let (mut idle, mut running, mut open) = (connect("idle")?, connect("running")?, connect("open")?);
    running.say(&Say::new().query("select pg_sleep(60)"))?;
    open.hold()?;
    eventually("it runs", || Ok(console.pool("SHOW POOLS")?["sv_active"] == "2"))?;
    console.order("KILL app")?;
    for client in [&mut idle, &mut open, &mut running, &mut other] {
        assert_eq!(client.read_to_close()?.errors().last().map(|error| error.code.as_str()), Some("57P01"));
    }
    eventually("no backend is left", || Ok(cluster.backends()? == 0))?;
    let mut next = proxy.target().connect()?;
    next.say(&Say::new().query("select 1"))?;
    eventually("it waits", || Ok(console.pool("SHOW POOLS")?["cl_waiting"] == "1"))?;
    console.order("RESUME app")?;
    assert_eq!(next.read_ready(1)?.value(), "1");
    Ok(())
}

#[test]
fn backends_are_replaced_as_they_come_back() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).console().start()?;
    let (mut idle, mut busy) = (proxy.target().connect()?, proxy.target().connect()?);
    busy.hold()?;
    let (old, pid) = (idle.value("select pg_backend_pid()")?, busy.value("select pg_backend_pid()")?);
    let mut console = proxy.console().connect()?;
    console.order("RECONNECT app")?;
    assert_eq!(console.row("SHOW SERVERS", "remote_pid", &pid)?["close_needed"], "1");
    let wait = later(&proxy.console(), "WAIT_CLOSE");
    assert_ne!(idle.value("select pg_backend_pid()")?, old);
    assert_eq!(busy.value("select pg_backend_pid()")?, pid, "it is kept as long as its transaction");
    assert!(!wait.is_finished());
    busy.value("commit")?;
    answered(wait)?;
    assert_ne!(busy.value("select pg_backend_pid()")?, pid);
    Ok(())
}

/// A database is dropped, renamed or copied only while nobody is connected to it, and pgfunnel is.
#[test]
fn a_database_is_dropped_once_its_backends_are_closed() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("alter role app createdb")?;
    let any = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let proxy = Config::of(&cluster).section(&any).console().start()?;
    let (mut client, mut console) = (proxy.target().connect()?, proxy.console().connect()?);
    client.query("create database one")?;
    for (name, order) in [
        ("one", "create database copy template one"),
        ("one", "alter database one rename to two"),
        ("two", "drop database two"),
        ("copy", "drop database copy with (force)"),
    ] {
        proxy.target().database(name).connect()?.value("select 1")?;
        if name == "two" {
            // After five seconds of PostgreSQL's own patience.
            assert_eq!(client.query(order)?.error().code, "55006", "{order}");
        }
        if name != "copy" {
            console.order(&format!("RECONNECT {name}"))?;
        }
        let answer = client.query(order)?;
        assert_eq!(answer.errors().len(), 0, "{order}: {answer:?}");
    }
    Ok(())
}

#[test]
fn settings_are_changed_until_the_next_reload() -> Result {
    let cluster = Cluster::start()?;
    let config = Config::of(&cluster).top("pool_size = 2").console();
    let proxy = config.start()?;
    let mut console = proxy.console().connect()?;
    let mut client = proxy.target().connect()?;
    client.value("select 1")?;
    let failed = || proxy.metric("pgfunnel_reloads_total", &["outcome=\"failed\""]);
    let mut size = || console.pool("SHOW POOLS").map(|row| row["pool_size"].clone());
    assert_eq!(size()?, "2");
    let mut orders = proxy.console().connect()?;
    orders.order("SET pool_size = 7")?;
    assert_eq!(size()?, "7");
    orders.order("SET databases.app.pool_size TO '3'")?;
    assert_eq!(size()?, "3");
    orders.order("SET users.app.pool_size = 4")?;
    assert_eq!(size()?, "4");
    let shown = orders.row("SHOW CONFIG", "key", "pool_size")?;
    assert_eq!((shown["value"].as_str(), shown["default"].as_str()), ("7", "20"));
    for (wrong, detail) in [
        ("SET pool_size = many", "must be a whole number"),
        ("SET pol_size = 3", "did you mean \"pool_size\"?"),
        ("SET listen = '127.0.0.1:1'", "by a restart"),
        ("SET users.app.password = 's3cret'", "secrets are not set here"),
        ("SET users.app.pasword = 's3cret'", "unknown key"),
        ("SET databases.app.host = ''", "must be"),
    ] {
        let error = orders.query(wrong)?.error();
        assert_eq!((error.code.as_str(), error.detail.contains(detail)), ("F0000", true), "{wrong}: {error:?}");
    }
    assert_eq!(size()?, "4");
    assert!(failed()? == 0.0 && !proxy.log().contains("not reloaded"), "nobody is called for a typing error");
    orders.order("RELOAD")?;
    assert_eq!(size()?, "2");
    proxy.reload(&config.clone().top("pol_size = 3"))?;
    let error = orders.query("RELOAD")?.error();
    assert!(error.code == "F0000" && error.detail.contains("unknown key \"pol_size\""), "{error:?}");
    eventually("SIGHUP and RELOAD have failed", || Ok(failed()? == 2.0))?;
    assert_eq!(client.value("select 1")?, "1");
    let log = proxy.log();
    assert!(log.contains("SET \\\"pool_size\\\" = \\\"7\\\""), "who changes what is in the log");
    assert!(log.contains("SET \\\"users.app.password\\\"") && !log.contains("s3cret"), "but no secret");
    Ok(())
}

#[test]
fn it_ends_at_once_or_when_servers_or_clients_are_done() -> Result {
    let cluster = Cluster::start()?;
    for (command, busy_ends, idle_ends) in [
        ("SHUTDOWN", true, true),
        ("SHUTDOWN WAIT_FOR_SERVERS", false, true),
        ("SHUTDOWN WAIT_FOR_CLIENTS", false, false),
    ] {
        let mut proxy = Config::of(&cluster).top("drain_timeout = \"100ms\"").console().start()?;
        let (mut busy, mut idle) = (proxy.target().connect()?, proxy.target().connect()?);
        busy.hold()?;
        let (mut looker, mut console) = (proxy.console().connect()?, proxy.console().connect()?);
        console.order(command)?;
        if idle_ends {
            assert_eq!(idle.read_to_close()?.error().code, "57P01", "{command}");
        }
        if busy_ends {
            assert_eq!(busy.read_to_close()?.error().code, "57P01", "{command}");
        } else {
            // Longer than a drain may take.
            std::thread::sleep(Duration::from_millis(400));
            assert_eq!(busy.value("select 1")?, "1", "{command}");
            assert_eq!(looker.row("SHOW STATE", "key", "draining")?["value"], "yes");
            assert!(!matches!(proxy.target().login(), Ok(Ok(_))), "{command}: a new client was taken");
            busy.value("commit")?;
        }
        if !idle_ends {
            assert_eq!((busy.value("select 2")?, idle.value("select 3")?), ("2".into(), "3".into()), "{command}");
            assert!(proxy.alive()?);
            drop((busy, idle));
        }
        for console in [&mut looker, &mut console] {
            assert_eq!(console.read_to_close()?.error().code, "57P01", "{command}");
        }
        assert!(proxy.wait_exit()?.success(), "{command}");
    }
    eventually("no backend is left", || Ok(cluster.backends()? == 0))
}

#[test]
fn who_is_no_operator_any_more_is_none_on_an_open_console() -> Result {
    let cluster = Cluster::start()?;
    let users = format!("[users.operator]\npassword = \"{PASSWORD}\"\n[users.watcher]\npassword = \"{PASSWORD}\"");
    let with = |admins: &str, stats: &str| {
        Config::of(&cluster).top(&format!("admin_users = {admins}\nstats_users = {stats}")).section(&users)
    };
    let proxy = with("[\"operator\", \"watcher\"]", "[]").start()?;
    let watcher = proxy.console().user("watcher", PASSWORD);
    let (mut operator, mut watcher) = (proxy.console().connect()?, watcher.connect()?);
    watcher.order("RECONNECT")?;
    proxy.reload(&with("[\"operator\"]", "[\"watcher\"]"))?;
    eventually("it may only look", || Ok(watcher.query("RECONNECT")?.error().code == "42501"))?;
    assert!(!watcher.table("SHOW POOLS")?.is_empty());
    proxy.reload(&with("[\"operator\"]", "[]"))?;
    eventually("it may not even look", || Ok(watcher.first_error(&Say::new().query("SHOW POOLS"))?.code == "28000"))?;
    operator.order("RECONNECT")
}

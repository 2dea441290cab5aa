//! A backend goes from one client to the next: nothing that one has set for itself, and no cancel of its own, bears on what
//! is done in between.

mod common;

use std::thread::sleep;
use std::time::Duration;

use common::*;

/// While it is held, a tablespace cannot be put in force: it is looked up each time.
const LOCK: &str = "begin; lock table pg_catalog.pg_tablespace";

/// The other client's: its settings are put in force one after the other, and the lock is in the way of the first one.
fn other(proxy: &Proxy) -> Result<Wire> {
    let options = "-c default_tablespace=pg_default -c statement_timeout=50s";
    proxy.target().parameter("options", options).connect()
}

#[test]
fn the_last_ones_time_limit_does_not_end_the_next_ones_settings() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1").start()?;
    let mut short = proxy.target().parameter("options", "-c statement_timeout=300").connect()?;
    let mut other = other(&proxy)?;
    let mut superuser = cluster.superuser().connect()?;
    for _ in 0..3 {
        assert_eq!(short.value("show statement_timeout")?, "300ms");
        superuser.query(LOCK)?;
        other.say(&Say::new().query("select current_setting('statement_timeout')"))?;
        sleep(Duration::from_millis(800));
        superuser.query("rollback")?;
        let answer = other.read_ready(1)?;
        assert!(answer.errors().is_empty(), "{:?}", answer.errors());
        assert_eq!(other.value("show default_tablespace")?, "pg_default");
    }
    Ok(())
}

#[test]
fn a_client_that_would_be_ended_for_being_idle_leaves_its_backend_alive() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1").start()?;
    let mut other = proxy.target().connect()?;
    let backend = other.value("select pg_backend_pid()")?;
    let idle = proxy.target().parameter("options", "-c idle_session_timeout=100");
    let mut ways = [idle.connect()?, proxy.target().connect()?, idle.connect()?];
    sleep(Duration::from_millis(400));
    assert_eq!(other.value("select pg_backend_pid()")?, backend, "ended behind a login");
    ways[1].value("set idle_session_timeout = '100ms'")?;
    for client in &mut ways {
        assert_eq!(client.value("show idle_session_timeout")?, "100ms");
        sleep(Duration::from_millis(400));
        assert_eq!(other.value("select pg_backend_pid()")?, backend);
        assert_eq!(other.value("show idle_session_timeout")?, "0");
        assert_eq!(client.value("show idle_session_timeout")?, "100ms", "it is its own all the same");
    }
    // Also of one that goes without a word.
    ways[0].hold()?;
    drop(ways);
    eventually("its backend is free", || Ok(other.value("select pg_backend_pid()")? == backend))?;
    sleep(Duration::from_millis(400));
    assert_eq!(other.value("select pg_backend_pid()")?, backend);
    Ok(())
}

/// A cancel that comes while the client's settings are being put in force is the statement's behind them.
#[test]
fn an_early_cancel_hits_the_statement_and_not_what_stands_in_front_of_it() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1").start()?;
    let mut first = proxy.target().connect()?;
    let mut other = other(&proxy)?;
    let mut superuser = cluster.superuser().connect()?;
    first.value("select 1")?;
    superuser.query(LOCK)?;
    other.say(&Say::new().query("select pg_sleep(50)"))?;
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and query ~ 'set_config'";
    eventually("the settings wait", || Ok(cluster.sql(waits)? == "1"))?;
    other.cancel()?;
    sleep(Duration::from_millis(300));
    superuser.query("rollback")?;
    assert_eq!(other.read_ready(1)?.error().code, "57014");
    assert_eq!(other.value("show default_tablespace")?, "pg_default", "the session goes on");
    Ok(())
}

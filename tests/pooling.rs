//! The pool: bounds that are never exceeded, cold starts in parallel, limits and their messages, modes, lifetimes.

mod common;

use std::time::{Duration, Instant};

use common::*;

#[test]
fn a_cold_pool_fills_in_parallel() -> Result {
    let cluster = Cluster::start()?;
    cluster.limit_backends(20)?;
    let proxy = Config::of(&cluster).top("pool_size = 20\nborrow_timeout = \"25s\"").start()?;
    let times = std::sync::Mutex::new(Vec::new());
    crowd(20, |_| {
        let mut client = proxy.target().connect()?;
        let start = Instant::now();
        client.value("select pg_sleep(1)")?;
        times.lock().map_err(|_| "poisoned")?.push(start.elapsed());
        Ok(())
    })?;
    let times = times.into_inner()?;
    let longest = times.iter().max().copied().unwrap_or_default();
    let half = median(times);
    assert!(half < Duration::from_secs(3), "median {half:?}");
    assert!(longest < Duration::from_secs(8), "longest {longest:?}");
    assert!(!cluster.refused());
    Ok(())
}

#[test]
fn slow_logins_go_on_side_by_side() -> Result {
    // A login takes a second: twenty of them, one after the other, would take twenty.
    let fake = Fake::play(|conversation| {
        conversation.startup()?;
        std::thread::sleep(Duration::from_secs(1));
        conversation.send(&reply::welcome())?;
        while !conversation.request()?.body.starts_with(b"select 'row'") {
            conversation.send(&reply::value(""))?;
        }
        // No more than the row, so that nobody else is served by this backend.
        conversation.send(&Say::new().raw(b'D', b"\0\x01\0\0\0\x03row"))?;
        conversation.read().map(drop)
    })?;
    let proxy = Config::port(fake.port()).top("pool_size = 20\nborrow_timeout = \"25s\"").start()?;
    let served = std::sync::Mutex::new(Vec::new());
    crowd(20, |_| {
        let start = Instant::now();
        let mut client = proxy.target().connect()?;
        client.say(&Say::new().query("select 'row'"))?;
        client.read_until(b'D', 1)?;
        served.lock().map_err(|_| "poisoned")?.push((start.elapsed(), client));
        Ok(())
    })?;
    let half = median(served.into_inner()?.into_iter().map(|(time, _)| time).collect());
    assert!(half < Duration::from_secs(4), "median {half:?}");
    Ok(())
}

#[test]
fn a_burst_never_exceeds_the_pool() -> Result {
    let cluster = Cluster::start()?;
    cluster.limit_backends(5)?;
    let proxy = Config::of(&cluster)
        .top("pool_size = 5\nborrow_timeout = \"25s\"\nmax_lifetime = \"300ms\"\nidle_timeout = \"100ms\"")
        .start()?;
    crowd(30, |number| {
        for round in 0..10 {
            let mut client = proxy.target().connect()?;
            client.value("select pg_sleep(0.005)")?;
            if (number + round) % 7 == 0 {
                client.hold()?;
                client.reset()?;
            }
        }
        Ok(())
    })?;
    assert!(!cluster.refused(), "PostgreSQL had to refuse a sixth backend");
    Ok(())
}

#[test]
fn databases_and_users_have_pools_of_their_own_within_common_bounds() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql(&format!("create role other login password '{PASSWORD}'"))?;
    cluster.sql("alter database app connection limit 4")?;
    let other = format!("[users.other]\npassword = \"{PASSWORD}\"");
    let proxy = Config::of(&cluster)
        .top("pool_size = 3\nborrow_timeout = \"25s\"")
        .database("max_backends = 4")
        .section(&other)
        .start()?;
    crowd(12, |number| {
        let target = if number % 2 == 0 { proxy.target() } else { proxy.target().user("other", PASSWORD) };
        let mut client = target.connect()?;
        for _ in 0..20 {
            let expected = if number % 2 == 0 { "app" } else { "other" };
            assert_eq!(client.value("select current_user from pg_sleep(0.005)")?, expected);
        }
        Ok(())
    })?;
    assert!(!cluster.log().contains("too many connections for database"));
    Ok(())
}

#[test]
fn the_bound_of_the_process_holds_over_all_databases() -> Result {
    let cluster = Cluster::start()?;
    cluster.limit_backends(3)?;
    for name in ["one", "two", "three"] {
        cluster.sql(&format!("create database {name} owner app"))?;
    }
    let any = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let proxy =
        Config::of(&cluster).top("pool_size = 3\nmax_backends = 3\nborrow_timeout = \"25s\"").section(&any).start()?;
    crowd(9, |number| {
        let database = ["one", "two", "three"][number % 3];
        let mut client = proxy.target().database(database).connect()?;
        for _ in 0..15 {
            assert_eq!(client.value("select current_database() from pg_sleep(0.002)")?, database);
        }
        Ok(())
    })?;
    assert!(!cluster.refused(), "an idle backend of one database makes room for another's, never more than three");
    Ok(())
}

#[test]
fn session_mode_keeps_one_backend_per_client() -> Result {
    let cluster = Cluster::start()?;
    cluster.limit_backends(2)?;
    let proxy = Config::of(&cluster).top("pool_size = 2\npool_mode = \"session\"\nborrow_timeout = \"1s\"").start()?;
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    let pids = [one.value("select pg_backend_pid()")?, two.value("select pg_backend_pid()")?];
    assert_ne!(pids[0], pids[1]);
    for _ in 0..5 {
        assert_eq!(one.value("select pg_backend_pid()")?, pids[0]);
        assert_eq!(two.value("select pg_backend_pid()")?, pids[1]);
    }
    one.value("set timezone = 'Asia/Tokyo'; create temp table t (a int)")?;
    let error = proxy.target().first_error()?;
    assert_eq!(error.code, "53300", "both backends are taken");
    drop(one);
    let mut next = proxy.target().connect()?;
    assert_eq!(next.value("select current_setting('timezone') <> 'Asia/Tokyo' and to_regclass('t') is null")?, "t");
    Ok(())
}

#[test]
fn session_mode_hands_over_nothing_that_a_function_did() -> Result {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value(
        "create function hide() returns void language plpgsql as $$ begin
           perform set_config('search_path', 'hidden', false);
           create temp table if not exists hidden (a int);
           perform pg_advisory_lock(1);
         end $$",
    )?;
    let proxy = Config::of(&cluster).top("pool_size = 1\npool_mode = \"session\"\nborrow_timeout = \"20s\"").start()?;
    let mut owner = proxy.target().connect()?;
    owner.value("select hide()")?;
    assert_eq!(owner.value("show search_path")?, "hidden", "the session is its own");
    drop(owner);
    let mut next = proxy.target().connect()?;
    assert_eq!(next.value("show search_path")?, "\"$user\", public");
    assert_eq!(next.value("select to_regclass('pg_temp.hidden') is null")?, "t");
    assert_eq!(next.value("select count(*) from pg_locks where locktype = 'advisory'")?, "0");
    Ok(())
}

#[test]
fn statement_mode_refuses_transaction_blocks() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\npool_mode = \"statement\"").start()?;
    let mut client = proxy.target().connect()?;
    assert_eq!(client.value("select 1")?, "1");
    assert_eq!(client.value("select 1; select 2")?, "1");
    // Whether the client is closed or only its transaction ended: it is told, and the backend is free.
    client.say(&Say::new().query("begin"))?;
    let error = client.read_until(b'E', 1)?.error();
    assert!(["0A000", "25001", "08P01"].contains(&error.code.as_str()), "{error:?}");
    assert!(format!("{error:?}").contains("statement"), "{error:?}");
    assert_eq!(proxy.target().connect()?.value("select 'next'")?, "next");
    Ok(())
}

#[test]
fn a_pool_may_be_a_share_of_the_servers_connections() -> Result {
    // 50 % of (16 - 3 reserved) is 6.
    let cluster = Cluster::conf("max_connections = 16\nsuperuser_reserved_connections = 3\n")?;
    let proxy = Config::of(&cluster).top("pool_size = \"50%\"\nborrow_timeout = \"1s\"").start()?;
    let mut held = Vec::new();
    let refused = loop {
        let mut client = proxy.target().connect()?;
        let error = client.first_error(&Say::new().query("begin; select 1"))?;
        if !error.code.is_empty() {
            break error;
        }
        held.push(client);
        assert!(held.len() < 16);
    };
    assert_eq!(refused.code, "53300");
    assert_eq!(held.len(), 6);
    Ok(())
}

#[test]
fn a_pool_larger_than_the_server_allows_is_worth_a_warning() -> Result {
    let cluster = Cluster::conf("max_connections = 10\nsuperuser_reserved_connections = 3\n")?;
    let proxy = Config::of(&cluster).top("pool_size = 20").start()?;
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    proxy.wait_log(&format!(
        "pool_size = 20 is more than the server at 127.0.0.1:{} accepts: max_connections 10 - 3 reserved = 7",
        cluster.port()
    ))
}

#[test]
fn backends_grow_old_and_are_replaced() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nmax_lifetime = \"1s\"").start()?;
    let mut client = proxy.target().connect()?;
    let first = client.value("select pg_backend_pid()")?;
    eventually("another backend serves", || Ok(client.value("select pg_backend_pid()")? != first))
}

#[test]
fn idle_backends_are_closed_down_to_the_warm_minimum() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 6\nidle_timeout = \"1s\"\nmin_idle = 2").start()?;
    // Warm before anybody has asked? Or at least soon after the first has.
    proxy.target().connect()?.value("select 1")?;
    eventually("two are ready", || Ok(cluster.backends()? == 2))?;
    crowd(6, |_| proxy.target().connect()?.value("select pg_sleep(0.5)").map(drop))?;
    assert!(cluster.backends()? > 2);
    eventually("only two remain", || Ok(cluster.backends()? == 2))?;
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn a_slow_reader_stalls_nobody_else() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let before = proxy.memory()?;
    let mut slow = proxy.target().connect()?;
    slow.say(&Say::new().query("select repeat('x', 1 << 20) from generate_series(1, 200)"))?;
    slow.read_until(b'D', 1)?;
    let mut client = proxy.target().connect()?;
    for number in 0..200 {
        assert_eq!(client.value(&format!("select {number}"))?, number.to_string());
    }
    let grown = proxy.memory()?.saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more");
    assert_eq!(slow.read_ready(1)?.commands(), ["SELECT 200"]);
    Ok(())
}

#[test]
fn a_frozen_client_keeps_no_backend_open() -> Result {
    let cluster = Cluster::start()?;
    // Longer than the catalogue is left unexamined: that must not keep a backend from resting.
    let proxy = Config::of(&cluster).top("idle_timeout = \"7s\"").start()?;
    let mut frozen = proxy.target().connect()?;
    frozen.value("select 1")?;
    assert_eq!(cluster.backends()?, 1);
    eventually("the idle backend is closed", || Ok(cluster.backends()? == 0))?;
    std::thread::sleep(Duration::from_secs(7));
    assert_eq!(cluster.backends()?, 0, "none is opened for nobody");
    assert_eq!(frozen.value("select 'thawed'")?, "thawed");
    Ok(())
}

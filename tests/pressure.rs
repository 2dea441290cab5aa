//! Pressure as it is measured: demand over capacity, waits by outcome, how many backends would have been needed.

mod common;

use std::time::{Duration, Instant};

use common::*;

#[test]
fn a_saturated_pool_shows_how_much_it_lacks() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2\nborrow_timeout = \"20s\"").start()?;
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| -> Result {
                    let mut client = proxy.target().connect()?;
                    for _ in 0..8 {
                        client.value("select pg_sleep(0.2)")?;
                    }
                    Ok(())
                })
            })
            .collect();
        eventually("all but two wait", || Ok(proxy.metric("pgfunnel_pool_pressure", &[])? == 4.0))?;
        eventually("one has waited for a while", || Ok(proxy.metric("pgfunnel_oldest_waiter_seconds", &[])? > 0.3))?;
        eventually("the lack is known", || {
            let needed = proxy.metric("pgfunnel_backends_needed", &["window=\"10s\""])?;
            assert!(needed <= 9.0, "more than there are clients, and this one: {needed}");
            Ok(needed >= 6.0)
        })?;
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| "a client panicked")?)
    })?;
    let waits =
        |outcome: &str| proxy.metric("pgfunnel_borrow_wait_seconds_count", &[&format!("outcome=\"{outcome}\"")]);
    // And a few of our own.
    let (waited, all) = (waits("waited")?, waits("at_once")? + waits("waited")?);
    assert!(waited > 40.0 && (64.0..=80.0).contains(&all), "{waited} of {all}");
    eventually("all leases have ended", || Ok(proxy.metric("pgfunnel_lease_held_seconds_count", &[])? == all))?;
    // Every client has waited for three quarters of its time.
    assert_eq!(proxy.metric("pgfunnel_query_seconds_count", &[])?, 64.0);
    let (all, database) =
        (proxy.metric("pgfunnel_query_seconds_sum", &[])?, proxy.metric("pgfunnel_query_database_seconds_sum", &[])?);
    assert!((12.8..20.0).contains(&database) && (40.0..80.0).contains(&all), "{database} of {all}");
    let held = proxy.metric("pgfunnel_lease_held_seconds_sum", &[])?;
    assert!((12.8..20.0).contains(&held), "{held}");
    assert_eq!(proxy.metric("pgfunnel_pool_pressure", &[])?, 0.0);
    Ok(())
}

#[test]
fn clients_that_ask_again_at_once_need_one_each() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 4").start()?;
    let needed = |window: &str| proxy.metric("pgfunnel_backends_needed", &[&format!("window=\"{window}\"")]);
    let end = Instant::now() + Duration::from_secs(14);
    std::thread::scope(|scope| {
        let clients: Vec<_> = (0..16)
            .map(|_| {
                scope.spawn(|| -> Result {
                    let mut client = proxy.target().connect()?;
                    while Instant::now() < end {
                        client.value("select pg_sleep(0.02)")?;
                    }
                    Ok(())
                })
            })
            .collect();
        // The first seconds, before anything is known of how long a lease is, are out of sight then.
        std::thread::sleep(Duration::from_secs(12));
        let (short, long) = (needed("10s")?, needed("60s")?);
        // pgfunnel borrows for itself now and then, and who has just been given a new backend counts twice for a moment.
        assert!((14.0..=18.0).contains(&short) && (12.0..=20.0).contains(&long), "{short}, {long}");
        clients.into_iter().try_for_each(|client| client.join().map_err(|_| "a client panicked")?)
    })
}

#[test]
fn every_end_of_a_wait_is_told_apart() -> Result {
    let cluster = Cluster::start()?;
    let config = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"500ms\"\nmax_waiting = 2").console();
    let proxy = config.start()?;
    let waits =
        |outcome: &str| proxy.metric("pgfunnel_borrow_wait_seconds_count", &[&format!("outcome=\"{outcome}\"")]);
    let refused = |setting: &str| proxy.metric("pgfunnel_refusals_total", &[&format!("setting=\"{setting}\"")]);
    let mut holder = proxy.target().connect()?;
    holder.hold()?;
    let mut clients = (0..3).map(|_| proxy.target().connect()).collect::<Result<Vec<_>>>()?;
    for client in &mut clients[..2] {
        client.say(&Say::new().query("select 1"))?;
    }
    eventually("two wait", || Ok(proxy.waiting()? == 2.0))?;
    assert_eq!(clients[2].first_error(&Say::new().query("select 1"))?.code, "53300");
    assert_eq!((waits("refused")?, refused("max_waiting")?), (1.0, 1.0));
    // One goes, the other waits to the end.
    clients.remove(1).reset()?;
    assert_eq!(clients[0].read_ready(1)?.error().code, "53300");
    // Nobody waits any more, and yet all is not well.
    let said = proxy.console().connect()?.table("SHOW DIAGNOSIS")?[0]["sentence"].clone();
    assert!(
        said.contains("refused a client") && said.contains("borrow_timeout (500ms); 1 of 1 backends are lent"),
        "{said}"
    );
    eventually("both are counted", || Ok((waits("left")?, waits("timed_out")?) == (1.0, 1.0)))?;
    assert_eq!(refused("borrow_timeout")?, 1.0);
    assert_eq!(proxy.metric("pgfunnel_oldest_waiter_seconds", &[])?, 0.0);
    holder.value("commit")?;
    std::thread::sleep(Duration::from_millis(10));
    assert_eq!(clients[0].value("select 1")?, "1");
    Ok(())
}

#[test]
fn who_holds_the_backends_is_named() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 3\nborrow_timeout = \"20s\"").start()?;
    let caller = |application: &str| proxy.target().parameter("application_name", application).connect();
    let state = |metric: &str, state: &str| proxy.metric(metric, &[&format!("state=\"{state}\"")]);
    let (mut report, mut pinned, mut busy) = (caller("report-fn")?, caller("export-fn")?, caller("sleep-fn")?);
    report.hold()?;
    pinned.value("create temp table t (n int)")?;
    busy.say(&Say::new().query("select pg_sleep(3)"))?;
    let mut waiting = (0..4).map(|_| caller("storm-fn")).collect::<Result<Vec<_>>>()?;
    for client in &mut waiting {
        client.say(&Say::new().query("select 1"))?;
    }
    eventually("everybody is where it should be", || {
        let each = ["idle_in_transaction", "pinned", "active", "waiting", "idle"];
        let clients = each.map(|name| state("pgfunnel_clients", name).unwrap_or(-1.0));
        Ok(clients == [1.0, 1.0, 1.0, 4.0, 0.0])
    })?;
    let backends = ["idle_in_transaction", "pinned", "active", "idle"].map(|name| state("pgfunnel_backends", name));
    assert_eq!(backends.into_iter().collect::<Result<Vec<_>>>()?, [1.0, 1.0, 1.0, 0.0]);
    let of = |application: &str, name: &str| {
        let labels = [format!("application=\"{application}\""), format!("state=\"{name}\"")];
        proxy.metric("pgfunnel_caller_clients", &labels.each_ref().map(String::as_str))
    };
    assert_eq!((of("storm-fn", "waiting")?, of("report-fn", "idle_in_transaction")?), (4.0, 1.0));
    eventually("its silence is seen", || {
        let silence = "pgfunnel_caller_longest_idle_in_transaction_seconds";
        Ok(proxy.metric(silence, &["application=\"report-fn\""])? > 0.5)
    })?;
    assert!(proxy.metric("pgfunnel_caller_longest_wait_seconds", &["application=\"storm-fn\""])? > 0.3);
    report.value("commit")?;
    for client in &mut waiting {
        client.read_ready(1)?;
    }
    busy.read_ready(1)?;
    drop(pinned);
    eventually("nothing is held", || Ok(state("pgfunnel_clients", "idle")? == 6.0))?;
    Ok(())
}

#[test]
fn the_room_that_others_leave_is_read_from_the_database() -> Result {
    let cluster = Cluster::start()?;
    let mut others = (0..5).map(|_| cluster.target().database("postgres").connect()).collect::<Result<Vec<_>>>()?;
    let usable: f64 = cluster
        .sql("select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int")?
        .parse()?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let connections = |whose: &str| proxy.metric("pgfunnel_database_connections", &[&format!("whose=\"{whose}\"")]);
    let mut client = proxy.target().connect()?;
    eventually("it is read", || {
        client.value("set search_path = nowhere; select 1")?;
        Ok(connections("own")? == 1.0)
    })?;
    let (theirs, free) = (connections("others")?, connections("free")?);
    assert!(theirs >= 5.0 && theirs + free + 1.0 == usable, "{theirs} and {free} of {usable}");
    others.clear();
    Ok(())
}

//! Who must wait for a backend, how long, and who is refused: at once or in time, and told why.

mod common;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use common::*;

#[test]
fn borrow_timeout_says_what_is_wrong_in_time() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"1s\"").start()?;
    let mut holder = proxy.target().connect()?;
    holder.hold()?;
    for say in [
        Say::new().query("select 1"),
        Say::new().parse("", "select 1", &[]).bind("", "", &[]).execute("", 0).sync(),
        Say::new().parse("x", "select 1", &[]).sync(),
    ] {
        let mut client = proxy.target().connect()?;
        let start = Instant::now();
        let error = client.first_error(&say)?;
        let waited = start.elapsed();
        assert_eq!(error.code, "53300", "{error:?}");
        assert!(waited > Duration::from_millis(900) && waited < Duration::from_secs(10), "{waited:?}");
        let text = format!("{error:?}");
        assert!(text.contains("borrow_timeout") && text.contains("1s"), "{text}");
        assert!(error.detail.contains("1 of 1"), "queue figures: {text}");
    }
    holder.value("commit")?;
    assert_eq!(proxy.target().connect()?.value("select 'served'")?, "served");
    Ok(())
}

#[test]
fn the_queue_is_fair() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"25s\"").start()?;
    cluster.target().connect()?.value("create table turns (turn serial, client int)")?;
    let mut holder = proxy.target().connect()?;
    holder.hold()?;
    let mut waiting = Vec::new();
    for number in 0..8 {
        let mut client = proxy.target().connect()?;
        client.say(&Say::new().query(&format!("insert into turns (client) values ({number})")))?;
        eventually("it waits", || Ok(proxy.waiting()? == f64::from(number + 1)))?;
        waiting.push(client);
    }
    holder.value("commit")?;
    for client in &mut waiting {
        client.read_ready(1)?;
    }
    assert_eq!(holder.value("select string_agg(client::text, '' order by turn) from turns")?, "01234567");
    Ok(())
}

#[test]
fn max_waiting_refuses_at_once() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"25s\"\nmax_waiting = 2").start()?;
    let mut holder = proxy.target().connect()?;
    holder.hold()?;
    let mut waiting = Vec::new();
    for number in 1..=2 {
        let mut client = proxy.target().connect()?;
        client.say(&Say::new().query("select 'waited'"))?;
        eventually("it waits", || Ok(proxy.waiting()? == f64::from(number)))?;
        waiting.push(client);
    }
    let start = Instant::now();
    let error = proxy.target().first_error()?;
    assert!(start.elapsed() < Duration::from_secs(10), "at once, not after borrow_timeout");
    assert_eq!(error.code, "53300");
    let text = format!("{error:?}");
    assert!(text.contains("max_waiting") && text.contains('2'), "{text}");
    holder.value("commit")?;
    for mut client in waiting {
        assert_eq!(client.read_ready(1)?.value(), "waited");
    }
    Ok(())
}

#[test]
fn max_clients_refuses_with_a_reason() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("max_clients = 3").user("max_clients = 2").start()?;
    let kept = (proxy.target().connect()?, proxy.target().connect()?);
    let error = proxy.target().refusal()?;
    assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "53300"));
    assert!(format!("{error:?}").contains("max_clients"), "{error:?}");
    drop(kept);
    eventually("there is room again", || Ok(proxy.target().login()?.is_ok()))?;
    // The limit of the whole process counts those still logging in.
    let _silent: Vec<_> = (0..3).map(|_| Wire::open(&proxy.target())).collect::<Result<_>>()?;
    eventually("a fourth is refused", || {
        let mut client = Wire::open(&proxy.target())?;
        client.send(&startup(0x0003_0000, &[("user", APP), ("database", APP)]))?;
        let answer = client.read_or_close()?;
        let fields = answer.and_then(|message| message.fields()).unwrap_or_default();
        Ok(fields.code == "53300" && format!("{fields:?}").contains("max_clients"))
    })
}

#[test]
fn connections_that_say_nothing_are_bounded() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("max_clients = 3").console().start()?;
    let mut client = proxy.target().connect()?;
    let _others = (proxy.target().connect()?, proxy.target().connect()?);
    let mut console = proxy.console().connect()?;
    // Beyond max_clients 100 are accepted, of which the console is one.
    let silent: Vec<_> = (0..99).map(|_| Wire::open(&proxy.target())).collect::<Result<_>>()?;
    eventually("they are accepted", || Ok(proxy.metric("pgfunnel_clients_logging_in", &[])? == 99.0))?;
    for _ in 0..40 {
        let mut more = Wire::open(&proxy.target())?;
        let error = more.read_to_close()?.error();
        assert_eq!((error.severity.as_str(), error.code.as_str()), ("FATAL", "53300"));
        assert!(error.message.contains("max_clients"), "{error:?}");
    }
    assert_eq!(proxy.metric("pgfunnel_clients_logging_in", &[])?, 99.0);
    assert_eq!(proxy.metric("pgfunnel_refusals_total", &["setting=\"max_clients\""])?, 40.0);
    assert!(proxy.log_lines()?.len() < 30, "a line for each");
    assert_eq!(client.value("select 'served'")?, "served");
    assert_eq!(console.row("SHOW LISTS", "list", "login_clients")?["items"], "99");
    drop(silent);
    eventually("there is room for a console again", || Ok(matches!(proxy.console().login(), Ok(Ok(_)))))?;
    assert_eq!(proxy.target().refusal()?.code, "53300");
    Ok(())
}

#[test]
fn one_application_or_user_cannot_take_the_whole_pool() -> Result {
    let cluster = Cluster::start()?;
    for limit in [("max_leases_per_application = 2", ""), ("", "max_leases = 2")] {
        let config = Config::of(&cluster).top("pool_size = 4\nborrow_timeout = \"1s\"").top(limit.0).user(limit.1);
        let proxy = config.start()?;
        let storming = proxy.target().parameter("application_name", "storming");
        let mut held = Vec::new();
        for _ in 0..2 {
            let mut client = storming.connect()?;
            client.hold()?;
            held.push(client);
        }
        let error = storming.first_error()?;
        assert_eq!(error.code, "53300", "{limit:?}: {error:?}");
        let name = if limit.1.is_empty() { "max_leases_per_application" } else { "max_leases" };
        assert!(format!("{error:?}").contains(name), "{error:?}");
        if limit.1.is_empty() {
            let mut calm = proxy.target().parameter("application_name", "calm").connect()?;
            assert_eq!(calm.value("select 'served'")?, "served");
        }
        held[0].value("commit")?;
        assert_eq!(storming.connect()?.value("select 'served'")?, "served");
    }
    Ok(())
}

#[test]
fn per_user_settings_override_the_databases() -> Result {
    let cluster = Cluster::start()?;
    cluster.limit_backends(2)?;
    let config = Config::of(&cluster)
        .top("pool_size = 9")
        .database("pool_size = 5")
        .user("pool_size = 2\npool_mode = \"session\"");
    let proxy = config.top("borrow_timeout = \"1s\"").start()?;
    let mut held = Vec::new();
    for _ in 0..2 {
        let mut client = proxy.target().connect()?;
        client.value("select 1")?;
        held.push(client);
    }
    let refused = proxy.target().first_error()?;
    assert_eq!(refused.code, "53300");
    assert!(!cluster.refused());
    Ok(())
}

/// The databases that `/metrics` names.
fn databases(proxy: &Proxy) -> Result<BTreeSet<String>> {
    let (_, text) = proxy.get("/metrics")?;
    let named = text.lines().filter_map(|line| line.split_once("database=\"")?.1.split_once('"'));
    Ok(named.map(|(name, _)| name.to_owned()).collect())
}

#[test]
fn names_of_databases_that_do_not_exist_do_not_pile_up() -> Result {
    let cluster = Cluster::start()?;
    let any = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}\nmin_idle = 1", cluster.port());
    let proxy = Config::of(&cluster).section(&any).start()?;
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    assert_eq!(proxy.target().database("postgres").connect()?.value("select 1")?, "1");
    for number in 0..250 {
        let refused = proxy.target().database(&format!("zz{number}")).refusal()?;
        assert_eq!(refused.code, "3D000", "{refused:?}");
    }
    // Who comes again at once is told the same, from memory; the oldest names made room.
    assert_eq!(proxy.target().database("zz249").refusal()?.code, "3D000");
    let named = databases(&proxy)?;
    assert!((50..=102).contains(&named.len()) && named.contains("zz249") && !named.contains("zz0"), "{named:?}");
    eventually("none of them is left", || Ok(databases(&proxy)?.len() == 2))?;
    assert_eq!(databases(&proxy)?, ["app", "postgres"].map(str::to_owned).into());
    assert_eq!(proxy.target().database("zz0").refusal()?.code, "3D000");
    Ok(())
}

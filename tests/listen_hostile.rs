//! The shared listener under stress: floods, clients that do not read, killed backends, many channels, several pools.

mod common;

use std::process::Command;
use std::time::Duration;

use common::*;

fn setup(top: &str) -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top(top).start()?;
    Ok((cluster, proxy))
}

fn listening(proxy: &Proxy) -> Result<f64> {
    proxy.metric("pgfunnel_backends", &["state=\"listening\""])
}

/// A client that listens to `a` by the shared listener.
fn listener(proxy: &Proxy) -> Result<Wire> {
    let mut client = proxy.target().connect()?;
    client.value("listen a")?;
    eventually("the channel is shared", || Ok(listening(proxy)? == 1.0))?;
    Ok(client)
}

/// Process ids of the notifications among these messages.
fn pids(answer: &Answer) -> Vec<i32> {
    let heard = answer.0.iter().filter(|message| message.tag == b'A');
    heard.map(|message| i32::from_be_bytes(*message.body.first_chunk().unwrap_or(&[0; 4]))).collect()
}

/// The backend that listens, once it does nothing else.
fn listening_pid(cluster: &Cluster) -> Result<String> {
    let mut pid = String::new();
    eventually("the listener is at rest", || {
        let query = "select pid from pg_stat_activity where usename = 'app' and query ~ 'LISTEN.*marker'";
        pid = cluster.sql(&format!("{query} and state = 'idle'"))?;
        Ok(!pid.is_empty())
    })?;
    Ok(pid)
}

#[test]
fn a_flood_reaches_who_reads_it() -> Result {
    let (_cluster, proxy) = setup("pool_size = 3")?;
    let (mut reader, mut other) = (listener(&proxy)?, proxy.target().connect()?);
    other.say(&Say::new().query("select pg_notify('a', i || repeat('x', 7900)) from generate_series(1, 1500) i"))?;
    for n in 1..=1_500 {
        let message = reader.read()?;
        let start = format!("a\0{n}x");
        assert!(message.tag == b'A' && message.body[4..].starts_with(start.as_bytes()), "{n}: {message:?}");
    }
    assert!(other.read_ready(1)?.errors().is_empty());
    // Its own it hears whole, before its answer ends, and as its own.
    let answer = reader.query("select pg_notify('a', i || repeat('x', 7900)) from generate_series(1, 400) i")?;
    assert_eq!(pids(&answer), vec![reader.key.0; 400]);
    assert_eq!(answer.status(), Some('I'));
    Ok(())
}

#[test]
fn who_does_not_read_costs_no_cpu() -> Result {
    let (_cluster, proxy) = setup("pool_size = 3")?;
    let mut client = listener(&proxy)?;
    client.say(&Say::new().query("select repeat('z', 30000000), pg_notify('a', 'q')"))?;
    let ticks = || -> Result<u64> {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", proxy.pid()))?;
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        Ok(fields[11].parse::<u64>()? + fields[12].parse::<u64>()?)
    };
    std::thread::sleep(Duration::from_secs(1));
    let before = ticks()?;
    std::thread::sleep(Duration::from_secs(1));
    // In hundredths of a second.
    assert!(ticks()? - before < 30, "busy for {} ticks of 100", ticks()? - before);
    let answer = client.read_ready(1)?;
    assert_eq!(pids(&answer), [client.key.0]);
    Ok(())
}

#[test]
fn settings_of_the_first_who_listens_are_nobody_elses() -> Result {
    let (_cluster, proxy) = setup("pool_size = 2")?;
    let mut first = proxy.target().connect()?;
    first.value("set timezone = 'Asia/Tokyo'; set search_path = first; set statement_timeout = '777s'; listen a")?;
    eventually("the channel is shared", || Ok(listening(&proxy)? == 1.0))?;
    drop(first);
    eventually("nobody listens", || Ok(listening(&proxy)? == 0.0))?;
    for n in 0..4 {
        let mut client = proxy.target().parameter("work_mem", &format!("{}MB", 5 + n)).connect()?;
        let told = client.parameters.get("TimeZone").cloned();
        assert_eq!(Some(client.value("show timezone")?), told);
        assert_ne!(told.as_deref(), Some("Asia/Tokyo"));
        client.hold()?;
        assert_eq!(client.value("show statement_timeout")?, "0");
    }
    Ok(())
}

#[test]
fn nothing_is_lost_when_the_catalogue_is_examined_at_the_same_time() -> Result {
    let (_cluster, proxy) = setup("pool_size = 4")?;
    let mut other = proxy.target().connect()?;
    std::thread::scope(|scope| {
        let listeners = scope.spawn(|| -> Result {
            for round in 0..30 {
                let mut client = proxy.target().connect()?;
                client.value(&format!("create table t{round} (n int); listen a"))?;
                let mut heard = Vec::new();
                while heard.len() < 100 {
                    let text = String::from_utf8_lossy(&client.read()?.body[4..]).into_owned();
                    heard.push(text.trim_matches('\0').trim_start_matches("a\0").parse::<u64>()?);
                }
                assert!(heard.windows(2).all(|pair| pair[1] == pair[0] + 1), "{round}: {heard:?}");
            }
            Ok(())
        });
        for n in 0..u64::MAX {
            if listeners.is_finished() {
                break;
            }
            other.value(&format!("notify a, '{n}'"))?;
        }
        listeners.join().map_err(|_| "a listener panicked")?
    })
}

#[test]
fn anothers_notification_is_not_taken_for_ones_own() -> Result {
    let (_cluster, proxy) = setup("pool_size = 2")?;
    let (mut client, mut other) = (listener(&proxy)?, proxy.target().connect()?);
    for _ in 0..300 {
        // Both by the one backend that is left.
        other.say(&Say::new().query("notify a, 'other'"))?;
        client.say(&Say::new().query("notify a, 'own'"))?;
        let mut heard = Vec::new();
        let mut ready = false;
        while !ready || heard.len() < 2 {
            let message = client.read()?;
            match message.tag {
                b'A' => heard.push((message.body.ends_with(b"own\0"), pids(&Answer(vec![message]))[0])),
                b'Z' => ready = true,
                _ => {}
            }
        }
        assert!(heard.iter().all(|(own, pid)| *own == (*pid == client.key.0)), "{heard:?}");
        other.read_ready(1)?;
    }
    Ok(())
}

#[test]
fn listeners_leave_room_behind_every_bound() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("create role second login password 'secret'")?;
    let config =
        Config::of(&cluster).top("max_backends = 2\npool_size = 2").section("[users.second]\npassword = \"secret\"");
    let proxy = config.start()?;
    let mut first = listener(&proxy)?;
    let mut second = proxy.target().user("second", "secret").connect()?;
    second.value("listen a")?;
    // There is no place for a second one: it keeps its backend, which serves it.
    assert_eq!(second.value("select 1")?, "1");
    assert_eq!(listening(&proxy)?, 1.0);
    drop(second);
    assert_eq!(first.value("select 1")?, "1");
    Ok(())
}

#[test]
fn many_channels_are_their_clients_own_burden() -> Result {
    let (_cluster, proxy) = setup("pool_size = 4")?;
    let (mut client, mut greedy) = (listener(&proxy)?, proxy.target().connect()?);
    for text in 0..5 {
        let channels: Vec<String> = (0..700).map(|n| format!("listen c{text}_{n}")).collect();
        greedy.value(&channels.join("; "))?;
        assert_eq!(greedy.value("select 1")?, "1");
    }
    assert_eq!(proxy.metric("pgfunnel_pins_total", &["reason=\"listen\""])?, 1.0);
    let mut other = proxy.target().connect()?;
    for channel in ["c0_0", "c4_699", "a"] {
        other.value(&format!("notify {channel}, 'x'"))?;
        let heard = if channel == "a" { client.read()? } else { greedy.read()? };
        assert_eq!(heard.tag, b'A', "{channel}");
    }
    greedy.value("unlisten *")?;
    drop(greedy);
    other.value("notify a, 'y'")?;
    assert_eq!(client.read()?.tag, b'A');
    Ok(())
}

#[test]
fn an_answer_that_waits_for_the_listener_survives_its_backend() -> Result {
    let (cluster, proxy) = setup("pool_size = 3")?;
    cluster.target().connect()?.value("create table t (n int)")?;
    let mut client = listener(&proxy)?;
    let pid = listening_pid(&cluster)?;
    let signal = |name: &str| Command::new("kill").args([name, &pid]).status();
    signal("-STOP")?;
    client.say(&Say::new().query("insert into t values (1); notify a, 'x'"))?;
    eventually("the row is there", || Ok(cluster.target().connect()?.value("select count(*) from t")? == "1"))?;
    std::thread::sleep(Duration::from_millis(100));
    cluster.sql(&format!(
        "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'app' and query ~ 'insert' and pid <> {pid}"
    ))?;
    std::thread::sleep(Duration::from_millis(100));
    signal("-CONT")?;
    let answer = client.read_ready(1)?;
    assert_eq!((answer.errors().len(), pids(&answer)), (0, vec![client.key.0]), "{answer:?}");
    Ok(())
}

#[test]
fn a_listener_that_hangs_holds_nobody_up_for_long() -> Result {
    let (cluster, proxy) = setup("pool_size = 3")?;
    let mut client = listener(&proxy)?;
    let pid = listening_pid(&cluster)?;
    let signal = |name: &str| Command::new("kill").args([name, &pid]).status();
    signal("-STOP")?;
    let outcome = (|| -> Result {
        let mut late = proxy.target().connect()?;
        late.value("listen b")?;
        // Pinned, after a while.
        let answer = late.query("notify b, 'x'")?;
        assert_eq!(pids(&answer), [late.key.0]);
        Ok(())
    })();
    signal("-CONT")?;
    outcome?;
    assert_eq!(client.value("select 1")?, "1");
    Ok(())
}

#[test]
fn the_marker_is_nobodys_channel() -> Result {
    let (cluster, proxy) = setup("pool_size = 3")?;
    let (mut client, mut spy, mut other) = (listener(&proxy)?, proxy.target().connect()?, proxy.target().connect()?);
    let pid = listening_pid(&cluster)?;
    let marker = cluster
        .sql(&format!("select substring(query from 'pgf_[0-9a-f]+_marker') from pg_stat_activity where pid = {pid}"))?;
    assert!(marker.starts_with("pgf_"), "{marker:?}");
    spy.value(&format!("listen \"{marker}\""))?;
    spy.value(&format!("unlisten \"{marker}\""))?;
    spy.value(&format!("notify \"{marker}\", 'nonsense'; notify \"{marker}\", '99999999999999999999'"))?;
    let mut late = proxy.target().connect()?;
    late.value("listen a")?;
    other.value("notify a, 'x'")?;
    assert_eq!((client.read()?.tag, late.read()?.tag), (b'A', b'A'));
    Ok(())
}

#[test]
fn statements_that_are_bound_and_never_executed_take_no_memory() -> Result {
    let (_cluster, proxy) = setup("pool_size = 3")?;
    let (mut client, mut other) = (listener(&proxy)?, proxy.target().connect()?);
    client.ask(&Say::new().parse("u", "unlisten other_name", &[]).sync())?;
    let before = proxy.memory()?;
    let many = (0..2_000).fold(Say::new(), |say, _| say.bind("", "u", &[])).flush();
    for _ in 0..50 {
        client.say(&many)?;
        client.read_until(b'2', 2_000)?;
    }
    client.ask(&Say::new().sync())?;
    assert!(proxy.memory()? < before + 4 * 1024 * 1024);
    client.value("unlisten yet_another")?;
    other.value("notify a, 'x'")?;
    assert_eq!(client.read()?.tag, b'A');
    Ok(())
}

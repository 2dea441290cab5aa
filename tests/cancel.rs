//! CancelRequest: hits that client's own running query, and nothing else ever.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::*;

/// Waits until so many backends run a `pg_sleep`.
fn sleepers(cluster: &Cluster, count: usize) -> Result {
    let sql = "select count(*) from pg_stat_activity where state = 'active' and query like 'select pg_sleep%'";
    eventually("the queries run", || Ok(cluster.sql(sql)? == count.to_string()))
}

fn sleep() -> Say {
    Say::new().query("select pg_sleep(60)")
}

#[test]
fn a_running_query_is_cancelled() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    for version in [0x0003_0000, 0x0003_0002] {
        let mut client = proxy.target().version(version).connect()?;
        client.say(&sleep())?;
        sleepers(&cluster, 1)?;
        let start = Instant::now();
        client.cancel()?;
        let answer = client.read_ready(1)?;
        assert_eq!(answer.error().code, "57014");
        assert!(start.elapsed() < Duration::from_secs(20));
        assert_eq!(client.value("select 1")?, "1", "the connection lives on");
    }
    Ok(())
}

#[test]
fn only_its_own_query_is_cancelled() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 3").start()?;
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = proxy.target().connect()?;
        client.say(&sleep())?;
        clients.push(client);
    }
    sleepers(&cluster, 3)?;
    clients[1].cancel()?;
    assert_eq!(clients[1].read_ready(1)?.error().code, "57014");
    sleepers(&cluster, 2)?;
    for client in [0, 2] {
        assert!(clients[client].silent_for(Duration::from_millis(100))?);
        clients[client].cancel()?;
        assert_eq!(clients[client].read_ready(1)?.error().code, "57014");
    }
    Ok(())
}

#[test]
fn stale_idle_and_guessed_keys_do_nothing() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1").start()?;
    let mut gone = proxy.target().connect()?;
    let mut idle = proxy.target().connect()?;
    assert_eq!((gone.value("select 1")?, idle.value("select 1")?), ("1".into(), "1".into()));
    let mut client = proxy.target().connect()?;
    client.say(&sleep())?;
    sleepers(&cluster, 1)?;
    // The idle client had this very backend a moment ago.
    idle.cancel()?;
    let (pid, key) = gone.key.clone();
    gone.say(&Say::new().terminate())?;
    gone.read_to_close()?;
    client.cancel_key(pid, &key)?;
    // The right process id with a wrong key, of this and other lengths; the backend's real process id.
    let (pid, mut key) = client.key.clone();
    key[0] ^= 1;
    client.cancel_key(pid, &key)?;
    client.cancel_key(pid, &[0; 4])?;
    client.cancel_key(pid, &[7; 256])?;
    // No key at all may be answered with an error.
    let _ = client.cancel_key(pid, &[]);
    let real =
        cluster.sql("select pid from pg_stat_activity where query like 'select pg_sleep%' and usename = 'app'")?;
    client.cancel_key(real.parse()?, &key)?;
    assert!(client.silent_for(Duration::from_millis(500))?, "still running");
    sleepers(&cluster, 1)?;
    client.cancel()?;
    assert_eq!(client.read_ready(1)?.error().code, "57014");
    Ok(())
}

#[test]
fn keys_differ_and_cannot_be_counted_up() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let mut keys = std::collections::BTreeSet::new();
    for _ in 0..20 {
        keys.insert(proxy.target().connect()?.key.1);
    }
    assert_eq!(keys.len(), 20);
    let first: std::collections::BTreeSet<_> = keys.iter().map(|key| key[0]).collect();
    assert!(first.len() > 5, "the keys are random: {keys:?}");
    Ok(())
}

#[test]
fn a_waiting_client_is_cancelled_out_of_the_queue() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"25s\"").start()?;
    let mut holder = proxy.target().connect()?;
    holder.hold()?;
    let mut waiting = proxy.target().connect()?;
    waiting.say(&Say::new().query("select 'waited'"))?;
    eventually("it waits", || Ok(proxy.waiting()? == 1.0))?;
    waiting.cancel()?;
    assert_eq!(waiting.read_ready(1)?.error().code, "57014");
    holder.value("commit")?;
    assert_eq!(waiting.value("select 1")?, "1");
    Ok(())
}

#[test]
fn a_query_in_a_transaction_and_a_pipeline_is_cancelled() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1").start()?;
    let mut client = proxy.target().connect()?;
    client.hold()?;
    let run = |sql| Say::new().parse("", sql, &[]).bind("", "", &[]).execute("", 0).sync();
    client.say(&run("select 1").and(&run("select pg_sleep(60)")).and(&run("select 3")))?;
    sleepers(&cluster, 1)?;
    client.cancel()?;
    let answer = client.read_ready(3)?;
    let codes: Vec<String> = answer.errors().into_iter().map(|error| error.code).collect();
    assert_eq!(codes, ["57014", "25P02"]);
    assert_eq!(client.query("rollback")?.status(), Some('I'));
    Ok(())
}

/// A client that sends a CancelRequest after every query hands its backend over all the time; nobody else may feel it.
#[test]
fn a_late_cancel_never_hits_the_next_client() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1").start()?;
    let done = AtomicBool::new(false);
    let canceller = || -> Result {
        let mut client = proxy.target().connect()?;
        while !done.load(Ordering::Relaxed) {
            client.say(&Say::new().query("select 1"))?;
            client.cancel()?;
            client.read_ready(1)?;
        }
        Ok(())
    };
    let victim = || -> Result {
        let mut client = proxy.target().connect()?;
        let end = Instant::now() + Duration::from_secs(8);
        let mut queries = 0;
        while Instant::now() < end {
            let answer = client.query("select pg_sleep(0.002)")?;
            assert_eq!(answer.error().code, "", "after {queries} queries");
            queries += 1;
        }
        assert!(queries > 50, "only {queries} queries ran");
        Ok(())
    };
    std::thread::scope(|scope| {
        let cancellers: Vec<_> = (0..3).map(|_| scope.spawn(canceller)).collect();
        let victims: Vec<_> = (0..2).map(|_| scope.spawn(victim)).collect();
        let victims: Vec<_> = victims.into_iter().map(|thread| thread.join()).collect();
        done.store(true, Ordering::Relaxed);
        for end in victims.into_iter().chain(cancellers.into_iter().map(|thread| thread.join())) {
            end.map_err(|_| "a client panicked")??;
        }
        Ok(())
    })
}

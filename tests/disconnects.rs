//! The ways a Lambda function dies: FIN, RST, frozen; idle, in a query, in a transaction, in a COPY.

mod common;

use std::time::{Duration, Instant};

use common::*;

/// How a client leaves.
#[derive(Debug, Clone, Copy)]
enum Exit {
    Fin,
    Reset,
    Terminate,
}

const EXITS: [Exit; 3] = [Exit::Fin, Exit::Reset, Exit::Terminate];

/// Those without a goodbye.
const DEATHS: [Exit; 2] = [Exit::Fin, Exit::Reset];

fn leave(mut client: Wire, exit: Exit) -> Result {
    match exit {
        Exit::Fin => {}
        Exit::Reset => client.reset()?,
        Exit::Terminate => client.say(&Say::new().terminate())?,
    }
    Ok(())
}

/// One backend, so that whatever a dead client leaves behind stands in the way of the next.
fn setup(top: &str) -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value("create table t (a int)")?;
    cluster.limit_backends(1)?;
    let proxy = Config::of(&cluster).top("pool_size = 1").top(top).start()?;
    Ok((cluster, proxy))
}

/// The next client gets a backend soon, and finds nothing of the one before.
fn next_client_is_served(cluster: &Cluster, proxy: &Proxy, context: &str) -> Result {
    let start = Instant::now();
    let mut next = proxy.target().connect()?;
    assert_eq!(
        next.value("select count(*) from t").map_err(|error| format!("{context}: {error:?}"))?,
        "0",
        "{context}"
    );
    assert_eq!(next.value("select count(*) from pg_locks where locktype = 'advisory'")?, "0", "{context}");
    assert!(start.elapsed() < Duration::from_secs(4), "{context}: took {:?}", start.elapsed());
    assert!(cluster.backends()? <= 1, "{context}");
    Ok(())
}

#[test]
fn idle() -> Result {
    let (cluster, proxy) = setup("")?;
    for exit in EXITS {
        let mut client = proxy.target().connect()?;
        client.value("select 1")?;
        leave(client, exit)?;
        next_client_is_served(&cluster, &proxy, &format!("{exit:?}"))?;
    }
    eventually("no client is left", || Ok(proxy.metric("pgfunnel_clients", &[])? == 0.0))
}

#[test]
fn in_a_query() -> Result {
    let (cluster, proxy) = setup("")?;
    for exit in DEATHS {
        let mut client = proxy.target().connect()?;
        client.say(&Say::new().query("select pg_sleep(60)"))?;
        eventually("it sleeps", || {
            Ok(cluster.sql(
                "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'",
            )? == "1")
        })?;
        leave(client, exit)?;
        next_client_is_served(&cluster, &proxy, &format!("{exit:?}"))?;
    }
    Ok(())
}

#[test]
fn behind_what_everything_waits_for() -> Result {
    let (cluster, proxy) = setup("")?;
    for exit in DEATHS {
        let mut client = proxy.target().connect()?;
        client.value("prepare nap(int) as select pg_sleep($1), 'nap'")?;
        // Nothing is sent behind an EXECUTE before it is answered; the client is heard all the same.
        client.say(&Say::new().query("execute nap(60)").query("select 'behind'"))?;
        eventually("it sleeps", || {
            Ok(cluster.sql("select count(*) from pg_stat_activity where query ~ '^execute' and state = 'active'")?
                == "1")
        })?;
        leave(client, exit)?;
        next_client_is_served(&cluster, &proxy, &format!("{exit:?}"))?;
    }
    Ok(())
}

#[test]
fn what_was_said_before_a_goodbye_is_done_behind_what_everything_waits_for() -> Result {
    let (cluster, proxy) = setup("")?;
    for text in ["execute nap(1)", "select pg_sleep(1)"] {
        let mut client = proxy.target().connect()?;
        client.value("truncate t")?;
        client.value("prepare nap(int) as select pg_sleep($1)")?;
        client.say(&Say::new().query(text).query("insert into t values (1)").terminate())?;
        client.half_close()?;
        let answer = client.read_to_close()?;
        assert!(answer.errors().is_empty() && answer.commands() == ["SELECT 1", "INSERT 0 1"], "{text}: {answer:?}");
        assert_eq!(cluster.sql("select count(*) from t")?, "1", "{text}");
    }
    Ok(())
}

#[test]
fn what_was_skipped_behind_a_cancelled_statement_is_not_believed() -> Result {
    let (cluster, proxy) = setup("")?;
    let prepared = |name: &str, sql: &str| Say::new().parse(name, sql, &[]).bind("", name, &[]).execute("", 0);
    for exit in DEATHS {
        let mut client = proxy.target().connect()?;
        client.say(&prepared("s1", "select pg_sleep(60), 1").and(&prepared("s2", "select 4242")).sync())?;
        eventually("it sleeps", || {
            Ok(cluster
                .sql("select count(*) from pg_stat_activity where query ~ '^select pg_sleep' and state = 'active'")?
                == "1")
        })?;
        leave(client, exit)?;
        let mut next = proxy.target().connect()?;
        let answer = next.ask(&prepared("s2", "select 4242").sync())?;
        assert_eq!(answer.value(), "4242", "{exit:?}: {answer:?}");
    }
    Ok(())
}

#[test]
fn in_a_transaction() -> Result {
    let (cluster, proxy) = setup("")?;
    for exit in EXITS {
        let mut client = proxy.target().connect()?;
        client.value("begin; insert into t values (1)")?;
        client.value("select pg_advisory_xact_lock(7)")?;
        leave(client, exit)?;
        next_client_is_served(&cluster, &proxy, &format!("{exit:?}"))?;
        let mut client = proxy.target().connect()?;
        client.query("begin; select 1/0")?;
        leave(client, exit)?;
        next_client_is_served(&cluster, &proxy, &format!("{exit:?}, failed transaction"))?;
    }
    Ok(())
}

#[test]
fn in_a_copy() -> Result {
    let (cluster, proxy) = setup("")?;
    for exit in DEATHS {
        let mut client = proxy.target().connect()?;
        client.say(&Say::new().query("copy t from stdin"))?;
        client.read_until(b'G', 1)?;
        client.say(&Say::new().copy_data(b"1\n"))?;
        leave(client, exit)?;
        next_client_is_served(&cluster, &proxy, &format!("{exit:?}, in"))?;
        let mut client = proxy.target().connect()?;
        client.say(&Say::new().query("copy (select repeat('x', 10000) from generate_series(1, 1000000)) to stdout"))?;
        client.read_until(b'd', 10)?;
        leave(client, exit)?;
        next_client_is_served(&cluster, &proxy, &format!("{exit:?}, out"))?;
    }
    Ok(())
}

#[test]
fn in_the_middle_of_a_message() -> Result {
    let (cluster, proxy) = setup("")?;
    for exit in DEATHS {
        for cut in [1, 3, 5, 12] {
            let mut client = proxy.target().connect()?;
            client.value("select 1")?;
            client.send(&Say::new().query("insert into t values (1)").bytes()[..cut])?;
            leave(client, exit)?;
            next_client_is_served(&cluster, &proxy, &format!("{exit:?} after {cut} bytes"))?;
            // In the middle of a pipeline whose first half is complete.
            let mut client = proxy.target().connect()?;
            let half = Say::new().parse("", "insert into t values (1)", &[]).bind("", "", &[]).execute("", 0);
            client.send(half.bytes())?;
            client.send(&Say::new().query("select 1").bytes()[..cut])?;
            leave(client, exit)?;
            next_client_is_served(&cluster, &proxy, &format!("{exit:?} after half a pipeline and {cut} bytes"))?;
        }
    }
    Ok(())
}

#[test]
fn with_results_that_nobody_reads() -> Result {
    let (cluster, proxy) = setup("")?;
    for exit in DEATHS {
        let mut client = proxy.target().connect()?;
        client.say(&Say::new().query("select repeat('x', 100000) from generate_series(1, 100000)"))?;
        client.read_until(b'D', 1)?;
        leave(client, exit)?;
        next_client_is_served(&cluster, &proxy, &format!("{exit:?}"))?;
    }
    Ok(())
}

#[test]
fn what_was_not_finished_before_a_goodbye_is_not_done() -> Result {
    let (cluster, proxy) = setup("")?;
    // One for the proxy, one for direct connections.
    cluster.limit_backends(2)?;
    let insert = Say::new().parse("", "insert into t values (1)", &[]).bind("", "", &[]).execute("", 0);
    for target in [cluster.target(), proxy.target()] {
        for exit in EXITS {
            let mut client = target.connect()?;
            client.say(&insert.clone().flush())?;
            client.read_until(b'C', 1)?;
            leave(client, exit)?;
            eventually("nothing goes on", || {
                Ok(cluster.sql("select count(*) from pg_stat_activity where usename = 'app' and state <> 'idle'")?
                    == "0")
            })?;
            assert_eq!(cluster.sql("select count(*) from t")?, "0", "{exit:?}");
        }
    }
    Ok(())
}

#[test]
fn while_waiting_for_a_backend() -> Result {
    let (cluster, proxy) = setup("")?;
    let mut holder = proxy.target().connect()?;
    holder.hold()?;
    for exit in EXITS {
        let mut client = proxy.target().connect()?;
        client.say(&Say::new().query("insert into t values (1)"))?;
        eventually("it waits", || Ok(proxy.waiting()? == 1.0))?;
        leave(client, exit)?;
        eventually("it waits no longer", || Ok(proxy.waiting()? == 0.0))?;
    }
    holder.value("commit")?;
    next_client_is_served(&cluster, &proxy, "after all")
}

#[test]
fn a_half_closed_client_is_gone() -> Result {
    let (cluster, proxy) = setup("")?;
    let mut client = proxy.target().connect()?;
    client.say(&Say::new().query("insert into t values (1); select pg_sleep(60)"))?;
    // Its FIN is what the end of a dead process looks like, so it gets no answer and the statement is cancelled.
    client.half_close()?;
    let answer = client.read_to_close()?;
    assert!(answer.0.is_empty(), "{answer:?}");
    next_client_is_served(&cluster, &proxy, "after a FIN")
}

#[test]
fn a_thousand_deaths_leave_a_healthy_pool() -> Result {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value("create table t (a int)")?;
    cluster.limit_backends(4)?;
    let proxy = Config::of(&cluster).top("pool_size = 4\nborrow_timeout = \"20s\"").start()?;
    crowd(8, |number| {
        for round in 0..25 {
            let mut client = proxy.target().connect()?;
            match (number + round) % 5 {
                0 => client.say(&Say::new().query("begin; insert into t values (1); select pg_sleep(5)"))?,
                1 => drop(client.query("begin; insert into t values (1)")?),
                2 => client.say(&Say::new().query("copy t from stdin").copy_data(b"1\n"))?,
                3 => client.say(
                    &Say::new().parse("", "insert into t values (1)", &[]).bind("", "", &[]).execute("", 0).flush(),
                )?,
                _ => drop(client.query("select 1")?),
            }
            leave(client, EXITS[round % 2])?;
        }
        Ok(())
    })?;
    next_four_are_served(&proxy)?;
    assert_eq!(proxy.target().connect()?.value("select count(*) from t")?, "0");
    assert!(!cluster.refused(), "never more than four backends");
    eventually("nobody holds a lease", || {
        Ok(cluster.sql("select count(*) from pg_stat_activity where usename = 'app' and state <> 'idle'")? == "0")
    })
}

fn next_four_are_served(proxy: &Proxy) -> Result {
    let mut clients = Vec::new();
    for _ in 0..4 {
        let mut client = proxy.target().connect()?;
        client.hold()?;
        clients.push(client);
    }
    Ok(())
}

#[test]
fn a_goodbye_before_the_answer_frees_the_backend() -> Result {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value("create table t (a int)")?;
    let top = "pool_size = 1\nborrow_timeout = \"20s\"\nidle_transaction_timeout = \"off\"";
    let proxy = Config::of(&cluster).top(top).start()?;
    let goodbyes = [
        Say::new().query("begin; insert into t values (1)").query("select pg_sleep(0.5)").terminate(),
        Say::new().query("create temp table x (a int)").query("select pg_sleep(0.5)").terminate(),
        Say::new().query("copy t from stdin").copy_data(b"1\n").terminate(),
    ];
    for (number, goodbye) in goodbyes.iter().enumerate() {
        let mut client = proxy.target().connect()?;
        client.say(goodbye)?;
        let next = proxy.target().connect()?.value("select count(*) from t");
        assert_eq!(next.map_err(|error| format!("goodbye {number}: {error:?}"))?, "0");
    }
    // Also when the COPY had begun.
    let mut client = proxy.target().connect()?;
    client.say(&Say::new().query("copy t from stdin"))?;
    client.read_until(b'G', 1)?;
    client.say(&Say::new().copy_data(b"1\n").terminate())?;
    assert_eq!(proxy.target().connect()?.value("select count(*) from t")?, "0");
    Ok(())
}

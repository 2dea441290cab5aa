//! Which backend a client gets, and how long it waits for one.

mod common;

use std::time::{Duration, Instant};

use common::{Cluster, Config, Result, Say};

#[test]
fn a_client_gets_the_backend_that_it_had() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let mut clients = [proxy.target().connect()?, proxy.target().connect()?, proxy.target().connect()?];
    let mut had = Vec::new();
    for client in &mut clients {
        client.value("begin; select 1")?;
        had.push(client.value("select pg_backend_pid()")?);
    }
    for client in &mut clients {
        client.say(&Say::new().query("commit"))?;
        client.read_until(b'Z', 1)?;
    }
    assert!(had[0] != had[1] && had[1] != had[2]);
    for turn in [0, 2, 1, 0, 1, 2] {
        assert_eq!(clients[turn].value("select pg_backend_pid()")?, had[turn], "client {turn}");
    }
    Ok(())
}

#[test]
fn each_request_has_the_whole_time_to_wait() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"1s\"").start()?;
    let mut holder = proxy.target().connect()?;
    holder.value("begin; select 1")?;
    let mut client = proxy.target().connect()?;
    let start = Instant::now();
    // The second one is there already while the first one waits.
    client.say(&Say::new().query("select 1").query("select 2"))?;
    for number in 1..=2 {
        let answer = client.read_until(b'Z', 1)?;
        assert_eq!(answer.error().code, "53300");
        assert!(start.elapsed() >= Duration::from_secs(number), "{number}: {:?}", start.elapsed());
    }
    Ok(())
}

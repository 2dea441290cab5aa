//! A smoke day against PostgreSQL 16, 17 and 18, whichever server the other tests run with.

mod common;

use std::path::PathBuf;

use common::*;

/// A server of one version, its binaries named by the environment.
fn cluster(version: u32) -> Result<Cluster> {
    let name = format!("PGFUNNEL_TEST_PG{version}");
    let missing = || {
        format!(
            "{name} is not set: it names the bin directory of PostgreSQL {version}; tests/run.sh installs and sets it"
        )
    };
    let bin = PathBuf::from(std::env::var_os(&name).ok_or_else(missing)?);
    Cluster::with(Settings { bin: Some(bin), ..Settings::default() })
}

fn smoke(version: u32) -> Result {
    let cluster = cluster(version)?;
    // Two for the proxy, one for a direct connection to compare with.
    cluster.limit_backends(3)?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let mut client = proxy.target().connect()?;
    assert!(client.parameters["server_version"].starts_with(&version.to_string()));
    assert!(client.value("show server_version_num")?.starts_with(&version.to_string()));
    client.value("create table t (a int primary key, b text)")?;
    let named = Say::new().parse("s", "select $1::int + 1", &[]).sync();
    let use_named = Say::new().bind("", "s", &[Some("1")]).describe_portal("").execute("", 0).sync();
    let scripts = [
        Script::new().query("select 1; select 1/0").query("begin").query("select 1/0").query("rollback"),
        Script::new()
            .say(named.clone())
            .say(use_named.clone())
            .say(named.clone())
            .say(Say::new().close_statement("s").sync())
            .say(use_named),
        Script::new()
            .query("begin")
            .until(Say::new().query("copy t from stdin"), b'G')
            .until(Say::new().copy_data(b"1\tone\n").copy_done(), b'Z')
            .query("copy t to stdout")
            .query("rollback"),
        Script::new()
            .query("set timezone = 'Asia/Tokyo'; set search_path = pg_catalog")
            .query("show search_path")
            .query("discard all"),
    ];
    for script in &scripts {
        compare(&cluster.target(), &proxy.target(), script)?;
    }
    sleep_and_cancel(&cluster, &proxy)?;
    crowd(16, |number| {
        let mut client = proxy.target().connect()?;
        client.ask(&Say::new().parse("n", &format!("select {number} + $1::int"), &[]).sync())?;
        for round in 0..10 {
            let answer = client.ask(&Say::new().bind("", "n", &[Some(&round.to_string())]).execute("", 0).sync())?;
            assert_eq!(answer.value(), (number + round).to_string());
        }
        Ok(())
    })
}

/// Protocol 3.2 (PostgreSQL 18 has it too) with its longer cancel keys.
fn sleep_and_cancel(cluster: &Cluster, proxy: &Proxy) -> Result {
    let mut client = proxy.target().version(0x0003_0002).connect()?;
    client.say(&Say::new().query("select pg_sleep(60)"))?;
    let running = "select count(*) from pg_stat_activity where query like 'select pg_sleep%' and state = 'active'";
    eventually("it sleeps", || Ok(cluster.sql(running)? == "1"))?;
    client.cancel()?;
    assert_eq!(client.read_ready(1)?.error().code, "57014");
    Ok(())
}

#[test]
fn postgresql_16() -> Result {
    smoke(16)
}

#[test]
fn postgresql_17() -> Result {
    smoke(17)
}

#[test]
fn postgresql_18() -> Result {
    smoke(18)
}

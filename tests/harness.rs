//! The harness itself, against plain PostgreSQL: a test of pgfunnel means nothing if its tools are wrong.

mod common;

use common::*;

#[test]
fn a_cluster_starts_stops_and_crashes() -> Result {
    let mut cluster = Cluster::start()?;
    assert_eq!(cluster.target().connect()?.value("select current_user || '@' || current_database()")?, "app@app");
    assert_eq!(cluster.target().user("app", "wrong").refusal()?.code, "28P01");
    cluster.stop("immediate")?;
    assert!(cluster.target().login().is_err());
    cluster.boot()?;
    assert_eq!(cluster.target().connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn a_comparison_notices_differences() -> Result {
    let cluster = Cluster::start()?;
    let target = cluster.target();
    compare(&target, &target, &Script::new().query("select 1").query("select 1/0"))?;
    assert!(compare(&target, &target, &Script::new().query("select pg_backend_pid()")).is_err());
    let (one, two) = (target.connect()?.query("select 1")?, target.connect()?.query("select 1; select 2")?);
    assert!(compare_answers(&one, &two).is_err());
    assert!(compare_answers(&two, &one).is_err());
    Ok(())
}

#[test]
fn postgresql_itself_tells_when_a_limit_was_exceeded() -> Result {
    let cluster = Cluster::start()?;
    cluster.limit_backends(1)?;
    let _first = cluster.target().connect()?;
    assert!(!cluster.refused());
    assert_eq!(cluster.target().refusal()?.code, "53300");
    assert!(cluster.refused());
    Ok(())
}

#[test]
fn a_client_cancels_copies_and_calls() -> Result {
    let cluster = Cluster::start()?;
    let mut client = cluster.target().connect()?;
    client.say(&Say::new().query("select pg_sleep(30)"))?;
    eventually("the query runs", || {
        Ok(cluster.sql("select count(*) from pg_stat_activity where query like 'select pg_sleep%'")? == "1")
    })?;
    client.cancel()?;
    assert_eq!(client.read_ready(1)?.error().code, "57014");
    let answer =
        client.ask(&Say::new().parse("", "select $1::text", &[]).bind("", "", &[Some("x")]).execute("", 0).sync())?;
    assert_eq!((answer.tags().as_str(), answer.value().as_str()), ("12DCZ", "x"));
    // 1299 is now().
    assert_eq!(client.ask(&Say::new().function_call(1299, &[]))?.tags(), "VZ");
    Ok(())
}

#[test]
fn a_fake_postgresql_answers() -> Result {
    let fake = Fake::play(|conversation| {
        conversation.login()?;
        loop {
            conversation.request()?;
            conversation.send(&reply::value("fake"))?;
        }
    })?;
    let addr = Addr::Tcp((std::net::Ipv4Addr::LOCALHOST, fake.port()).into());
    assert_eq!(Target::new(addr, APP, "", APP).connect()?.value("select 1")?, "fake");
    Ok(())
}

#[test]
fn tls_and_channel_binding_work() -> Result {
    let authority = Authority::new("test authority")?;
    let (cert, key) = authority.sign("localhost", &["localhost"])?;
    let files = vec![("server.crt", cert), ("server.key", key)];
    let cluster = Cluster::with(Settings { conf: "ssl = on\n".into(), files, ..Settings::default() })?;
    let target = cluster.target().tls(authority.client(None, false)?);
    assert_eq!(target.connect()?.value("select ssl from pg_stat_ssl where pid = pg_backend_pid()")?, "t");
    Ok(())
}

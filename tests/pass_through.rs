//! Users that nobody lists, whose password PostgreSQL judges: who it has not judged is not let in.

mod common;

use common::*;

#[test]
fn pass_through_lets_postgresql_judge() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("create role passing login password 'let me pass'")?;
    let proxy = Config::of(&cluster).database("unlisted_users = \"pass_through\"").start()?;
    let target = proxy.target().user("passing", "let me pass");
    assert_eq!(target.connect()?.value("select current_user")?, "passing");
    assert_eq!(target.connect()?.value("select current_user")?, "passing");
    let refused = target.user("passing", "you shall not").refusal()?;
    assert_eq!((refused.severity.as_str(), refused.code.as_str()), ("FATAL", "28P01"));
    // Also while backends of that user stand idle.
    assert_eq!(target.user("passing", "").refusal()?.code, "28P01");
    Ok(())
}

/// PostgreSQL trusts its own machine's superuser, and so judges no password: nobody may come in by that.
#[test]
fn pass_through_lets_nobody_in_whom_postgresql_did_not_judge() -> Result {
    let cluster = Cluster::start()?;
    let section = format!(
        "[databases.socket]\nhost = {:?}\nport = {}\ndbname = \"app\"\nunlisted_users = \"pass_through\"",
        cluster.socket_dir(),
        cluster.port()
    );
    let proxy = Config::of(&cluster).section(&section).start()?;
    let target = proxy.target().database("socket");
    for _ in 0..2 {
        let refused = target.user("postgres", "nonsense").refusal()?;
        assert_eq!((refused.severity.as_str(), refused.code.as_str()), ("FATAL", "28000"), "{refused:?}");
        assert!(refused.hint.contains("pg_hba.conf"), "{refused:?}");
    }
    eventually("its backends are closed", || {
        Ok(cluster.sql("select count(*) from pg_stat_activity where usename = 'postgres' and state = 'idle'")? == "0")
    })?;
    cluster.sql("create role passing login password 'let me pass'")?;
    assert_eq!(target.user("passing", "let me pass").connect()?.value("select current_user")?, "passing");
    Ok(())
}

#[test]
fn a_burst_that_is_passed_through_keeps_to_the_pool() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("create role passing login password 'let me pass' connection limit 2")?;
    let proxy = Config::of(&cluster)
        .top("pool_size = 2\nborrow_timeout = \"25s\"")
        .database("unlisted_users = \"pass_through\"")
        .start()?;
    let target = proxy.target().user("passing", "let me pass");
    crowd(30, |number| {
        if number % 10 == 0 {
            assert_eq!(target.user("passing", "wrong").refusal()?.code, "28P01");
        }
        assert_eq!(target.connect()?.value("select current_user")?, "passing");
        Ok(())
    })?;
    assert!(!cluster.refused(), "PostgreSQL had to refuse a third backend");
    Ok(())
}

#[test]
fn a_user_that_is_passed_through_gets_room_from_idle_pools() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("create role passing login password 'let me pass'")?;
    let proxy = Config::of(&cluster)
        .top("max_backends = 1\nborrow_timeout = \"20s\"")
        .database("unlisted_users = \"pass_through\"")
        .start()?;
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    let target = proxy.target().user("passing", "let me pass");
    assert_eq!(target.connect()?.value("select current_user")?, "passing");
    Ok(())
}

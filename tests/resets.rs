//! RESET, DISCARD and their like forget what a client has, neither more nor later than in PostgreSQL.

mod common;

use common::*;

#[test]
fn what_is_sent_behind_a_reset_is_not_reset() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"20s\"").start()?;
    cluster.sql("grant pg_read_all_data to app")?;
    let extended = |sql: &str| Say::new().parse("", sql, &[]).bind("", "", &[]).execute("", 0);
    let shape = "select current_user || (select count(*) from pg_listening_channels()) \
                 || (select count(*) from pg_class where relnamespace = pg_my_temp_schema())";
    for (sql, own) in [
        ("listen c", "app10"),
        ("set role pg_read_all_data", "pg_read_all_data00"),
        ("create temp table x (a int)", "app01"),
    ] {
        for say in [
            Say::new().query("discard all").query(sql),
            extended("discard all").sync().and(&extended(sql)).sync(),
            Say::new().query("discard all").and(&extended(sql)).sync(),
        ] {
            let mut owner = proxy.target().connect()?;
            assert!(owner.ask(&say)?.errors().is_empty(), "{sql}");
            assert_eq!(owner.value(shape)?, own, "{sql}: lost");
            drop(owner);
            assert_eq!(proxy.target().connect()?.value(shape)?, "app00", "{sql}: left behind");
        }
    }
    Ok(())
}

#[test]
fn a_reset_that_fails_resets_nothing() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let with = |target: Target| target.parameter("TimeZone", "America/New_York");
    let script = Script::new()
        .query("set timezone = 'Asia/Tokyo'")
        .query("begin")
        .query("set local timezone = 'Europe/Paris'")
        .query("discard all")
        .query("show timezone")
        .query("rollback")
        .query("show timezone")
        .query("reset timezone; select 1/0")
        .query("show timezone")
        .query("reset timezone")
        .query("show timezone");
    compare(&with(cluster.target()), &with(proxy.target()), &script)?;
    Ok(())
}

#[test]
fn a_reset_does_not_stop_what_follows() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"20s\"").start()?;
    let named = |name: &str| proxy.target().parameter("application_name", name).connect();
    let (mut one, mut two) = (named("one")?, named("two")?);
    for reset in ["close all", "deallocate all", "discard all"] {
        for client in [&mut one, &mut two] {
            client.value(reset)?;
        }
        assert_eq!(one.value("show application_name")?, "one", "behind {reset}");
        assert_eq!(two.value("show application_name")?, "two", "behind {reset}");
    }
    Ok(())
}

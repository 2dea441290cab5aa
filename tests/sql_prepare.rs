//! SQL `PREPARE`, `EXECUTE` and `DEALLOCATE` with more clients than backends: every answer is PostgreSQL's, and nobody is
//! pinned.

mod common;

use common::*;

/// A cluster with a table, and a proxy with two backends in front of it.
fn setup() -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.sql("grant create on schema public to app")?;
    cluster.target().connect()?.value("create table t (a int, b text); insert into t values (1, 'one'), (2, 'two')")?;
    let proxy = Config::of(&cluster).top("pool_size = 2\nborrow_timeout = \"25s\"").start()?;
    Ok((cluster, proxy))
}

fn uses(name: &str, values: &[Option<&str>]) -> Say {
    Say::new().bind("", name, values).describe_portal("").execute("", 0).sync()
}

/// Parse, Bind, Execute of a text, without a Sync.
fn run(sql: &str) -> Say {
    Say::new().parse("", sql, &[]).bind("", "", &[]).execute("", 0)
}

/// One after the other as simple queries.
fn queries(all: &[&str]) -> Script {
    all.iter().fold(Script::new(), |script, sql| script.query(sql))
}

/// All of them on one connection, then by six clients at once.
fn agree(scripts: &[Script]) -> Result {
    let (cluster, proxy) = setup()?;
    for (number, script) in scripts.iter().enumerate() {
        let compared = compare(&cluster.target(), &proxy.target(), script);
        compared.map_err(|error| format!("script {number}: {error:?}"))?;
    }
    for (number, script) in scripts.iter().enumerate() {
        let crowd = crowd(6, |_| compare(&cluster.target(), &proxy.target(), script).map(drop));
        crowd.map_err(|error| format!("script {number}, many clients: {error:?}"))?;
    }
    assert_eq!(proxy.metric("pgfunnel_pins_total", &[])?, 0.0, "nobody is pinned: {}", proxy.log());
    Ok(())
}

#[test]
fn every_answer_is_postgresqls() -> Result {
    agree(&[
        queries(&["prepare p (int) as select $1 + 1", "execute p(1)", "execute p(2)", "deallocate p", "execute p(1)"]),
        queries(&[
            "PREPARE \"P\"\"x\" AS SELECT 'x'",
            "execute\"P\"\"x\"",
            "execute p",
            "deallocate prepare \"P\"\"x\"",
        ]),
        queries(&["prepare p as select 1", "prepare p as select 2", "execute p", "deallocate all", "execute p"]),
        queries(&["prepare p as selec", "execute p", "prepare p as select nothing", "execute p", "deallocate p"]),
        queries(&["prepare p as select 1; execute p; prepare q as select 2; execute q", "execute p", "execute q"]),
        queries(&["prepare p as select 1; deallocate p; prepare p as select 2", "execute p"]),
        queries(&["prepare p as select 1; deallocate all; execute p", "execute p"]),
        // A text may fail half-way: what came before the failure holds.
        queries(&["prepare p as select 1; select 1/0; prepare q as select 2", "execute p", "execute q"]),
        queries(&["prepare p as select 1", "deallocate p; select 1/0", "execute p"]),
        // Not undone with its transaction.
        queries(&[
            "begin",
            "prepare p as select 1",
            "rollback",
            "execute p",
            "begin",
            "deallocate p",
            "rollback",
            "execute p",
        ]),
        queries(&[
            "prepare p as select 1",
            "begin",
            "select 1/0",
            "execute p",
            "prepare q as select 1",
            "rollback",
            "execute p",
        ]),
        queries(&["prepare p (int) as select $1", "execute p", "execute p(1, 2)", "execute p('x')", "execute p(a)"]),
        queries(&[
            "prepare p (int) as select a from t where a = $1",
            "explain (costs off) execute p(1)",
            "begin",
            "create table made as execute p(2)",
            "select count(*) from made",
            "rollback",
        ]),
        queries(&["prepare p as insert into t values (9, 'nine') returning a", "begin", "execute p", "rollback"]),
        queries(&["execute nobody", "deallocate nobody", "prepare transaction 'x'", "deallocate prepare"]),
        queries(&["prepare transaction as select 1", "execute transaction", "deallocate transaction"]),
        // What stands in the way is counted as the client wrote it.
        queries(&["prepare p (int) as select $1; prepare q as select nothing", "execute p(1); select nothing"]),
        queries(&["/* ä */ prepare p as select nothing", "prepare ö (int) as select $1", "execute ö('ü'); select 1"]),
    ])
}

#[test]
fn the_protocol_and_sql_share_one_name_space() -> Result {
    let named = Say::new().parse("s", "select $1::int + 1", &[]).sync();
    let bare = |name: &str| Say::new().parse(name, "select 7", &[]);
    agree(&[
        queries(&["prepare p (int) as select $1 + 1"])
            .say(uses("p", &[Some("1")]))
            .say(Say::new().describe_statement("p").sync())
            .say(bare("p").sync())
            .say(Say::new().close_statement("p").sync())
            .query("execute p(1)"),
        Script::new()
            .say(named.clone())
            .query("execute s(41)")
            .query("prepare s as select 1")
            .query("execute s(1)")
            .query("deallocate s")
            .query("execute s(1)")
            .say(named.clone())
            .say(uses("s", &[Some("1")])),
        // A name that is prepared in the same batch, by either.
        Script::new()
            .say(run("prepare p as select 1").and(&uses("p", &[])))
            .say(bare("q").and(&run("execute q")).sync()),
        Script::new().say(bare("q").query("execute q")).query("execute q"),
        Script::new()
            .say(bare("a").parse("x", "execute a", &[]).sync())
            .say(uses("x", &[]))
            .say(uses("x", &[]))
            .query("deallocate a; prepare a as select 8")
            .say(uses("x", &[]))
            .query("deallocate a")
            .say(uses("x", &[])),
        Script::new()
            .say(
                Say::new()
                    .parse("", "prepare p as select 1", &[])
                    .bind("", "", &[])
                    .bind("two", "", &[])
                    .execute("two", 0)
                    .execute("", 0)
                    .sync(),
            )
            .query("execute p"),
        Script::new()
            .say(Say::new().parse("", "execute p", &[]).sync())
            .query("prepare p as select 3")
            .say(Say::new().bind("", "", &[]).execute("", 0).sync())
            .say(run("execute p").sync()),
        Script::new()
            .say(run("prepare p as select 1").and(&run("deallocate p")).and(&run("prepare p as select 2")).sync())
            .say(run("execute p").and(&run("select 1/0")).and(&run("prepare r as select 1")).sync())
            .query("execute p")
            .query("execute r"),
        Script::new().say(
            Say::new()
                .query("prepare p as select 1")
                .query("execute p")
                .query("deallocate p")
                .query("execute p")
                .query("prepare p as select 2")
                .query("execute p"),
        ),
    ])
}

#[test]
fn a_statement_is_known_on_every_backend() -> Result {
    let (_cluster, proxy) = setup()?;
    let mut client = proxy.target().connect()?;
    client.value("prepare pid (text) as select pg_backend_pid() || $1")?;
    client.ask(&Say::new().parse("", "select 'mine'", &[]).sync())?;
    let mut seen = std::collections::BTreeSet::new();
    let mut other = proxy.target().connect()?;
    for round in 0..20 {
        // One that has had no backend yet takes the one that the client had last, and leaves it again.
        if round % 2 == 0 {
            other = proxy.target().connect()?;
        }
        other.value(if round % 2 == 0 { "begin; select 1" } else { "commit" })?;
        // By the protocol, in a transaction, behind something else; never at the expense of the unnamed statement.
        seen.insert(match round / 2 % 4 {
            0 => client.value("execute pid('')")?,
            1 => client.ask(&uses("pid", &[Some("")]))?.value(),
            2 => client.ask(&run("execute pid('')").sync())?.value(),
            _ => {
                client.hold()?;
                let pid = client.value("execute pid('')")?;
                client.value("commit")?;
                pid
            }
        });
        if round % 2 == 1 {
            client.ask(&Say::new().parse("", "select 'mine'", &[]).sync())?;
            let _third = client.ask(&uses("pid", &[Some("")]))?;
            assert_eq!(client.ask(&uses("", &[]))?.value(), "mine");
        }
    }
    assert_eq!(seen.len(), 2, "served by both backends: {seen:?}");
    Ok(())
}

#[test]
fn sixteen_clients_use_the_same_name() -> Result {
    let (cluster, proxy) = setup()?;
    cluster.limit_backends(2)?;
    crowd(16, |number| {
        let mut client = proxy.target().connect()?;
        client.value(&format!("prepare s (int) as select {number} + $1"))?;
        for round in 0..40 {
            assert_eq!(client.value(&format!("execute s({round})"))?, (number + round).to_string());
            if round % 10 == 9 {
                client.value("deallocate s")?;
                assert_eq!(client.query("execute s(1)")?.error().code, "26000", "another client's is never found");
                client.value(&format!("prepare s (int) as select {number} + $1"))?;
            }
        }
        Ok(())
    })?;
    assert!(!cluster.refused());
    assert_eq!(proxy.metric("pgfunnel_pins_total", &[])?, 0.0, "{}", proxy.log());
    Ok(())
}

#[test]
fn the_list_of_statements_is_the_clients_own() -> Result {
    // Whatever this version shows, but when and how often.
    let list = "select to_jsonb(s) - '{prepare_time,generic_plans,custom_plans}'::text[] from pg_prepared_statements s \
                order by name";
    let named = Say::new().parse("s", "select $1::int + 1", &[]).sync();
    agree(&[
        queries(&[list, "prepare p (int) as select $1 + 1 ; -- all of it", list, "execute p(1)"])
            .say(named.clone())
            .query(list)
            .say(run(list).sync())
            .query("execute s(1)")
            .query("deallocate p")
            .query(list)
            .say(Say::new().parse("l", list, &[]).sync())
            .say(uses("l", &[]))
            .say(uses("l", &[]))
            .query(list),
        queries(&[
            "prepare p as select 1",
            "begin",
            list,
            "execute p",
            "prepare q as select 2",
            list,
            "rollback",
            list,
        ]),
        queries(&["prepare p as select count(*) from pg_prepared_statements", "execute p", "execute p"]),
        queries(&["prepare p as select 1", "begin", "select 1/0", list, "rollback", list, "deallocate all", list]),
    ])
}

#[test]
fn a_replay_that_fails_is_the_clients_own_error() -> Result {
    let (cluster, proxy) = setup()?;
    let mut admin = cluster.target().connect()?;
    for (say, then) in [
        (Say::new().query("execute gone"), "execute gone"),
        (Say::new().query("select 1; execute gone").query("select 2"), "begin; execute gone"),
        (uses("gone", &[]), "deallocate gone"),
    ] {
        admin.value("create table g (a int)")?;
        let mut client = proxy.target().connect()?;
        client.value("begin; prepare gone as select a, 'ä' from g; commit")?;
        let mut pinned = proxy.target().connect()?;
        // Whichever backend it gets now, the table is no more.
        admin.value("drop table g")?;
        for _ in 0..2 {
            let errors = client.ask(&say)?.errors();
            assert_eq!(errors.first().map(|error| error.code.as_str()), Some("42P01"), "{errors:?}");
            assert_eq!(client.value("select 5")?, "5");
            pinned.hold()?;
        }
        client.query(then)?;
        client.query("rollback")?;
        assert_eq!(client.value("select 6")?, "6");
    }
    Ok(())
}

#[test]
fn what_cannot_be_read_pins_as_before() -> Result {
    let (_cluster, proxy) = setup()?;
    let mut client = proxy.target().connect()?;
    client.value("do $$begin execute 'prepare hidden as select 1'; end$$")?;
    assert_eq!(client.value("execute hidden")?, "1");
    assert!(proxy.metric("pgfunnel_pins_total", &["reason="])? >= 1.0);
    drop(client);
    let mut long = proxy.target().connect()?;
    long.value("prepare p (text) as select length($1)")?;
    for _ in 0..3 {
        assert_eq!(long.value(&format!("execute p('{}')", "x".repeat(100_000)))?, "100000");
    }
    drop(long);
    let mut other = proxy.target().connect()?;
    other.value(&format!("prepare q as select length('{}')", "x".repeat(100_000)))?;
    assert_eq!(other.value("execute q")?, "100000");
    other.value("deallocate q")?;
    assert_eq!(other.query("execute q")?.error().code, "26000");
    Ok(())
}

#[test]
fn nothing_is_left_of_a_client_that_is_killed() -> Result {
    let (_cluster, proxy) = setup()?;
    for round in 0..8 {
        let mut client = proxy.target().connect()?;
        client.value("prepare p as select 'theirs'")?;
        client.say(&match round % 4 {
            0 => Say::new().query("begin; execute p; select pg_sleep(5)"),
            1 => Say::new().query("select name, pg_sleep(5) from pg_prepared_statements"),
            2 => run("prepare q as select 1").and(&run("select name, pg_sleep(5) from pg_prepared_statements")),
            _ => Say::new().query("prepare q as select 1").query("select pg_sleep(5)"),
        })?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        client.reset()?;
        for _ in 0..3 {
            let mut other = proxy.target().connect()?;
            assert_eq!(other.query("execute p")?.error().code, "26000");
            assert_eq!(other.value("select count(*) from pg_prepared_statements")?, "0");
            assert_eq!(other.value("prepare q as select 2; execute q")?, "2");
        }
    }
    Ok(())
}

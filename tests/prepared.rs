//! Named prepared statements in transaction mode, with more clients than backends.

mod common;

use common::*;

fn use_named(name: &str, value: &str) -> Say {
    Say::new().bind("", name, &[Some(value)]).describe_portal("").execute("", 0).sync()
}

/// A cluster with a table, and a proxy with two backends in front of it.
fn setup() -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value("create table t (a int, b text); insert into t values (1, 'one'), (2, 'two')")?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    Ok((cluster, proxy))
}

/// Keeps the backends busy for a moment, so that the next transaction of somebody else finds another one.
fn shuffle(proxy: &Proxy) -> Result<Wire> {
    let mut other = proxy.target().connect()?;
    other.hold()?;
    Ok(other)
}

#[test]
fn every_answer_is_postgresqls() -> Result {
    let (cluster, proxy) = setup()?;
    let named = Say::new().parse("s", "select $1::int + 1", &[]);
    let scripts = [
        Script::new().say(named.clone().sync()).say(use_named("s", "1")).say(use_named("s", "2")),
        Script::new().say(named.clone().describe_statement("s").sync()).say(Say::new().describe_statement("s").sync()),
        // The name is taken, also in the next transaction, and still means the first text.
        Script::new().say(named.clone().sync()).say(named.clone().sync()).say(use_named("s", "3")),
        Script::new()
            .say(named.clone().sync())
            .say(Say::new().parse("s", "select 'other'", &[]).sync())
            .say(use_named("s", "3")),
        // Unknown, closed, closed twice, used again.
        Script::new().say(use_named("nobody", "1")).say(Say::new().describe_statement("nobody").sync()),
        Script::new()
            .say(named.clone().sync())
            .say(Say::new().close_statement("s").sync())
            .say(use_named("s", "1"))
            .say(Say::new().close_statement("s").sync())
            .say(named.clone().sync())
            .say(use_named("s", "4")),
        // A Parse that fails leaves no name behind.
        Script::new()
            .say(Say::new().parse("s", "selec 1", &[]).sync())
            .say(use_named("s", "1"))
            .say(named.clone().sync())
            .say(use_named("s", "1")),
        Script::new().say(Say::new().parse("s", "select nothing from nowhere", &[]).sync()).say(use_named("s", "1")),
        // A Parse after an error in the same pipeline is skipped, the one before it holds.
        Script::new()
            .say(named.clone().bind("", "s", &[Some("x")]).execute("", 0).parse("s2", "select 2", &[]).sync())
            .say(use_named("s", "1"))
            .say(Say::new().bind("", "s2", &[]).execute("", 0).sync()),
        // A prepared statement survives the rollback of its transaction.
        Script::new().query("begin").say(named.clone().sync()).query("rollback").say(use_named("s", "5")),
        Script::new()
            .query("begin")
            .query("select 1/0")
            .say(named.clone().sync())
            .query("rollback")
            .say(use_named("s", "5")),
        // Several in one pipeline, several names of one text.
        Script::new()
            .say(named.clone().parse("s2", "select $1::int + 1", &[]).parse("s3", "select $1::int + 3", &[]).sync())
            .say(use_named("s3", "1").and(&use_named("s", "1")).and(&use_named("s2", "1"))),
        // The same text with other parameter types is another statement.
        Script::new()
            .say(Say::new().parse("i", "select $1", &[23]).parse("t", "select $1", &[25]).sync())
            .say(Say::new().describe_statement("i").describe_statement("t").sync())
            .say(use_named("i", "x"))
            .say(use_named("t", "x")),
        Script::new()
            .say(Say::new().parse("s", "insert into t values ($1, 'x') returning a", &[]).sync())
            .say(use_named("s", "7")),
        // Odd names and texts.
        Script::new()
            .say(Say::new().parse("sé \"'%s", "select $1::text -- ä", &[]).sync())
            .say(use_named("sé \"'%s", "1")),
        Script::new()
            .say(Say::new().parse("empty", "", &[]).sync())
            .say(Say::new().bind("", "empty", &[]).execute("", 0).sync()),
    ];
    for (number, script) in scripts.iter().enumerate() {
        let compared = compare(&cluster.target(), &proxy.target(), script);
        compared.map_err(|error| format!("script {number}: {error:?}"))?;
    }
    for (number, script) in scripts.iter().enumerate() {
        let crowd = crowd(6, |_| compare(&cluster.target(), &proxy.target(), script).map(drop));
        crowd.map_err(|error| format!("script {number}, many clients: {error:?}"))?;
    }
    Ok(())
}

#[test]
fn the_unnamed_statement_lives_as_long_as_postgresql_says() -> Result {
    let (cluster, proxy) = setup()?;
    let unnamed = Say::new().parse("", "select $1::int + 1", &[]);
    let scripts = [
        // Across Sync, and so across transactions.
        Script::new().say(unnamed.clone().sync()).say(use_named("", "1")).say(use_named("", "2")),
        Script::new().say(unnamed.clone().describe_statement("").sync()).say(use_named("", "1")),
        // Until the next Parse, even a failed one, a simple query, or Close.
        Script::new()
            .say(unnamed.clone().sync())
            .say(Say::new().parse("", "select 'b'", &[]).sync())
            .say(Say::new().bind("", "", &[]).execute("", 0).sync()),
        Script::new()
            .say(unnamed.clone().sync())
            .say(Say::new().parse("", "selec", &[]).sync())
            .say(use_named("", "1")),
        Script::new().say(unnamed.clone().sync()).query("select 1").say(use_named("", "1")),
        Script::new().say(unnamed.clone().sync()).say(Say::new().close_statement("").sync()).say(use_named("", "1")),
        Script::new().say(use_named("", "1")),
    ];
    for (number, script) in scripts.iter().enumerate() {
        let crowd = crowd(6, |_| compare(&cluster.target(), &proxy.target(), script).map(drop));
        crowd.map_err(|error| format!("script {number}: {error:?}"))?;
    }
    Ok(())
}

#[test]
fn a_statement_is_known_on_every_backend() -> Result {
    let (_cluster, proxy) = setup()?;
    let mut client = proxy.target().connect()?;
    client.ask(&Say::new().parse("pid", "select pg_backend_pid()", &[]).sync())?;
    let ask = Say::new().bind("", "pid", &[]).execute("", 0).sync();
    let first = client.ask(&ask)?.value();
    // Others hold one backend for a while, now this one, now that one.
    let mut pids = std::collections::BTreeSet::from([first]);
    for _ in 0..20 {
        let _other = shuffle(&proxy)?;
        pids.insert(client.ask(&ask)?.value());
    }
    assert_eq!(pids.len(), 2, "served by both backends: {pids:?}");
    assert!(pids.iter().all(|pid| pid.parse::<u32>().is_ok()), "{pids:?}");
    Ok(())
}

#[test]
fn sixteen_clients_use_the_same_name_for_different_statements() -> Result {
    let (cluster, proxy) = setup()?;
    cluster.limit_backends(2)?;
    crowd(16, |number| {
        let mut client = proxy.target().connect()?;
        client.ask(&Say::new().parse("s", &format!("select {number} + $1::int"), &[]).sync())?;
        for round in 0..50 {
            let answer = client.ask(&use_named("s", &round.to_string()))?;
            assert_eq!(answer.value(), (number + round).to_string());
        }
        Ok(())
    })?;
    assert!(!cluster.refused());
    Ok(())
}

#[test]
fn deallocate_acts_on_the_clients_own_statements() -> Result {
    let (cluster, proxy) = setup()?;
    let named = Say::new().parse("s", "select $1::int + 1", &[]).sync();
    let mut other = proxy.target().connect()?;
    other.ask(&named)?;
    for sql in [
        "deallocate all",
        "discard all",
        "deallocate s",
        "DEALLOCATE  PREPARE \"s\"",
        "/* x */ deallocate all; select 1",
    ] {
        let script = Script::new()
            .say(named.clone())
            .query(sql)
            .say(use_named("s", "1"))
            .say(named.clone())
            .say(use_named("s", "2"));
        let script = if sql.starts_with("discard") {
            script
        } else {
            script.query("begin").query(sql).query("rollback").say(use_named("s", "3"))
        };
        compare(&cluster.target(), &proxy.target(), &script).map_err(|error| format!("{sql}: {error:?}"))?;
        assert_eq!(other.ask(&use_named("s", "41"))?.value(), "42", "another client's statement, after {sql}");
    }
    Ok(())
}

#[test]
fn statements_of_sql_work() -> Result {
    let (cluster, proxy) = setup()?;
    let scripts = [
        Script::new()
            .query("prepare p (int) as select $1 + 1")
            .query("execute p(1)")
            .query("deallocate p")
            .query("execute p(1)"),
        Script::new().query("prepare p as select 1").query("prepare p as select 2").query("execute p"),
        // The two worlds share one name space.
        Script::new()
            .query("prepare p (int) as select $1 + 1")
            .say(use_named("p", "1"))
            .say(Say::new().close_statement("p").sync())
            .query("execute p(1)"),
    ];
    for (number, script) in scripts.iter().enumerate() {
        let compared = compare(&cluster.target(), &proxy.target(), script);
        compared.map_err(|error| format!("script {number}: {error:?}"))?;
    }
    Ok(())
}

#[test]
fn ddl_between_two_uses() -> Result {
    let (cluster, proxy) = setup()?;
    let named = Say::new().parse("s", "select * from u where a = $1 union all select * from u where false", &[]).sync();
    let script = Script::new()
        .query("create table u (a int); insert into u values (1)")
        .say(named.clone())
        .say(use_named("s", "1"))
        .query("alter table u add b text default 'new'")
        // The result type has changed under it: PostgreSQL says so, until it is parsed afresh.
        .say(use_named("s", "1"))
        .say(Say::new().close_statement("s").sync())
        .say(named.clone())
        .say(use_named("s", "1"))
        .query("drop table u")
        .say(use_named("s", "1"))
        .say(Say::new().close_statement("s").sync());
    compare(&cluster.target(), &proxy.target(), &script)?;
    Ok(())
}

#[test]
fn ten_thousand_statements_of_one_client() -> Result {
    let (_cluster, proxy) = setup()?;
    let mut client = proxy.target().connect()?;
    for batch in 0..100 {
        let parse = |say: Say, n| say.parse(&format!("s{n}"), &format!("select {n}"), &[]);
        let say = (batch * 100..batch * 100 + 100).fold(Say::new(), parse);
        assert_eq!(client.ask(&say.sync())?.tags(), format!("{}Z", "1".repeat(100)));
    }
    for number in [0, 1, 4999, 9998, 9999, 0] {
        let _other = shuffle(&proxy)?;
        let answer = client.ask(&Say::new().bind("", &format!("s{number}"), &[]).execute("", 0).sync())?;
        assert_eq!(answer.value(), number.to_string());
    }
    Ok(())
}

#[test]
fn more_statements_than_one_client_may_have_are_refused() -> Result {
    let (_cluster, proxy) = setup()?;
    let mut client = proxy.target().connect()?;
    for batch in 0..100 {
        let say =
            (batch * 100..batch * 100 + 100).fold(Say::new(), |say, n| say.parse(&format!("s{n}"), "select 1", &[]));
        client.ask(&say.sync())?;
    }
    let uses = |name: &str| Say::new().bind("", name, &[]).execute("", 0).sync();
    let many = Say::new().parse("many", "select 2", &[]);
    let prepare = Say::new().parse("", "prepare many as select 3", &[]);
    for refused in
        [many.clone().parse("", "select 5", &[]).sync(), Say::new().query("prepare many as select 3"), prepare.sync()]
    {
        let error = client.ask(&Say::new().parse("", "select 4", &[]).and(&refused))?.error();
        assert_eq!((error.code.as_str(), error.message.as_str()), ("54000", "too many prepared statements"));
        assert!(!error.hint.is_empty());
        assert_eq!(client.ask(&uses("many"))?.error().code, "26000");
        assert_eq!(client.ask(&uses("s9999"))?.value(), "1");
        // A transaction fails with it, and the name is taken as before.
        client.hold()?;
        assert_eq!(client.ask(&refused)?.status(), Some('E'));
        client.value("rollback")?;
        assert_eq!(client.ask(&Say::new().parse("s1", "select 1", &[]).sync())?.error().code, "42P05");
    }
    // Less, and it is taken.
    client.value("deallocate s0")?;
    client.ask(&many.sync())?;
    assert_eq!(client.ask(&uses("many"))?.value(), "2");
    client.value("deallocate all; prepare many as select 3")?;
    assert_eq!(client.value("execute many")?, "3");
    let text = format!("select length('{}')", "x".repeat(1_000_000));
    let large = |n: usize| Say::new().parse(&format!("l{n}"), &text, &[]).sync();
    let codes = (0..18).map(|n| Ok(client.ask(&large(n))?.errors().first().map(|error| error.code.clone())));
    let codes: Vec<_> = codes.collect::<Result<_>>()?;
    assert!(codes[..16].iter().all(Option::is_none) && codes[17] == Some("54000".into()), "{codes:?}");
    assert_eq!(client.ask(&uses("l15"))?.value(), "1000000");
    Ok(())
}

#[test]
fn a_65535_parameter_statement_and_a_10_mib_text() -> Result {
    let (cluster, proxy) = setup()?;
    let wide = format!(
        "select count(*) from (values {}) v",
        (1..=65_535).map(|n| format!("(${n}::int)")).collect::<Vec<_>>().join(",")
    );
    let values = vec![Some("1"); 65_535];
    let text = format!("select length('{}')", "x".repeat(10 << 20));
    let script = Script::new()
        .say(Say::new().parse("wide", &wide, &[]).sync())
        .say(Say::new().bind("", "wide", &values).execute("", 0).sync())
        .say(Say::new().parse("long", &text, &[]).sync())
        .say(Say::new().bind("", "long", &[]).execute("", 0).sync());
    let answer = compare(&cluster.target(), &proxy.target(), &script)?;
    assert_eq!(answer.rows().len(), 2);
    Ok(())
}

#[test]
fn a_statement_replayed_under_set_local_does_not_keep_that_meaning() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2\nborrow_timeout = \"20s\"").start()?;
    let uses = Say::new().bind("", "at", &[]).execute("", 0).sync();
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    let constant = "select extract(epoch from timestamptz '2024-01-01 00:00')::int";
    one.ask(&Say::new().parse("at", constant, &[]).sync())?;
    let expected = one.ask(&uses)?.value();
    // The other backend sees it first under a time zone of one transaction.
    two.hold()?;
    let other = two.value("select pg_backend_pid()")?;
    let mut met = false;
    for _ in 0..4 {
        one.value("begin; set local timezone = 'Asia/Tokyo'")?;
        met |= one.value("select pg_backend_pid()")? != other;
        one.ask(&uses)?;
        one.value("rollback")?;
        two.value("commit")?;
        for _ in 0..3 {
            assert_eq!(one.ask(&uses)?.value(), expected);
        }
        two.hold()?;
    }
    assert!(met);
    Ok(())
}

#[test]
fn a_bind_in_a_failed_transaction_is_refused_as_by_postgresql_on_any_backend() -> Result {
    let (cluster, proxy) = setup()?;
    for (text, types, values) in [
        ("select $1::int + $2::int", &[][..], &[Some("1")][..]),
        ("select $1::int + $2::int", &[], &[Some("1"), Some("x")]),
        ("select 1", &[], &[Some("1")]),
        ("select 1", &[], &[]),
        ("select $1", &[23, 23, 23], &[Some("1")]),
        ("begin", &[], &[Some("1")]),
        ("set timezone = 'UTC'", &[], &[]),
        ("rollback", &[], &[]),
    ] {
        let said = |wire: &mut Wire| -> Result<_> {
            wire.hold()?;
            wire.query("select 1/0")?;
            let answer = wire.ask(&Say::new().bind("", "s", values).execute("", 0).sync())?;
            Ok((
                answer.errors().into_iter().map(|error| (error.code, error.message)).collect::<Vec<_>>(),
                answer.status(),
            ))
        };
        let mut direct = cluster.target().connect()?;
        direct.ask(&Say::new().parse("s", text, types).sync())?;
        let mut client = proxy.target().connect()?;
        client.ask(&Say::new().parse("s", text, types).sync())?;
        let _other = shuffle(&proxy)?;
        let expected = said(&mut direct)?;
        assert_eq!(said(&mut client)?, expected, "{text} {types:?} {values:?}");
        if text != "rollback" {
            client.value("rollback")?;
            let answer = client.ask(&Say::new().describe_statement("s").sync())?;
            assert!(answer.errors().is_empty(), "it means what it meant: {answer:?}");
        }
    }
    Ok(())
}

//! What one client does in odd sizes, batches and endings reaches no other, and none loses its own by it.

mod common;

use std::time::Duration;

use common::*;

fn setup(top: &str) -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.sql("grant create on schema public to app; grant pg_monitor to app")?;
    let proxy = Config::of(&cluster).top(top).start()?;
    Ok((cluster, proxy))
}

fn run(parse: Option<&str>) -> Say {
    let say = parse.map_or_else(Say::new, |sql| Say::new().parse("s", sql, &[]));
    say.bind("", "s", &[]).execute("", 0).sync()
}

/// More than is looked at of a text before it is sent.
fn long(text: &str) -> String {
    format!("select 1;{}{text}", " ".repeat(70_000))
}

#[test]
fn what_a_long_text_sets_at_its_end_stays_its_clients() -> Result {
    let (_cluster, proxy) = setup("pool_size = 1")?;
    let look =
        "select concat_ws(' ', current_setting('search_path'), current_setting('statement_timeout'), current_user)";
    let clean = "\"$user\", public 0 app";
    for text in ["set search_path = evil", "set statement_timeout = 4321", "set role pg_monitor", "listen c"] {
        let (mut owner, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
        assert_eq!(other.value(look)?, clean);
        assert!(owner.query(&long(text))?.errors().is_empty(), "{text}");
        let own = owner.value(look)?;
        assert_eq!(own == clean, text == "listen c", "{text}: lost");
        drop(owner);
        assert_eq!(other.value(look)?, clean, "{text}: seen by another");
        assert_eq!(proxy.target().connect()?.value(look)?, clean, "{text}: left behind");
        assert_eq!(other.value("select count(*) from pg_listening_channels()")?, "0", "{text}: left behind");
    }
    Ok(())
}

#[test]
fn a_long_text_does_not_find_anothers_sequence() -> Result {
    let (cluster, proxy) = setup("pool_size = 1")?;
    cluster.target().connect()?.value("create sequence s start 779")?;
    let mut one = proxy.target().connect()?;
    for length in [70_000, 1_100_000] {
        let text = format!("select '{}', lastval()", "x".repeat(length));
        for say in [Say::new().query(&text), Say::new().parse("", &text, &[]).bind("", "", &[]).execute("", 0).sync()] {
            one.value("select nextval('s')")?;
            // Who asks for it keeps its backend.
            let mut two = proxy.target().connect()?;
            assert_eq!(two.ask(&say)?.error().code, "55000", "of {length} bytes");
        }
    }
    Ok(())
}

#[test]
fn what_a_long_text_does_by_functions_is_followed() -> Result {
    let (cluster, proxy) = setup("pool_size = 1")?;
    cluster.target().connect()?.value(
        "create function enter(tenant text) returns text language plpgsql as
         $$begin return set_config('app.tenant', tenant, false); end$$",
    )?;
    let look = "select coalesce(current_setting('app.tenant', true), '')";
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    for (length, tenant) in [(10, "short"), (100_000, "long"), (1_200_000, "longer"), (10, "short again")] {
        one.query(&format!("select '{}', enter('{tenant}')", "x".repeat(length)))?;
        assert_eq!(two.value(look)?, "", "{tenant}");
        assert_eq!(one.value(look)?, tenant);
    }
    Ok(())
}

/// The extension's `set_limit` sets a parameter, of which its text says nothing.
#[test]
fn the_limit_of_pg_trgm_is_ones_own() -> Result {
    let (cluster, proxy) = setup("pool_size = 1")?;
    if cluster.sql("select count(*) from pg_available_extensions where name = 'pg_trgm'")? == "0" {
        return Ok(());
    }
    cluster.sql("create extension pg_trgm")?;
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    assert_eq!(two.value("select show_limit()")?, "0.3");
    one.value("select set_limit(0.9)")?;
    for _ in 0..3 {
        assert_eq!(
            (one.value("select show_limit()")?, two.value("select show_limit()")?),
            ("0.9".into(), "0.3".into())
        );
    }
    drop(one);
    assert_eq!(proxy.target().connect()?.value("select show_limit()")?, "0.3");
    Ok(())
}

/// A statement that all share, parsed where a transaction had settings, or a table, of its own.
#[test]
fn what_was_parsed_in_a_transaction_that_was_rolled_back_is_nobodys() -> Result {
    const NOON: &str = "select extract(epoch from timestamptz '2024-01-01 00:00')::bigint::text";
    const ROWS: &str = "select * from u";
    type Leave = fn(Wire) -> Result;
    let (cluster, proxy) = setup("pool_size = 2")?;
    cluster.target().connect()?.value("create table u (i int); insert into u values (1)")?;
    let leaves: [(&str, Leave); 3] = [
        ("vanishes", |client| client.reset()),
        ("leaves", |mut client| Ok(client.say(&Say::new().terminate())?)),
        ("rolls back", |mut client| client.query("rollback").map(drop)),
    ];
    for (text, change) in
        [(NOON, "set local timezone = 'Asia/Tokyo'; select 1"), (ROWS, "alter table u add column j int; select 1")]
    {
        for (how, leave) in &leaves {
            let connect = || proxy.target().connect();
            let (mut one, mut other, mut holder) = (connect()?, connect()?, connect()?);
            // One backend has it, and is held; on the other one it is parsed anew.
            let expected = other.ask(&run(Some(text)))?.rows();
            one.ask(&run(Some(text)))?;
            holder.hold()?;
            one.query("begin")?;
            assert!(one.query(change)?.errors().is_empty());
            one.ask(&run(None))?;
            leave(one)?;
            for _ in 0..2 {
                let answer = other.ask(&run(None))?;
                assert_eq!(answer.rows(), expected, "{text}, after one {how}: {:?}", answer.error());
            }
            holder.query("rollback")?;
        }
    }
    Ok(())
}

/// The end of a COPY that has failed, while all backends are taken: it is dropped, and what follows is answered.
#[test]
fn the_rest_of_a_failed_copy_needs_no_backend() -> Result {
    let (cluster, proxy) = setup("pool_size = 1\nborrow_timeout = \"1s\"")?;
    cluster.target().connect()?.value("create table t (i int)")?;
    let (mut client, mut holder) = (proxy.target().connect()?, proxy.target().connect()?);
    client.say(&Say::new().query("copy t from stdin"))?;
    client.read_until(b'G', 1)?;
    client.say(&Say::new().copy_data(b"bad\n").copy_data(&b"1\n".repeat(5_000)))?;
    assert_eq!(client.read_ready(1)?.error().code, "22P02");
    holder.hold()?;
    client.say(&Say::new().copy_data(&b"1\n".repeat(50_000)).copy_data(b"2\n").copy_done())?;
    assert!(client.silent_for(Duration::from_millis(1500))?, "nothing is asked, and nothing refused");
    holder.query("rollback")?;
    assert_eq!(client.value("select 42")?, "42");
    Ok(())
}

/// Replies of ours stand between those of the backend, never within one.
#[test]
fn a_wide_row_description_stays_whole() -> Result {
    let (cluster, proxy) = setup("pool_size = 1")?;
    let (mut direct, mut client) = (cluster.target().connect()?, proxy.target().connect()?);
    for columns in [100, 300, 600] {
        let names: Vec<String> = (0..columns).map(|n| format!("column_number_{n} int")).collect();
        client.query(&format!("drop table if exists wide; create table wide ({})", names.join(",")))?;
        let closed =
            Say::new().parse("a", "select * from wide", &[]).describe_statement("a").close_statement("a").sync();
        let mut batch = Say::new();
        for n in 0..20 {
            let text = format!("select {n}, w.* from wide w");
            batch = batch.parse(&format!("a{n}"), &text, &[]).describe_statement(&format!("a{n}"));
            batch = batch.parse(&format!("c{n}"), "select 1", &[]);
        }
        for say in [closed, batch.sync(), Say::new().query("deallocate all")] {
            let (expected, answer) = (direct.ask(&say)?, client.ask(&say)?);
            assert_eq!(answer.tags(), expected.tags(), "{columns} columns");
        }
    }
    Ok(())
}

/// What was to make another's sequence forgotten may be skipped with the batch that it stands in.
#[test]
fn a_batch_that_fails_does_not_find_anothers_sequence() -> Result {
    const CURRVAL: &str = "select currval('s')";
    for large in [false, true] {
        let (cluster, proxy) = setup("pool_size = 1")?;
        cluster.target().connect()?.value("create sequence s")?;
        let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
        two.ask(&Say::new().parse("cv", CURRVAL, &[]).sync())?;
        one.value("select nextval('s')")?;
        one.ask(&Say::new().parse("", "select 'secret'", &[]).bind("", "", &[]).execute("", 0).sync())?;
        let filler = if large { format!(" /*{}*/", "x".repeat(1_100_000)) } else { String::new() };
        let begun = Say::new().parse("n", if large { "select 1" } else { "this is no sql" }, &[]);
        let batch = begun.parse("", &format!("{CURRVAL}{filler}"), &[]).bind("", "", &[]).execute("", 0).sync();
        let again = Say::new().bind("", "", &[]).execute("", 0).sync();
        let answer = two.ask(&batch.and(&again))?;
        assert!(answer.rows().is_empty(), "{answer:?}");
        let codes: Vec<String> = answer.errors().into_iter().map(|error| error.code).collect();
        assert_eq!(codes, if large { ["55000", "55000"] } else { ["42601", "26000"] });
        assert_eq!(two.ask(&Say::new().bind("", "cv", &[]).execute("", 0).sync())?.error().code, "55000");
    }
    Ok(())
}

/// A failed transaction takes nothing, and may be over when the sequence is asked for.
#[test]
fn a_failed_transaction_does_not_find_anothers_sequence() -> Result {
    const LASTVAL: &str = "select lastval()";
    let asks = || Say::new().parse("", LASTVAL, &[]).bind("", "", &[]).execute("", 0);
    let ways = [
        Say::new().query(&format!("rollback; {LASTVAL}")),
        Say::new().query("rollback").query(LASTVAL),
        Say::new().execute("nope", 0).and(&asks()).sync().query("rollback").query(LASTVAL),
        // Failed by the time that it is asked, and over by then.
        Say::new().query("select 1/0").query(LASTVAL).query("rollback").query(LASTVAL),
        Say::new().query("select 1/0").and(&asks()).sync().query("rollback").and(&asks()).sync(),
        Say::new().query("select 1/0").query(&format!("rollback; select '{}', lastval()", "x".repeat(70_000))),
        Say::new().parse("asks", LASTVAL, &[]).sync().query("select 1/0").query("rollback; execute asks"),
    ];
    for (number, way) in ways.iter().enumerate() {
        let (cluster, proxy) = setup("pool_size = 1")?;
        cluster.target().connect()?.value("create sequence s")?;
        let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
        one.value("select nextval('s')")?;
        two.query("begin; select 1")?;
        if number < 2 {
            two.query("select 1/0")?;
        }
        let answer = two.ask(way)?;
        assert!(answer.rows().is_empty(), "way {number}: {answer:?}");
        assert!(answer.errors().iter().any(|error| error.code == "55000"), "way {number}: {answer:?}");
        // It is an error like others, and the session goes on.
        two.query("rollback")?;
        assert_eq!(two.query(LASTVAL)?.error().code, "55000", "way {number}");
        assert_eq!(two.query("select nextval('s') = lastval()")?.value(), "t", "way {number}");
    }
    Ok(())
}

/// It may be told so the first time; then what is another's is forgotten before it has any of its own.
#[test]
fn a_long_text_finds_its_clients_own_sequence() -> Result {
    let (cluster, proxy) = setup("pool_size = 1")?;
    cluster.target().connect()?.value("create sequence s")?;
    let text = format!("select '{}', lastval() = currval('s')", "x".repeat(150_000));
    for turn in 0..3 {
        let (mut other, mut client) = (proxy.target().connect()?, proxy.target().connect()?);
        other.value("select nextval('s')")?;
        client.query("begin; select nextval('s')")?;
        let answer = client.query(&text)?;
        let own = answer.rows().first().and_then(|row| row.get(1).cloned().flatten());
        assert!(own.as_deref() == Some("t") || turn == 0 && answer.error().code == "55000", "{:?}", answer.errors());
        client.query("rollback")?;
    }
    Ok(())
}

/// But for the first time that anybody asks: what is another's is forgotten only then, and its own with it.
#[test]
fn the_value_of_an_insert_is_there_in_its_transaction() -> Result {
    let (cluster, proxy) = setup("pool_size = 1")?;
    cluster.target().connect()?.value("create table serials (id serial)")?;
    for turn in 0..3 {
        let (mut other, mut client) = (proxy.target().connect()?, proxy.target().connect()?);
        other.value("select 1")?;
        client.query("begin")?;
        client.query("insert into serials default values")?;
        let answer = client.query("select lastval()")?;
        match turn {
            0 => assert_eq!(answer.error().code, "55000"),
            _ => assert_eq!(answer.value(), (turn + 1).to_string()),
        }
        client.query("commit")?;
    }
    Ok(())
}

/// What is too long to be looked through waits until it is known whether a failed transaction is over.
#[test]
fn a_long_text_behind_the_end_of_a_failed_transaction_is_executed() -> Result {
    let (_cluster, proxy) = setup("pool_size = 1")?;
    let (mut other, mut client) = (proxy.target().connect()?, proxy.target().connect()?);
    for length in [70_000, 1_100_000] {
        let text = format!("select length('{}')", "x".repeat(length));
        let run = Say::new().parse("", &text, &[]).bind("", "", &[]).execute("", 0).sync();
        for say in [Say::new().query("rollback").query(&text), Say::new().query("rollback").and(&run)] {
            other.value("select 1")?;
            client.query("begin; select 1")?;
            client.query("select 1/0")?;
            assert_eq!(client.ask(&say)?.value(), length.to_string());
            // A long statement keeps its backend.
            client = proxy.target().connect()?;
        }
    }
    Ok(())
}

/// What is done about sequences is not noticed by who has none.
#[test]
fn batches_of_drivers_are_answered_as_by_postgresql() -> Result {
    let (cluster, proxy) = setup("pool_size = 1")?;
    cluster.target().connect()?.value("create table big (a text); create sequence s")?;
    let big = format!("insert into big values ('{}')", "x".repeat(1_100_000));
    let run = |name: &str, sql: &str| Say::new().parse(name, sql, &[]).bind("", name, &[]).execute("", 0);
    for (number, say) in [
        run("", "begin").and(&run("", &big)).sync().query("rollback"),
        run("one", "select 1").and(&run("", &big)).sync(),
        run("asks", "select lastval()").sync().query("select 1"),
        Say::new().close_statement("none").and(&run("", "select lastval()")).sync().query("select 1"),
        run("", "select 1")
            .and(&run("", "select nextval('s')"))
            .and(&run("", "select currval('s') = lastval()"))
            .sync(),
    ]
    .iter()
    .enumerate()
    {
        let (mut other, mut client) = (proxy.target().connect()?, proxy.target().connect()?);
        let mut direct = cluster.target().connect()?;
        other.value("select nextval('s')")?;
        let (expected, answer) = (direct.ask(say)?, client.ask(say)?);
        assert_eq!(answer.tags(), expected.tags(), "batch {number}: {:?}", answer.errors());
        assert_eq!(answer.error().code, expected.error().code, "batch {number}");
        if number == 4 {
            assert_eq!(answer.rows().last(), Some(&vec![Some("t".to_owned())]));
        }
    }
    Ok(())
}

/// Two COPYs in one Query, whose data and ends are sent before the backend is ready for them.
#[test]
fn pipelined_copies_each_have_their_end() -> Result {
    let (cluster, proxy) = setup("pool_size = 1")?;
    cluster.target().connect()?.value("create table t (i int); create table u (i int)")?;
    let data = || Say::new().copy_data(b"1\n").copy_done();
    let copies = Say::new().query("copy t from stdin; copy u from stdin").and(&data()).and(&data());
    let say = copies.and(&Say::new().parse("", "select 7", &[]).bind("", "", &[]).execute("", 0).sync());
    for _ in 0..50 {
        let answer = proxy.target().connect()?.ask(&say)?;
        assert_eq!((answer.tags().as_str(), answer.value().as_str()), ("GCGCZ12DCZ", "7"), "{answer:?}");
    }
    assert_eq!(cluster.target().connect()?.value("select count(*) from u")?, "50");
    Ok(())
}

/// The same in front of a long Query, which belongs to the transaction of what was sent before it.
#[test]
fn a_long_query_behind_a_batch_is_rolled_back_with_it() -> Result {
    let (cluster, proxy) = setup("pool_size = 1")?;
    cluster.target().connect()?.value("create table w (a int)")?;
    let (mut other, mut client) = (proxy.target().connect()?, proxy.target().connect()?);
    let insert = Say::new().parse("", "insert into w values (1)", &[]).bind("", "", &[]).execute("", 0);
    let fails = format!("insert into w select 2 / (0 * length('{}'))", "x".repeat(70_000));
    for _ in 0..2 {
        other.value("select 1")?;
        assert_eq!(client.ask(&insert.clone().query(&fails))?.error().code, "22012");
        assert_eq!(cluster.target().connect()?.value("select count(*) from w")?, "0");
        client = proxy.target().connect()?;
    }
    Ok(())
}

/// Ends of a COPY that there is not are no answers that are awaited.
#[test]
fn thousands_of_ends_of_no_copy_hold_nothing_up() -> Result {
    let (_cluster, proxy) = setup("pool_size = 1")?;
    let mut client = proxy.target().connect()?;
    let ends = (0..10_100).fold(Say::new().parse("", "select 7", &[]), |say, _| say.copy_done());
    assert_eq!(client.ask(&ends.bind("", "", &[]).execute("", 0).sync())?.value(), "7");
    Ok(())
}

/// Making another's sequence forgotten in the middle of a batch costs the client nothing.
#[test]
fn a_batch_never_executes_an_older_unnamed_statement() -> Result {
    let (cluster, proxy) = setup("pool_size = 1")?;
    cluster.target().connect()?.value("create sequence s")?;
    let (mut other, mut client) = (proxy.target().connect()?, proxy.target().connect()?);
    client.ask(&Say::new().parse("", "select 'one'", &[]).bind("", "", &[]).execute("", 0).sync())?;
    client.ask(&Say::new().parse("n", "select currval('s')", &[]).sync())?;
    other.value("select nextval('s')")?;
    let batch = Say::new().parse("", "select 'two'", &[]).bind("p1", "n", &[]).bind("p2", "", &[]).execute("p2", 0);
    let answer = client.ask(&batch.sync())?;
    assert_eq!((answer.value(), answer.errors().len()), ("two".to_owned(), 0), "{answer:?}");
    let answer = client.ask(&Say::new().bind("", "n", &[]).execute("", 0).sync())?;
    assert_eq!(answer.error().code, "55000", "{answer:?}");
    drop(client);
    // From then on they are kept apart in time.
    let mut again = proxy.target().connect()?;
    again.ask(&Say::new().parse("n", "select currval('s')", &[]).sync())?;
    other.value("select nextval('s')")?;
    let answer = again.ask(&Say::new().bind("", "n", &[]).execute("", 0).sync())?;
    assert_eq!(answer.error().code, "55000", "{answer:?}");
    drop(again);
    assert_eq!(other.value("select nextval('s')")?, "3");
    Ok(())
}

//! A statement whose rows would have come to be others: PostgreSQL refuses it for as long as it exists, and drivers count on
//! that, whichever backend serves it.

mod common;

use common::*;

const ALL: &str = "select * from t";
const CHANGED: &str = "cached plan must not change result type";

fn setup(top: &str) -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.sql("grant create on schema public to app")?;
    cluster.target().connect()?.query("create table t (a int, b text); insert into t values (1, 'x')")?;
    let proxy = Config::of(&cluster).top(top).start()?;
    Ok((cluster, proxy))
}

/// As drivers prepare: parsed, and its rows described.
fn prepare() -> Say {
    Say::new().parse("s", ALL, &[]).describe_statement("s").sync()
}

fn run() -> Say {
    Say::new().bind("", "s", &[]).execute("", 0).sync()
}

/// What a client gets that runs it.
fn result(client: &mut Wire, say: &Say) -> Result<String> {
    let answer = client.ask(say)?;
    Ok(match answer.errors().first() {
        Some(error) => format!("{} {}", error.code, error.message),
        None => format!("{:?}", answer.rows()),
    })
}

fn refused() -> String {
    format!("0A000 {CHANGED}")
}

const ALTER: &str = "alter table t drop column b; alter table t add c int default 9";

/// On the backend that has it PostgreSQL says so; on another, which parses it anew, it must be told all the same.
#[test]
fn another_backend_does_not_serve_other_rows() -> Result {
    let (cluster, proxy) = setup("pool_size = 2")?;
    let (mut client, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
    client.ask(&prepare())?;
    assert_eq!(result(&mut client, &run())?, "[[Some(\"1\"), Some(\"x\")]]");
    let first = client.value("select pg_backend_pid()")?;
    other.query(ALTER)?;
    other.hold()?;
    if other.value("select pg_backend_pid()")? != first {
        other.query("rollback")?;
        let mut third = proxy.target().connect()?;
        client.hold()?;
        third.query("begin; select 1")?;
        client.query("rollback")?;
        other = third;
    }
    for _ in 0..2 {
        assert_eq!(result(&mut client, &run())?, refused());
        // Described anew, it is refused, too, as by PostgreSQL.
        assert_eq!(result(&mut client, &Say::new().describe_statement("s").sync())?, refused());
        // Nor does it harm a batch: that fails as a whole.
        let batch = Say::new().parse("", "insert into t values (2)", &[]).bind("", "", &[]).execute("", 0).and(&run());
        assert_eq!(result(&mut client, &batch)?, refused());
    }
    assert_eq!(cluster.target().connect()?.value("select count(*) from t")?, "1");
    // Prepared afresh, it has its new rows, on either.
    client.ask(&Say::new().close_statement("s").sync())?;
    client.ask(&prepare())?;
    assert_eq!(result(&mut client, &run())?, "[[Some(\"1\"), Some(\"9\")]]");
    other.query("rollback")?;
    client.hold()?;
    other.hold()?;
    for client in [&mut client, &mut other] {
        assert_eq!(client.value("select a from t")?, "1");
    }
    client.query("rollback")?;
    assert_eq!(result(&mut client, &run())?, "[[Some(\"1\"), Some(\"9\")]]");
    Ok(())
}

/// The same text, prepared afresh by another client, is not the first one's.
#[test]
fn a_fresh_statement_of_anothers_is_not_taken_for_ones_own() -> Result {
    let (_cluster, proxy) = setup("pool_size = 1")?;
    let (mut client, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
    client.ask(&prepare())?;
    other.query(ALTER)?;
    assert_eq!(result(&mut client, &run())?, refused());
    // Whether or not its rows are described to the other one.
    other.ask(&Say::new().parse("s", ALL, &[]).sync())?;
    assert_eq!(result(&mut client, &run())?, refused());
    other.ask(&Say::new().describe_statement("s").sync())?;
    assert_eq!(result(&mut client, &run())?, refused());
    assert_eq!(result(&mut other, &run())?, "[[Some(\"1\"), Some(\"9\")]]");
    Ok(())
}

/// Rows that are described with each use are known, too.
#[test]
fn rows_of_the_portal_count() -> Result {
    let (_cluster, proxy) = setup("pool_size = 1")?;
    let (mut client, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
    client.ask(&Say::new().parse("s", ALL, &[]).sync())?;
    let run = || Say::new().bind("", "s", &[]).describe_portal("").execute("", 0).sync();
    assert_eq!(result(&mut client, &run())?, "[[Some(\"1\"), Some(\"x\")]]");
    other.query(ALTER)?;
    other.ask(&Say::new().parse("s", ALL, &[]).sync())?;
    assert_eq!(result(&mut client, &run())?, refused());
    Ok(())
}

/// What the change does not touch goes on, on every backend, in batches and transactions.
#[test]
fn rows_that_stay_are_served() -> Result {
    let (_cluster, proxy) = setup("pool_size = 2")?;
    let (mut client, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
    let say = |sql: &str| Say::new().parse("s", sql, &[]).describe_statement("s").sync();
    for sql in ["select a from t", "insert into t values (7)", "select 1"] {
        client.ask(&say(sql))?;
        other.query("alter table t alter b type varchar(9); create table if not exists u (a int)")?;
        other.hold()?;
        for _ in 0..2 {
            assert_eq!(client.ask(&run())?.errors().len(), 0, "{sql}");
            client.query("begin; select 1")?;
            assert_eq!(client.ask(&run().and(&run()))?.errors().len(), 0, "{sql}");
            client.query("rollback")?;
            // By whichever backend.
            other.query("rollback")?;
            client.hold()?;
            other.hold()?;
            client.query("rollback")?;
        }
        // In a failed transaction PostgreSQL has its own answer.
        client.query("begin; select 1")?;
        client.query("select 1/0")?;
        other.query("rollback")?;
        other.query("alter table t add d int; alter table t drop column d")?;
        assert_eq!(client.ask(&run())?.error().code, "25P02", "{sql}");
        client.query("rollback")?;
        assert_eq!(client.ask(&run())?.errors().len(), 0, "{sql}");
        client.ask(&Say::new().close_statement("s").sync())?;
    }
    Ok(())
}

/// What it was of is gone: PostgreSQL says what it would have said.
#[test]
fn what_is_gone_is_said() -> Result {
    let (_cluster, proxy) = setup("pool_size = 2")?;
    let (mut client, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
    client.ask(&prepare())?;
    other.query("alter table t rename to gone")?;
    for _ in 0..2 {
        client.hold()?;
        other.hold()?;
        assert_eq!(client.ask(&run())?.error().code, "42P01");
        client.query("rollback")?;
        assert_eq!(client.ask(&run())?.error().code, "42P01");
        other.query("rollback")?;
    }
    other.query("alter table gone rename to t")?;
    assert_eq!(result(&mut client, &run())?, "[[Some(\"1\"), Some(\"x\")]]");
    Ok(())
}

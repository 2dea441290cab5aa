//! A BEGIN holds no backend before something is done in the transaction, and nobody can tell.

mod common;

use common::{Cluster, Config, Result, Say, Script, compare};

const ONE: &str = "pool_size = 1\nborrow_timeout = \"1s\"";

#[test]
fn who_has_only_begun_holds_no_backend() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top(ONE).start()?;
    let mut idle = [proxy.target().connect()?, proxy.target().connect()?];
    for (client, begin) in idle.iter_mut().zip(["begin", "START TRANSACTION ISOLATION LEVEL REPEATABLE READ"]) {
        let answer = client.query(begin)?;
        assert_eq!((answer.tags(), answer.status()), ("CZ".into(), Some('T')));
    }
    let mut other = proxy.target().connect()?;
    other.query("create table t (i int)")?;
    let [first, second] = &mut idle;
    first.query("insert into t values (1)")?;
    assert_eq!(other.query("select from t")?.error().code, "53300", "now it holds the backend");
    assert_eq!(first.query("rollback")?.commands(), ["ROLLBACK"]);
    assert_eq!(other.value("select count(*) from t")?, "0");
    // What was said at its beginning holds.
    assert_eq!(second.value("show transaction_isolation")?, "repeatable read");
    second.query("commit")?;
    Ok(())
}

#[test]
fn it_looks_as_it_does_without_a_proxy() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("create table t (i int)")?;
    let proxy = Config::of(&cluster).start()?;
    let unnamed = || Say::new().parse("", "select 1", &[]).bind("", "", &[]).execute("", 0).sync();
    let scripts = [
        Script::new().query("begin").query("commit"),
        Script::new().query("BEGIN;").query("rollback work;"),
        Script::new().query("begin").query("begin").query("commit"),
        Script::new().query("begin").query("select 1").query("commit").query("select 2"),
        Script::new().query("begin").query("select 1/0").query("select 1").query("commit"),
        Script::new().query("begin").query("savepoint a").query("rollback to a").query("end"),
        Script::new().query("begin").say(unnamed()).query("commit").say(unnamed()),
        Script::new().query("begin").say(Say::new().sync()).query("abort").say(Say::new().sync()),
        Script::new().query("begin").say(Say::new().close_statement("a").sync()).query("commit"),
        Script::new().query("begin").query("set local work_mem = '5MB'").query("show work_mem").query("commit"),
        Script::new().say(Say::new().query("begin").query("select 1").query("commit").query("select 2")),
        Script::new().query("begin").say(Say::new().query("commit").query("select 2")),
        // Without its end, with something behind it: malformed.
        Script::new().until(Say::new().raw(b'Q', b"begin"), b'Z'),
        Script::new().until(Say::new().raw(b'Q', b"begin\0x\0"), b'Z'),
        // A Query drops the unnamed statement, also one that says BEGIN.
        Script::new()
            .say(unnamed())
            .query("begin")
            .say(Say::new().bind("", "", &[]).execute("", 0).sync())
            .query("end"),
        Script::new()
            .query("commit")
            .query("rollback")
            .query("begin read write")
            .query("commit and chain")
            .query("end"),
    ];
    for (number, script) in scripts.iter().enumerate() {
        compare(&cluster.target(), &proxy.target(), script).map_err(|error| format!("script {number}: {error:?}"))?;
    }
    Ok(())
}

#[test]
fn what_is_refused_fails_the_transaction() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top(ONE).start()?;
    let mut holder = proxy.target().connect()?;
    let extended = |sql: &str| Say::new().parse("", sql, &[]).bind("", "", &[]).execute("", 0).sync();
    for (end, by_query) in [("rollback", true), ("commit", true), ("rollback", false), ("commit", false)] {
        holder.value("begin; select 1")?;
        let mut client = proxy.target().connect()?;
        client.query("begin")?;
        let refused = client.query("select 1")?;
        assert_eq!((refused.error().code.as_str(), refused.status()), ("53300", Some('E')));
        // It is as after any error, whether there is a backend again or not.
        let aborted = client.query("select 1")?;
        assert_eq!((aborted.error().code.as_str(), aborted.status()), ("25P02", Some('E')));
        let refused = client.ask(&extended("select 1"))?;
        assert_eq!((refused.error().code.as_str(), refused.status()), ("53300", Some('E')));
        holder.query("commit")?;
        let aborted = client.ask(&extended("select 1"))?;
        assert_eq!((aborted.error().code.as_str(), aborted.status()), ("25P02", Some('E')));
        let ended = if by_query { client.query(end)? } else { client.ask(&extended(end))? };
        assert_eq!((ended.commands(), ended.status()), (vec!["ROLLBACK".to_owned()], Some('I')), "{end}");
        assert_eq!(client.value("select 2")?, "2");
    }
    // And ended without a backend.
    holder.value("begin; select 1")?;
    let mut client = proxy.target().connect()?;
    client.query("begin")?;
    client.query("select 1")?;
    let ended = client.query("commit")?;
    assert_eq!((ended.commands(), ended.status()), (vec!["ROLLBACK".to_owned()], Some('I')));
    Ok(())
}

#[test]
fn it_can_be_switched_off() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top(ONE).top("deferred_begin = false").start()?;
    let mut holder = proxy.target().connect()?;
    holder.query("begin")?;
    assert_eq!(proxy.target().connect()?.query("select 1")?.error().code, "53300");
    Ok(())
}

#[test]
fn nothing_is_told_in_the_transaction() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let mut listener = proxy.target().connect()?;
    listener.query("listen a")?;
    listener.query("begin")?;
    cluster.sql("notify a")?;
    assert!(listener.silent_for(std::time::Duration::from_millis(500))?);
    listener.query("commit")?;
    assert_eq!(listener.read()?.tag, b'A');
    Ok(())
}

//! SQL `PREPARE`, `EXECUTE` and `DEALLOCATE` where they meet something else: texts that fail or are not read whole, a batch
//! that is still open, settings that change, clients that leave. The answers are PostgreSQL's.

mod common;

use std::time::Duration;

use common::*;

fn setup() -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.sql("grant create on schema public to app")?;
    cluster.target().connect()?.value("create table t (a int)")?;
    let proxy = Config::of(&cluster).top("pool_size = 2\nborrow_timeout = \"25s\"").start()?;
    Ok((cluster, proxy))
}

/// Parse, Bind, Execute of a text, without a Sync.
fn run(sql: &str) -> Say {
    Say::new().parse("", sql, &[]).bind("", "", &[]).execute("", 0)
}

fn queries(all: &[&str]) -> Script {
    all.iter().fold(Script::new(), |script, sql| script.query(sql))
}

fn agree(cluster: &Cluster, proxy: &Proxy, scripts: &[Script]) -> Result {
    for (number, script) in scripts.iter().enumerate() {
        let compared = compare(&cluster.target(), &proxy.target(), script);
        compared.map_err(|error| format!("script {number}: {error:?}"))?;
    }
    Ok(())
}

/// What is said before the client gets another backend, which has none of its statements, and what behind that.
struct Moved {
    before: Script,
    behind: Script,
}

fn moved(before: &[&str], behind: Script) -> Moved {
    Moved { before: queries(before), behind }
}

fn agree_moved(cluster: &Cluster, proxy: &Proxy, programs: &[Moved]) -> Result {
    for (number, Moved { before, behind }) in programs.iter().enumerate() {
        let mut direct = cluster.target().connect()?;
        let pid = direct.value("select pg_backend_pid()")?;
        let mut client = proxy.target().connect()?;
        let at = |error| format!("program {number}: {error:?}");
        compare_answers(&before.run(&mut direct)?, &before.run(&mut client)?).map_err(at)?;
        // What DDL brings about is over.
        std::thread::sleep(Duration::from_millis(600));
        cluster.sql(&format!(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where usename = 'app' and pid <> {pid}"
        ))?;
        std::thread::sleep(Duration::from_millis(300));
        compare_answers(&behind.run(&mut direct)?, &behind.run(&mut client)?).map_err(at)?;
    }
    Ok(())
}

fn pins(proxy: &Proxy) -> Result<f64> {
    proxy.metric("pgfunnel_pins_total", &[])
}

/// Fails if a client finds a statement like this on either backend.
fn finds_none(proxy: &Proxy, like: &str) -> Result {
    let count = format!(
        "do $$declare found text; begin select string_agg(statement, ', ') into found from pg_prepared_statements \
         where statement like '{like}'; if found is not null then raise exception '%', left(found, 500); end if; end$$"
    );
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    for client in [&mut one, &mut two] {
        client.hold()?;
        assert_eq!(client.query(&count)?.errors(), vec![], "another client's statement");
    }
    Ok(())
}

#[test]
fn what_the_backend_has_is_known_whatever_else_a_text_does() -> Result {
    let (cluster, proxy) = setup()?;
    let scripts = [
        queries(&["deallocate all; prepare p as select 1"]).say(run("deallocate p").sync()).query("execute p"),
        Script::new()
            .say(
                Say::new()
                    .parse("x", "prepare p as select 1", &[])
                    .parse("y", "prepare p as select 2", &[])
                    .bind("a", "x", &[])
                    .bind("b", "y", &[])
                    .execute("a", 0)
                    .execute("b", 0)
                    .sync(),
            )
            .say(run("deallocate p").sync())
            .query("execute p"),
    ];
    agree(&cluster, &proxy, &scripts)?;
    assert_eq!(pins(&proxy)?, 0.0, "{}", proxy.log());
    Ok(())
}

#[test]
fn the_end_of_a_query_is_no_part_of_it() -> Result {
    let (cluster, proxy) = setup()?;
    let scripts = [
        queries(&["prepare prepare as select 1", "execute prepare", "deallocate prepare", "execute prepare"]),
        queries(&["prepare p as select 1;", "select name, statement from pg_prepared_statements"]),
        queries(&["prepare \"\" as select 1", "execute \"\"", "deallocate \"\"", "execute p"]),
    ];
    agree(&cluster, &proxy, &scripts)
}

#[test]
fn a_definition_is_read_in_the_encoding_that_it_came_in() -> Result {
    let (cluster, proxy) = setup()?;
    let latin = "set client_encoding = latin1";
    let named = Say::new().parse("s", "select length('ä')", &[]).sync();
    let uses = Say::new().bind("", "s", &[]).execute("", 0).sync();
    let before = queries(&[]).say(named).query("prepare p as select length('ä')").query(latin);
    let behind = queries(&["execute p", "execute p", "show client_encoding"]).say(uses.clone()).say(uses);
    let in_one = queries(&["begin", "execute p", "commit", "execute p"]);
    agree_moved(
        &cluster,
        &proxy,
        &[Moved { before, behind }, moved(&["prepare p as select length('ä')", latin], in_one)],
    )
}

#[test]
fn a_replay_that_fails_undoes_nothing() -> Result {
    let (cluster, proxy) = setup()?;
    let before = ["create table g (a int)", "prepare p as select * from g", "prepare q as select 2", "drop table g"];
    agree_moved(
        &cluster,
        &proxy,
        &[
            moved(&before, queries(&["begin", "insert into t values (3)", "commit; execute p", "delete from t"])),
            moved(
                &before,
                queries(&["begin", "insert into t values (3)", "savepoint s", "rollback to s; execute q"])
                    .query("rollback to s")
                    .query("savepoint s2; execute q")
                    .query("execute p")
                    .query("rollback to s2")
                    .query("commit")
                    .query("delete from t"),
            ),
        ],
    )
}

#[test]
fn two_names_of_one_text_are_two_statements() -> Result {
    let (cluster, proxy) = setup()?;
    let both = Say::new().parse("a", "select 1", &[]).parse("b", "select 1", &[]).sync();
    let script = |texts: &[&str]| texts.iter().fold(Script::new().say(both.clone()), |script, sql| script.query(sql));
    let scripts = [
        script(&["deallocate a; execute b", "execute b", "execute a"]),
        script(&["deallocate a; deallocate b", "execute a", "execute b"]),
        script(&["deallocate a; prepare a as select 2; execute b; deallocate a", "execute b"]),
        script(&["deallocate a; select 1/0; execute b", "execute b", "execute a"]),
        Script::new()
            .say(both.clone())
            .say(run("deallocate a").and(&Say::new().bind("", "b", &[]).execute("", 0)).sync())
            .query("execute b"),
    ];
    agree(&cluster, &proxy, &scripts)?;
    assert_eq!(pins(&proxy)?, 0.0, "{}", proxy.log());
    Ok(())
}

#[test]
fn a_query_in_an_open_batch_is_one_transaction_with_it() -> Result {
    let (cluster, proxy) = setup()?;
    let insert = run("insert into t values (1)");
    agree_moved(
        &cluster,
        &proxy,
        &[moved(
            &["prepare p as select 1"],
            Script::new().say(insert.query("execute p; select 1/0")).query("select count(*) from t").query("execute p"),
        )],
    )
}

#[test]
fn asking_which_statements_there_are_destroys_none() -> Result {
    let (cluster, proxy) = setup()?;
    let list = "select name from pg_prepared_statements order by name";
    cluster.target().connect()?.value(
        "create function prep() returns void language plpgsql as $$begin execute 'prepare h as select 1'; end$$",
    )?;
    let hidden = [
        queries(&["begin", "do $$begin prepare h as select 1; end$$", list, "execute h", "rollback", "execute h"]),
        queries(&["begin", "select prep()", list, "execute h", "rollback"]),
        queries(&["do $$begin execute 'prepare h as select 1'; end$$; select name from pg_prepared_statements"])
            .query("execute h"),
        queries(&["select prep()", list, "execute h"]),
    ];
    agree(&cluster, &proxy, &hidden)?;
    let session = Config::of(&cluster).top("pool_size = 2\npool_mode = \"session\"").start()?;
    agree(&cluster, &session, &hidden)?;
    let known = "select name from pg_prepared_statements where name <> 'p'";
    let gone = [
        // It is not listed any more.
        queries(&["create table g (a int)", "prepare p as select * from g", "prepare q as select 2", "drop table g"])
            .say(run(known).sync())
            .query("begin")
            .query(known)
            .say(run(known).sync())
            .query("execute q")
            .query("commit")
            .query(known)
            .query("execute q"),
    ];
    agree(&cluster, &proxy, &gone)
}

#[test]
fn a_name_is_found_wherever_it_stands_in_a_long_text() -> Result {
    let (cluster, proxy) = setup()?;
    let long = |length: usize, end: &str| format!("select length('{}'); {end}", "x".repeat(length));
    let mut scripts = vec![queries(&[
        "prepare p as select 1",
        &long(70_000, "execute p"),
        &long(500_000, "prepare q as select 2"),
        "execute q",
        &long(70_000, "deallocate p"),
        "execute p",
    ])];
    for cut in 65_500..65_540 {
        scripts.push(queries(&["prepare pppppp as select 1", &long(cut - 30, "execute pppppp")]));
    }
    agree(&cluster, &proxy, &scripts)?;
    assert_eq!(pins(&proxy)?, 0.0, "{}", proxy.log());
    let scripts = [
        // Longer, it is pinned to a backend that has what it names.
        queries(&["prepare p (text) as select length($1)"])
            .query(&format!("execute p('{}')", "x".repeat(1_100_000)))
            .query("execute p('a')"),
        queries(&["prepare p (text) as select length($1)"])
            .say(run(&format!("execute p('{}')", "x".repeat(1_100_000))).sync())
            .query("execute p('a')"),
    ];
    agree(&cluster, &proxy, &scripts)
}

#[test]
fn a_text_that_cannot_be_read_finds_what_was_prepared_before() -> Result {
    let (cluster, proxy) = setup()?;
    let named = Say::new().parse("s", "select 7", &[]).sync();
    let uses = |name: &str| Say::new().bind("", name, &[]).execute("", 0).sync();
    let scripts =
        ["set standard_conforming_strings = off", "set client_encoding = 'SJIS'", "execute U&\"p\""].map(|sql| {
            queries(&["prepare p as select 1"])
                .say(named.clone())
                .query(sql)
                .query("execute p")
                .say(run("execute s").sync())
                .say(uses("p"))
                .query("begin; deallocate s; prepare q as select 3; commit")
                .say(uses("s"))
                .say(uses("q"))
                .say(named.clone())
                .query("execute s; execute q")
                .say(Say::new().close_statement("q").sync())
                .query("execute q")
                .query("set standard_conforming_strings = on; set client_encoding = 'UTF8'")
                .query("execute p; execute q")
                .query("deallocate all")
                .query("execute p")
                .query("prepare p as select 5")
                .query("execute p")
                .say(named.clone())
                .say(uses("s"))
        });
    agree(&cluster, &proxy, &scripts)
}

#[test]
fn what_is_skipped_is_not_taken_to_be_there() -> Result {
    let (cluster, proxy) = setup()?;
    let parse = Say::new().parse("p", "prepare c as select 6", &[]);
    let broken = Say::new().parse("", "selec", &[]);
    let behind = Script::new().say(broken.and(&parse).sync()).say(parse.clone().sync()).say(parse.clone().sync());
    agree_moved(&cluster, &proxy, &[Moved { before: Script::new().say(parse.sync()), behind }])
}

#[test]
fn many_names_in_one_text_leave_nothing_behind() -> Result {
    let (_cluster, proxy) = setup()?;
    for count in [90, 1_500] {
        let mut client = proxy.target().connect()?;
        let text = |verb: &str, end: &dyn Fn(usize) -> String| -> String {
            (0..count).map(|number| format!("{verb} q{number}{};", end(number))).collect()
        };
        for _ in 0..8 {
            client.value(&text("prepare", &|number| format!(" as select {number} as many")))?;
            assert_eq!(client.value(&text("execute", &|_| String::new()))?, "0");
            client.value(&text("deallocate", &|_| String::new()))?;
        }
        client.value(&text("prepare", &|number| format!(" as select {number} as many")))?;
        drop(client);
        std::thread::sleep(Duration::from_millis(200));
        finds_none(&proxy, "%as many%")?;
    }
    Ok(())
}

#[test]
fn nobody_finds_what_another_client_has_left() -> Result {
    let (_cluster, proxy) = setup()?;
    for round in 0..6 {
        let mut client = proxy.target().connect()?;
        client.value("prepare p as select 'a secret'")?;
        let mut other = proxy.target().connect()?;
        other.hold()?;
        client.value("execute p")?;
        client.ask(&Say::new().parse("x", "execute p /* a secret */", &[]).bind("", "x", &[]).execute("", 0).sync())?;
        match round % 3 {
            0 => client.value("deallocate p; deallocate x").map(drop)?,
            1 => {
                client.ask(&Say::new().close_statement("p").close_statement("x").sync())?;
            }
            _ => {}
        }
        if round % 2 == 0 {
            drop(client);
        }
        drop(other);
        std::thread::sleep(Duration::from_millis(100));
        if round % 2 == 0 || round % 3 != 2 {
            finds_none(&proxy, "%a secret%")?;
        }
    }
    Ok(())
}

//! Prepared statements in pipelines: what is sent before it is known whether what stands in front of it was skipped.

mod common;

use common::*;

#[test]
fn deallocate_in_a_pipeline_is_answered_as_by_postgresql() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"20s\"").start()?;
    let run = |sql: &str| Say::new().parse("", sql, &[]).bind("", "", &[]).execute("", 0);
    let named = |name: &str, sql: &str| Say::new().parse(name, sql, &[]);
    let uses = |name: &str| Say::new().bind("", name, &[]).execute("", 0);
    let scripts = [
        Script::new()
            .say(named("a", "select 1").sync())
            .say(run("deallocate all").and(&named("n", "select 2")).and(&uses("n")).sync())
            .say(uses("n").sync())
            .say(uses("a").sync()),
        Script::new()
            .say(named("a", "select 1").and(&named("b", "select 2")).sync())
            .say(run("deallocate a").and(&run("deallocate b")).sync())
            .say(named("c", "select 1").and(&uses("c")).sync())
            .say(uses("a").sync())
            .say(uses("b").sync()),
        Script::new().query("deallocate all; prepare p as select 7").query("execute p").query("deallocate p"),
    ];
    for (number, script) in scripts.iter().enumerate() {
        for _ in 0..2 {
            let compared = compare(&cluster.target(), &proxy.target(), script);
            compared.map_err(|error| format!("script {number}: {error:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn nobody_elses_unnamed_statement_is_ever_executed() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"20s\"").start()?;
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    one.ask(&Say::new().parse("", "select 'secret'", &[]).sync())?;
    // The Query is skipped with the batch that failed, and drops nothing.
    two.ask(&Say::new().parse("bad", "selec", &[]).and(&Say::new().raw(b'Q', b"select 1\0")).sync())?;
    let answer = two.ask(&Say::new().bind("", "", &[]).execute("", 0).sync())?;
    assert_eq!(answer.error().code, "26000", "{answer:?}");
    // What was to take it away is skipped, too, and the next batch is sent before that is known.
    one.ask(&Say::new().parse("", "select 'secret'", &[]).sync())?;
    let bind = Say::new().bind("", "", &[]).execute("", 0).sync();
    let answer = two.ask(&Say::new().execute("nothing", 0).and(&bind).and(&bind))?;
    let codes: Vec<String> = answer.errors().into_iter().map(|error| error.code).collect();
    assert_eq!(codes, ["34000", "26000"], "{answer:?}");
    Ok(())
}

#[test]
fn a_name_that_is_taken_is_taken_whatever_was_skipped_before() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"20s\"").start()?;
    let list = "select string_agg(name, ' ' order by name) from pg_prepared_statements";
    // After the list the backend lacks the statement. The second batch is skipped, and with it what would have made sure of
    // the name; the third is sent before that is known.
    let script = Script::new()
        .say(Say::new().parse("a", "select 1", &[]).flush().query(list))
        .say(
            Say::new()
                .execute("", 0)
                .parse("a", "selec", &[])
                .flush()
                .sync()
                .and(&Say::new().parse("a", "select 2", &[]).sync()),
        )
        .say(Say::new().bind("", "a", &[]).execute("", 0).sync());
    for _ in 0..3 {
        compare(&cluster.target(), &proxy.target(), &script)?;
    }
    Ok(())
}

//! The extended query protocol: pipelines, several Syncs, Flush, portals, errors in the middle, function calls.

mod common;

use common::*;

/// Parse, Bind, Describe and Execute of one statement in the unnamed slots.
fn run(sql: &str, values: &[Option<&str>]) -> Say {
    Say::new().parse("", sql, &[]).bind("", "", values).describe_portal("").execute("", 0)
}

fn compare_all(scripts: &[Script]) -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    for (number, script) in scripts.iter().enumerate() {
        compare(&cluster.target(), &proxy.target(), script).map_err(|error| format!("script {number}: {error:?}"))?;
    }
    let session = Config::of(&cluster).top("pool_mode = \"session\"").start()?;
    for (number, script) in scripts.iter().enumerate() {
        let compared = compare(&cluster.target(), &session.target(), script);
        compared.map_err(|error| format!("script {number}, session mode: {error:?}"))?;
    }
    // And under load, on the same two backends.
    for (number, script) in scripts.iter().enumerate() {
        let crowd = compare_crowd(&cluster.target(), &proxy.target(), 6, 3, script);
        crowd.map_err(|error| format!("script {number}, many clients: {error:?}"))?;
    }
    Ok(())
}

#[test]
fn one_statement() -> Result {
    compare_all(&[
        Script::new().say(run("select $1::int + 1", &[Some("41")]).sync()),
        Script::new().say(run("select $1::text, $2::text", &[None, Some("")]).sync()),
        Script::new().say(run("", &[]).sync()),
        Script::new().say(run("select $1::int + 1", &[Some("x")]).sync()).query("select 'after'"),
        Script::new().say(run("selec", &[]).sync()).query("select 'after'"),
        Script::new().say(Say::new().sync()).say(Say::new().sync().sync()),
        Script::new().say(
            Say::new().parse("", "select 1::int4, 'x'::text", &[]).bind_formats("", "", &[], 1).execute("", 0).sync(),
        ),
        Script::new().say(Say::new().parse("", "select $1", &[23]).describe_statement("").sync()),
        Script::new()
            .say(Say::new().parse("", "create temp table t (a int) on commit drop", &[]).describe_statement("").sync()),
    ])
}

#[test]
fn pipelines() -> Result {
    let one = |n: &str| run("select $1::int", &[Some(n)]);
    compare_all(&[
        Script::new().say(one("1").and(&one("2")).and(&one("3")).sync()),
        Script::new().say(one("1").sync().and(&one("2").sync()).and(&one("3").sync())),
        Script::new().say(one("1").sync().and(&one("x").sync()).and(&one("3").sync())),
        Script::new().say(one("1").and(&one("x")).and(&one("3")).sync()).query("select 'after'"),
        Script::new().say(run("begin", &[]).and(&one("1")).and(&run("commit", &[])).sync()),
        Script::new().say(
            run("begin", &[]).sync().and(&one("x").sync()).and(&one("1").sync()).and(&run("rollback", &[]).sync()),
        ),
        Script::new().say(run("begin", &[]).sync().and(&one("1").sync())).say(run("commit", &[]).sync()),
        Script::new()
            .say(one("1").sync().query("select 2").and(&one("3").sync()).query("select 1/0").query("select 5")),
        Script::new().say((0..200).fold(Say::new(), |say, n| say.and(&one(&n.to_string()).sync()))),
        Script::new().say((0..200).fold(Say::new(), |say, n| say.and(&one(&n.to_string()))).sync()),
    ])
}

#[test]
fn flush_answers_without_sync() -> Result {
    compare_all(&[
        Script::new()
            .until(Say::new().parse("", "select $1::int", &[]).describe_statement("").flush(), b'T')
            .say(Say::new().bind("", "", &[Some("7")]).execute("", 0).sync()),
        Script::new()
            .until(run("select 1", &[]).flush(), b'C')
            .until(run("select 2", &[]).flush(), b'C')
            .say(Say::new().sync()),
        Script::new()
            .until(run("select 1/0", &[]).flush(), b'E')
            .say(run("select 2", &[]).flush().sync())
            .query("select 3"),
        Script::new()
            .until(Say::new().parse("", "select 1", &[]).flush(), b'1')
            .say(Say::new().sync())
            .query("select 2"),
    ])
}

#[test]
fn portals() -> Result {
    let series = Say::new().parse("", "select generate_series(1, 7)", &[]);
    compare_all(&[
        // Suspended, resumed, and gone with the end of its transaction.
        Script::new()
            .say(
                series
                    .clone()
                    .bind("p", "", &[])
                    .execute("p", 3)
                    .execute("p", 3)
                    .execute("p", 3)
                    .execute("p", 3)
                    .sync(),
            )
            .say(Say::new().execute("p", 1).sync()),
        // In a transaction block a portal outlives Sync.
        Script::new()
            .query("begin")
            .say(series.clone().bind("p", "", &[]).execute("p", 2).sync())
            .say(Say::new().describe_portal("p").execute("p", 2).sync())
            .say(Say::new().close_portal("p").sync())
            .say(Say::new().execute("p", 2).sync())
            .query("rollback"),
        // Duplicate and unknown names.
        Script::new().query("begin").say(series.clone().bind("p", "", &[]).bind("p", "", &[]).sync()).query("rollback"),
        Script::new().say(Say::new().execute("nobody", 0).sync()).say(Say::new().describe_portal("nobody").sync()),
        Script::new().say(Say::new().close_portal("nobody").close_statement("nobody").sync()),
        // Cursors of SQL and portals are the same thing.
        Script::new()
            .query("begin; declare c cursor for select generate_series(1, 9)")
            .say(Say::new().execute("c", 2).sync())
            .query("fetch 2 from c; close c; commit"),
    ])
}

#[test]
fn function_calls() -> Result {
    compare_all(&[
        // 1740 is numeric(int4), 870 lower(text).
        Script::new().say(Say::new().function_call(870, &["LOUD"])),
        Script::new().say(Say::new().function_call(1, &[])).query("select 'after'"),
        Script::new().query("begin").say(Say::new().function_call(870, &["X"])).query("commit"),
        Script::new().say(Say::new().function_call(870, &["A"]).function_call(870, &["B"]).query("select 1")),
    ])
}

#[test]
fn wrong_messages_are_answered_as_by_postgresql() -> Result {
    compare_all(&[
        // COPY messages outside of a COPY are ignored.
        Script::new().say(Say::new().copy_data(b"x").copy_done().copy_fail("no").query("select 1")),
        // Too few and too many parameters.
        Script::new().say(Say::new().parse("", "select $1::int", &[]).bind("", "", &[]).sync()).query("select 1"),
        Script::new().say(Say::new().parse("", "select 1", &[]).bind("", "", &[Some("1")]).sync()).query("select 1"),
        // Several commands in one prepared statement.
        Script::new().say(Say::new().parse("", "select 1; select 2", &[]).sync()).query("select 1"),
        // Describe with an unknown kind.
        Script::new().say(Say::new().raw(b'D', b"Xname\0").sync()).query("select 1"),
        Script::new().say(Say::new().raw(b'C', b"Xname\0").sync()).query("select 1"),
    ])
}

#[test]
fn a_message_in_many_pieces_is_one_message() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let (mut direct, mut client) = (cluster.target().connect()?, proxy.target().connect()?);
    let say = run("select $1::text", &[Some("in pieces")]).sync().query("select 2");
    let expected = direct.ask(&say)?;
    for size in [1, 2, 3, 7] {
        for piece in say.bytes().chunks(size) {
            client.send(piece)?;
            std::thread::yield_now();
        }
        compare_answers(&expected, &client.read_ready(2)?)?;
    }
    Ok(())
}

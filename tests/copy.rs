//! COPY in and out: large, failing, cancelled by the client, and in the extended protocol.

mod common;

use std::time::Duration;

use common::*;

const TABLE: &str = "create table t (a int primary key, b text)";

/// COPY FROM in the simple protocol, whatever is said in it rolled back afterwards.
fn copy_in(said: Say) -> Script {
    Script::new().query("begin").until(Say::new().query("copy t from stdin"), b'G').until(said, b'Z').query("rollback")
}

fn extended_copy() -> Say {
    Say::new().parse("", "copy t from stdin", &[]).bind("", "", &[]).execute("", 0)
}

#[test]
fn copy_is_answered_as_by_postgresql() -> Result {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value(TABLE)?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let scripts = [
        copy_in(Say::new().copy_data(b"1\tone\n2\ttwo\n").copy_done()),
        copy_in(Say::new().copy_data(b"1\to").copy_data(b"ne\n").copy_data(b"2\ttwo\n").copy_done()),
        copy_in(Say::new().copy_done()),
        copy_in(Say::new().copy_data(b"1\tone\n").copy_fail("changed my mind")),
        copy_in(Say::new().copy_data(b"x\tone\n").copy_done()),
        copy_in(Say::new().copy_data(b"1\tone\n1\ttwice\n").copy_done()),
        // Flush and Sync are ignored in a COPY of the simple protocol.
        copy_in(Say::new().copy_data(b"1\tone\n").flush().unanswered_sync().copy_data(b"2\ttwo\n").copy_done()),
        // Behind what ends state in the same text, and with everything said at once.
        Script::new()
            .query("begin")
            .until(Say::new().query("prepare p as select 1; reset work_mem; copy t from stdin; deallocate p"), b'G')
            .until(Say::new().copy_data(b"5\tfive\n").copy_done(), b'Z')
            .query("rollback"),
        Script::new()
            .query("begin")
            .until(Say::new().query("discard temp; copy t from stdin").copy_data(b"5\tfive\n").copy_done(), b'Z')
            .query("rollback"),
        Script::new()
            .until(Say::new().query("copy t from stdin"), b'G')
            .close(Say::new().query("prepare p as select 1; execute p")),
        // Any other message ends it, and the connection.
        Script::new()
            .until(Say::new().query("copy t from stdin"), b'G')
            .close(Say::new().copy_data(b"1\tone\n").query("select 1")),
        Script::new().query("copy (select generate_series(1, 1000)) to stdout"),
        Script::new().query("copy (select 1/(g-50) from generate_series(1, 100) g) to stdout").query("select 1"),
        Script::new().query("select 1; copy (select 2) to stdout; select 3"),
        Script::new().query("copy nothing from stdin").query("copy nothing to stdout"),
        Script::new()
            .query("begin")
            .until(Say::new().query("copy t from stdin; select count(*) from t; copy t to stdout"), b'G')
            .until(Say::new().copy_data(b"5\tfive\n").copy_done(), b'Z')
            .query("rollback"),
    ];
    for (number, script) in scripts.iter().enumerate() {
        let compared = compare(&cluster.target(), &proxy.target(), script);
        compared.map_err(|error| format!("script {number}: {error:?}"))?;
    }
    Ok(())
}

#[test]
fn copy_in_the_extended_protocol() -> Result {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value(TABLE)?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let data = Say::new().copy_data(b"1\tone\n");
    let begun = Script::new().query("begin");
    let scripts = [
        begun.clone().until(extended_copy().flush(), b'G').say(data.clone().copy_done().sync()),
        // What libpq does: the Sync comes at once, the server ignores it, and one more follows the end.
        begun.clone().until(extended_copy().unanswered_sync(), b'G').say(data.clone().copy_done().sync()),
        begun.clone().until(extended_copy().unanswered_sync(), b'G').say(data.clone().copy_fail("no").sync()),
        begun.clone().until(extended_copy().flush(), b'G').say(Say::new().copy_data(b"x\n").copy_done().sync()),
        // All in one write.
        begun.clone().say(extended_copy().and(&data.clone().copy_done().sync())),
        begun.clone().say(extended_copy().unanswered_sync().and(&data.clone().copy_done().sync())),
        // After a COPY that cannot even start, its data is skipped.
        begun.clone().say(
            Say::new()
                .parse("", "copy nothing from stdin", &[])
                .bind("", "", &[])
                .execute("", 0)
                .and(&data.clone().copy_done().sync()),
        ),
        begun
            .clone()
            .say(Say::new().parse("", "copy (select 1) to stdout", &[]).bind("", "", &[]).execute("", 0).sync()),
    ];
    for (number, script) in scripts.into_iter().enumerate() {
        let compared = compare(&cluster.target(), &proxy.target(), &script.query("rollback").query("select 'after'"));
        compared.map_err(|error| format!("script {number}: {error:?}"))?;
    }
    Ok(())
}

#[test]
fn many_clients_copy_at_once() -> Result {
    let cluster = Cluster::start()?;
    cluster.limit_backends(2)?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    proxy.target().connect()?.value("create table many (a int)")?;
    crowd(8, |number| {
        let mut client = proxy.target().connect()?;
        for _ in 0..5 {
            client.say(&Say::new().query("copy many from stdin"))?;
            client.read_until(b'G', 1)?;
            for _ in 0..100 {
                client.say(&Say::new().copy_data(format!("{number}\n").as_bytes()))?;
            }
            client.say(&Say::new().copy_done())?;
            assert_eq!(client.read_ready(1)?.commands(), ["COPY 100"]);
        }
        Ok(())
    })?;
    let mut client = proxy.target().connect()?;
    assert_eq!(client.value("select count(*) || ' ' || count(distinct a) from many")?, "4000 8");
    let out = client.query("copy many to stdout")?;
    assert_eq!(out.0.iter().filter(|message| message.tag == b'd').count(), 4000);
    assert!(!cluster.refused());
    Ok(())
}

#[test]
fn a_big_copy_passes_in_flat_memory() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let mut client = proxy.target().connect()?;
    client.value("create unlogged table big (t text)")?;
    let line = [vec![b'x'; 8191], vec![b'\n']].concat();
    let before = proxy.memory()?;
    client.say(&Say::new().query("copy big from stdin"))?;
    client.read_until(b'G', 1)?;
    let chunk = Say::new().copy_data(&line.repeat(64));
    let mut most = before;
    for _ in 0..256 {
        client.say(&chunk)?;
        most = most.max(proxy.memory()?);
    }
    client.say(&Say::new().copy_done())?;
    assert_eq!(client.read_ready(1)?.commands(), ["COPY 16384"]);
    // Out again, 128 MiB, by a client that pauses.
    client.say(&Say::new().query("copy big to stdout"))?;
    std::thread::sleep(Duration::from_millis(500));
    let mut rows = 0;
    loop {
        let message = client.read()?;
        rows += usize::from(message.tag == b'd');
        if rows % 1000 == 0 {
            most = most.max(proxy.memory()?);
        }
        if message.tag == b'Z' {
            break;
        }
    }
    assert_eq!(rows, 16384);
    assert!(most < before + 4096, "grew from {before} to {most} KiB");
    Ok(())
}

#[test]
fn one_copy_message_of_100_mib_passes_in_flat_memory() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let mut client = proxy.target().connect()?;
    client.value("create unlogged table big (t text)")?;
    let before = proxy.memory()?;
    client.say(&Say::new().query("copy big from stdin"))?;
    client.read_until(b'G', 1)?;
    let data = [vec![b'x'; 8191], vec![b'\n']].concat().repeat(100 * 128);
    client.say(&Say::new().copy_data(&data).copy_done())?;
    assert_eq!(client.read_ready(1)?.commands(), ["COPY 12800"]);
    let after = proxy.memory()?;
    assert!(after < before + 4096, "grew from {before} to {after} KiB");
    Ok(())
}

#[test]
fn a_copy_whose_sync_came_too_early_is_not_over_before_the_next() -> Result {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value(TABLE)?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"20s\"").start()?;
    let begin = |client: &mut Wire| -> Result {
        client.say(&extended_copy().unanswered_sync())?;
        client.read_until(b'G', 1)?;
        client.say(&Say::new().copy_data(b"1\tone\n").copy_done().flush())?;
        client.read_until(b'C', 1).map(drop)
    };
    // Another client's error must not roll it back.
    let mut owner = proxy.target().connect()?;
    begin(&mut owner)?;
    let mut other = proxy.target().connect()?;
    other.say(&Say::new().query("select 1/0"))?;
    assert!(other.silent_for(Duration::from_millis(500))?, "the only backend is taken");
    owner.ask(&Say::new().sync())?;
    assert_eq!(other.read_ready(1)?.error().code, "22012");
    assert_eq!(owner.value("delete from t returning a")?, "1", "the COPY is lost");
    // And who vanishes before its Sync has not committed.
    begin(&mut owner)?;
    drop(owner);
    assert_eq!(other.value("select count(*) from t")?, "0", "nobody asked to commit");
    Ok(())
}

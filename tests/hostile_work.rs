//! Clients that make pgfunnel work or remember without end: others are served meanwhile, and its memory stays small.

mod common;

use std::io::Write as _;
use std::thread;
use std::time::{Duration, Instant};

use common::*;

/// What is said of texts like these is told in time that grows with them, not with their square, and without end of the
/// stack.
#[test]
fn a_text_of_nothing_but_suspicions_keeps_nobody_waiting() -> Result {
    let cluster = Cluster::start()?;
    let mut proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let mut other = proxy.target().connect()?;
    for text in [
        format!("explain {}select 1", "analyze ".repeat(120_000)),
        format!("select {}1", "pg_settings,".repeat(80_000)),
        "explain (a;".repeat(80_000),
        format!("select {}'{}'", "set_config ".repeat(250), "x".repeat(900_000)),
        format!("select {}", "set_config(".repeat(90_000)),
    ] {
        let start: String = text.chars().take(40).collect();
        let mut hostile = proxy.target().connect()?;
        hostile.say(&Say::new().parse("", &text, &[]).sync())?;
        let began = Instant::now();
        for _ in 0..3 {
            assert_eq!(other.value("select 1")?, "1");
        }
        assert!(began.elapsed() < Duration::from_secs(15), "{start} took {:?}", began.elapsed());
        hostile.read_ready(1)?;
        assert!(proxy.alive()?, "{start}");
    }
    Ok(())
}

/// Each of so many settings of a login is looked for in a text that resets, once.
#[test]
fn a_login_with_hundreds_of_settings_resets_them_in_time() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let mut target = proxy.target();
    for number in 0..800 {
        target = target.parameter(&format!("a.s{number}"), "1");
    }
    let (mut hostile, mut other) = (target.connect()?, proxy.target().connect()?);
    // With a statement of its own, a whole Query is examined.
    hostile.ask(&Say::new().parse("s", "select 1", &[]).sync())?;
    hostile.query("begin; select 1")?;
    let began = Instant::now();
    hostile.query(&"reset work_mem;".repeat(60_000))?;
    assert_eq!(other.value("select 1")?, "1");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
    hostile.query("rollback")?;
    assert_eq!(hostile.value("show a.s7")?, "1");
    Ok(())
}

#[test]
fn portals_of_texts_with_names_are_bounded() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let mut client = proxy.target().connect()?;
    client.query("prepare x as select 7")?;
    client.ask(&Say::new().parse("ex", "execute x", &[]).sync())?;
    let bind = |count: usize| {
        let binds = (0..count).fold(Say::new(), |say, n| say.bind(&format!("p{n}"), "ex", &[]));
        binds.execute("p1", 0).sync()
    };
    assert_eq!(client.ask(&bind(90))?.value(), "7");
    let answer = client.ask(&bind(3_000))?;
    assert_eq!(answer.error().code, "54000", "{:?}", answer.error());
    assert_eq!(client.ask(&bind(90))?.value(), "7", "the connection goes on");
    Ok(())
}

#[test]
fn what_is_sent_without_a_sync_is_not_remembered_without_end() -> Result {
    // KiB.
    const MOST: usize = 24 * 1024;
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let before = proxy.memory()?;
    let filler = "x".repeat(1_000_000);
    let mut client = proxy.target().connect()?;
    // What it says is taken; it is not asked to say anything itself.
    for number in 0..200 {
        let large = Say::new().parse("", &format!("select {number} /* {filler} */"), &[]);
        client.say(&large).map_err(|error| format!("Parse {number}: {error}"))?;
    }
    assert!(proxy.memory()? < before + MOST, "{} more", proxy.memory()? - before);
    client.ask(&Say::new().sync())?;
    drop(client);

    // Names that are too long are cut, as by PostgreSQL.
    let before = proxy.memory()?;
    let mut client = proxy.target().connect()?;
    client.ask(&Say::new().parse("a", "select 1", &[]).sync())?;
    client.say(&Say::new().query("select pg_sleep(3)"))?;
    for number in 0..100 {
        client.say(&Say::new().parse(&format!("{number} {filler}"), "select 1", &[]))?;
    }
    assert!(proxy.memory()? < before + MOST, "{} more", proxy.memory()? - before);
    client.ask(&Say::new().sync())?;
    drop(client);

    let before = proxy.memory()?;
    let mut client = proxy.target().connect()?;
    client.ask(&Say::new().parse("a", "select 1", &[]).sync())?;
    client.ask(&Say::new().close_statement("a").sync())?;
    let unit = (0..1_000).fold(Say::new(), |say, _| say.parse("a", "select 1", &[]).close_statement("a"));
    let mut writer = client.writer()?;
    let writes = thread::spawn(move || (0..500).try_for_each(|_| writer.write_all(unit.bytes())));
    let answer = client.read_until(b'3', 500_000)?;
    assert_eq!(answer.0.len(), 1_000_000);
    writes.join().map_err(|_| "it panicked")??;
    drop(answer);
    assert!(proxy.memory()? < before + MOST / 3, "{} more", proxy.memory()? - before);
    Ok(())
}

//! Simple queries: rows, errors, empty and multi-statement strings, transactions, notices.

mod common;

use common::*;

#[test]
fn a_query_is_answered_as_by_postgresql() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let scripts = [
        Script::new().query("select 1 as one, null as nothing, 'ä' as text"),
        Script::new().query(""),
        Script::new().query(" -- nothing\n").query(";;"),
        Script::new().query("select 1; select 2; select 3"),
        Script::new().query("select 1; select 1/0; select 3").query("select 4"),
        Script::new().query("selec 1").query("select nothing").query("select 'ok'"),
        Script::new().query("begin; select 1").query("select 2").query("commit"),
        Script::new().query("begin").query("select 1/0").query("select 2").query("rollback").query("select 3"),
        Script::new().query("begin").query("select 1/0").query("commit"),
        Script::new().query("commit").query("rollback"),
        Script::new().query("begin; select 1; commit; begin").query("select 2; commit").query("select 3"),
        Script::new().query("begin; select 1/0; commit").query("rollback; begin; commit; select 4"),
        Script::new()
            .query("begin")
            .query("commit and chain")
            .query("select 1")
            .query("rollback and chain")
            .query("commit"),
        Script::new()
            .query("begin isolation level serializable read only")
            .query("create table x ()")
            .query("rollback"),
        Script::new().query("select e'\\'', $$a;b$$, 'it''s' /* ; */ -- ;"),
        Script::new().query("do $$begin raise notice 'n'; raise warning 'w'; end$$"),
        Script::new().query("begin").query("savepoint s").query("select 1/0").query("rollback to s").query("commit"),
        Script::new().query("select g, repeat('x', 1000) from generate_series(1, 5000) g"),
        Script::new().say(Say::new().query("select 1").query("select 1/0").query("select 3")),
    ];
    for script in scripts {
        compare(&cluster.target(), &proxy.target(), &script)?;
    }
    Ok(())
}

#[test]
fn a_query_of_10_mib_and_a_row_of_64_mib_pass() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let mut client = proxy.target().connect()?;
    let text = "x".repeat(10 << 20);
    assert_eq!(client.value(&format!("select length('{text}')"))?, (10 << 20).to_string());
    let before = proxy.memory()?;
    let answer = client.query("select repeat('y', 64 << 20)")?;
    assert_eq!(answer.value().len(), 64 << 20);
    let grown = proxy.memory()?.saturating_sub(before);
    assert!(grown < 4096, "{grown} KiB more");
    assert_eq!(client.value("select 'still here'")?, "still here");
    Ok(())
}

#[test]
fn many_clients_share_few_backends() -> Result {
    let cluster = Cluster::start()?;
    cluster.limit_backends(2)?;
    let proxy = Config::of(&cluster).top("pool_size = 2").start()?;
    let mut clients = Vec::new();
    for _ in 0..8 {
        clients.push(proxy.target().connect()?);
    }
    for round in 0..20 {
        for (number, client) in clients.iter_mut().enumerate() {
            assert_eq!(client.value(&format!("select {round} * 100 + {number}"))?, (round * 100 + number).to_string());
        }
    }
    assert!(cluster.backends()? <= 2);
    assert!(!cluster.refused(), "never more than two at one time");
    Ok(())
}

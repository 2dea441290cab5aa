//! A statement keeps the meaning that its constants and names had when it was prepared, also on a backend that sees it
//! first after the client's settings have changed.

mod common;

use common::*;

/// A constant that depends on a setting, and a name that does.
const SELECT: &str =
    "select extract(epoch from timestamptz '2024-01-01 00:00')::int, '1.2.2024'::date::text, who from t";

/// With two backends, and a table in two schemas.
fn setup() -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value(
        "create schema mine; create table mine.t as select 'mine' as who; create schema other; \
         create table other.t as select 'other' as who; alter role app set search_path = other",
    )?;
    let proxy = Config::of(&cluster).top("pool_size = 2\nborrow_timeout = \"25s\"").start()?;
    Ok((cluster, proxy))
}

fn uses(name: &str) -> Say {
    Say::new().bind("", name, &[]).describe_portal("").execute("", 0).sync()
}

/// Says the same to PostgreSQL and to the proxy, while somebody else takes now one backend, now the other. Returns how
/// many backends have served it.
fn agree(cluster: &Cluster, proxy: &Proxy, says: &[Say]) -> Result<usize> {
    let (mut direct, mut client) = (cluster.target().connect()?, proxy.target().connect()?);
    let mut other = proxy.target().connect()?;
    let mut pids = std::collections::BTreeSet::new();
    for (number, say) in says.iter().enumerate() {
        let busy = number % 2 == 1;
        other.value(if busy { "begin; select 1" } else { "commit" })?;
        let (expected, got) = (direct.ask(say)?, client.ask(say)?);
        compare_answers(&expected, &got).map_err(|error| format!("say {number}: {error:?}"))?;
        if got.status() == Some('I') {
            // By the protocol, so that the unnamed statement stays.
            pids.insert(client.ask(&Say::new().bind("", "pid", &[]).execute("", 0).sync())?.value());
        }
    }
    Ok(pids.len())
}

/// The same says, first prepared, with settings that change in between.
fn programs() -> Vec<(&'static str, Vec<Say>)> {
    let pid = Say::new().parse("pid", "select pg_backend_pid()", &[]).sync();
    let query = |sql: &str| Say::new().query(sql);
    let set = |number: &str, sql: &str| Say::new().parse(number, sql, &[]).bind("", number, &[]).execute("", 0).sync();
    let show =
        query("select current_setting('timezone'), current_setting('datestyle'), current_setting('search_path')");
    let named = Say::new().parse("s", SELECT, &[]).sync();
    let times = |say: &Say| vec![say.clone(); 4];
    let with = |mut says: Vec<Say>, more: Vec<Say>| {
        says.extend(more);
        says
    };
    let change = query("set timezone = 'Asia/Tokyo'; set datestyle = 'German'");
    vec![
        ("named", with(vec![pid.clone(), named.clone(), change.clone()], with(times(&uses("s")), vec![show.clone()]))),
        ("path", with(vec![pid.clone(), named.clone(), query("set search_path = mine")], times(&uses("s")))),
        (
            "all",
            with(
                vec![pid.clone(), named.clone(), query("set search_path = mine; set timezone = 'Asia/Tokyo'")],
                with(times(&uses("s")), vec![show.clone(), query("reset all"), uses("s"), uses("s"), show.clone()]),
            ),
        ),
        (
            "back",
            with(
                vec![pid.clone(), change.clone(), named.clone(), query("reset timezone"), query("reset datestyle")],
                with(times(&uses("s")), vec![show.clone(), show.clone()]),
            ),
        ),
        (
            "unnamed",
            with(
                vec![pid.clone(), Say::new().parse("", SELECT, &[]).sync(), set("a", "set timezone = 'Asia/Tokyo'")],
                with(times(&uses("")), vec![set("b", "set timezone = 'Europe/Paris'"), uses(""), uses("")]),
            ),
        ),
        (
            "sql",
            with(
                vec![pid.clone(), query(&format!("prepare p as {SELECT}")), change.clone()],
                with(times(&query("execute p")), vec![uses("p"), uses("p"), show.clone()]),
            ),
        ),
        (
            "in a transaction",
            with(
                vec![pid.clone(), named.clone(), change.clone()],
                vec![
                    query("begin"),
                    uses("s"),
                    show.clone(),
                    query("set timezone = 'UTC'"),
                    uses("s"),
                    query("commit"),
                    show.clone(),
                    query("begin"),
                    uses("s"),
                    show.clone(),
                    query("rollback"),
                    show.clone(),
                    uses("s"),
                ],
            ),
        ),
    ]
}

/// In front of a Query that may not be in a transaction, without a Sync.
fn programs_with_vacuum() -> [(&'static str, Vec<Say>); 2] {
    let first = [
        Say::new().parse("pid", "select pg_backend_pid()", &[]).sync(),
        Say::new().parse("s", SELECT, &[]).sync(),
        Say::new().query("set timezone = 'Asia/Tokyo'; set datestyle = 'German'"),
    ];
    let vacuum = |said: Say| said.query("vacuum mine.t");
    let bound = vec![vacuum(Say::new().bind("", "s", &[])); 4];
    let described = vec![vacuum(Say::new().close_statement("none").describe_statement("s")); 4];
    [("bound", [&first[..], &bound, &[uses("s")]].concat()), ("described", [&first[..], &described].concat())]
}

#[test]
fn meanings_are_those_of_a_direct_connection() -> Result {
    let (cluster, proxy) = setup()?;
    for (name, says) in programs().into_iter().chain(programs_with_vacuum()) {
        let backends = agree(&cluster, &proxy, &says).map_err(|error| format!("{name}: {error:?}"))?;
        assert_eq!(backends, 2, "{name}: served by both");
    }
    assert_eq!(proxy.metric("pgfunnel_pins_total", &[])?, 0.0, "{}", proxy.log());
    Ok(())
}

#[test]
fn a_statement_that_clients_share_keeps_their_meaning() -> Result {
    let (cluster, proxy) = setup()?;
    let select = "select extract(epoch from timestamptz '2024-06-01 00:00')::int";
    let named = Say::new().parse("s", select, &[]).sync();
    let expected = cluster.target().connect()?.value(select)?;
    let (mut one, mut two, mut other) =
        (proxy.target().connect()?, proxy.target().connect()?, proxy.target().connect()?);
    one.ask(&named)?;
    one.value("set timezone = 'Asia/Tokyo'")?;
    for round in 0..4 {
        other.value(if round % 2 == 0 { "begin; select 1" } else { "commit" })?;
        assert_eq!(one.ask(&uses("s"))?.value(), expected, "as when it was prepared");
    }
    two.ask(&named)?;
    for round in 0..4 {
        other.value(if round % 2 == 0 { "begin; select 1" } else { "commit" })?;
        assert_eq!(two.ask(&uses("s"))?.value(), expected, "not as with the other client's settings");
    }
    Ok(())
}

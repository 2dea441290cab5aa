//! Random programs of session operations by several clients at once: settings in every transaction shape, temporary
//! objects, locks, channels, cursors, roles, functions that hide what they do. All that is heard, and all that a look at
//! the session shows, is the same as on direct connections.

mod common;

use std::time::Duration;

use common::*;

/// Everything that a session has, in one row.
const LOOK: &str = "select current_setting('work_mem'), current_setting('timezone'), current_setting('search_path'), \
    coalesce(nullif(current_setting('app.tenant', true), ''), 'none'), current_user, \
    current_setting('default_transaction_isolation'), \
    (select count(*) from pg_class where relnamespace = pg_my_temp_schema()), \
    (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), \
    (select string_agg(name, ' ' order by name) from pg_cursors where is_holdable), \
    (select string_agg(name, ' ' order by name) from pg_prepared_statements where from_sql)";

/// `{n}` is the program's own number.
const OPERATIONS: [&str; 65] = [
    LOOK,
    LOOK,
    LOOK,
    LOOK,
    LOOK,
    LOOK,
    "select 1",
    "select 1/0",
    "begin",
    "begin",
    "begin",
    "commit",
    "commit",
    "rollback",
    "savepoint s",
    "rollback to s",
    "release s",
    "set work_mem = '7MB'",
    "set work_mem = '8MB'",
    "set local work_mem = '9MB'",
    "reset work_mem",
    "set work_mem to default",
    "set timezone = 'Asia/Tokyo'",
    "set local timezone = 'Europe/Paris'",
    "reset timezone",
    "set search_path = mine, public",
    "set session characteristics as transaction isolation level repeatable read",
    "set app.tenant = 'tenant {n}'",
    "set local app.tenant = 'local {n}'",
    "select set_config('app.tenant', 'config {n}', false)",
    "select set_config('app.tenant', 'config {n}', true)",
    "reset app.tenant",
    "reset all",
    "discard all",
    "set work_mem = '6MB'; set timezone = 'UTC'",
    "set work_mem = '5MB'; select 1/0",
    "begin; set work_mem = '4MB'; commit",
    "begin; set work_mem = '3MB'; rollback; set timezone = 'Asia/Tokyo'",
    "do $$begin perform set_config('app.tenant', 'do {n}', false); end$$",
    "select enter('function {n}')",
    "select n from entering",
    "insert into orders values ({n})",
    "create temp table x (a int)",
    "create temp table x (a int) on commit drop",
    "drop table if exists x",
    "discard temp",
    "select pg_advisory_lock({n})",
    "select pg_advisory_unlock({n})",
    "select pg_advisory_unlock_all()",
    "listen c{n}",
    "unlisten *",
    "notify c{n}, 'hello'",
    "declare h cursor with hold for select generate_series(1, 3)",
    "fetch 1 from h",
    "close h",
    "prepare p as select {n}",
    "deallocate p",
    "deallocate all",
    "execute p",
    "explain (costs off) execute p",
    "prepare q (int) as select $1 + {n}; execute q(1)",
    "execute q(2)",
    "deallocate p; select 1/0",
    "deallocate q; prepare q (int) as select set_config('app.tenant', 'q' || $1, false)",
    "set role pg_read_all_data",
];

const SETUP: &str = "
    create schema mine;
    create function enter(tenant text) returns int language plpgsql as
        $$begin perform set_config('app.tenant', tenant, false); return 1; end$$;
    create view entering as select enter('view') as e, 1 as n;
    create table orders (n int);
    create function on_order() returns trigger language plpgsql as
        $$begin perform enter('trigger'); return null; end$$;
    create trigger entering before insert on orders for each row execute function on_order();
";

/// A program; one in four of its steps is said by Parse, Bind and Execute. None rolls back to a savepoint and unlistens:
/// that is a known limit.
fn program(seed: u64) -> Vec<Step> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut limited = None;
    let is_limited = |sql: &str| ["unlisten *", "rollback to s"].into_iter().find(|limited| *limited == sql);
    (0..4 + random.below(14))
        .filter_map(|_| {
            let sql = OPERATIONS[random.below(OPERATIONS.len())].replace("{n}", &(seed % 1_000_000_000).to_string());
            if let Some(this) = is_limited(&sql)
                && *limited.get_or_insert(this) != this
            {
                return None;
            }
            let name = sql.chars().take(60).collect();
            let said = match random.below(4) {
                0 => Say::new().parse("", &sql, &[]).bind("", "", &[]).execute("", 0).sync(),
                _ => Say::new().query(&sql),
            };
            Some(Step { said, name })
        })
        .collect()
}

/// With what the client logs in with, and what lives in the database.
fn programs_agree(manner: Manner, hides: bool, parameters: &[(&str, &str)]) -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("grant create on schema public to app; grant pg_read_all_data to app")?;
    if hides {
        cluster.target().connect()?.value(SETUP)?;
    }
    let proxy = Config::of(&cluster).top("pool_size = 2\nborrow_timeout = \"25s\"").start()?;
    let with = |target: Target| parameters.iter().fold(target, |target, (name, value)| target.parameter(name, value));
    agree(&with(cluster.target()), &with(proxy.target()), &program, manner)
}

#[test]
fn patient() -> Result {
    programs_agree(Manner::Patient, true, &[])
}

#[test]
fn pipelined() -> Result {
    programs_agree(Manner::Pipelined, true, &[])
}

#[test]
fn where_nothing_hides() -> Result {
    programs_agree(Manner::Patient, false, &[])
}

#[test]
fn with_settings_of_the_login() -> Result {
    programs_agree(
        Manner::Patient,
        true,
        &[("TimeZone", "America/New_York"), ("options", "-c work_mem=11MB -c app.tenant=login")],
    )
}

/// A client that says a program and dies at some byte of it, some without a goodbye.
fn die(proxy: &Proxy, seed: u64) -> Result {
    let mut random = Random(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) | 1);
    let said = program(seed).into_iter().fold(Say::new(), |said, step| said.and(&step.said));
    let mut client = proxy.target().connect()?;
    let bytes = said.bytes();
    client.send(&bytes[..random.below(bytes.len() + 1)])?;
    if random.below(2) == 0 {
        std::thread::sleep(Duration::from_micros(random.below(8_000).try_into()?));
    }
    match random.below(3) {
        0 => client.reset()?,
        1 => client.say(&Say::new().terminate())?,
        _ => {}
    }
    Ok(())
}

#[test]
fn whoever_dies_leaves_nothing() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("grant create on schema public to app; grant pg_read_all_data to app")?;
    cluster.target().connect()?.value(SETUP)?;
    let proxy = Config::of(&cluster).top("pool_size = 2\nborrow_timeout = \"25s\"").start()?;
    let clean = cluster.target().connect()?.query(LOOK)?.rows();
    for round in 0..programs().div_ceil(10) {
        crowd(5, |number| {
            let first = round * 100 + u64::try_from(number)? * 2;
            (first..first + 2).try_for_each(|seed| die(&proxy, seed))
        })?;
        // Both backends, held at the same time.
        let mut next = (0..2).map(|_| proxy.target().connect()).collect::<Result<Vec<_>>>()?;
        for client in &mut next {
            client.hold()?;
            let found = client.query(LOOK)?.rows();
            assert_eq!(found, clean, "round {round}");
            assert_eq!(client.value("select count(*) from pg_listening_channels()")?, "0", "round {round}");
            client.value("commit")?;
        }
    }
    assert!(cluster.backends()? <= 2);
    Ok(())
}

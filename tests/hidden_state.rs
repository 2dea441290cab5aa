//! State that no text shows: made by functions, views, triggers, defaults. It never reaches another client, and the
//! client that made it keeps it.

mod common;

use common::*;

/// Everything in one row: the tenant, the path, temporary objects, session locks, channels.
const LOOK: &str = "select concat_ws(' ', 'tenant=' || coalesce(nullif(current_setting('app.tenant', true), ''), 'none'), \
    'path=' || current_setting('search_path'), \
    'temp=' || (select count(*) from pg_class where relnamespace = pg_my_temp_schema()), \
    'locks=' || (select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()), \
    'channels=' || (select count(*) from pg_listening_channels()))";
const CLEAN: &str = "tenant=none path=\"$user\", public temp=0 locks=0 channels=0";

const HIDERS: &str = "
    create function enter(tenant text) returns int language plpgsql as
        $$begin if tenant <> '' then perform set_config('app.tenant', tenant, false); end if; return 1; end$$;
    create function make_all(tenant text) returns int language plpgsql as $$begin
        perform enter(tenant); set search_path = pg_catalog, public; create temp table if not exists left_over (a int);
        perform pg_advisory_lock(hashtext(tenant)); return 1; end$$;
    create view entering as select enter('by view') as e, 1 as n;
    create table orders (n int, tenant text default 'x');
    create function on_order() returns trigger language plpgsql as $$begin perform enter('by trigger ' || new.n); return new; end$$;
    create trigger entering before insert on orders for each row execute function on_order();
    create procedure proceed() language plpgsql as $$begin perform enter('by procedure'); end$$;
    create function quiet(n int) returns int language sql as 'select n + 1';
";

fn setup(top: &str, functions: bool) -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.sql("grant create on schema public to app")?;
    if functions {
        cluster.target().connect()?.value(HIDERS)?;
    }
    let proxy = Config::of(&cluster).top(top).start()?;
    Ok((cluster, proxy))
}

/// What makes hidden state, and what its maker must see of it from then on.
const MAKERS: [(&str, &str); 6] = [
    ("select enter('by function')", "tenant=by function"),
    ("select n from entering", "tenant=by view"),
    ("insert into orders values (7)", "tenant=by trigger 7"),
    ("call proceed()", "tenant=by procedure"),
    ("do $$begin perform enter('by do'); end$$", "tenant=by do"),
    ("select make_all('everything')", "tenant=everything path=pg_catalog, public temp=1 locks=1"),
];

#[test]
fn it_stays_with_its_maker_and_reaches_nobody_else() -> Result {
    for mode in ["certify", "clean"] {
        let top = format!("pool_size = 2\nborrow_timeout = \"20s\"\nhidden_state = \"{mode}\"");
        let (_cluster, proxy) = setup(&top, true)?;
        for (make, seen) in MAKERS {
            for extended in [false, true] {
                let mut maker = proxy.target().connect()?;
                let mut others = [proxy.target().connect()?, proxy.target().connect()?];
                let made = match extended {
                    false => maker.query(make)?,
                    true => maker.ask(&Say::new().parse("s", make, &[]).bind("", "s", &[]).execute("", 0).sync())?,
                };
                assert!(made.errors().is_empty(), "{make}: {made:?}");
                for _ in 0..3 {
                    for other in &mut others {
                        assert_eq!(other.value(LOOK)?, CLEAN, "{mode}: {make}: seen by another");
                    }
                    let own = maker.value(LOOK)?;
                    assert!(own.starts_with(seen), "{mode}: {make}: lost: {own}");
                }
                drop(maker);
                for _ in 0..4 {
                    assert_eq!(proxy.target().connect()?.value(LOOK)?, CLEAN, "{mode}: {make}: left behind");
                }
            }
        }
    }
    Ok(())
}

/// Where else a database can hide a call: each makes `look` differ for its maker, and for nobody else.
const PLACES: [(&str, &str); 6] = [
    (
        "create domain d as text default set_config('app.tenant', 'domain', false); create table by_domain (a int, v d)",
        "insert into by_domain (a) values (1)",
    ),
    (
        "create table by_default (a int, v text default set_config('app.tenant', 'default', false))",
        "insert into by_default (a) values (1)",
    ),
    (
        "create table by_check (a int check (set_config('app.tenant', 'check', false) <> ''))",
        "insert into by_check values (1)",
    ),
    (
        "create function by_argument(v text default set_config('app.tenant', 'argument', false)) returns text language sql as 'select v'",
        "select by_argument()",
    ),
    (
        "create function nothing() returns trigger language plpgsql as 'begin return new; end'; create table by_when (a int); \
         create trigger w before insert on by_when for each row when (set_config('app.tenant', 'when', false) <> '') execute function nothing()",
        "insert into by_when values (1)",
    ),
    (
        "create table by_policy (a int); alter table by_policy enable row level security; alter table by_policy force row level security; \
         create policy p on by_policy using (true) with check (set_config('app.tenant', 'policy', false) <> '')",
        "insert into by_policy values (1)",
    ),
];

#[test]
fn every_place_is_looked_at() -> Result {
    for (make, using) in PLACES {
        let cluster = Cluster::start()?;
        cluster.sql("grant create on schema public to app")?;
        cluster.target().connect()?.value(make)?;
        let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"20s\"").start()?;
        let (mut maker, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
        for _ in 0..2 {
            maker.value(using)?;
            assert_eq!(other.value(LOOK)?, CLEAN, "{using}: seen by another");
            assert_ne!(maker.value(LOOK)?, CLEAN, "{using}: lost");
        }
    }
    Ok(())
}

#[test]
fn thirty_two_tenants_never_meet() -> Result {
    let (_cluster, proxy) = setup("pool_size = 4\nborrow_timeout = \"25s\"", true)?;
    crowd(32, |number| {
        let mut client = proxy.target().connect()?;
        let tenant = format!("tenant-{number}");
        for round in 0..15 {
            if round % 5 == 0 {
                client.value(&format!("select enter('{tenant}')"))?;
            }
            assert_eq!(client.value("select current_setting('app.tenant', true)")?, tenant);
            assert_eq!(client.value("select quiet(1)")?, "2");
        }
        Ok(())
    })?;
    assert_eq!(proxy.metric("pgfunnel_pins_total", &[])?, 0.0, "nobody is pinned by that");
    Ok(())
}

#[test]
fn a_function_made_later_is_noticed() -> Result {
    let (cluster, proxy) = setup("pool_size = 1\nborrow_timeout = \"20s\"", false)?;
    let (mut maker, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
    assert_eq!(other.value(LOOK)?, CLEAN);
    // Through pgfunnel: at once.
    maker.value(
        "create function late() returns void language sql as 'select set_config(''app.tenant'', ''late'', false)'",
    )?;
    for _ in 0..3 {
        maker.value("select late()")?;
        assert_eq!(other.value(LOOK)?, CLEAN);
        assert!(maker.value(LOOK)?.starts_with("tenant=late"));
    }
    maker.value("discard all")?;
    // Behind its back: within seconds.
    cluster.sql("drop function late(); create function public.later() returns void language sql as 'select set_config(''app.tenant'', ''later'', false)'")?;
    std::thread::sleep(std::time::Duration::from_secs(8));
    maker.value("select later()")?;
    assert_eq!(other.value(LOOK)?, CLEAN);
    assert!(maker.value(LOOK)?.starts_with("tenant=later"));
    Ok(())
}

#[test]
fn strict_isolation_replaces_what_cannot_be_reset() -> Result {
    let top = "pool_size = 1\nborrow_timeout = \"20s\"\nisolation = \"strict\"";
    let (cluster, proxy) = setup(top, true)?;
    let pid = "select pg_backend_pid()";
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    // What can be reset is.
    one.ask(&Say::new().parse("mine", "select 1", &[]).sync())?;
    let first = one.value(pid)?;
    assert_eq!(two.value("select count(*) from pg_prepared_statements where statement = 'select 1'")?, "0");
    assert_eq!(two.value(pid)?, first);
    // A custom parameter never becomes unset again on a backend.
    one.value("set app.tenant = 'secret'")?;
    assert_eq!(two.value("select current_setting('app.tenant', true) is null")?, "t");
    assert_ne!(two.value(pid)?, first);
    assert_eq!(one.value("select current_setting('app.tenant')")?, "secret");
    // Nor does a seed.
    let mut seeded = proxy.target().connect()?;
    seeded.value("select setseed(0.5)")?;
    let third = seeded.value(pid)?;
    drop(seeded);
    assert_ne!(two.value(pid)?, third);
    assert!(cluster.backends()? <= 1);
    Ok(())
}

#[test]
fn sequences_never_tell_anothers_value() -> Result {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value("create sequence s; create table t (id serial, v text)")?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nborrow_timeout = \"20s\"").start()?;
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    one.value("select nextval('s')")?;
    assert_eq!(proxy.metric("pgfunnel_pins_total", &[])?, 0.0, "nobody pins for a serial column");
    for sql in ["select currval('s')", "select lastval()"] {
        assert_eq!(two.query(sql)?.error().code, "55000", "{sql}");
    }
    drop(two);
    let run = |sql: &str| Say::new().parse("", sql, &[]).bind("", "", &[]).execute("", 0).sync();
    for _ in 0..3 {
        let mut three = proxy.target().connect()?;
        proxy.target().connect()?.value("insert into t (v) values ('x')")?;
        assert_eq!(three.ask(&run("select lastval()"))?.error().code, "55000");
        // Who has asked keeps its backend, and so its own values.
        three.value("insert into t (v) values ('mine')")?;
        let own = three.value("select max(id) from t")?;
        assert_eq!(three.value("select lastval()")?, own);
    }
    Ok(())
}

#[test]
fn nothing_is_asked_and_nothing_cleaned_where_nothing_can_hide() -> Result {
    let (cluster, proxy) = setup("pool_size = 1\nborrow_timeout = \"20s\"", false)?;
    cluster.sql("create function public.quiet(n int) returns int language sql as 'select n + 1'")?;
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    std::thread::sleep(std::time::Duration::from_secs(8));
    let work = |one: &mut Wire, two: &mut Wire| -> Result {
        for _ in 0..100 {
            one.value("select quiet(1)")?;
            two.value("select quiet(2)")?;
        }
        Ok(())
    };
    work(&mut one, &mut two)?;
    cluster.sql("alter system set log_statement = 'all'; select pg_reload_conf()").or_else(|_| {
        cluster.sql("alter system set log_statement = 'all'")?;
        cluster.sql("select pg_reload_conf()")
    })?;
    std::thread::sleep(std::time::Duration::from_secs(1));
    let before = cluster.log().len();
    work(&mut one, &mut two)?;
    let log = cluster.log().split_off(before);
    assert!(log.matches("select quiet").count() >= 200, "{log}");
    assert!(!log.contains("UNLISTEN") && !log.contains("DISCARD"), "cleaned for nothing: {log}");
    Ok(())
}

#[test]
fn a_statement_parsed_under_a_functions_set_local_is_nobody_elses() -> Result {
    let (_cluster, proxy) = setup("pool_size = 1\nborrow_timeout = \"20s\"", false)?;
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    one.value(
        "create function in_tokyo() returns text language sql as \
         'select set_config(''TimeZone'', ''Asia/Tokyo'', true)'",
    )?;
    let parse = Say::new().parse("s", "select extract(epoch from timestamptz '2024-01-01')::int", &[]).sync();
    let run = Say::new().bind("", "s", &[]).execute("", 0).sync();
    two.ask(&parse)?;
    let expected = two.ask(&run)?.value();
    two.ask(&Say::new().close_statement("s").sync())?;
    one.hold()?;
    one.value("select in_tokyo()")?;
    one.ask(&parse)?;
    assert_ne!(one.ask(&run)?.value(), expected, "Tokyo is elsewhere");
    one.value("commit")?;
    two.ask(&parse)?;
    assert_eq!(two.ask(&run)?.value(), expected, "the other's meaning of the same text");
    Ok(())
}

//! No client ever sees another's session, and none loses its own: parameters, SET, temporary objects, locks, LISTEN.

mod common;

use common::*;

fn setup(top: &str) -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value("create schema mine; create table mine.t as select 'mine' as who")?;
    let proxy = Config::of(&cluster).top(top).start()?;
    Ok((cluster, proxy))
}

#[test]
fn startup_parameters_follow_the_client() -> Result {
    let (_cluster, proxy) = setup("pool_size = 2")?;
    let zones = ["UTC", "Asia/Tokyo", "Europe/Paris", "America/New_York"];
    crowd(8, |number| {
        let (name, zone) = (format!("function-{number}"), zones[number % zones.len()]);
        let target = proxy.target().parameter("application_name", &name).parameter("TimeZone", zone);
        let mut client = target.parameter("DateStyle", "German, DMY").parameter("extra_float_digits", "1").connect()?;
        assert_eq!(client.parameters.get("application_name"), Some(&name));
        assert_eq!(client.parameters.get("TimeZone").map(String::as_str), Some(zone));
        assert_eq!(client.parameters.get("DateStyle").map(String::as_str), Some("German, DMY"));
        for _ in 0..30 {
            let sql = "select concat_ws(' ', current_setting('application_name'), current_setting('timezone'), \
                       current_setting('datestyle'), current_setting('extra_float_digits'))";
            assert_eq!(client.value(sql)?, format!("{name} {zone} German, DMY 1"));
        }
        Ok(())
    })?;
    // And a client that says nothing has the server's own values.
    let mut plain = proxy.target().connect()?;
    assert_eq!(plain.value("show timezone")?, plain.parameters["TimeZone"]);
    assert_eq!(plain.value("show datestyle")?, "ISO, MDY");
    assert_eq!(plain.value("show application_name")?, "");
    Ok(())
}

#[test]
fn options_of_the_startup_packet_work() -> Result {
    let (_cluster, proxy) = setup("pool_size = 2")?;
    let options = r"-c search_path=mine,public --work-mem=7MB -cstatement_timeout=12345 -c app.tenant=two\ words";
    crowd(6, |number| {
        let with = number % 2 == 0;
        let target = if with { proxy.target().parameter("options", options) } else { proxy.target() };
        let mut client = target.connect()?;
        for _ in 0..20 {
            let shown = client.query(
                "select concat_ws('|', current_setting('search_path'), current_setting('work_mem'), \
                current_setting('statement_timeout'), coalesce(current_setting('app.tenant', true), ''))",
            )?;
            let expected = if with { "mine,public|7MB|12345ms|two words" } else { "\"$user\", public|4MB|0|" };
            assert_eq!(shown.value(), expected);
            assert_eq!(client.query("select who from t")?.errors().is_empty(), with);
        }
        Ok(())
    })
}

#[test]
fn what_stands_by_its_own_name_beats_options_as_in_postgresql() -> Result {
    let (cluster, proxy) = setup("pool_size = 2")?;
    let cases: [&[(&str, &str)]; 4] = [
        &[("TimeZone", "UTC"), ("options", "-c timezone=Asia/Tokyo -c work_mem=7MB")],
        &[("options", "-c timezone=Asia/Tokyo -c work_mem=7MB"), ("TIMEZONE", "UTC")],
        &[("timezone", "Asia/Tokyo"), ("options", "-c work_mem=5MB --work-mem=6MB"), ("TimeZone", "UTC")],
        &[("options", "-c timezone=Asia/Tokyo"), ("options", "-c work_mem=7MB")],
    ];
    for parameters in cases {
        let shown = |target: Target| -> Result<_> {
            let target = parameters.iter().fold(target, |target, (name, value)| target.parameter(name, value));
            let mut client = target.connect()?;
            let in_force = client.value("select current_setting('timezone') || ' ' || current_setting('work_mem')")?;
            Ok((in_force, client.parameters["TimeZone"].clone()))
        };
        assert_eq!(shown(proxy.target())?, shown(cluster.target())?, "{parameters:?}");
    }
    Ok(())
}

#[test]
fn wrong_startup_parameters_are_refused_as_by_postgresql() -> Result {
    let (cluster, proxy) = setup("")?;
    let cases = [
        ("no_such_parameter", "1"),
        ("TimeZone", "Mars/Phobos"),
        ("work_mem", "lots"),
        ("max_connections", "7"),
        ("log_statement", "all"),
    ];
    for (name, value) in cases {
        let (expected, got) =
            (cluster.target().parameter(name, value).login()?, proxy.target().parameter(name, value).login()?);
        let (expected, got) = (expected.err().unwrap_or_default(), got.err().unwrap_or_default());
        assert_eq!((&got.code, &got.message), (&expected.code, &expected.message), "{name} = {value}");
    }
    Ok(())
}

#[test]
fn set_never_leaks_and_is_never_lost() -> Result {
    let (_cluster, proxy) = setup("pool_size = 3")?;
    // Two clients set something (and may be pinned by it), four do not; all share three backends.
    crowd(6, |number| {
        let mut client = proxy.target().connect()?;
        let own = number < 2;
        let tenant = format!("tenant '{number}'");
        if own {
            client.value(&format!("select set_config('app.tenant', $q${tenant}$q$, false)"))?;
            client.value(&format!("set search_path = mine; set statement_timeout = {}", 50_001 + number))?;
        }
        for _ in 0..40 {
            let shown = client.value(
                "select concat_ws('|', current_setting('app.tenant', true), current_setting('search_path'), \
                current_setting('statement_timeout'))",
            )?;
            let expected =
                if own { format!("{tenant}|mine|{}ms", 50_001 + number) } else { "\"$user\", public|0".into() };
            let shown = shown.strip_prefix('|').unwrap_or(&shown);
            assert_eq!(shown, expected, "client {number}");
        }
        Ok(())
    })?;
    // After they have gone nothing is left of them.
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = proxy.target().connect()?;
        client.hold()?;
        assert_eq!(client.value("select coalesce(current_setting('app.tenant', true), '')")?, "");
        assert_eq!(client.value("show search_path")?, "\"$user\", public");
        assert_eq!(client.value("show statement_timeout")?, "0");
        clients.push(client);
    }
    Ok(())
}

#[test]
fn set_in_every_transaction_shape_is_answered_as_by_postgresql() -> Result {
    let (cluster, proxy) = setup("pool_size = 2")?;
    let show = "select current_setting('search_path'), current_setting('timezone')";
    let shapes: [&[&str]; 12] = [
        &["set search_path = mine", show, "reset search_path", show],
        &["begin", "set search_path = mine", show, "rollback", show],
        &["begin", "set search_path = mine", show, "commit", show],
        &["begin", "set local search_path = mine", show, "commit", show],
        &["begin", "savepoint s", "set timezone = 'Asia/Tokyo'", "rollback to s", show, "commit", show],
        &["begin", "set timezone = 'Asia/Tokyo'", "select 1/0", "commit", show],
        &["set timezone = 'Asia/Tokyo'; select 1/0", show],
        &["set timezone = 'Asia/Tokyo'; set search_path = mine; select 1", show, "reset all", show],
        &["set session characteristics as transaction read only", "create table x (a int)", "discard all", show],
        &[
            "select set_config('search_path', 'mine', true)",
            show,
            "select set_config('search_path', 'mine', false)",
            show,
        ],
        &["do $$begin perform set_config('timezone', 'Asia/Tokyo', false); end$$", show, "discard all", show],
        &["set client_encoding = latin1", "select 'a'", "show client_encoding", "reset client_encoding", "select 'b'"],
    ];
    for (number, shape) in shapes.iter().enumerate() {
        let script = shape.iter().fold(Script::new(), |script, sql| script.query(sql));
        for _ in 0..2 {
            let compared = compare(&cluster.target(), &proxy.target(), &script);
            compared.map_err(|error| format!("shape {number}: {error:?}"))?;
        }
    }
    Ok(())
}

/// What one client leaves in its backend, how it is seen, and what a clean backend shows.
const LEFTOVERS: [(&str, &str, &str); 8] = [
    (
        "create temp table leftover (a int)",
        "select count(*) from pg_class where relname = 'leftover' and relnamespace = pg_my_temp_schema()",
        "0",
    ),
    (
        "create temp view leftover as select 1",
        "select count(*) from pg_class where relname = 'leftover' and relnamespace = pg_my_temp_schema()",
        "0",
    ),
    (
        "select pg_advisory_lock(4711)",
        "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()",
        "0",
    ),
    ("begin; declare c cursor with hold for select 1; commit", "select count(*) from pg_cursors", "0"),
    ("prepare leftover as select 1", "select count(*) from pg_prepared_statements where name = 'leftover'", "0"),
    ("set role pg_read_all_data", "select current_user", "app"),
    (
        "set session characteristics as transaction isolation level serializable",
        "show default_transaction_isolation",
        "read committed",
    ),
    (
        "do $$begin perform set_config('app.hidden', 'x', false); end$$",
        "select coalesce(current_setting('app.hidden', true), '')",
        "",
    ),
];

#[test]
fn what_lives_in_one_backend_stays_with_its_client_and_dies_with_it() -> Result {
    let (cluster, proxy) = setup("pool_size = 2")?;
    cluster.sql("grant pg_read_all_data to app")?;
    for (sql, look, clean) in LEFTOVERS {
        let mut owner = proxy.target().connect()?;
        let answer = owner.query(sql)?;
        assert!(answer.errors().is_empty(), "{sql}: {answer:?}");
        let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
        for _ in 0..5 {
            assert_ne!(owner.value(look)?, clean, "{sql}: lost");
            assert_eq!(one.value(look)?, clean, "{sql}: seen by another");
            assert_eq!(two.value(look)?, clean, "{sql}: seen by another");
        }
        drop(owner);
        // Both backends, held at the same time.
        eventually("both backends are free", || {
            let (first, second) = (one.query("begin; select 1")?, two.query("begin; select 1")?);
            Ok(first.errors().is_empty() && second.errors().is_empty())
        })?;
        assert_eq!(one.value(look)?, clean, "{sql}: left behind");
        assert_eq!(two.value(look)?, clean, "{sql}: left behind");
    }
    Ok(())
}

#[test]
fn a_long_text_is_read_to_its_end() -> Result {
    let (_cluster, proxy) = setup("pool_size = 2")?;
    let (mut owner, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
    let filler = "select 'filler'; ".repeat(3_000);
    for long in
        [format!("{filler}set search_path = mine"), format!("/* {} */ set search_path = mine", "x".repeat(2 << 20))]
    {
        owner.say(&Say::new().query(&long))?;
        assert!(owner.read_ready(1)?.errors().is_empty());
        for _ in 0..5 {
            assert_eq!(owner.value("show search_path")?, "mine", "lost after {} bytes", long.len());
            assert_eq!(other.value("show search_path")?, "\"$user\", public", "seen by another");
        }
        owner.value("discard all")?;
        assert_eq!(owner.value("show search_path")?, "\"$user\", public");
    }
    Ok(())
}

#[test]
fn what_a_function_call_of_the_protocol_does_stays() -> Result {
    let (cluster, proxy) = setup("pool_size = 2")?;
    let (mut owner, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
    let lock: i32 = cluster.sql("select 'pg_advisory_lock(int8)'::regprocedure::oid::int")?.parse()?;
    // FunctionCall (manual, "Message Formats"): oid, one format code (binary), one argument, a binary result.
    let mut call = lock.to_be_bytes().to_vec();
    call.extend([0, 1, 0, 1, 0, 1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 7, 0, 1]);
    owner.say(&Say::new().raw(b'F', &call))?;
    assert!(owner.read_ready(1)?.errors().is_empty());
    for _ in 0..3 {
        assert_eq!(owner.value("select pg_try_advisory_lock(7)")?, "t", "its own lock is lost");
        assert_eq!(other.value("select pg_try_advisory_lock(7)")?, "f", "another has its lock");
    }
    Ok(())
}

#[test]
fn a_pinned_client_gives_its_backend_back_when_it_leaves() -> Result {
    let (cluster, proxy) = setup("pool_size = 1\nborrow_timeout = \"20s\"")?;
    cluster.limit_backends(1)?;
    for (sql, ..) in LEFTOVERS.iter().filter(|(sql, ..)| !sql.starts_with("set role")) {
        let mut owner = proxy.target().connect()?;
        owner.query(sql)?;
        drop(owner);
        assert_eq!(proxy.target().connect()?.value("select 'next'")?, "next", "after {sql}");
    }
    assert!(cluster.backends()? <= 1);
    Ok(())
}

#[test]
fn advisory_locks_and_listen_do_their_work_through_the_proxy() -> Result {
    let (_cluster, proxy) = setup("pool_size = 4")?;
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    one.value("select pg_advisory_lock(1)")?;
    assert_eq!(two.value("select pg_try_advisory_lock(1)")?, "f");
    assert_eq!(one.value("select pg_advisory_unlock(1)")?, "t");
    assert_eq!(two.value("select pg_try_advisory_lock(1)")?, "t");
    one.value("listen news")?;
    two.value("notify news, 'read all about it'")?;
    let message = one.read()?;
    assert!(message.tag == b'A' && message.body.ends_with(b"news\0read all about it\0"), "{message:?}");
    Ok(())
}

#[test]
fn an_old_unnamed_statement_still_has_its_effects() -> Result {
    let (_cluster, proxy) = setup("pool_size = 1\nborrow_timeout = \"20s\"")?;
    let tokyo = proxy.target().parameter("TimeZone", "Asia/Tokyo");
    let (mut one, mut two) = (tokyo.connect()?, tokyo.connect()?);
    one.ask(&Say::new().parse("", "reset all", &[]).describe_statement("").sync())?;
    assert_eq!(two.value("show timezone")?, "Asia/Tokyo");
    assert!(one.ask(&Say::new().bind("", "", &[]).execute("", 0).sync())?.errors().is_empty());
    assert_eq!(two.value("show timezone")?, "Asia/Tokyo", "the other's RESET ALL has hit it");
    Ok(())
}

/// What a client does in an unusual way, and where it shows; another client must find the last column.
const ODD_WAYS: [(&str, &str, &str); 16] = [
    ("select set_config('app.' || 'odd', 'x', false)", "app.odd", ""),
    ("select set_config('app.'\n'odd', 'x', false)", "app.odd", ""),
    ("set app . odd = 'x'", "app.odd", ""),
    ("set session app.\"odd\" = 'x'", "app.odd", ""),
    ("set app.deep.\"odd\" = 'x'", "app.deep.odd", ""),
    ("explain analyze (select set_config('app.odd', 'x', false))", "app.odd", ""),
    (
        "with a as (select 1) update pg_settings set setting = '77' where name = 'geqo_threshold'",
        "geqo_threshold",
        "12",
    ),
    ("update only pg_catalog.pg_settings set setting = '77' where name = 'geqo_threshold'", "geqo_threshold", "12"),
    ("select set_config('role', 'pg_read_all_data', false)", "role", "none"),
    ("set temp_buffers = '2MB'", "temp_buffers", "8MB"),
    ("select query_to_xml('select set_config(''app.odd'', ''x'', false)', true, true, '')", "app.odd", ""),
    ("do $$begin execute 'set app.od' || 'd = 1'; end$$", "app.odd", ""),
    (
        "begin; create function pg_temp.f() returns text language sql as $$select set_config('app.odd', 'x', false)$$; \
         select pg_temp.f(); commit",
        "app.odd",
        "",
    ),
    (
        "begin; create function f() returns text language sql as $$select set_config('app.odd', 'x', false)$$; \
         select f(); drop function f(); commit",
        "app.odd",
        "",
    ),
    ("set session characteristics as transaction deferrable", "default_transaction_deferrable", "off"),
    ("begin; set local search_path = 'pg_temp'; create table odd (a int); commit", "search_path", "\"$user\", public"),
];

#[test]
fn odd_ways_are_ways() -> Result {
    let (cluster, proxy) = setup("pool_size = 2\nborrow_timeout = \"20s\"")?;
    cluster.sql("grant pg_read_all_data to app; grant create on schema public to app")?;
    for (sql, name, clean) in ODD_WAYS {
        let look = format!("select coalesce(current_setting('{name}', true), '')");
        let temp = "select count(*) from pg_class where relname = 'odd' and relnamespace = pg_my_temp_schema()";
        let (mut owner, mut direct) = (proxy.target().connect()?, cluster.target().connect()?);
        let mut others = [proxy.target().connect()?, proxy.target().connect()?];
        assert!(owner.query(sql)?.errors().is_empty() && direct.query(sql)?.errors().is_empty(), "{sql}");
        for _ in 0..3 {
            for other in &mut others {
                assert_eq!(other.value(&look)?, clean, "{sql}: seen by another");
                assert_eq!(other.value(temp)?, "0", "{sql}: seen by another");
            }
            assert_eq!(owner.value(&look)?, direct.value(&look)?, "{sql}: lost");
            assert_eq!(owner.value(temp)?, direct.value(temp)?, "{sql}: lost");
        }
        drop(owner);
        for _ in 0..3 {
            let mut next = proxy.target().connect()?;
            assert_eq!(next.value(&look)?, clean, "{sql}: left behind");
            assert_eq!(next.value(temp)?, "0", "{sql}: left behind");
        }
    }
    Ok(())
}

#[test]
fn a_set_that_is_bound_and_never_executed_is_no_set() -> Result {
    let (_cluster, proxy) = setup("pool_size = 1\nborrow_timeout = \"20s\"")?;
    let bind = Say::new().parse("", "set work_mem = '7MB'", &[]).bind("", "", &[]);
    let (mut idle, mut busy, mut plain) =
        (proxy.target().connect()?, proxy.target().connect()?, proxy.target().connect()?);
    for _ in 0..2 {
        assert!(idle.ask(&bind.clone().sync())?.errors().is_empty());
        assert!(busy.ask(&bind.clone().execute("", 0).sync())?.errors().is_empty());
        assert_eq!(plain.value("show work_mem")?, "4MB", "the other's setting");
        assert_eq!(busy.value("show work_mem")?, "7MB", "lost");
        assert_eq!(idle.value("show work_mem")?, "4MB", "it has set nothing");
        busy.value("reset work_mem")?;
    }
    Ok(())
}

use super::*;

fn reasons(sql: &str) -> Vec<&'static str> {
    Effects::of(sql.as_bytes()).reasons().map(PinReason::as_str).collect()
}

#[test]
fn ordinary_statements_have_none() {
    for sql in [
        "",
        ";",
        "select 1",
        "BEGIN",
        "update t set x = 1 where y",
        "insert into t values ('SET x')",
        "select temp from sensors",
        "set local x = 1",
        "SET TRANSACTION READ ONLY",
        "set constraints all deferred",
        "select set_config('a.b', $1, true)",
        "begin; set local x = 1; commit",
        "select pg_advisory_xact_lock(1)",
        "select pg_advisory_unlock_all()",
        "prepare transaction 'x'",
        "prepare p as select 1",
        "declare c cursor for select 1",
        "/* set */ select 1 -- listen",
        "select $$ ; set x = 1 $$",
        "declare c cursor without hold for select 1",
        "select nextval('s')",
        "create table t (temp int)",
        "close all",
        "unlisten *",
    ] {
        assert_eq!(reasons(sql), Vec::<&str>::new(), "{sql}");
    }
}

#[test]
fn session_state_pins() {
    for (sql, expected) in [
        ("set \"a b\" = 1", "set"),
        ("set a.\"b\" = 1", "set"),
        ("select set_config($1, 'x', false)", "set"),
        ("select set_config('app.' || $1, 'x', false)", "set"),
        ("select set_config('app.' 'tenant', 'x', false)", "set"),
        ("set app . tenant = 'x'", "set"),
        ("set session app.\"tenant\" = 'x'", "set"),
        ("set a.b.\"c\" = 'x'", "set"),
        ("select set_config('role', 'x', false)", "role"),
        ("select set_config('Session_Authorization', 'x', true)", "role"),
        ("set seed = 0.5", "seed"),
        ("set seed to 0.5", "seed"),
        ("update only pg_catalog.pg_settings set setting = 'x'", "set"),
        ("with a as (select 1) update pg_settings set setting = 'x'", "set"),
        ("set local search_path = 'pg_temp'", "temporary"),
        ("select set_config('search_path', 'pg_temp', true)", "temporary"),
        ("explain analyze (select setseed(0.1))", "seed"),
        ("explain (analyze) (select pg_advisory_lock(1))", "advisory_lock"),
        ("select * from crosstab3('select 1')", "hidden"),
        ("select dblink_connect('c')", "hidden"),
        ("update pg_settings set setting = 'x' where name = 'y'", "set"),
        ("select query_to_xml('select set_config(1,2,false)', true, true, '')", "hidden"),
        ("select U&\"set_confi\\0067\"('a', 'b', false); select 1", "hidden"),
        ("select E'a'\n'\\''; listen c; --'", "listen"),
        ("select E'a' -- b\n '\\''; listen c; --'", "listen"),
        ("set standard_conforming_strings = off", "strings"),
        ("set role x", "role"),
        ("set session role x", "role"),
        ("set session authorization x", "role"),
        ("listen c", "listen"),
        ("create temp table t (x int)", "temporary"),
        ("create local temporary table t (x int)", "temporary"),
        ("select 1 as x into temp t", "temporary"),
        ("create table pg_temp.t (x int)", "temporary"),
        ("create or replace temp view v as select 1", "temporary"),
        ("declare c cursor with hold for select 1", "cursor"),
        ("select pg_try_advisory_lock(1)", "advisory_lock"),
        ("select currval('s')", "sequence"),
        ("select setseed(0.5)", "seed"),
        ("select pg_replication_origin_session_setup('o')", "hidden"),
        ("select isn_weak(true)", "hidden"),
        ("load 'x'", "load"),
        ("select 1; listen c", "listen"),
        ("explain analyze create temp table t as select 1", "temporary"),
        ("explain (analyze, costs off) create temp table t as select 1", "temporary"),
    ] {
        assert_eq!(reasons(sql), vec![expected], "{sql}");
    }
}

#[test]
fn setting_is_asked_for() {
    for sql in [
        "set x = 1",
        "/* c */ SET x TO 1",
        "begin; set x = 1; commit",
        "set session characteristics as transaction read only",
        "SET TIME ZONE 'UTC'",
        "SET standard_conforming_strings = on",
        "SET search_path = \"a b\", c",
        "set session search_path to \"a\"",
        "select set_config('a.b', 'c', false)",
        "select pg_catalog.set_config('a', 'b', (true and false))",
        "select \"set_config\"('a','b',false)",
        "set local.x = 1",
        "set transaction.x = 1",
        "select set_config('a', set_config('b', '1', false), true)",
        "select set_config('a', 'b', not true)",
    ] {
        assert!(Effects::of(sql.as_bytes()).any(Effects::PARAMETERS), "{sql}");
        assert_eq!(reasons(sql), Vec::<&str>::new(), "{sql}");
    }
    // What a text comes to is a function of it only if it does nothing else.
    for (sql, pure) in [
        ("set x = 1; set y = 2", true),
        ("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;", true),
        ("discard all", true),
        ("set x = 1; select f()", false),
        ("select pg_advisory_unlock_all(), f(); reset all", false),
        ("begin; set x = 1; commit", false),
        ("set x = 1; set role y", false),
    ] {
        assert_eq!(!Effects::of(sql.as_bytes()).any(Effects::OTHER), pure, "{sql}");
    }
}

#[test]
fn other_effects() {
    assert!(Effects::of(b"reset all").any(Effects::PARAMETERS));
    assert!(Effects::of(b"DO $$ begin end $$").any(Effects::CODE));
    assert!(Effects::of(b"call p()").any(Effects::CODE));
    assert!(Effects::of(b"discard all").any(Effects::CLEARS));
    for sql in ["prepare p as select 1", "select 1; execute p", "explain execute p", "create table t as execute p"] {
        assert!(Effects::of(sql.as_bytes()).any(Effects::NAMES), "{sql}");
    }
    assert!(Effects::of_body(b"begin prepare p as select 1; end").any(Effects::HIDES));
    assert!(Effects::of(b"select name from pg_prepared_statements").any(Effects::LISTS));
    assert!(!Effects::of(b"select 'pg_prepared_statements'").any(Effects::LISTS));
}

#[test]
fn a_long_text_is_looked_through_in_pieces() {
    let in_pieces = |text: &str, size: usize| {
        let (start, rest) = text.as_bytes().split_at(size);
        let (mut effects, mut looks) = Effects::of_start(start);
        let pieces = rest.chunks(size);
        let count = pieces.len();
        for (at, piece) in pieces.enumerate() {
            if let Some(looks) = &mut looks {
                effects.add(looks.effects(piece, at + 1 == count));
            }
        }
        effects.any(PinReason::Large.effect())
    };
    for size in [20, 21, 25, 33, 50] {
        assert!(!in_pieces("insert into t values ('aaaaaaaaaaaaaaaaaaa'), ('bbbbbbbbbbb');\0", size), "{size}");
        assert!(in_pieces("insert into t select 'aaaaaaaaa', set_config('x', 'y', false)\0", size), "{size}");
        assert!(in_pieces("insert into t values ('aaaaaaaaaaaaa'); set search_path = x\0", size), "{size}");
        assert!(in_pieces("set search_path = aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, bbbbbb\0", size), "{size}");
    }
}

//! A battery of named cases, each said on a direct connection and by eight clients through two backends: every message
//! must be the same. `{n}` in a text is the client's number; what may differ is masked (see `mask`), each with its reason.

mod common;

use common::*;

/// A case: its name, and what is said one after the other.
struct Case {
    name: &'static str,
    says: Vec<String>,
}

fn case(name: &'static str, text: &str) -> Case {
    let says = text.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect();
    Case { name, says }
}

/// A line is a simple Query; `P: …` runs it by Parse, Bind, Describe, Execute and Sync; `| …` joins the line to the one
/// before, so that both are said at once.
fn script(case: &Case, number: usize) -> Script {
    let mut script = Script::new();
    let mut pending: Option<Say> = None;
    for line in &case.says {
        let line = line.replace("{n}", &number.to_string());
        let (joined, line) = match line.strip_prefix("| ") {
            Some(line) => (true, line.to_owned()),
            None => (false, line),
        };
        let say = match line.strip_prefix("P: ") {
            Some(sql) => Say::new().parse("", sql, &[]).bind("", "", &[]).describe_portal("").execute("", 0).sync(),
            None => Say::new().query(&line),
        };
        pending = Some(match pending.take() {
            Some(before) if joined => before.and(&say),
            Some(before) => {
                script = script.say(before);
                say
            }
            None => say,
        });
    }
    match pending {
        Some(say) => script.say(say),
        None => script,
    }
}

const SETUP: &str = "
    create schema mine; create table mine.t as select 'mine' as who;
    create table public.t as select 'public' as who;
    create table rows (n int, v text);
    create sequence numbers;
";

fn run(cases: &[Case]) -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("grant pg_read_all_data to app; grant create on schema public to app")?;
    cluster.target().connect()?.value(SETUP)?;
    let proxy = Config::of(&cluster).top("pool_size = 2\nborrow_timeout = \"25s\"").start()?;
    let mut failed = Vec::new();
    for case in cases {
        let expected: Vec<Answer> =
            (0..8).map(|n| script(case, n).run(&mut cluster.target().connect()?)).collect::<Result<_>>()?;
        let outcome = crowd(8, |number| {
            let mut client = proxy.target().connect()?;
            compare_answers(&mask(&expected[number]), &mask(&script(case, number).run(&mut client)?))
        });
        if let Err(error) = outcome {
            failed.push(format!("{}: {error:?}", case.name));
        }
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("\n\n").into()),
    }
}

/// Takes away what may differ: object identifiers in RowDescription, which every new table gets anew.
fn mask(answer: &Answer) -> Answer {
    let mut answer = answer.clone();
    for message in answer.0.iter_mut().filter(|message| message.tag == b'T') {
        let mut at = 2;
        while let Some(name) = message.body.get(at..).and_then(|rest| rest.iter().position(|&byte| byte == 0)) {
            at += name + 1;
            // Table (4 bytes), column (2), type (4), size (2), modifier (4), format (2): manual, "Message Formats".
            let Some(field) = message.body.get_mut(at..at + 18) else { break };
            field[..4].fill(0);
            if field[6..8] != [0, 0] || field[8] >= 0x40 {
                field[6..10].fill(0);
            }
            at += 18;
        }
    }
    answer
}

const PARAMETERS: &[(&str, &str)] = &[
    ("set", "set timezone = 'Asia/Tokyo'\nSHOW\nset timezone = 'UTC'\nSHOW"),
    (
        "set several in one text",
        "set timezone = 'Asia/Tokyo'; set work_mem = '7MB'; set search_path = mine\nSHOW\nSHOW",
    ),
    ("set differs by client", "set work_mem = '{n}1MB'\nSHOW\nSHOW\nset work_mem = '{n}2MB'\nSHOW\nSHOW"),
    ("set to default", "set work_mem = '7MB'\nSHOW\nset work_mem to default\nSHOW"),
    ("reset", "set work_mem = '7MB'; set timezone = 'Asia/Tokyo'\nSHOW\nreset work_mem\nSHOW\nreset timezone\nSHOW"),
    ("reset all", "set work_mem = '7MB'; set timezone = 'Asia/Tokyo'\nSHOW\nreset all\nSHOW"),
    ("discard all", "set work_mem = '7MB'; set timezone = 'Asia/Tokyo'\nSHOW\ndiscard all\nSHOW"),
    (
        "set time zone",
        "set time zone 'Europe/Paris'\nSHOW\nset time zone interval '-08:00' hour to minute\nSHOW\nset time zone local\nSHOW",
    ),
    ("set names", "set names 'LATIN1'\nshow client_encoding\nselect 'ä'\nset names 'UTF8'\nshow client_encoding"),
    ("set schema", "set schema 'mine'\nselect who from t\nselect who from t"),
    ("search_path list", "set search_path = mine, public, \"weird name\"\nshow search_path\nshow search_path"),
    (
        "datestyle is merged",
        "set datestyle = 'German'\nshow datestyle\nset datestyle = 'MDY'\nshow datestyle\nselect date '2024-02-01'",
    ),
    (
        "session characteristics",
        "set session characteristics as transaction isolation level serializable\nshow default_transaction_isolation\nbegin\nshow transaction_isolation\ncommit",
    ),
    (
        "read only session",
        "set session characteristics as transaction read only\ncreate table x{n} (a int)\nset default_transaction_read_only = off\nselect 1",
    ),
    (
        "statement_timeout",
        "set statement_timeout = 100\nselect pg_sleep(5)\nshow statement_timeout\nset statement_timeout = 0\nselect 1",
    ),
    (
        "tiny statement_timeout",
        "set statement_timeout = '20ms'\nshow statement_timeout\nshow statement_timeout\nset statement_timeout = 0",
    ),
    (
        "custom",
        "set app.tenant = 'tenant {n}'\nselect current_setting('app.tenant')\nselect current_setting('app.tenant')",
    ),
    (
        "custom with quotes",
        "set app.tenant = 'it''s \"{n}\" \\ %'\nselect current_setting('app.tenant')\nselect current_setting('app.tenant')",
    ),
    (
        "custom in kilobytes",
        "select set_config('app.big', repeat('x{n}', 5000), false) is null\nselect length(current_setting('app.big')), left(current_setting('app.big'), 9)\nselect length(current_setting('app.big'))",
    ),
    ("custom unset is null", "select current_setting('app.never{n}', true)"),
    (
        "set_config",
        "select set_config('app.a', '{n}', false), set_config('work_mem', '{n}3MB', false)\nselect current_setting('app.a')\nSHOW",
    ),
    (
        "set_config local",
        "select set_config('app.a', '{n}', true)\nselect coalesce(nullif(current_setting('app.a', true), ''), 'none')\nbegin\nselect set_config('work_mem', '9MB', true)\nSHOW\ncommit\nSHOW",
    ),
    (
        "set_config by pattern",
        "select set_config(name, '{n}4MB', false) from unnest(array['work_mem', 'maintenance_work_mem']) name\nSHOW\nshow maintenance_work_mem",
    ),
    ("rolled back", "begin\nset work_mem = '7MB'\nSHOW\nrollback\nSHOW"),
    ("committed", "begin\nset work_mem = '7MB'\nSHOW\ncommit\nSHOW\nSHOW"),
    ("set local", "begin\nset local work_mem = '7MB'\nSHOW\ncommit\nSHOW"),
    ("set local over set", "begin\nset work_mem = '7MB'\nset local work_mem = '8MB'\nSHOW\ncommit\nSHOW"),
    ("set over set local", "begin\nset local work_mem = '8MB'\nset work_mem = '7MB'\nSHOW\ncommit\nSHOW"),
    (
        "savepoint rolled back",
        "begin\nset work_mem = '6MB'\nsavepoint s\nset work_mem = '7MB'\nrollback to s\nSHOW\ncommit\nSHOW",
    ),
    ("savepoint released", "begin\nsavepoint s\nset work_mem = '7MB'\nrelease s\nSHOW\ncommit\nSHOW"),
    ("failed transaction", "begin\nset work_mem = '7MB'\nselect 1/0\nset work_mem = '8MB'\ncommit\nSHOW"),
    ("failed set", "set work_mem = 'lots'\nSHOW\nset no_such_thing = 1\nSHOW\nset max_connections = 7"),
    ("fails behind a set", "set work_mem = '7MB'; select 1/0\nSHOW"),
    ("fails before a set", "select 1/0; set work_mem = '7MB'\nSHOW"),
    ("multi-statement transaction", "begin; set work_mem = '7MB'; commit; select 1\nSHOW"),
    ("multi-statement rollback", "begin; set work_mem = '7MB'; rollback; set timezone = 'Asia/Tokyo'\nSHOW"),
    ("extended set", "P: set work_mem = '7MB'\nSHOW\nP: reset work_mem\nP: SHOW"),
    ("pipelined sets", "set work_mem = '7MB'\n| set timezone = 'Asia/Tokyo'\n| SHOW\nSHOW"),
    ("pipelined transaction", "begin\n| set work_mem = '7MB'\n| SHOW\n| rollback\n| SHOW\nSHOW"),
    ("pipelined reset", "set work_mem = '7MB'\n| reset all\n| set timezone = 'Asia/Tokyo'\n| SHOW\nSHOW"),
    (
        "in a DO block",
        "do $$begin perform set_config('work_mem', '7MB', false); set timezone = 'Asia/Tokyo'; end$$\nSHOW\nSHOW",
    ),
    (
        "custom in a DO block",
        "do $$begin perform set_config('app.done', '{n}', false); end$$\nselect current_setting('app.done')\nselect current_setting('app.done')",
    ),
    ("DO rolled back", "begin\ndo $$begin perform set_config('work_mem', '7MB', false); end$$\nSHOW\nrollback\nSHOW"),
    ("comments and case", "/* a */ SeT /* b */ WORK_MEM -- c\nSHOW"),
    ("reset in a transaction", "set work_mem = '7MB'\nbegin\nreset work_mem\nSHOW\nrollback\nSHOW"),
    ("discard all in a transaction", "begin\ndiscard all\nrollback\nSHOW"),
    (
        "asyncpg's reset",
        "set work_mem = '7MB'\nSELECT pg_advisory_unlock_all(); CLOSE ALL; UNLISTEN *; RESET ALL;\nSHOW",
    ),
    (
        "Npgsql's reset",
        "set work_mem = '7MB'\nCLOSE ALL;UNLISTEN *;SELECT pg_advisory_unlock_all();RESET ALL;DISCARD SEQUENCES;DISCARD TEMP\nSHOW",
    ),
    (
        "plans see the path",
        "set search_path = mine\nP: select who from t\nset search_path = public\nP: select who from t\nP: select who from t",
    ),
    (
        "constants see the zone",
        "set timezone = 'Asia/Tokyo'\nP: select extract(epoch from timestamptz '2024-01-01')\nset timezone = 'UTC'\nP: select extract(epoch from timestamptz '2024-01-01')",
    ),
];

#[test]
fn parameters() -> Result {
    let show = "select current_setting('search_path'), current_setting('timezone'), current_setting('work_mem')";
    let cases: Vec<Case> = PARAMETERS.iter().map(|(name, text)| case(name, &text.replace("SHOW", show))).collect();
    run(&cases)
}

const IN_A_BACKEND: &[(&str, &str)] = &[
    (
        "temporary table",
        "create temp table x (a int)\ninsert into x values ({n})\nselect * from x\nTEMP\ndrop table x\nTEMP\nselect 1",
    ),
    ("temporary table rolled back", "begin\ncreate temp table x (a int)\nrollback\nTEMP\nselect * from x"),
    (
        "temporary table on commit drop",
        "begin\ncreate temp table x (a int) on commit drop\ninsert into x values (1)\ncommit\nTEMP",
    ),
    ("temporary view", "create temp view x as select {n} as a\nselect a from x\nselect a from x\ndrop view x\nTEMP"),
    ("temporary sequence", "create temp sequence x\nselect nextval('x')\nselect nextval('x')\ndrop sequence x"),
    ("select into temp", "select {n} as a into temp x\nselect a from x\ndiscard temp\nTEMP"),
    (
        "temporary function",
        "create function pg_temp.f() returns int language sql as 'select {n}'\nselect pg_temp.f()\nselect pg_temp.f()\ndrop function pg_temp.f()\nselect pg_temp.f()",
    ),
    (
        "temporary type",
        "create type pg_temp.k as enum ('a')\nselect 'a'::pg_temp.k\nselect 'a'::pg_temp.k\ndrop type pg_temp.k",
    ),
    (
        "create table as temp",
        "create temp table x as select {n} as a\nselect a from x\nselect a from x\ndiscard all\nTEMP",
    ),
    (
        "temp in a DO block",
        "do $$begin create temp table x (a int); end$$\ninsert into x values ({n})\nselect a from x\ndrop table x\nTEMP",
    ),
    ("advisory lock", "select pg_advisory_lock({n})\nLOCKS\nselect pg_advisory_unlock({n})\nLOCKS\nselect 1"),
    (
        "advisory lock twice",
        "select pg_advisory_lock({n})\nselect pg_advisory_lock({n})\nselect pg_advisory_unlock({n})\nLOCKS\nselect pg_advisory_unlock({n})\nLOCKS",
    ),
    (
        "advisory unlock all",
        "select pg_advisory_lock({n}), pg_advisory_lock_shared(1)\nLOCKS\nselect pg_advisory_unlock_all()\nLOCKS",
    ),
    ("advisory xact lock", "begin\nselect pg_advisory_xact_lock({n})\nLOCKS\ncommit\nLOCKS"),
    (
        "advisory lock survives rollback",
        "begin\nselect pg_advisory_lock({n})\nrollback\nLOCKS\nselect pg_advisory_unlock({n})",
    ),
    (
        "advisory lock not obtained",
        "select pg_try_advisory_lock({n})\nselect pg_advisory_unlock({n})\nselect pg_advisory_unlock({n})",
    ),
    (
        "cursor with hold",
        "begin\ndeclare c cursor with hold for select generate_series(1, 5)\nfetch 2 from c\ncommit\nfetch 2 from c\nCURSORS\nclose c\nCURSORS",
    ),
    ("cursor with hold rolled back", "begin\ndeclare c cursor with hold for select 1\nrollback\nCURSORS\nfetch c"),
    (
        "cursor without hold",
        "begin\ndeclare c cursor for select generate_series(1, 5)\nfetch 2 from c\ncommit\nfetch 2 from c",
    ),
    ("close all", "begin\ndeclare c cursor with hold for select 1\ncommit\nclose all\nCURSORS"),
    (
        "listen and unlisten",
        "listen news{n}\nnotify news{n}, 'hello'\nselect 1\nunlisten news{n}\nselect * from pg_listening_channels()",
    ),
    ("listen rolled back", "begin\nlisten news{n}\nrollback\nselect * from pg_listening_channels()\nnotify news{n}"),
    ("unlisten all", "listen a{n}\nlisten b{n}\nunlisten *\nselect * from pg_listening_channels()"),
    ("sql prepare", "prepare p (int) as select $1 + {n}\nexecute p(1)\nexecute p(2)\ndeallocate p\nexecute p(1)"),
    ("sql prepare twice", "prepare p as select {n}\nprepare p as select 2\nexecute p\ndeallocate all\nexecute p"),
    ("sql prepare survives rollback", "begin\nprepare p as select {n}\nrollback\nexecute p\ndeallocate p"),
    (
        "sql prepare of a setting",
        "prepare p as select set_config('app.tenant', 'tenant {n}', false)\nexecute p\nselect current_setting('app.tenant')\nselect current_setting('app.tenant')\ndeallocate p",
    ),
    (
        "sql prepare of a lock",
        "prepare p as select pg_advisory_lock({n})\nexecute p\nLOCKS\nselect pg_advisory_unlock({n})\nLOCKS\nexecute p\nLOCKS\nselect pg_advisory_unlock_all()",
    ),
    (
        "sql prepare in one text",
        "prepare p as select {n}; execute p; prepare q (int) as select $1 + {n}\nexecute q(1); execute p\ndeallocate p; select 1/0\nexecute p\nexecute q(2)",
    ),
    ("sql prepare in a failed block", "prepare p as select {n}\nbegin\nselect 1/0\nexecute p\nrollback\nexecute p"),
    (
        "sql prepare is explained and made into a table",
        "prepare p (int) as select $1 as a\nexplain (costs off) execute p(1)\nbegin\ncreate table made{n} as execute p({n})\nselect a from made{n}\nrollback",
    ),
    (
        "sql prepare by the protocol",
        "P: prepare p as select {n}\nP: execute p\nP: execute p\nP: deallocate p\nP: execute p",
    ),
    (
        "sql prepare said at once",
        "prepare p as select {n}\n| execute p\n| deallocate p\n| execute p\n| prepare p as select 0\nexecute p",
    ),
    (
        "the statements that there are",
        "STATEMENTS\nprepare p (int) as select $1 + {n}\nSTATEMENTS\nP: STATEMENTS\nexecute p(1)\ndeallocate all\nSTATEMENTS\ndiscard all",
    ),
    ("sql execute of nothing", "execute p\ndeallocate p\nexecute p; select 1\nprepare p as selec\nexecute p"),
    (
        "set role",
        "set role pg_read_all_data\nselect current_user, session_user\nselect current_user\nreset role\nselect current_user",
    ),
    ("set role none", "set role pg_read_all_data\nselect current_user\nset role none\nselect current_user"),
    ("set role rolled back", "begin\nset role pg_read_all_data\nselect current_user\nrollback\nselect current_user"),
    ("set local role", "begin\nset local role pg_read_all_data\nselect current_user\ncommit\nselect current_user"),
    ("set role that is not ours", "set role postgres\nselect current_user"),
    (
        "session authorization",
        "set session authorization app\nselect current_user, session_user\nreset session authorization\nselect current_user",
    ),
    ("setseed", "select setseed(0.{n})\nselect random() < 2\nselect 1"),
    (
        "sequence in one transaction",
        "begin\nselect nextval('numbers') > 0\nselect currval('numbers') > 0, lastval() > 0\ncommit",
    ),
    ("currval before nextval", "create temp sequence x\nselect currval('x')\ndiscard all"),
];

#[test]
fn what_lives_in_a_backend() -> Result {
    let temp = "select count(*) from pg_class where relname = 'x' and relnamespace = pg_my_temp_schema()";
    let locks = "select count(*) from pg_locks where locktype = 'advisory' and pid = pg_backend_pid()";
    let cursors = "select name from pg_cursors order by 1";
    let statements = "select name, statement, parameter_types, from_sql from pg_prepared_statements order by 1";
    let fill = |text: &str| {
        let text = text.replace("TEMP\n", &format!("{temp}\n")).replace("STATEMENTS", statements);
        text.replace("LOCKS", locks).replace("CURSORS", cursors)
    };
    let cases: Vec<Case> = IN_A_BACKEND.iter().map(|(name, text)| case(name, &fill(&format!("{text}\n")))).collect();
    run(&cases)
}

const TRANSACTIONS: &[(&str, &str)] = &[
    ("begin twice", "begin\nbegin\ncommit"),
    ("commit without begin", "commit\nrollback\nselect 1"),
    ("implicit block", "insert into rows values ({n}, 'a'); select 1/0\nselect count(*) from rows where n = {n}"),
    (
        "failed block",
        "begin\ninsert into rows values ({n}, 'a')\nselect nothing\nselect 1\nrollback\nselect count(*) from rows where n = {n}",
    ),
    ("savepoints", "begin\nsavepoint a\nselect 1/0\nrollback to a\nselect 2\nrelease a\ncommit"),
    ("chain", "begin\nselect 1\ncommit and chain\nselect 2\nrollback"),
    ("two-phase is off", "begin\nprepare transaction 'x{n}'\nselect 1"),
    ("empty queries", "\n;\n;;\nselect 1;;\n--\n/* */"),
    ("notices", "do $$begin raise notice 'hello {n}'; end$$\ncreate table if not exists rows (a int)"),
    ("warnings", "do $$begin raise warning 'careful {n}' using hint = 'h', detail = 'd'; end$$"),
    (
        "errors with everything",
        "do $$begin raise exception 'no {n}' using errcode = 'P0099', hint = 'h', detail = 'd', column = 'c', table = 't'; end$$\nselect 1",
    ),
    ("extended errors", "P: select 1/0\nP: selec\nP: select 1\nP: select * from nowhere"),
    ("extended in a failed block", "begin\nP: select 1/0\nP: select 1\nP: rollback\nP: select 1"),
    (
        "utility statements",
        "explain (costs off) select 1\nshow server_version_num\nanalyze rows\nlock table rows\nbegin\nlock table rows in access share mode\ncommit",
    ),
    ("many rows", "select generate_series(1, 3000)\nselect 1"),
];

#[test]
fn transactions_and_errors() -> Result {
    let cases: Vec<Case> = TRANSACTIONS.iter().map(|(name, text)| case(name, text)).collect();
    run(&cases)
}

const CHANNELS: &[(&str, &str)] = &[
    ("listen and notify", "listen c{n}\nnotify c{n}, 'hello'\nnotify other{n}, 'nobody'\nselect 1"),
    ("listen twice", "listen c{n}\nlisten c{n}\nnotify c{n}\nnotify c{n}, ''"),
    ("several channels", "listen a{n}; listen b{n}\nnotify b{n}, '1'; notify a{n}, '2'; notify b{n}, '3'\nselect 1"),
    ("quoted names", "listen \"C {n} \"\"x\"\"\"\nnotify \"C {n} \"\"x\"\"\", 'quoted'\nnotify c, 'folded'"),
    (
        "names are cut",
        "listen c{n}_23456789_123456789_123456789_123456789_123456789_123456789_123456789\n\
        notify c{n}_23456789_123456789_123456789_123456789_123456789_123456789_123456789, 'x'\n\
        unlisten c{n}_23456789_123456789_123456789_123456789_123456789_123456789_123456789\nselect 1",
    ),
    ("listen in a transaction", "begin\nlisten c{n}\nnotify c{n}, 'same'\ncommit\nnotify c{n}, 'later'"),
    ("listen rolled back", "begin\nlisten c{n}\nrollback\nnotify c{n}, 'x'\nselect 1"),
    (
        "listen in a savepoint",
        "begin\nsavepoint s\nlisten a{n}\nrollback to s\nlisten b{n}\ncommit\nnotify a{n}\nnotify b{n}",
    ),
    ("listen in a failed text", "listen c{n}; select 1/0\nnotify c{n}\nlisten c{n}\nnotify c{n}"),
    ("notify rolled back", "listen c{n}\nbegin\nnotify c{n}, 'x'\nrollback\nbegin\nnotify c{n}, 'y'\ncommit"),
    ("the same is told once", "listen c{n}\nbegin; notify c{n}, 'x'; notify c{n}, 'x'; notify c{n}, 'y'; commit"),
    ("unlisten", "listen c{n}\nunlisten c{n}\nnotify c{n}\nlisten c{n}\nunlisten *\nnotify c{n}\nselect 1"),
    (
        "unlisten and notify",
        "listen a{n}; listen b{n}\nbegin; unlisten a{n}; notify a{n}; notify b{n}; commit\nnotify a{n}",
    ),
    ("unlisten unknown", "unlisten never\nunlisten *\nlisten c{n}\nunlisten never\nnotify c{n}"),
    ("discard all unlistens", "listen c{n}\ndiscard all\nnotify c{n}\nselect 1"),
    (
        "extended listen",
        "P: listen c{n}\nP: notify c{n}, 'x'\nP: select pg_notify('c{n}', 'y')\nP: unlisten c{n}\nP: notify c{n}",
    ),
    ("pipelined", "listen c{n}\nnotify c{n}, '1'\n| P: notify c{n}, '2'\n| select 'between'\n| notify c{n}, '3'"),
    (
        "pg_notify",
        "listen c{n}\nselect pg_notify('c{n}', n::text) from generate_series(1, 3) n\nselect pg_notify('c{n}', null)",
    ),
    (
        "bad channels",
        "notify c{n}, 1\nselect pg_notify('', 'x')\nselect pg_notify(null, 'x')\nlisten\nlisten a.b\nselect 1",
    ),
    ("in a failed transaction", "listen c{n}\nbegin\nselect 1/0\nnotify c{n}\nunlisten c{n}\nrollback\nnotify c{n}"),
    (
        "settings and channels",
        "set work_mem = '7MB'\nlisten c{n}\nnotify c{n}\nshow work_mem\nreset all\nnotify c{n}\nshow work_mem",
    ),
];

#[test]
fn channels() -> Result {
    let cases: Vec<Case> = CHANNELS.iter().map(|(name, text)| case(name, text)).collect();
    run(&cases)
}

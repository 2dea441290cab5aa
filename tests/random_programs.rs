//! Random programs of protocol messages: whatever a client says, it hears the same as on a direct connection, also
//! while others do the same on the same two backends. A program is a function of its seed; one that fails is reduced
//! to the steps that matter and printed. `PGFUNNEL_TEST_PROGRAMS` sets how many run.

mod common;

use common::*;

const SIMPLE: [&str; 32] = [
    "select 1",
    "",
    "select 1; select 2",
    "select 1/0",
    "select 1; select 1/0; select 2",
    "selec",
    "begin",
    "begin",
    "commit",
    "rollback",
    "savepoint s",
    "rollback to s",
    "release s",
    "begin; select 1; commit",
    "deallocate all",
    "deallocate a",
    "show timezone",
    "set timezone = 'Asia/Tokyo'",
    "set local timezone = 'Europe/Paris'",
    "reset timezone",
    "discard all",
    "declare c cursor for select generate_series(1, 5)",
    "fetch 2 from c",
    "copy (select generate_series(1, 3)) to stdout",
    "prepare c as select 5",
    "prepare d (int) as select $1; execute d(7)",
    "execute c",
    "execute c(1); select nothing",
    "execute d(2)",
    "deallocate d; select 1/0",
    "deallocate c; prepare c (int) as select $1 + 1",
    "select string_agg(name, ' ' order by name) from pg_prepared_statements",
];

const PREPARED: [&str; 12] = [
    "select $1::int + 1",
    "select $1::int + 1",
    "select $1::text, current_setting('timezone')",
    "select generate_series(1, $1::int)",
    "select 1/$1::int",
    "select nothing",
    "selec",
    "",
    "begin",
    "commit",
    "rollback",
    "set timezone = 'UTC'",
];

/// Under a name of their own, which is executed as soon as it is bound and never described: what the names in a text
/// mean is found out when it is bound, by PostgreSQL in part before and in part behind that.
const ABOUT: [&str; 4] = ["execute c", "execute d(3)", "prepare c as select 6", "deallocate d"];

fn pick<'a>(random: &mut Random, from: &[&'a str]) -> &'a str {
    from[random.below(from.len())]
}

/// One message of the extended protocol.
fn message(random: &mut Random, step: &mut Step) {
    let (statement, portal) = (pick(random, &["", "a", "b", "c", "d"]), pick(random, &["", "", "p"]));
    let said = std::mem::take(&mut step.said);
    let (said, name) = match random.below(14) {
        12 => {
            let sql = pick(random, &ABOUT);
            (said.parse("about", sql, &[]), format!("parse \"about\" {sql:?}"))
        }
        13 => match random.below(4) {
            0 => (said.close_statement("about"), "close statement \"about\"".into()),
            _ => (said.bind(portal, "about", &[]).execute(portal, 0), format!("run {portal:?} \"about\"")),
        },
        0..=2 => {
            let sql = pick(random, &PREPARED);
            // Those that EXECUTE may meet: PostgreSQL breaks on an EXECUTE of BEGIN ("unexpected state").
            let sql =
                if ["c", "d"].contains(&statement) && !sql.starts_with("select") { "select $1::int" } else { sql };
            (said.parse(statement, sql, &[]), format!("parse {statement:?} {sql:?}"))
        }
        3..=5 => {
            let all: [&[Option<&str>]; 5] = [&[Some("3")], &[Some("0")], &[None], &[Some("x")], &[]];
            let values = all[random.below(all.len())];
            (said.bind(portal, statement, values), format!("bind {portal:?} {statement:?} {values:?}"))
        }
        6 => (said.describe_statement(statement), format!("describe statement {statement:?}")),
        7 => (said.describe_portal(portal), format!("describe portal {portal:?}")),
        8 | 9 => {
            let rows = [0, 0, 1, 2][random.below(4)];
            (said.execute(portal, rows), format!("execute {portal:?} {rows}"))
        }
        10 => (said.close_statement(statement), format!("close statement {statement:?}")),
        _ => (said.flush(), "flush".into()),
    };
    step.said = said;
    step.name = format!("{}{name}; ", step.name);
}

/// Some messages that end with a Query or a Sync.
fn step(random: &mut Random) -> Step {
    let mut step = Step { said: Say::new(), name: String::new() };
    for _ in 0..random.below(6) {
        message(random, &mut step);
    }
    let query = pick(random, &SIMPLE);
    // A Query in the midst of a batch without Sync is legal, too.
    let (said, name) = match random.below(4) {
        0 => (step.said.query(query), format!("query {query:?}")),
        _ => (step.said.sync(), "sync".into()),
    };
    Step { said, name: step.name + &name }
}

fn program(seed: u64) -> Vec<Step> {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    (0..3 + random.below(10)).map(|_| step(&mut random)).collect()
}

fn programs_agree(manner: Manner) -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 2\nborrow_timeout = \"25s\"").start()?;
    agree(&cluster.target(), &proxy.target(), &program, manner)
}

#[test]
fn a_patient_client_hears_what_it_would_hear_from_postgresql() -> Result {
    programs_agree(Manner::Patient)
}

#[test]
fn so_does_one_that_says_everything_at_once() -> Result {
    programs_agree(Manner::Pipelined)
}

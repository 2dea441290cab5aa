//! The log at its most talkative never holds a password, a value or a piece of data; each of its lines is JSON, and has
//! the fields that README.md lists.

mod common;

use std::collections::BTreeSet;
use std::fs;

use common::*;

/// What is planted: each must come up nowhere.
const PLANTED: [&str; 18] = [
    PASSWORD,
    "wrong-scram-sesame",
    "old-md5-sesame",
    "wrong-md5-sesame",
    "walk-in-sesame",
    "wrong-clear-sesame",
    "nonce-sesame-nonce-sesame",
    "startup-sesame",
    "option-sesame",
    "literal-sesame",
    "bound-sesame",
    "4111111111111111",
    "set-sesame",
    "copy-sesame",
    "unique-sesame",
    "raised-sesame",
    "altered-sesame",
    "slow-sesame",
];

fn log_in(proxy: &Proxy) -> Result {
    assert_eq!(proxy.target().user(APP, "wrong-scram-sesame").refusal()?.code, "28P01");
    proxy.target().user("old", "old-md5-sesame").connect()?.value("select 1")?;
    assert_eq!(proxy.target().user("old", "wrong-md5-sesame").refusal()?.code, "28P01");
    proxy.target().user("walkin", "walk-in-sesame").connect()?.value("select 1")?;
    assert_eq!(proxy.target().user("walkin", "wrong-clear-sesame").refusal()?.code, "28P01");
    // SASL that breaks off, with a nonce of our own.
    let mut wire = Wire::open(&proxy.target())?;
    wire.send(&startup(0x0003_0000, &[("user", APP), ("database", APP)]))?;
    wire.read()?;
    wire.say(&Say::new().raw(b'p', b"SCRAM-SHA-256\0\0\0\0\x23n,,n=,r=nonce-sesame-nonce-sesame,x"))?;
    wire.read_to_close()?;
    assert_eq!(proxy.target().parameter("timezone", "startup-sesame").refusal()?.code, "22023");
    let options = "-c app.x=option-sesame -c search_path=public";
    proxy.target().parameter("options", options).connect()?.value("select 1")?;
    Ok(())
}

/// Statements that hold data, well and badly.
fn speak(proxy: &Proxy) -> Result {
    let mut client = proxy.target().connect()?;
    client.value("create table public.planted (x text unique)")?;
    client.value("select 'literal-sesame'")?;
    let bind =
        Say::new().parse("s", "select $1::text", &[]).bind("", "s", &[Some("bound-sesame")]).execute("", 0).sync();
    assert_eq!(client.ask(&bind)?.value(), "bound-sesame");
    let cast = Say::new().parse("", "select $1::int", &[]).bind("", "", &[Some("bound-sesame")]).execute("", 0).sync();
    assert_eq!(client.ask(&cast)?.error().code, "22P02");
    client.value("select 4111111111111111 , set_config('app.y', 'set-sesame', false)")?;
    client.value("set app.x = 'set-sesame'")?;
    assert_eq!(client.query("set timezone = 'set-sesame'")?.error().code, "22023");
    client.ask(&Say::new().query("copy planted from stdin").copy_data(b"copy-sesame\n").copy_done())?;
    client.value("insert into planted values ('unique-sesame')")?;
    assert_eq!(client.query("insert into planted values ('unique-sesame')")?.error().code, "23505");
    client.query("do $$ begin raise exception 'raised-sesame'; end $$")?.error();
    client.query("prepare p as select 'literal-sesame', $1::text; execute p('bound-sesame')")?;
    client.query("create temp table t as select 'literal-sesame'::text")?;
    client.query("begin; alter role current_user password 'altered-sesame'; rollback")?;
    client.query("alter role current_user password 'unique-sesame' nonsense")?.error();
    Ok(())
}

/// What is slow, refused, cancelled, and ended.
fn suffer(proxy: &Proxy) -> Result {
    let mut client = proxy.target().connect()?;
    client.query("select 'slow-sesame', pg_sleep(0.2)")?;
    // Told by itself, not as a repeat.
    std::thread::sleep(std::time::Duration::from_millis(2500));
    client.say(&Say::new().query("select 'slow-sesame', pg_sleep(10)"))?;
    eventually("it runs", || Ok(proxy.metric("pgfunnel_clients", &["state=\"active\""])? == 1.0))?;
    std::thread::sleep(std::time::Duration::from_millis(300));
    client.cancel()?;
    assert_eq!(client.read_ready(1)?.error().code, "57014");
    client.cancel_key(client.key.0, b"\0\0\0\0")?;
    client.hold()?;
    let mut waiter = proxy.target().connect()?;
    assert_eq!(waiter.query("select 'literal-sesame'")?.error().code, "53300");
    client.say(&Say::new().query("select 'literal-sesame', pg_terminate_backend(pg_backend_pid())"))?;
    assert_eq!(client.read_to_close()?.error().code, "57P01");
    client = proxy.target().connect()?;
    client.hold()?;
    client.value("select 'literal-sesame'")?;
    assert_eq!(client.read_to_close()?.error().code, "25P03");
    Ok(())
}

#[test]
fn no_secret_is_logged_and_every_line_is_as_described() -> Result {
    let cluster = Cluster::with(Settings { hba: "host all old 127.0.0.1/32 md5\n".into(), ..Settings::default() })?;
    cluster.sql("set password_encryption = 'md5'; create role old login password 'old-md5-sesame'")?;
    let hash = cluster.sql("select rolpassword from pg_authid where rolname = 'old'")?;
    cluster.sql("create role walkin login password 'walk-in-sesame'; grant all on schema public to public")?;
    let top = "auth = \"md5\"\npool_size = 1\nborrow_timeout = \"500ms\"\nlog_slow_query = \"100ms\"\n\
               log_slow_borrow = \"100ms\"\nlog_connections = true\nidle_transaction_timeout = \"1s\"";
    let proxy = Config::of(&cluster)
        .top(top)
        .database("unlisted_users = \"pass_through\"")
        .section(&format!("[users.old]\nsecret = \"{hash}\""))
        .log("trace")
        .start()?;
    log_in(&proxy)?;
    speak(&proxy)?;
    suffer(&proxy)?;
    let key = {
        let mut client = proxy.target().connect()?;
        client.cancel()?;
        client.value("select 1")?;
        client.key.1.clone()
    };
    for event in ["logged in", "login refused", "refused", "slow query", "slow borrow", "pinned", "session ended"] {
        proxy.wait_line(event, &[])?;
    }
    proxy.wait_line("slow query", &[("command", "SELECT"), ("sqlstate", "57014")])?;
    proxy.wait_line("slow borrow", &[("command", "SELECT"), ("sqlstate", "53300")])?;
    proxy.wait_line("login refused", &[("sqlstate", "22023")])?;
    proxy.wait_line("session ended", &[("sqlstate", "57P01")])?;
    let log = proxy.log();
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    let planted = PLANTED.iter().map(|text| (*text).to_owned()).chain([hash, hex, format!("{key:?}")]);
    for secret in planted {
        assert!(!log.contains(&secret), "{secret} is in the log:\n{log}");
    }
    for shade in ["sesame", "md5", "SCRAM-SHA"] {
        assert!(!log.contains(shade), "a trace of {shade} is in the log:\n{log}");
    }
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"))?;
    let table = readme.split("| field |").nth(1).and_then(|rest| rest.split("\n\n").next()).ok_or("no fields")?;
    let listed: BTreeSet<&str> = table.split('`').skip(1).step_by(2).collect();
    for line in proxy.log_lines()? {
        let fields = line.as_object().ok_or("a line that is no object")?;
        for field in
            fields.keys().filter(|field| !["timestamp", "level", "target", "message"].contains(&field.as_str()))
        {
            assert!(listed.contains(field.as_str()), "{field} is not in README.md: {line}");
        }
    }
    Ok(())
}

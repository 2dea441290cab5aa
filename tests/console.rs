//! The admin console as an operator, a driver and a tool made for PgBouncer see it.

mod common;

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use common::*;

#[test]
fn only_those_who_are_listed_are_let_in() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let refused = proxy.target().database("pgfunnel").refusal()?;
    assert_eq!((refused.code.as_str(), refused.hint.contains("admin_users")), ("3D000", true), "{refused:?}");
    drop(proxy);
    let everything = format!(
        "[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}\nunlisted_users = \"pass_through\"",
        cluster.port()
    );
    let proxy = Config::of(&cluster).console().section(&everything).start()?;
    for name in ["pgfunnel", "pgbouncer"] {
        assert_eq!(proxy.console().database(name).connect()?.row("SHOW STATE", "key", "active")?["value"], "yes");
        let watcher = proxy.console().database(name).user("watcher", PASSWORD);
        assert!(!watcher.connect()?.table("SHOW CONFIG")?.is_empty());
        for command in ["PAUSE", "RELOAD", "SHUTDOWN", "SET pool_size = 1", "KILL app", "KILL_CLIENT 1"] {
            assert_eq!(watcher.connect()?.query(command)?.error().code, "42501", "{command}");
        }
        let refused = proxy.target().database(name).refusal()?;
        assert_eq!((refused.code.as_str(), refused.hint.contains("stats_users")), ("28000", true), "{refused:?}");
        // Whatever other databases do with unlisted users: PostgreSQL knows this one, and its password.
        cluster.sql(&format!("alter role app password '{PASSWORD}'"))?;
        assert_eq!(proxy.console().database(name).user("operator", "wrong").refusal()?.code, "28P01");
        assert_eq!(proxy.console().database(name).user("postgres", PASSWORD).refusal()?.code, "28P01");
    }
    assert_eq!(proxy.metric("pgfunnel_backends", &[])?, 0.0, "no backend was needed for any of it");
    Ok(())
}

#[test]
fn every_table_can_be_read_in_every_way() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).console().start()?;
    let mut client = proxy.target().parameter("application_name", "report-fn").connect()?;
    client.hold()?;
    client.value("create temp table t (n int)")?;
    let mut console = proxy.console().connect()?;
    let commands: Vec<String> = console.table("SHOW HELP")?.iter().map(|row| row["command"].clone()).collect();
    let shows: Vec<&String> = commands.iter().filter(|command| command.starts_with("SHOW ")).collect();
    assert!(shows.len() > 20, "{commands:?}");
    for show in shows {
        let simple = console.query(&format!("/* a comment */ {}; -- and one", show.to_lowercase()))?;
        assert_eq!((simple.commands(), simple.status()), (vec!["SHOW".to_owned()], Some('I')), "{show}: {simple:?}");
        for format in [0, 1] {
            let say = Say::new().parse("", show, &[]).describe_statement("").bind_formats("", "", &[], format);
            let extended = console.ask(&say.describe_portal("").execute("", 0).sync())?;
            assert_eq!(extended.errors(), [], "{show}");
            assert_eq!(extended.columns(), simple.columns(), "{show}");
            let rows = simple.rows().len();
            assert_eq!(extended.tags(), format!("1tT2T{}CZ", "D".repeat(rows)), "{show}");
        }
    }
    Ok(())
}

#[test]
fn it_speaks_the_protocol_as_postgresql_does() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).console().start()?;
    let mut console = proxy.console().connect()?;
    // Row by row.
    let begin = Say::new().query("BEGIN").parse("s", "SHOW CONFIG", &[]).bind("p", "s", &[]).execute("p", 3).sync();
    let first = console.ask(&begin)?;
    assert_eq!((first.tags().as_str(), first.status()), ("CZ12DDDsZ", Some('T')));
    let rest = console.ask(&Say::new().execute("p", 0).close_portal("p").close_statement("s").sync())?;
    assert_eq!((rest.rows().len() > 20, rest.commands()), (true, vec!["SHOW".to_owned()]));
    // An error skips the rest of its batch and fails the transaction.
    let failed = console.ask(&Say::new().parse("", "FOO", &[]).bind("", "", &[]).execute("", 0).sync())?;
    assert_eq!((failed.tags().as_str(), failed.error().code.as_str(), failed.status()), ("EZ", "42601", Some('E')));
    assert_eq!(console.query("SHOW LISTS")?.error().code, "25P02");
    assert_eq!(console.query("COMMIT")?.commands(), ["ROLLBACK"]);
    // Whatever is not there.
    let bind = |statement: &str, values: &[Option<&str>]| Say::new().bind("", statement, values).sync();
    assert_eq!(console.ask(&bind("nothing", &[]))?.error().code, "26000");
    assert_eq!(console.ask(&Say::new().execute("nothing", 0).sync())?.error().code, "34000");
    let bound = Say::new().parse("", "SHOW LISTS", &[]).and(&bind("", &[Some("1")]));
    assert_eq!(console.ask(&bound)?.error().code, "08P01");
    let twice = Say::new().parse("s", "SHOW LISTS", &[]).parse("s", "SHOW LISTS", &[]).sync();
    assert_eq!(console.ask(&twice)?.error().code, "42P05");
    let many = (0..200).fold(Say::new(), |say, n| say.parse(&format!("s{n}"), "SHOW LISTS", &[]));
    assert_eq!(console.ask(&many.sync())?.error().code, "54000");
    let again = Say::new().parse("", "SHOW LISTS", &[]).bind("p", "", &[]).bind("p", "", &[]).sync();
    assert_eq!(console.ask(&again)?.error().code, "42P03");
    // What drivers say.
    for (said, tag) in [
        ("SET extra_float_digits = 3", "SET"),
        ("set application_name to 'x'", "SET"),
        ("DISCARD ALL", "DISCARD ALL"),
        ("START TRANSACTION READ ONLY", "BEGIN"),
        ("ROLLBACK", "ROLLBACK"),
    ] {
        assert_eq!(console.query(said)?.commands(), [tag]);
    }
    assert_eq!(console.query(";")?.tags(), "IZ");
    assert_eq!(console.query("SELECT 1")?.error().code, "42601");
    assert_eq!(console.query("SUSPEND")?.error().code, "0A000");
    Ok(())
}

#[test]
fn what_pinned_a_client_is_shown_without_values() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).console().start()?;
    let mut console = proxy.console().connect()?;
    for (said, shown) in [
        ("select 4111111111111111 card, pg_advisory_lock(1)", "SELECT"),
        ("create temp table t (n int)", "CREATE TEMP TABLE"),
    ] {
        let mut client = proxy.target().connect()?;
        client.query(said)?;
        eventually("it is pinned", || Ok(console.table("SHOW PINS")?.iter().any(|row| row["statement"] == shown)))?;
    }
    assert!(!proxy.log().contains("41111"));
    Ok(())
}

#[test]
fn messages_are_taken_as_postgresql_takes_them() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).console().start()?;
    let mut console = proxy.console().connect()?;
    // After an error all is passed over up to Sync, a Query too.
    let failed = Say::new().parse("", "nonsense", &[]).raw(b'Q', b"DISABLE app\0").sync();
    assert_eq!(console.ask(&failed)?.tags(), "EZ");
    assert_eq!(console.row("SHOW DATABASES", "name", "app")?["disabled"], "0");
    let copied = Say::new().copy_data(b"x").copy_done().copy_fail("x").query("SHOW VERSION");
    assert_eq!(console.ask(&copied)?.tags(), "TDCZ");
    let called = console.ask(&Say::new().function_call(1598, &[]))?;
    assert_eq!((called.tags().as_str(), called.error().code.as_str()), ("EZ", "0A000"));
    // A driver forgets its statements, and so do we.
    let parse = Say::new().parse("s", "SHOW VERSION", &[]).sync();
    for all in ["DEALLOCATE ALL", "DISCARD ALL"] {
        assert_eq!(console.ask(&parse)?.tags(), "1Z");
        assert_eq!(console.query(all)?.tags(), "CZ");
    }
    assert_eq!(console.ask(&parse)?.tags(), "1Z");
    assert_eq!(console.ask(&parse)?.error().code, "42P05");
    Ok(())
}

#[test]
fn what_is_hostile_is_told_so_and_harms_nobody() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("create table t (n int); grant all on t to app")?;
    let mut proxy = Config::of(&cluster).top("max_clients = 2").console().start()?;
    let memory = proxy.memory()?;
    let clients = vec![proxy.target().connect()?, proxy.target().connect()?];
    assert_eq!(proxy.target().refusal()?.code, "53300");
    // Whoever must look at that can.
    let mut console = proxy.console().connect()?;
    assert_eq!(console.row("SHOW LISTS", "list", "used_clients")?["items"], "2");
    // A command that is far too long, bytes that are none of the protocol's, text that is no text.
    let mut long = proxy.console().connect()?;
    long.say(&Say::new().query(&"x".repeat(100_000)))?;
    assert_eq!(long.read_to_close()?.error().code, "08P01");
    let mut strange = proxy.console().connect()?;
    strange.say(&Say::new().raw(b'\x01', b"strange"))?;
    assert_eq!(strange.read_to_close()?.error().code, "08P01");
    let mut torn = proxy.console().connect()?;
    assert_eq!(torn.first_error(&Say::new().raw(b'Q', b"SHOW \xff\0").unanswered_sync())?.code, "22021");
    for tag in [b'P', b'B', b'D', b'E', b'C', b'Q'] {
        let mut empty = proxy.console().connect()?;
        assert_eq!(
            empty.first_error(&Say::new().raw(tag, b"").unanswered_sync())?.code,
            "08P01",
            "{}",
            char::from(tag)
        );
    }
    // Tables that are not read to their end take memory.
    let mut half = proxy.console().connect()?;
    half.ask(&Say::new().query("BEGIN").parse("s", "SHOW HELP", &[]).sync())?;
    let read = |name: &str| Say::new().bind(name, "s", &[]).execute(name, 1).sync();
    for name in ["a", "b"] {
        assert_eq!(half.ask(&read(name))?.tags(), "2DsZ");
    }
    assert_eq!(half.ask(&read("c"))?.error().code, "54000");
    let mut random = Random(4711);
    for _ in 0..50 {
        let mut victim = proxy.console().connect()?;
        // It may have ended it by then.
        let _ = victim.send(&random.bytes(200));
    }
    // Consoles that are not closed: those of who may only look leave some to others.
    let mut open = Vec::new();
    for user in ["watcher", "operator"] {
        let before = open.len();
        let refused = loop {
            match proxy.console().user(user, PASSWORD).login()? {
                Ok(console) => open.push(console),
                Err(error) => break error,
            }
            assert!(open.len() < 100, "no end to it");
        };
        assert_eq!((refused.code.as_str(), open.len() > before), ("53300", true), "{user}");
    }
    drop(open);
    eventually("they are gone", || Ok(proxy.console().connect().is_ok()))?;
    assert_eq!(console.row("SHOW POOLS", "database", "pgfunnel")?["cl_waiting"], "0");
    drop((clients, console));
    unharmed(&cluster, &mut proxy, memory)
}

#[test]
fn drivers_can_use_it() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).console().start()?;
    let url = proxy.console().url();
    let python = std::env::var_os("PGFUNNEL_TEST_PYTHON")
        .ok_or("PGFUNNEL_TEST_PYTHON is not set: a Python with psycopg; tests/run.sh installs it")?;
    let modules = std::env::var_os("PGFUNNEL_TEST_NODE_PATH")
        .ok_or("PGFUNNEL_TEST_NODE_PATH is not set: a node_modules with pg; tests/run.sh installs it")?;
    for mut driver in [Command::new(python), Command::new("node")] {
        let extension = if driver.get_program() == "node" { "js" } else { "py" };
        let script = format!("{}/tests/clients/console.{extension}", env!("CARGO_MANIFEST_DIR"));
        let output = driver.arg(script).arg(&url).env("NODE_PATH", &modules).output()?;
        let complained = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), complained.as_ref()), (Some(0), ""), "{extension}");
    }
    Ok(())
}

/// PgBouncer itself, stopped when this is dropped.
struct PgBouncer {
    child: std::process::Child,
    port: Port,
    _dir: tempfile::TempDir,
}

impl PgBouncer {
    fn start(cluster: &Cluster) -> Result<Self> {
        let port = Port::reserve()?;
        let dir = tempfile::Builder::new().prefix("pgfunnel-test-").tempdir()?;
        let (ini, users) = (dir.path().join("pgbouncer.ini"), dir.path().join("users.txt"));
        let text = format!(
            "[databases]\napp = host=127.0.0.1 port={}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             auth_type = scram-sha-256\nauth_file = {}\nadmin_users = operator\nunix_socket_dir =\n",
            cluster.port(),
            port.addr().port(),
            users.display()
        );
        std::fs::write(&ini, text)?;
        std::fs::write(&users, format!("\"app\" \"{PASSWORD}\"\n\"operator\" \"{PASSWORD}\"\n"))?;
        for path in [dir.path(), &ini, &users] {
            // It does not run as root.
            std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
        }
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL"]);
        if std::fs::metadata("/proc/self")?.uid() == 0 {
            command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]);
        }
        let child = command.args(["--", "/usr/sbin/pgbouncer", "--quiet"]).arg(&ini).spawn()?;
        let bouncer = Self { child, port, _dir: dir };
        eventually("PgBouncer is ready", || Ok(bouncer.console().connect().is_ok()))?;
        Ok(bouncer)
    }

    fn console(&self) -> Target {
        Target::new(Addr::Tcp(self.port.addr()), "operator", PASSWORD, "pgbouncer")
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn it_has_pgbouncers_columns_and_answers() -> Result {
    let cluster = Cluster::start()?;
    let (bouncer, proxy) = (PgBouncer::start(&cluster)?, Config::of(&cluster).console().start()?);
    let (mut theirs, mut ours) = (bouncer.console().connect()?, proxy.console().connect()?);
    for show in
        "POOLS CLIENTS SERVERS STATS STATS_TOTALS STATS_AVERAGES TOTALS DATABASES USERS LISTS CONFIG MEM VERSION \
                 DNS_HOSTS DNS_ZONES"
            .split(' ')
    {
        let command = format!("SHOW {show}");
        let (theirs, ours) = (theirs.query(&command)?, ours.query(&command)?);
        assert_eq!((theirs.errors().len(), ours.errors().len(), ours.commands()), (0, 0, theirs.commands()), "{show}");
        // In the same order; between and behind them may be more: newer ones of PgBouncer's, and ours. One was renamed.
        let known = ours.columns();
        let mut rest = known.iter();
        for column in theirs.columns().iter().filter(|column| *column != "reserve_pool") {
            assert!(rest.any(|own| own == column), "{show}: {column} is not among {known:?}");
        }
    }
    let keys = |console: &mut Wire, show: &str, column: &str| -> Result<Vec<String>> {
        Ok(console.table(show)?.iter().map(|row| row[column].clone()).collect())
    };
    assert_eq!(keys(&mut theirs, "SHOW LISTS", "list")?, keys(&mut ours, "SHOW LISTS", "list")?);
    let totals = keys(&mut ours, "SHOW TOTALS", "name")?;
    for name in keys(&mut theirs, "SHOW TOTALS", "name")?.iter().filter(|name| name.starts_with("total_")) {
        assert!(totals.contains(name), "{name} is not among {totals:?}");
    }
    let commands = [
        "PAUSE",
        "RESUME",
        "PAUSE app",
        "RESUME app",
        "DISABLE app",
        "ENABLE app",
        "RECONNECT",
        "RECONNECT app",
        "WAIT_CLOSE",
        "WAIT_CLOSE app",
        "RELOAD",
        "KILL app",
        "RESUME app",
    ];
    for command in commands {
        assert_eq!(ours.query(command)?.commands(), theirs.query(command)?.commands(), "{command}");
    }
    for wrong in ["RESUME", "PAUSE nothing", "KILL", "FOO", "SHOW FOO", "SET nothing = 1"] {
        let (theirs, ours) = (theirs.query(wrong)?, ours.query(wrong)?);
        assert_eq!((theirs.errors().len(), ours.errors().len()), (1, 1), "{wrong}");
    }
    Ok(())
}

/// The figures that both show after the same work.
#[test]
fn it_counts_as_pgbouncer_does() -> Result {
    let cluster = Cluster::start()?;
    let (bouncer, proxy) = (PgBouncer::start(&cluster)?, Config::of(&cluster).console().start()?);
    let through_bouncer = bouncer.console().user("app", PASSWORD).database("app");
    let mut shown = Vec::new();
    for (target, console) in [(through_bouncer, bouncer.console()), (proxy.target(), proxy.console())] {
        let mut client = target.connect()?;
        for _ in 0..5 {
            client.value("select repeat('x', 1000)")?;
        }
        client.hold()?;
        client.value("select pg_sleep(0.2)")?;
        client.value("commit")?;
        let mut idle = target.connect()?;
        idle.value("select 1")?;
        client.hold()?;
        let mut console = console.connect()?;
        let stats = console.pool("SHOW STATS")?;
        let pool = console.pool("SHOW POOLS")?;
        let number = |name: &str| stats[name].parse::<u64>();
        assert!((5_000..7_000).contains(&number("total_sent")?), "{stats:?}");
        assert!((200..2_000).contains(&number("total_received")?), "{stats:?}");
        assert!((200_000..5_000_000).contains(&number("total_query_time")?), "{stats:?}");
        assert!(number("total_xact_time")? + 50_000 >= number("total_query_time")?, "{stats:?}");
        let counts = ["cl_active", "cl_waiting", "sv_active", "maxwait", "pool_mode"].map(|name| pool[name].clone());
        shown.push((number("total_query_count")?, counts));
        let client = console.row("SHOW CLIENTS", "database", "app")?;
        assert!(client["addr"] == "127.0.0.1" && client["state"] == "active" && client["type"] == "C", "{client:?}");
        // PgBouncer has an empty text where nothing is linked.
        let linked = |row: &console::Row| !row["link"].is_empty() && row["link"] != "<null>";
        let linked = console.table("SHOW CLIENTS")?.into_iter().find(linked).ok_or("no client has a backend")?;
        let server = console.row("SHOW SERVERS", "ptr", &linked["link"])?;
        assert_eq!((&server["link"], server["state"].as_str()), (&linked["ptr"], "active"), "{server:?}");
        assert_eq!(server["port"], cluster.port().to_string());
    }
    // PgBouncer's own default is session mode: that alone differs.
    let [(bouncer_queries, theirs), (own_queries, ours)] = &shown[..] else { return Err("two of them".into()) };
    assert_eq!((own_queries, &ours[..2], &ours[3]), (bouncer_queries, &theirs[..2], &theirs[3]));
    assert_eq!((ours[2].as_str(), ours[4].as_str()), ("1", "transaction"));
    Ok(())
}

#[test]
fn the_exporter_for_pgbouncer_scrapes_it() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).console().start()?;
    let python = std::env::var_os("PGFUNNEL_TEST_PYTHON").ok_or(
        "PGFUNNEL_TEST_PYTHON is not set: a Python with prometheus-pgbouncer-exporter; tests/run.sh installs it",
    )?;
    let port = Port::reserve()?;
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("exporter.yml");
    let url = proxy.console().user("watcher", PASSWORD).database("pgbouncer").url();
    let text =
        format!("exporter_host: 127.0.0.1\nexporter_port: {}\npgbouncers:\n  - dsn: {url}\n", port.addr().port());
    std::fs::write(&file, text)?;
    let exporter = std::path::Path::new(&python).with_file_name("pgbouncer-exporter");
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--"]).arg(exporter).arg("--config").arg(&file);
    let mut child = command.stdout(std::process::Stdio::null()).spawn()?;
    let scraped = || http::get(port.addr(), "/metrics").map(|(_, text)| text);
    let mut client = proxy.target().connect()?;
    client.hold()?;
    client.value("select 1")?;
    let outcome = eventually("it shows what the pool does", || {
        let text = scraped().unwrap_or_default();
        let shows = |line: &str| text.lines().any(|found| found.starts_with(line));
        Ok(shows("pgbouncer_up 1")
            && shows("pgbouncer_pools_client_active_connections{database=\"app\",user=\"app\"} 1")
            && shows("pgbouncer_pools_server_active_connections{database=\"app\",user=\"app\"} 1")
            && shows("pgbouncer_stats_queries_total{database=\"app\"} ")
            && shows("pgbouncer_databases_database_pool_size{backend_database=\"app\",database=\"app\"} 20")
            && shows("pgbouncer_config_max_client_conn 10000"))
    });
    let last = scraped();
    child.kill()?;
    child.wait()?;
    outcome.map_err(|error| format!("{error:?}\n{last:?}").into())
}

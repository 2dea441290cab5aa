//! PAUSE and RESUME on the admin console, and what clients notice of it.

mod common;

use std::time::Duration;

use common::*;

#[test]
fn a_database_is_restarted_behind_a_pause_and_no_client_fails() -> Result {
    let mut cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("pool_size = 3\nborrow_timeout = \"1s\"").console().start()?;
    let mut busy = proxy.target().connect()?;
    busy.hold()?;
    let mut clients = (0..10).map(|_| proxy.target().connect()).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.value("select 1")?;
    }
    let pause = later(&proxy.console(), "PAUSE");
    let mut console = proxy.console().connect()?;
    eventually("it is paused", || Ok(console.pool("SHOW POOLS")?["paused"] == "1"))?;
    for client in &mut clients {
        client.say(&Say::new().query("select 2"))?;
    }
    eventually("they wait", || Ok(console.pool("SHOW POOLS")?["cl_waiting"] == "10"))?;
    assert_eq!(proxy.metric("pgfunnel_pool_paused", &[])?, 1.0);
    // The transaction that runs is finished, and only then the answer comes.
    assert_eq!(busy.value("select 3")?, "3");
    assert!(!pause.is_finished());
    eventually("it is said what is wrong", || {
        let sentence = console.table("SHOW DIAGNOSIS")?[0]["sentence"].clone();
        Ok(sentence.contains("pool app/app is paused") && sentence.contains("10 clients wait"))
    })?;
    busy.value("commit")?;
    answered(pause)?;
    assert_eq!(cluster.backends()?, 0);
    cluster.stop("fast")?;
    // Longer than they would wait otherwise.
    std::thread::sleep(Duration::from_millis(1_500));
    // Who comes meanwhile waits, too.
    let mut late = proxy.target().connect()?;
    late.say(&Say::new().query("select 4"))?;
    cluster.boot()?;
    console.order("RESUME")?;
    assert_eq!(proxy.metric("pgfunnel_pool_paused", &[])?, 0.0);
    for client in &mut clients {
        assert_eq!(client.read_ready(1)?.value(), "2");
    }
    assert_eq!(late.read_ready(1)?.value(), "4");
    assert_eq!(proxy.metric("pgfunnel_errors_total", &["side=\"database\""])?, 0.0);
    assert_eq!(console.query("RESUME")?.error().code, "55000");
    Ok(())
}

#[test]
fn who_waits_in_its_login_is_seen_and_asks_no_more_than_it_must() -> Result {
    let cluster = Cluster::conf("log_statement = 'all'\n")?;
    let proxy = Config::of(&cluster).top("pool_size = 1").console().start()?;
    let mut console = proxy.console().connect()?;
    console.order("PAUSE app")?;
    let target = proxy.target().parameter("application_name", "cold").parameter("work_mem", "3333kB");
    let logins: Vec<_> = (0..25)
        .map(|_| {
            let target = target.clone();
            std::thread::spawn(move || {
                let login = target.login().map_err(|error| format!("{error:?}"))?;
                Ok::<_, String>(login.map_err(|error| error.code))
            })
        })
        .collect();
    eventually("all wait", || Ok(proxy.waiting()? == 25.0))?;
    assert_eq!(proxy.metric("pgfunnel_clients", &[])?, 25.0);
    assert_eq!(console.pool("SHOW POOLS")?["cl_waiting"], "25");
    assert_eq!(proxy.metric("pgfunnel_clients_logging_in", &[])?, 0.0);
    assert!(proxy.metric("pgfunnel_pool_pressure", &[])? > 1.0);
    eventually("it is said", || Ok(console.table("SHOW DIAGNOSIS")?[0]["sentence"].contains("25 clients wait")))?;
    assert_eq!(console.row("SHOW CALLERS", "application_name", "cold")?["waiting"], "25");
    // One of them is told to leave, and does not wait for its turn.
    let id = console.row("SHOW CLIENTS", "application_name", "cold")?["id"].clone();
    console.order(&format!("KILL_CLIENT {id}"))?;
    eventually("it has left", || Ok(console.pool("SHOW POOLS")?["cl_waiting"] == "24"))?;
    console.order("RESUME app")?;
    let mut codes = Vec::new();
    let mut clients = Vec::new();
    for login in logins {
        match login.join().map_err(|_| "it panicked")?? {
            Ok(client) => clients.push(client),
            Err(code) => codes.push(code),
        }
    }
    assert_eq!((codes, clients.len()), (vec!["57P01".to_owned()], 24));
    assert_eq!(proxy.metric("pgfunnel_clients", &["state=\"idle\""])?, 24.0);
    for client in clients.iter_mut().take(3) {
        assert_eq!(client.value("show work_mem")?, "3333kB");
    }
    let asked = cluster.log().matches("= '3333kB'").count();
    assert_eq!(asked, 1, "the settings were put in force for one, and asked about once");
    Ok(())
}

#[test]
fn nobody_connects_behind_a_pause_that_began_while_the_database_was_down() -> Result {
    let mut cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top("borrow_timeout = \"20s\"").console().start()?;
    proxy.target().connect()?.value("select 1")?;
    let mut client = proxy.target().connect()?;
    cluster.stop("fast")?;
    // It has a place, and tries again and again.
    client.say(&Say::new().query("select 2"))?;
    proxy.wait_log("connecting to the database failed")?;
    let mut console = proxy.console().connect()?;
    console.order("PAUSE app")?;
    cluster.boot()?;
    // Longer than the longest pause between two attempts.
    assert!(client.silent_for(Duration::from_millis(1_500))?);
    assert_eq!(cluster.backends()?, 0);
    console.order("RESUME app")?;
    assert_eq!(client.read_ready(1)?.value(), "2");
    Ok(())
}

#[test]
fn a_pause_ends_by_itself_for_who_has_waited_too_long() -> Result {
    let cluster = Cluster::start()?;
    let top = "borrow_timeout = \"200ms\"\npause_timeout = \"2s\"";
    let proxy = Config::of(&cluster).top(top).console().start()?;
    let mut client = proxy.target().connect()?;
    let mut console = proxy.console().connect()?;
    console.order("PAUSE app")?;
    let error = client.query("select 1")?.error();
    assert_eq!((error.code.as_str(), error.hint.contains("RESUME")), ("57P03", true), "{error:?}");
    assert_eq!(proxy.metric("pgfunnel_refusals_total", &["setting=\"pause_timeout\""])?, 1.0);
    let timed_out = proxy.metric("pgfunnel_borrow_wait_seconds_count", &["outcome=\"timed_out\""])?;
    assert_eq!(timed_out, 0.0, "that is for who got 53300");
    console.order("RESUME app")?;
    assert_eq!(client.value("select 1")?, "1");
    // A resume gives everybody the whole of borrow_timeout again.
    console.order("PAUSE")?;
    client.say(&Say::new().query("select 2"))?;
    std::thread::sleep(Duration::from_millis(600));
    console.order("RESUME")?;
    assert_eq!(client.read_ready(1)?.value(), "2");
    Ok(())
}

#[test]
fn a_pause_that_is_given_up_is_taken_back() -> Result {
    let cluster = Cluster::start()?;
    let nobody = format!("[databases.nobody]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let proxy = Config::of(&cluster).section(&nobody).console().start()?;
    let mut holder = proxy.target().connect()?;
    holder.hold()?;
    let mut looker = proxy.console().connect()?;
    let mut is = |value: &str| looker.row("SHOW STATE", "key", "paused").map(|row| row["value"] == value);
    // Cancelled, as by Ctrl-C in psql; gone; its process killed.
    let mut console = proxy.console().connect()?;
    console.say(&Say::new().query("PAUSE"))?;
    eventually("it is paused", || is("yes"))?;
    console.cancel()?;
    assert_eq!(console.read_ready(1)?.error().code, "57014");
    assert!(is("no")?);
    console.say(&Say::new().query("PAUSE"))?;
    eventually("it is paused", || is("yes"))?;
    console.reset()?;
    eventually("it is not any more", || is("no"))?;
    // What another has paused by name stays so.
    let mut console = proxy.console().connect()?;
    console.order("KILL nobody")?;
    console.say(&Say::new().query("PAUSE"))?;
    eventually("it is paused", || is("yes"))?;
    console.cancel()?;
    assert_eq!(console.read_ready(1)?.error().code, "57014");
    assert_eq!(console.row("SHOW DATABASES", "name", "nobody")?["paused"], "1");
    assert_eq!(console.row("SHOW DATABASES", "name", "app")?["paused"], "0");
    // Another's key is none.
    let mut console = proxy.console().connect()?;
    console.say(&Say::new().query("PAUSE app"))?;
    eventually("it is paused", || Ok(looker.row("SHOW DATABASES", "name", "app")?["paused"] == "1"))?;
    holder.cancel()?;
    proxy.console().connect()?.cancel()?;
    assert!(!console.silent_for(Duration::from_millis(300)).is_ok_and(|silent| !silent));
    holder.value("commit")?;
    assert_eq!(console.read_ready(1)?.commands(), ["PAUSE"]);
    // One that is complete stays when its console leaves.
    drop(console);
    assert_eq!(looker.row("SHOW DATABASES", "name", "app")?["paused"], "1");
    assert_eq!(looker.query("PAUSE nothing")?.error().code, "3D000");
    Ok(())
}

#[test]
fn a_pause_that_another_operator_takes_back_is_not_called_complete() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).console().start()?;
    let mut looker = proxy.console().connect()?;
    let mut holder = proxy.target().connect()?;
    holder.hold()?;
    for resumes in [true, false] {
        let (mut first, mut second) = (proxy.console().connect()?, proxy.console().connect()?);
        first.say(&Say::new().query("PAUSE app"))?;
        eventually("it is paused", || Ok(looker.row("SHOW DATABASES", "name", "app")?["paused"] == "1"))?;
        second.say(&Say::new().query("PAUSE app"))?;
        assert!(second.silent_for(Duration::from_millis(300))?);
        if resumes {
            looker.order("RESUME app")?;
        } else {
            first.cancel()?;
        }
        let code = if resumes { "55000" } else { "57014" };
        assert_eq!(first.read_ready(1)?.error().code, code);
        assert_eq!(second.read_ready(1)?.error().code, "55000");
        assert_eq!(looker.row("SHOW DATABASES", "name", "app")?["paused"], "0");
    }
    Ok(())
}

#[test]
fn one_database_is_held_and_not_the_others() -> Result {
    let cluster = Cluster::start()?;
    let port = cluster.port();
    let other = format!("[databases.other]\nhost = \"127.0.0.1\"\nport = {port}\ndbname = \"app\"\n");
    let other = format!("{other}[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {port}\ndbname = \"app\"");
    let proxy = Config::of(&cluster).section(&other).console().start()?;
    let mut console = proxy.console().connect()?;
    let (mut held, mut free) = (proxy.target().connect()?, proxy.target().database("other").connect()?);
    console.order("PAUSE app")?;
    held.say(&Say::new().query("select 1"))?;
    assert_eq!(free.value("select 2")?, "2");
    assert_eq!(console.query("RESUME other")?.error().code, "55000");
    // Of all that are held, one is let go.
    console.order("PAUSE")?;
    console.order("RESUME app")?;
    assert_eq!(held.read_ready(1)?.value(), "1");
    free.say(&Say::new().query("select 3"))?;
    eventually("it waits", || Ok(console.row("SHOW POOLS", "database", "other")?["cl_waiting"] == "1"))?;
    console.order("RESUME")?;
    assert_eq!(free.read_ready(1)?.value(), "3");
    // So are those that nobody has asked for yet.
    console.order("PAUSE")?;
    console.order("RESUME app")?;
    assert_eq!(held.value("select 1")?, "1");
    console.order("SET client_login_timeout = '500ms'")?;
    assert_eq!(proxy.target().database("third").refusal()?.code, "57014");
    console.order("RELOAD")?;
    console.order("RESUME")?;
    // Shut to new clients; those that are there stay.
    console.order("DISABLE app")?;
    let refused = proxy.target().refusal()?;
    assert_eq!((refused.code.as_str(), refused.hint.contains("ENABLE")), ("55000", true), "{refused:?}");
    assert_eq!(held.value("select 4")?, "4");
    assert_eq!(console.row("SHOW DATABASES", "name", "app")?["disabled"], "1");
    console.order("ENABLE app")?;
    // A login that needs the database waits for it as long as a login may take.
    console.order("SET client_login_timeout = 1")?;
    console.order("PAUSE app")?;
    let refused = proxy.target().parameter("work_mem", "7MB").refusal()?;
    assert_eq!((refused.code.as_str(), refused.hint.contains("RESUME")), ("57014", true), "{refused:?}");
    console.order("RESUME app")?;
    assert_eq!(proxy.target().connect()?.value("select 5")?, "5");
    Ok(())
}

#[test]
fn who_waits_out_a_pause_takes_no_place_of_its_user_in_other_databases() -> Result {
    let cluster = Cluster::start()?;
    let other = format!("[databases.other]\nhost = \"127.0.0.1\"\nport = {}\ndbname = \"app\"", cluster.port());
    let proxy = Config::of(&cluster).user("max_leases = 2").section(&other).console().start()?;
    let mut console = proxy.console().connect()?;
    let connect = |database: &str| proxy.target().database(database).connect();
    let mut held = (0..5).map(|_| connect("app")).collect::<Result<Vec<_>>>()?;
    let mut free = connect("other")?;
    free.value("select 1")?;
    console.order("PAUSE app")?;
    for client in &mut held {
        client.say(&Say::new().query("select 2"))?;
    }
    eventually("they wait", || Ok(console.pool("SHOW POOLS")?["cl_waiting"] == "5"))?;
    assert_eq!(free.value("select 3")?, "3");
    console.order("RESUME app")?;
    for client in &mut held {
        assert_eq!(client.read_ready(1)?.value(), "2");
    }
    Ok(())
}

#[test]
fn who_logs_in_by_passing_through_waits_out_a_pause() -> Result {
    let cluster = Cluster::start()?;
    cluster.sql("create role unlisted login password 'passed'")?;
    let top = "borrow_timeout = \"200ms\"";
    let proxy = Config::of(&cluster).top(top).database("unlisted_users = \"pass_through\"").console().start()?;
    let mut console = proxy.console().connect()?;
    console.order("PAUSE app")?;
    let unlisted = proxy.target().user("unlisted", "passed");
    let login = std::thread::spawn(move || {
        let value = || unlisted.connect()?.value("select 1");
        value().map_err(|error: Failure| format!("{error:?}"))
    });
    std::thread::sleep(Duration::from_millis(800));
    assert!(!login.is_finished());
    assert_eq!(cluster.backends()?, 0);
    console.order("RESUME app")?;
    assert_eq!(login.join().map_err(|_| "it panicked")??, "1");
    Ok(())
}

#[test]
fn who_waits_out_a_pause_is_told_at_once_that_it_ends() -> Result {
    let cluster = Cluster::start()?;
    for terminate in [true, false] {
        let mut proxy = Config::of(&cluster).top("drain_timeout = \"1min\"").console().start()?;
        let (mut client, mut console) = (proxy.target().connect()?, proxy.console().connect()?);
        console.order("PAUSE app")?;
        client.say(&Say::new().query("select 1"))?;
        eventually("it waits", || Ok(console.pool("SHOW POOLS")?["cl_waiting"] == "1"))?;
        if terminate {
            proxy.signal("TERM")?;
        } else {
            console.order("SHUTDOWN WAIT_FOR_SERVERS")?;
        }
        assert_eq!(client.read_to_close()?.error().code, "57P01");
        assert!(proxy.wait_exit()?.success());
    }
    Ok(())
}

#[test]
fn who_begins_to_listen_before_a_pause_does_not_hold_it_up() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).console().start()?;
    let (mut client, mut looker) = (proxy.target().connect()?, proxy.console().connect()?);
    client.hold()?;
    client.query("listen c")?;
    let pause = later(&proxy.console(), "PAUSE");
    eventually("it is paused", || Ok(looker.pool("SHOW POOLS")?["paused"] == "1"))?;
    client.value("commit")?;
    // As anybody who listens when its backend is closed.
    assert_eq!(client.read_to_close()?.error().code, "57P01");
    answered(pause)?;
    assert_eq!(cluster.backends()?, 0);
    Ok(())
}

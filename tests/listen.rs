//! LISTEN and NOTIFY for many clients by one backend: nobody is pinned, nothing is lost, told twice or told too early.

mod common;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::*;

fn setup(top: &str) -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).top(top).start()?;
    Ok((cluster, proxy))
}

/// Process id, channel and payload of a NotificationResponse.
fn notification(message: &Message) -> Result<(i32, String, String)> {
    let (pid, rest) = message.body.split_first_chunk().ok_or("a short notification")?;
    let mut texts = rest.split(|&byte| byte == 0).map(|text| String::from_utf8_lossy(text).into_owned());
    match (message.tag, texts.next(), texts.next()) {
        (b'A', Some(channel), Some(payload)) => Ok((i32::from_be_bytes(*pid), channel, payload)),
        _ => Err(format!("no notification: {message:?}").into()),
    }
}

/// The payload of the notification that comes next.
fn next(client: &mut Wire) -> Result<String> {
    Ok(notification(&client.read()?)?.2)
}

fn listening(proxy: &Proxy) -> Result<f64> {
    proxy.metric("pgfunnel_backends", &["state=\"listening\""])
}

fn pins(proxy: &Proxy) -> Result<f64> {
    proxy.metric("pgfunnel_pins_total", &[])
}

#[test]
fn many_listeners_cost_one_backend_and_are_not_pinned() -> Result {
    let (cluster, proxy) = setup("pool_size = 3")?;
    let mut clients = Vec::new();
    for n in 0..1_000 {
        let mut client = proxy.target().connect()?;
        client.value(&format!("listen everybody; listen c{n}"))?;
        clients.push(client);
    }
    assert_eq!((listening(&proxy)?, pins(&proxy)?), (1.0, 0.0));
    assert!(cluster.backends()? <= 3);
    let mut other = proxy.target().connect()?;
    other.value("notify everybody, 'all'")?;
    other.value("notify c7, 'one'")?;
    for (n, client) in clients.iter_mut().enumerate() {
        assert_eq!(next(client)?, "all");
        if n == 7 {
            assert_eq!(next(client)?, "one");
        }
        assert_eq!(client.value("select 1")?, "1");
    }
    drop(clients);
    eventually("nobody listens any more", || Ok(listening(&proxy)? == 0.0))?;
    let busy: Vec<Wire> = (0..3)
        .map(|_| {
            let mut client = proxy.target().connect()?;
            client.hold()?;
            client.value("select 1")?;
            assert_eq!(client.value("select count(*) from pg_listening_channels()")?, "0");
            Ok(client)
        })
        .collect::<Result<_>>()?;
    assert_eq!(busy.len(), 3);
    Ok(())
}

#[test]
fn a_client_hears_itself_before_its_answer_ends_and_by_its_own_process_id() -> Result {
    let (cluster, proxy) = setup("pool_size = 2")?;
    cluster.target().connect()?.value(
        "create table orders (n int);
         create function tell() returns trigger language plpgsql as
             $$ begin perform pg_notify('c' || new.n, 'trigger'); return new; end $$;
         create trigger tell after insert on orders for each row execute function tell()",
    )?;
    crowd(6, |number| {
        let mut client = proxy.target().connect()?;
        client.value(&format!("listen c{number}"))?;
        for round in 0..20 {
            let (sql, payload) = match round % 4 {
                0 => (format!("notify c{number}, 'plain'"), "plain"),
                1 => (format!("select pg_notify('c{number}', 'function')"), "function"),
                2 => (format!("insert into orders values ({number})"), "trigger"),
                _ => (format!("do $$ begin perform pg_notify('c{number}', 'do'); end $$"), "do"),
            };
            let answer = client.query(&sql)?;
            assert!(answer.tags().ends_with("CAZ"), "{sql}: {answer:?}");
            let heard = answer.0.iter().find(|message| message.tag == b'A').ok_or("no notification")?;
            assert_eq!(notification(heard)?, (client.key.0, format!("c{number}"), payload.to_owned()), "{sql}");
        }
        // Somebody else's has another.
        let mut other = proxy.target().connect()?;
        other.value(&format!("notify c{number}, 'other'"))?;
        let (pid, _, payload) = notification(&client.read()?)?;
        assert!(payload == "other" && pid != client.key.0);
        Ok(())
    })
}

#[test]
fn nothing_is_told_within_a_transaction() -> Result {
    let (_cluster, proxy) = setup("pool_size = 3")?;
    let (mut one, mut two) = (proxy.target().connect()?, proxy.target().connect()?);
    one.value("listen a")?;
    one.hold()?;
    two.value("begin; notify a, 'rolled back'; rollback")?;
    two.value("notify a, '1'")?;
    two.value("begin; notify a, '2'; notify a, '2'; notify a, '3'")?;
    assert_eq!(one.query("select 1")?.tags(), "TDCZ");
    assert!(one.silent_for(Duration::from_millis(200))?);
    assert_eq!(one.query("commit")?.tags(), "CAZ");
    two.value("commit")?;
    assert_eq!((next(&mut one)?, next(&mut one)?), ("2".to_owned(), "3".to_owned()));
    assert!(one.silent_for(Duration::from_millis(200))?);
    Ok(())
}

#[test]
fn unlisten_holds_when_its_transaction_does() -> Result {
    let (_cluster, proxy) = setup("pool_size = 2")?;
    let mut other = proxy.target().connect()?;
    for (sql, still) in [
        ("unlisten a", false),
        ("unlisten *", false),
        ("unlisten b", true),
        ("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;", false),
        ("discard all", false),
        ("unlisten a; select 1/0", true),
        ("begin|unlisten a|commit", false),
        ("begin|unlisten *|rollback", true),
        ("begin; unlisten a; commit", false),
        ("begin; unlisten a; rollback", true),
        ("begin|unlisten a|select 1/0|commit", true),
        ("begin|savepoint s|unlisten a|rollback to s|commit", true),
        ("begin|savepoint s|unlisten a|release s|commit", false),
        ("begin|unlisten a|listen a|commit", true),
        ("P:unlisten a", false),
        ("begin|P:unlisten \"a\"|rollback", true),
        ("begin|P:unlisten *|commit", false),
    ] {
        let mut client = proxy.target().connect()?;
        client.value("listen a")?;
        for part in sql.split('|') {
            match part.strip_prefix("P:") {
                Some(text) => client.ask(&Say::new().parse("", text, &[]).bind("", "", &[]).execute("", 0).sync())?,
                None => client.query(part)?,
            };
        }
        other.value("notify a, 'x'")?;
        match still {
            true => assert_eq!(next(&mut client)?, "x", "{sql}"),
            false => assert!(client.silent_for(Duration::from_millis(100))?, "{sql}"),
        }
        assert_eq!(client.value("select 1")?, "1");
    }
    assert_eq!(pins(&proxy)?, 0.0);
    Ok(())
}

/// Reads up to a ReadyForQuery; the payloads that came before it.
fn heard(client: &mut Wire) -> Result<Vec<String>> {
    let answer = client.read_ready(1)?;
    answer.0.iter().filter(|message| message.tag == b'A').map(|message| Ok(notification(message)?.2)).collect()
}

#[test]
fn nothing_is_lost_or_told_twice_while_channels_change_hands() -> Result {
    let (_cluster, proxy) = setup("pool_size = 4")?;
    let mut other = proxy.target().connect()?;
    let done = AtomicBool::new(false);
    let listen = |number: usize| -> Result {
        let mut client = proxy.target().connect()?;
        let ways = ["listen n", "listen n; listen m", "begin; listen n; commit", "listen \"n\"; select 1"];
        client.say(&Say::new().query(ways[number % ways.len()]))?;
        let mut counted = heard(&mut client)?;
        // Whatever it says meanwhile: what it is told has no gap and nothing twice.
        for round in 0..10 {
            let sql = [format!("listen more{round}"), "select 1".into(), "unlisten m".into(), "listen n".into()];
            client.say(&Say::new().query(&sql[round % sql.len()]))?;
            counted.extend(heard(&mut client)?);
            counted.push(next(&mut client)?);
        }
        let numbers: Vec<u64> = counted.iter().map(|payload| payload.parse()).collect::<std::result::Result<_, _>>()?;
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
        Ok(())
    };
    std::thread::scope(|scope| {
        let listeners = scope.spawn(|| {
            let outcome = crowd(8, |number| (0..15).try_for_each(|round| listen(number + round)));
            done.store(true, Ordering::Release);
            outcome
        });
        let mut n = 0;
        while !done.load(Ordering::Acquire) {
            other.value(&format!("notify n, '{n}'"))?;
            n += 1;
        }
        listeners.join().map_err(|_| "a listener panicked")?
    })?;
    assert_eq!(pins(&proxy)?, 0.0);
    Ok(())
}

#[test]
fn a_lost_listener_is_told_of_and_replaced() -> Result {
    let (cluster, proxy) = setup("pool_size = 3")?;
    let mut clients = Vec::new();
    for _ in 0..5 {
        let mut client = proxy.target().connect()?;
        client.value("listen a")?;
        clients.push(client);
    }
    // Behind its next answer each is listened for.
    for client in &mut clients {
        client.value("select 1")?;
    }
    clients[0].hold()?;
    eventually("the listener is ended", || {
        let ended = "select count(pg_terminate_backend(pid)) from pg_stat_activity where query ~ 'LISTEN.*marker'";
        Ok(cluster.sql(&format!("{ended} and usename = 'app' and state = 'idle'"))? == "1")
    })?;
    for client in &mut clients[1..] {
        let answer = client.read_to_close()?;
        assert_eq!(answer.error().code, "57P01", "{answer:?}");
    }
    // In a transaction it may finish.
    assert_eq!(clients[0].value("select 1")?, "1");
    clients[0].say(&Say::new().query("commit"))?;
    assert_eq!(clients[0].read_to_close()?.error().code, "57P01");
    let (mut client, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
    client.value("listen a")?;
    other.value("notify a, 'again'")?;
    assert_eq!(next(&mut client)?, "again");
    Ok(())
}

#[test]
fn who_does_not_read_is_ended_and_nobody_else_waits() -> Result {
    let (_cluster, proxy) = setup("pool_size = 3")?;
    let (mut frozen, mut reader, mut other) =
        (proxy.target().connect()?, proxy.target().connect()?, proxy.target().connect()?);
    frozen.value("listen a")?;
    reader.value("listen a")?;
    frozen.hold()?;
    let payload = "x".repeat(7_000);
    let before = proxy.memory()?;
    for n in 0..400 {
        other.value(&format!("notify a, '{n} {payload}'"))?;
        assert!(next(&mut reader)?.starts_with(&format!("{n} ")));
    }
    assert!(proxy.memory()? < before + 8 * 1024 * 1024);
    let answer = frozen.query("commit");
    let end = match answer {
        Ok(answer) if answer.error().code.is_empty() => frozen.read_to_close()?,
        Ok(answer) => answer,
        Err(error) => return Err(error),
    };
    assert_eq!(end.error().code, "54000", "{end:?}");
    Ok(())
}

#[test]
fn where_one_backend_is_all_a_listener_stays_pinned() -> Result {
    let (_cluster, proxy) = setup("pool_size = 1")?;
    let mut client = proxy.target().connect()?;
    client.value("listen a")?;
    let answer = client.query("notify a, 'x'")?;
    assert_eq!(answer.tags(), "CAZ");
    let heard = answer.0.iter().find(|message| message.tag == b'A').ok_or("no notification")?;
    assert_eq!(notification(heard)?.0, client.key.0);
    assert_eq!(proxy.metric("pgfunnel_pins_total", &["reason=\"listen\""])?, 1.0);
    client.value("unlisten a")?;
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn what_else_lives_in_the_backend_keeps_the_channels_there() -> Result {
    let (_cluster, proxy) = setup("pool_size = 3")?;
    let (mut client, mut other) = (proxy.target().connect()?, proxy.target().connect()?);
    client.value("create temp table t (n int); listen a")?;
    other.value("notify a, '1'")?;
    assert_eq!(next(&mut client)?, "1");
    assert_eq!(listening(&proxy)?, 0.0);
    client.value("drop table t")?;
    eventually("the channel is shared", || Ok(listening(&proxy)? == 1.0))?;
    other.value("notify a, '2'")?;
    assert_eq!(next(&mut client)?, "2");
    Ok(())
}

#[test]
fn a_client_that_vanishes_listens_no_more() -> Result {
    let (cluster, proxy) = setup("pool_size = 3")?;
    let mut stays = proxy.target().connect()?;
    stays.value("listen a")?;
    for round in 0..20 {
        let mut client = proxy.target().connect()?;
        let say = Say::new().query(&format!("listen b{round}")).query("notify a, 'x'");
        let cut = say.bytes().len() * round / 19;
        client.send(&say.bytes()[..cut])?;
        if round % 3 == 0 {
            std::thread::sleep(Duration::from_millis(3));
        }
        client.reset()?;
    }
    eventually("the pool is whole", || {
        Ok(listening(&proxy)? == 1.0 && proxy.metric("pgfunnel_backends", &["state=\"active\""])? == 0.0)
    })?;
    let mut clients = (0..2).map(|_| proxy.target().connect()).collect::<Result<Vec<_>>>()?;
    for client in &mut clients {
        client.hold()?;
        assert_eq!(client.value("select count(*) from pg_listening_channels()")?, "0");
    }
    assert!(cluster.backends()? <= 3);
    drop(clients);
    let answer = stays.query("notify a, 'end'")?;
    let heard: Vec<String> = answer
        .0
        .iter()
        .filter(|message| message.tag == b'A')
        .map(|message| Ok(notification(message)?.2))
        .collect::<Result<_>>()?;
    assert_eq!(heard.last().map(String::as_str), Some("end"), "{heard:?}");
    assert!(heard.iter().rev().skip(1).all(|payload| payload == "x"), "{heard:?}");
    Ok(())
}

#[test]
fn a_pool_that_becomes_too_small_says_so() -> Result {
    let cluster = Cluster::start()?;
    let config = Config::of(&cluster).top("pool_size = 3");
    let proxy = config.start()?;
    let mut client = proxy.target().connect()?;
    client.value("listen a")?;
    eventually("the channel is shared", || Ok(listening(&proxy)? == 1.0))?;
    proxy.reload(&Config::of(&cluster).top("pool_size = 1"))?;
    assert_eq!(client.read_to_close()?.error().code, "57P01");
    assert_eq!(proxy.target().connect()?.value("select 1")?, "1");
    Ok(())
}

#[test]
fn encodings_are_not_mixed_up() -> Result {
    let (_cluster, proxy) = setup("pool_size = 4")?;
    let (mut latin, mut other) =
        (proxy.target().parameter("client_encoding", "LATIN1").connect()?, proxy.target().connect()?);
    latin.value("listen a")?;
    other.value("notify a, 'ä'")?;
    let message = latin.read()?;
    assert!(message.body.ends_with(b"a\0\xe4\0"), "pinned, PostgreSQL converts: {message:?}");
    let mut client = proxy.target().connect()?;
    client.value("listen ö")?;
    other.value("notify ö, 'ä'")?;
    assert_eq!(next(&mut client)?, "ä");
    client.value("set client_encoding = 'LATIN1'")?;
    other.value("notify ö, 'ä'")?;
    assert_eq!(client.read_to_close()?.error().code, "22P05");
    let mut client = proxy.target().connect()?;
    client.value("listen ö")?;
    client.value("set client_encoding = 'LATIN1'")?;
    client.hold()?;
    other.value("notify ö, 'ä'")?;
    client.say(&Say::new().query("commit"))?;
    assert_eq!(client.read_to_close()?.error().code, "22P05");
    Ok(())
}

//! Malformed and hostile clients: the process survives, its memory does not grow, and each is answered or closed.

mod common;

use std::io::Write;
use std::time::Duration;

use common::*;

fn setup() -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    cluster.target().connect()?.value("create table t (a int)")?;
    let proxy = Config::of(&cluster).top("pool_size = 2\nclient_login_timeout = \"2s\"").start()?;
    Ok((cluster, proxy))
}

/// Sends bytes after the login, then a FIN. All that the server says until it closes, which it must.
fn after_login(proxy: &Target, bytes: &[u8]) -> Result<Answer> {
    let mut client = proxy.connect()?;
    let _ = client.send(bytes);
    let _ = client.half_close();
    client.read_to_close()
}

/// Says whole messages after the login, and asks for a last row behind them. All that comes up to the ReadyForQuery
/// that follows this row, or to the close.
fn said_after_login(target: &Target, say: &Say) -> Result<Answer> {
    let mut client = target.connect()?;
    client.say(&say.clone().query("select 'after'"))?;
    let mut messages = Vec::new();
    let mut last = false;
    while let Some(message) = client.read_or_close()? {
        last |= message.row().is_some_and(|row| row == [Some("after".into())]);
        let ready = message.tag == b'Z';
        messages.push(message);
        if last && ready {
            break;
        }
    }
    Ok(Answer(messages))
}

#[test]
fn lengths_of_every_message() -> Result {
    let (cluster, mut proxy) = setup()?;
    let memory = proxy.memory()?;
    crowd(8, |thread| {
        for (number, tag) in b"BCDEFHPQSXdcfp\0\xff?".iter().enumerate() {
            for length in LENGTHS.iter().filter(|_| number % 8 == thread) {
                let bytes = Say::new().raw_length(*tag, *length, b"some bytes that follow");
                let answer = after_login(&proxy.target(), bytes.bytes())?;
                let named = format!("{} with length {length}: {answer:?}", tag.escape_ascii());
                assert!(
                    answer.errors().iter().all(|error| error.severity == "FATAL" || error.code == "08P01"),
                    "{named}"
                );
                assert!(!answer.tags().contains('C'), "something was executed: {named}");
            }
        }
        Ok(())
    })?;
    unharmed(&cluster, &mut proxy, memory)
}

#[test]
fn a_wrong_length_ends_the_connection() -> Result {
    let (_cluster, proxy) = setup()?;
    for length in [0, 3, -1, i32::MIN] {
        for tag in *b"QPBEDCSHdcfF" {
            let answer = said_after_login(&proxy.target(), &Say::new().raw_length(tag, length, b""))?;
            // PostgreSQL closes without a word; saying why is better.
            let error = answer.error();
            let said = (answer.tags(), error.severity, error.code);
            assert!(
                said.0.is_empty() || said == ("E".into(), "FATAL".into(), "08P01".into()),
                "{} {length}: {said:?}",
                char::from(tag)
            );
        }
    }
    Ok(())
}

#[test]
fn unknown_messages_are_answered_as_by_postgresql() -> Result {
    let (cluster, proxy) = setup()?;
    for tag in *b"?\0\xffZz1R" {
        let say = Say::new().raw(tag, b"body");
        let (expected, got) = (said_after_login(&cluster.target(), &say)?, said_after_login(&proxy.target(), &say)?);
        let codes =
            |answer: &Answer| answer.errors().into_iter().map(|error| (error.severity, error.code)).collect::<Vec<_>>();
        assert_eq!(codes(&got), codes(&expected), "{}", tag.escape_ascii());
    }
    Ok(())
}

/// Bodies that do not hold what their message promises.
fn malformed() -> Vec<Say> {
    let mut cases = Vec::new();
    for body in [
        &b""[..],
        b"no terminator",
        b"two\0strings\0",
        b"\0\0\0\0",
        b"s\0select 1",
        b"s\0select 1\0",
        b"s\0select 1\0\0",
        b"s\0select 1\0\x7f\xff",
    ] {
        cases.extend(b"QPBEDCFf".iter().map(|&tag| Say::new().raw(tag, body)));
    }
    for body in [
        // Bind: counts that are negative, too large, or not followed by what they count.
        &b"\0\0\xff\xff"[..],
        b"\0\0\x7f\xff",
        b"\0\0\0\x01\0\x02\0\0\0\0",
        b"\0\0\0\0\xff\xff",
        b"\0\0\0\0\0\x01",
        b"\0\0\0\0\0\x01\xff\xff\xff\xfe\0\0",
        b"\0\0\0\0\0\x01\x7f\xff\xff\xff\0\0",
        b"\0\0\0\0\0\0\xff\xff",
        b"\0\0\0\0\0\0\0\x05\0\0",
        b"\0\0\0\0\0\0\0\0trailing",
    ] {
        cases.push(Say::new().parse("", "select $1::text", &[]).raw(b'B', body));
    }
    cases.push(Say::new().parse("", "select 1", &[]).bind("", "", &[]).raw(b'E', b"\0\0"));
    cases.push(Say::new().parse("", "select 1", &[]).bind("", "", &[]).raw(b'E', b"\0\xff\xff\xff\xff"));
    cases.push(Say::new().raw(b'D', b"S"));
    cases.push(Say::new().raw(b'C', b"\0"));
    cases
}

#[test]
fn malformed_bodies_are_answered_as_by_postgresql() -> Result {
    let (cluster, mut proxy) = setup()?;
    let memory = proxy.memory()?;
    let cases = malformed();
    crowd(4, |thread| {
        for (number, say) in cases.iter().enumerate().filter(|(number, _)| number % 4 == thread) {
            let say = say.clone().sync();
            let (expected, got) =
                (said_after_login(&cluster.target(), &say)?, said_after_login(&proxy.target(), &say)?);
            let seen = |answer: &Answer| {
                let codes: Vec<_> = answer.errors().into_iter().map(|error| error.code).collect();
                (codes, answer.tags(), answer.rows())
            };
            assert_eq!(seen(&got), seen(&expected), "case {number}: {}", say.bytes().escape_ascii());
        }
        Ok(())
    })?;
    unharmed(&cluster, &mut proxy, memory)
}

/// Ways to stand somewhere in the protocol.
const STATES: [&str; 6] = ["idle", "transaction", "failed", "copy in", "pipeline", "half a message"];

fn bring_to(target: &Target, state: &str) -> Result<Wire> {
    let mut client = target.connect()?;
    match state {
        "transaction" => drop(client.query("begin; insert into t values (1)")?),
        "failed" => drop(client.query("begin; select 1/0")?),
        "copy in" => {
            client.say(&Say::new().query("copy t from stdin"))?;
            client.read_until(b'G', 1)?;
        }
        "pipeline" => {
            client.say(&Say::new().parse("", "insert into t values (1)", &[]).bind("", "", &[]).execute("", 0))?
        }
        "half a message" => client.send(&Say::new().query("insert into t values (1)").bytes()[..9])?,
        _ => {}
    }
    Ok(client)
}

#[test]
fn garbage_after_every_state() -> Result {
    let (cluster, mut proxy) = setup()?;
    let memory = proxy.memory()?;
    crowd(STATES.len(), |number| {
        let mut random = Random(0x5eed_0000 + u64::try_from(number)?);
        for round in 0..25 {
            let mut client = bring_to(&proxy.target(), STATES[number])?;
            let count = 1 + random.below(300);
            let _ = client.send(&random.bytes(count));
            let _ = client.half_close();
            client.read_to_close().map_err(|error| format!("{}, round {round}: {error:?}", STATES[number]))?;
        }
        Ok(())
    })?;
    unharmed(&cluster, &mut proxy, memory)
}

#[test]
fn mutations_of_an_honest_conversation() -> Result {
    let (cluster, mut proxy) = setup()?;
    let memory = proxy.memory()?;
    let honest = Say::new()
        .parse("s", "select $1::int, $2::text", &[23, 25])
        .describe_statement("s")
        .bind("p", "s", &[Some("1"), None])
        .describe_portal("p")
        .execute("p", 1)
        .close_portal("p")
        .sync()
        .query("select 1; select 2")
        .query("copy (select 1) to stdout")
        .close_statement("s")
        .flush()
        .sync();
    crowd(6, |number| {
        let mut random = Random(0xfeed_0000 + u64::try_from(number)?);
        for round in 0..50 {
            let mut bytes = honest.bytes().to_vec();
            for _ in 0..1 + random.below(4) {
                let at = random.below(bytes.len());
                match random.below(3) {
                    0 => bytes[at] = random.bytes(1)[0],
                    1 => drop(bytes.remove(at)),
                    _ => bytes.insert(at, random.bytes(1)[0]),
                }
            }
            let ended = after_login(&proxy.target(), &bytes);
            ended.map_err(|error| format!("thread {number}, round {round}: {error:?}"))?;
        }
        Ok(())
    })?;
    unharmed(&cluster, &mut proxy, memory)
}

#[test]
fn announced_gigabytes_cost_nothing() -> Result {
    let (cluster, mut proxy) = setup()?;
    let memory = proxy.memory()?;
    // Legal lengths whose bytes never come, in messages that a server would have to hold whole.
    let mut silent = Vec::new();
    for tag in *b"QPBFQPBFQPBF" {
        let mut client = proxy.target().connect()?;
        client.send(Say::new().raw_length(tag, 900_000_000, &[b'x'; 4096]).bytes())?;
        silent.push(client);
    }
    std::thread::sleep(Duration::from_millis(500));
    let grown = proxy.memory()?.saturating_sub(memory);
    assert!(grown < 8192, "{grown} KiB more");
    drop(silent);
    unharmed(&cluster, &mut proxy, memory)
}

#[test]
fn a_client_that_never_reads_costs_nothing() -> Result {
    let (cluster, mut proxy) = setup()?;
    let memory = proxy.memory()?;
    let mut client = proxy.target().connect()?;
    // Many requests, whose answers (200 MB) nobody fetches: the proxy must stop taking them.
    let batch = (0..20_000).fold(Say::new(), |say, _| say.query("select repeat('x', 10000)"));
    let mut writer = client.writer()?;
    std::thread::scope(|scope| {
        let writing = scope.spawn(move || writer.write_all(batch.bytes()));
        std::thread::sleep(Duration::from_secs(2));
        let grown = proxy.memory()?.saturating_sub(memory);
        assert!(grown < 8192, "{grown} KiB more");
        // Then it reads after all, and gets every answer.
        assert_eq!(client.read_ready(20_000)?.rows().len(), 20_000);
        Ok::<_, Failure>(writing.join().map_err(|_| "the writer panicked")??)
    })?;
    unharmed(&cluster, &mut proxy, memory)
}

#[test]
fn a_client_with_thousands_of_parameters_stays_with_its_backend() -> Result {
    let (_cluster, proxy) = setup()?;
    let pins = || proxy.metric("pgfunnel_pins_total", &[]);
    // Some at a time: a text with more than 64 of them is not looked through.
    let set = |wire: &mut Wire, count: usize| -> Result {
        wire.value("begin; select 1")?;
        for first in (0..count).step_by(50) {
            let sets = (first..first + 50).map(|n| format!("set app.v{n} = '{n}';")).collect::<String>();
            assert!(wire.query(&sets)?.errors().is_empty());
        }
        assert!(wire.query("commit")?.errors().is_empty());
        Ok(())
    };
    let look =
        |wire: &mut Wire, name: &str| wire.value(&format!("select coalesce(current_setting('{name}', true), '')"));
    let (mut few, mut many) = (proxy.target().connect()?, proxy.target().connect()?);
    set(&mut few, 900)?;
    assert_eq!((look(&mut few, "app.v899")?, pins()?), ("899".to_owned(), 0.0));
    set(&mut many, 5_000)?;
    eventually("asking for all of them would take longer each time", || Ok(pins()? == 1.0))?;
    let mut other = proxy.target().connect()?;
    for _ in 0..3 {
        assert_eq!(look(&mut many, "app.v4999")?, "4999");
        assert_eq!(look(&mut few, "app.v899")?, "899");
        assert_eq!(look(&mut other, "app.v4999")? + &look(&mut other, "app.v899")?, "", "another's");
    }
    // And a text of nothing but names, which nobody may have to wait for.
    let names: String = (0..90_000).map(|n| format!("a{n}.b ")).collect();
    many.query(&format!("select set_config('app.v0', '0', false) /* {names} */"))?;
    drop(many);
    eventually("nothing of it is left", || Ok(look(&mut other, "app.v4999")?.is_empty()))
}

//! Drivers, each doing a real day's work: 32 clients at once on 4 backends.

mod common;

use std::process::Command;

use common::*;

const CLIENTS: usize = 32;

/// A cluster that would refuse a fifth backend, and a proxy with four.
fn setup() -> Result<(Cluster, Proxy)> {
    let cluster = Cluster::start()?;
    // The programs create their tables in it.
    cluster.sql("grant create on schema public to app")?;
    cluster.limit_backends(4)?;
    let proxy = Config::of(&cluster).top("pool_size = 4\nborrow_timeout = \"60s\"").start()?;
    Ok((cluster, proxy))
}

/// What `tests/run.sh` provides in the environment.
fn provided(name: &str, what: &str) -> Result<std::ffi::OsString> {
    let missing = || format!("{name} is not set: it names {what}; tests/run.sh installs and sets it");
    Ok(std::env::var_os(name).ok_or_else(missing)?)
}

/// Runs a program of `tests/clients` against a fresh proxy; it must end well and say `ok`.
fn day(program: &str, interpreter: Command) -> Result {
    let (cluster, proxy) = setup()?;
    run(&cluster, &proxy, program, interpreter)
}

/// The same with a program whose sessions must all be multiplexed.
fn habits(program: &str, interpreter: Command) -> Result {
    let (cluster, proxy) = setup()?;
    cluster.sql("grant create on database app to app")?;
    run(&cluster, &proxy, program, interpreter)?;
    assert_eq!(proxy.metric("pgfunnel_pins_total", &[])?, 0.0, "nobody is pinned by a habit: {}", proxy.log());
    Ok(())
}

fn run(cluster: &Cluster, proxy: &Proxy, program: &str, mut interpreter: Command) -> Result {
    let path = format!("{}/tests/clients/{program}", env!("CARGO_MANIFEST_DIR"));
    let output = interpreter.arg(path).arg(proxy.target().url()).arg(CLIENTS.to_string()).output()?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && said.trim() == "ok", "{program}: {}\n{said}\n{complained}", output.status);
    assert!(!cluster.refused(), "never more than four backends");
    Ok(())
}

#[test]
fn psycopg() -> Result {
    let python = provided("PGFUNNEL_TEST_PYTHON", "a Python with psycopg and asyncpg")?;
    day("psycopg_day.py", Command::new(python))
}

#[test]
fn habits_in_python() -> Result {
    let python = provided("PGFUNNEL_TEST_PYTHON", "a Python with psycopg, asyncpg, SQLAlchemy and Django")?;
    habits("habits.py", Command::new(python))
}

#[test]
fn who_begins_and_waits_takes_no_backend() -> Result {
    let python = provided("PGFUNNEL_TEST_PYTHON", "a Python with psycopg and asyncpg")?;
    habits("begins.py", Command::new(python))
}

#[test]
fn habits_in_node() -> Result {
    let modules = provided("PGFUNNEL_TEST_NODE_PATH", "a node_modules directory with pg and postgres")?;
    let mut node = Command::new("node");
    node.env("NODE_PATH", modules);
    habits("habits.js", node)
}

#[test]
fn psycopg_in_protocol_3_2() -> Result {
    let python = provided("PGFUNNEL_TEST_PYTHON", "a Python with psycopg and asyncpg")?;
    day("psycopg_protocol_3_2.py", Command::new(python))
}

#[test]
fn asyncpg() -> Result {
    let python = provided("PGFUNNEL_TEST_PYTHON", "a Python with psycopg and asyncpg")?;
    day("asyncpg_day.py", Command::new(python))
}

#[test]
fn node_postgres() -> Result {
    let modules =
        provided("PGFUNNEL_TEST_NODE_PATH", "a node_modules directory with pg, pg-cursor and pg-copy-streams")?;
    let mut node = Command::new("node");
    node.env("NODE_PATH", modules);
    day("node_day.js", node)
}

mod tokio_day {
    //! The same with tokio-postgres.

    use std::pin::pin;
    use std::time::Duration;

    use futures_util::{SinkExt, StreamExt, TryStreamExt};
    use tokio_postgres::error::SqlState;
    use tokio_postgres::types::Type;
    use tokio_postgres::{Client, Error, NoTls, SimpleQueryMessage};

    use super::common::Result;

    /// Connects, the connection driven by a task of its own.
    pub(super) async fn connect(url: &str) -> Result<Client> {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Fails unless an outcome is an error with this SQLSTATE.
    #[track_caller]
    fn refused<T>(code: &SqlState, outcome: std::result::Result<T, Error>) {
        let error = outcome.err().expect("an error");
        assert_eq!(error.code(), Some(code), "{error:?}");
    }

    async fn transactions(client: &mut Client, id: i32) -> Result {
        let mut transaction = client.transaction().await?;
        transaction.execute("insert into tokio_day values ($1, 1, 'kept')", &[&id]).await?;
        let savepoint = transaction.transaction().await?;
        refused(&SqlState::DIVISION_BY_ZERO, savepoint.simple_query("select 1/0").await);
        savepoint.rollback().await?;
        transaction.commit().await?;
        let transaction = client.transaction().await?;
        transaction.execute("insert into tokio_day values ($1, 2, 'lost')", &[&id]).await?;
        drop(transaction);
        let rows = client.query("select n from tokio_day where client = $1", &[&id]).await?;
        assert_eq!(rows.iter().map(|row| row.get::<_, i32>(0)).collect::<Vec<_>>(), [1]);
        Ok(())
    }

    async fn prepared(client: &mut Client, id: i32) -> Result {
        let sum = client.prepare("select $1::int + $2::int").await?;
        let own = client.prepare_typed(&format!("select {id} * 1000 + $1"), &[Type::INT4]).await?;
        for number in 0..40 {
            assert_eq!(client.query_one(&sum, &[&id, &number]).await?.get::<_, i32>(0), id + number);
            assert_eq!(client.query_one(&own, &[&number]).await?.get::<_, i32>(0), id * 1000 + number);
        }
        // Many at once: tokio-postgres pipelines them.
        let client = &*client;
        let asked = (0..50).map(|number| async move {
            client.query_one("select $1::int", &[&number]).await.map(|row| row.get::<_, i32>(0))
        });
        let answers: Vec<_> =
            futures_util::future::join_all(asked).await.into_iter().collect::<std::result::Result<_, _>>()?;
        assert_eq!(answers, (0..50).collect::<Vec<i32>>());
        Ok(())
    }

    async fn copies(client: &mut Client, id: i32) -> Result {
        let mut sink = pin!(client.copy_in("copy tokio_day from stdin").await?);
        for number in 10..210 {
            sink.send(bytes::Bytes::from(format!("{id}\t{number}\tcopied\n"))).await?;
        }
        assert_eq!(sink.finish().await?, 200);
        let mut twice = pin!(client.copy_in("copy tokio_day from stdin").await?);
        twice.send(bytes::Bytes::from(format!("{id}\t10\ttwice\n"))).await?;
        refused(&SqlState::UNIQUE_VIOLATION, twice.finish().await);
        // Given up half way.
        let mut dropped = Box::pin(client.copy_in("copy tokio_day from stdin").await?);
        dropped.send(bytes::Bytes::from(format!("{id}\t999\tnever\n"))).await?;
        drop(dropped);
        let sql = format!("copy (select n from tokio_day where client = {id} and n >= 10 order by n) to stdout");
        let lines: Vec<_> = client.copy_out(&sql).await?.try_collect().await?;
        assert_eq!(lines.len(), 200);
        Ok(())
    }

    async fn mistakes(client: &mut Client, id: i32) -> Result {
        refused(&SqlState::SYNTAX_ERROR, client.simple_query("selec 1").await);
        refused(&SqlState::UNDEFINED_TABLE, client.query("select * from nowhere", &[]).await);
        let twice = client.execute("insert into tokio_day values ($1, 1, 'twice')", &[&id]).await;
        refused(&SqlState::UNIQUE_VIOLATION, twice);
        let messages = client.simple_query("select 1; select 2; select 3").await?;
        assert_eq!(messages.iter().filter(|message| matches!(message, SimpleQueryMessage::Row(_))).count(), 3);
        Ok(())
    }

    async fn portals(client: &mut Client) -> Result {
        let transaction = client.transaction().await?;
        let portal = transaction.bind("select generate_series(1, 1000)", &[]).await?;
        let mut total = 0;
        loop {
            let rows = transaction.query_portal(&portal, 77).await?;
            if rows.is_empty() {
                break;
            }
            total += rows.iter().map(|row| row.get::<_, i32>(0)).sum::<i32>();
        }
        assert_eq!(total, 500_500);
        transaction.commit().await?;
        let mut rows = pin!(client.query_raw("select generate_series(1, 500)", Vec::<i32>::new()).await?);
        let mut count = 0;
        while let Some(row) = rows.next().await {
            row?;
            count += 1;
        }
        assert_eq!(count, 500);
        Ok(())
    }

    async fn cancels(client: &mut Client) -> Result {
        let token = client.cancel_token();
        let canceller = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(300)).await;
            token.cancel_query(NoTls).await
        });
        refused(&SqlState::QUERY_CANCELED, client.simple_query("select pg_sleep(30)").await);
        canceller.await??;
        assert_eq!(client.query_one("select 1", &[]).await?.get::<_, i32>(0), 1);
        Ok(())
    }

    /// One client's day.
    pub(super) async fn day(url: &str, id: i32) -> Result {
        let mut client = connect(&format!("{url}?application_name=tokio-{id}")).await?;
        transactions(&mut client, id).await?;
        prepared(&mut client, id).await?;
        copies(&mut client, id).await?;
        mistakes(&mut client, id).await?;
        portals(&mut client).await?;
        if id % 8 == 0 {
            cancels(&mut client).await?;
        }
        let name: String = client.query_one("show application_name", &[]).await?.get(0);
        assert_eq!(name, format!("tokio-{id}"));
        Ok(())
    }
}

#[test]
fn tokio_postgres() -> Result {
    let (cluster, proxy) = setup()?;
    let url = proxy.target().url();
    tokio::runtime::Runtime::new()?.block_on(async {
        let client = tokio_day::connect(&url).await?;
        client.batch_execute("create table tokio_day (client int, n int, t text, primary key (client, n))").await?;
        let mut clients = tokio::task::JoinSet::new();
        for id in 0..i32::try_from(CLIENTS)? {
            let url = url.clone();
            clients.spawn(async move { tokio_day::day(&url, id).await });
        }
        let all = async {
            while let Some(end) = clients.join_next().await {
                end??;
            }
            Ok::<_, Failure>(())
        };
        tokio::time::timeout(std::time::Duration::from_secs(90), all).await??;
        let count: i64 = client.query_one("select count(*) from tokio_day", &[]).await?.get(0);
        assert_eq!(count, i64::try_from(CLIENTS)? * 201);
        Ok::<_, Failure>(())
    })?;
    assert!(!cluster.refused(), "never more than four backends");
    Ok(())
}

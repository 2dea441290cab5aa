//! Metrics for CloudWatch on stdout: as the specification of the embedded metric format says, complete to the last query,
//! and nobody's trouble when nobody reads them.

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{PipeReader, PipeWriter, Read as _, Write as _, pipe};
use std::time::{Duration, Instant};

use common::*;
use pgfunnel::metrics::counterparts::{COUNTERPARTS, Scope};
use serde_json::Value;

/// The units that are used, of those that the specification's JSON schema allows.
const UNITS: [&str; 3] = ["Count", "Microseconds", "Percent"];

/// Values by the metric's dimensions and name.
type Values = BTreeMap<(String, String), f64>;

fn text(value: &Value) -> Result<&str> {
    let text = value.as_str().ok_or_else(|| format!("{value} is no string"))?;
    let fits = (1..=255).contains(&text.chars().count());
    if fits { Ok(text) } else { Err(format!("{text:?} is too short or too long").into()) }
}

fn array(value: &Value) -> Result<&Vec<Value>> {
    value.as_array().ok_or_else(|| format!("{value} is no array").into())
}

/// Checks one line against the specification, and returns what CloudWatch would make of it. Dimensions are written
/// `name=value`.
fn extracted(line: &str) -> Result<Values> {
    assert!(line.len() < 256 * 1024, "{} bytes", line.len());
    let root: Value = serde_json::from_str(line)?;
    let about = &root["_aws"];
    let members: BTreeSet<&str> = about.as_object().ok_or("no _aws")?.keys().map(String::as_str).collect();
    assert_eq!(members, BTreeSet::from(["CloudWatchMetrics", "Timestamp"]));
    assert!(about["Timestamp"].as_u64().is_some_and(|time| time > 1_700_000_000_000), "milliseconds: {about}");
    let mut values = Values::new();
    for directive in array(&about["CloudWatchMetrics"])? {
        assert_eq!(directive.as_object().map(|members| members.len()), Some(3), "{directive}");
        assert_eq!(text(&directive["Namespace"])?, "shop/proxies");
        let (sets, metrics) = (array(&directive["Dimensions"])?, array(&directive["Metrics"])?);
        assert!(!sets.is_empty() && !metrics.is_empty() && metrics.len() <= 100);
        for set in sets {
            let dimension = |name: &Value| Ok(format!("{}={}", text(name)?, text(&root[text(name)?])?));
            let dimensions = array(set)?.iter().map(dimension).collect::<Result<Vec<String>>>()?;
            assert!(dimensions.len() <= 9, "{dimensions:?}");
            for metric in metrics {
                let name = text(&metric["Name"])?;
                assert!(UNITS.contains(&text(&metric["Unit"])?), "{metric}");
                assert!([1, 60].contains(&metric["StorageResolution"].as_u64().unwrap_or(0)), "{metric}");
                let value = root[name].as_f64().ok_or_else(|| format!("{name} has no value"))?;
                assert!(values.insert((dimensions.join(" "), name.to_owned()), value).is_none(), "{name} twice");
            }
        }
    }
    Ok(values)
}

fn all_extracted(text: &str) -> Result<Vec<Values>> {
    text.lines().map(extracted).collect()
}

/// The values of a metric in the lines that have it.
fn values(lines: &[Values], dimensions: &str, name: &str) -> Vec<f64> {
    let key = (dimensions.to_owned(), name.to_owned());
    lines.iter().filter_map(|line| line.get(&key).copied()).collect()
}

fn total(lines: &[Values], dimensions: &str, name: &str) -> f64 {
    values(lines, dimensions, name).iter().sum()
}

fn reporting(cluster: &Cluster, interval: &str) -> Config {
    let names = "cloudwatch_proxy_name = \"orders\"\ncloudwatch_namespace = \"shop/proxies\"";
    Config::of(cluster).top(&format!("cloudwatch = true\ncloudwatch_interval = \"{interval}\"\n{names}"))
}

const ALL: &str = "ProxyName=orders";
const TARGET: &str = "ProxyName=orders TargetGroup=default Target=app";
const ROLE: &str = "ProxyName=orders TargetGroup=default TargetRole=READ_WRITE";

#[test]
fn every_metric_of_rds_proxys_is_there_and_nothing_is_lost() -> Result {
    let cluster = Cluster::start()?;
    let dir = tempfile::tempdir()?;
    let (authority, path) = (Authority::new("authority")?, dir.path().join("stdout"));
    let (cert, key) = authority.write(dir.path(), "server")?;
    let tls = format!("client_tls_cert = {cert:?}\nclient_tls_key = {key:?}");
    let mut proxy = reporting(&cluster, "1s").top(&tls).start_into(File::create(&path)?)?;
    let mut plain = proxy.target().connect()?;
    let mut encrypted = proxy.target().tls(authority.client(None, false)?).connect()?;
    assert!(proxy.target().user(APP, "wrong").connect().is_err());
    for _ in 0..7 {
        plain.value("select 1")?;
    }
    encrypted.value("select pg_sleep(0.2)")?;
    drop(encrypted);
    let written = || fs::read_to_string(&path).unwrap_or_default();
    eventually("some reports are there", || Ok(written().matches("\"AvailabilityPercentage\":").count() >= 3))?;
    plain.value("create temp table t (n int)")?;
    proxy.signal("TERM")?;
    assert!(proxy.wait_exit()?.success());
    let lines = all_extracted(&written())?;
    let names: BTreeSet<_> = lines.iter().flat_map(Values::keys).cloned().collect();
    let wanted = COUNTERPARTS.iter().flat_map(|one| match one.scope {
        Scope::Proxy => vec![(ALL, one.name)],
        Scope::Target => vec![(ALL, one.name), (TARGET, one.name)],
        Scope::Role => vec![(ROLE, one.name)],
    });
    assert_eq!(names, wanted.map(|(dimensions, name)| (dimensions.to_owned(), name.to_owned())).collect());
    for (name, count) in [
        ("QueryRequests", 9.0),
        ("QueryRequestsTLS", 1.0),
        ("QueryRequestsNoTLS", 8.0),
        ("ClientConnectionsReceived", 3.0),
        ("ClientConnectionsSetupSucceeded", 2.0),
        ("ClientConnectionsSetupFailedAuth", 1.0),
        ("ClientConnectionsClosed", 2.0),
        ("DatabaseConnectionsSetupFailed", 0.0),
        ("DatabaseConnectionRequestsWithTLS", 0.0),
    ] {
        assert_eq!(total(&lines, ALL, name), count, "{name}");
    }
    assert!(total(&lines, TARGET, "DatabaseConnectionsSetupSucceeded") >= 1.0);
    assert!(values(&lines, ALL, "ClientConnections").contains(&1.0));
    assert!(values(&lines, ALL, "MaxDatabaseConnectionsAllowed").contains(&20.0));
    assert!(values(&lines, ROLE, "AvailabilityPercentage").iter().all(|percent| *percent == 100.0));
    for name in ["QueryResponseLatency", "QueryDatabaseResponseLatency"] {
        // In the interval of the long query the mean is at least an eighth of 200,000 µs.
        let values = values(&lines, ALL, name);
        assert!(values.iter().any(|value| (25_000.0..1e6).contains(value)), "{name}: {values:?}");
    }
    Ok(())
}

#[test]
fn a_database_that_is_gone_is_not_available() -> Result {
    let mut cluster = Cluster::start()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("stdout");
    let proxy = reporting(&cluster, "1s").top("borrow_timeout = \"500ms\"").start_into(File::create(&path)?)?;
    proxy.target().connect()?.value("select 1")?;
    cluster.stop("fast")?;
    eventually("it is said", || {
        let _ = proxy.target().connect().and_then(|mut client| client.query("select 1"));
        // The last line may not be whole yet.
        let text = fs::read_to_string(&path)?;
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        Ok(values(&all_extracted(whole)?, ROLE, "AvailabilityPercentage").iter().any(|percent| *percent < 10.0))
    })
}

#[test]
fn the_last_interval_is_told_at_the_end() -> Result {
    let cluster = Cluster::start()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("stdout");
    let mut proxy = reporting(&cluster, "1h").start_into(File::create(&path)?)?;
    proxy.target().connect()?.value("select 1")?;
    assert_eq!(fs::read_to_string(&path)?, "");
    proxy.signal("INT")?;
    assert!(proxy.wait_exit()?.success());
    let lines = all_extracted(&fs::read_to_string(&path)?)?;
    assert_eq!((lines.len(), total(&lines, ALL, "QueryRequests")), (2, 1.0));
    Ok(())
}

#[test]
fn databases_that_only_clients_name_are_one() -> Result {
    let cluster = Cluster::start()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("stdout");
    let any = format!("[databases.\"*\"]\nhost = \"127.0.0.1\"\nport = {}", cluster.port());
    let mut proxy = reporting(&cluster, "1h").section(&any).start_into(File::create(&path)?)?;
    for database in [APP, "postgres", "template1"] {
        proxy.target().database(database).connect()?.value("select 1")?;
    }
    proxy.signal("TERM")?;
    assert!(proxy.wait_exit()?.success());
    let lines = all_extracted(&fs::read_to_string(&path)?)?;
    let size = "MaxDatabaseConnectionsAllowed";
    assert_eq!((lines.len(), total(&lines, TARGET, size), total(&lines, ALL, size)), (3, 20.0, 60.0));
    assert_eq!(total(&lines, "ProxyName=orders TargetGroup=default Target=*", size), 40.0);
    Ok(())
}

#[test]
fn nothing_is_written_unless_it_is_wanted() -> Result {
    let cluster = Cluster::start()?;
    let dir = tempfile::tempdir()?;
    let path = dir.path().join("stdout");
    let mut proxy = Config::of(&cluster).top("log_connections = true").start_into(File::create(&path)?)?;
    proxy.target().connect()?.value("select 1")?;
    proxy.signal("TERM")?;
    assert!(proxy.wait_exit()?.success());
    assert_eq!(fs::read_to_string(&path)?, "");
    Ok(())
}

/// A pipe that is full, and how much is in it.
fn full_pipe() -> Result<(PipeReader, PipeWriter, u64)> {
    let (reader, mut writer) = pipe()?;
    // As large as Linux makes one (pipe(7)): one byte more would block.
    let size = 64 * 1024;
    writer.write_all(&vec![b'x'; size])?;
    Ok((reader, writer, size as u64))
}

#[test]
fn a_pipe_that_nobody_reads_stops_nobody() -> Result {
    let cluster = Cluster::start()?;
    let (mut reader, writer, size) = full_pipe()?;
    let mut proxy = reporting(&cluster, "1s").start_into(writer)?;
    let mut client = proxy.target().connect()?;
    let start = Instant::now();
    let mut count = 0.0;
    while start.elapsed() < Duration::from_secs(4) {
        let asked = Instant::now();
        client.value("select 1")?;
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
        count += 1.0;
        std::thread::sleep(Duration::from_millis(10));
    }
    assert_eq!(proxy.get("/readyz")?.0, 200);
    // Somebody reads again: what could not be told in its time is told now.
    let reading = std::thread::spawn(move || -> std::io::Result<String> {
        std::io::copy(&mut (&mut reader).take(size), &mut std::io::sink())?;
        let mut text = String::new();
        reader.read_to_string(&mut text)?;
        Ok(text)
    });
    std::thread::sleep(Duration::from_secs(2));
    proxy.signal("TERM")?;
    assert!(proxy.wait_exit()?.success());
    let told = reading.join().map_err(|_| "the reader panicked")??;
    assert_eq!(total(&all_extracted(&told)?, ALL, "QueryRequests"), count);
    Ok(())
}

#[test]
fn it_ends_although_nobody_reads() -> Result {
    let cluster = Cluster::start()?;
    let (reader, writer, _) = full_pipe()?;
    let mut proxy = reporting(&cluster, "1s").start_into(writer)?;
    proxy.target().connect()?.value("select 1")?;
    std::thread::sleep(Duration::from_secs(3));
    let start = Instant::now();
    proxy.signal("TERM")?;
    assert!(proxy.wait_exit()?.success());
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    proxy.wait_log("nobody reads stdout")?;
    drop(reader);
    Ok(())
}

#[test]
fn it_goes_on_when_the_reader_is_gone() -> Result {
    let cluster = Cluster::start()?;
    let (reader, writer) = pipe()?;
    drop(reader);
    let mut proxy = reporting(&cluster, "1s").start_into(writer)?;
    proxy.wait_log("stdout cannot be written to")?;
    std::thread::sleep(Duration::from_secs(2));
    proxy.target().connect()?.value("select 1")?;
    assert_eq!(proxy.log().matches("stdout cannot be written to").count(), 1);
    proxy.signal("TERM")?;
    assert!(proxy.wait_exit()?.success());
    Ok(())
}

//! `pgfunnel storm` against PostgreSQL itself: it must find what is there, since other tests and people believe it.

mod common;

use std::fs::OpenOptions;
use std::net::TcpListener;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use common::*;
use serde_json::Value;

/// `pgfunnel storm` with these arguments, without a `DATABASE_URL` of somebody else.
fn storm(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_pgfunnel"));
    command.arg("storm").args(arguments).env_remove("DATABASE_URL");
    command
}

/// Role [`APP`] over TCP.
fn url(port: u16) -> String {
    format!("postgres://{APP}:{PASSWORD}@127.0.0.1:{port}/{APP}?sslmode=disable")
}

/// The superuser over the Unix socket: it gets in even when the server is full.
fn monitor(cluster: &Cluster) -> String {
    format!("postgres://postgres@/{APP}?host={}&port={}", cluster.socket_dir().display(), cluster.port())
}

fn json(output: &Output) -> Result<Value> {
    let error = String::from_utf8_lossy(&output.stderr);
    serde_json::from_slice(&output.stdout).map_err(|e| format!("{e}\n{}\n{error}", output.status).into())
}

/// The only kind of failure: its phase, code, count and first message.
fn only_failure(report: &Value) -> (&str, &str, u64, &str) {
    let failures = report["failures"].as_array().map(Vec::as_slice).unwrap_or_default();
    let [failure] = failures else { panic!("not one kind of failure: {report}") };
    let text = |key: &str| failure[key].as_str().unwrap_or_default();
    (text("phase"), text("code"), failure["count"].as_u64().unwrap_or_default(), text("message"))
}

#[test]
fn a_full_server_refuses_the_rest() -> Result {
    let cluster = Cluster::conf("max_connections = 14\nsuperuser_reserved_connections = 3\n")?;
    let (url, monitor) = (url(cluster.port()), monitor(&cluster));
    let arguments =
        ["--url", &url, "--monitor-url", &monitor, "-n", "30", "--rate", "30/100ms", "--transactions", "1", "--json"];
    let output = storm(&arguments).args(["--freeze", "4s", "--die-in-transaction", "0", "--fail-on-error"]).output()?;
    assert_eq!(output.status.code(), Some(1), "--fail-on-error");
    let report = json(&output)?;
    assert_eq!(report["environments"], 30);
    // 14, less 3 reserved ones, less the monitor.
    assert_eq!(report["connected"], 10);
    assert_eq!(report["failed"], 20);
    assert_eq!(report["transactions"], 10);
    assert_eq!(report["backends_most"], 10, "without the monitor itself");
    assert_eq!(report["interrupted"], false);
    let (phase, code, count, message) = only_failure(&report);
    assert_eq!((phase, code, count), ("connect", "53300", 20));
    assert!(message.starts_with("FATAL: "), "{message}");
    assert!(cluster.refused() || cluster.log().contains("reserved"), "PostgreSQL itself says so");
    for (times, count) in [("connect_ms", 10), ("first_query_ms", 10), ("first_row_ms", 10), ("transaction_ms", 10)] {
        let times = &report[times];
        assert_eq!(times["count"], count, "{times}");
        let of = |quantile: &str| times[quantile].as_f64().unwrap_or(-1.0);
        assert!(0.0 < of("p50") && of("p50") <= of("p95") && of("p95") <= of("p99"), "{times}");
        assert!(of("p99") <= of("max") && of("max") < 30_000.0, "{times}");
    }
    assert!(report["transaction_ms"]["p50"].as_f64() >= Some(10.0), "they last 10 ms: {report}");
    Ok(())
}

#[test]
fn a_report_that_cannot_be_written_is_a_failure() -> Result {
    // Nobody listens there: every environment fails, which is a result.
    let port = Port::reserve()?;
    let url = url(port.number());
    for format in [&[][..], &["--json"]] {
        let storm = || storm(&[&["--url", &url, "-n", "1"], format].concat());
        let full = storm().stdout(OpenOptions::new().write(true).open("/dev/full")?).output()?;
        let told = String::from_utf8(full.stderr)?;
        assert_eq!((full.status.code(), told.lines().count()), (Some(1), 1), "{told}");
        assert!(told.starts_with("error: cannot write to stdout: No space left on device"), "{told}");
        let (reader, writer) = std::io::pipe()?;
        drop(reader);
        let closed = storm().stdout(writer).output()?;
        assert_eq!((closed.status.code(), String::from_utf8(closed.stderr)?), (Some(1), String::new()));
    }
    Ok(())
}

#[test]
fn the_table_says_the_same() -> Result {
    let cluster = Cluster::start()?;
    let output = storm(&["--url", &url(cluster.port()), "-n", "7", "--rate", "100/s", "--freeze", "10ms"])
        .args(["--transactions", "3", "--transaction", "SELECT 1", "--messages", "one", "--die-in-transaction", "0"])
        .output()?;
    assert!(output.status.success() && output.stderr.is_empty(), "no bar without a terminal: {output:?}");
    let table = String::from_utf8(output.stdout)?;
    let value = |name: &str| {
        let line = table.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.strip_prefix(name).unwrap_or_default().trim().to_owned()
    };
    for (name, expected) in
        [("environments", "7"), ("connected", "7"), ("failed", "0"), ("transactions", "21"), ("backends at most", "?")]
    {
        assert_eq!(value(name), expected, "{name} in\n{table}");
    }
    assert_eq!(value("milliseconds").split_whitespace().collect::<Vec<_>>(), ["p50", "p95", "p99", "max"]);
    eventually("everybody has left", || Ok(cluster.backends()? == 0))
}

#[test]
fn endings_are_rude_in_their_own_ways() -> Result {
    let cluster = Cluster::conf("log_min_messages = debug1\n")?;
    let resets = || cluster.log().matches("could not receive data from client: Connection reset by peer").count();
    let run = |options: &[&str]| -> Result<Value> {
        let mut command = storm(&["--url", &url(cluster.port()), "-n", "8", "--rate", "80/s", "--freeze", "20ms"]);
        let report = json(&command.args(["--transactions", "2", "--json"]).args(options).output()?)?;
        assert_eq!(report["failed"], 0, "a rude ending is no failure: {report}");
        eventually("everybody has left", || Ok(cluster.backends()? == 0))?;
        Ok(report)
    };
    let polite = run(&["--reap-without-fin", "0", "--die-in-transaction", "0"])?;
    assert_eq!((polite["transactions"].as_u64(), resets()), (Some(16), 0));
    // Half of them by RST; the others' sockets close only when the storm is over.
    let vanished = run(&["--reap-without-fin", "100", "--die-in-transaction", "0"])?;
    assert_eq!((vanished["transactions"].as_u64(), resets()), (Some(16), 4));
    let died = run(&["--reap-without-fin", "0", "--die-in-transaction", "100"])?;
    assert_eq!(died["transactions"], 8, "the second one is not committed");
    assert!(cluster.log().contains("connection to client lost"), "killed while their statement ran");
    Ok(())
}

#[test]
fn failures_are_told_apart() -> Result {
    let cluster = Cluster::start()?;
    let (right, closed) = (url(cluster.port()), Port::reserve()?);
    let silent = TcpListener::bind("127.0.0.1:0")?;
    let few = ["-n", "3", "--rate", "100/s", "--freeze", "0", "--transactions", "1", "--die-in-transaction", "0"];
    let no_role = right.replace(APP, "nobody");
    let wrong = right.replace(PASSWORD, "wrong");
    let (refused, mute) = (url(closed.number()), url(silent.local_addr()?.port()));
    let cases: &[(&str, &[&str], &str, &str)] = &[
        (&wrong, &[], "connect", "28P01"),
        (&no_role, &[], "connect", "28P01"),
        (&refused, &[], "connect", "ConnectionRefused"),
        (&mute, &["--connect-timeout", "200ms"], "connect", "timeout"),
        (&right, &["--first-query", "SELECT 1/0"], "first_query", "22012"),
        (&right, &["--transaction", "SELECT * FROM nowhere"], "transaction", "42P01"),
        (&right, &["--transaction-ms", "5000", "--query-timeout", "200ms"], "transaction", "timeout"),
        (&right, &["--transaction", "SELECT pg_terminate_backend(pg_backend_pid())"], "transaction", "57P01"),
        (&right, &["--transaction", "COPY pg_class FROM STDIN"], "transaction", "42501"),
    ];
    for (url, options, phase, code) in cases {
        let start = Instant::now();
        let output = storm(&["--url", url, "--json"]).args(few).args(*options).output()?;
        assert!(output.status.success(), "failures are data: {output:?}");
        let report = json(&output)?;
        let (seen_phase, seen_code, count, message) = only_failure(&report);
        assert_eq!((seen_phase, seen_code, count), (*phase, *code, 3), "{message}");
        assert!(start.elapsed() < Duration::from_secs(10), "{phase} {code}");
    }
    Ok(())
}

#[test]
fn the_reason_of_a_close_while_frozen_is_heard_after_the_thaw() -> Result {
    let cluster = Cluster::conf("idle_session_timeout = '100ms'\n")?;
    let options = ["-n", "3", "--rate", "100/s", "--freeze", "1s", "--transactions", "2", "--json"];
    let report = json(&storm(&["--url", &url(cluster.port())]).args(options).output()?)?;
    let (phase, code, count, _) = only_failure(&report);
    assert_eq!((phase, code, count), ("transaction", "57P05", 3));
    assert_eq!(report["transactions"], 3, "the first of each");
    Ok(())
}

/// A server that speaks TLS, with these lines in its `pg_hba.conf`; and the file of its authority.
fn tls_cluster(authority: &Authority, hba: &str) -> Result<Cluster> {
    let (certificate, key) = authority.sign("server", &["localhost"])?;
    Cluster::with(Settings {
        conf: "ssl = on\nssl_cert_file = 'server.crt'\nssl_key_file = 'server.key'\n".into(),
        hba: hba.into(),
        files: vec![("server.crt", certificate), ("server.key", key)],
        ..Settings::default()
    })
}

#[test]
fn sslmode_means_what_it_means_to_libpq() -> Result {
    let (ours, other) = (Authority::new("ours")?, Authority::new("other")?);
    let dir = tempfile::tempdir()?;
    let (good, bad) = (dir.path().join("ours.pem"), dir.path().join("other.pem"));
    std::fs::write(&good, ours.pem())?;
    std::fs::write(&bad, other.pem())?;
    let (good, bad) = (good.display(), bad.display());
    // SCRAM with channel binding wherever there is TLS; `localhost` is in the certificate, 127.0.0.1 is not.
    let both = tls_cluster(&ours, "")?;
    let only_tls = tls_cluster(&ours, "hostnossl all all all reject\n")?;
    let never_tls = tls_cluster(&ours, "hostssl all all all reject\n")?;
    let plain = Cluster::start()?;
    let used = "SELECT 1 / count(*) FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND ssl";
    let unused = "SELECT 1 / count(*) FROM pg_stat_ssl WHERE pid = pg_backend_pid() AND NOT ssl";
    let cases = [
        (&both, "127.0.0.1", "disable".to_owned(), unused, None),
        (&both, "127.0.0.1", "allow".to_owned(), unused, None),
        (&both, "127.0.0.1", "prefer".to_owned(), used, None),
        (&both, "127.0.0.1", "require".to_owned(), used, None),
        (&both, "127.0.0.1", format!("verify-ca&sslrootcert={good}"), used, None),
        (&both, "localhost", format!("verify-full&sslrootcert={good}"), used, None),
        (&both, "127.0.0.1", format!("verify-full&sslrootcert={good}"), used, Some("tls")),
        (&both, "localhost", format!("verify-ca&sslrootcert={bad}"), used, Some("tls")),
        (&only_tls, "127.0.0.1", "disable".to_owned(), unused, Some("28000")),
        (&only_tls, "127.0.0.1", "allow".to_owned(), used, None),
        (&never_tls, "127.0.0.1", "prefer".to_owned(), unused, None),
        (&never_tls, "127.0.0.1", "require".to_owned(), used, Some("28000")),
        (&plain, "127.0.0.1", "prefer".to_owned(), unused, None),
        (&plain, "127.0.0.1", "require".to_owned(), used, Some("protocol")),
    ];
    for (cluster, host, sslmode, first_query, failure) in cases {
        let url = format!("postgres://{APP}:{PASSWORD}@{host}:{}/{APP}?sslmode={sslmode}", cluster.port());
        let options = ["-n", "2", "--rate", "100/s", "--transactions", "0", "--first-query", first_query, "--json"];
        let report = json(&storm(&["--url", &url]).args(options).output()?)?;
        match failure {
            None => assert_eq!(report["failed"], 0, "{host} {sslmode}: {report}"),
            Some(code) => assert_eq!(only_failure(&report).1, code, "{host} {sslmode}: {report}"),
        }
    }
    Ok(())
}

#[test]
fn what_cannot_start_says_why() -> Result {
    let table: &[(&[&str], &str)] = &[
        (&[], "DATABASE_URL"),
        (&["--url", "postgres://u@127.0.0.1/d?sslmode=maybe"], "sslmode=maybe"),
        (&["--url", "postgres://127.0.0.1/d"], "names no user"),
        (&["--url", "postgres://u@a,b/d"], "several hosts"),
        (&["--url", "postgres://u@127.0.0.1:1/d", "--monitor-url", "postgres://u@127.0.0.1:1/d"], "monitor"),
        (&["--url", "postgres://u@127.0.0.1/d", "--rate", "0"], "COUNT/TIME"),
        (&["--url", "postgres://u@127.0.0.1/d", "--freeze", "5"], "300ms"),
    ];
    for (arguments, expected) in table {
        let output = storm(arguments).output()?;
        let message = String::from_utf8(output.stderr)?;
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.contains(expected) && output.stdout.is_empty(), "{arguments:?}: {message}");
    }
    Ok(())
}

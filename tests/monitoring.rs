//! `deploy/monitoring/`: every alert has its paragraph, every metric in it exists, and a real Prometheus fires the alerts
//! that it should, and no others, when pools are in real trouble.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::*;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use pgfunnel::metrics::counterparts::COUNTERPARTS;
use serde_json::Value;
use tempfile::TempDir;

const RULES: &str = "deploy/monitoring/pgfunnel.rules.yml";
const DASHBOARD: &str = "deploy/monitoring/grafana-dashboard.json";

/// How long an alert may take: the longest `for` is 30 s, the longest window a minute.
const ALERTED: Duration = Duration::from_secs(100);

fn path(file: &str) -> String {
    format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))
}

fn file(name: &str) -> Result<String> {
    Ok(fs::read_to_string(path(name)).map_err(|error| format!("{name}: {error}"))?)
}

/// The names behind `- alert:`.
fn alerts(rules: &str) -> Vec<&str> {
    rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect()
}

#[test]
fn every_alert_has_its_paragraph() -> Result {
    let (rules, readme) = (file(RULES)?, file("README.md")?);
    let section =
        readme.split("\n## Alerts\n").nth(1).and_then(|rest| rest.split("\n## ").next()).ok_or("no section")?;
    let listed: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let alerts = alerts(&rules);
    assert!(alerts.len() >= 13, "{alerts:?}");
    assert_eq!(listed, alerts, "in this order");
    for alert in alerts {
        let rule = rules.split(&format!("- alert: {alert}\n")).nth(1).ok_or("no rule")?;
        let rule = rule.split("- alert: ").next().unwrap_or_default();
        for part in ["severity: ", "summary: ", "description: "] {
            assert!(rule.contains(part), "{alert} has no {part}");
        }
        assert!(rule.contains(&format!("runbook: README.md#{}\n", alert.to_lowercase())), "{alert}");
        let paragraph = section.split(&format!("### {alert}\n")).nth(1).and_then(|rest| rest.split("###").next());
        let paragraph = paragraph.unwrap_or_default().replace('\n', " ");
        assert!(paragraph.contains("Look ") && paragraph.contains("Do: "), "{alert}: {paragraph}");
    }
    Ok(())
}

/// Names and label names of all series of a scrape.
fn exposed() -> Result<BTreeSet<String>> {
    let text = exposition()?;
    let mut found = BTreeSet::new();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        found.insert(name.to_owned());
        let labels = line.split_once('{').map_or("", |(_, rest)| rest.split('}').next().unwrap_or_default());
        let labels = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0));
        found.extend(labels.map(|label| format!("{name}{{{label}")));
    }
    Ok(found)
}

#[test]
fn every_metric_and_label_that_is_asked_for_exists() -> Result {
    let exposed = exposed()?;
    let counterparts: Vec<String> = COUNTERPARTS.iter().map(|one| one.ours.promql()).collect();
    for (source, text) in [(RULES, file(RULES)?), (DASHBOARD, file(DASHBOARD)?), ("RDS Proxy", counterparts.join("\n"))]
    {
        // The dashboard's quotes are escaped.
        let text = text.replace("\\\"", "\"");
        let mut count = 0;
        for (at, _) in text.match_indices("pgfunnel_") {
            let rest = &text[at..];
            let name = rest.split(|c: char| !c.is_ascii_alphanumeric() && c != '_').next().unwrap_or_default();
            assert!(exposed.contains(name), "{source}: there is no {name}");
            count += 1;
            let Some(labels) = rest[name.len()..].strip_prefix('{') else { continue };
            for matcher in labels.split('}').next().unwrap_or_default().split(',') {
                let label = matcher.split(['=', '!']).next().unwrap_or_default().trim();
                let known = label == "job" || label == "instance" || exposed.contains(&format!("{name}{{{label}"));
                assert!(known, "{source}: {name} has no label {label}");
            }
        }
        assert!(count > 20, "{source} asks for {count} metrics");
    }
    let dashboard: Value = serde_json::from_str(&file(DASHBOARD)?)?;
    assert!(dashboard["panels"].as_array().is_some_and(|panels| panels.len() > 8));
    Ok(())
}

/// A Prometheus that scrapes every second, killed when this is dropped.
struct Prometheus {
    child: Child,
    port: Port,
    dir: TempDir,
}

impl Prometheus {
    fn start(targets: &[SocketAddr]) -> Result<Self> {
        let (dir, port) = (tempfile::Builder::new().prefix("pgfunnel-test-").tempdir()?, Port::reserve()?);
        let targets: Vec<String> = targets.iter().map(|target| format!("\"{target}\"")).collect();
        let config = format!(
            "global: {{scrape_interval: 1s, scrape_timeout: 1s, evaluation_interval: 1s}}\nrule_files: [\"{}\"]\n\
             scrape_configs: [{{job_name: pgfunnel, static_configs: [{{targets: [{}]}}]}}]\n",
            path(RULES),
            targets.join(", ")
        );
        fs::write(dir.path().join("prometheus.yml"), config)?;
        let log = fs::File::create(dir.path().join("log"))?;
        let mut command = Command::new("setpriv");
        let missing = "PGFUNNEL_TEST_PROMETHEUS is not set: tests/run.sh unpacks a Prometheus and sets it";
        let program = std::env::var_os("PGFUNNEL_TEST_PROMETHEUS").ok_or(missing)?;
        command.args(["--pdeathsig", "KILL", "--"]).arg(program).arg("--config.file=prometheus.yml");
        command.args(["--storage.tsdb.path=data", &format!("--web.listen-address={}", port.addr())]);
        let child =
            command.current_dir(dir.path()).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        Ok(Self { child, port, dir })
    }

    /// What its API answers; null while it starts.
    fn ask(&self, what: &str) -> Result<Value> {
        let Ok((_, body)) = http::get(self.port.addr(), &format!("/api/v1/{what}")) else { return Ok(Value::Null) };
        Ok(serde_json::from_str(&body).unwrap_or(Value::Null))
    }

    /// How many targets it has scraped.
    fn scraped(&self) -> Result<usize> {
        let answer = self.ask("query?query=up==1")?;
        Ok(answer["data"]["result"].as_array().map_or(0, Vec::len))
    }

    /// The value of an expression; `None`: it has none, or not yet.
    fn value(&self, expression: &str) -> Result<Option<f64>> {
        let answer = self.ask(&format!("query?query={}", utf8_percent_encode(expression, NON_ALPHANUMERIC)))?;
        assert!(answer.is_null() || answer["status"] == "success", "{expression}: {answer}");
        Ok(answer["data"]["result"][0]["value"][1].as_str().and_then(|value| value.parse().ok()))
    }

    /// The labels of all alerts that fire.
    fn firing(&self) -> Result<Vec<Value>> {
        let answer = self.ask("alerts")?;
        let all = answer["data"]["alerts"].as_array().cloned().unwrap_or_default();
        Ok(all.into_iter().filter(|alert| alert["state"] == "firing").map(|alert| alert["labels"].clone()).collect())
    }

    fn log(&self) -> String {
        fs::read_to_string(Path::new(self.dir.path()).join("log")).unwrap_or_default()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        eprintln!("--- Prometheus' log\n{}", self.log());
    }
}

/// Whether one of these fires this alert for this instance, with these labels.
fn fires(firing: &[Value], instance: SocketAddr, alert: &str, labels: &[(&str, &str)]) -> bool {
    let instance = instance.to_string();
    let all = [("alertname", alert), ("instance", &instance)];
    firing.iter().any(|found| all.iter().chain(labels).all(|(name, value)| found[*name] == *value))
}

/// `pgfunnel storm` of 40 environments as `storm-fn` for a minute and more.
fn storm(proxy: &Proxy) -> Result<Child> {
    let url = format!("{}?application_name=storm-fn", proxy.target().url());
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", env!("CARGO_BIN_EXE_pgfunnel"), "storm", "--url", &url, "-n", "40"]);
    command.args(["--rate", "40/s", "--transactions", "60", "--transaction-ms", "300", "--freeze", "10ms", "--json"]);
    command.args(["--die-in-transaction", "0", "--reap-without-fin", "0"]);
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).spawn()?)
}

#[test]
fn prometheus_has_every_metric_of_rds_proxys() -> Result {
    let cluster = Cluster::start()?;
    let proxy = Config::of(&cluster).start()?;
    let prometheus = Prometheus::start(&[proxy.http_addr()])?;
    let mut client = proxy.target().connect()?;
    for counterpart in &COUNTERPARTS {
        let expression = counterpart.ours.promql();
        eventually(&format!("{} = {expression} has a value", counterpart.name), || {
            client.value("select 1")?;
            Ok(prometheus.value(&expression)?.is_some_and(f64::is_finite))
        })?;
    }
    for (name, least) in [("ClientConnections", 1.0), ("MaxDatabaseConnectionsAllowed", 20.0), ("QueryRequests", 1.0)] {
        let counterpart = COUNTERPARTS.iter().find(|one| one.name == name).ok_or(name)?;
        let value = prometheus.value(&counterpart.ours.promql())?;
        assert!(value.is_some_and(|value| value >= least), "{name} is {value:?}");
    }
    Ok(())
}

/// An alert that must fire: where, its name, its labels.
type Wanted = (SocketAddr, &'static str, &'static [(&'static str, &'static str)]);

/// All of these have fired once, and nothing else has. Clients keep asking `cut`, whose database is gone.
fn wait_until_fired(prometheus: &Prometheus, wanted: &[Wanted], cut: &Proxy) -> Result {
    let mut missing: Vec<_> = wanted.iter().collect();
    let start = Instant::now();
    while !missing.is_empty() {
        let _ = cut.target().connect().and_then(|mut client| client.query("select 1"));
        let firing = prometheus.firing()?;
        missing.retain(|(instance, alert, labels)| !fires(&firing, *instance, alert, labels));
        let expected = |found: &Value| {
            let one = std::slice::from_ref(found);
            // The lost database's clients wait in vain as well, but no limit of ours refuses them.
            wanted.iter().any(|(instance, alert, _)| fires(one, *instance, alert, &[]))
        };
        assert!(firing.iter().all(expected), "{firing:?}");
        assert!(start.elapsed() < ALERTED, "{missing:?} of {firing:?}");
        sleep(Duration::from_millis(500));
    }
    Ok(())
}

#[test]
fn the_right_alerts_fire_and_end() -> Result {
    let (cluster, mut lost) = (Cluster::start()?, Cluster::start()?);
    let saturated = "pool_size = 2\nborrow_timeout = \"2s\"\nidle_transaction_timeout = \"10min\"";
    let (full, busy) =
        (Config::of(&cluster).top(saturated).start()?, Config::of(&cluster).top("pool_size = 2").start()?);
    let cut = Config::of(&lost).top("borrow_timeout = \"2s\"").start()?;
    let (stale, gone) = (Config::of(&cluster).start()?, Config::of(&cluster).start()?);
    let at = [&full, &busy, &cut, &stale, &gone].map(Proxy::http_addr);
    let prometheus = Prometheus::start(&at)?;
    // The well used pool: both backends busy all the time, and nobody waits.
    let mut users = (0..2).map(|_| busy.target().connect()).collect::<Result<Vec<_>>>()?;
    for user in &mut users {
        user.say(&Say::new().query("select pg_sleep(110)"))?;
    }
    let mut holder = full.target().parameter("application_name", "report-fn").connect()?;
    holder.hold()?;
    // What is new must not have been there at the first scrape.
    eventually("all are scraped", || Ok(prometheus.scraped()? == at.len()))?;
    let mut load = storm(&full)?;
    lost.stop("fast")?;
    stale.reload(&Config::of(&cluster).top("pool_size = \"many\""))?;
    drop(gone);
    let pool: &'static [(&str, &str)] = &[("database", APP), ("user", APP)];
    let wanted: &[Wanted] = &[
        (at[0], "PoolSaturated", pool),
        (at[0], "BorrowTimeouts", pool),
        (at[0], "CallerStorm", &[("application", "storm-fn")]),
        (at[0], "IdleInTransactionHoldsPool", &[("application", "report-fn")]),
        (at[2], "BackendLoginsFail", pool),
        (at[3], "ReloadFailed", &[]),
        (at[4], "PgfunnelDown", &[]),
    ];
    let start = Instant::now();
    let fired = wait_until_fired(&prometheus, wanted, &cut);
    let _ = load.kill();
    load.wait()?;
    fired?;
    holder.value("commit")?;
    lost.boot()?;
    while prometheus.firing()?.iter().any(|found| found["alertname"] != "PgfunnelDown") {
        assert!(start.elapsed() < 2 * ALERTED, "{:?}", prometheus.firing()?);
        sleep(Duration::from_secs(1));
    }
    Ok(())
}

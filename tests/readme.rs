//! README.md tells the truth: settings with their defaults, metrics with type, labels and meaning, reasons to pin, and the
//! two handlers, which are run as they stand there.

mod common;

use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use common::*;
use pgfunnel::metrics::catalogue::{ALL, Entry};
use pgfunnel::metrics::counterparts::{COUNTERPARTS, Counterpart};
use pgfunnel::track::PinReason;

fn file(path: &str) -> Result<String> {
    let path = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    Ok(fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?)
}

/// The cells of the table rows whose first cell is `name`.
fn rows<'a>(readme: &'a str, name: &str) -> Vec<Vec<&'a str>> {
    let start = format!("| `{name}` |");
    let cells = |line: &'a str| line.split('|').map(str::trim).filter(|cell| !cell.is_empty()).collect();
    readme.lines().filter(|line| line.starts_with(&start)).map(cells).collect()
}

#[test]
fn every_setting_has_its_default() -> Result {
    let (readme, reference) = (file("README.md")?, file("config/pgfunnel.toml")?);
    let (top, sections) = reference.split_once("# ---- Databases").ok_or("no part for databases")?;
    let mut count = 0;
    for line in top.lines() {
        let (setting, shown) = match (line.strip_prefix("## "), line.strip_prefix('#')) {
            (Some(example), _) => (example, false),
            (None, Some(default)) if !default.starts_with(' ') => (default, true),
            _ => continue,
        };
        let Some((name, value)) = setting.split_once(" = ") else { continue };
        let value = if shown { format!("`{value}`") } else { "none".to_owned() };
        let found = rows(&readme, name);
        assert!(found.iter().any(|row| row.get(1) == Some(&value.as_str())), "{name} = {value}: {found:?}");
        count += 1;
    }
    assert!(count > 25, "found {count} settings in the reference");
    for line in sections.lines() {
        let setting = line.trim_start_matches(['#', ' ']);
        if line.starts_with("# ") || !setting.contains(" = ") {
            continue;
        }
        let name = setting.split(' ').next().unwrap_or_default();
        assert!(readme.contains(&format!("`{name}`")), "{name} is missing");
    }
    Ok(())
}

/// The table of all metrics.
fn metrics_table() -> String {
    let rows = ALL.iter().map(|Entry { name, kind, labels, help }| {
        let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
        format!("| `{name}` | {kind} | {} | {help} |\n", labels.join(", "))
    });
    format!("| metric | type | labels | |\n|---|---|---|---|\n{}", rows.collect::<String>())
}

/// The table of RDS Proxy's metrics.
fn counterparts_table() -> String {
    let rows = COUNTERPARTS.iter().map(|Counterpart { name, unit, ours, .. }| {
        format!("| `{name}` | {unit} | `{}` |\n", ours.promql().replace('|', "\\|"))
    });
    format!("| RDS Proxy | unit | PromQL |\n|---|---|---|\n{}", rows.collect::<String>())
}

/// The text with this table between its two markers.
fn with_table(readme: &str, name: &str, table: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- begin {name} -->\n"), format!("<!-- end {name} -->\n"));
    let (before, rest) = readme.split_once(&begin).ok_or_else(|| format!("README.md has no {begin}"))?;
    let (_, after) = rest.split_once(&end).ok_or_else(|| format!("README.md has no {end}"))?;
    Ok(format!("{before}{begin}{table}{end}{after}"))
}

#[test]
fn the_tables_of_metrics_are_those_of_the_source() -> Result {
    let readme = file("README.md")?;
    let right = with_table(&readme, "metrics", &metrics_table())?;
    let right = with_table(&right, "counterparts", &counterparts_table())?;
    if std::env::var_os("PGFUNNEL_TEST_WRITE_README").is_some() {
        fs::write(format!("{}/README.md", env!("CARGO_MANIFEST_DIR")), &right)?;
        return Ok(());
    }
    let differs = right.lines().zip(readme.lines()).find(|(right, is)| right != is);
    assert!(right == readme, "PGFUNNEL_TEST_WRITE_README=1 cargo test --test readme writes it anew: {differs:?}");
    Ok(())
}

#[test]
fn no_metric_is_named_that_is_not_there() -> Result {
    let readme = file("README.md")?;
    let known = |word: &str| {
        let is = |name: &str| word.strip_prefix(name).is_some_and(|rest| matches!(rest, "" | "_count" | "_sum"));
        ALL.iter().any(|entry| is(entry.name))
    };
    let words = readme.split(|byte: char| !(byte.is_ascii_lowercase() || byte == '_'));
    for word in
        words.filter(|word| word.starts_with("pgfunnel_") && !["pgfunnel_auth", "pgfunnel_traceparent"].contains(word))
    {
        assert!(known(word), "{word} is no metric");
    }
    Ok(())
}

#[test]
fn every_reason_to_pin_is_there() -> Result {
    let readme = file("README.md")?;
    let table = readme.split("### What pins").nth(1).and_then(|rest| rest.split("\n## ").next()).ok_or("no table")?;
    let listed: Vec<&str> = table
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split('`').next())
        .filter(|r| *r != "reason")
        .collect();
    assert_eq!(listed, PinReason::ALL.map(PinReason::as_str));
    Ok(())
}

/// The only code block in this language.
fn code<'a>(readme: &'a str, language: &str) -> Result<&'a str> {
    let blocks: Vec<&str> = readme.split(&format!("```{language}\n")).skip(1).collect();
    let [block] = blocks[..] else { return Err(format!("{} blocks of {language}", blocks.len()).into()) };
    Ok(block.split("```").next().unwrap_or_default())
}

/// Runs `program`, which calls the handler three times: well, badly, and well again after a freeze in which its
/// connection was ended.
fn handler_works(extension: &str, language: &str, program: &str, mut interpreter: Command) -> Result {
    let cluster = Cluster::start()?;
    cluster
        .sql("create table orders (customer int); insert into orders values (1), (1); grant select on orders to app")?;
    let proxy = Config::of(&cluster).top("pool_size = 1\nclient_idle_timeout = \"1s\"").start()?;
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join(format!("handler.{extension}")), code(&file("README.md")?, language)?)?;
    let main = dir.path().join(format!("main.{extension}"));
    fs::write(&main, program)?;
    if let Some(modules) = std::env::var_os("PGFUNNEL_TEST_NODE_PATH") {
        symlink(modules, dir.path().join("node_modules"))?;
    }
    let output = interpreter.arg(&main).env("DATABASE_URL", proxy.target().url()).output()?;
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["2", "22P02", "2"], "{complained}");
    assert_eq!(proxy.metric("pgfunnel_logins_total", &["outcome=\"ok\""])?, 2.0, "one connection before the freeze");
    Ok(())
}

#[test]
fn the_handler_in_python_works() -> Result {
    let python = std::env::var_os("PGFUNNEL_TEST_PYTHON")
        .ok_or("PGFUNNEL_TEST_PYTHON is not set: a Python with psycopg; tests/run.sh installs it")?;
    let program = "\
import time, handler
print(handler.handler({'customer': 1}, None)['orders'])
try:
    handler.handler({'customer': 'x'}, None)
except Exception as error:
    print(error.sqlstate)
time.sleep(2)
print(handler.handler({'customer': 1}, None)['orders'])
";
    handler_works("py", "python", program, Command::new(python))
}

#[test]
fn the_handler_in_node_works() -> Result {
    std::env::var_os("PGFUNNEL_TEST_NODE_PATH")
        .ok_or("PGFUNNEL_TEST_NODE_PATH is not set: a node_modules with pg; tests/run.sh installs it")?;
    let program = "\
import { handler } from './handler.mjs';
console.log((await handler({ customer: 1 })).orders);
await handler({ customer: 'x' }).catch((error) => console.log(error.code));
Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 2000);
console.log((await handler({ customer: 1 })).orders);
process.exit(0);
";
    handler_works("mjs", "js", program, Command::new("node"))
}

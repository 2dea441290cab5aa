//! README.md tells the truth: settings with their defaults, metrics with type and labels, reasons to pin, and the two
//! handlers, which are run as they stand there.

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::process::Command;

use common::*;
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

/// Every metric that a scrape can show: its type and label names.
fn exposed() -> Result<BTreeMap<String, (String, Vec<String>)>> {
    let text = exposition()?;
    let mut found = BTreeMap::new();
    for line in text.lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let ["#", "TYPE", name, kind] = words[..]
            && !name.starts_with("process_")
        {
            let is_sample = |line: &&str| {
                let behind = line.strip_prefix(name).map(|rest| rest.strip_prefix("_count").unwrap_or(rest));
                behind.is_some_and(|rest| rest.starts_with(['{', ' ']))
            };
            let sample = text.lines().find(is_sample).ok_or("a metric without a value")?;
            let labels = sample.split_once('{').map_or("", |(_, rest)| rest.split('}').next().unwrap_or_default());
            let names = labels.split(',').filter_map(|label| Some(label.split_once('=')?.0.to_owned())).collect();
            found.insert(name.to_owned(), (kind.to_owned(), names));
        }
    }
    Ok(found)
}

#[test]
fn every_metric_has_its_type_and_labels() -> Result {
    let readme = file("README.md")?;
    let exposed = exposed()?;
    // None can be forgotten above: the source names them all.
    let source = ["mod", "pool", "callers"].map(|name| file(&format!("src/metrics/{name}.rs")));
    let source = source.into_iter().collect::<Result<String>>()?;
    let named = source.match_indices("\"pgfunnel_").count();
    assert_eq!(named, exposed.len(), "{:?}", exposed.keys());
    for (name, (kind, labels)) in &exposed {
        let [row] = &rows(&readme, name)[..] else { return Err(format!("{name} is there not exactly once").into()) };
        assert_eq!(row.get(1), Some(&kind.as_str()), "{name}");
        let mut shown: Vec<&str> = Vec::new();
        if !labels.is_empty() {
            shown = row.get(2).ok_or("no labels")?.split(", ").map(|label| label.trim_matches('`')).collect();
        }
        shown.sort_unstable();
        assert_eq!(&shown, labels, "{name}");
    }
    let listed = readme.lines().filter(|line| line.starts_with("| `pgfunnel_")).count();
    let known = |word: &str| {
        exposed.keys().any(|name| word.strip_prefix(name.as_str()).is_some_and(|rest| matches!(rest, "" | "_count")))
    };
    let words = readme.split(|byte: char| !(byte.is_ascii_lowercase() || byte == '_'));
    for word in
        words.filter(|word| word.starts_with("pgfunnel_") && !["pgfunnel_auth", "pgfunnel_traceparent"].contains(word))
    {
        assert!(known(word), "{word} is no metric");
    }
    assert_eq!(listed, exposed.len(), "README.md lists a metric that is not there");
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

//! Lines in CloudWatch's embedded metric format (CloudWatch User Guide, "Specification: Embedded metric format"), with
//! RDS Proxy's names and dimensions: one for the process, one for each target.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::counterparts::{COUNTERPARTS, Counterpart, Interval, Scope};
use crate::config::CloudWatch;

/// The only target group that RDS Proxy has, and so the only one here.
const TARGET_GROUP: &str = "default";

/// A dimension's value may have no more characters.
const LONGEST_DIMENSION: usize = 255;

/// What databases are called together that the configuration does not name: the entry that serves them. Each dimension's
/// value is paid for, so clients must not make them up.
const ANY: &str = "*";

/// The lines of an interval that ended at `time`, in milliseconds since 1970. `named`: whether the configuration has an
/// entry of this name.
pub fn lines(settings: &CloudWatch, interval: &Interval<'_>, time: u64, named: impl Fn(&str) -> bool) -> String {
    let mut targets: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for database in interval.now.databases() {
        targets.entry(if named(database) { database } else { ANY }).or_default().insert(database);
    }
    let mut process = Line::new(settings, time);
    process.add(&["ProxyName"], interval, None, |scope| scope != Scope::Role);
    process.dimension("TargetGroup", TARGET_GROUP);
    process.dimension("TargetRole", "READ_WRITE");
    process.add(&["ProxyName", "TargetGroup", "TargetRole"], interval, None, |scope| scope == Scope::Role);
    let mut text = process.finish();
    for (target, databases) in &targets {
        let mut line = Line::new(settings, time);
        line.dimension("TargetGroup", TARGET_GROUP);
        line.dimension("Target", target);
        let dimensions = ["ProxyName", "TargetGroup", "Target"];
        line.add(&dimensions, interval, Some(databases), |scope| scope == Scope::Target);
        text.push_str(&line.finish());
    }
    text
}

/// A line that is being made.
struct Line<'a> {
    settings: &'a CloudWatch,
    time: u64,
    directives: Vec<Value>,
    members: Map<String, Value>,
}

impl<'a> Line<'a> {
    fn new(settings: &'a CloudWatch, time: u64) -> Self {
        let mut line = Self { settings, time, directives: Vec::new(), members: Map::new() };
        line.dimension("ProxyName", &settings.proxy_name);
        line
    }

    /// CloudWatch takes ASCII alone.
    fn dimension(&mut self, name: &str, value: &str) {
        let printable = |c: char| if c == ' ' || c.is_ascii_graphic() { c } else { '?' };
        let value: String = value.chars().take(LONGEST_DIMENSION).map(printable).collect();
        self.members.insert(name.to_owned(), Value::String(value));
    }

    /// Adds the metrics of some scopes.
    fn add(
        &mut self,
        dimensions: &[&str],
        interval: &Interval<'_>,
        databases: Option<&BTreeSet<&str>>,
        scope: impl Fn(Scope) -> bool,
    ) {
        let mut metrics = Vec::new();
        for Counterpart { name, unit, ours, .. } in COUNTERPARTS.iter().filter(|one| scope(one.scope)) {
            let Some(value) = ours.value(interval, databases) else { continue };
            metrics.push(json!({"Name": name, "Unit": unit, "StorageResolution": self.settings.resolution()}));
            self.members.insert((*name).to_owned(), json!((value * 1000.0).round() / 1000.0));
        }
        if !metrics.is_empty() {
            let namespace = &self.settings.namespace;
            self.directives.push(json!({"Namespace": namespace, "Dimensions": [dimensions], "Metrics": metrics}));
        }
    }

    fn finish(mut self) -> String {
        let about = json!({"Timestamp": self.time, "CloudWatchMetrics": self.directives});
        self.members.insert("_aws".to_owned(), about);
        format!("{}\n", Value::Object(self.members))
    }
}

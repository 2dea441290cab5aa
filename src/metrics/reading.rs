//! The values of some metrics at one moment, as series with labels, and what they gained since another.

use std::collections::{BTreeMap, BTreeSet};

use prometheus::proto::{MetricFamily, MetricType};

use super::counterparts::Series;

/// A series: its name (of a histogram with `_sum` or `_count`) and labels.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    name: String,
    labels: Vec<(String, String)>,
}

impl Key {
    fn label(&self, name: &str) -> Option<&str> {
        self.labels.iter().find(|(label, _)| label == name).map(|(_, value)| value.as_str())
    }
}

/// Values by series.
#[derive(Debug, Clone, Default)]
pub struct Reading(BTreeMap<Key, f64>);

impl Reading {
    /// The values of the metrics with these names.
    pub fn of(families: &[MetricFamily], names: &[&str]) -> Self {
        let mut values = BTreeMap::new();
        for family in families.iter().filter(|family| names.contains(&family.name())) {
            for metric in family.get_metric() {
                let labels = metric.get_label().iter().map(|label| (label.name().to_owned(), label.value().to_owned()));
                let labels: Vec<_> = labels.collect();
                let mut put = |part: &str, value| {
                    let name = format!("{}{part}", family.name());
                    values.insert(Key { name, labels: labels.clone() }, value);
                };
                match family.get_field_type() {
                    MetricType::HISTOGRAM => {
                        let histogram = metric.get_histogram();
                        put("_sum", histogram.get_sample_sum());
                        put("_count", histogram.get_sample_count() as f64);
                    }
                    MetricType::COUNTER => put("", metric.get_counter().get_value()),
                    _ => put("", metric.get_gauge().get_value()),
                }
            }
        }
        Self(values)
    }

    /// What each series has gained since `before`; one that is smaller now began anew.
    #[must_use]
    pub fn since(&self, before: &Self) -> Self {
        let gained = self.0.iter().map(|(key, now)| {
            let gained = now - before.0.get(key).copied().unwrap_or(0.0);
            (key.clone(), if gained < 0.0 { *now } else { gained })
        });
        Self(gained.collect())
    }

    /// The values of a counterpart's series, of these databases or of all.
    pub fn values<'a>(
        &'a self,
        series: &'a Series,
        databases: Option<&'a BTreeSet<&str>>,
    ) -> impl Iterator<Item = f64> + use<'a> {
        let wanted = move |key: &Key| {
            key.name == series.name
                && series.label.is_none_or(|(label, values)| key.label(label).is_some_and(|is| values.contains(&is)))
                && databases.is_none_or(|them| key.label("database").is_some_and(|is| them.contains(is)))
        };
        self.0.iter().filter(move |(key, _)| wanted(key)).map(|(_, value)| *value)
    }

    /// The databases that there are series of.
    pub fn databases(&self) -> BTreeSet<&str> {
        self.0.keys().filter_map(|key| key.label("database")).collect()
    }
}

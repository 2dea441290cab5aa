//! Prometheus' text format, as the library's own encoder writes it (a test compares them), for a third of its time: labels are
//! written once per series and not once per bucket, bounds once per metric, and whole numbers as such. With a hundred pools a
//! scrape has twenty thousand lines.

use std::fmt::{Display, Write as _};

use prometheus::proto::{Histogram, LabelPair, MetricFamily, MetricType};

/// About as long as a line is.
const LINE: usize = 96;

/// The whole exposition.
pub(super) fn encode(families: &[MetricFamily]) -> String {
    let lines = |family: &MetricFamily| {
        let buckets = family.get_metric().first().map_or(0, |metric| metric.get_histogram().get_bucket().len());
        family.get_metric().len() * (buckets + 3)
    };
    let mut out = String::with_capacity(families.iter().map(lines).sum::<usize>() * LINE);
    families.iter().for_each(|family| put_family(&mut out, family));
    out
}

fn put_family(out: &mut String, family: &MetricFamily) {
    let (name, kind) = (family.name(), family.get_field_type());
    let kind_name = match kind {
        MetricType::COUNTER => "counter",
        MetricType::HISTOGRAM => "histogram",
        // There are no summaries.
        _ => "gauge",
    };
    let help = family.help().replace('\\', "\\\\").replace('\n', "\\n");
    put(out, format_args!("# HELP {name} {help}\n# TYPE {name} {kind_name}\n"));
    let (mut labels, mut bounds) = (String::new(), Vec::new());
    for metric in family.get_metric() {
        labels.clear();
        metric.get_label().iter().for_each(|label| put_label(&mut labels, label));
        match kind {
            MetricType::COUNTER => put_line(out, name, "", &labels, "", metric.get_counter().get_value()),
            MetricType::HISTOGRAM => put_histogram(out, name, &labels, metric.get_histogram(), &mut bounds),
            _ => put_line(out, name, "", &labels, "", metric.get_gauge().get_value()),
        }
    }
}

/// `bounds`: those of the metric as they are written, once they are known.
fn put_histogram(out: &mut String, name: &str, labels: &str, histogram: &Histogram, bounds: &mut Vec<String>) {
    if bounds.is_empty() {
        bounds.extend(histogram.get_bucket().iter().map(|bucket| format!("le=\"{}\"", bucket.upper_bound())));
    }
    for (bucket, bound) in histogram.get_bucket().iter().zip(bounds) {
        put_line(out, name, "_bucket", labels, bound, bucket.cumulative_count() as f64);
    }
    let count = histogram.get_sample_count() as f64;
    put_line(out, name, "_bucket", labels, "le=\"+Inf\"", count);
    put_line(out, name, "_sum", labels, "", histogram.get_sample_sum());
    put_line(out, name, "_count", labels, "", count);
}

fn put_label(labels: &mut String, label: &LabelPair) {
    let separator = if labels.is_empty() { "" } else { "," };
    put(labels, format_args!("{separator}{}=\"", label.name()));
    for c in label.value().chars() {
        match c {
            '\\' => labels.push_str("\\\\"),
            '\n' => labels.push_str("\\n"),
            '"' => labels.push_str("\\\""),
            c => labels.push(c),
        }
    }
    labels.push('"');
}

fn put_line(out: &mut String, name: &str, part: &str, labels: &str, bound: &str, value: f64) {
    out.push_str(name);
    out.push_str(part);
    if !labels.is_empty() || !bound.is_empty() {
        let separator = if labels.is_empty() || bound.is_empty() { "" } else { "," };
        for text in ["{", labels, separator, bound, "}"] {
            out.push_str(text);
        }
    }
    out.push(' ');
    // Below 2^53, where whole numbers are exact and are written alike.
    let whole = value as i64;
    if whole as f64 == value && whole.unsigned_abs() < 1 << 53 && !(whole == 0 && value.is_sign_negative()) {
        put(out, whole);
    } else {
        put(out, value);
    }
    out.push('\n');
}

fn put(out: &mut String, value: impl Display) {
    // Writing to a String does not fail.
    let _ = write!(out, "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use prometheus::{GaugeVec, HistogramOpts, HistogramVec, IntCounter, Opts, Registry, TextEncoder};

    #[test]
    fn it_is_what_the_library_writes() {
        let registry = Registry::new();
        let gauges = GaugeVec::new(Opts::new("g", "a \\ help\nof two lines"), &["a", "b"]).unwrap();
        let values =
            [0.0, -0.0, 1.0, -7.0, 0.1, 1e-7, 1e15, 9e15, 1e16, 1e300, f64::INFINITY, f64::NEG_INFINITY, f64::NAN];
        for (at, value) in values.into_iter().enumerate() {
            gauges.with_label_values(&[format!("{at}").as_str(), "q\"uo\\te\né"]).set(value);
        }
        let times =
            HistogramVec::new(HistogramOpts::new("h", "h").buckets(vec![0.0001, 0.5, 1.0, 60.0]), &["x"]).unwrap();
        for (at, value) in [0.0, 0.3, 1.0, 77.7].into_iter().enumerate() {
            (0..=at).for_each(|_| times.with_label_values(&["one"]).observe(value));
        }
        drop(times.with_label_values(&["none"]));
        let plain = HistogramVec::new(HistogramOpts::new("p", "p"), &[]).unwrap();
        plain.with_label_values::<&str>(&[]).observe(2.5);
        let counter = IntCounter::new("c", "c").unwrap();
        counter.inc_by(12_345_678);
        registry.register(Box::new(gauges)).unwrap();
        registry.register(Box::new(times)).unwrap();
        registry.register(Box::new(plain)).unwrap();
        registry.register(Box::new(counter)).unwrap();
        let families = registry.gather();
        assert_eq!(encode(&families), TextEncoder::new().encode_to_string(&families).unwrap());
    }
}

//! What the storm found, as a table for people and as one JSON object for machines.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::environment::Outcome;
use super::failure::Phase;
use super::monitor::Watched;

/// Longest time that is told apart, in microseconds (an hour); beyond any time limit in use.
const LONGEST_MICROS: u64 = 3_600_000_000;

/// Gathers outcomes while the storm runs.
pub(super) struct Tally {
    ended: u64,
    connected: u64,
    failures: BTreeMap<(Phase, String), Failures>,
    connect: Times,
    first_query: Times,
    first_row: Times,
    transaction: Times,
}

struct Failures {
    count: u64,
    /// The first one seen.
    message: String,
}

/// A histogram of durations with three significant digits.
struct Times(Histogram<u64>);

/// What the storm found. Times are in milliseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Environments that were started.
    pub(super) environments: u32,
    pub(super) connected: u64,
    /// Environments that failed, in whatever phase.
    pub(super) failed: u64,
    /// By phase and code, most frequent first.
    pub(super) failures: Vec<FailureCount>,
    /// Transactions that were committed.
    pub(super) transactions: u64,
    pub(super) connect_ms: Quantiles,
    pub(super) first_query_ms: Quantiles,
    /// Both together: from the first SYN to the first query's answer.
    pub(super) first_row_ms: Quantiles,
    pub(super) transaction_ms: Quantiles,
    /// Client backends of the server at one time, at most; `null` without a monitor.
    pub(super) backends_most: Option<u64>,
    /// Why the monitor ended before the storm did, if so.
    pub(super) monitor_failure: Option<String>,
    pub(super) duration_s: f64,
    /// Ended with Ctrl-C.
    pub(super) interrupted: bool,
}

/// So many environments failed like this.
#[derive(Debug, Serialize)]
pub(super) struct FailureCount {
    phase: Phase,
    /// SQLSTATE, or the kind of an IO error, or `timeout`, `closed`, `protocol`, `scram`, `tls`, `panic`.
    code: String,
    count: u64,
    /// Of the first one.
    message: String,
}

/// Quantiles of a distribution; all 0 when it is empty.
#[derive(Debug, Clone, Copy, Serialize)]
pub(super) struct Quantiles {
    count: u64,
    p50: f64,
    p95: f64,
    p99: f64,
    max: f64,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self {
            ended: 0,
            connected: 0,
            failures: BTreeMap::new(),
            connect: Times::new(),
            first_query: Times::new(),
            first_row: Times::new(),
            transaction: Times::new(),
        }
    }

    pub(super) fn ended(&self) -> u64 {
        self.ended
    }

    pub(super) fn failed(&self) -> u64 {
        self.failures.values().map(|f| f.count).sum()
    }

    pub(super) fn add(&mut self, outcome: Outcome) {
        self.ended += 1;
        if let Some(connect) = outcome.connect {
            self.connected += 1;
            self.connect.add(connect);
        }
        if let Some(first_query) = outcome.first_query {
            self.first_query.add(first_query);
            self.first_row.add(outcome.connect.unwrap_or_default() + first_query);
        }
        for transaction in outcome.transactions {
            self.transaction.add(transaction);
        }
        if let Some((phase, failure)) = outcome.failure {
            let failures = self.failures.entry((phase, failure.code));
            failures.or_insert(Failures { count: 0, message: failure.message }).count += 1;
        }
    }

    pub(super) fn into_report(
        self,
        environments: u32,
        duration: Duration,
        backends: Option<Watched>,
        interrupted: bool,
    ) -> Report {
        let failed = self.failed();
        let mut failures: Vec<_> = self
            .failures
            .into_iter()
            .map(|((phase, code), f)| FailureCount { phase, code, count: f.count, message: f.message })
            .collect();
        failures.sort_by_key(|f| std::cmp::Reverse(f.count));
        Report {
            environments,
            connected: self.connected,
            failed,
            failures,
            transactions: self.transaction.0.len(),
            connect_ms: self.connect.quantiles(),
            first_query_ms: self.first_query.quantiles(),
            first_row_ms: self.first_row.quantiles(),
            transaction_ms: self.transaction.quantiles(),
            backends_most: backends.as_ref().map(|b| b.most),
            monitor_failure: backends.and_then(|b| b.failure),
            duration_s: duration.as_secs_f64(),
            interrupted,
        }
    }
}

impl Times {
    fn new() -> Self {
        // Wrong bounds are the only error there is, and these are right.
        let histogram = Histogram::new_with_bounds(1, LONGEST_MICROS, 3).or_else(|_| Histogram::new(3));
        Self(histogram.unwrap_or_else(|_| unreachable!("1 to an hour with three digits are valid bounds")))
    }

    fn add(&mut self, duration: Duration) {
        self.0.saturating_record(u64::try_from(duration.as_micros()).unwrap_or(LONGEST_MICROS));
    }

    fn quantiles(&self) -> Quantiles {
        let milliseconds = |micros: u64| micros as f64 / 1e3;
        let at = |quantile| milliseconds(self.0.value_at_quantile(quantile));
        Quantiles { count: self.0.len(), p50: at(0.5), p95: at(0.95), p99: at(0.99), max: milliseconds(self.0.max()) }
    }
}

impl Report {
    pub(super) fn to_json(&self) -> String {
        // Plain numbers and strings: there is nothing in it that JSON cannot say.
        serde_json::to_string(self).unwrap_or_else(|e| format!("{{\"error\":\"{e}\"}}"))
    }
}

/// The failures come last, so that the tables of two storms line up side by side.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let backends = self.backends_most.map_or_else(|| "?".to_owned(), |most| most.to_string());
        let lines = [
            ("environments", self.environments.to_string()),
            ("connected", self.connected.to_string()),
            ("failed", self.failed.to_string()),
            ("transactions", self.transactions.to_string()),
            ("backends at most", backends),
            ("duration", format!("{:.1}s", self.duration_s)),
        ];
        for (name, value) in lines {
            writeln!(f, "{name:<18}{value:>9}")?;
        }
        writeln!(f, "\n{:<18}{:>9}{:>9}{:>9}{:>9}", "milliseconds", "p50", "p95", "p99", "max")?;
        let rows =
            [("connect", self.connect_ms), ("first query", self.first_query_ms), ("transaction", self.transaction_ms)];
        for (name, q) in rows {
            let cell = |value: f64| if q.count == 0 { "-".to_owned() } else { format!("{value:.1}") };
            writeln!(f, "{name:<18}{:>9}{:>9}{:>9}{:>9}", cell(q.p50), cell(q.p95), cell(q.p99), cell(q.max))?;
        }
        for failure in &self.failures {
            writeln!(f, "\n{} failed in {} with {}:", failure.count, failure.phase.as_str(), failure.code)?;
            writeln!(f, "  {}", failure.message)?;
        }
        if let Some(failure) = &self.monitor_failure {
            writeln!(f, "\nThe monitor ended early: {failure}")?;
        }
        if self.interrupted {
            writeln!(f, "\nInterrupted: environments that were still alive are in no other line.")?;
        }
        Ok(())
    }
}

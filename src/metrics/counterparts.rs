//! RDS Proxy's CloudWatch metrics (Amazon RDS User Guide, "Monitoring RDS Proxy metrics with Amazon CloudWatch") and what
//! they are made from here: the same data as PromQL for README.md, and as values for CloudWatch.

use std::collections::BTreeSet;
use std::fmt;

use super::reading::Reading;

/// One of RDS Proxy's metrics.
#[derive(Debug)]
pub struct Counterpart {
    /// Its name there.
    pub name: &'static str,
    /// Its unit there.
    pub unit: &'static str,
    /// How it is made from ours.
    pub ours: Ours,
    /// What it is told by.
    pub scope: Scope,
}

/// RDS Proxy's dimension sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// `ProxyName`.
    Proxy,
    /// `ProxyName`; and `ProxyName`, `TargetGroup`, `Target`.
    Target,
    /// `ProxyName`, `TargetGroup`, `TargetRole`.
    Role,
}

/// How a value is made.
#[derive(Debug)]
pub enum Ours {
    /// What is now, less that of others.
    Now(Series, Option<Series>),
    /// What came in the time, less that of others.
    Gain(Series, Option<Series>),
    /// The mean of a histogram of seconds, in microseconds: its sum and its count.
    Mean(Series, Series),
    /// The part of the time for which these seconds did not pass, in percent.
    Rest(Series),
}

/// Series of ours.
#[derive(Debug, Clone, Copy)]
pub struct Series {
    /// Their name.
    pub name: &'static str,
    /// A label, and the values of it that count.
    pub label: Option<(&'static str, &'static [&'static str])>,
}

impl Series {
    const fn all(name: &'static str) -> Self {
        Self { name, label: None }
    }

    const fn with(name: &'static str, label: &'static str, values: &'static [&'static str]) -> Self {
        Self { name, label: Some((label, values)) }
    }

    /// The metric that they are of.
    fn metric(&self) -> &'static str {
        self.name.strip_suffix("_sum").or(self.name.strip_suffix("_count")).unwrap_or(self.name)
    }
}

impl fmt::Display for Series {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.label {
            Some((label, [value])) => write!(f, "{{{label}=\"{value}\"}}"),
            Some((label, values)) => write!(f, "{{{label}=~\"{}\"}}", values.join("|")),
            None => Ok(()),
        }
    }
}

const CLIENTS: Series = Series::all("pgfunnel_clients");
const CLIENTS_TLS: Series = Series::all("pgfunnel_clients_tls");
const QUERIES: Series = Series::all("pgfunnel_query_seconds_count");
const QUERIES_TLS: Series = Series::all("pgfunnel_queries_tls_total");
const GRANTED: &[&str] = &["at_once", "waited"];
const BORROWED: &[&str] = &["active", "idle_in_transaction", "pinned", "cancelling", "cleaning"];

const fn logins(outcome: &'static [&'static str]) -> Ours {
    Ours::Gain(Series::with("pgfunnel_logins_total", "outcome", outcome), None)
}

const fn connects(outcome: &'static [&'static str]) -> Ours {
    Ours::Gain(Series::with("pgfunnel_backend_connects_total", "outcome", outcome), None)
}

const fn backends(state: &'static [&'static str]) -> Ours {
    Ours::Now(Series::with("pgfunnel_backends", "state", state), None)
}

const fn all(name: &'static str, ours: Ours, scope: Scope) -> Counterpart {
    Counterpart { name, unit: "Count", ours, scope }
}

const fn time(name: &'static str, ours: Ours, scope: Scope) -> Counterpart {
    Counterpart { name, unit: "Microseconds", ours, scope }
}

/// All of them.
pub const COUNTERPARTS: [Counterpart; 24] = {
    use Ours::{Gain, Mean, Now, Rest};
    use Scope::{Proxy, Role, Target};
    [
        Counterpart {
            name: "AvailabilityPercentage",
            unit: "Percent",
            ours: Rest(Series::all("pgfunnel_database_unreachable_seconds_total")),
            scope: Role,
        },
        all("ClientConnections", Now(CLIENTS, None), Proxy),
        all("ClientConnectionsClosed", Gain(Series::all("pgfunnel_disconnects_total"), None), Proxy),
        all("ClientConnectionsNoTLS", Now(CLIENTS, Some(CLIENTS_TLS)), Proxy),
        all("ClientConnectionsReceived", Gain(Series::all("pgfunnel_logins_total"), None), Proxy),
        all("ClientConnectionsSetupFailedAuth", logins(&["denied"]), Proxy),
        all("ClientConnectionsSetupSucceeded", logins(&["ok"]), Proxy),
        all("ClientConnectionsTLS", Now(CLIENTS_TLS, None), Proxy),
        all("DatabaseConnectionRequests", Gain(Series::all("pgfunnel_backend_connects_total"), None), Target),
        all(
            "DatabaseConnectionRequestsWithTLS",
            Gain(Series::all("pgfunnel_backend_connects_tls_total"), None),
            Target,
        ),
        all("DatabaseConnections", Now(Series::all("pgfunnel_backends"), None), Target),
        time(
            "DatabaseConnectionsBorrowLatency",
            Mean(
                Series::with("pgfunnel_borrow_wait_seconds_sum", "outcome", GRANTED),
                Series::with("pgfunnel_borrow_wait_seconds_count", "outcome", GRANTED),
            ),
            Proxy,
        ),
        all("DatabaseConnectionsCurrentlyBorrowed", backends(BORROWED), Target),
        all("DatabaseConnectionsCurrentlyInTransaction", backends(&["active", "idle_in_transaction"]), Target),
        all("DatabaseConnectionsCurrentlySessionPinned", backends(&["pinned"]), Target),
        all("DatabaseConnectionsSetupFailed", connects(&["failed"]), Target),
        all("DatabaseConnectionsSetupSucceeded", connects(&["ok"]), Target),
        all("DatabaseConnectionsWithTLS", Now(Series::all("pgfunnel_backends_tls"), None), Target),
        all("MaxDatabaseConnectionsAllowed", Now(Series::all("pgfunnel_pool_size"), None), Target),
        time(
            "QueryDatabaseResponseLatency",
            Mean(
                Series::all("pgfunnel_query_database_seconds_sum"),
                Series::all("pgfunnel_query_database_seconds_count"),
            ),
            Target,
        ),
        all("QueryRequests", Gain(QUERIES, None), Proxy),
        all("QueryRequestsNoTLS", Gain(QUERIES, Some(QUERIES_TLS)), Proxy),
        all("QueryRequestsTLS", Gain(QUERIES_TLS, None), Proxy),
        time("QueryResponseLatency", Mean(Series::all("pgfunnel_query_seconds_sum"), QUERIES), Proxy),
    ]
};

/// The metrics that all of them are made from.
pub fn needed() -> Vec<&'static str> {
    let names: BTreeSet<_> = COUNTERPARTS.iter().flat_map(|one| one.ours.series()).map(|one| one.metric()).collect();
    names.into_iter().collect()
}

/// Two readings, and the time between them.
pub struct Interval<'a> {
    /// What is at its end.
    pub now: &'a Reading,
    /// What was gained in it.
    pub gained: &'a Reading,
    /// Its length.
    pub seconds: f64,
}

impl Ours {
    fn series(&self) -> Vec<&Series> {
        match self {
            Ours::Now(one, other) | Ours::Gain(one, other) => std::iter::once(one).chain(other).collect(),
            Ours::Mean(sum, count) => vec![sum, count],
            Ours::Rest(one) => vec![one],
        }
    }

    /// The same for Prometheus; rates and gains are of a minute.
    pub fn promql(&self) -> String {
        match self {
            Ours::Now(one, None) => format!("sum({one})"),
            Ours::Now(one, Some(other)) => format!("sum({one}) - sum({other})"),
            Ours::Gain(one, None) => format!("sum(increase({one}[1m]))"),
            Ours::Gain(one, Some(other)) => format!("sum(increase({one}[1m])) - sum(increase({other}[1m]))"),
            Ours::Mean(sum, count) => format!("1e6 * sum(rate({sum}[1m])) / sum(rate({count}[1m]))"),
            Ours::Rest(one) => format!("100 * (1 - avg(rate({one}[1m])))"),
        }
    }

    /// The value of an interval, of these databases or of all; `None`: there is nothing to say it of.
    pub fn value(&self, interval: &Interval<'_>, databases: Option<&BTreeSet<&str>>) -> Option<f64> {
        let sum = |reading: &Reading, series: &Series| -> f64 { reading.values(series, databases).sum() };
        let less = |reading, one, other: &Option<Series>| {
            (sum(reading, one) - other.as_ref().map_or(0.0, |other| sum(reading, other))).max(0.0)
        };
        match self {
            Ours::Now(one, other) => Some(less(interval.now, one, other)),
            Ours::Gain(one, other) => Some(less(interval.gained, one, other)),
            Ours::Mean(total, count) => {
                let count = sum(interval.gained, count);
                (count > 0.0).then(|| sum(interval.gained, total) / count * 1e6)
            }
            Ours::Rest(one) => {
                let all = interval.gained.values(one, databases).count() as f64 * interval.seconds;
                (all > 0.0).then(|| 100.0 * (1.0 - sum(interval.gained, one) / all).clamp(0.0, 1.0))
            }
        }
    }
}

//! Prometheus metrics. Handles are resolved once per pool and held, so that nothing looks a label up on the hot path;
//! gauges that can be read off a pool are filled in when somebody scrapes. What there is stands in [`catalogue`].

mod callers;
pub mod catalogue;
pub mod counterparts;
pub mod emf;
mod pool;
pub mod reading;
mod text;

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::core::{Collector, MetricVec, MetricVecBuilder};
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    CounterVec, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry,
};
use tokio::runtime::RuntimeMetrics;

pub use callers::Callers;
use catalogue::Entry;
use pool::Pools;
pub use pool::{BorrowWait, PoolMetrics, WINDOWS};

use crate::error::{Error, Side, SqlState};
use reading::Reading;

/// From "at once" to longer than any sane limit, in seconds.
const TIME_BUCKETS: [f64; 15] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0];

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    /// Clients that are not among those of a pool yet.
    pub clients_logging_in: IntGauge,
    pools: Pools,
    /// Those who call.
    pub callers: Callers,
    login_time: HistogramVec,
    /// Clients that are connected by TLS.
    pub clients_tls: IntGauge,
    /// Clients that there may be.
    pub max_clients: IntGauge,
    /// 1 while no new clients are taken and those that are there finish.
    pub draining: IntGauge,
    config_read: Gauge,
    config_info: IntGaugeVec,
    worker_busy: CounterVec,
    refusals: IntCounterVec,
    timeouts: IntCounterVec,
    connect_errors: IntCounterVec,
    pins: IntCounterVec,
    errors: IntCounterVec,
    logins: IntCounterVec,
    disconnects: IntCounterVec,
    /// Cancel requests by what became of them.
    pub cancels: IntCounterVec,
    /// Transactions rolled back because their client vanished or fell silent.
    pub rolled_back: IntCounter,
    /// Lines of the log that could not be written.
    pub log_lines_lost: IntCounter,
    reloads: IntCounterVec,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(|| {
    let metrics = Metrics::new();
    metrics.show_zeros();
    metrics
});

/// Limits that clients are refused by.
const REFUSING: [&str; 6] =
    ["borrow_timeout", "pause_timeout", "max_waiting", "max_clients", "max_leases", "max_leases_per_application"];

/// Limits in time.
const TIMEOUTS: [&str; 4] =
    ["query_timeout", "idle_transaction_timeout", "client_idle_timeout", "client_login_timeout"];

/// How logins end.
const LOGINS: [&str; 4] = ["ok", "denied", "failed", "left"];

/// What becomes of cancel requests.
const CANCELS: [&str; 4] = ["sent", "idle", "unknown", "failed"];

/// How clients end that were logged in.
pub const ENDS: [&str; 7] = ["goodbye", "vanished", "idle", "frozen", "stopped", "database", "error"];

/// The process's metrics.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self())).expect("each name is registered once");
        let gauge = |entry| gauges(&registry, entry).with_label_values::<&str>(&[]);
        let counters = |entry| counters(&registry, entry);
        gauges(&registry, &catalogue::BUILD_INFO).with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Self {
            clients_logging_in: gauge(&catalogue::CLIENTS_LOGGING_IN),
            pools: Pools::new(&registry),
            callers: Callers::new(&registry),
            login_time: times(&registry, &catalogue::LOGIN_SECONDS),
            clients_tls: gauge(&catalogue::CLIENTS_TLS),
            max_clients: gauge(&catalogue::MAX_CLIENTS),
            draining: gauge(&catalogue::DRAINING),
            config_read: floats(&registry, &catalogue::CONFIG_READ_TIMESTAMP_SECONDS).with_label_values::<&str>(&[]),
            config_info: gauges(&registry, &catalogue::CONFIG_INFO),
            worker_busy: float_counters(&registry, &catalogue::WORKER_BUSY_SECONDS),
            refusals: counters(&catalogue::REFUSALS),
            timeouts: counters(&catalogue::TIMEOUTS),
            connect_errors: counters(&catalogue::BACKEND_CONNECT_ERRORS),
            pins: counters(&catalogue::PINS),
            errors: counters(&catalogue::ERRORS),
            logins: counters(&catalogue::LOGINS),
            disconnects: counters(&catalogue::DISCONNECTS),
            cancels: counters(&catalogue::CANCELS),
            rolled_back: counters(&catalogue::ROLLED_BACK).with_label_values::<&str>(&[]),
            log_lines_lost: counters(&catalogue::LOG_LINES_LOST).with_label_values::<&str>(&[]),
            reloads: counters(&catalogue::RELOADS),
            registry,
        }
    }

    /// Counters begin at zero, not with the first event: Prometheus sees no increase in what was not there before.
    fn show_zeros(&self) {
        let zeros = |counters: &IntCounterVec, values: &[&str]| {
            values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
        };
        zeros(&self.refusals, &REFUSING);
        zeros(&self.timeouts, &TIMEOUTS);
        zeros(&self.logins, &LOGINS);
        zeros(&self.disconnects, &ENDS);
        zeros(&self.cancels, &CANCELS);
        zeros(&self.reloads, &["ok", "failed"]);
        drop(self.errors.with_label_values(&[Side::Proxy.as_str(), SqlState::INTERNAL_ERROR.code()]));
    }

    /// The handles of the pool `database`/`user`.
    pub fn pool(&self, database: &str, user: &str) -> PoolMetrics {
        self.pools.handles(database, user)
    }

    /// Forgets a pool that is no more.
    pub fn forget_pool(&self, database: &str, user: &str) {
        self.pools.forget(database, user);
    }

    /// Counts a client that a limit has refused.
    pub fn count_refusal(&self, setting: &str) {
        self.refusals.with_label_values(&[setting]).inc();
    }

    /// Counts an error that a client is told by us, or that ends its connection.
    pub fn count_error(&self, error: &Error) {
        self.errors.with_label_values(&[error.side.as_str(), known(&error.code)]).inc();
    }

    /// Counts what a time limit has ended.
    pub fn count_timeout(&self, setting: &str) {
        self.timeouts.with_label_values(&[setting]).inc();
    }

    /// Counts an attempt to open a backend that failed.
    pub fn count_connect_error(&self, error: &Error) {
        self.connect_errors.with_label_values(&[known(&error.code)]).inc();
    }

    /// How long the phases of a client's login took that went well.
    pub fn observe_login(&self, startup: Duration, auth: Duration) {
        for (phase, time) in [("startup", startup), ("auth", auth)] {
            self.login_time.with_label_values(&[phase]).observe(time.as_secs_f64());
        }
    }

    /// Counts a pin.
    pub fn count_pin(&self, reason: &str) {
        self.pins.with_label_values(&[reason]).inc();
    }

    /// Counts the end of a login: `ok`, `denied`, `failed` or `left`.
    pub fn count_login(&self, outcome: &str) {
        self.logins.with_label_values(&[outcome]).inc();
    }

    /// Counts the end of a logged-in client: one of [`ENDS`].
    pub fn count_end(&self, how: &str) {
        self.disconnects.with_label_values(&[how]).inc();
    }

    /// Counts a reload that failed.
    pub fn count_failed_reload(&self) {
        self.reloads.with_label_values(&["failed"]).inc();
    }

    /// Counts a reload that went well.
    pub fn count_reload(&self) {
        self.reloads.with_label_values(&["ok"]).inc();
    }

    /// Shows the configuration in force: when it was read, in seconds since 1970, and its hash.
    pub fn show_config(&self, read: f64, hash: &str, max_clients: usize) {
        self.config_read.set(read);
        self.config_info.reset();
        self.config_info.with_label_values(&[hash]).set(1);
        self.max_clients.set(max_clients as i64);
    }

    /// Shows how long the event loops have worked.
    pub fn show_workers(&self, runtime: &RuntimeMetrics) {
        for worker in 0..runtime.num_workers() {
            let counter = self.worker_busy.with_label_values(&[worker.to_string()]);
            let more = runtime.worker_total_busy_duration(worker).as_secs_f64() - counter.get();
            counter.inc_by(more.max(0.0));
        }
    }

    /// The values of these metrics now.
    pub fn read(&self, names: &[&str]) -> Reading {
        Reading::of(&self.registry.gather(), names)
    }

    /// Everything in Prometheus' text format. Takes milliseconds where there are many pools: nothing for an event loop.
    pub fn render(&self) -> String {
        text::encode(&self.registry.gather())
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, vec: prometheus::Result<C>) -> C {
    let vec = vec.expect("static names and labels are valid");
    registry.register(Box::new(vec.clone())).expect("each name is registered once");
    vec
}

fn counters(registry: &Registry, entry: &Entry) -> IntCounterVec {
    register(registry, IntCounterVec::new(Opts::new(entry.name, entry.help), entry.labels))
}

fn float_counters(registry: &Registry, entry: &Entry) -> CounterVec {
    register(registry, CounterVec::new(Opts::new(entry.name, entry.help), entry.labels))
}

fn gauges(registry: &Registry, entry: &Entry) -> IntGaugeVec {
    register(registry, IntGaugeVec::new(Opts::new(entry.name, entry.help), entry.labels))
}

fn floats(registry: &Registry, entry: &Entry) -> GaugeVec {
    register(registry, GaugeVec::new(Opts::new(entry.name, entry.help), entry.labels))
}

fn times(registry: &Registry, entry: &Entry) -> HistogramVec {
    let options = HistogramOpts::new(entry.name, entry.help).buckets(TIME_BUCKETS.to_vec());
    register(registry, HistogramVec::new(options, entry.labels))
}

/// Removes the series of a pool or caller, one for each value of the third label if there is one. Not having been there
/// is as good.
fn forget<B: MetricVecBuilder>(metrics: &MetricVec<B>, [first, second]: [&str; 2], third: &[&str]) {
    if third.is_empty() {
        let _ = metrics.remove_label_values(&[first, second]);
    }
    for value in third {
        let _ = metrics.remove_label_values(&[first, second, value]);
    }
}

/// Shows in a gauge while it lives.
#[derive(Debug)]
pub struct Counted(IntGauge);

impl Counted {
    /// One more.
    pub fn new(gauge: &IntGauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// An SQLSTATE as a label. One that somebody made up must not become a series of its own.
fn known(code: &SqlState) -> &str {
    match format!("{code:?}").contains("Other") {
        true => "other",
        false => code.code(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sqlstates_that_postgresql_knows_are_labels() {
        for code in ["28P01", "57P01", "08006", "XX000", "P0001", "53300", "25P03"] {
            assert_eq!(known(&SqlState::from_code(code)), code);
        }
        for code in ["", "ABCDE", "99999", "28P99", "a\"b\n"] {
            assert_eq!(known(&SqlState::from_code(code)), "other", "{code}");
        }
    }
}

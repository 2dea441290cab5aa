//! Prometheus metrics. Handles are resolved once per pool and held, so that nothing looks a label up on the hot path;
//! gauges that can be read off a pool are filled in when somebody scrapes.

mod callers;
mod pool;

use std::sync::LazyLock;
use std::time::Duration;

use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Gauge, GaugeVec, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

pub use callers::Callers;
use pool::Pools;
pub use pool::{BorrowWait, PoolMetrics, WINDOWS};

use crate::error::{Error, Side, SqlState};

/// From "at once" to longer than any sane limit, in seconds.
const TIME_BUCKETS: [f64; 15] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 20.0, 60.0];

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    /// Clients that have not reached their first ReadyForQuery.
    pub clients_logging_in: IntGauge,
    pools: Pools,
    /// Those who call.
    pub callers: Callers,
    login_time: HistogramVec,
    /// Clients that are connected by TLS.
    pub clients_tls: IntGauge,
    /// 1 while no new clients are taken and those that are there finish.
    pub draining: IntGauge,
    /// When the configuration in force was read, in seconds since 1970.
    pub config_read: Gauge,
    refusals: IntCounterVec,
    timeouts: IntCounterVec,
    connect_errors: IntCounterVec,
    pins: IntCounterVec,
    errors: IntCounterVec,
    logins: IntCounterVec,
    /// Cancel requests by what became of them.
    pub cancels: IntCounterVec,
    /// Transactions rolled back because their client vanished or fell silent.
    pub rolled_back: IntCounter,
    /// Configuration reloads by outcome.
    pub reloads: IntCounterVec,
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

/// The process's metrics.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| counters(&registry, name, help, labels);
        let gauge = |name: &str, help: &str| gauges(&registry, name, help, &[]).with_label_values::<&str>(&[]);
        gauges(&registry, "pgfunnel_build_info", "Always 1; the version of this process.", &["version"])
            .with_label_values(&[env!("CARGO_PKG_VERSION")])
            .set(1);
        registry.register(Box::new(ProcessCollector::for_self())).expect("each name is registered once");
        Self {
            clients_logging_in: gauge("pgfunnel_clients_logging_in", "Clients that are not logged in yet."),
            pools: Pools::new(&registry),
            callers: Callers::new(&registry),
            login_time: times(
                &registry,
                "pgfunnel_login_seconds",
                "Time that successful client logins took, by phase: startup (from accept to the startup packet, PROXY header and TLS included), auth (from there to the first ReadyForQuery).",
                &["phase"],
            ),
            clients_tls: gauge("pgfunnel_clients_tls", "Logged-in clients that are connected by TLS."),
            draining: gauge("pgfunnel_draining", "1 while no new clients are taken and those that are there finish."),
            config_read: floats(
                &registry,
                "pgfunnel_config_read_timestamp_seconds",
                "When the configuration in force was read, in seconds since 1970.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            timeouts: counters(
                "pgfunnel_timeouts_total",
                "Statements cancelled and clients ended because a time limit of pgfunnel's has passed, by the setting.",
                &["setting"],
            ),
            connect_errors: counters(
                "pgfunnel_backend_connect_errors_total",
                "Attempts to open a backend that failed, by SQLSTATE: PostgreSQL's own, 08001 if it cannot be reached.",
                &["sqlstate"],
            ),
            refusals: counters(
                "pgfunnel_refusals_total",
                "Clients refused by a limit of pgfunnel's, by the setting.",
                &["setting"],
            ),
            pins: counters(
                "pgfunnel_pins_total",
                "Clients that began to keep their backend beyond a transaction, by reason.",
                &["reason"],
            ),
            errors: counters(
                "pgfunnel_errors_total",
                "Errors sent to clients, by the side at fault and SQLSTATE; errors of single statements are the database's own and not counted.",
                &["side", "sqlstate"],
            ),
            logins: counters("pgfunnel_logins_total", "Client logins by outcome.", &["outcome"]),
            cancels: counters(
                "pgfunnel_cancels_total",
                "Cancel requests by outcome: sent, idle (nothing runs), unknown (no such key).",
                &["outcome"],
            ),
            rolled_back: counters(
                "pgfunnel_rolled_back_total",
                "Transactions rolled back because their client vanished or fell silent.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            reloads: counters("pgfunnel_reloads_total", "Configuration reloads by outcome.", &["outcome"]),
            registry,
        }
    }

    /// Counters begin at zero, not with the first event: Prometheus sees no increase in what was not there before.
    fn show_zeros(&self) {
        REFUSING.iter().for_each(|setting| drop(self.refusals.with_label_values(&[setting])));
        TIMEOUTS.iter().for_each(|setting| drop(self.timeouts.with_label_values(&[setting])));
        for outcome in ["ok", "failed"] {
            drop((self.logins.with_label_values(&[outcome]), self.reloads.with_label_values(&[outcome])));
        }
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
        self.errors.with_label_values(&[error.side.as_str(), error.code.code()]).inc();
    }

    /// Counts what a time limit has ended.
    pub fn count_timeout(&self, setting: &str) {
        self.timeouts.with_label_values(&[setting]).inc();
    }

    /// Counts an attempt to open a backend that failed.
    pub fn count_connect_error(&self, error: &Error) {
        self.connect_errors.with_label_values(&[error.code.code()]).inc();
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

    /// Counts a login attempt.
    pub fn count_login(&self, ok: bool) {
        self.logins.with_label_values(&[if ok { "ok" } else { "failed" }]).inc();
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!("metrics cannot be written: {error}");
        }
        out
    }
}

fn counters(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let vec = IntCounterVec::new(Opts::new(name, help), labels).expect("static names and labels are valid");
    registry.register(Box::new(vec.clone())).expect("each name is registered once");
    vec
}

fn gauges(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> IntGaugeVec {
    let vec = IntGaugeVec::new(Opts::new(name, help), labels).expect("static names and labels are valid");
    registry.register(Box::new(vec.clone())).expect("each name is registered once");
    vec
}

fn floats(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> GaugeVec {
    let vec = GaugeVec::new(Opts::new(name, help), labels).expect("static names and labels are valid");
    registry.register(Box::new(vec.clone())).expect("each name is registered once");
    vec
}

fn times(registry: &Registry, name: &str, help: &str, labels: &[&str]) -> HistogramVec {
    let options = HistogramOpts::new(name, help).buckets(TIME_BUCKETS.to_vec());
    let vec = HistogramVec::new(options, labels).expect("static names and labels are valid");
    registry.register(Box::new(vec.clone())).expect("each name is registered once");
    vec
}

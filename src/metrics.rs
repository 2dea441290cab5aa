//! Prometheus metrics. Handles are resolved once per pool and held, so that nothing looks a label up on the hot path;
//! gauges that can be read off a pool are filled in when somebody scrapes.

use std::sync::LazyLock;

use prometheus::{
    Encoder, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry,
    TextEncoder,
};

use crate::error::Error;

/// Borrow waits from "at once" to longer than any sane `borrow_timeout`, in seconds.
const WAIT_BUCKETS: [f64; 14] =
    [0.0001, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 5.0, 30.0];

/// All metrics of the process.
pub struct Metrics {
    registry: Registry,
    /// Clients that have not reached their first ReadyForQuery.
    pub clients_logging_in: IntGauge,
    /// Logged-in clients by database, user and state.
    pub clients: IntGaugeVec,
    /// Backends by database, user and state.
    pub backends: IntGaugeVec,
    /// The most backends that each pool may have.
    pub pool_size: IntGaugeVec,
    borrow_wait: HistogramVec,
    borrows: IntCounterVec,
    transactions: IntCounterVec,
    pins: IntCounterVec,
    errors: IntCounterVec,
    logins: IntCounterVec,
    /// Cancel requests by what became of them.
    pub cancels: IntCounterVec,
    backend_connects: IntCounterVec,
    /// Transactions rolled back because their client vanished or fell silent.
    pub rolled_back: IntCounter,
    /// Configuration reloads by outcome.
    pub reloads: IntCounterVec,
}

/// The handles of one pool.
#[derive(Debug, Clone)]
pub struct PoolMetrics {
    /// Time from asking for a lease to getting it.
    pub borrow_wait: Histogram,
    /// Leases refused because `borrow_timeout` passed.
    pub borrow_timed_out: IntCounter,
    /// Leases refused for another reason.
    pub borrow_refused: IntCounter,
    /// Leases that ended with their transaction.
    pub transactions: IntCounter,
    /// Backends opened.
    pub connected: IntCounter,
    /// Backends that could not be opened.
    pub connect_failed: IntCounter,
}

static METRICS: LazyLock<Metrics> = LazyLock::new(Metrics::new);

/// The process's metrics.
pub fn metrics() -> &'static Metrics {
    &METRICS
}

impl Metrics {
    fn new() -> Self {
        let registry = Registry::new();
        let counters = |name: &str, help: &str, labels: &[&str]| counters(&registry, name, help, labels);
        let gauges = |name: &str, help: &str, labels: &[&str]| gauges(&registry, name, help, labels);
        let pool = ["database", "user"];
        let by_state = ["database", "user", "state"];
        let borrow_wait = HistogramVec::new(
            HistogramOpts::new("pgfunnel_borrow_wait_seconds", "Time from asking for a backend to getting it.")
                .buckets(WAIT_BUCKETS.to_vec()),
            &pool,
        )
        .expect("static names and labels are valid");
        registry.register(Box::new(borrow_wait.clone())).expect("each name is registered once");
        Self {
            clients_logging_in: gauges("pgfunnel_clients_logging_in", "Clients that are not logged in yet.", &[])
                .with_label_values::<&str>(&[]),
            clients: gauges(
                "pgfunnel_clients",
                "Logged-in clients by state: active (holding a backend), waiting (for one), idle.",
                &by_state,
            ),
            backends: gauges(
                "pgfunnel_backends",
                "Backends by state: active (lent), listening (for all clients of the pool), idle, connecting, closing.",
                &by_state,
            ),
            pool_size: gauges("pgfunnel_pool_size", "The most backends that the pool may have.", &pool),
            borrows: counters(
                "pgfunnel_borrows_refused_total",
                "Clients that got no backend, by outcome: timed_out (borrow_timeout), refused (queue full, or the database's own error).",
                &["database", "user", "outcome"],
            ),
            transactions: counters("pgfunnel_transactions_total", "Leases that ended with their transaction.", &pool),
            pins: counters(
                "pgfunnel_pins_total",
                "Clients that began to keep their backend beyond a transaction, by reason.",
                &["reason"],
            ),
            errors: counters(
                "pgfunnel_errors_total",
                "Errors sent to clients, by the side at fault and SQLSTATE class; errors of single statements are the database's own and not counted.",
                &["side", "class"],
            ),
            logins: counters("pgfunnel_logins_total", "Client logins by outcome.", &["outcome"]),
            cancels: counters(
                "pgfunnel_cancels_total",
                "Cancel requests by outcome: sent, idle (nothing runs), unknown (no such key).",
                &["outcome"],
            ),
            backend_connects: counters(
                "pgfunnel_backend_connects_total",
                "Attempts to open a backend, by outcome.",
                &["database", "user", "outcome"],
            ),
            rolled_back: counters(
                "pgfunnel_rolled_back_total",
                "Transactions rolled back because their client vanished or fell silent.",
                &[],
            )
            .with_label_values::<&str>(&[]),
            reloads: counters("pgfunnel_reloads_total", "Configuration reloads by outcome.", &["outcome"]),
            borrow_wait,
            registry,
        }
    }

    /// The handles of the pool `database`/`user`.
    pub fn pool(&self, database: &str, user: &str) -> PoolMetrics {
        let pool = [database, user];
        PoolMetrics {
            borrow_wait: self.borrow_wait.with_label_values(&pool),
            borrow_timed_out: self.borrows.with_label_values(&[database, user, "timed_out"]),
            borrow_refused: self.borrows.with_label_values(&[database, user, "refused"]),
            transactions: self.transactions.with_label_values(&pool),
            connected: self.backend_connects.with_label_values(&[database, user, "ok"]),
            connect_failed: self.backend_connects.with_label_values(&[database, user, "failed"]),
        }
    }

    /// Forgets a pool that is no more.
    pub fn forget_pool(&self, database: &str, user: &str) {
        let pool = [database, user];
        // Not having been there is as good.
        let _ = self.borrow_wait.remove_label_values(&pool);
        let _ = self.transactions.remove_label_values(&pool);
        let _ = self.pool_size.remove_label_values(&pool);
        for outcome in ["timed_out", "refused", "ok", "failed"] {
            let _ = self.borrows.remove_label_values(&[database, user, outcome]);
            let _ = self.backend_connects.remove_label_values(&[database, user, outcome]);
        }
        for state in ["active", "waiting", "idle", "connecting", "closing"] {
            let _ = self.clients.remove_label_values(&[database, user, state]);
            let _ = self.backends.remove_label_values(&[database, user, state]);
        }
    }

    /// Counts an error that a client is told by us, or that ends its connection.
    pub fn count_error(&self, error: &Error) {
        let class = error.code.code().get(..2).unwrap_or("XX");
        self.errors.with_label_values(&[error.side.as_str(), class]).inc();
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

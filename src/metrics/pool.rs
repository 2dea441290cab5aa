//! What is measured of each pool.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use crate::activity::State;

use super::{counters, floats, gauges, times};

/// The windows over which [`PoolMetrics::needed`] looks back, in seconds.
pub const WINDOWS: [u64; 2] = [10, 60];

/// What a backend may be doing.
const BACKEND_STATES: [&str; 7] =
    ["active", "idle_in_transaction", "pinned", "listening", "idle", "connecting", "closing"];

/// Whose connections of a database are told apart.
const WHOSE: [&str; 3] = ["own", "others", "free"];

/// What [`BorrowWait`] tells apart.
const OUTCOMES: [&str; 5] = ["at_once", "waited", "timed_out", "refused", "left"];

/// The metrics of all pools.
pub(super) struct Pools {
    clients: IntGaugeVec,
    backends: IntGaugeVec,
    size: IntGaugeVec,
    connections: IntGaugeVec,
    pressure: GaugeVec,
    needed: IntGaugeVec,
    oldest_waiter: GaugeVec,
    borrow_wait: HistogramVec,
    lease_held: HistogramVec,
    query: HistogramVec,
    query_database: HistogramVec,
    transactions: IntCounterVec,
    bytes: IntCounterVec,
    backend_connects: IntCounterVec,
}

/// The handles of one pool.
#[derive(Debug, Clone)]
pub struct PoolMetrics {
    /// Logged-in clients in each [`State`].
    pub clients: [IntGauge; 5],
    /// Backends: active, idle in transaction, pinned, listening, idle, connecting, closing.
    pub backends: [IntGauge; 7],
    /// The most backends that the pool may have.
    pub size: IntGauge,
    /// Connections of the database that users may have: this pool's, those of all others, free ones.
    pub connections: [IntGauge; 3],
    /// Demand (clients that hold a lease or wait for one) over the most backends that the pool may have.
    pub pressure: Gauge,
    /// Backends that would have served the demand without making clients wait, over [`WINDOWS`].
    pub needed: [IntGauge; 2],
    /// How long the client has been waiting that waits longest, in seconds.
    pub oldest_waiter: Gauge,
    /// Time from asking for a lease to getting it, by outcome.
    pub borrow_wait: BorrowWait,
    /// How long leases were held, in seconds.
    pub lease_held: Histogram,
    /// Time from a query to its ReadyForQuery, waiting for a backend included, in seconds.
    pub query: Histogram,
    /// The same from when there was a backend for it.
    pub query_database: Histogram,
    /// Leases that ended with their transaction.
    pub transactions: IntCounter,
    /// Bytes from clients.
    pub received: IntCounter,
    /// Bytes to clients.
    pub sent: IntCounter,
    /// Backends opened.
    pub connected: IntCounter,
    /// Backends that could not be opened.
    pub connect_failed: IntCounter,
}

/// Time from asking for a lease to the answer, in seconds.
#[derive(Debug, Clone)]
pub struct BorrowWait {
    /// A lease without waiting.
    pub at_once: Histogram,
    /// A lease after a wait.
    pub waited: Histogram,
    /// `borrow_timeout` passed.
    pub timed_out: Histogram,
    /// Refused: the queue is full, or the database refuses us.
    pub refused: Histogram,
    /// The client was gone, or cancelled, before.
    pub left: Histogram,
}

impl Pools {
    pub(super) fn new(registry: &Registry) -> Self {
        let pool = ["database", "user"];
        let by = |label: &'static str| ["database", "user", label];
        let gauges = |name: &str, help: &str, labels: &[&str]| gauges(registry, name, help, labels);
        let floats = |name: &str, help: &str| floats(registry, name, help, &pool);
        let times = |name: &str, help: &str, labels: &[&str]| times(registry, name, help, labels);
        Self {
            clients: gauges(
                "pgfunnel_clients",
                "Logged-in clients by state: idle, waiting (for a backend), active, idle_in_transaction, pinned (silent outside a transaction, and keeping a backend).",
                &by("state"),
            ),
            backends: gauges(
                "pgfunnel_backends",
                "Backends by state: active, idle_in_transaction, pinned (as their clients are), listening (for all clients of the pool), idle, connecting, closing.",
                &by("state"),
            ),
            size: gauges("pgfunnel_pool_size", "The most backends that the pool may have.", &pool),
            connections: gauges(
                "pgfunnel_database_connections",
                "Connections that the database accepts from users, read from it every 15 s: own (the pool's), others, free.",
                &by("whose"),
            ),
            pressure: floats(
                "pgfunnel_pool_pressure",
                "Clients that hold a backend or wait for one, over pgfunnel_pool_size. Above 1 clients wait.",
            ),
            needed: gauges(
                "pgfunnel_backends_needed",
                "Backends that would have served the demand of the last seconds (window) with a mean wait below 5 ms.",
                &by("window"),
            ),
            oldest_waiter: floats(
                "pgfunnel_oldest_waiter_seconds",
                "How long the client has been waiting for a backend that waits longest.",
            ),
            borrow_wait: times(
                "pgfunnel_borrow_wait_seconds",
                "Time from asking for a backend to the answer, by outcome: at_once, waited, timed_out (borrow_timeout), refused (max_waiting, or the database's own error), left (the client went, or cancelled).",
                &by("outcome"),
            ),
            lease_held: times("pgfunnel_lease_held_seconds", "How long clients held a backend.", &pool),
            query: times(
                "pgfunnel_query_seconds",
                "Time from a client's query to the end of its answer, waiting for a backend included.",
                &pool,
            ),
            query_database: times(
                "pgfunnel_query_database_seconds",
                "Time from when there was a backend for a query to the end of its answer.",
                &pool,
            ),
            transactions: counters(
                registry,
                "pgfunnel_transactions_total",
                "Leases that ended with their transaction.",
                &pool,
            ),
            bytes: counters(
                registry,
                "pgfunnel_client_bytes_total",
                "Bytes received from clients and sent to them, without TLS; counted when a lease ends.",
                &by("direction"),
            ),
            backend_connects: counters(
                registry,
                "pgfunnel_backend_connects_total",
                "Attempts to open a backend, by outcome.",
                &by("outcome"),
            ),
        }
    }

    pub(super) fn handles(&self, database: &str, user: &str) -> PoolMetrics {
        let pool = [database, user];
        let [at_once, waited, timed_out, refused, left] =
            OUTCOMES.map(|outcome| self.borrow_wait.with_label_values(&[database, user, outcome]));
        PoolMetrics {
            clients: State::ALL.map(|state| self.clients.with_label_values(&[database, user, state.as_str()])),
            backends: BACKEND_STATES.map(|state| self.backends.with_label_values(&[database, user, state])),
            size: self.size.with_label_values(&pool),
            connections: WHOSE.map(|whose| self.connections.with_label_values(&[database, user, whose])),
            pressure: self.pressure.with_label_values(&pool),
            needed: WINDOWS.map(|window| self.needed.with_label_values(&[database, user, &seconds(window)])),
            oldest_waiter: self.oldest_waiter.with_label_values(&pool),
            borrow_wait: BorrowWait { at_once, waited, timed_out, refused, left },
            lease_held: self.lease_held.with_label_values(&pool),
            query: self.query.with_label_values(&pool),
            query_database: self.query_database.with_label_values(&pool),
            transactions: self.transactions.with_label_values(&pool),
            received: self.bytes.with_label_values(&[database, user, "received"]),
            sent: self.bytes.with_label_values(&[database, user, "sent"]),
            connected: self.backend_connects.with_label_values(&[database, user, "ok"]),
            connect_failed: self.backend_connects.with_label_values(&[database, user, "failed"]),
        }
    }

    /// Forgets a pool that is no more. Not having been there is as good.
    pub(super) fn forget(&self, database: &str, user: &str) {
        let pool = [database, user];
        let _ = self.size.remove_label_values(&pool);
        let _ = self.pressure.remove_label_values(&pool);
        let _ = self.oldest_waiter.remove_label_values(&pool);
        let _ = self.lease_held.remove_label_values(&pool);
        let _ = self.query.remove_label_values(&pool);
        let _ = self.query_database.remove_label_values(&pool);
        let _ = self.transactions.remove_label_values(&pool);
        for state in State::ALL {
            let _ = self.clients.remove_label_values(&[database, user, state.as_str()]);
        }
        for state in BACKEND_STATES {
            let _ = self.backends.remove_label_values(&[database, user, state]);
        }
        for whose in WHOSE {
            let _ = self.connections.remove_label_values(&[database, user, whose]);
        }
        for window in WINDOWS {
            let _ = self.needed.remove_label_values(&[database, user, &seconds(window)]);
        }
        for outcome in OUTCOMES {
            let _ = self.borrow_wait.remove_label_values(&[database, user, outcome]);
        }
        for direction in ["received", "sent"] {
            let _ = self.bytes.remove_label_values(&[database, user, direction]);
        }
        for outcome in ["ok", "failed"] {
            let _ = self.backend_connects.remove_label_values(&[database, user, outcome]);
        }
    }
}

fn seconds(window: u64) -> String {
    format!("{window}s")
}

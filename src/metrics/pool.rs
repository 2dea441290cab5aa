//! What is measured of each pool.

use prometheus::{
    Gauge, GaugeVec, Histogram, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Registry,
};

use super::{catalogue, counters, floats, forget, gauges, times};
use crate::activity::State;

/// The windows over which [`PoolMetrics::needed`] looks back, in seconds.
pub const WINDOWS: [u64; 2] = [10, 60];

/// What a backend may be doing.
const BACKEND_STATES: [&str; 9] =
    ["active", "idle_in_transaction", "pinned", "cancelling", "cleaning", "listening", "idle", "connecting", "closing"];

/// Whose connections of a database are told apart.
const WHOSE: [&str; 3] = ["own", "others", "free"];

/// What [`BorrowWait`] tells apart.
const OUTCOMES: [&str; 5] = ["at_once", "waited", "timed_out", "refused", "left"];

/// Where bytes go.
const DIRECTIONS: [&str; 2] = ["received", "sent"];

/// How attempts to open a backend end.
const CONNECTS: [&str; 2] = ["ok", "failed"];

/// The metrics of all pools.
pub(super) struct Pools {
    clients: IntGaugeVec,
    backends: IntGaugeVec,
    backends_tls: IntGaugeVec,
    size: IntGaugeVec,
    paused: IntGaugeVec,
    connections: IntGaugeVec,
    unreachable: IntCounterVec,
    pressure: GaugeVec,
    needed: IntGaugeVec,
    oldest_waiter: GaugeVec,
    borrow_wait: HistogramVec,
    lease_held: HistogramVec,
    query: HistogramVec,
    query_first: HistogramVec,
    query_database: HistogramVec,
    queries_tls: IntCounterVec,
    transactions: IntCounterVec,
    bytes: IntCounterVec,
    backend_connects: IntCounterVec,
    backend_connects_tls: IntCounterVec,
}

/// The handles of one pool.
#[derive(Debug, Clone)]
pub struct PoolMetrics {
    /// Clients in each [`State`], from when they have proved who they are.
    pub clients: [IntGauge; 5],
    /// Backends in each of their states.
    pub backends: [IntGauge; 9],
    /// Those of them that are connected by TLS.
    pub backends_tls: IntGauge,
    /// The most backends that the pool may have.
    pub size: IntGauge,
    /// 1 while an operator holds it.
    pub paused: IntGauge,
    /// Connections of the database that users may have: this pool's, those of all others, free ones.
    pub connections: [IntGauge; 3],
    /// Seconds for which backends could not be opened.
    pub unreachable: IntCounter,
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
    /// Time from a query to the first bytes of its answer.
    pub query_first: Histogram,
    /// Time from when there was a backend for a query to its ReadyForQuery.
    pub query_database: Histogram,
    /// Queries of clients that are connected by TLS.
    pub queries_tls: IntCounter,
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
    /// Attempts to open a backend by TLS.
    pub connects_tls: IntCounter,
}

/// Time from asking for a lease to the answer, in seconds.
#[derive(Debug, Clone)]
pub struct BorrowWait {
    /// A lease without waiting.
    pub at_once: Histogram,
    /// A lease after a wait.
    pub waited: Histogram,
    /// `borrow_timeout` passed, and it was not the database's fault.
    pub timed_out: Histogram,
    /// Refused: the queue is full, the pool was held for too long, or the database refuses us or cannot be reached.
    pub refused: Histogram,
    /// The client was gone, or cancelled, before.
    pub left: Histogram,
}

impl Pools {
    pub(super) fn new(registry: &Registry) -> Self {
        Self {
            clients: gauges(registry, &catalogue::CLIENTS),
            backends: gauges(registry, &catalogue::BACKENDS),
            backends_tls: gauges(registry, &catalogue::BACKENDS_TLS),
            size: gauges(registry, &catalogue::POOL_SIZE),
            paused: gauges(registry, &catalogue::POOL_PAUSED),
            connections: gauges(registry, &catalogue::DATABASE_CONNECTIONS),
            unreachable: counters(registry, &catalogue::DATABASE_UNREACHABLE_SECONDS),
            pressure: floats(registry, &catalogue::POOL_PRESSURE),
            needed: gauges(registry, &catalogue::BACKENDS_NEEDED),
            oldest_waiter: floats(registry, &catalogue::OLDEST_WAITER_SECONDS),
            borrow_wait: times(registry, &catalogue::BORROW_WAIT_SECONDS),
            lease_held: times(registry, &catalogue::LEASE_HELD_SECONDS),
            query: times(registry, &catalogue::QUERY_SECONDS),
            query_first: times(registry, &catalogue::QUERY_FIRST_BYTES_SECONDS),
            query_database: times(registry, &catalogue::QUERY_DATABASE_SECONDS),
            queries_tls: counters(registry, &catalogue::QUERIES_TLS),
            transactions: counters(registry, &catalogue::TRANSACTIONS),
            backend_connects: counters(registry, &catalogue::BACKEND_CONNECTS),
            backend_connects_tls: counters(registry, &catalogue::BACKEND_CONNECTS_TLS),
            bytes: counters(registry, &catalogue::CLIENT_BYTES),
        }
    }

    pub(super) fn handles(&self, database: &str, user: &str) -> PoolMetrics {
        let pool = [database, user];
        let [at_once, waited, timed_out, refused, left] =
            OUTCOMES.map(|outcome| self.borrow_wait.with_label_values(&[database, user, outcome]));
        let [connected, connect_failed] =
            CONNECTS.map(|outcome| self.backend_connects.with_label_values(&[database, user, outcome]));
        let [received, sent] = DIRECTIONS.map(|direction| self.bytes.with_label_values(&[database, user, direction]));
        PoolMetrics {
            clients: State::ALL.map(|state| self.clients.with_label_values(&[database, user, state.as_str()])),
            backends: BACKEND_STATES.map(|state| self.backends.with_label_values(&[database, user, state])),
            backends_tls: self.backends_tls.with_label_values(&pool),
            size: self.size.with_label_values(&pool),
            paused: self.paused.with_label_values(&pool),
            connections: WHOSE.map(|whose| self.connections.with_label_values(&[database, user, whose])),
            unreachable: self.unreachable.with_label_values(&pool),
            pressure: self.pressure.with_label_values(&pool),
            needed: WINDOWS.map(|window| self.needed.with_label_values(&[database, user, &seconds(window)])),
            oldest_waiter: self.oldest_waiter.with_label_values(&pool),
            borrow_wait: BorrowWait { at_once, waited, timed_out, refused, left },
            lease_held: self.lease_held.with_label_values(&pool),
            query: self.query.with_label_values(&pool),
            query_first: self.query_first.with_label_values(&pool),
            query_database: self.query_database.with_label_values(&pool),
            queries_tls: self.queries_tls.with_label_values(&pool),
            transactions: self.transactions.with_label_values(&pool),
            received,
            sent,
            connected,
            connect_failed,
            connects_tls: self.backend_connects_tls.with_label_values(&pool),
        }
    }

    /// Forgets a pool that is no more.
    pub(super) fn forget(&self, database: &str, user: &str) {
        let pool = [database, user];
        forget(&self.clients, pool, &State::ALL.map(State::as_str));
        forget(&self.backends, pool, &BACKEND_STATES);
        forget(&self.backends_tls, pool, &[]);
        forget(&self.size, pool, &[]);
        forget(&self.paused, pool, &[]);
        forget(&self.connections, pool, &WHOSE);
        forget(&self.unreachable, pool, &[]);
        forget(&self.pressure, pool, &[]);
        WINDOWS.into_iter().for_each(|window| forget(&self.needed, pool, &[&seconds(window)]));
        forget(&self.oldest_waiter, pool, &[]);
        forget(&self.borrow_wait, pool, &OUTCOMES);
        forget(&self.lease_held, pool, &[]);
        forget(&self.query, pool, &[]);
        forget(&self.query_first, pool, &[]);
        forget(&self.query_database, pool, &[]);
        forget(&self.queries_tls, pool, &[]);
        forget(&self.transactions, pool, &[]);
        forget(&self.bytes, pool, &DIRECTIONS);
        forget(&self.backend_connects, pool, &CONNECTS);
        forget(&self.backend_connects_tls, pool, &[]);
    }
}

fn seconds(window: u64) -> String {
    format!("{window}s")
}

//! What a pool can be told: the settings of a database, and how those of a user differ.

use std::time::Duration;

/// When a lease ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// At the end of the transaction.
    Transaction,
    /// When the client leaves.
    Session,
    /// After each statement; transaction blocks are refused.
    Statement,
}

/// How session state that nobody can see from outside (made by functions, views, triggers) is kept from other clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HiddenState {
    /// Cleaned when the owner changes, unless the catalogue says that nothing in the database can make any.
    Certify,
    /// Cleaned whenever the owner changes.
    Clean,
    /// Not at all.
    Off,
}

/// How far a backend is reset between two clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// As far as it may carry anything.
    Standard,
    /// As far as PostgreSQL can, and replaced where it cannot.
    Strict,
}

/// How many backends a pool may have.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum PoolSize {
    /// So many.
    Count(usize),
    /// That part (0 < x <= 1) of the server's `max_connections` minus its reserved ones.
    Share(f64),
}

/// Settings of one pool.
#[derive(Debug, Clone, PartialEq)]
pub struct PoolSettings {
    /// When a lease ends.
    pub mode: PoolMode,
    /// Upper bound of backends.
    pub size: PoolSize,
    /// Backends kept ready even when nobody asks. At most `size`.
    pub min_idle: usize,
    /// Backends that may log in at the same time.
    pub connect_concurrency: usize,
    /// TCP connect + TLS + login of one backend.
    pub connect_timeout: Duration,
    /// Upper bound of a backend's age (shortened at random by up to 10 %); `None`: none.
    pub max_lifetime: Option<Duration>,
    /// An idle backend above `min_idle` is closed after this; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// How long a client may wait for a lease.
    pub borrow_timeout: Duration,
    /// The same while the pool is paused; see [`PoolSettings::pause_patience`].
    pub pause_timeout: Duration,
    /// Clients that may wait for a lease at one time.
    pub max_waiting: usize,
    /// Leases that one `application_name` may hold in this pool at one time; `None`: no cap.
    pub max_leases_per_application: Option<usize>,
    /// How far a backend is reset between two clients.
    pub isolation: Isolation,
    /// How hidden session state is kept from other clients.
    pub hidden_state: HiddenState,
    /// A `BEGIN` is answered at once, and sent with what is done first in the transaction.
    pub deferred_begin: bool,
    /// A statement running longer is cancelled; `None`: no limit.
    pub query_timeout: Option<Duration>,
    /// A query that took longer, the wait for a backend included, is logged; `None`: none is.
    pub log_slow_query: Option<Duration>,
    /// A wait for a backend that took longer is logged; `None`: none is.
    pub log_slow_borrow: Option<Duration>,
    /// A client that holds a lease and is silent between two statements of a transaction for so long is closed
    /// and its transaction rolled back; `None`: no limit.
    pub idle_transaction_timeout: Option<Duration>,
    /// A client that holds no lease and is silent for so long is closed; `None`: never.
    pub client_idle_timeout: Option<Duration>,
}

impl PoolSettings {
    /// How long a client may wait while the pool is paused: a pause shortens nobody's wait, also not that of a user with a
    /// `borrow_timeout` of its own.
    pub fn pause_patience(&self) -> Duration {
        self.pause_timeout.max(self.borrow_timeout)
    }
}

/// Per-user differences from a database's [`PoolSettings`]; `None` keeps the database's value.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PoolOverrides {
    /// See [`PoolSettings::mode`].
    pub mode: Option<PoolMode>,
    /// See [`PoolSettings::size`].
    pub size: Option<PoolSize>,
    /// See [`PoolSettings::min_idle`].
    pub min_idle: Option<usize>,
    /// See [`PoolSettings::borrow_timeout`].
    pub borrow_timeout: Option<Duration>,
    /// See [`PoolSettings::max_waiting`].
    pub max_waiting: Option<usize>,
    /// See [`PoolSettings::query_timeout`]; `Some(None)` switches it off.
    pub query_timeout: Option<Option<Duration>>,
    /// See [`PoolSettings::log_slow_query`].
    pub log_slow_query: Option<Option<Duration>>,
    /// See [`PoolSettings::log_slow_borrow`].
    pub log_slow_borrow: Option<Option<Duration>>,
    /// See [`PoolSettings::idle_transaction_timeout`].
    pub idle_transaction_timeout: Option<Option<Duration>>,
    /// See [`PoolSettings::client_idle_timeout`].
    pub client_idle_timeout: Option<Option<Duration>>,
}

impl PoolOverrides {
    pub(super) fn apply_to(&self, settings: &mut PoolSettings) {
        fn set<T: Clone>(to: &mut T, from: &Option<T>) {
            if let Some(value) = from {
                *to = value.clone();
            }
        }
        set(&mut settings.mode, &self.mode);
        set(&mut settings.size, &self.size);
        set(&mut settings.min_idle, &self.min_idle);
        set(&mut settings.borrow_timeout, &self.borrow_timeout);
        set(&mut settings.max_waiting, &self.max_waiting);
        set(&mut settings.query_timeout, &self.query_timeout);
        set(&mut settings.log_slow_query, &self.log_slow_query);
        set(&mut settings.log_slow_borrow, &self.log_slow_borrow);
        set(&mut settings.idle_transaction_timeout, &self.idle_transaction_timeout);
        set(&mut settings.client_idle_timeout, &self.client_idle_timeout);
    }
}

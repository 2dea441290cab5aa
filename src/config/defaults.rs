//! The value of every setting that nobody sets, with its reason. `config/pgfunnel.toml` shows the same values (a test
//! compares them), so change both.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::{HiddenState, Isolation, PoolMode, PoolSettings, PoolSize};

/// Loopback only: whoever wants to be reachable says so. 6432 is what poolers listen on.
pub(super) const LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 6432);
/// Loopback only, like `listen`; metrics are nobody else's business.
pub(super) const HTTP_LISTEN: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 9127);
/// One event loop is the cheapest way to use up to one vCPU: nothing migrates, nothing contends.
pub(super) const WORKER_THREADS: usize = 1;
/// Ten seconds of Lambda's fastest scaling of ten functions; costs memory only as they come.
pub(super) const MAX_CLIENTS: usize = 10_000;
/// PostgreSQL's own default `max_connections`.
pub(super) const MAX_BACKENDS: usize = 100;
/// Inside the 30 s that ECS, Kubernetes and systemd-minded operators give before SIGKILL.
pub(super) const DRAIN_TIMEOUT: Duration = Duration::from_secs(25);
/// Room for a slow cold start's TLS handshake; short enough that half-open logins do not pile up.
pub(super) const CLIENT_LOGIN_TIMEOUT: Duration = Duration::from_secs(15);
/// A log line per Lambda environment costs more than it tells; the metrics count them.
pub(super) const LOG_CONNECTIONS: bool = false;
/// Lines on stdout are for those who take them to CloudWatch.
pub(super) const CLOUDWATCH: bool = false;
/// RDS Proxy's own: alarms on the sum of a minute see one value of each gauge.
pub(super) const CLOUDWATCH_INTERVAL: Duration = Duration::from_secs(60);
/// The same for all instances: CloudWatch adds up what has the same dimensions.
pub(super) const CLOUDWATCH_PROXY_NAME: &str = "pgfunnel";
/// `AWS/RDS` is Amazon's own.
pub(super) const CLOUDWATCH_NAMESPACE: &str = "pgfunnel";
/// PostgreSQL's port.
pub(super) const PORT: u16 = 5432;
/// Name, secret and expiry from `pg_shadow`. The operator is qualified as well, so that no `search_path` can
/// slip another `=` in front of PostgreSQL's.
pub(super) const AUTH_QUERY: &str = "SELECT usename, passwd, valuntil FROM pg_catalog.pg_shadow \
                                     WHERE usename OPERATOR(pg_catalog.=) $1";

impl Default for PoolSettings {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            // A fifth of PostgreSQL's default max_connections, and more than most servers have cores.
            size: PoolSize::Count(20),
            min_idle: 0,
            // A cold pool fills in the time of its slowest login.
            connect_concurrency: 20,
            connect_timeout: Duration::from_secs(5),
            // Follows DNS fail-overs and frees what PostgreSQL's per-backend caches gather.
            max_lifetime: Some(Duration::from_secs(3600)),
            idle_timeout: Some(Duration::from_secs(600)),
            // Fail while the caller's own deadline (API Gateway: 29 s) leaves time to retry.
            borrow_timeout: Duration::from_secs(5),
            // Long enough to restart a database or fail over, shorter than a human's "let me see".
            pause_timeout: Duration::from_secs(120),
            // As many as there are clients: the deadline is the limit that matters.
            max_waiting: 10_000,
            max_leases_per_application: None,
            // pgfunnel cannot know how long a query may take; PostgreSQL's statement_timeout can.
            isolation: Isolation::Standard,
            hidden_state: HiddenState::Certify,
            deferred_begin: true,
            query_timeout: None,
            log_slow_query: None,
            log_slow_borrow: None,
            // A function that is frozen or killed in mid-transaction must not hold a backend (and its locks).
            idle_transaction_timeout: Some(Duration::from_secs(60)),
            // A frozen Lambda environment is silent for hours and healthy.
            client_idle_timeout: None,
        }
    }
}

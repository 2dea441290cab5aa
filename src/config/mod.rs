//! Validated configuration: types that cannot be wrong. `raw` is what was written, `validate` turns it into these
//! types or into [`ConfigErrors`] naming file, key, value and what would be right. Nothing here opens a socket.

mod address;
mod databases;
mod defaults;
mod env;
mod file;
mod files;
mod fingerprint;
mod load;
mod pool;
mod raw;
mod secret;
mod set;
mod source;
mod suggest;
mod tls;
mod url;
mod userlist;
mod users;
mod validate;
mod value;

pub use env::environment;
pub(crate) use files::{in_the_way, read as read_file};
pub use pool::{HiddenState, Isolation, PoolMode, PoolOverrides, PoolSettings, PoolSize};
pub(crate) use secret::without_login;
pub use secret::{Password, Secret};
pub use set::Setting;
pub use source::{ConfigError, ConfigErrors, Source};
pub(crate) use url::check_encoding;

pub mod pem;

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Everything `pgfunnel run` needs, after validation.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where clients connect. Never empty.
    pub listen: Vec<ListenAddr>,
    /// Where the live page, `/healthz`, `/readyz` and `/metrics` are served; `None` switches them off.
    pub http_listen: Option<SocketAddr>,
    /// Who may see the live page and the metrics.
    pub http: HttpAccess,
    /// Runtime threads; 1 runs everything on one thread.
    pub worker_threads: usize,
    /// Clients at one time, logging in included; more are refused with 53300.
    pub max_clients: usize,
    /// Backends of the whole process at one time, whatever their pool.
    pub max_backends: usize,
    /// How long running transactions may take to finish after SIGTERM.
    pub drain_timeout: Duration,
    /// From accept to ReadyForQuery.
    pub client_login_timeout: Duration,
    /// Networks whose connections must begin with a PROXY protocol v2 header; others never may. Empty: off.
    pub proxy_protocol_from: Vec<Network>,
    /// How clients prove who they are.
    pub auth: ClientAuth,
    /// TLS towards clients.
    pub client_tls: ClientTls,
    /// Database entries by the name that clients ask for.
    pub databases: HashMap<String, Database>,
    /// The entry named `*`: any other name is passed through to its server.
    pub any_database: Option<Database>,
    /// Users that are listed in the configuration or the user list file.
    pub users: HashMap<String, User>,
    /// Log one line per client login and logout.
    pub log_connections: bool,
    /// Who may use the admin console.
    pub console: Console,
    /// Metrics for CloudWatch on stdout; `None`: none.
    pub cloudwatch: Option<CloudWatch>,
    /// The collector that spans go to (URL); `None`: none.
    pub otlp_endpoint: Option<String>,
    /// The file that this configuration came from, for messages and reload; `None`: environment only.
    pub source: Option<PathBuf>,
    /// What it was made from, so that one value of it can be changed.
    written: Arc<set::Written>,
    /// Things that work but probably are not meant, to be logged at start (an expired certificate …).
    pub warnings: Vec<String>,
}

/// An address to listen on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ListenAddr {
    /// Host and port.
    Tcp(SocketAddr),
    /// Path of a Unix socket (the file itself, e.g. `/run/pgfunnel/.s.PGSQL.6432`).
    Unix(PathBuf),
}

/// Who may see the live page and the metrics; `/healthz` and `/readyz` are everybody's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HttpAccess {
    /// Networks besides loopback. Empty: loopback only, or everybody who has the token, if there is one.
    pub from: Vec<Network>,
    /// What must be shown besides.
    pub token: Option<Password>,
}

/// Who may use the admin console. Nobody at all: there is none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Console {
    /// Users that may do everything.
    pub admins: Vec<String>,
    /// Users that may look.
    pub stats: Vec<String>,
}

impl Console {
    /// The names of the database that is none: ours, and that which tools made for PgBouncer ask for.
    pub const NAMES: [&str; 2] = ["pgfunnel", "pgbouncer"];

    /// Whether a client that asks for this database means the console.
    pub fn is(&self, database: &str) -> bool {
        Self::NAMES.contains(&database) && !(self.admins.is_empty() && self.stats.is_empty())
    }
}

/// What CloudWatch is told, and how often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CloudWatch {
    /// How often; at least a second.
    pub interval: Duration,
    /// The dimension `ProxyName`.
    pub proxy_name: String,
    /// The namespace.
    pub namespace: String,
}

impl CloudWatch {
    /// `StorageResolution`: values that come oftener than each minute are kept apart.
    pub fn resolution(&self) -> u32 {
        if self.interval < Duration::from_secs(60) { 1 } else { 60 }
    }
}

/// An IP network in CIDR notation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    /// Network address.
    pub addr: IpAddr,
    /// Prefix length in bits.
    pub prefix: u8,
}

impl Network {
    /// Whether every address (of its family) is in it.
    pub fn is_everywhere(&self) -> bool {
        self.prefix == 0
    }

    /// Whether an address is in it. An IPv4 address that is written as IPv6 is the same address.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let bits = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(ip) => (32, u128::from(ip.to_bits())),
            IpAddr::V6(ip) => (128, ip.to_bits()),
        };
        let ((width, network), (ip_width, ip)) = (bits(self.addr), bits(ip));
        let host = width - u32::from(self.prefix).min(width);
        width == ip_width && (host >= 128 || network >> host == ip >> host)
    }
}

/// How clients prove who they are. The best that the user's stored secret allows is chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// SCRAM-SHA-256, and SCRAM-SHA-256-PLUS over TLS; users with only an md5 hash are refused.
    Scram,
    /// As `Scram`, but a user whose stored secret is an md5 hash may use md5.
    Md5,
    /// The password itself, only over TLS (or a Unix socket).
    Cleartext,
    /// No proof at all; validation allows it only when every listener is loopback or Unix.
    Trust,
}

/// When TLS is used towards clients.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientTlsMode {
    /// SSLRequest is answered `N`.
    Disable,
    /// TLS if the client asks for it.
    Allow,
    /// The same as `Allow` on the server side; libpq's word.
    Prefer,
    /// Clients without TLS are refused.
    Require,
    /// TLS and a client certificate signed by `ca`.
    VerifyCa,
    /// As `VerifyCa`, and the certificate's common name must be the user name.
    VerifyFull,
}

/// TLS towards clients.
#[derive(Debug, Clone)]
pub struct ClientTls {
    /// When it is used.
    pub mode: ClientTlsMode,
    /// Certificate chain and private key (PEM); present unless `mode` is `Disable`.
    pub identity: Option<TlsIdentity>,
    /// Authorities for client certificates (PEM).
    pub ca: Option<PathBuf>,
}

/// A certificate chain and its key, as PEM files that were readable and fit each other at validation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsIdentity {
    /// The chain, leaf first.
    pub cert: PathBuf,
    /// The private key.
    pub key: PathBuf,
}

/// When TLS is used towards PostgreSQL: libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BackendTlsMode {
    /// Never.
    Disable,
    /// Only when the server refuses without.
    Allow,
    /// If the server offers it.
    Prefer,
    /// Always, without looking at the certificate.
    Require,
    /// Always, certificate signed by `ca` (or the system's authorities).
    VerifyCa,
    /// As `VerifyCa`, and the certificate names the host.
    VerifyFull,
}

/// TLS towards PostgreSQL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendTls {
    /// When it is used.
    pub mode: BackendTlsMode,
    /// Authorities (PEM); `None`: the system's.
    pub ca: Option<PathBuf>,
    /// Our client certificate.
    pub identity: Option<TlsIdentity>,
}

/// A database that clients may ask for, and where it really is.
#[derive(Debug, Clone)]
pub struct Database {
    /// Host name, IP address, or a directory that holds the Unix socket.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Name on the server; `None`: the name that the client asked for.
    pub dbname: Option<String>,
    /// TLS towards this server.
    pub tls: BackendTls,
    /// Backends for all users of this database together.
    pub max_backends: Option<usize>,
    /// Where unlisted users' secrets come from.
    pub unlisted_users: UnlistedUsers,
    /// Pool settings of this database (global defaults already merged in).
    pub pool: PoolSettings,
}

/// What happens to a user that neither the configuration nor the user list names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UnlistedUsers {
    /// Refused (with the same cost and message as a wrong password).
    Refuse,
    /// Looked up on the database.
    AuthQuery {
        /// The listed user that runs the query.
        user: String,
        /// `$1` is the user name; returns (user name, secret[, valid until]) rows.
        query: String,
    },
    /// Asked for the cleartext password (TLS or loopback only), which PostgreSQL itself then judges.
    PassThrough,
}

/// A listed user.
#[derive(Debug, Clone, Default)]
pub struct User {
    /// What the client must prove.
    pub secret: Option<Secret>,
    /// What pgfunnel proves to PostgreSQL; `None`: the same secret.
    pub backend_password: Option<Password>,
    /// Leases of this user at one time, over all databases.
    pub max_leases: Option<usize>,
    /// Clients of this user at one time.
    pub max_clients: Option<usize>,
    /// Pool settings that differ from the database's.
    pub pool: PoolOverrides,
}

impl Config {
    /// The entry that serves `database`, by name or by `*`.
    pub fn database(&self, database: &str) -> Option<&Database> {
        self.databases.get(database).or(self.any_database.as_ref())
    }

    /// The settings of the pool `database`/`user`: the database's, with the user's overrides.
    pub fn pool_settings(&self, database: &str, user: &str) -> Option<PoolSettings> {
        let mut settings = self.database(database)?.pool.clone();
        if let Some(user) = self.users.get(user) {
            user.pool.apply_to(&mut settings);
        }
        Some(settings)
    }
}

#[cfg(test)]
mod tests;

//! Every key there is, by scope, with the kind of its value: what was written, before it is judged as a whole. The
//! file and the environment both end here through [`Raw::assign`]. (serde's derive would stop at the first error and
//! has no place for an environment variable as a source; here every key is read by itself, so all errors show.)

use std::collections::BTreeMap;

use super::address::{Collector, Host, Listeners, Networks, OptionalAddress};
use super::source::{Report, Source, Sourced};
use super::value::{
    Bound, Count, FilePath, Flag, Hidden, Interval, Kind, MOST_BACKENDS, MOST_CLIENTS, Names, Namespace, OptionalSpan,
    Printable, Span, Text, Written, words,
};
use super::{BackendTlsMode, ClientAuth, ClientTlsMode, HiddenState, Isolation, PoolMode, PoolSize};

/// What happens to a user that is not listed, before its query and user are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unlisted {
    Refuse,
    AuthQuery,
    PassThrough,
}

words!(Unlisted { "refuse" => Refuse, "auth_query" => AuthQuery, "pass_through" => PassThrough });
words!(HiddenState { "certify" => Certify, "clean" => Clean, "off" => Off });
words!(Isolation { "standard" => Standard, "strict" => Strict });
words!(PoolMode { "transaction" => Transaction, "session" => Session, "statement" => Statement });
words!(ClientAuth { "scram" => Scram, "md5" => Md5, "cleartext" => Cleartext, "trust" => Trust });
words!(ClientTlsMode {
    "disable" => Disable, "allow" => Allow, "prefer" => Prefer, "require" => Require,
    "verify-ca" => VerifyCa, "verify-full" => VerifyFull,
});
words!(BackendTlsMode {
    "disable" => Disable, "allow" => Allow, "prefer" => Prefer, "require" => Require,
    "verify-ca" => VerifyCa, "verify-full" => VerifyFull,
});

/// A value that its kind refused.
struct Wrong {
    /// ` = "…"`, or nothing for a secret.
    shown: String,
    right: String,
}

/// The keys of one scope.
trait Keys {
    const NAMES: &'static [&'static str];
    /// `None`: there is no such key here.
    fn set(&mut self, key: &str, written: &Written<'_>, source: &Source) -> Option<Result<(), Wrong>>;
    fn has(&self, key: &str) -> bool {
        self.shown(key).is_some()
    }
    /// What was written, as far as it may be seen.
    fn shown(&self, key: &str) -> Option<&str>;
    /// Its value may not be seen.
    fn is_secret(key: &str) -> bool;
}

fn store<K: Kind>(slot: &mut Option<Sourced<K::Value>>, written: &Written<'_>, source: &Source) -> Result<(), Wrong> {
    let value = K::read(written).map_err(|right| {
        let shown = if K::SECRET { String::new() } else { format!(" = {}", written.show()) };
        Wrong { shown, right }
    })?;
    let shown = if K::SECRET { "".into() } else { written.plain().into() };
    *slot = Some(Sourced { value, source: source.clone(), shown });
    Ok(())
}

macro_rules! keys {
    ($(#[$doc:meta])* $name:ident { $($key:ident: $kind:ty,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default)]
        pub(super) struct $name {
            $(pub(super) $key: Option<Sourced<<$kind as Kind>::Value>>,)*
        }

        impl Keys for $name {
            const NAMES: &'static [&'static str] = &[$(stringify!($key)),*];

            fn set(&mut self, key: &str, written: &Written<'_>, source: &Source) -> Option<Result<(), Wrong>> {
                match key {
                    $(stringify!($key) => Some(store::<$kind>(&mut self.$key, written, source)),)*
                    _ => None,
                }
            }

            fn shown(&self, key: &str) -> Option<&str> {
                match key {
                    $(stringify!($key) => self.$key.as_ref().map(|sourced| &*sourced.shown),)*
                    _ => None,
                }
            }

            fn is_secret(key: &str) -> bool {
                match key {
                    $(stringify!($key) => <$kind as Kind>::SECRET,)*
                    _ => false,
                }
            }
        }
    };
}

keys! {
    /// Top level.
    General {
        listen: Listeners,
        http_listen: OptionalAddress,
        http_from: Networks,
        http_token: Hidden,
        http_token_env: Text,
        http_token_file: FilePath,
        worker_threads: Count<1, 1024>,
        max_clients: Count<1, MOST_CLIENTS>,
        max_backends: Count<1, MOST_BACKENDS>,
        drain_timeout: Span,
        client_login_timeout: Span,
        proxy_protocol_from: Networks,
        auth: ClientAuth,
        userlist: FilePath,
        log_connections: Flag,
        admin_users: Names,
        stats_users: Names,
        cloudwatch: Flag,
        cloudwatch_interval: Interval,
        cloudwatch_proxy_name: Printable,
        cloudwatch_namespace: Namespace,
        otlp_endpoint: Collector,
        client_tls: ClientTlsMode,
        client_tls_cert: FilePath,
        client_tls_key: FilePath,
        client_tls_ca: FilePath,
    }
}

keys! {
    /// Pool settings: at top level the defaults of all databases, in a database its own.
    Pool {
        pool_mode: PoolMode,
        pool_size: PoolSize,
        min_idle: Count<0, MOST_BACKENDS>,
        connect_concurrency: Count<1, MOST_BACKENDS>,
        connect_timeout: Span,
        max_lifetime: OptionalSpan,
        idle_timeout: OptionalSpan,
        borrow_timeout: Span,
        pause_timeout: Span,
        max_waiting: Count<0, MOST_CLIENTS>,
        max_leases_per_application: Bound<MOST_BACKENDS>,
        isolation: Isolation,
        hidden_state: HiddenState,
        deferred_begin: Flag,
        query_timeout: OptionalSpan,
        log_slow_query: OptionalSpan,
        log_slow_borrow: OptionalSpan,
        idle_transaction_timeout: OptionalSpan,
        client_idle_timeout: OptionalSpan,
    }
}

keys! {
    /// `[databases.NAME]`.
    Target {
        host: Host,
        port: Count<1, 65535>,
        dbname: Text,
        tls: BackendTlsMode,
        tls_ca: FilePath,
        tls_cert: FilePath,
        tls_key: FilePath,
        max_backends: Bound<MOST_BACKENDS>,
        unlisted_users: Unlisted,
        auth_query_user: Text,
        auth_query: Text,
    }
}

keys! {
    /// `[users.NAME]`.
    Account {
        password: Hidden,
        password_env: Text,
        password_file: FilePath,
        secret: Hidden,
        backend_password: Hidden,
        backend_password_env: Text,
        backend_password_file: FilePath,
        max_leases: Bound<MOST_BACKENDS>,
        max_clients: Bound<MOST_CLIENTS>,
    }
}

keys! {
    /// The pool settings that a user may have for itself.
    UserPool {
        pool_mode: PoolMode,
        pool_size: PoolSize,
        min_idle: Count<0, MOST_BACKENDS>,
        borrow_timeout: Span,
        max_waiting: Count<0, MOST_CLIENTS>,
        query_timeout: OptionalSpan,
        log_slow_query: OptionalSpan,
        log_slow_borrow: OptionalSpan,
        idle_transaction_timeout: OptionalSpan,
        client_idle_timeout: OptionalSpan,
    }
}

/// One `[databases.NAME]`.
#[derive(Debug, Clone, Default)]
pub(super) struct Database {
    pub(super) target: Target,
    pub(super) pool: Pool,
    /// The first place that names it.
    pub(super) declared: Option<Source>,
    /// A key of it was unknown or wrong: what seems to be missing may just be misspelt.
    pub(super) faulty: bool,
}

/// One `[users.NAME]`.
#[derive(Debug, Clone, Default)]
pub(super) struct User {
    pub(super) account: Account,
    pub(super) pool: UserPool,
    /// The first place that names it.
    pub(super) declared: Option<Source>,
}

/// Everything that was written.
#[derive(Debug, Clone, Default)]
pub(super) struct Raw {
    pub(super) general: General,
    pub(super) pool: Pool,
    pub(super) databases: BTreeMap<String, Database>,
    pub(super) users: BTreeMap<String, User>,
}

/// The table that a key stands in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scope {
    Top,
    Database(String),
    User(String),
}

impl Scope {
    /// The keys that may stand here.
    pub(super) fn keys(&self) -> Vec<&'static str> {
        match self {
            Scope::Top => [General::NAMES, Pool::NAMES].concat(),
            Scope::Database(_) => [Target::NAMES, Pool::NAMES].concat(),
            Scope::User(_) => [Account::NAMES, UserPool::NAMES].concat(),
        }
    }

    /// Whether the value of a key that may stand here may not be seen.
    pub(super) fn is_secret(&self, key: &str) -> bool {
        match self {
            Scope::Top => General::is_secret(key),
            Scope::Database(_) => Target::is_secret(key),
            Scope::User(_) => Account::is_secret(key),
        }
    }

    /// ` in [databases.app]`, or nothing at top level.
    pub(super) fn place(&self) -> String {
        match self {
            Scope::Top => String::new(),
            Scope::Database(name) => format!(" in [databases.{}]", quoted(name)),
            Scope::User(name) => format!(" in [users.{}]", quoted(name)),
        }
    }
}

/// A table name as TOML needs it.
fn quoted(name: &str) -> String {
    let bare = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    if bare { name.to_owned() } else { format!("{name:?}") }
}

impl Raw {
    /// Note that `source` names a database or user, even if no key follows.
    pub(super) fn declare(&mut self, scope: &Scope, source: &Source) {
        let declared = match scope {
            Scope::Top => return,
            Scope::Database(name) => &mut self.databases.entry(name.clone()).or_default().declared,
            Scope::User(name) => &mut self.users.entry(name.clone()).or_default().declared,
        };
        declared.get_or_insert_with(|| source.clone());
    }

    /// What was written for a key of the top level, as far as it may be seen.
    pub(super) fn shown(&self, key: &str) -> Option<&str> {
        self.general.shown(key).or_else(|| self.pool.shown(key))
    }

    /// Set one key, replacing what an earlier source said; a wrong value goes to the report. `false`: no such key.
    pub(super) fn assign(
        &mut self,
        scope: &Scope,
        key: &str,
        written: &Written<'_>,
        source: &Source,
        report: &mut Report,
    ) -> bool {
        self.declare(scope, source);
        let outcome = match scope {
            Scope::Top => self.general.set(key, written, source).or_else(|| self.pool.set(key, written, source)),
            Scope::Database(name) => {
                let entry = self.databases.entry(name.clone()).or_default();
                let outcome = entry.target.set(key, written, source).or_else(|| entry.pool.set(key, written, source));
                entry.faulty |= !matches!(outcome, Some(Ok(())));
                outcome
            }
            Scope::User(name) => {
                let entry = self.users.entry(name.clone()).or_default();
                entry.account.set(key, written, source).or_else(|| entry.pool.set(key, written, source))
            }
        };
        if let Some(Err(Wrong { shown, right })) = &outcome {
            report.error(source, format!("{key}{shown}{}: must be {right}", scope.place()));
        }
        outcome.is_some()
    }
}

impl Database {
    pub(super) fn has(&self, key: &str) -> bool {
        self.target.has(key) || self.pool.has(key)
    }
}

//! What was written -> [`Config`]: defaults filled in, and everything judged that no single value shows. Files that
//! the configuration names are looked at; no socket is opened.

use std::collections::HashMap;
use std::fmt::Display;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;

use super::raw::{self, Raw};
use super::set::Written;
use super::source::{ConfigErrors, Report, Source, Sourced};
use super::{
    ClientAuth, ClientTlsMode, CloudWatch, Config, Console, Database, HttpAccess, ListenAddr, Network, PoolSettings,
    PoolSize, UnlistedUsers, User, databases, defaults, files, tls, users,
};

/// What fits `sun_path` with its NUL (unix(7): 108 bytes on Linux; the others have 104).
const LONGEST_SOCKET_PATH: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

/// Judge what was written; all errors, those of `report` included, come back at once.
pub(super) fn config(written: Arc<Written>, mut report: Report) -> Result<Config, ConfigErrors> {
    let report_to = &mut report;
    let raw = &written.raw;
    let general = &raw.general;
    let pool = pool_settings(PoolSettings::default(), &raw.pool);
    check_pool(&pool, &raw.pool, report_to);
    let (databases, any_database) = databases::all(raw, &pool, written.source.as_deref(), report_to);
    let users = users::all(&written, report_to);
    let auth = or(&general.auth, ClientAuth::Scram);
    let max_clients = or(&general.max_clients, defaults::MAX_CLIENTS);
    let listen = or(&general.listen, vec![ListenAddr::Tcp(defaults::LISTEN)]);
    let http_listen = or(&general.http_listen, Some(defaults::HTTP_LISTEN));
    let max_backends = max_backends(raw, &databases, any_database.as_ref(), &users, max_clients, report_to);
    let client_tls = tls::client(general, report_to);
    check_listeners(general, &listen, http_listen, report_to);
    let config = Config {
        listen,
        http_listen,
        http: HttpAccess {
            from: or(&general.http_from, Vec::new()),
            token: users::http_token(general, &written.variables, report_to),
        },
        worker_threads: or(&general.worker_threads, defaults::WORKER_THREADS),
        max_clients,
        max_backends,
        drain_timeout: or(&general.drain_timeout, defaults::DRAIN_TIMEOUT),
        client_login_timeout: or(&general.client_login_timeout, defaults::CLIENT_LOGIN_TIMEOUT),
        proxy_protocol_from: or(&general.proxy_protocol_from, Vec::new()),
        auth,
        client_tls,
        databases,
        any_database,
        users,
        log_connections: or(&general.log_connections, defaults::LOG_CONNECTIONS),
        console: Console { admins: or(&general.admin_users, Vec::new()), stats: or(&general.stats_users, Vec::new()) },
        cloudwatch: cloudwatch(general),
        source: written.source.clone(),
        written: written.clone(),
        otlp_endpoint: or(&general.otlp_endpoint, None),
        warnings: Vec::new(),
    };
    check_auth(general, &config, report_to);
    check_networks(general, &config, report_to);
    check_console(raw, &config, report_to);
    users::check(raw, &config, report_to);
    let warnings = report.finish()?;
    Ok(Config { warnings, ..config })
}

fn cloudwatch(general: &raw::General) -> Option<CloudWatch> {
    or(&general.cloudwatch, defaults::CLOUDWATCH).then(|| CloudWatch {
        interval: or(&general.cloudwatch_interval, defaults::CLOUDWATCH_INTERVAL),
        proxy_name: or(&general.cloudwatch_proxy_name, defaults::CLOUDWATCH_PROXY_NAME.to_owned()),
        namespace: or(&general.cloudwatch_namespace, defaults::CLOUDWATCH_NAMESPACE.to_owned()),
    })
}

/// The value that was written, or the default.
pub(super) fn or<T: Clone>(written: &Option<Sourced<T>>, default: T) -> T {
    written.as_ref().map_or(default, |sourced| sourced.value.clone())
}

/// `base` with what `pool` says.
pub(super) fn pool_settings(base: PoolSettings, pool: &raw::Pool) -> PoolSettings {
    PoolSettings {
        mode: or(&pool.pool_mode, base.mode),
        size: or(&pool.pool_size, base.size),
        min_idle: or(&pool.min_idle, base.min_idle),
        connect_concurrency: or(&pool.connect_concurrency, base.connect_concurrency),
        connect_timeout: or(&pool.connect_timeout, base.connect_timeout),
        max_lifetime: or(&pool.max_lifetime, base.max_lifetime),
        idle_timeout: or(&pool.idle_timeout, base.idle_timeout),
        borrow_timeout: or(&pool.borrow_timeout, base.borrow_timeout),
        pause_timeout: or(&pool.pause_timeout, base.pause_timeout),
        max_waiting: or(&pool.max_waiting, base.max_waiting),
        max_leases_per_application: or(&pool.max_leases_per_application, base.max_leases_per_application),
        isolation: or(&pool.isolation, base.isolation),
        hidden_state: or(&pool.hidden_state, base.hidden_state),
        deferred_begin: or(&pool.deferred_begin, base.deferred_begin),
        query_timeout: or(&pool.query_timeout, base.query_timeout),
        log_slow_query: or(&pool.log_slow_query, base.log_slow_query),
        log_slow_borrow: or(&pool.log_slow_borrow, base.log_slow_borrow),
        idle_transaction_timeout: or(&pool.idle_transaction_timeout, base.idle_transaction_timeout),
        client_idle_timeout: or(&pool.client_idle_timeout, base.client_idle_timeout),
    }
}

/// What only shows when the settings of a scope stand beside each other.
pub(super) fn check_pool(settings: &PoolSettings, pool: &raw::Pool, report: &mut Report) {
    check_min_idle(settings, &pool.min_idle, &pool.pool_size, report);
    if let Some(pause) = pool.pause_timeout.as_ref().filter(|pause| pause.value < settings.borrow_timeout) {
        let (pause_timeout, borrow_timeout) = (pause.value, settings.borrow_timeout);
        let message =
            format!("pause_timeout = {pause_timeout:?}: counts as borrow_timeout, which is {borrow_timeout:?}");
        report.warning(&pause.source, message);
    }
}

/// `min_idle` above the pool's size, reported at whichever of the two keys this scope sets (so once, where it was
/// made).
pub(super) fn check_min_idle(
    settings: &PoolSettings,
    min_idle: &Option<Sourced<usize>>,
    pool_size: &Option<Sourced<PoolSize>>,
    report: &mut Report,
) {
    let PoolSize::Count(size) = settings.size else { return };
    if settings.min_idle <= size {
        return;
    }
    let wanted = settings.min_idle;
    if let Some(min_idle) = min_idle {
        report.error(&min_idle.source, format!("min_idle = {wanted}: must not be above pool_size, which is {size}"));
    } else if let Some(pool_size) = pool_size {
        report.error(&pool_size.source, format!("pool_size = {size}: must not be below min_idle, which is {wanted}"));
    }
}

/// The process's bound of backends. Unset it is 100, or as much as the largest pool needs; with percentages the
/// servers' own limits are the bound, and more leases than clients cannot be.
fn max_backends(
    raw: &Raw,
    databases: &HashMap<String, Database>,
    any_database: Option<&Database>,
    users: &HashMap<String, User>,
    max_clients: usize,
    report: &mut Report,
) -> usize {
    let sizes = databases.values().chain(any_database).map(|database| database.pool.size);
    let mut sizes = sizes.chain(users.values().filter_map(|user| user.pool.size));
    // `None`: some pool is a percentage.
    let largest = sizes.try_fold(0, |largest, size| match size {
        PoolSize::Count(count) => Some(count.max(largest)),
        PoolSize::Share(_) => None,
    });
    match (&raw.general.max_backends, largest) {
        (Some(written), Some(largest)) if written.value < largest => {
            let message = format!(
                "max_backends = {} bounds the whole process: the pool_size of {largest} can never be reached",
                written.value
            );
            report.warning(&written.source, message);
            written.value
        }
        (Some(written), _) => written.value,
        (None, Some(largest)) => largest.max(defaults::MAX_BACKENDS),
        (None, None) => max_clients.min(super::value::MOST_BACKENDS),
    }
}

fn source_of<T>(written: &Option<Sourced<T>>) -> Source {
    written.as_ref().map_or(Source::Configuration, |sourced| sourced.source.clone())
}

/// No two sockets on one address.
fn check_listeners(
    general: &raw::General,
    listen: &[ListenAddr],
    http_listen: Option<SocketAddr>,
    report: &mut Report,
) {
    let source = source_of(&general.listen);
    for (index, one) in listen.iter().enumerate() {
        if listen.iter().skip(index + 1).any(|other| collide(one, other)) {
            report.error(&source, format!("listen = \"{}\": must be listed only once", Shown(one)));
        }
        if let ListenAddr::Unix(path) = one {
            check_socket_path(path, &source, report);
        }
        if http_listen.is_some_and(|http| collide(one, &ListenAddr::Tcp(http))) {
            let source = general.http_listen.as_ref().map_or(&source, |http| &http.source);
            let message = format!("http_listen = \"{}\": must differ from listen", Shown(one));
            report.error(source, message);
        }
    }
}

fn check_socket_path(path: &Path, source: &Source, report: &mut Report) {
    let path_text = path.display();
    let length = path.as_os_str().as_bytes().len();
    if length > LONGEST_SOCKET_PATH {
        let message = format!(
            "listen = \"{path_text}\": must have at most {LONGEST_SOCKET_PATH} bytes, as the path of any Unix socket; it \
             has {length}"
        );
        report.error(source, message);
    } else if path.is_dir() {
        let message = format!(
            "listen = \"{path_text}\": is a directory; must be the socket itself, such as \
                               \"{path_text}/.s.PGSQL.6432\" (libpq looks for that name)"
        );
        report.error(source, message);
    } else if path.parent().is_some_and(|directory| !directory.is_dir()) {
        report.error(source, format!("listen = \"{path_text}\": must be in a directory that exists"));
    } else if let Some(what) = files::in_the_way(path) {
        let message =
            format!("listen = \"{path_text}\": is {what}, which is not replaced; must be a socket or not exist");
        report.error(source, message);
    }
}

/// Equal, or one takes in the other (`0.0.0.0` and `127.0.0.1`). Port 0 is a free port each time.
fn collide(one: &ListenAddr, other: &ListenAddr) -> bool {
    match (one, other) {
        (ListenAddr::Unix(one), ListenAddr::Unix(other)) => one == other,
        (ListenAddr::Tcp(one), ListenAddr::Tcp(other)) => {
            let same_family = one.is_ipv4() == other.is_ipv4();
            let overlap =
                one.ip() == other.ip() || (same_family && (one.ip().is_unspecified() || other.ip().is_unspecified()));
            one.port() != 0 && one.port() == other.port() && overlap
        }
        _ => false,
    }
}

struct Shown<'a>(&'a ListenAddr);

impl Display for Shown<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ListenAddr::Tcp(addr) => addr.fmt(f),
            ListenAddr::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Ways to log in that would let everybody in, or nobody.
fn check_auth(general: &raw::General, config: &Config, report: &mut Report) {
    let source = source_of(&general.auth);
    let open: Vec<&ListenAddr> = config.listen.iter().filter(|listen| !is_local(listen)).collect();
    if let (ClientAuth::Trust, Some(listen)) = (config.auth, open.first()) {
        let message = format!(
            "auth = \"trust\": must not be used while listening on {}, where anybody could log in; \
             only loopback addresses and Unix sockets may trust",
            Shown(listen)
        );
        report.error(&source, message);
    }
    if config.auth == ClientAuth::Trust && !config.proxy_protocol_from.is_empty() {
        let message = "auth = \"trust\": must not be used with proxy_protocol_from, whose clients come from elsewhere";
        report.error(&source, message);
    }
    if config.client_tls.mode != ClientTlsMode::Disable {
        return;
    }
    if config.auth == ClientAuth::Cleartext && open.len() == config.listen.len() {
        let message = "auth = \"cleartext\": needs client_tls_cert and client_tls_key (or a loopback address or Unix \
                       socket in listen): passwords are only asked for where nobody can read them";
        report.error(&source, message);
    }
    let passes = |database: &Database| database.unlisted_users == UnlistedUsers::PassThrough;
    if !open.is_empty() && config.databases.values().chain(&config.any_database).any(passes) {
        let message = "unlisted_users = \"pass_through\" works only on loopback until client_tls_cert and \
                       client_tls_key are set: passwords are only asked for where nobody can read them";
        report.warning(&Source::Configuration, message);
    }
}

/// Networks that are no bound: everybody is in them.
fn check_networks(general: &raw::General, config: &Config, report: &mut Report) {
    let http = general.http_from.as_ref().filter(|_| config.http_listen.is_some() && config.http.token.is_none());
    let keys = [
        ("http_from", http, "shows the live page and the metrics to everybody; set http_token, too"),
        (
            "proxy_protocol_from",
            general.proxy_protocol_from.as_ref(),
            "lets everybody say where they come from, and logs and limits believe it; name the load balancer's networks",
        ),
    ];
    for (key, written, what) in keys {
        let Some(networks) = written else { continue };
        if let Some(Network { addr, .. }) = networks.value.iter().find(|network| network.is_everywhere()) {
            report.warning(&networks.source, format!("{key} = \"{addr}/0\": {what}"));
        }
    }
}

/// The console has its names for itself, and those who may use it can log in.
fn check_console(raw: &Raw, config: &Config, report: &mut Report) {
    for name in Console::NAMES.into_iter().filter(|name| config.console.is(name)) {
        if let Some(source) = raw.databases.get(name).and_then(|database| database.declared.as_ref()) {
            let message = format!(
                "[databases.{name}]: the admin console has this name while admin_users or stats_users is set; \
                 give the entry another one, with dbname = {name:?}"
            );
            report.error(source, message);
        }
    }
    if config.auth == ClientAuth::Trust {
        return;
    }
    for (key, names) in [("admin_users", &raw.general.admin_users), ("stats_users", &raw.general.stats_users)] {
        let Some(names) = names else { continue };
        for name in &names.value {
            if config.users.get(name).is_none_or(|user| user.secret.is_none()) {
                let message = format!(
                    "{key} names {name:?}, who cannot log in to the console: it needs a password in [users] or the userlist"
                );
                report.warning(&names.source, message);
            }
        }
    }
}

fn is_local(listen: &ListenAddr) -> bool {
    match listen {
        ListenAddr::Tcp(addr) => addr.ip().to_canonical().is_loopback(),
        ListenAddr::Unix(_) => true,
    }
}

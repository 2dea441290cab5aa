//! Binds, accepts, spawns, reloads, drains. Nothing here knows what a client says.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};

use crate::admin::{self, Console, Readiness, Reporter, Shutdown, Watched, Wish};
use crate::cancel::{Clients, Order};
use crate::client::{self, PassedThrough, Shared};
use crate::config::{Config, ConfigErrors, ListenAddr};
use crate::log::counted;
use crate::metrics::metrics;
use crate::net::Plain;
use crate::net::tls::ServerTls;
use crate::pool::Registry;
use crate::secrets::{AuthQueryCache, KeyCache, ProcessSecret, Verifiers};
use crate::spans;

/// Connections that the kernel completes before we accept them: a burst of 1,000 must not see a refused one.
const BACKLOG: u32 = 4096;

/// After SIGTERM and `drain_timeout`, or SIGINT: how long clients may take to be told.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// What makes the server end before it is told to.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Serves until told to stop: SIGTERM drains, SIGINT stops at once, SIGHUP reloads.
///
/// # Errors
/// What cannot be bound or read at start.
pub async fn run(config: Config) -> Result<(), Failure> {
    let listeners = config.listen.iter().map(Listener::bind).collect::<Result<Vec<_>, _>>()?;
    let http = match config.http_listen {
        Some(address) => Some(bind_tcp(address).map_err(|error| cannot_listen(&address, "http_listen", &error))?),
        None => None,
    };
    if let Some(endpoint) = &config.otlp_endpoint {
        spans::start(endpoint).map_err(|error| format!("no spans to {endpoint} (setting otlp_endpoint): {error}"))?;
    }
    let shared = shared(config)?;
    show_config(&shared.config.load());
    let (accepting, stop_accepting) = watch::channel(true);
    let readiness = Readiness::default();
    let watched = Arc::new(Watched {
        registry: shared.registry.clone(),
        clients: shared.clients.clone(),
        count: shared.count.clone(),
        readiness: readiness.clone(),
        consoles: AtomicUsize::new(0),
    });
    let http = http.map(|http| tokio::spawn(admin::serve(http, watched.clone())));
    let cloudwatch = shared.config.load().cloudwatch.clone();
    let reporter = cloudwatch.map(|settings| Reporter::start(watched.clone(), settings)).transpose()?;
    let (wishes, wished) = mpsc::channel(1);
    let console = Console::new(watched, wishes);
    tokio::spawn(shared.registry.clone().keep_up());
    tokio::spawn(crate::log::tell_repeats());
    warm(&shared);
    shared.registry.warm_up();
    for listener in listeners {
        tokio::spawn(accept(listener, shared.clone(), console.clone(), stop_accepting.clone()));
    }
    drop(stop_accepting);
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "pgfunnel is ready");
    let mut orders = Orders::new(wished)?;
    let how = orders.end(&shared).await;
    readiness.drain();
    accepting.send_replace(false);
    // The sockets are closed once nobody accepts any more.
    accepting.closed().await;
    tokio::select! {
        () = end(&shared, how) => {}
        _ = orders.end(&shared) => stop(&shared).await,
    }
    console.close().await;
    if let Some(http) = http {
        http.abort();
    }
    if let Some(reporter) = reporter {
        reporter.end().await;
    }
    spans::finish().await;
    Ok(())
}

fn shared(config: Config) -> Result<Arc<Shared>, Failure> {
    let tls = ServerTls::build(&config.client_tls)?;
    let secret = process_secret(&config)?;
    let keys = Arc::new(KeyCache::new(secret.clone()));
    let config = Arc::new(config);
    Ok(Arc::new(Shared {
        registry: Registry::new(config.clone(), keys.clone()),
        config: ArcSwap::new(config),
        clients: Arc::new(Clients::default()),
        listeners: Arc::default(),
        tls: ArcSwapOption::new(tls.map(Arc::new)),
        verifiers: Verifiers::new(keys, secret.clone()),
        auth_query: AuthQueryCache::new(),
        passed_through: PassedThrough::new(secret),
        count: Arc::default(),
        by_user: Arc::default(),
    }))
}

/// Stable across restarts where there is something secret and stable to make it from.
fn process_secret(config: &Config) -> io::Result<ProcessSecret> {
    match config.client_tls.identity.as_ref().and_then(|identity| std::fs::read(&identity.key).ok()) {
        Some(key) => Ok(ProcessSecret::derived_from(&key)),
        None => ProcessSecret::random(),
    }
}

/// Derives the verifiers of users with a plain password before they come.
fn warm(shared: &Arc<Shared>) {
    let shared = shared.clone();
    tokio::spawn(async move {
        let config = shared.config.load_full();
        for (name, user) in &config.users {
            if let Some(secret) = &user.secret {
                shared.verifiers.warm(name, secret).await;
            }
        }
    });
}

/// What we are told, by signals and on the admin console.
struct Orders {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
    wishes: mpsc::Receiver<Wish>,
}

/// How to end.
enum End {
    /// Running transactions may take so long.
    Drain(Duration),
    /// As long as they like.
    WaitForServers,
    /// Clients may stay as long as they like.
    WaitForClients,
}

impl Orders {
    fn new(wishes: mpsc::Receiver<Wish>) -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
            wishes,
        })
    }

    /// Waits for the order to end, reloading on the way; returns how. A second one does not wait.
    async fn end(&mut self, shared: &Arc<Shared>) -> End {
        loop {
            let wish = tokio::select! {
                _ = self.terminate.recv() => return End::Drain(shared.config.load().drain_timeout),
                _ = self.interrupt.recv() => return End::Drain(Duration::ZERO),
                _ = self.hangup.recv() => {
                    // It is in the log.
                    let _ = reload(shared, Config::reload).await;
                    continue;
                }
                wish = self.wishes.recv() => wish,
            };
            match wish {
                Some(Wish::Reload(reply)) => {
                    // Who asked may be gone.
                    let _ = reply.send(reload(shared, Config::reload).await);
                }
                Some(Wish::Set { key, value, reply }) => {
                    let _ = reply.send(reload(shared, move |config| config.set(&key, &value)).await);
                }
                Some(Wish::Shutdown(Shutdown::Now)) => return End::Drain(Duration::ZERO),
                Some(Wish::Shutdown(Shutdown::WaitForServers)) => return End::WaitForServers,
                Some(Wish::Shutdown(Shutdown::WaitForClients)) => return End::WaitForClients,
                // Consoles are there as long as the server is.
                None => std::future::pending().await,
            }
        }
    }
}

/// Puts another configuration in force, made from the one that is: all of it or, if anything is wrong, nothing.
async fn reload(
    shared: &Arc<Shared>,
    make: impl FnOnce(&Config) -> Result<Config, ConfigErrors> + Send + 'static,
) -> Result<(), String> {
    let old = shared.config.load_full();
    let read = move || -> Result<_, Failure> {
        let config = make(&old).map_err(|errors| errors.to_string())?;
        let tls = ServerTls::build(&config.client_tls)?;
        Ok((config, tls))
    };
    let outcome = match tokio::task::spawn_blocking(read).await {
        Ok(Ok((config, tls))) => {
            let config = Arc::new(config);
            shared.registry.reload(config.clone()).map_err(Failure::from).map(|()| {
                for warning in &config.warnings {
                    tracing::warn!("{warning}");
                }
                show_config(&config);
                shared.tls.store(tls.map(Arc::new));
                shared.config.store(config);
                shared.auth_query.clear();
                warm(shared);
            })
        }
        Ok(Err(error)) => Err(error),
        Err(error) => Err(error.into()),
    };
    let outcome = outcome.map_err(|error| error.to_string());
    match &outcome {
        Ok(()) => {
            tracing::info!("configuration reloaded");
            metrics().count_reload();
        }
        Err(error) => {
            tracing::error!("configuration not reloaded, the old one stays in force:\n{error}");
            metrics().count_failed_reload();
        }
    }
    outcome
}

/// Shows the configuration in force in the metrics.
fn show_config(config: &Config) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    metrics().show_config(now.as_secs_f64(), &config.fingerprint(), config.max_clients);
}

/// Ends as we are told.
async fn end(shared: &Shared, how: End) {
    let timeout = match how {
        End::Drain(timeout) => timeout,
        End::WaitForServers => Duration::MAX,
        End::WaitForClients => {
            tracing::info!(clients = clients(shared), "waiting until all clients have left");
            return all_gone(shared).await;
        }
    };
    if !timeout.is_zero() {
        match timeout {
            Duration::MAX => tracing::info!(clients = clients(shared), "draining"),
            _ => tracing::info!(clients = clients(shared), "draining for at most {timeout:?}"),
        }
        shared.clients.order_all(Order::Drain);
        if tokio::time::timeout(timeout, all_gone(shared)).await.is_ok() {
            return;
        }
    }
    stop(shared).await;
}

/// Ends all clients, and waits until they have been told.
async fn stop(shared: &Shared) {
    tracing::info!(clients = clients(shared), "ending the remaining clients");
    shared.clients.order_all(Order::Stop);
    let _ = tokio::time::timeout(STOP_PATIENCE, all_gone(shared)).await;
}

fn clients(shared: &Shared) -> usize {
    shared.count.load(Ordering::Acquire)
}

/// Waits until no client is left, and none of their backends is still being recovered.
async fn all_gone(shared: &Shared) {
    let lent = || shared.registry.all().iter().any(|pool| pool.active.load(Ordering::Acquire) > 0);
    while clients(shared) > 0 || lent() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Something that clients connect to.
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, PathBuf),
}

impl Listener {
    fn bind(address: &ListenAddr) -> Result<Self, Failure> {
        match address {
            ListenAddr::Tcp(address) => {
                bind_tcp(*address).map(Self::Tcp).map_err(|error| cannot_listen(address, "listen", &error))
            }
            ListenAddr::Unix(path) => {
                remove_stale(path);
                let listener =
                    UnixListener::bind(path).map_err(|error| cannot_listen(&path.display(), "listen", &error))?;
                // As PostgreSQL's own (`unix_socket_permissions`): who may connect is decided by the login.
                let everybody = std::os::unix::fs::PermissionsExt::from_mode(0o777);
                std::fs::set_permissions(path, everybody)
                    .map_err(|error| cannot_listen(&path.display(), "listen", &error))?;
                Ok(Self::Unix(listener, path.clone()))
            }
        }
    }

    async fn accept(&self) -> io::Result<(Plain, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                Ok((Plain::tcp(stream)?, Some(peer)))
            }
            Self::Unix(listener, _) => Ok((Plain::Unix(listener.accept().await?.0), None)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Self::Unix(_, path) = self {
            // Nobody can connect to it any more; if it is gone already, so much the better.
            let _ = std::fs::remove_file(path);
        }
    }
}

/// A socket file that nobody listens on was left by a process that was killed.
fn remove_stale(path: &std::path::Path) {
    let refused = std::os::unix::net::UnixStream::connect(path)
        .is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused);
    if refused {
        let _ = std::fs::remove_file(path);
    }
}

fn bind_tcp(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(BACKLOG)
}

fn cannot_listen(address: &dyn std::fmt::Display, setting: &str, error: &io::Error) -> Failure {
    let hint = match error.kind() {
        io::ErrorKind::AddrInUse => "; another process listens there",
        io::ErrorKind::PermissionDenied => "; ports below 1024 need a privilege",
        _ => "",
    };
    format!("cannot listen on {address} (setting {setting}): {error}{hint}").into()
}

/// Accepts until told to stop. An error (out of descriptors, say) is waited out; it never ends the loop.
async fn accept(listener: Listener, shared: Arc<Shared>, console: Arc<Console>, mut accepting: watch::Receiver<bool>) {
    let mut pause = Duration::ZERO;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = accepting.wait_for(|accepting| !accepting) => return,
        };
        match accepted {
            Ok((plain, peer)) => {
                pause = Duration::ZERO;
                tokio::spawn(serve(shared.clone(), console.clone(), plain, peer));
            }
            Err(error) => {
                pause = (pause * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
                counted!(WARN, "cannot accept clients", "", "", {}, "{error}; trying again in {pause:?}");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Serves one connection: a client's, or an operator's.
async fn serve(shared: Arc<Shared>, console: Arc<Console>, plain: Plain, peer: Option<SocketAddr>) {
    if let Some(operator) = client::serve(shared, plain, peer).await {
        // Boxed: a client's task is as large as its largest wait.
        Box::pin(console.serve(operator)).await;
    }
}

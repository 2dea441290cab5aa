//! Binds, accepts, spawns, reloads, drains. Nothing here knows what a client says.

mod listener;
mod orders;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use tokio::sync::{mpsc, watch};

use crate::admin::{self, Console, Readiness, Reporter, Watched};
use crate::cancel::{Clients, Order};
use crate::client::{self, PassedThrough, Shared};
use crate::config::{Config, read_file, without_login};
use crate::counts::{Count, Counts};
use crate::log::counted;
use crate::net::Plain;
use crate::net::tls::ServerTls;
use crate::pool::Registry;
use crate::secrets::{AuthQueryCache, KeyCache, ProcessSecret, Verifiers};
use crate::{spans, track};
use listener::{Listener, bind_tcp, cannot_listen};
use orders::{End, Orders, show_config};

/// After SIGTERM and `drain_timeout`, or SIGINT: how long clients may take to be told.
const STOP_PATIENCE: Duration = Duration::from_secs(2);

/// Connections that are accepted beyond `max_clients`: who comes then is told so, cancels a statement, or opens the console.
/// Room for every console, and for as many on their way in or out.
const RESERVED_CONNECTIONS: usize = 2 * admin::MOST_CONSOLES;

/// Descriptors besides those: listeners, files, signals.
const SPARE_DESCRIPTORS: usize = 64;

/// Descriptors that a server may come to need: for every connection that it takes or makes.
pub fn descriptors(config: &Config) -> usize {
    let clients = config.max_clients + RESERVED_CONNECTIONS;
    let requests = config.http_listen.map_or(0, |_| admin::MOST_REQUESTS);
    clients + config.max_backends + requests + SPARE_DESCRIPTORS
}

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
        spans::start(endpoint)
            .map_err(|error| format!("no spans to {} (setting otlp_endpoint): {error}", without_login(endpoint)))?;
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
        consoles: Arc::default(),
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
        by_user: Counts::default(),
    }))
}

/// Stable across restarts where there is something secret and stable to make it from.
fn process_secret(config: &Config) -> io::Result<ProcessSecret> {
    match config.client_tls.identity.as_ref().and_then(|identity| read_file(&identity.key).ok()) {
        Some(key) => Ok(ProcessSecret::derived_from(&key)),
        None => ProcessSecret::random(),
    }
}

/// Derives the verifiers of users with a plain password before they come, and what else the first one would wait for.
fn warm(shared: &Arc<Shared>) {
    track::prepare();
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
                let count = Count::new(&shared.count);
                if is_full(&shared, &console) {
                    client::turn_away(&shared, &plain, peer);
                    continue;
                }
                tokio::spawn(serve(shared.clone(), console.clone(), plain, peer, count));
            }
            Err(error) => {
                pause = (pause * 2).clamp(Duration::from_millis(5), Duration::from_secs(1));
                counted!(WARN, "cannot accept clients", "", "", {}, "{error}; trying again in {pause:?}");
                tokio::time::sleep(pause).await;
            }
        }
    }
}

/// Whether the last connection is one too many. Those that say nothing count, too: each is a descriptor.
fn is_full(shared: &Shared, console: &Console) -> bool {
    clients(shared) + console.open() > shared.config.load().max_clients + RESERVED_CONNECTIONS
}

/// Serves one connection: a client's, or an operator's.
async fn serve(shared: Arc<Shared>, console: Arc<Console>, plain: Plain, peer: Option<SocketAddr>, count: Count) {
    if let Some(operator) = client::serve(shared, plain, peer, count).await {
        // Boxed: a client's task is as large as its largest wait.
        Box::pin(console.serve(operator)).await;
    }
}

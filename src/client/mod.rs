//! A connection into pgfunnel, from accept to the end of its session: PROXY header, TLS, startup packet, login; then
//! [`Session`]. Everything before the session is limited in time and size.

mod begin;
mod console;
mod login;
mod passthrough;
mod startup;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Instant;

use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::BytesMut;

use crate::cancel::{Clients, Handle};
use crate::config::Config;
use crate::counts::{Count, Counts};
use crate::error::{Error, Side, SqlState};
use crate::listen::Listeners;
use crate::log::{counted, peer_name};
use crate::metrics::metrics;
use crate::net::tls::ServerTls;
use crate::net::{Io, Plain, Socket, proxy_protocol};
use crate::pool::Registry;
use crate::secrets::{AuthQueryCache, Verifiers};
use crate::session::Session;
use crate::trouble;
use crate::wire::backend::{self, Severity};
pub use console::{Access, Operator, not_allowed};
pub use passthrough::PassedThrough;

/// What all clients share.
pub struct Shared {
    /// The configuration in force.
    pub config: ArcSwap<Config>,
    /// The pools.
    pub registry: Arc<Registry>,
    /// Clients that are logged in, or wait for a backend in their login.
    pub clients: Arc<Clients>,
    /// Who listens for them.
    pub listeners: Arc<Listeners>,
    /// TLS towards clients, if it is on.
    pub tls: ArcSwapOption<ServerTls>,
    /// What clients must prove.
    pub verifiers: Verifiers,
    /// What `auth_query` found.
    pub auth_query: AuthQueryCache,
    /// Passwords that PostgreSQL has accepted.
    pub passed_through: PassedThrough,
    /// Clients at this moment, those that log in included.
    pub count: Arc<AtomicUsize>,
    /// The same by user, for users that have a limit.
    pub by_user: Counts<String>,
}

/// Somebody who has proved who it is.
enum Admitted {
    Client(Box<(Socket, login::Client)>),
    Operator(Box<Operator>),
}

/// Logs one accepted connection in, and starts its session. Who wants the admin console is returned instead.
pub async fn serve(shared: Arc<Shared>, plain: Plain, peer: Option<SocketAddr>, count: Count) -> Option<Box<Operator>> {
    match admit(&shared, plain, peer).await? {
        Admitted::Client(client) => {
            let (socket, client) = *client;
            attend(&shared, socket, client, count);
            None
        }
        Admitted::Operator(operator) => Some(operator),
    }
}

/// Starts a client's session, in a task of its own: a login's state is large, and an idle client must stay small.
fn attend(shared: &Shared, socket: Socket, client: login::Client, count: Count) {
    let login::Client { pool, entry, params, user_count } = client;
    let log = shared.config.load().log_connections;
    let counts = (count, Count::new(&pool.clients), user_count);
    let mut session = Session::new(socket, pool, entry.handle.clone(), params, shared.listeners.clone());
    // A block, and not a function: it would hold what it is given twice.
    tokio::spawn(async move {
        let how = session.run().await.how();
        metrics().count_end(how);
        if log {
            let Handle { id, pool, peer, .. } = &*entry.handle;
            tracing::info!(client = id, pool = %pool.key, peer = peer_name(*peer), "{how}");
        }
        drop((session, entry, counts));
    });
}

/// Everything up to the first ReadyForQuery, within `client_login_timeout`. `None`: there is no client to serve.
async fn admit(shared: &Arc<Shared>, plain: Plain, mut peer: Option<SocketAddr>) -> Option<Admitted> {
    let limit = shared.config.load().client_login_timeout;
    let mut socket = None;
    let accepted = Instant::now();
    let outcome = tokio::time::timeout(limit, async {
        // Before a PROXY header puts another's word in its place.
        let near = startup::is_loopback(peer);
        let plain = real_peer(shared, plain, &mut peer).await?;
        let Some(opened) = startup::open(shared, plain, peer, near).await? else { return Ok(None) };
        let (opened_socket, arrival) = opened;
        let socket = socket.insert(opened_socket);
        let asked = Instant::now();
        let outcome = login::login(shared, socket, arrival).await?;
        metrics().observe_login(asked - accepted, asked.elapsed());
        Ok(Some(outcome))
    })
    .await
    .unwrap_or_else(|_| Err(Refusal::Told(login_timeout(limit, shared.registry.holds_any()))));
    match outcome {
        Ok(None) => None,
        Ok(Some(login::Outcome::Client(client))) => {
            metrics().count_login("ok");
            if shared.config.load().log_connections {
                let (id, pool) = (client.entry.handle.id, &client.pool.key);
                tracing::info!(client = id, %pool, peer = peer_name(peer), "logged in");
            }
            socket.map(|socket| Admitted::Client(Box::new((socket, client))))
        }
        Ok(Some(login::Outcome::Console { user, access, key_length })) => {
            metrics().count_login("ok");
            if shared.config.load().log_connections {
                tracing::info!(user, peer = peer_name(peer), "an operator has logged in to the admin console");
            }
            let operator = |socket| Box::new(Operator { socket, user, access, peer, key_length });
            socket.map(operator).map(Admitted::Operator)
        }
        Err(refusal) => {
            refuse(socket, peer, refusal).await;
            None
        }
    }
}

/// Why there is no session.
enum Refusal {
    /// The client is told.
    Told(Error),
    /// It is told on a socket that only now exists.
    On(Box<Socket>, Error),
    /// It could not agree with us on TLS.
    NoTls,
    /// It has gone.
    Gone,
}

impl From<std::io::Error> for Refusal {
    fn from(error: std::io::Error) -> Self {
        match error.downcast::<Error>() {
            Ok(error) => Refusal::Told(error),
            Err(_) => Refusal::Gone,
        }
    }
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        Refusal::Told(error)
    }
}

/// Refuses a connection as it comes, beyond all that are accepted. PostgreSQL, when it can start no process for one, tells
/// it so with a single write that does not wait (`report_fork_failure_to_client`), whatever it may want to say.
pub fn turn_away(shared: &Shared, plain: &Plain, peer: Option<SocketAddr>) {
    let error = login::too_many("pgfunnel", "max_clients", shared.config.load().max_clients);
    note_refusal(&error, peer);
    let mut farewell = BytesMut::new();
    backend::error(&mut farewell, Severity::Fatal, &error);
    plain.send_at_once(&farewell);
}

fn note_refusal(error: &Error, peer: Option<SocketAddr>) {
    // Class 28: who it is, and whether it may come without TLS.
    metrics().count_login(if error.code.code().starts_with("28") { "denied" } else { "failed" });
    metrics().count_error(error);
    trouble::note(error, &"", "");
    counted!(INFO, "login refused", "", error.code.code(), { peer = peer_name(peer), }, "{error}");
}

async fn refuse(socket: Option<Socket>, peer: Option<SocketAddr>, refusal: Refusal) {
    let (socket, error) = match refusal {
        Refusal::Told(error) => (socket, error),
        Refusal::On(socket, error) => (Some(*socket), error),
        Refusal::NoTls => return metrics().count_login("denied"),
        Refusal::Gone => return metrics().count_login("left"),
    };
    note_refusal(&error, peer);
    let Some(mut socket) = socket else { return };
    backend::error(socket.output(), Severity::Fatal, &error);
    let farewell = async {
        let _ = socket.flush().await;
        socket.shutdown().await;
    };
    let _ = tokio::time::timeout(std::time::Duration::from_secs(5), farewell).await;
}

#[cold]
fn login_timeout(limit: std::time::Duration, paused: bool) -> Error {
    metrics().count_timeout("client_login_timeout");
    Error::new(
        Side::Client,
        SqlState::QUERY_CANCELED,
        format!("canceling authentication due to timeout: not finished within client_login_timeout ({limit:?})"),
    )
    .hint(match paused {
        true => "A database is paused on pgfunnel's console; if it is this one, RESUME lets clients go on.",
        false => "Raise client_login_timeout if clients or the database are that slow.",
    })
}

/// Takes the PROXY header off, where one must come.
async fn real_peer(shared: &Shared, mut plain: Plain, peer: &mut Option<SocketAddr>) -> Result<Plain, Refusal> {
    let config = shared.config.load();
    let from = peer.map(|peer| peer.ip());
    if !from.is_some_and(|from| config.proxy_protocol_from.iter().any(|network| network.contains(from))) {
        return Ok(plain);
    }
    match proxy_protocol::read_header(&mut plain).await {
        Ok(real) => {
            *peer = real.or(*peer);
            Ok(plain)
        }
        Err(proxy_protocol::ProxyError::NothingSent) => Err(Refusal::Gone),
        Err(error) => Err(Refusal::On(Box::new(Socket::new(Io::Plain(plain))), error.to_error())),
    }
}

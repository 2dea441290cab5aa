//! The admin console: the database `pgfunnel` (or `pgbouncer`, whose commands and columns it has), which any client of
//! PostgreSQL's can ask what is going on and tell what to do. Open to `admin_users` and `stats_users` only.

mod act;
mod command;
mod extended;
mod session;
mod views;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use super::Watched;
use crate::client::{Access, Operator};
use crate::counts::Count;
use crate::error::{Error, Side, SqlState};
use crate::wire::backend::{self, Severity};
use session::Session;

/// Consoles at one time: a tool that forgets to close its connections is stopped early.
pub const MOST: usize = 50;

/// Of those, so many are for who may do everything: who may only look cannot shut them out.
const RESERVED: usize = 10;

/// How long an operator may take to read a piece of an answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// How long consoles are waited for when the process ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// What only the server can do.
#[derive(Debug)]
pub enum Wish {
    /// Read the configuration again.
    Reload(oneshot::Sender<Result<(), String>>),
    /// Change one value of it.
    Set {
        /// Which.
        key: String,
        /// To what.
        value: String,
        /// What came of it.
        reply: oneshot::Sender<Result<(), String>>,
    },
    /// End.
    Shutdown(Shutdown),
}

/// How to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shutdown {
    /// Now: as SIGINT.
    Now,
    /// When the running transactions are over: as SIGTERM, without its time limit.
    WaitForServers,
    /// When all clients have left by themselves.
    WaitForClients,
}

/// What all consoles share.
pub struct Console {
    watched: Arc<Watched>,
    wishes: mpsc::Sender<Wish>,
    /// Whether they may stay.
    stay: watch::Sender<bool>,
}

impl Console {
    /// For operators who look at `watched`; what they want of the server goes to `wishes`.
    pub fn new(watched: Arc<Watched>, wishes: mpsc::Sender<Wish>) -> Arc<Self> {
        Arc::new(Self { watched, wishes, stay: watch::Sender::new(true) })
    }

    /// Serves an operator until it leaves.
    pub async fn serve(self: Arc<Self>, mut operator: Box<Operator>) {
        let _open = Count::new(&self.watched.consoles);
        let most = if operator.access == Access::Admin { MOST } else { MOST - RESERVED };
        let refused = match (self.open() > most, self.watched.clients.enter_console(operator.key_length)) {
            (true, _) => too_many(most),
            (false, Err(error)) => Error::new(Side::Proxy, SqlState::INTERNAL_ERROR, error.to_string()),
            (false, Ok(entry)) => {
                // A machine that is gone is noticed.
                operator.socket.io().plain().watch_peer(Some(PATIENCE));
                return Session::new(&self, *operator, entry).run().await;
            }
        };
        backend::error(operator.socket.output(), Severity::Fatal, &refused);
        let _ = tokio::time::timeout(PATIENCE, operator.socket.flush()).await;
        operator.socket.shutdown().await;
    }

    /// Tells all operators that the process ends.
    pub async fn close(&self) {
        self.stay.send_replace(false);
        let gone = async {
            while self.open() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(FAREWELL, gone).await;
    }

    /// How many there are.
    pub fn open(&self) -> usize {
        self.watched.consoles.load(Ordering::Acquire)
    }

    /// Waits until they may not stay.
    async fn closed(&self) {
        // An error means that we are gone ourselves.
        let _ = self.stay.subscribe().wait_for(|stay| !stay).await;
    }
}

#[cold]
fn too_many(most: usize) -> Error {
    let message = format!("too many connections to the admin console (at most {most})");
    Error::new(Side::Client, SqlState::TOO_MANY_CONNECTIONS, message)
        .hint("SHOW CLIENTS does not list them; look for a tool that does not close its connections.")
}

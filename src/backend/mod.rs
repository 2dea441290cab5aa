//! A connection into PostgreSQL: connect, log in, ask it something ourselves, clean it, recover it from a client that
//! vanished, cancel what it runs, close it. Knows nothing of pools or clients.

mod ask;
mod carried;
mod connect;
mod login;
mod recover;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use ask::{Answer, AskError, Row};
pub use carried::Carried;
pub use connect::{ConnectError, Failed, Target, cancel, connect};
pub use login::{Credential, KeySource};
pub use recover::Unfinished;

use crate::clock::Moment;
use crate::log::counted;
use crate::net::Socket;
use crate::prepared::BackendStatements;
use crate::track::{Effects, Params};
use crate::wire::backend as tag;
use crate::wire::backend::{ErrorFields, Status};
use crate::wire::{HEADER, Header};

/// How long PostgreSQL may take to end a connection that we end before that is worth a warning. A session ends in
/// milliseconds.
const CLOSE_PATIENCE: Duration = Duration::from_secs(60);

/// Where PostgreSQL knows this backend, for cancelling.
pub struct Identity {
    /// What it was connected to; its endpoint is the address that was reached, not a name that may mean another one.
    pub target: Target,
    /// Its process id there.
    pub pid: i32,
    /// Its cancel key.
    pub key: Vec<u8>,
    /// Whether PostgreSQL asked for a proof that we are that role; it may trust the address that we come from.
    pub proved: bool,
}

/// A backend: logged in, and what we know of its state.
pub struct Backend {
    /// The connection.
    pub socket: Socket,
    /// Where PostgreSQL knows it.
    pub identity: Arc<Identity>,
    /// The statements that it has.
    pub statements: BackendStatements,
    /// The parameters in force; `None`: unknown.
    pub params: Option<Arc<Params>>,
    /// What it reported last (ParameterStatus).
    pub reported: BTreeMap<String, String>,
    /// The transaction state at the last ReadyForQuery.
    pub status: Status,
    /// The client that had it last; 0: none.
    pub owner: u64,
    /// Something that no text shows may have been left since it was cleaned last.
    pub unclean: bool,
    /// Another owner's `currval` may still be there.
    pub foreign_sequences: bool,
    /// A transaction of its owner's may have sent a notification that the listener has yet to hear.
    pub notified: bool,
    /// What it was told while it answered questions of ours (NotificationResponses), for the client that listens.
    pub notifications: Vec<u8>,
    /// What its owner may have left behind.
    pub residue: Effects,
    /// Whether it has our own statements for putting parameters in force.
    pub has_setters: bool,
    /// Whether it has those for asking what it carries.
    pub has_asks: bool,
    /// To be closed rather than lent after this.
    pub expires: Option<Moment>,
    /// Since when nobody has it.
    pub idle_since: Moment,
    /// Set when it must not be used again.
    pub broken: bool,
}

impl Backend {
    /// Whether it can be lent: nothing has happened to it while it was idle. What it had to tell (a changed parameter,
    /// a notice) is read; an error or the end of the stream means no. Looks into the kernel only if `probe`: a system
    /// call tells for sure, the runtime's own readiness is a moment old.
    #[inline]
    pub fn is_usable(&mut self, now: Moment, probe: bool) -> bool {
        if self.broken || self.expires.is_some_and(|at| at <= now) {
            return false;
        }
        let heard = if probe { self.socket.io().has_input() } else { self.socket.io().has_heard() };
        if !heard {
            return true;
        }
        self.hear(probe)
    }

    /// Reads what an idle backend has to tell.
    #[cold]
    fn hear(&mut self, probe: bool) -> bool {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        let mut heard = self.socket.io().is_tls();
        loop {
            match self.socket.poll_fill(&mut cx) {
                std::task::Poll::Pending => {
                    self.socket.give_back();
                    // The kernel may know of an end that the runtime does not yet.
                    return self.socket.unseen().is_empty() && (!probe || heard);
                }
                std::task::Poll::Ready(Ok(n)) if n > 0 => {
                    heard = true;
                    if !self.take_news() {
                        return false;
                    }
                }
                std::task::Poll::Ready(_) => return false,
            }
        }
    }

    /// Consumes what an idle backend may say. `false`: it said something else.
    fn take_news(&mut self) -> bool {
        loop {
            match Header::peek(self.socket.unseen(), tag::limit) {
                Ok(Some(header)) if self.socket.unseen().len() >= header.total => {
                    let body = &self.socket.unseen()[HEADER..header.total];
                    match header.tag {
                        tag::PARAMETER_STATUS => note_parameter(&mut self.reported, body),
                        tag::NOTICE | tag::NOTIFICATION => {}
                        tag::ERROR => {
                            let error = ErrorFields::decode(body);
                            let (pool, backend) = (self.identity.target.pool(), self.identity.pid);
                            let (event, message) = ("an idle backend was ended", error.message);
                            counted!(INFO, event, pool, &error.code, { backend, }, "{message}");
                            return false;
                        }
                        _ => return false,
                    }
                    self.socket.consume(header.total);
                }
                Ok(_) => return true,
                Err(_) => return false,
            }
        }
    }

    /// Whether PostgreSQL would end it for being idle, because its last owner wanted that for itself.
    #[inline]
    pub fn limits_idleness(&self) -> bool {
        self.params.as_ref().is_some_and(|params| params.limits_idleness)
    }

    /// Notes the ParameterStatus that is next to be seen.
    pub fn note_parameter(&mut self, header: Header) {
        let body = self.socket.unseen().get(HEADER..header.total).unwrap_or_default();
        note_parameter(&mut self.reported, body);
    }

    /// Ends the connection and waits until the server has closed its side, so that it no longer counts there. What it
    /// `may_run` is cancelled.
    pub async fn close(&mut self, may_run: bool) {
        self.broken = true;
        if may_run {
            // The server looks at its socket only between statements.
            let _ = cancel(&self.identity).await;
        }
        postgres_protocol::message::frontend::terminate(self.socket.output());
        if tokio::time::timeout(CLOSE_PATIENCE, self.ended()).await.is_err() {
            let (pool, backend) = (self.identity.target.pool(), self.identity.pid);
            let event = "a backend is not closed by the server";
            counted!(WARN, event, pool, "", { backend, }, "not for {CLOSE_PATIENCE:?}; it still counts");
            // A vanished host is noticed by keepalive, which ends this.
            self.ended().await;
        }
    }

    async fn ended(&mut self) {
        if self.socket.flush().await.is_ok() {
            self.socket.shutdown().await;
        }
        loop {
            let unseen = self.socket.unseen().len();
            self.socket.consume(unseen);
            match std::future::poll_fn(|cx| self.socket.poll_fill(cx)).await {
                Ok(n) if n > 0 => {}
                _ => return,
            }
        }
    }
}

/// Notes a ParameterStatus.
fn note_parameter(reported: &mut BTreeMap<String, String>, body: &[u8]) {
    if let Some((name, value)) = tag::parameter_status(body) {
        match reported.get_mut(name) {
            Some(known) if known == value => {}
            Some(known) => value.clone_into(known),
            None => drop(reported.insert(name.to_owned(), value.to_owned())),
        }
    }
}

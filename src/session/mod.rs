//! The hot path: the life of one client's transactions. A request comes, a lease is borrowed, bytes are relayed, the
//! lease is released; read [`Session::run`] top-down. What single messages mean is in `requests` (from the client) and
//! `replies` (from the backend).
//!
//! One task per client polls both directions; nothing is buffered beyond one read, and an idle client holds no buffer.

mod handover;
mod limits;
mod pipeline;
mod refusal;
mod replies;
mod requests;
mod statements;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::cancel::{Handle, Order};
use crate::config::{PoolMode, PoolSettings};
use crate::error::{Error, Side, SqlState};
use crate::metrics::metrics;
use crate::net::{Socket, poll_forward};
use crate::pool::{Lease, Pool};
use crate::prepared::ClientStatements;
use crate::track::effects::Rest;
use crate::track::{Effects, Params, PinReason};
use crate::wire::backend::{self, Severity, Status};
use handover::NoLease;
use limits::Limits;
use pipeline::Pipeline;
use refusal::Refused;
use replies::Lost;
use requests::Wish;
pub(crate) use requests::no_replication;

/// While more than this waits to be sent to one side, the other is not read.
const BACKLOG: usize = 64 * 1024;

/// Turns of relaying per wake-up, so that a busy client does not starve the others.
const TURNS: usize = 16;

/// A logged-in client.
pub struct Session {
    client: Socket,
    pool: Arc<Pool>,
    handle: Arc<Handle>,
    application: Box<str>,
    params: Arc<Params>,
    statements: ClientStatements,
    pipeline: Pipeline,
    limits: Limits,
    /// What its statements have done to its session.
    pins: Effects,
    /// Bytes to come of a message from the client.
    request_rest: usize,
    /// They are dropped, like the message that they belong to.
    rest_is_skipped: bool,
    /// Bytes to come of a message from the backend.
    reply_rest: usize,
    /// They are not for the client.
    reply_is_swallowed: bool,
    /// ParameterStatus has told the client of other values than those of its login.
    told_otherwise: bool,
    /// Extended-query messages were sent, and no Sync behind them.
    open_batch: bool,
    /// The client's last message was Flush: it waits for the backend, although no Sync is out.
    flushing: bool,
    /// The backend skips everything up to a Sync that the client has not sent yet.
    skipping: bool,
    /// The backend waits for COPY data.
    copy_in: bool,
    /// `query_timeout` has passed, a cancel is out.
    timed_out: bool,
    /// A FATAL error has passed.
    fatal: bool,
    /// What identifies the settings that its statements are parsed with.
    parse_key: u128,
    /// Settings differ from those of its login, so that its statements are its own.
    changes_parse: bool,
    /// What comes next from the client can only be decided once more is answered.
    undecided: bool,
    /// DDL was done under this lease.
    changed_schema: bool,
    /// What was sent last ends state: nothing is sent behind it before it is answered.
    barrier: bool,
    /// The same, bound in this batch and not executed yet.
    clears: bool,
    /// The effects of the statement that stands behind the barrier.
    clearing: Effects,
    /// The last unnamed statement's effects and definition, if it has any.
    unnamed: Option<(Effects, Arc<[u8]>)>,
    /// What the rest of a long Query is looked through with.
    rest: Option<Rest>,
    /// Statements parsed on this backend under settings that hold for this transaction only.
    local_parses: Vec<u64>,
    /// What the client wants was refused, and is being skipped.
    refused: Option<Refused>,
    /// The `DEALLOCATE` that runs: the client's name and the statement's id.
    deallocating: Option<(Box<[u8]>, u64)>,
}

/// How a session ended.
#[derive(Debug)]
pub enum End {
    /// The client left.
    Left,
    /// The client's connection broke.
    Gone,
    /// We, or the database, ended it; the client is told (unless it is `None`: it has been).
    Ended(Option<Error>),
}

/// How a lease ended, or why it did not.
enum Outcome {
    /// The transaction is over.
    Done,
    /// The client is gone; `true`: it said so.
    ClientGone(bool),
    /// The backend is.
    BackendLost(Lost),
    /// A limit or an order ends the session.
    Ended(Error),
}

impl Session {
    /// A client that has just been told ReadyForQuery.
    pub fn new(client: Socket, pool: Arc<Pool>, handle: Arc<Handle>, params: Arc<Params>) -> Self {
        let application = params.settings.get("application_name").unwrap_or_default().into();
        let pins = login_effects(&params);
        Self {
            client,
            pool,
            handle,
            application,
            parse_key: params.settings.parse_key(),
            params,
            statements: ClientStatements::default(),
            pipeline: Pipeline::default(),
            limits: Limits::default(),
            pins,
            request_rest: 0,
            rest_is_skipped: false,
            reply_rest: 0,
            reply_is_swallowed: false,
            told_otherwise: false,
            open_batch: false,
            flushing: false,
            skipping: false,
            copy_in: false,
            timed_out: false,
            fatal: false,
            changes_parse: false,
            undecided: false,
            changed_schema: false,
            barrier: false,
            clears: false,
            clearing: Effects::NONE,
            unnamed: None,
            rest: None,
            local_parses: Vec::new(),
            refused: None,
            deallocating: None,
        }
    }

    /// Serves the client until it leaves.
    pub async fn run(&mut self) -> End {
        let end = self.serve().await;
        if let End::Ended(Some(error)) = &end {
            metrics().count_error(error);
            tracing::info!(client = self.handle.id, pool = %self.pool.key, code = error.code.code(), "session ended: {error}");
            // Behind half a message it would be read as the rest of that.
            if self.reply_rest == 0 || self.reply_is_swallowed {
                backend::error(self.client.output(), Severity::Fatal, error);
            }
        }
        if !matches!(end, End::Gone) {
            // A client that does not read is not waited for.
            let farewell = async {
                let _ = self.client.flush().await;
                self.client.shutdown().await;
            };
            let _ = tokio::time::timeout(limits::FAREWELL, farewell).await;
        }
        end
    }

    async fn serve(&mut self) -> End {
        loop {
            // 1. Wait, holding nothing.
            match self.idle().await {
                Ok(Wish::More) => {}
                Ok(Wish::Leave) => return End::Left,
                Err(end) => return end,
            }
            // 2. Borrow.
            let mut lease = match self.borrow().await {
                Ok(lease) => lease,
                Err(NoLease::Refused(error)) => {
                    let _ = self.handle.detach();
                    self.refuse(&error);
                    continue;
                }
                Err(NoLease::Gone) => return End::Gone,
            };
            // 3. and 4. Bring the backend to this client's state, and relay until the transaction is over.
            let outcome = self.relay(&mut lease).await;
            // 5. and 6. Give it back, or get it back from a client that is gone.
            if let Some(end) = self.give_back(lease, outcome).await {
                return end;
            }
        }
    }

    /// Waits for a message that needs a backend. `More`: it is there.
    async fn idle(&mut self) -> Result<Wish, End> {
        std::future::poll_fn(|cx| {
            self.handle.listen(cx.waker());
            loop {
                match self.handle.order() {
                    Order::None => {}
                    Order::Drain | Order::Stop => return Poll::Ready(Err(End::Ended(Some(shutting_down())))),
                }
                match self.answer_alone() {
                    Ok(None) => return Poll::Ready(Ok(Wish::More)),
                    Ok(Some(Wish::Leave)) => return Poll::Ready(Ok(Wish::Leave)),
                    Ok(Some(Wish::More)) => {}
                    Err(error) => return Poll::Ready(Err(End::Ended(Some(error)))),
                }
                if !self.client.is_flushed() {
                    match self.client.poll_flush(cx) {
                        Poll::Ready(Err(_)) => return Poll::Ready(Err(End::Gone)),
                        // While it does not read, nothing more is read from it.
                        Poll::Pending => return Poll::Pending,
                        Poll::Ready(Ok(())) => {}
                    }
                }
                match self.client.poll_fill(cx) {
                    Poll::Ready(Ok(n)) if n > 0 => {}
                    Poll::Ready(_) => return Poll::Ready(Err(End::Gone)),
                    Poll::Pending => {
                        self.client.give_back();
                        let limit = self.pool.settings.load().client_idle_timeout;
                        return match self.limits.poll(cx, limit) {
                            Poll::Ready(()) => Poll::Ready(Err(End::Ended(Some(limits::client_idle(limit))))),
                            Poll::Pending => Poll::Pending,
                        };
                    }
                }
            }
        })
        .await
    }

    /// Relays both directions until the transaction is over, or something ends it.
    async fn relay(&mut self, lease: &mut Lease) -> Outcome {
        std::future::poll_fn(|cx| {
            for _ in 0..TURNS {
                match self.turn(lease, cx) {
                    Ok(true) => {}
                    Ok(false) => return self.poll_limits(lease, cx).map(Outcome::Ended),
                    Err(outcome) => return Poll::Ready(outcome),
                }
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await
    }

    /// Handles what is there, sends what can be sent, reads what can be read. `false`: nothing moves before the next
    /// wake-up.
    #[inline]
    fn turn(&mut self, lease: &mut Lease, cx: &mut Context<'_>) -> Result<bool, Outcome> {
        if self.handle.order() == Order::Stop {
            return Err(Outcome::Ended(shutting_down()));
        }
        let mut leaving = false;
        let mut held_back = self.holds_back(lease);
        if !held_back {
            self.undecided = false;
            match self.take_requests(lease) {
                Ok(Wish::More) => {}
                // What it asked before is answered first.
                Ok(Wish::Leave) if self.pipeline.outstanding() > 0 => leaving = true,
                Ok(Wish::Leave) => return Err(Outcome::ClientGone(true)),
                Err(error) => return Err(Outcome::Ended(error)),
            }
            held_back = self.holds_back(lease);
            self.say_what_is_due(lease);
        }
        let sent = poll_forward(&mut self.client, &mut lease.socket, cx);
        if let Poll::Ready(Err(error)) = sent {
            // What it said before it went (FATAL) may still be there to read.
            return Err(self.last_words(lease, cx, error));
        }
        let lost = match lease.socket.has_passed() {
            true => Ok(()),
            false => self.take_replies(lease),
        };
        match poll_forward(&mut lease.socket, &mut self.client, cx) {
            Poll::Ready(Err(_)) => return Err(Outcome::ClientGone(leaving)),
            Poll::Ready(Ok(())) | Poll::Pending => {}
        }
        lost.map_err(Outcome::BackendLost)?;
        if self.is_over(lease) {
            return Err(Outcome::Done);
        }
        if leaving && (self.pipeline.outstanding() == 0 || self.copy_in) {
            return Err(Outcome::ClientGone(true));
        }
        let mut moved = held_back && !self.holds_back(lease);
        if !lease.socket.has_passed() && self.client.backlog() < BACKLOG {
            match lease.socket.poll_fill(cx) {
                Poll::Ready(Ok(0)) => {
                    return Err(Outcome::BackendLost(Lost::Broke(io::ErrorKind::UnexpectedEof.into())));
                }
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Ready(Err(error)) => return Err(Outcome::BackendLost(Lost::Broke(error))),
                Poll::Pending => {}
            }
        }
        if !leaving && !self.client.has_passed() && !self.holds_back(lease) {
            match self.client.poll_fill(cx) {
                Poll::Ready(Ok(0)) | Poll::Ready(Err(_)) => return Err(Outcome::ClientGone(false)),
                Poll::Ready(Ok(_)) => moved = true,
                Poll::Pending => {}
            }
        }
        Ok(moved)
    }

    /// So much is under way that no further request is taken.
    #[inline]
    fn holds_back(&self, lease: &Lease) -> bool {
        lease.socket.backlog() >= BACKLOG
            || self.client.backlog() >= BACKLOG
            || self.pipeline.is_full()
            || self.undecided && !self.pipeline.is_certain()
            || self.barrier && !self.pipeline.is_empty()
    }

    /// The transaction is over, nothing is owed to either side, and nothing pins the client.
    #[inline]
    fn is_over(&self, lease: &Lease) -> bool {
        if lease.status != Status::Idle {
            return self.breaks_statement_mode(lease);
        }
        self.is_between(lease)
            && lease.socket.is_flushed()
            && !self.client.has_passed()
            && !lease.socket.has_passed()
            && (!self.is_pinned() || self.handle.order() == Order::Drain)
    }

    /// Whether the backend keeps anything of this client beyond its transaction.
    fn is_pinned(&self) -> bool {
        self.pins.pins() || self.mode() == PoolMode::Session
    }

    /// Between two transactions, pinned or not.
    #[inline]
    fn is_between(&self, lease: &Lease) -> bool {
        lease.status == Status::Idle
            && self.pipeline.is_empty()
            && !self.open_batch
            && !self.skipping
            && self.request_rest == 0
            && self.reply_rest == 0
    }

    /// The backend takes nothing more: what it said last (FATAL) may still be there to read.
    #[cold]
    fn last_words(&mut self, lease: &mut Lease, cx: &mut Context<'_>, error: io::Error) -> Outcome {
        loop {
            if let Err(lost) = self.take_replies(lease) {
                return Outcome::BackendLost(lost);
            }
            match lease.socket.poll_fill(cx) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                _ => return Outcome::BackendLost(Lost::Broke(error)),
            }
        }
    }

    fn mode(&self) -> PoolMode {
        self.pool.settings.load().mode
    }

    fn settings(&self) -> Arc<PoolSettings> {
        self.pool.settings.load_full()
    }
}

/// What a client's own settings mean for what can be told of its statements.
fn login_effects(params: &Params) -> Effects {
    let reported = |name: &str| params.reported.get(name).map(String::as_str).unwrap_or_default();
    let mut effects = Effects::NONE;
    // Encodings whose characters can hold a quote or a backslash (manual, "Character Set Support").
    let unsafe_encodings = ["BIG5", "GB18030", "GBK", "JOHAB", "SHIFT_JIS_2004", "SJIS", "UHC"];
    if reported("standard_conforming_strings") == "off" || unsafe_encodings.contains(&reported("client_encoding")) {
        effects.add(PinReason::Strings.effect());
    }
    if params.settings.get("search_path").is_some_and(|path| path.contains("pg_temp")) {
        effects.add(PinReason::Temporary.effect());
    }
    effects
}

fn shutting_down() -> Error {
    Error::new(Side::Proxy, SqlState::ADMIN_SHUTDOWN, "terminating connection because pgfunnel is shutting down")
        .hint("Connect again; another instance serves you.")
}

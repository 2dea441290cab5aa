//! The limits on time: a client that is idle, idle in a transaction or does not read, and a statement that takes too
//! long. One alarm per client at most, set only when there is something to wait for.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use super::Session;
use super::timing::Timing;
use crate::backend::Backend;
use crate::cancel::Order;
use crate::clock::{Alarm, Moment};
use crate::config::PoolMode;
use crate::error::{Error, Side, SqlState};
use crate::log::counted;
use crate::metrics::metrics;
use crate::net::Io;
use crate::wire::backend::Status;

/// How long a last message may take to get out.
pub(super) const FAREWELL: Duration = Duration::from_secs(5);

/// A client that holds a lease for longer than this is probed by keepalive: its machine may be gone.
const PROBE_AFTER: Duration = Duration::from_secs(5);

/// How long a client that holds a lease may acknowledge nothing.
const PEER_PATIENCE: Duration = Duration::from_secs(30);

/// How long a backend may take to obey a cancel before it is given up.
const CANCEL_PATIENCE: Duration = Duration::from_secs(10);

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Waiting {
    /// Nothing with a limit.
    #[default]
    Nothing,
    /// A client without a lease.
    IdleClient,
    /// The client's next message, or that it reads.
    Client,
    /// The backend.
    Backend,
}

/// A client's limits.
#[derive(Debug, Default)]
pub(super) struct Limits {
    waiting: Waiting,
    since: Option<Moment>,
    alarm: Alarm,
    /// Keepalive is on.
    probing: bool,
    /// `query_timeout` has passed, a cancel is out.
    pub(super) timed_out: bool,
    /// Bytes sent to either side when it was last looked at.
    sent: u64,
}

impl Limits {
    /// Waits for a client without a lease, at most `limit`.
    #[inline]
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, limit: Option<Duration>, timing: &mut Timing) -> Poll<()> {
        self.wait(Waiting::IdleClient);
        match limit {
            Some(limit) => self.poll_until(cx, limit, timing.now()),
            None => {
                self.alarm.put_away();
                Poll::Pending
            }
        }
    }

    /// Notes what is waited for; the time counts from when that changed.
    #[inline]
    fn wait(&mut self, waiting: Waiting) {
        if self.waiting != waiting {
            self.waiting = waiting;
            self.since = None;
        }
    }

    /// What is waited for begins anew.
    #[inline]
    pub(super) fn restart(&mut self) {
        self.since = None;
    }

    #[inline]
    fn poll_until(&mut self, cx: &mut Context<'_>, limit: Duration, now: Moment) -> Poll<()> {
        let at = *self.since.get_or_insert(now) + limit;
        ready!(self.alarm.poll(cx, at));
        self.since = None;
        Poll::Ready(())
    }

    /// The client's one alarm, while none of these limits applies.
    pub(super) fn alarm(&mut self) -> &mut Alarm {
        &mut self.alarm
    }

    /// The lease is over.
    pub(super) fn relax(&mut self, client: &Io) {
        self.wait(Waiting::Nothing);
        if std::mem::take(&mut self.probing) {
            client.plain().watch_peer(None);
        }
    }
}

impl Session {
    /// The limits that apply while a lease is held and nothing moves.
    pub(super) fn poll_limits(&mut self, lease: &Backend, cx: &mut Context<'_>) -> Poll<Error> {
        // An order wakes only who listens; the last one may have used up the registration.
        self.handle.listen(cx.waker());
        let order = self.handle.order();
        if order >= Order::Stop {
            return Poll::Ready(told_to_leave(order));
        }
        if self.is_rung(lease) {
            cx.waker().wake_by_ref();
        }
        self.heed_settings();
        // Without Sync or Flush PostgreSQL need not answer at all.
        let unfinished = self.batch.is_open && !self.batch.is_flushed && self.pipeline.outstanding() == 0;
        let for_client = self.pipeline.is_empty()
            || unfinished
            || lease.socket.has_passed()
            || self.client.backlog() > 0
            || self.copy_in;
        let limit = if for_client {
            self.limits.wait(Waiting::Client);
            let idle = self.is_idle_pinned(lease);
            let settings = self.settings.load();
            if idle { settings.client_idle_timeout } else { settings.idle_transaction_timeout }
        } else {
            self.limits.wait(Waiting::Backend);
            if self.limits.timed_out { Some(CANCEL_PATIENCE) } else { self.settings.load().query_timeout }
        };
        // A slow reader, or a slow COPY, is not a stalled one. A statement's time does not start anew with each row.
        let sent = self.client.sent().wrapping_add(lease.socket.sent());
        if for_client && self.limits.sent != sent {
            self.limits.sent = sent;
            self.limits.since = None;
        }
        let probe = PROBE_AFTER.min(limit.unwrap_or(PROBE_AFTER));
        let next = if self.limits.probing { limit } else { Some(probe) };
        let Some(next) = next else { return Poll::Pending };
        let since = self.limits.since;
        if self.limits.poll_until(cx, next, self.timing.now()).is_pending() {
            return Poll::Pending;
        }
        if !self.limits.probing && limit.is_none_or(|limit| limit > next) {
            self.limits.probing = true;
            self.client.io().plain().watch_peer(Some(PEER_PATIENCE));
            // The limit itself still counts from where it began.
            self.limits.since = since;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        self.limit_passed(for_client, lease, cx)
    }

    /// A pinned client between transactions has its backend by right: it is an idle client.
    fn is_idle_pinned(&self, lease: &Backend) -> bool {
        self.is_between(lease) && self.client.unseen().is_empty() && self.is_pinned()
    }

    fn limit_passed(&mut self, for_client: bool, lease: &Backend, cx: &mut Context<'_>) -> Poll<Error> {
        if for_client {
            let idle = self.is_idle_pinned(lease);
            let settings = self.settings.load();
            return Poll::Ready(if idle {
                client_idle(settings.client_idle_timeout)
            } else {
                idle_in_transaction(settings.idle_transaction_timeout)
            });
        }
        if self.limits.timed_out {
            return Poll::Ready(self.query_timeout_error());
        }
        self.limits.timed_out = true;
        metrics().count_timeout("query_timeout");
        let handle = self.handle.clone();
        tokio::spawn(async move {
            if let Err(error) = handle.cancel().await {
                let event = "a statement over query_timeout could not be cancelled";
                counted!(WARN, event, handle.pool.key, "", { client = handle.id, }, "{error}");
            }
        });
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// 57014 in the place of PostgreSQL's own.
    pub(super) fn query_timeout_error(&self) -> Error {
        let limit = self.pool.settings.load().query_timeout.unwrap_or_default();
        Error::new(
            Side::Proxy,
            SqlState::QUERY_CANCELED,
            format!("canceling statement because it ran longer than query_timeout ({limit:?})"),
        )
        .hint("Make the statement faster, or raise query_timeout in pgfunnel's configuration.")
    }

    /// In statement mode a transaction block may not stay open.
    pub(super) fn breaks_statement_mode(&self, lease: &Backend) -> bool {
        lease.status != Status::Idle
            && self.mode == PoolMode::Statement
            && self.pipeline.is_empty()
            && !self.batch.is_open
    }
}

/// 57014 for a client that was still waiting for a backend, in PostgreSQL's words.
pub(super) fn cancelled() -> Error {
    Error::new(Side::Client, SqlState::QUERY_CANCELED, "canceling statement due to user request")
        .detail("The statement was still waiting for a backend.")
}

/// 57P05 for a client without a lease.
pub(super) fn client_idle(limit: Option<Duration>) -> Error {
    metrics().count_timeout("client_idle_timeout");
    Error::new(
        Side::Proxy,
        SqlState::IDLE_SESSION_TIMEOUT,
        format!(
            "terminating connection because it was idle for longer than client_idle_timeout ({:?})",
            limit.unwrap_or_default()
        ),
    )
    .hint("Connect again, or raise client_idle_timeout in pgfunnel's configuration.")
}

/// 25P03.
fn idle_in_transaction(limit: Option<Duration>) -> Error {
    metrics().count_timeout("idle_transaction_timeout");
    Error::new(
        Side::Proxy,
        SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        format!(
            "terminating connection because it was idle in a transaction for longer than idle_transaction_timeout ({:?})",
            limit.unwrap_or_default()
        ),
    )
    .hint("The transaction was rolled back. Commit before the function returns, or raise idle_transaction_timeout.")
}

/// 25001 … in PgBouncer's sense: statement mode has no transaction blocks.
pub(super) fn transaction_in_statement_mode() -> Error {
    Error::new(
        Side::Client,
        SqlState::ACTIVE_SQL_TRANSACTION,
        "transaction blocks are not allowed with pool_mode = \"statement\"",
    )
    .hint("Use pool_mode = \"transaction\" for this database or user.")
}

/// 08006: the backend went without a word.
pub(super) fn backend_lost(error: &io::Error) -> Error {
    Error::new(Side::Database, SqlState::CONNECTION_FAILURE, "the connection to the database was lost")
        .detail(error.to_string())
        .hint("The statement may or may not have been executed.")
}

/// 57P01, as PostgreSQL says it.
#[cold]
pub(crate) fn told_to_leave(order: Order) -> Error {
    match order {
        Order::Kill => {
            Error::new(Side::Proxy, SqlState::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
                .hint("It was ended on pgfunnel's console.")
        }
        Order::None | Order::Drain | Order::Stop => shutting_down(),
    }
}

/// The same while we end.
pub(super) fn shutting_down() -> Error {
    Error::new(Side::Proxy, SqlState::ADMIN_SHUTDOWN, "terminating connection because pgfunnel is shutting down")
        .hint("Connect again; another instance serves you.")
}

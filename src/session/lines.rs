//! The log's lines about one client: who it is, what is told of it, and, where it was slow, where the time went and under
//! how much pressure its pool is. Nothing of it is looked up unless there is something to tell.

use std::cell::LazyCell;
use std::fmt::Display;
use std::time::Duration;

use super::Session;
use super::timing::Answered;
use crate::backend::Backend;
use crate::clock::Moment;
use crate::error::Error;
use crate::log::{counted, given, peer_name};
use crate::spans::{self, Query};
use crate::trace::TraceContext;
use crate::track::{PinReason, Said};

/// What a line says besides who it is about.
#[derive(Default)]
struct About<'a> {
    sqlstate: &'a str,
    backend: Option<i32>,
    said: Option<Said>,
    reason: Option<&'static str>,
    /// How long it waited for a backend, and how long the database took.
    times: Option<(Duration, Duration)>,
}

impl Session {
    /// An error that the client is told for the statement that was answered last or runs.
    #[cold]
    pub(super) fn log_error(&self, event: &'static str, error: &Error) {
        let said = self.saids.now().map(|noted| noted.said);
        self.log(event, error, About { sqlstate: error.code.code(), said, ..About::default() });
    }

    /// There is no backend for what the client asks, and will be none.
    #[cold]
    pub(super) fn log_refusal(&self, error: &Error) {
        let (said, asked, now) = (self.next_said(), self.timing.asked(), Moment::now());
        let waited = now.since(asked);
        let about = || About { sqlstate: error.code.code(), said, ..About::default() };
        self.log("refused", error, about());
        if self.pool.settings.load().log_slow_borrow.is_some_and(|limit| waited > limit) {
            let times = Some((waited, Duration::ZERO));
            self.log("slow borrow", &format_args!("{waited:?}, in vain"), About { times, ..about() });
        }
        if spans::is_on() {
            self.send_spans(said.as_ref(), (asked, None, now), Some(error.code.code()));
        }
    }

    /// From now on it keeps its backend.
    #[cold]
    pub(super) fn log_pin(&self, reason: PinReason) {
        let said = Some(Said { command: self.pinned_by, trace: None });
        let (reason, by) = (reason.as_str(), self.pinned_by);
        self.log(
            "pinned",
            &format_args!("{reason}, by {by}"),
            About { said, reason: Some(reason), ..About::default() },
        );
    }

    /// A query has been answered: tells those that are slow.
    #[inline]
    pub(super) fn tell_answered(&self, took: &Answered, lease: &Backend) {
        if self.saids.are_wanted() {
            self.tell_slow(took, lease);
        }
    }

    #[cold]
    fn tell_slow(&self, took: &Answered, lease: &Backend) {
        let settings = self.pool.settings.load();
        if settings.log_slow_query.is_some_and(|limit| took.total() > limit) {
            self.log_slow("slow query", took.total(), took, lease);
        }
        if settings.log_slow_borrow.is_some_and(|limit| took.waited() > limit) {
            self.log_slow("slow borrow", took.waited(), took, lease);
        }
        if spans::is_on() {
            let ([asked, served, answered], noted) = (took.moments(), self.saids.now());
            let sqlstate = noted.and_then(|noted| noted.sqlstate.as_deref());
            self.send_spans(noted.map(|noted| &noted.said), (asked, Some(served), answered), sqlstate);
        }
    }

    /// The spans of a query, if its caller records the trace.
    fn send_spans(
        &self,
        said: Option<&Said>,
        (asked, served, answered): (Moment, Option<Moment>, Moment),
        sqlstate: Option<&str>,
    ) {
        let Some(parent) = self.trace(said).filter(TraceContext::is_sampled) else { return };
        spans::send(Query {
            parent,
            database: self.pool.key.database.clone(),
            user: self.pool.key.user.clone(),
            application: self.handle.application.clone().into(),
            command: said.map(|said| said.command).unwrap_or_default(),
            asked,
            served,
            answered,
            sqlstate: sqlstate.map(str::to_owned),
        });
    }

    #[cold]
    fn log_slow(&self, event: &'static str, time: Duration, took: &Answered, lease: &Backend) {
        let noted = self.saids.now();
        let about = About {
            sqlstate: noted.and_then(|noted| noted.sqlstate.as_deref()).unwrap_or_default(),
            backend: Some(lease.identity.pid),
            said: noted.map(|noted| noted.said),
            times: Some((took.waited(), took.database())),
            reason: None,
        };
        self.log(event, &format_args!("{time:?}"), about);
    }

    #[cold]
    fn log(&self, event: &'static str, message: &dyn Display, about: About<'_>) {
        let About { sqlstate, backend, said, reason, times } = about;
        let millis = |time: Duration| time.as_millis() as u64;
        // Not for a line that is only counted.
        let trace = LazyCell::new(|| self.trace(said.as_ref()));
        let pool = LazyCell::new(|| times.map(|_| self.pool.sample()));
        counted!(INFO, event, self.pool.key, sqlstate, {
            client = self.handle.id,
            backend,
            application = given(&self.handle.application),
            peer = peer_name(self.handle.peer),
            command = said.map(|said| said.command.to_string()).filter(|command| !command.is_empty()),
            reason,
            waited_ms = times.map(|(waited, _)| millis(waited)),
            database_ms = times.map(|(_, database)| millis(database)),
            clients_waiting = pool.map(|pool| pool.waiting),
            backends_lent = pool.map(|pool| pool.active),
            pool_size = pool.map(|pool| pool.size),
            trace_id = trace.map(|trace| trace.trace_digits()),
            span_id = trace.map(|trace| trace.span_digits()),
        }, "{message}");
    }
}

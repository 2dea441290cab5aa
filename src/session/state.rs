//! What is known of a client and of what is under way between it and its backend, and what follows from that.

use std::sync::Arc;

use arc_swap::{ArcSwap, Cache};

use super::BACKLOG;
use super::limits::Limits;
use super::listening::Listening;
use super::pipeline::Pipeline;
use super::put_off::PutOff;
use super::refusal::Refused;
use super::replies::Lost;
use super::said::Saids;
use super::settle::Open;
use super::sql_state::Sql;
use super::timing::Timing;
use crate::backend::Backend;
use crate::cancel::{Handle, Order};
use crate::config::{PoolMode, PoolSettings};
use crate::error::{Error, Side, SqlState};
use crate::listen::Listeners;
use crate::net::Socket;
use crate::pool::Pool;
use crate::prepared::ClientStatements;
use crate::track::effects::Rest;
use crate::track::{Command, Effects, Params, PinReason};
use crate::wire::backend::Status;

/// A logged-in client.
pub struct Session {
    pub(super) client: Socket,
    pub(super) pool: Arc<Pool>,
    /// The pool's settings, as they were when they were needed last.
    pub(super) settings: Cache<Arc<ArcSwap<PoolSettings>>, Arc<PoolSettings>>,
    /// The mode among them.
    pub(super) mode: PoolMode,
    pub(super) handle: Arc<Handle>,
    /// Its parameters now, and what it has been told of them.
    pub(super) params: Arc<Params>,
    /// Those that it logged in with.
    pub(super) login: Arc<Params>,
    /// What must be asked when the transaction is over.
    pub(super) open: Open,
    pub(super) statements: ClientStatements,
    pub(super) pipeline: Pipeline,
    pub(super) limits: Limits,
    /// What its statements have done to its session.
    pub(super) pins: Effects,
    /// The pins that have been counted and logged.
    pub(super) counted: Effects,
    /// What pinned it last.
    pub(super) pinned_by: Command,
    /// The client's message that has begun.
    pub(super) request: Begun,
    /// The backend's. Dropped: it is not for the client.
    pub(super) reply: Begun,
    /// What is under way of the extended query.
    pub(super) batch: Batch,
    /// The backend waits for COPY data.
    pub(super) copy_in: bool,
    /// Settings differ from those of its login, so that its statements are its own.
    pub(super) changes_parse: bool,
    /// What comes next from the client can only be decided once more is answered.
    pub(super) undecided: bool,
    /// DDL was done under this lease.
    pub(super) changed_schema: bool,
    /// What was sent last ends state: nothing is sent behind it before it is answered.
    pub(super) barrier: bool,
    /// The effects of the statement that stands behind the barrier.
    pub(super) clearing: Effects,
    /// The last unnamed statement's effects and definition, if it has any.
    pub(super) unnamed: Option<(Effects, Arc<[u8]>)>,
    /// What the rest of a long Query is looked through with.
    pub(super) rest: Option<Rest>,
    /// Statements parsed on this backend under settings that hold for this transaction only.
    pub(super) local_parses: Vec<u64>,
    /// What the client wants was refused, and is being skipped.
    pub(super) refused: Option<Refused>,
    /// A transaction that it has begun and that no backend knows of.
    pub(super) put_off: PutOff,
    /// What it listens to.
    pub(super) listening: Listening,
    /// How long its query takes.
    pub(super) timing: Timing,
    /// What its statements under way say of themselves.
    pub(super) saids: Saids,
    /// SQL's `PREPARE`, `EXECUTE` and `DEALLOCATE` that are under way.
    pub(super) sql: Sql,
}

/// A message of which a part has been handled, and the rest is to come.
#[derive(Debug, Default)]
pub(super) struct Begun {
    /// Half a word, so that an idle client's task stays small.
    rest: u32,
    /// The rest is dropped, like the part before.
    pub(super) is_dropped: bool,
}

impl Begun {
    /// `rest`: bytes to come, at most as many as a message has (see [`crate::wire::backend::limit`]).
    #[inline]
    pub(super) fn new(rest: usize, is_dropped: bool) -> Self {
        Self { rest: rest as u32, is_dropped }
    }

    /// Bytes to come; none of a message that is over, or handled whole.
    #[inline]
    pub(super) fn rest(&self) -> usize {
        self.rest as usize
    }

    /// So many of them have come.
    #[inline]
    pub(super) fn take(&mut self, now: usize) {
        self.rest -= now as u32;
    }
}

/// Extended-query messages up to a Sync.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// One has begun, and no Sync is behind it.
    pub(super) is_open: bool,
    /// Something of it has been sent.
    pub(super) has_sent: bool,
    /// Something has been bound in it.
    pub(super) has_bound: bool,
    /// The number of the name that is bound to the unnamed portal, if the client does not know of its rows; or 0.
    pub(super) undescribed: u32,
    /// What is bound in it, and not executed yet, ends state.
    pub(super) clears: bool,
    /// The client's last message was Flush: it waits for the backend, although no Sync is out.
    pub(super) is_flushed: bool,
    /// The backend skips everything up to a Sync that the client has not sent yet.
    pub(super) is_skipped: bool,
}

impl Batch {
    /// A Sync ends it, but in a COPY from the client, where PostgreSQL ignores it (manual, "Message Flow", "COPY
    /// Operations"): then what was sent of it is still being answered.
    pub(super) fn reach_sync(&mut self, is_ignored: bool) {
        let Self { is_open, has_sent, .. } = *self;
        *self = Self::default();
        if is_ignored {
            (self.is_open, self.has_sent) = (is_open, has_sent);
        }
    }
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

impl End {
    /// The metric label.
    pub fn how(&self) -> &'static str {
        match self {
            End::Left => "goodbye",
            End::Gone => "vanished",
            End::Ended(None) => "database",
            End::Ended(Some(error)) => match (error.side, &error.code) {
                (Side::Database, _) => "database",
                (Side::Proxy, code) if *code == SqlState::IDLE_SESSION_TIMEOUT => "idle",
                (Side::Proxy, code) if *code == SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT => "frozen",
                (Side::Proxy, code) if *code == SqlState::ADMIN_SHUTDOWN => "stopped",
                _ => "error",
            },
        }
    }
}

/// How a lease ended, or why it did not.
pub(super) enum LeaseEnd {
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
    pub fn new(
        client: Socket,
        pool: Arc<Pool>,
        handle: Arc<Handle>,
        params: Arc<Params>,
        listeners: Arc<Listeners>,
    ) -> Self {
        let pins = login_effects(&params);
        let mut settings = Cache::new(pool.settings.clone());
        let now = settings.load();
        let (saids, mode) = (Saids::new(now), now.mode);
        Self {
            client,
            pool,
            settings,
            mode,
            handle,
            login: params.clone(),
            open: Open::default(),
            params,
            statements: ClientStatements::default(),
            pipeline: Pipeline::default(),
            limits: Limits::default(),
            pins,
            counted: Effects::NONE,
            pinned_by: Command::default(),
            request: Begun::default(),
            reply: Begun::default(),
            batch: Batch::default(),
            copy_in: false,
            changes_parse: false,
            undecided: false,
            changed_schema: false,
            barrier: false,
            clearing: Effects::NONE,
            unnamed: None,
            rest: None,
            local_parses: Vec::new(),
            refused: None,
            put_off: PutOff::default(),
            listening: Listening::new(listeners),
            timing: Timing::default(),
            saids,
            sql: Sql::default(),
        }
    }

    /// Whether there is room for what the backend says.
    #[inline]
    pub(super) fn reads_backend(&self, lease: &Backend) -> bool {
        !lease.socket.has_passed() && self.client.backlog() < BACKLOG && !self.holds_ready()
    }

    /// So much is under way that no further request is taken.
    #[inline]
    pub(super) fn holds_back(&self, lease: &Backend) -> bool {
        lease.socket.backlog() >= BACKLOG
            || self.client.backlog() >= BACKLOG
            || self.pipeline.is_full()
            || self.waits_for_answers()
    }

    /// No further request is taken before more is answered. A COPY goes on, and so does a message that has begun.
    #[inline]
    pub(super) fn waits_for_answers(&self) -> bool {
        !self.copy_in
            && ((self.undecided || self.sql.listed) && !self.pipeline.is_certain()
                || self.barrier && self.request.rest() == 0 && !self.pipeline.is_empty())
    }

    /// The transaction is over, nothing is owed to either side, and nothing pins the client.
    #[inline]
    pub(super) fn is_over(&self, lease: &Backend) -> bool {
        if lease.status != Status::Idle {
            return self.breaks_statement_mode(lease);
        }
        self.is_between(lease)
            && lease.socket.is_flushed()
            && !self.client.has_passed()
            && !lease.socket.has_passed()
            && (!self.is_pinned() || self.must_settle() || self.handle.order() == Order::Drain)
    }

    /// Whether the backend must be asked what has become of the session.
    #[inline]
    pub(super) fn must_settle(&self) -> bool {
        self.open.any() && self.mode != PoolMode::Session
    }

    /// Whether the backend keeps anything of this client beyond its transaction.
    #[inline]
    pub(super) fn is_pinned(&self) -> bool {
        self.pins.pins() || self.mode == PoolMode::Session
    }

    /// Between two transactions, pinned or not.
    #[inline]
    pub(super) fn is_between(&self, lease: &Backend) -> bool {
        lease.status == Status::Idle
            && self.pipeline.is_empty()
            && !self.batch.is_open
            && !self.batch.is_skipped
            && self.request.rest() == 0
            && self.reply.rest() == 0
    }

    /// From now on the pool's settings are in force as they are now.
    #[inline]
    pub(super) fn heed_settings(&mut self) {
        let settings = self.settings.load();
        self.mode = settings.mode;
        self.saids.heed(settings);
    }
}

/// What a client's own settings mean for what can be told of its statements.
pub(super) fn login_effects(params: &Params) -> Effects {
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

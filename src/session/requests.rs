//! From the client: each message is passed on as it is, rewritten (names of prepared statements), preceded by what the
//! backend lacks, or answered here; and what it will be answered with is noted.

use super::Session;
use super::expect::Expect;
use super::state::Begun;
use crate::activity::State;
use crate::backend::Backend;
use crate::error::{Error, Side, SqlState};
use crate::track::{Command, Effects, PinReason};
use crate::wire::backend;
use crate::wire::frontend::{self as tag, Named};
use crate::wire::{HEADER, Header, rows};

/// A Parse up to this size is kept whole, to be sent to other backends; a client with a larger one is pinned.
pub(super) const LARGEST_PARSE: usize = 1024 * 1024;

/// The names at the start of a Bind end before this; what PostgreSQL cuts at 63 bytes is never longer.
pub(super) const LONGEST_NAMES: usize = 16 * 1024;

/// What becomes of a client without a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Alone {
    /// Its next message needs a backend.
    NeedsBackend,
    /// More of its bytes are needed, or nothing.
    NeedsBytes,
    /// It leaves.
    Leaves,
}

/// What a client with a lease wants.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wish {
    /// More of its bytes are needed, or nothing.
    More,
    /// To leave.
    Leave,
}

impl Session {
    /// Handles what a client without a lease has sent, as far as no backend is needed.
    ///
    /// # Errors
    /// A broken frame.
    pub(super) fn answer_alone(&mut self) -> Result<Alone, Error> {
        loop {
            if self.refused.is_some() && !self.skip_refused()? {
                return Ok(Alone::NeedsBytes);
            }
            let unseen = self.client.unseen();
            let Some(header) = Header::peek(unseen, tag::limit)? else { return Ok(Alone::NeedsBytes) };
            if header.tag == tag::QUERY && self.answers_query(header) {
                continue;
            }
            let unseen = self.client.unseen();
            match header.tag {
                tag::TERMINATE => return Ok(Alone::Leaves),
                tag::SYNC | tag::FLUSH | tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL | tag::CLOSE => {
                    let Some(body) = unseen.get(HEADER..header.total) else {
                        match header.tag {
                            // What is left of a COPY that failed may be large: it is dropped as it comes.
                            tag::COPY_DATA => self.drop_stray(header),
                            _ if header.total > LONGEST_NAMES => return Ok(Alone::NeedsBackend),
                            _ => return Ok(Alone::NeedsBytes),
                        }
                        continue;
                    };
                    match (header.tag, Named::decode(body)) {
                        (tag::SYNC, _) => rows::ready(self.client.output(), self.put_off.status()),
                        (tag::CLOSE, Some(Named::Statement(name))) if !name.is_empty() && !self.is_pinned() => {
                            self.statements.remove(name);
                            self.statements.settle();
                            backend::bare(self.client.output(), backend::CLOSE_COMPLETE);
                        }
                        (tag::CLOSE, _) => return Ok(Alone::NeedsBackend),
                        _ => {}
                    }
                    self.client.consume(header.total);
                }
                // A backend is not borrowed for half a message: a client that stops there would hold it.
                _ if unseen.len() < self.needed(header) => return Ok(Alone::NeedsBytes),
                _ => return Ok(Alone::NeedsBackend),
            }
        }
    }

    /// Whether a Terminate is among what the client has sent and what is not taken yet.
    #[cold]
    pub(super) fn says_goodbye(&self) -> bool {
        let mut unseen = self.client.unseen().get(self.request.rest()..).unwrap_or_default();
        while let Ok(Some(header)) = Header::peek(unseen, tag::limit) {
            if header.tag == tag::TERMINATE {
                return true;
            }
            unseen = unseen.get(header.total..).unwrap_or_default();
        }
        false
    }

    /// Moves the client's messages towards its backend.
    ///
    /// # Errors
    /// What ends the session: a broken frame or an unknown message type.
    pub(super) fn take_requests(&mut self, lease: &mut Backend) -> Result<Wish, Error> {
        loop {
            if self.request.rest() > 0 {
                let now = self.client.unseen().len().min(self.request.rest());
                if now == 0 {
                    return Ok(Wish::More);
                }
                self.request.take(now);
                self.look_through(now, lease);
                if self.request.is_dropped {
                    self.client.skip(now, &mut lease.socket);
                } else {
                    self.client.pass(now);
                }
                continue;
            }
            if self.barrier && self.pipeline.is_empty() {
                self.barrier = false;
                self.sql.end();
            }
            if self.holds_back(lease) {
                if self.pipeline.is_full() || self.barrier && self.batch.is_open {
                    // PostgreSQL may keep the replies that are waited for until it is told to send them.
                    self.client.join(&mut lease.socket);
                    postgres_protocol::message::frontend::flush(lease.socket.output());
                    self.batch.is_flushed = true;
                }
                return Ok(Wish::More);
            }
            let Some(header) = Header::peek(self.client.unseen(), tag::limit)? else { return Ok(Wish::More) };
            if header.tag == tag::TERMINATE {
                return Ok(Wish::Leave);
            }
            if self.batch.is_skipped && header.tag != tag::SYNC {
                self.skip_request(header, lease);
                continue;
            }
            if !self.take_request(header, lease)? {
                return Ok(Wish::More);
            }
        }
    }

    /// One message. `false`: more of it is needed first.
    #[inline]
    fn take_request(&mut self, header: Header, lease: &mut Backend) -> Result<bool, Error> {
        if self.copy_in
            && !matches!(header.tag, tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL | tag::FLUSH | tag::SYNC)
        {
            // PostgreSQL ends the session.
            self.pass_request(header);
            return Ok(true);
        }
        self.batch.is_flushed = header.tag == tag::FLUSH;
        self.handle.activity.set(State::Active);
        self.timing.ask_served();
        match header.tag {
            tag::QUERY => {
                self.batch.has_bound = false;
                let taken = self.query(header, lease);
                self.batch.has_sent &= !taken;
                return Ok(taken);
            }
            tag::PARSE | tag::BIND => {
                let taken = match header.tag {
                    tag::PARSE => self.parse(header, lease),
                    _ => self.bind(header, lease),
                };
                self.batch.has_bound |= taken && header.tag == tag::BIND;
                self.batch.has_sent |= taken;
                return Ok(taken);
            }
            tag::DESCRIBE | tag::CLOSE => {
                let taken = self.named(header, lease);
                self.batch.has_sent |= taken;
                return Ok(taken);
            }
            tag::EXECUTE => {
                if self.sql.has_bound() && !self.sql_execute(header) {
                    return Ok(false);
                }
                self.pipeline.push(Expect::Execute);
                self.batch.is_open = true;
                self.batch.has_sent = true;
                self.barrier |= self.batch.clears;
                self.open.execute();
                self.listening.execute();
            }
            tag::SYNC => {
                self.batch.reach_sync(self.copy_in);
                if !self.copy_in {
                    self.barrier |= self.listening.may_hear_itself();
                    self.pipeline.push(Expect::Sync);
                }
            }
            tag::FLUSH => {}
            tag::FUNCTION_CALL => {
                if !self.function_call(lease) {
                    return Ok(false);
                }
            }
            tag::COPY_DATA => {}
            tag::COPY_DONE | tag::COPY_FAIL => {
                if self.copy_in {
                    self.copy_in = false;
                } else {
                    self.pipeline.push_copy_end();
                }
            }
            unknown => return Err(Error::protocol(format!("invalid frontend message type {unknown}"))),
        }
        self.pass_request(header);
        Ok(true)
    }

    /// The protocol's own call of a function, which may call anything.
    fn function_call(&mut self, lease: &mut Backend) -> bool {
        let asks = PinReason::Sequence.effect();
        if self.must_be_answered_first(Effects::CODE | asks, lease) {
            return false;
        }
        self.listening.note(Effects::CODE, b"");
        self.barrier |= self.listening.may_hear_itself();
        self.guard_sequences(asks, lease);
        self.batch.has_sent = false;
        self.note_effects(PinReason::Hidden.effect() | Effects::CODE | Effects::UNSEEN, b"function call", lease);
        self.batch.is_open = false;
        self.pipeline.push(Expect::Query(0));
        true
    }

    /// Passes a message on, as much of it as is there.
    #[inline]
    pub(super) fn pass_request(&mut self, header: Header) {
        let now = self.client.unseen().len().min(header.total);
        self.client.pass(now);
        self.request = Begun::new(header.total - now, false);
    }

    /// Drops a message that the backend would skip too, after an error, up to the next Sync.
    pub(super) fn skip_request(&mut self, header: Header, lease: &mut Backend) {
        let now = self.client.unseen().len().min(header.total);
        self.client.skip(now, &mut lease.socket);
        self.request = Begun::new(header.total - now, true);
    }

    /// Between two transactions: a client that is pinned from now on is counted, and its reason logged.
    pub(super) fn count_pins(&mut self) {
        for reason in self.pins.reasons().filter(|reason| !self.counted.any(reason.effect())) {
            crate::metrics::metrics().count_pin(reason.as_str());
            self.log_pin(reason);
        }
        if self.pins != self.counted {
            self.handle.show_pins(self.pins, &self.pinned_by.to_string());
        }
        self.counted = self.pins;
    }

    /// Whether a text (`None`: it is not all there) may use something of the database that changes session state.
    #[inline]
    pub(super) fn suspicion(&self, text: Option<&[u8]>) -> Effects {
        let mut effects = Effects::NONE;
        if self.pool.suspects(text) {
            effects.add(Effects::SUSPECT);
        }
        if self.pool.suspects_local(text) {
            effects.add(Effects::LOCAL);
        }
        if self.pool.suspects_notify(text) {
            effects.add(Effects::NOTIFIES);
        }
        effects
    }

    /// Pins the client if it must, and notes what its backend carries from now on.
    pub(super) fn note_effects(&mut self, effects: Effects, text: &[u8], lease: &mut Backend) {
        let effects = self.open(effects, text, lease);
        lease.notified |= effects.any(Effects::NOTIFIES | Effects::CODE);
        lease.residue.add(effects.only(Effects::RESIDUE));
        if effects.reasons().any(|reason| !self.pins.any(reason.effect())) {
            self.pinned_by = Command::of(text);
        }
        self.pins.add(effects.only(Effects::PINS));
        self.changes_parse |= effects.any(Effects::LOCAL | Effects::PARAMETERS | Effects::SUSPECT) || self.pins.pins();
    }
}

/// What a client is told that wants replication through a pool.
pub(crate) fn no_replication() -> Error {
    Error::new(
        Side::Client,
        SqlState::FEATURE_NOT_SUPPORTED,
        "replication connections are not supported through pgfunnel",
    )
    .hint("Connect to PostgreSQL directly for replication.")
}

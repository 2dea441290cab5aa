//! From the backend: each message is passed on, or swallowed if the client did not ask for it; what pgfunnel says
//! itself is put where PostgreSQL would have said it. Only the few messages that change state are looked into.

use std::io;
use std::sync::atomic::Ordering;

use super::Session;
use super::expect::{Expect, Parsed};
use super::state::Begun;
use crate::activity::State;
use crate::backend::Backend;
use crate::error::{Error, Side, SqlState};
use crate::track::{Effects, PinReason};
use crate::wire::backend::{self as tag, Status};
use crate::wire::{HEADER, Header};

/// Messages up to this size are awaited whole when they must be looked into; a larger one is only passed on.
const LARGEST_EXAMINED: usize = 1024 * 1024;

/// What became of a message.
pub(super) enum Fate {
    /// Goes to the client.
    Pass,
    /// Does, and the backend says nothing more.
    PassLast,
    /// Does not.
    Swallow,
    /// Its place has been taken by something else.
    Replaced,
    /// It is not its turn yet.
    Wait,
}

/// Why the backend can serve no longer.
#[derive(Debug)]
pub(super) enum Lost {
    /// It said goodbye (FATAL), and the client has been told.
    Said,
    /// Its connection broke.
    Broke(io::Error),
    /// It does not speak the protocol, or refused what must not fail.
    Confused(Error),
}

impl Session {
    /// Moves the backend's messages towards the client.
    pub(super) fn take_replies(&mut self, lease: &mut Backend) -> Result<(), Lost> {
        let mut begun = false;
        let taken = self.take_all_replies(lease, &mut begun);
        if begun {
            self.timing.begin();
        }
        taken
    }

    /// `begun`: part of an answer was the client's, and its end is not there.
    #[inline]
    fn take_all_replies(&mut self, lease: &mut Backend, begun: &mut bool) -> Result<(), Lost> {
        loop {
            if self.reply.rest() > 0 {
                let now = lease.socket.unseen().len().min(self.reply.rest());
                if now == 0 {
                    return Ok(());
                }
                self.reply.take(now);
                if self.reply.is_dropped {
                    lease.socket.skip(now, &mut self.client);
                } else {
                    lease.socket.pass(now);
                }
                self.say_what_is_due(lease);
                continue;
            }
            let unseen = lease.socket.unseen();
            let Some(header) = Header::peek(unseen, tag::limit).map_err(Lost::Confused)? else { return Ok(()) };
            let there = unseen.len();
            if tag::is_row(header.tag) && header.total <= there && self.pipeline.is_the_clients() {
                let rows = tag::rows(unseen);
                *begun = true;
                lease.socket.pass(rows);
                self.reply.is_dropped = false;
                continue;
            }
            if there < header.total && self.must_be_whole(header.tag) && header.total <= LARGEST_EXAMINED {
                return Ok(());
            }
            let now = there.min(header.total);
            match self.take_reply(header, now, lease)? {
                Fate::Pass => {
                    *begun = header.tag != tag::READY;
                    lease.socket.pass(now);
                    self.reply = Begun::new(header.total - now, false);
                }
                Fate::Swallow => {
                    lease.socket.skip(now, &mut self.client);
                    self.reply = Begun::new(header.total - now, true);
                }
                Fate::PassLast => {
                    lease.socket.pass(now);
                    return Err(Lost::Said);
                }
                Fate::Replaced => {}
                Fate::Wait => return Ok(()),
            }
            self.say_what_is_due(lease);
        }
    }

    #[inline]
    fn take_reply(&mut self, header: Header, now: usize, lease: &mut Backend) -> Result<Fate, Lost> {
        if !self.pipeline.is_the_clients() {
            return self.take_own_reply(header, now, lease);
        }
        match header.tag {
            tag::DATA_ROW | tag::COPY_DATA => {}
            tag::COMMAND_COMPLETE => {
                if matches!(self.pipeline.front(), Some(Expect::Execute)) {
                    self.pipeline.pop();
                }
                self.copy_in = false;
                self.command_complete(header, lease);
            }
            tag::READY => {
                if !self.is_told(header, lease) {
                    return Ok(Fate::Wait);
                }
                self.ready(header, lease)?;
            }
            tag::BIND_COMPLETE => self.expect(|expect| matches!(expect, Expect::Bind(_)))?,
            tag::PARSE_COMPLETE => return self.parse_complete(),
            tag::CLOSE_COMPLETE => {
                return match self.pipeline.pop() {
                    Some(Expect::OwnClose(_)) => Ok(Fate::Swallow),
                    Some(Expect::Close) => Ok(Fate::Pass),
                    Some(Expect::CloseUnnamed(version)) => {
                        self.statements.drop_unnamed(version);
                        Ok(Fate::Pass)
                    }
                    _ => Err(confused("CloseComplete")),
                };
            }
            tag::ROW_DESCRIPTION | tag::NO_DATA => self.described(header, lease),
            tag::EMPTY_QUERY | tag::PORTAL_SUSPENDED => {
                if matches!(self.pipeline.front(), Some(Expect::Execute)) {
                    self.pipeline.pop();
                }
            }
            tag::ERROR => return Ok(self.error(header, now, lease)),
            tag::PARAMETER_STATUS => {
                if self.open.resetting
                    && let Some(fate) = self.is_of_login(header, lease)
                {
                    return Ok(fate);
                }
                if let Some((name, _)) = tag::parameter_status(body(lease, header)) {
                    self.open.tell(name);
                }
                lease.note_parameter(header);
            }
            tag::COPY_IN => {
                self.copy_in = !self.pipeline.copy_in();
                // A Sync that is ignored ends no batch.
                self.batch.is_open |= self.pipeline.is_certain();
            }
            tag::NOTIFICATION => return Ok(self.notification(header, lease)),
            tag::NOTICE if self.sql.is_active() => return Ok(self.translate(header, now, None, lease)),
            tag::NOTICE
            | tag::PARAMETER_DESCRIPTION
            | tag::COPY_OUT
            | b'V' // FunctionCallResponse
            | b'c' => {} // CopyDone
            unknown => return Err(confused(&format!("message of type 0x{unknown:02x}"))),
        }
        Ok(Fate::Pass)
    }

    /// Whether a message is looked into.
    #[inline]
    fn must_be_whole(&self, message: u8) -> bool {
        match message {
            tag::COMMAND_COMPLETE | tag::READY | tag::ERROR | tag::NOTICE | tag::PARAMETER_STATUS => true,
            tag::NOTIFICATION => true,
            tag::ROW_DESCRIPTION => self.looks_at_rows(),
            _ => false,
        }
    }

    /// Part of the answer to what the client did not ask.
    fn take_own_reply(&mut self, header: Header, now: usize, lease: &mut Backend) -> Result<Fate, Lost> {
        match self.pipeline.front() {
            Some(Expect::OwnRun(..)) => Ok(self.take_run_reply(header, now, lease)),
            Some(&Expect::OwnTry(id)) => self.take_try_reply(id, header, now, lease),
            Some(&Expect::OwnShape(id)) => Ok(self.take_shape_reply(id, header, now, lease)),
            _ => self.take_prefix_reply(header, now, lease),
        }
    }

    /// A parameter that was reset to the server's value while the client has one by its login, which will be put in force
    /// again: that is what it is told, if it knows of another.
    fn is_of_login(&mut self, header: Header, lease: &mut Backend) -> Option<Fate> {
        let (name, value) = tag::parameter_status(body(lease, header))?;
        self.login.settings.get(&name.to_ascii_lowercase())?;
        let own = self.login.reported.get(name).filter(|own| *own != value)?.clone();
        let name = name.to_owned();
        let told = self.open.untold(&name).or_else(|| lease.reported.get(&name));
        let knows = told == Some(&own);
        lease.note_parameter(header);
        if knows {
            self.open.details().untold.push((name, own));
            return Some(Fate::Swallow);
        }
        lease.socket.skip(header.total, &mut self.client);
        tag::put_parameter_status(self.client.output(), &name, &own);
        self.open.details().untold.push((name, own));
        Some(Fate::Replaced)
    }

    /// Takes the awaited reply off, if it is of that kind.
    fn expect(&mut self, kind: impl FnOnce(&Expect) -> bool) -> Result<(), Lost> {
        match self.pipeline.pop() {
            Some(expect) if kind(&expect) => Ok(()),
            _ => Err(confused("reply")),
        }
    }

    fn parse_complete(&mut self) -> Result<Fate, Lost> {
        match self.pipeline.pop() {
            Some(Expect::OwnParse(_) | Expect::OwnUnnamed(_)) => Ok(Fate::Swallow),
            Some(Expect::Parse(parsed)) => {
                if let Parsed::Unnamed(unnamed) = parsed {
                    self.statements.confirm_unnamed(unnamed);
                }
                Ok(Fate::Pass)
            }
            _ => Err(confused("ParseComplete")),
        }
    }

    fn ready(&mut self, header: Header, lease: &mut Backend) -> Result<(), Lost> {
        match self.pipeline.pop() {
            Some(Expect::Sync) => {}
            Some(Expect::Query(version)) => self.statements.drop_unnamed(version),
            _ => return Err(confused("ReadyForQuery")),
        }
        self.copy_in = false;
        // The next statement's time begins now.
        self.limits.timed_out = false;
        self.limits.restart();
        let answered = self.pipeline.is_empty();
        let (now, took) = self.timing.answer(!answered, &self.pool.metrics);
        self.saids.answer();
        if let Some(took) = took {
            if self.handle.tls {
                self.pool.metrics.queries_tls.inc();
            }
            self.tell_answered(&took, lease);
        }
        if answered {
            self.barrier = false;
            self.open.resetting = false;
            self.statements.settle();
            self.listening.settle();
        }
        lease.status = Status::decode(body(lease, header)).map_err(Lost::Confused)?;
        if answered {
            let state = match lease.status {
                Status::Idle if self.is_pinned() => State::Pinned,
                Status::Idle => State::Idle,
                Status::Transaction | Status::Failed => State::IdleInTransaction,
            };
            self.handle.activity.set_at(state, now);
        }
        if answered {
            self.reapply(lease);
            if self.sql.is_active() {
                self.sql_answered(lease);
            }
        }
        if lease.status == Status::Idle && answered {
            self.changes_parse = self.pins.pins();
            self.local_parses.drain(..).for_each(|id| lease.statements.outdate(id));
            if self.pins != self.counted && !self.must_settle() {
                self.count_pins();
            }
        }
        Ok(())
    }

    /// What a command tag says about the session.
    #[inline]
    fn command_complete(&mut self, header: Header, lease: &mut Backend) {
        // SELECT, INSERT, UPDATE, BEGIN, ROLLBACK …: the text has told all there is.
        match body(lease, header) {
            [b'A' | b'C' | b'D' | b'P', ..] => {}
            [b'U', b'N', ..] | [b'R', b'O', ..] if self.listening.shared.is_some() => {}
            [b'S', b'E', b'T', ..] | [b'R', b'E', b'S', ..] => return self.open.confirm(),
            _ => return,
        }
        let tag = body(lease, header).to_vec();
        match tag.strip_suffix(b"\0").unwrap_or(&tag) {
            b"DISCARD ALL" => {
                self.open.confirm();
                self.forget_statements(lease);
                self.pins.keep(Effects::INDELIBLE);
                self.sql.own = false;
                self.pins.add(super::state::login_effects(&self.params));
                lease.residue.keep(Effects::INDELIBLE | Effects::PARAMETERS);
                self.listening.shared = None;
            }
            b"UNLISTEN" => self.listening.unlistened(),
            b"COMMIT" => self.listening.commit(),
            b"ROLLBACK" => self.listening.roll_back(),
            b"DEALLOCATE ALL" => {
                self.forget_statements(lease);
                self.unpin(PinReason::Prepare);
            }
            b"PREPARE" | b"DEALLOCATE" => self.sql_done(lease),
            b"CLOSE CURSOR ALL" => self.unpin(PinReason::Cursor),
            tag if [&b"CREATE "[..], b"ALTER ", b"DROP "].iter().any(|ddl| tag.starts_with(ddl)) => {
                self.changed_schema = true;
                self.pool.schema.fetch_add(1, Ordering::Relaxed);
                self.pool.doubt_certificate();
                if self.pool.may_hide() {
                    self.open.doubt();
                }
            }
            _ => {}
        }
    }

    /// Ends a pin, unless the same text may have made it anew.
    fn unpin(&mut self, reason: PinReason) {
        if !(self.clearing.any(reason.effect()) || self.sql.own && reason == PinReason::Prepare) {
            self.pins.remove(reason.effect());
        }
    }

    fn forget_statements(&mut self, lease: &mut Backend) {
        self.statements.clear();
        lease.statements.clear();
        lease.forget_own_statements();
    }

    /// Says what pgfunnel answers itself, once everything before it has been answered, to its last byte.
    #[inline]
    pub(super) fn say_what_is_due(&mut self, lease: &mut Backend) {
        if self.pipeline.has_own_words() && self.reply.rest() == 0 {
            self.say_all_that_is_due(lease);
        }
    }

    fn say_all_that_is_due(&mut self, lease: &mut Backend) {
        loop {
            let reply = match self.pipeline.front() {
                Some(Expect::SayParsed(_)) => tag::PARSE_COMPLETE,
                Some(Expect::SayClosed(_)) => tag::CLOSE_COMPLETE,
                _ => return,
            };
            self.pipeline.pop();
            lease.socket.join(&mut self.client);
            tag::bare(self.client.output(), reply);
        }
    }
}

#[inline]
pub(super) fn body(lease: &Backend, header: Header) -> &[u8] {
    lease.socket.unseen().get(HEADER..header.total).unwrap_or_default()
}

#[cold]
fn confused(what: &str) -> Lost {
    Lost::Confused(Error::new(
        Side::Database,
        SqlState::PROTOCOL_VIOLATION,
        format!("the database sent an unexpected {what}"),
    ))
}

//! A `BEGIN` that is put off until there is something to do in the transaction: who begins one and then does something
//! else first, or nothing at all, holds no backend meanwhile.

use postgres_protocol::message::frontend;

use super::Session;
use super::expect::Expect;
use super::refusal::put_failure;
use crate::backend::Backend;
use crate::config::PoolMode;
use crate::error::Error;
use crate::prepared::{Unnamed, UnnamedStatement};
use crate::track::Control;
use crate::wire::backend::Status;
use crate::wire::{HEADER, Header, rows};

/// The transaction of a client that has no backend.
#[derive(Debug, Default)]
pub(super) enum PutOff {
    /// It is in none.
    #[default]
    Nothing,
    /// It has begun one, with this text.
    Begun(Box<str>),
    /// The same, and what it asked for next was refused: it must end the transaction, as after any error.
    Failed,
}

impl PutOff {
    /// What the client is told that it is in.
    pub(super) fn status(&self) -> Status {
        match self {
            PutOff::Nothing => Status::Idle,
            PutOff::Begun(_) => Status::Transaction,
            PutOff::Failed => Status::Failed,
        }
    }

    #[inline]
    pub(super) fn is_nothing(&self) -> bool {
        matches!(self, PutOff::Nothing)
    }
}

impl Session {
    /// Answers a Query that needs no backend: a `BEGIN` with nothing behind it yet, the end of what was put off, and
    /// whatever comes in a transaction that has failed. `false`: it needs one, or more of it must come first.
    #[inline]
    pub(super) fn answers_query(&mut self, header: Header) -> bool {
        let unseen = self.client.unseen();
        let Some(body) = unseen.get(HEADER..header.total) else { return false };
        // Without its end it is malformed: PostgreSQL says so.
        let text = body.strip_suffix(b"\0").unwrap_or_default();
        let control = Control::of(text);
        if control.is_none() && self.put_off.is_nothing() {
            return false;
        }
        let is_last = unseen.len() == header.total;
        match (&self.put_off, control) {
            (PutOff::Nothing, Some(Control::Begin)) if is_last && self.may_put_off() => {
                self.put_off = PutOff::Begun(String::from_utf8_lossy(text).into());
                self.answer_control(header, "BEGIN");
            }
            (PutOff::Begun(_), Some(Control::Commit)) => self.end_put_off(header, "COMMIT"),
            (PutOff::Begun(_) | PutOff::Failed, Some(Control::Commit | Control::Rollback)) => {
                self.end_put_off(header, "ROLLBACK");
            }
            (PutOff::Failed, _) => self.refuse(&Error::aborted_transaction()),
            _ => return false,
        }
        true
    }

    fn may_put_off(&self) -> bool {
        self.mode == PoolMode::Transaction && self.pool.settings.load().deferred_begin
    }

    fn end_put_off(&mut self, header: Header, tag: &str) {
        self.put_off = PutOff::Nothing;
        self.answer_control(header, tag);
    }

    fn answer_control(&mut self, header: Header, tag: &str) {
        self.client.consume(header.total);
        // As every Query does.
        self.statements.drop_unnamed(UnnamedStatement::latest());
        let out = self.client.output();
        rows::complete(out, tag);
        rows::ready(out, self.put_off.status());
    }

    /// There is a backend for it now: it is brought to where the client is.
    pub(super) fn begin_put_off(&mut self, lease: &mut Backend) -> std::io::Result<()> {
        let begin = match &self.put_off {
            PutOff::Nothing => return Ok(()),
            PutOff::Begun(text) => text,
            PutOff::Failed => "BEGIN",
        };
        frontend::query(begin, lease.socket.output())?;
        self.pipeline.push(Expect::Prefix);
        lease.statements.unnamed = Unnamed::Absent;
        if matches!(self.put_off, PutOff::Failed) {
            put_failure(lease);
            frontend::sync(lease.socket.output());
            self.pipeline.push(Expect::Failing);
        }
        lease.status = self.put_off.status();
        self.put_off = PutOff::Nothing;
        Ok(())
    }
}

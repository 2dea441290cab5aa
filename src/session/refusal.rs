//! Refusing what a client wants, as PostgreSQL refuses a statement: the error comes in the place of the answer, the
//! connection stays.

use bytes::BufMut;
use postgres_protocol::message::frontend;

use super::Session;
use super::expect::Expect;
use super::put_off::PutOff;
use super::sql_state::MOST_BOUND;
use super::state::Begun;
use crate::backend::Backend;
use crate::error::{Error, Side, SqlState};
use crate::prepared::{MOST_BYTES, MOST_NAMES, Unnamed, UnnamedStatement};
use crate::track::sql_names::{self, Verb};
use crate::wire::backend::{self, Severity};
use crate::wire::frontend as tag;
use crate::wire::{Header, rows};

/// How far a refusal has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The message that was refused comes next.
    Message,
    /// What follows in the same batch is skipped.
    Batch,
    /// What is being skipped is the end of it.
    Last,
    /// Data of a COPY that was over already: nothing is said of it.
    Stray,
}

impl Session {
    /// With no backend: refuses what the client wants now, as PostgreSQL refuses a statement: the error, and the connection stays.
    pub(super) fn refuse(&mut self, error: &Error) {
        self.note_error(error);
        self.log_refusal(error);
        backend::error(self.client.output(), Severity::Error, error);
        self.refused = Some(Refused::Message);
        if !self.put_off.is_nothing() {
            self.put_off = PutOff::Failed;
        }
    }

    /// Drops what was refused: one Query, or everything up to and with the next Sync. `true`: done, and the client has
    /// been told so.
    pub(super) fn skip_refused(&mut self) -> Result<bool, Error> {
        loop {
            let now = self.client.unseen().len().min(self.request.rest());
            self.client.consume(now);
            self.request.take(now);
            if self.request.rest() > 0 {
                return Ok(false);
            }
            if self.refused == Some(Refused::Last) {
                self.refused = None;
                rows::ready(self.client.output(), self.put_off.status());
                return Ok(true);
            }
            if self.refused == Some(Refused::Stray) {
                self.refused = None;
                return Ok(true);
            }
            let Some(header) = Header::peek(self.client.unseen(), tag::limit)? else { return Ok(false) };
            let first = self.refused.replace(Refused::Batch) == Some(Refused::Message);
            match header.tag {
                tag::TERMINATE => {
                    self.refused = None;
                    return Ok(true);
                }
                tag::QUERY | tag::FUNCTION_CALL if first => self.refused = Some(Refused::Last),
                tag::SYNC => self.refused = Some(Refused::Last),
                _ => {}
            }
            self.request = Begun::new(header.total, true);
        }
    }

    /// Drops data of a COPY that is over, as it comes.
    #[cold]
    pub(super) fn drop_stray(&mut self, header: Header) {
        self.request = Begun::new(header.total, true);
        self.refused = Some(Refused::Stray);
    }

    /// With a backend: refuses a message of a batch, which has been skipped. The backend fails, too, so that it skips the
    /// rest of the batch and its transaction fails.
    #[cold]
    pub(super) fn refuse_in_batch(&mut self, error: Error, lease: &mut Backend) {
        self.note_error(&error);
        self.log_error("refused", &error);
        self.client.join(&mut lease.socket);
        put_failure(lease);
        self.pipeline.push(Expect::Refused(Box::new(error)));
        self.batch.is_open = true;
    }

    /// The same for a Query.
    #[cold]
    pub(super) fn refuse_query(&mut self, error: Error, lease: &mut Backend) {
        self.refuse_in_batch(error, lease);
        frontend::sync(lease.socket.output());
        self.pipeline.push(Expect::Sync);
        self.batch.is_open = false;
        self.drop_unnamed(lease);
    }

    /// What was refused would have dropped the unnamed statement.
    pub(super) fn drop_unnamed(&mut self, lease: &mut Backend) {
        self.statements.drop_unnamed(UnnamedStatement::latest());
        lease.statements.unnamed = Unnamed::Unknown;
    }

    /// Whether a text that is parsed, not executed yet, prepares one statement too many.
    pub(super) fn exceeds_by_sql(&self, text: &[u8]) -> bool {
        let prepares = || sql_names::mentions(text).is_some_and(|all| all.iter().any(|m| m.verb == Verb::Prepare));
        self.statements.exceeds(1, text.len()) && prepares()
    }
}

/// A message that is bound to fail.
pub(super) fn put_failure(lease: &mut Backend) {
    backend::message(tag::EXECUTE, lease.socket.output(), |out| {
        backend::put_cstr(out, b"pgfunnel: refused");
        out.put_u32(0);
    });
}

pub(super) fn too_many_portals() -> Error {
    Error::new(Side::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, "too many portals")
        .detail(format!("One connection may have {MOST_BOUND} that are bound to EXECUTE, PREPARE or DEALLOCATE."))
        .hint("Execute them before more are bound.")
}

pub(super) fn too_many_statements() -> Error {
    let mib = MOST_BYTES / (1024 * 1024);
    Error::new(Side::Client, SqlState::PROGRAM_LIMIT_EXCEEDED, "too many prepared statements")
        .detail(format!("One connection may have {MOST_NAMES} of them, with {mib} MiB of text."))
        .hint("Deallocate those that are no longer used; give statements that are prepared for one use no name.")
}

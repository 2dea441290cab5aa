//! Refusing what a client wants while it has no backend, as PostgreSQL refuses a statement: the error comes in the place
//! of the answer, the connection stays.

use super::Session;
use crate::error::Error;
use crate::wire::Header;
use crate::wire::backend::{self, Severity};
use crate::wire::frontend as tag;

/// How far a refusal has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refused {
    /// The message that was refused comes next.
    Message,
    /// What follows in the same batch is skipped.
    Batch,
    /// What is being skipped is the end of it.
    Last,
}

impl Session {
    /// Refuses what the client wants now, as PostgreSQL refuses a statement: the error, and the connection stays.
    pub(super) fn refuse(&mut self, error: &Error) {
        crate::metrics::metrics().count_error(error);
        tracing::debug!(client = self.handle.id, pool = %self.pool.key, code = error.code.code(), "refused: {error}");
        backend::error(self.client.output(), Severity::Error, error);
        self.refused = Some(Refused::Message);
    }

    /// Drops what was refused: one Query, or everything up to and with the next Sync. `true`: done, and the client has
    /// been told so.
    pub(super) fn skip_refused(&mut self) -> Result<bool, Error> {
        loop {
            let now = self.client.unseen().len().min(self.request_rest);
            self.client.consume(now);
            self.request_rest -= now;
            if self.request_rest > 0 {
                return Ok(false);
            }
            if self.refused == Some(Refused::Last) {
                self.refused = None;
                backend::ready_idle(self.client.output());
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
            self.request_rest = header.total;
        }
    }
}

//! Replies to messages of ours: what was put in front of the client's own, or among them, on its behalf.

use super::Session;
use super::expect::{Expect, Run};
use super::replies::{Fate, Lost, body};
use crate::backend::Backend;
use crate::error::{Error, Side};
use crate::wire::backend::{self as tag, ErrorFields, Status};
use crate::wire::{HEADER, Header};

impl Session {
    /// Replies to what was sent in front of the client's own messages: none of them is for the client.
    pub(super) fn take_prefix_reply(&mut self, header: Header, now: usize, lease: &mut Backend) -> Result<Fate, Lost> {
        match header.tag {
            tag::READY => {
                self.pipeline.pop();
                if !self.pipeline.has_prefix() {
                    self.handle.ready();
                }
            }
            tag::PARAMETER_STATUS => lease.note_parameter(header),
            tag::ERROR => {
                let fields = ErrorFields::decode(lease.socket.unseen().get(HEADER..now).unwrap_or_default());
                if fields.is_fatal() {
                    return Ok(self.error(header, now, lease));
                }
                if matches!(self.pipeline.front(), Some(Expect::Failing)) {
                    return Ok(Fate::Swallow);
                }
                let error = fields.into_error();
                return Err(Lost::Confused(
                    Error::new(Side::Proxy, error.code.clone(), "the session's settings could not be put in force")
                        .detail(error.to_string()),
                ));
            }
            // A message from another session may come at any time.
            tag::NOTIFICATION => return Ok(self.notification(header, lease)),
            _ => {}
        }
        Ok(Fate::Swallow)
    }

    /// Replies to a statement of ours that is part of the client's batch or transaction: an error is the client's, too.
    pub(super) fn take_run_reply(&mut self, header: Header, now: usize, lease: &mut Backend) -> Fate {
        match header.tag {
            tag::ERROR => return self.error(header, now, lease),
            tag::NOTIFICATION => return self.notification(header, lease),
            tag::PARAMETER_STATUS => lease.note_parameter(header),
            tag::NOTICE => {}
            _ => {
                if self.pipeline.run_replied() == Some(Run::Forgets) {
                    lease.foreign_sequences = false;
                }
            }
        }
        Fate::Swallow
    }

    /// Replies to what is prepared for a Query of the client's.
    pub(super) fn take_try_reply(
        &mut self,
        id: u64,
        header: Header,
        now: usize,
        lease: &mut Backend,
    ) -> Result<Fate, Lost> {
        match header.tag {
            tag::READY => {
                self.pipeline.pop();
                lease.status = Status::decode(body(lease, header)).map_err(Lost::Confused)?;
            }
            tag::ERROR => {
                let fields = ErrorFields::decode(lease.socket.unseen().get(HEADER..now).unwrap_or_default());
                if fields.is_fatal() {
                    return Ok(self.error(header, now, lease));
                }
                let error = self.translated(header, now, None, lease);
                self.sql.keep(id, error.unwrap_or_else(|| body(lease, header).to_vec()));
                lease.statements.remove(id);
            }
            tag::NOTIFICATION => return Ok(self.notification(header, lease)),
            tag::PARAMETER_STATUS => lease.note_parameter(header),
            _ => {}
        }
        Ok(Fate::Swallow)
    }
}

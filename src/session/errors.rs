//! Errors of the backend: what was sent behind a failed message is skipped, so what was noted of it is undone; and our own
//! names of statements are replaced by the client's.

use super::Session;
use super::pipeline::{Expect, Parsed};
use super::replies::{Fate, body};
use crate::error::SqlState;
use crate::pool::Lease;
use crate::prepared::{self, Unnamed};
use crate::wire::backend::{self as tag, ErrorFields, Severity};
use crate::wire::{HEADER, Header};

impl Session {
    /// An ErrorResponse: what was sent behind the failed message is skipped by the backend.
    pub(super) fn error(&mut self, header: Header, now: usize, lease: &mut Lease) -> Fate {
        let fields = ErrorFields::decode(lease.socket.unseen().get(HEADER..now).unwrap_or_default());
        let name = match self.pipeline.front() {
            Some(Expect::Parse(Parsed::Duplicate(name) | Parsed::Named(name, _))) => Some(name.to_vec()),
            Some(Expect::Bind(number) | Expect::Describe(number)) => self.statements.name(*number).map(<[u8]>::to_vec),
            Some(Expect::Query(_)) => self.deallocating.as_ref().map(|(name, _)| name.to_vec()),
            _ => None,
        };
        self.copy_in = false;
        self.deallocating = None;
        self.open.mix();
        self.listening.roll_back();
        if fields.is_fatal() {
            self.fatal = true;
            lease.broken = true;
            crate::metrics::metrics().count_error(&fields.into_error());
            return Fate::Pass;
        }
        if !matches!(self.pipeline.front(), Some(Expect::Query(_)) | None) {
            self.skip_to_sync(lease);
        }
        if self.timed_out && header.total == now && fields.code == SqlState::QUERY_CANCELED.code() {
            self.timed_out = false;
            lease.socket.skip(header.total, &mut self.client);
            let error = self.query_timeout_error();
            tag::error(self.client.output(), Severity::Error, &error);
            return Fate::Replaced;
        }
        if header.total == now && fields.message.contains(prepared::prefix()) {
            self.rename_in_error(header, name.as_deref().unwrap_or(b"?"), lease);
            return Fate::Replaced;
        }
        Fate::Pass
    }

    /// The backend drops everything up to the next Sync: what it did not do is undone on our side.
    fn skip_to_sync(&mut self, lease: &mut Lease) {
        let (skipped, synced) = self.pipeline.fail();
        self.skipping = !synced;
        // The last first: a name may have been closed and given anew.
        for (at, expect) in skipped.into_iter().enumerate().rev() {
            match expect {
                Expect::Parse(Parsed::Named(name, id)) => {
                    self.unprepare(id, lease);
                    self.statements.retract(name);
                }
                Expect::SayParsed(name) => self.statements.remove(&name),
                Expect::OwnParse(id) => self.unprepare(id, lease),
                Expect::Parse(Parsed::Unnamed(unnamed)) => {
                    lease.statements.doubt_unnamed(unnamed.version);
                    if at == 0 {
                        // PostgreSQL drops the old one before it looks at the new one.
                        self.statements.lose_unnamed();
                    }
                }
                Expect::OwnUnnamed(version) => lease.statements.doubt_unnamed(version),
                Expect::Parse(Parsed::Verbatim) => lease.statements.unnamed = Unnamed::Unknown,
                // It would have dropped it. A Parse may have been sent since.
                Expect::Query(_) | Expect::CloseUnnamed(_) | Expect::OwnClose(0)
                    if lease.statements.unnamed == Unnamed::Absent =>
                {
                    lease.statements.unnamed = Unnamed::Unknown;
                }
                Expect::OwnClose(id) if id != 0 => self.unclose(id, lease),
                Expect::SayClosed(closed) => self.statements.insert(&closed.name, closed.statement),
                _ => {}
            }
        }
    }

    /// A Parse was skipped: the backend lacks the statement, unless a later batch parses it again.
    fn unprepare(&mut self, id: u64, lease: &mut Lease) {
        if !self.pipeline.parses(id) {
            lease.statements.remove(id);
        }
    }

    /// A Close was skipped: the backend still has the statement, unless a later batch parses it again.
    fn unclose(&mut self, id: u64, lease: &mut Lease) {
        if !self.pipeline.parses(id) && !lease.statements.restore(id) {
            // More than are kept track of: do without this backend from now on.
            lease.expires = Some(std::time::Instant::now());
        }
    }

    /// Replaces our name of a statement by the client's in an error message.
    fn rename_in_error(&mut self, header: Header, name: &[u8], lease: &mut Lease) {
        let body = body(lease, header).to_vec();
        let prefix = prepared::prefix().as_bytes();
        let Some(start) = memchr::memmem::find(&body, prefix) else { return };
        let digits = body.iter().skip(start + prefix.len()).take_while(|byte| byte.is_ascii_digit()).count();
        let end = start + prefix.len() + digits;
        let (Some(before), Some(behind)) = (body.get(..start), body.get(end..)) else { return };
        lease.socket.skip(header.total, &mut self.client);
        tag::message(tag::ERROR, self.client.output(), |out| {
            for part in [before, name, behind] {
                out.extend_from_slice(part);
            }
        });
    }
}

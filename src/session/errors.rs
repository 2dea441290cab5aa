//! Errors of the backend: what was sent behind a failed message is skipped, so what was noted of it is undone; and our own
//! names of statements are replaced by the client's.

use std::cell::LazyCell;

use super::Session;
use super::expect::{Expect, Parsed};
use super::replies::{Fate, body};
use crate::backend::Backend;
use crate::error::{Error, SqlState};
use crate::metrics::metrics;
use crate::prepared::{self, Unnamed};
use crate::trouble;
use crate::wire::backend::{self as tag, ErrorFields, Severity};
use crate::wire::{HEADER, Header};

impl Session {
    /// An ErrorResponse: what was sent behind the failed message is skipped by the backend.
    pub(super) fn error(&mut self, header: Header, now: usize, lease: &mut Backend) -> Fate {
        let fields = ErrorFields::decode(lease.socket.unseen().get(HEADER..now).unwrap_or_default());
        let name = match self.pipeline.front() {
            Some(Expect::Parse(Parsed::Duplicate(name) | Parsed::Named(name, _))) => Some(name.to_vec()),
            Some(Expect::Bind(number) | Expect::Describe(number, _)) => {
                self.statements.name(*number).map(<[u8]>::to_vec)
            }
            _ => None,
        };
        let translated = match self.sql.kept(&fields) {
            Some(kept) => Some(kept),
            None => self.translated(header, now, name.as_deref(), lease),
        };
        self.copy_in = false;
        self.saids.fail(&fields.code);
        self.sql_failed();
        self.open.mix();
        self.listening.roll_back();
        if self.pipeline.outstanding() <= 1 {
            // What is reported now is what is rolled back to.
            self.open.resetting = false;
        }
        if fields.is_fatal() {
            lease.broken = true;
            let error = fields.into_error();
            self.note_error(&error);
            self.log_error("session ended", &error);
            return Fate::PassLast;
        }
        if let Some(Expect::Refused(error)) = self.pipeline.front() {
            lease.socket.skip(now, &mut self.client);
            tag::error(self.client.output(), Severity::Error, error);
            self.skip_to_sync(lease);
            return Fate::Replaced;
        }
        if !matches!(self.pipeline.front(), Some(Expect::Query(_)) | None) {
            self.skip_to_sync(lease);
        }
        if self.limits.timed_out && header.total == now && fields.code == SqlState::QUERY_CANCELED.code() {
            self.limits.timed_out = false;
            lease.socket.skip(header.total, &mut self.client);
            let error = self.query_timeout_error();
            tag::error(self.client.output(), Severity::Error, &error);
            return Fate::Replaced;
        }
        self.put_translated(header, translated, lease)
    }

    /// Counts and keeps an error for those who watch.
    #[cold]
    pub(super) fn note_error(&self, error: &Error) {
        metrics().count_error(error);
        trouble::note(error, &self.pool.key, &self.handle.application);
    }

    /// A message of the backend's to the client, with the client's own names and positions.
    #[cold]
    pub(super) fn translate(&mut self, header: Header, now: usize, name: Option<&[u8]>, lease: &mut Backend) -> Fate {
        let translated = self.translated(header, now, name, lease);
        self.put_translated(header, translated, lease)
    }

    fn put_translated(&mut self, header: Header, translated: Option<Vec<u8>>, lease: &mut Backend) -> Fate {
        let Some(body) = translated else { return Fate::Pass };
        lease.socket.skip(header.total, &mut self.client);
        tag::message(header.tag, self.client.output(), |out| out.extend_from_slice(&body));
        Fate::Replaced
    }

    /// The body of an ErrorResponse or NoticeResponse in which names of ours have become the client's, and positions
    /// those in its own text. `name`: what the message that it answers was about. `None`: it is as it should be.
    pub(super) fn translated(
        &self,
        header: Header,
        now: usize,
        name: Option<&[u8]>,
        lease: &Backend,
    ) -> Option<Vec<u8>> {
        let body = body(lease, header);
        let ours = memchr::memmem::find(body, prepared::prefix().as_bytes()).is_some();
        let within = match self.pipeline.front() {
            Some(Expect::OwnRun(run, _)) => Some(run.prepares()),
            Some(Expect::OwnTry(id)) => Some(*id),
            _ => None,
        };
        if header.total != now || !ours && within.is_none() && !self.sql.is_active() {
            return None;
        }
        let mut out = Vec::with_capacity(body.len());
        let names = LazyCell::new(|| self.statements.by_id());
        let name_of = |id| name.or_else(|| self.sql.name(id)).or_else(|| names.get(&id).copied()).unwrap_or(b"?");
        for field in body.split_inclusive(|byte| *byte == 0) {
            let position = field.strip_prefix(b"P").and_then(|field| field.strip_suffix(b"\0"));
            let position = position.and_then(|sent| std::str::from_utf8(sent).ok()?.parse().ok());
            match position {
                Some(sent) => {
                    let own = within.map_or_else(|| self.sql.position(sent), |id| self.sql.position_within(id, sent));
                    out.extend_from_slice(format!("P{own}\0").as_bytes());
                }
                None => put_renamed(field, name_of, &mut out),
            }
        }
        Some(out)
    }

    /// The backend drops everything up to the next Sync: what it did not do is undone on our side.
    fn skip_to_sync(&mut self, lease: &mut Backend) {
        let (skipped, synced) = self.pipeline.fail();
        self.batch.is_skipped = !synced;
        // The last first: a name may have been closed and given anew.
        for (at, expect) in skipped.into_iter().enumerate().rev() {
            match expect {
                Expect::Parse(Parsed::Named(name, id)) => {
                    self.unprepare(id, lease);
                    self.statements.remove(&name);
                }
                Expect::SayParsed(name) => self.statements.remove(&name),
                Expect::OwnParse(id) => self.unprepare(id, lease),
                Expect::OwnRun(run, _) => self.unprepare(run.prepares(), lease),
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
                Expect::SayClosed(closed) => {
                    self.statements.insert(&closed.name, closed.statement, closed.told);
                }
                _ => {}
            }
        }
    }

    /// A Parse was skipped: the backend lacks the statement, unless a later batch parses it again.
    fn unprepare(&mut self, id: u64, lease: &mut Backend) {
        if !self.pipeline.parses(id) {
            lease.statements.remove(id);
        }
    }

    /// A Close was skipped: the backend still has the statement, unless a later batch parses it again.
    fn unclose(&mut self, id: u64, lease: &mut Backend) {
        if !self.pipeline.parses(id) && !lease.statements.restore(id) {
            // More than are kept track of: do without this backend from now on.
            lease.expires = Some(crate::clock::Moment::now());
        }
    }
}

/// Appends a text with the client's names of statements in the place of ours.
fn put_renamed<'a>(text: &[u8], name_of: impl Fn(u64) -> &'a [u8], out: &mut Vec<u8>) {
    let prefix = prepared::prefix().as_bytes();
    let mut rest = text;
    while let Some(start) = memchr::memmem::find(rest, prefix) {
        let (before, behind) = rest.split_at(start);
        let behind = behind.get(prefix.len()..).unwrap_or_default();
        let (digits, behind) = behind.split_at(behind.iter().take_while(|byte| byte.is_ascii_digit()).count());
        out.extend_from_slice(before);
        out.extend_from_slice(name_of(std::str::from_utf8(digits).ok().and_then(|id| id.parse().ok()).unwrap_or(0)));
        rest = behind;
    }
    out.extend_from_slice(rest);
}

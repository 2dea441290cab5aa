//! Simple queries: what a text may do is noted before it is sent, and the names of statements in it are replaced.

use bytes::BufMut;

use super::Session;
use super::expect::Expect;
use super::refusal::too_many_statements;
use super::requests::{LARGEST_PARSE, LONGEST_NAMES};
use super::sql_names::Resolved;
use super::state::Begun;
use crate::backend::Backend;
use crate::error::Error;
use crate::prepared::{Unnamed, UnnamedStatement};
use crate::track::effects::EXAMINED;
use crate::track::{Effects, PinReason};
use crate::wire::frontend as tag;
use crate::wire::{HEADER, Header};

/// What there is of names in a text.
enum Names {
    /// None, or they are the backend's own.
    None,
    /// They have been looked up.
    Found(Box<Resolved>),
    /// They cannot be, and are the backend's own from now on.
    Own,
}

/// Why a Query is not sent.
pub(super) enum Unsent {
    /// More of it is needed, or what it comes to hangs on answers to come.
    Wait,
    /// It is refused.
    Refused(Error),
}

impl Session {
    /// The body of a message that must be seen whole, or as much as is examined of a large one. `None`: wait.
    fn examined(&self, header: Header) -> Option<&[u8]> {
        self.client.unseen().get(
            HEADER..match header.body() <= self.longest_query() {
                true => header.total,
                false => EXAMINED + HEADER,
            },
        )
    }

    /// Of a longer Query the start is examined, and its rest as it comes. The names of a client's statements may stand
    /// anywhere, and must be found before anything is sent; so may those of what hides state.
    fn longest_query(&self) -> usize {
        if self.statements.is_empty() && !self.pool.may_hide() { EXAMINED } else { LARGEST_PARSE }
    }

    /// How much of a message must be there before it can be handled: what [`Session::take_request`] looks at.
    pub(super) fn needed(&self, header: Header) -> usize {
        match header.tag {
            tag::DESCRIBE | tag::CLOSE => header.total,
            tag::QUERY if header.body() <= self.longest_query() => header.total,
            tag::QUERY | tag::PARSE => header.total.min(EXAMINED + HEADER),
            tag::BIND => header.total.min(LONGEST_NAMES),
            _ => HEADER,
        }
    }

    /// `false`: more of it is needed first, or answers are.
    pub(super) fn query(&mut self, header: Header, lease: &mut Backend) -> bool {
        match self.send_query(header, lease) {
            Ok(()) => true,
            Err(Unsent::Wait) => false,
            Err(Unsent::Refused(error)) => {
                self.skip_request(header, lease);
                self.refuse_query(error, lease);
                true
            }
        }
    }

    fn send_query(&mut self, header: Header, lease: &mut Backend) -> Result<(), Unsent> {
        self.open.mix();
        let is_start = header.body() > self.longest_query();
        let hides = self.pins.any(PinReason::Strings.effect());
        if hides && !self.sql_own(lease) {
            return Err(Unsent::Wait);
        }
        let body = self.examined(header).ok_or(Unsent::Wait)?;
        let suspect = self.suspicion(Some(body).filter(|_| !is_start));
        let said = self.saids.of(body.strip_suffix(b"\0").unwrap_or(body));
        let (effects, rest) = match is_start {
            true => Effects::of_start(body),
            false => (Effects::of(body.strip_suffix(b"\0").unwrap_or(body)), None),
        };
        let mut effects = effects | suspect;
        let examined = body.len();
        let ends = examined == header.body() && body.ends_with(b"\0");
        self.sequences_before(examined, is_start, effects, lease)?;
        let mut resolved = None;
        if effects != Effects::NONE {
            let text = self.client.unseen().get(HEADER..HEADER + examined).unwrap_or_default();
            let text = text.strip_suffix(b"\0").unwrap_or(text).to_vec();
            if self.must_hear_first(effects) {
                return Err(Unsent::Wait);
            }
            match self.query_names(&text, ends, effects, lease)? {
                Names::Found(found) => resolved = Some(found),
                Names::Own => effects.add(PinReason::Prepare.effect()),
                Names::None => {}
            }
            self.note_effects(effects, &text, lease);
            if let Some(resolved) = &resolved {
                effects.add(self.sql_note(resolved, lease));
            }
            self.listening.note(effects, &text);
            self.guard_sequences(effects, lease);
        }
        if is_start {
            // It may come to that.
            self.forget_sequences(lease);
        }
        if let Some(resolved) = &resolved {
            self.sql_try_all(resolved, lease);
        }
        self.barrier = effects.any(Effects::CLEARS) || self.listening.may_hear_itself();
        self.clearing = effects;
        lease.statements.unnamed = Unnamed::Absent;
        // It ends what an extended query began.
        self.batch.is_open = false;
        self.note_said(said);
        self.pipeline.push(Expect::Query(UnnamedStatement::latest()));
        self.rest = rest;
        // The start has been looked at; what is there behind it, and what comes, is looked through.
        self.request = Begun::new(header.body() - examined, false);
        match resolved {
            Some(resolved) => {
                self.client.skip(HEADER + examined, &mut lease.socket);
                let out = lease.socket.output();
                out.put_u8(tag::QUERY);
                out.put_u32((4 + resolved.text.len() + 1 + self.request.rest()) as u32);
                out.put_slice(&resolved.text);
                out.put_u8(0);
                self.sql.run(resolved);
            }
            None => self.client.pass(HEADER + examined),
        }
        Ok(())
    }

    /// The names in a text with these effects, of which the end may not be there.
    fn query_names(&mut self, text: &[u8], ends: bool, effects: Effects, lease: &mut Backend) -> Result<Names, Unsent> {
        if effects.any(Effects::LISTS) {
            self.sql_hide_own(lease);
        }
        if !effects.any(Effects::STATEMENTS) || self.sql.own {
            return Ok(Names::None);
        }
        if self.sql_waits(lease) {
            return Err(Unsent::Wait);
        }
        // Without its end it is malformed, or only its start.
        let resolved = if ends { self.sql_resolve(text, effects, lease) } else { None };
        match resolved {
            Some(resolved) if resolved.exceeds(&self.statements) => Err(Unsent::Refused(too_many_statements())),
            Some(resolved) => {
                self.sequences_before(text.len(), false, resolved.executed(), lease)?;
                self.sql_part(&resolved);
                if self.sql_joins(&resolved, lease) { Err(Unsent::Wait) } else { Ok(Names::Found(resolved)) }
            }
            None if !self.sql_own(lease) => Err(Unsent::Wait),
            None => Ok(Names::Own),
        }
    }

    /// Looks through the next bytes of a long Query.
    pub(super) fn look_through(&mut self, now: usize, lease: &mut Backend) {
        let Some(rest) = &mut self.rest else { return };
        let effects = rest.effects(self.client.unseen().get(..now).unwrap_or_default(), self.request.rest() == 0);
        if effects != Effects::NONE {
            if effects.any(PinReason::Sequence.effect()) {
                // Here the client's own may have been forgotten.
                self.forget_sequences_in_time();
            }
            self.note_effects(effects, b"a long text", lease);
            self.listening.note(effects, b"");
        }
        if effects != Effects::NONE || self.request.rest() == 0 {
            self.rest = None;
        }
    }
}

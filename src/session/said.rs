//! What the statements under way say of themselves, for the lines and spans that may be about them: their command words
//! and the trace that they belong to. Kept only if somebody may ask: a setting does, or the statement ends in a comment.

use std::collections::VecDeque;

use super::Session;
use crate::config::PoolSettings;
use crate::spans;
use crate::trace::{self, TraceContext};
use crate::track::Said;
use crate::wire::frontend::{self as tag, Parse};
use crate::wire::{HEADER, Header};

/// Memory for more than this is given back.
const MOST_KEPT: usize = 4;

/// What is answered by one ReadyForQuery.
#[derive(Debug, Clone)]
pub(super) struct Noted {
    /// The how manieth of the session answers it.
    answer: u32,
    /// What its first statement says; the trace is that of the first that names one.
    pub(super) said: Said,
    /// The SQLSTATE that it failed with.
    pub(super) sqlstate: Option<Box<str>>,
}

/// Those that have not been answered, and the last one that has.
#[derive(Debug, Default)]
pub(super) struct Saids {
    /// A setting asks for all of them.
    wanted: bool,
    answered: u32,
    noted: VecDeque<Noted>,
}

impl Saids {
    /// None yet.
    pub(super) fn new(settings: &PoolSettings) -> Self {
        let mut saids = Self::default();
        saids.heed(settings);
        saids
    }

    /// From now on as these settings want.
    #[inline]
    pub(super) fn heed(&mut self, settings: &PoolSettings) {
        self.wanted = settings.log_slow_query.is_some() || settings.log_slow_borrow.is_some() || spans::is_on();
    }

    /// Whether somebody asks for all of them.
    #[inline]
    pub(super) fn are_wanted(&self) -> bool {
        self.wanted
    }

    /// What a text says, if somebody may ask.
    #[inline]
    pub(super) fn of(&self, text: &[u8]) -> Option<Said> {
        (self.wanted || trace::ends_in_comment(text)).then(|| Said::of(text))
    }

    /// The same of a statement that is prepared.
    #[inline]
    pub(super) fn of_prepared(&self, said: &Said) -> Option<Said> {
        (self.wanted || said.trace.is_some()).then_some(*said)
    }

    /// Notes what is sent now, `ahead` answers before its own.
    #[cold]
    pub(super) fn note(&mut self, ahead: usize, said: Said) {
        let answer = self.answered.wrapping_add(ahead as u32).wrapping_add(1);
        self.drop_answered();
        match self.noted.back_mut().filter(|last| last.answer == answer) {
            Some(same) => same.said.trace = same.said.trace.or(said.trace),
            None => self.noted.push_back(Noted { answer, said, sqlstate: None }),
        }
    }

    fn drop_answered(&mut self) {
        let to_come = |noted: &Noted| noted.answer.wrapping_sub(self.answered) as i32 > 0;
        while self.noted.front().is_some_and(|noted| !to_come(noted)) {
            self.noted.pop_front();
        }
    }

    /// What runs now has failed.
    pub(super) fn fail(&mut self, sqlstate: &str) {
        let next = self.answered.wrapping_add(1);
        if let Some(noted) = self.noted.front_mut().filter(|noted| noted.answer == next) {
            noted.sqlstate = Some(sqlstate.into());
        }
    }

    /// A ReadyForQuery has come.
    #[inline]
    pub(super) fn answer(&mut self) {
        if !self.noted.is_empty() {
            self.drop_answered();
        }
        self.answered = self.answered.wrapping_add(1);
    }

    /// What was answered last, or runs now.
    pub(super) fn now(&self) -> Option<&Noted> {
        self.noted.front().filter(|noted| noted.answer.wrapping_sub(self.answered) as i32 <= 1)
    }

    /// The lease is over.
    #[inline]
    pub(super) fn clear(&mut self) {
        self.noted.clear();
        self.noted.shrink_to(MOST_KEPT);
    }
}

impl Session {
    /// Notes what is sent now.
    #[inline]
    pub(super) fn note_said(&mut self, said: Option<Said>) {
        if let Some(said) = said {
            self.saids.note(self.pipeline.ends(), said);
        }
    }

    /// What the next message of the client's says, of which nothing has been taken yet.
    #[cold]
    pub(super) fn next_said(&self) -> Option<Said> {
        let mut unseen = self.client.unseen();
        while let Ok(Some(header)) = Header::peek(unseen, tag::limit) {
            let body = unseen.get(HEADER..header.total.min(unseen.len())).unwrap_or_default();
            match header.tag {
                tag::QUERY => return Some(Said::of(body.split(|byte| *byte == 0).next()?)),
                tag::PARSE => return Some(Said::of(Parse::decode(body)?.text)),
                tag::BIND => {
                    let (_, name) = tag::bind_names(body)?;
                    return match name {
                        b"" => Some(Said::of(self.statements.unnamed()?.text())),
                        name => Some(self.statements.get(name)?.statement.said),
                    };
                }
                _ => unseen = unseen.get(header.total..).unwrap_or_default(),
            }
        }
        None
    }

    /// The trace that what is said now belongs to: by its statement, by `application_name` as it is now, or by the login.
    #[cold]
    pub(super) fn trace(&self, said: Option<&Said>) -> Option<TraceContext> {
        let by_name = || TraceContext::of_application(self.params.settings.get("application_name")?).1;
        said.and_then(|said| said.trace).or_else(by_name).or(self.handle.trace.as_deref().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(saids: &Saids) -> String {
        saids.now().map(|noted| noted.said.command.to_string()).unwrap_or_default()
    }

    #[test]
    fn each_answer_is_of_what_was_said_then() {
        let mut saids = Saids { answered: u32::MAX - 1, ..Saids::default() };
        saids.note(0, Said::of(b"begin"));
        saids.note(0, Said::of(b"select"));
        // Nothing is noted of the second answer.
        saids.note(2, Said::of(b"update"));
        assert_eq!(command(&saids), "BEGIN");
        saids.answer();
        assert_eq!(command(&saids), "BEGIN", "the last, until something else is answered");
        saids.answer();
        saids.fail("22012");
        saids.answer();
        assert_eq!(command(&saids), "UPDATE");
        assert_eq!(saids.now().and_then(|noted| noted.sqlstate.as_deref()), Some("22012"));
        saids.note(0, Said::of(b"commit"));
        assert_eq!(command(&saids), "COMMIT");
        saids.clear();
        assert!(saids.now().is_none());
    }

    #[test]
    fn nothing_is_noted_that_nobody_asks_for() {
        let mut saids = Saids::default();
        assert!(saids.of(b"select 1").is_none() && saids.of(b"select 1 /* x */").is_some());
        saids.wanted = true;
        assert!(saids.of(b"select 1").is_some());
    }
}

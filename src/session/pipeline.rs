//! The replies that a backend still owes, in order: which belong to the client's own messages, which to messages that
//! were sent on its behalf and are swallowed, and which pgfunnel says itself because nothing had to be sent.

use std::cell::RefCell;
use std::collections::VecDeque;

use super::expect::{Expect, Parsed, Run};

/// Replies awaited at one time. What pgfunnel answers itself costs a client nothing to ask for, so there is a bound.
const LONGEST: usize = 10_000;

/// Bytes of texts that are kept until they are answered: PostgreSQL answers when its own buffer is full, or at a Sync.
const LARGEST: u32 = 4 * 1024 * 1024;

/// Room for as many at first: a batch of a driver's, with what it may lack.
const USUAL: usize = 8;

/// Spare memory kept per thread; more is freed.
const KEPT: usize = 64;

thread_local! {
    static SPARE: RefCell<Vec<VecDeque<Expect>>> = const { RefCell::new(Vec::new()) };
}

/// What happens to a client's unnamed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum LastUnnamed {
    /// The one with this version is parsed.
    Parse(u64),
    /// Those up to this version are closed.
    Close(u64),
}

/// The awaited replies.
#[derive(Debug, Default)]
pub(super) struct Pipeline {
    queue: VecDeque<Expect>,
    /// How many of them end a transaction.
    ends: u32,
    /// How many are of a Query.
    queries: u32,
    /// How many are of a Parse of a named statement.
    parses: u32,
    /// What they last do to the unnamed statement.
    unnamed: Option<LastUnnamed>,
    /// How many of them are ours that do something to it.
    own_unnamed: u32,
    /// How many of them we say ourselves.
    said: u32,
    /// How many are ours and may be answered by several messages: those that the client's own are told from.
    own: u32,
    /// Bytes of text that they keep.
    kept: u32,
    /// Ends of copies may be among them.
    ends_copies: bool,
    /// A batch has ended behind it, so that it may be skipped while what follows is not.
    unnamed_hangs: bool,
}

impl Pipeline {
    // Nearly all who call it know what they await: then it is a few instructions.
    #[inline(always)]
    pub(super) fn push(&mut self, expect: Expect) {
        match &expect {
            Expect::Sync => {
                self.ends += 1;
                self.unnamed_hangs = true;
            }
            Expect::Query(_) => {
                self.ends += 1;
                self.queries += 1;
                self.unnamed_hangs = true;
            }
            Expect::Parse(Parsed::Named(..)) | Expect::OwnParse(_) => self.parses += 1,
            Expect::OwnRun(..) => {
                self.parses += 1;
                self.own += 1;
            }
            Expect::Prefix | Expect::Failing | Expect::OwnTry(_) | Expect::OwnShape(_) => self.own += 1,
            Expect::Parse(Parsed::Unnamed(unnamed)) => {
                self.kept += expect.kept();
                self.unnamed = Some(LastUnnamed::Parse(unnamed.version));
                self.unnamed_hangs = false;
            }
            Expect::CloseUnnamed(version) => {
                self.unnamed = Some(LastUnnamed::Close(*version));
                self.unnamed_hangs = false;
            }
            Expect::OwnUnnamed(_) | Expect::OwnClose(0) => {
                self.own_unnamed += 1;
                self.unnamed_hangs = false;
            }
            Expect::CopyEnd(_) => self.ends_copies = true,
            Expect::SayParsed(_) => self.said += 1,
            Expect::SayClosed(_) => {
                self.said += 1;
                self.kept += expect.kept();
            }
            _ => {}
        }
        if self.queue.capacity() == 0 {
            self.queue = lend();
        }
        self.queue.push_back(expect);
    }

    /// A CopyDone or CopyFail that may come before its copy has begun.
    pub(super) fn push_copy_end(&mut self) {
        match self.queue.back_mut() {
            Some(Expect::CopyEnd(count)) => *count = count.saturating_add(1),
            Some(_) => self.push(Expect::CopyEnd(1)),
            None => {}
        }
    }

    /// Whether so much is awaited that nothing more should be sent for now.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.queue.len() >= LONGEST || self.kept >= LARGEST
    }

    /// Takes off of the counts what leaves the queue.
    #[inline]
    fn count_out(&mut self, expect: &Expect) {
        if self.kept > 0 {
            self.kept -= expect.kept();
        }
        match expect {
            Expect::Sync => self.ends -= 1,
            Expect::Query(_) => {
                self.ends -= 1;
                self.queries -= 1;
            }
            Expect::Parse(Parsed::Named(..)) | Expect::OwnParse(_) => self.parses -= 1,
            Expect::OwnRun(..) => {
                self.parses -= 1;
                self.own -= 1;
            }
            Expect::Prefix | Expect::Failing | Expect::OwnTry(_) | Expect::OwnShape(_) => self.own -= 1,
            Expect::Parse(Parsed::Unnamed(unnamed)) if self.parses_unnamed(unnamed.version) => self.unnamed = None,
            Expect::OwnUnnamed(_) | Expect::OwnClose(0) => self.own_unnamed -= 1,
            Expect::SayParsed(_) | Expect::SayClosed(_) => self.said -= 1,
            // The same version may be closed twice, and the first one skipped.
            Expect::CloseUnnamed(version)
                if self.unnamed == Some(LastUnnamed::Close(*version))
                    && !self.queue.iter().any(|expect| matches!(expect, Expect::CloseUnnamed(_))) =>
            {
                self.unnamed = None;
            }
            _ => {}
        }
    }

    /// Whether we say any of them ourselves.
    #[inline]
    pub(super) fn has_own_words(&self) -> bool {
        self.said > 0
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    #[inline]
    pub(super) fn front(&self) -> Option<&Expect> {
        self.queue.front()
    }

    /// Whether what comes next is the answer to a message of the client's own.
    #[inline]
    pub(super) fn is_the_clients(&self) -> bool {
        self.own == 0
            || !matches!(
                self.front(),
                Some(Expect::Prefix | Expect::Failing | Expect::OwnRun(..) | Expect::OwnTry(_) | Expect::OwnShape(_))
            )
    }

    /// Whether anything of ours stands in front of the client's own.
    #[inline]
    pub(super) fn has_prefix(&self) -> bool {
        self.own > 0 && self.queue.iter().any(|expect| matches!(expect, Expect::Prefix | Expect::Failing))
    }

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Expect> {
        let expect = self.queue.pop_front()?;
        self.count_out(&expect);
        if self.ends_copies {
            self.drop_copy_ends();
        }
        Some(expect)
    }

    /// Nothing that stands in front of them has begun a copy.
    #[cold]
    fn drop_copy_ends(&mut self) {
        while matches!(self.front(), Some(Expect::CopyEnd(_))) {
            self.queue.pop_front();
        }
        self.ends_copies = !self.queue.is_empty();
    }

    /// One reply to a statement of ours that runs has come. Returns what it is for if it is done.
    pub(super) fn run_replied(&mut self) -> Option<Run> {
        match self.queue.front_mut() {
            Some(Expect::OwnRun(_, left)) if *left > 1 => {
                *left -= 1;
                None
            }
            Some(&mut Expect::OwnRun(run, _)) => self.pop().map(|_| run),
            _ => None,
        }
    }

    /// Whether sequences are forgotten by then, if anything of this batch is executed then.
    pub(super) fn forgets(&self) -> bool {
        let last = self.queue.iter().rposition(|expect| matches!(expect, Expect::OwnRun(Run::Forgets, _)));
        let ends = |expect: &Expect| matches!(expect, Expect::Sync | Expect::Query(_));
        last.is_some_and(|last| !self.queue.iter().skip(last).any(ends))
    }

    /// Whether the transaction state at the end of what was sent is known: no transaction can end before.
    pub(super) fn is_certain(&self) -> bool {
        self.ends == 0
    }

    /// How many of the client's own are to be answered by a ReadyForQuery.
    #[inline]
    pub(super) fn ends(&self) -> usize {
        self.ends as usize
    }

    /// Whether anything is being executed.
    pub(super) fn runs(&self) -> bool {
        self.ends > 0 || self.queue.iter().any(|expect| matches!(expect, Expect::Execute))
    }

    /// Whether the client's unnamed Parse of this version is among them.
    pub(super) fn parses_unnamed(&self, version: u64) -> bool {
        self.unnamed == Some(LastUnnamed::Parse(version))
    }

    /// Whether any unnamed Parse of the client's is.
    pub(super) fn parses_any_unnamed(&self) -> bool {
        matches!(self.unnamed, Some(LastUnnamed::Parse(_)))
    }

    /// Whether the client has closed its unnamed statement, and parsed none since.
    pub(super) fn closes_unnamed(&self) -> bool {
        matches!(self.unnamed, Some(LastUnnamed::Close(_)))
    }

    /// Whether the last of what is done to the unnamed statement, or a Query that ends it, may yet be skipped while what is
    /// sent now is not.
    pub(super) fn unnamed_hangs(&self) -> bool {
        self.queries > 0 || (self.unnamed.is_some() || self.own_unnamed > 0) && self.unnamed_hangs
    }

    /// Whether a Parse of this statement is among them.
    pub(super) fn parses(&self, id: u64) -> bool {
        self.parses > 0 && self.queue.iter().any(|expect| expect.parses(id))
    }

    /// Whether the last such Parse may yet be skipped while what is sent now is not: a batch has ended behind it.
    #[inline]
    pub(super) fn parse_hangs(&self, id: u64) -> bool {
        if self.parses == 0 || self.ends == 0 {
            return false;
        }
        let last = self.queue.iter().rposition(|expect| expect.parses(id));
        last.is_some_and(|last| {
            self.queue.iter().skip(last).any(|expect| matches!(expect, Expect::Sync | Expect::Query(_)))
        })
    }

    /// ReadyForQuery messages to come.
    pub(super) fn outstanding(&self) -> usize {
        self.queue
            .iter()
            .filter(|expect| {
                matches!(expect, Expect::Sync | Expect::Query(_) | Expect::Prefix | Expect::Failing | Expect::OwnTry(_))
            })
            .count()
    }

    /// The backend skips everything up to the next Sync. What it skips is returned; `None` for the second: no Sync has
    /// been sent yet.
    pub(super) fn fail(&mut self) -> (Vec<Expect>, bool) {
        match self.queue.iter().position(|expect| matches!(expect, Expect::Sync)) {
            Some(sync) => (self.take_first(sync), true),
            None => (self.take_first(self.queue.len()), false),
        }
    }

    fn take_first(&mut self, count: usize) -> Vec<Expect> {
        let taken: Vec<_> = self.queue.drain(..count).collect();
        taken.iter().for_each(|expect| self.count_out(expect));
        taken
    }

    /// The backend is in COPY IN: it ignores every Sync that was sent before the copy's end. Returns whether the end
    /// was sent already.
    pub(super) fn copy_in(&mut self) -> bool {
        let end = self.queue.iter().position(|expect| matches!(expect, Expect::CopyEnd(_)));
        let ignored = end.unwrap_or(self.queue.len());
        let mut at = 0;
        self.queue.retain_mut(|expect| {
            let keep = match expect {
                _ if at > ignored => true,
                Expect::CopyEnd(count) => {
                    *count -= 1;
                    *count > 0
                }
                Expect::Sync => false,
                _ => true,
            };
            at += 1;
            self.ends -= u32::from(!keep && matches!(expect, Expect::Sync));
            keep
        });
        end.is_some()
    }

    /// Gives back its memory, which an idle client does not need: up to a usual size it is lent to the next one.
    #[inline]
    pub(super) fn give_back(&mut self) {
        if !self.queue.is_empty() {
            return;
        }
        let queue = std::mem::take(&mut self.queue);
        if (1..=USUAL).contains(&queue.capacity()) {
            // Where the thread is ending, there is nobody to lend it to.
            let _ = SPARE.try_with(|spare| {
                let mut spare = spare.borrow_mut();
                if spare.len() < KEPT {
                    spare.push(queue);
                }
            });
        }
    }
}

fn lend() -> VecDeque<Expect> {
    SPARE.with_borrow_mut(Vec::pop).unwrap_or_else(|| VecDeque::with_capacity(USUAL))
}

#[cfg(test)]
#[path = "pipeline_tests.rs"]
mod tests;

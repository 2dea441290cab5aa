//! One reply that a backend owes, and what it means when it comes.

use std::sync::Arc;

use crate::error::Error;
use crate::prepared::{Statement, Told, UnnamedStatement};

/// One awaited reply.
#[derive(Debug)]
pub(super) enum Expect {
    /// Of a Parse.
    Parse(Parsed),
    /// Of a Bind; the number of the statement's name, or 0.
    Bind(u32),
    /// Of a Describe; the last message of the answer. The number of the statement's name, or 0; and the name, if it is
    /// remembered how its rows are described.
    Describe(u32, Box<[u8]>),
    /// Of an Execute; the last message of the answer.
    Execute,
    /// Of a Close.
    Close,
    /// Of a Close of the client's unnamed statement: those up to this version are gone then.
    CloseUnnamed(u64),
    /// ReadyForQuery of a Sync.
    Sync,
    /// ReadyForQuery of a Query or FunctionCall. Unnamed statements up to this version are gone then.
    Query(u64),
    /// So many times a CopyDone or CopyFail that was sent before CopyInResponse came. No reply of its own.
    CopyEnd(u32),
    /// ParseComplete of ours: the statement with this id.
    OwnParse(u64),
    /// ParseComplete of ours: the client's unnamed statement of this version.
    OwnUnnamed(u64),
    /// CloseComplete of ours: the statement with this id, or 0: the unnamed one.
    OwnClose(u64),
    /// Of a Describe of ours: how the rows of the statement with this id are described.
    OwnShape(u64),
    /// Of a statement of ours that runs within the client's batch, so many replies more.
    OwnRun(Run, usize),
    /// Everything up to a ReadyForQuery of ours, which may have an error in it that becomes the client's: what is prepared
    /// for a Query of the client's, the statement with this id, or 0.
    OwnTry(u64),
    /// ParseComplete that we say, for this name of the client's.
    SayParsed(Box<[u8]>),
    /// CloseComplete that we say; what was closed comes back if the backend never gets so far.
    SayClosed(Box<Closed>),
    /// Of a message of ours that is bound to fail, in the place of one that we refuse: with this error.
    Refused(Box<Error>),
    /// Everything up to a ReadyForQuery of ours.
    Prefix,
    /// The same of what is meant to fail.
    Failing,
}

/// What a statement of ours is run for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Run {
    /// What it does at once.
    Now,
    /// It prepares the statement with this id on the client's behalf.
    Prepares(u64),
    /// It has the backend forget another client's sequences.
    Forgets,
}

impl Run {
    /// The statement that it prepares, or 0.
    pub(super) fn prepares(self) -> u64 {
        match self {
            Run::Prepares(id) => id,
            Run::Now | Run::Forgets => 0,
        }
    }
}

impl Expect {
    /// Whether it is of a Parse of the statement with this id.
    pub(super) fn parses(&self, id: u64) -> bool {
        match self {
            Expect::OwnParse(parsed) | Expect::Parse(Parsed::Named(_, parsed)) => *parsed == id,
            Expect::OwnRun(run, _) => run.prepares() == id,
            _ => false,
        }
    }

    /// Bytes of text that it keeps; none is longer than a message.
    #[inline]
    pub(super) fn kept(&self) -> u32 {
        match self {
            Expect::Parse(Parsed::Unnamed(unnamed)) => unnamed.definition.len() as u32,
            Expect::SayClosed(closed) => closed.statement.definition.len() as u32,
            _ => 0,
        }
    }
}

/// A name that a client closed.
#[derive(Debug)]
pub(super) struct Closed {
    pub(super) name: Box<[u8]>,
    pub(super) statement: Arc<Statement>,
    pub(super) told: Told,
}

/// What a client's Parse was.
#[derive(Debug)]
pub(super) enum Parsed {
    /// A new name, for the statement with this id.
    Named(Box<[u8]>, u64),
    /// This name, which the client has already: bound to fail.
    Duplicate(Box<[u8]>),
    /// The unnamed statement.
    Unnamed(UnnamedStatement),
    /// Passed on as it was.
    Verbatim,
}

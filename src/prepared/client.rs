//! A client's own view: which of its names mean which statement, and its unnamed statement.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;

use super::Statement;
use crate::track::sql_names::LONGEST;
use crate::track::{Effects, Params};

/// A client's unnamed statement. PostgreSQL keeps it until the next unnamed Parse or simple Query, across
/// transactions (manual, "Message Flow", "Extended Query"), so it must be found again on another backend.
#[derive(Debug)]
pub struct UnnamedStatement {
    /// Text, NUL, parameter types.
    pub definition: Arc<[u8]>,
    /// Which Parse it came from, unique in this process.
    pub version: u64,
    /// What its text says about session state.
    pub effects: Effects,
    /// What was in force when it was parsed.
    pub under: Under,
}

/// What was in force when an unnamed statement was parsed. Most are used at once: nothing is kept for those.
#[derive(Debug)]
pub enum Under {
    /// Something that held for that transaction only.
    Unknown,
    /// The client's present settings.
    Present,
    /// Settings that it had before.
    Past(Arc<Params>),
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl UnnamedStatement {
    /// The version of the newest one.
    pub fn latest() -> u64 {
        NEXT.load(Ordering::Relaxed) - 1
    }

    /// The text alone.
    pub fn text(&self) -> &[u8] {
        self.definition.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// A new one.
    pub fn new(definition: Arc<[u8]>, effects: Effects, under: Under) -> Self {
        Self { definition, version: NEXT.fetch_add(1, Ordering::Relaxed), effects, under }
    }
}

/// PostgreSQL compares no more of a name (`src/backend/commands/prepare.c`, `InitQueryHashTable`).
#[inline]
pub fn cut(name: &[u8]) -> &[u8] {
    name.get(..LONGEST).unwrap_or(name)
}

/// Names that may be unsettled at one time.
const UNSETTLED: usize = 100;

/// Names that a client may have: a hundred times what a driver or an ORM keeps.
pub const MOST_NAMES: usize = 10_000;

/// Bytes of their names and texts.
pub const MOST_BYTES: usize = 16 * 1024 * 1024;

/// What a client has prepared.
#[derive(Debug, Default)]
pub struct ClientStatements {
    /// A client that only sends Query has nothing here, and takes no room for it.
    kept: Option<Box<Kept>>,
    /// Unnamed statements up to this version are gone, also if PostgreSQL has yet to say that it parsed them.
    dropped: u64,
}

#[derive(Debug, Default)]
struct Kept {
    named: HashMap<Box<[u8]>, Named, RandomState>,
    /// Of all names and definitions together.
    bytes: usize,
    /// The number of the last name given.
    given: u32,
    unnamed: Option<UnnamedStatement>,
    /// Names given or taken since everything was answered: what was sent before may be answered with an error that
    /// names them, and whether they were given or taken at all may hang on such an error.
    unsettled: Vec<(Box<[u8]>, u32)>,
}

/// What a client's name means.
#[derive(Debug)]
pub struct Named {
    /// The statement.
    pub statement: Arc<Statement>,
    /// Which of the client's names it is: two may mean one statement, and an error must name the right one.
    pub number: u32,
    /// What the client knows of its result.
    pub told: Told,
}

/// What a client knows of a statement's result.
#[derive(Debug, Clone, Copy, Default)]
pub struct Told {
    /// The pool's count of schema changes when it parsed it.
    pub schema: u64,
    /// How its rows were described to it first (see [`crate::wire::backend::row_shape`]); `None`: not yet.
    pub shape: Option<u64>,
}

fn size(name: &[u8], statement: &Statement) -> usize {
    name.len() + statement.definition.len()
}

impl Kept {
    /// One more than is kept says that there are too many.
    fn unsettle(&mut self, name: &[u8], number: u32) {
        if self.unsettled.len() <= UNSETTLED {
            self.unsettled.push((name.into(), number));
        }
    }
}

impl ClientStatements {
    /// The statement of this name.
    #[inline]
    pub fn get(&self, name: &[u8]) -> Option<&Named> {
        self.kept.as_ref()?.named.get(cut(name))
    }

    /// Gives a statement a name that is free.
    pub fn insert(&mut self, name: &[u8], statement: Arc<Statement>, told: Told) {
        let name = cut(name);
        let kept = self.kept.get_or_insert_default();
        kept.given = kept.given.wrapping_add(1);
        kept.unsettle(name, kept.given);
        kept.bytes += size(name, &statement);
        let before = kept.named.insert(name.into(), Named { statement, number: kept.given, told });
        kept.bytes -= before.map_or(0, |before| size(name, &before.statement));
    }

    /// The rows of the statement with this name are described to the client. Returns the statement, if the name still is
    /// the one with this number.
    pub fn tell(&mut self, name: &[u8], number: u32, shape: u64) -> Option<u64> {
        let named = self.kept.as_mut()?.named.get_mut(cut(name)).filter(|named| named.number == number)?;
        named.told.shape.get_or_insert(shape);
        Some(named.statement.id)
    }

    /// Whether there is no name.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.kept.as_ref().is_none_or(|kept| kept.named.is_empty())
    }

    /// Whether so many names more, with so many bytes, are too many.
    pub fn exceeds(&self, names: usize, bytes: usize) -> bool {
        let (had, held) = self.kept.as_ref().map_or((0, 0), |kept| (kept.named.len(), kept.bytes));
        had + names > MOST_NAMES || held + bytes > MOST_BYTES
    }

    /// Forgets a name, as Close does or a Parse that failed.
    pub fn remove(&mut self, name: &[u8]) {
        let name = cut(name);
        if let Some(kept) = &mut self.kept
            && let Some(named) = kept.named.remove(name)
        {
            kept.bytes -= size(name, &named.statement);
            kept.unsettle(name, named.number);
        }
    }

    /// Everything has been answered.
    #[inline]
    pub fn settle(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.unsettled.clear();
        }
    }

    /// Whether what a name means hangs on answers that are to come. Also when there are too many such names to keep.
    pub fn is_unsettled(&self, name: &[u8]) -> bool {
        let (name, Some(kept)) = (cut(name), &self.kept) else { return false };
        kept.unsettled.len() > UNSETTLED || kept.unsettled.iter().any(|(unsettled, _)| **unsettled == *name)
    }

    /// The unnamed statement.
    pub fn unnamed(&self) -> Option<&UnnamedStatement> {
        self.kept.as_ref()?.unnamed.as_ref()
    }

    /// The client's settings change; they were these. Everything has been answered.
    pub fn leave(&mut self, params: &Arc<Params>) {
        let Some(kept) = &mut self.kept else { return };
        for named in kept.named.values_mut().filter(|named| named.statement.private.is_none()) {
            named.statement = named.statement.to_private();
        }
        if let Some(unnamed) = kept.unnamed.as_mut().filter(|unnamed| matches!(unnamed.under, Under::Present)) {
            unnamed.under = Under::Past(params.clone());
        }
    }

    /// PostgreSQL has parsed an unnamed statement; it is the client's, unless it was dropped since it was sent.
    pub fn confirm_unnamed(&mut self, unnamed: UnnamedStatement) {
        if unnamed.version > self.dropped {
            self.kept.get_or_insert_default().unnamed = Some(unnamed);
        }
    }

    /// The unnamed statement is no more, because its successor could not be parsed.
    pub fn lose_unnamed(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.unnamed = None;
        }
    }

    /// Unnamed statements up to this version are no more, as behind a Query; nor are those that are being parsed.
    pub fn drop_unnamed(&mut self, version: u64) {
        self.dropped = self.dropped.max(version);
        if let Some(kept) = &mut self.kept {
            kept.unnamed.take_if(|unnamed| unnamed.version <= version);
        }
    }

    /// Forgets all names, as `DEALLOCATE ALL` does; the unnamed statement stays.
    pub fn clear(&mut self) {
        if let Some(kept) = &mut self.kept {
            kept.named.clear();
            kept.bytes = 0;
        }
    }

    /// Every name and what it means.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &Arc<Statement>)> {
        let named = self.kept.iter().flat_map(|kept| &kept.named);
        named.map(|(name, named)| (&**name, &named.statement))
    }

    /// A name of each statement, by its id.
    pub fn by_id(&self) -> HashMap<u64, &[u8], RandomState> {
        self.iter().map(|(name, statement)| (statement.id, name)).collect()
    }

    /// The client's name with this number.
    pub fn name(&self, number: u32) -> Option<&[u8]> {
        let kept = self.kept.as_ref()?;
        let known = kept.named.iter().map(|(name, named)| (name, named.number));
        let gone = kept.unsettled.iter().map(|(name, number)| (name, *number));
        known.chain(gone).find(|(_, found)| *found == number).map(|(name, _)| &**name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_forgotten_makes_room() {
        let mut statements = ClientStatements::default();
        let large = || Statement::private(vec![b'x'; MOST_BYTES - 1].into(), b"", None);
        assert!(!statements.exceeds(1, MOST_BYTES) && statements.exceeds(1, MOST_BYTES + 1));
        statements.insert(b"a", large(), Told::default());
        assert!(statements.exceeds(1, 1));
        statements.insert(b"a", large(), Told::default());
        statements.remove(b"a");
        assert!(!statements.exceeds(1, MOST_BYTES));
        statements.insert(b"a", large(), Told::default());
        statements.clear();
        assert!(!statements.exceeds(MOST_NAMES, MOST_BYTES) && statements.exceeds(MOST_NAMES + 1, 0));
    }
}

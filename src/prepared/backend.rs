//! Which statements one backend has: those prepared under server-side names, and whose unnamed statement it holds.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use foldhash::fast::RandomState;
use hashlink::LruCache;

use super::{GONE, Private, Statement};

/// Statements kept per backend; the least recently used is closed to make room.
const CAPACITY: usize = 500;

/// In the place of a schema count: what the statement means here holds no longer.
const OUTDATED: u64 = u64::MAX;

/// What a backend has as its unnamed statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unnamed {
    /// None.
    Absent,
    /// The one with this version (see [`super::UnnamedStatement::version`]).
    Version(u64),
    /// Somebody's, or nobody knows.
    Unknown,
}

/// Whether a backend has a statement.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prepared {
    /// It does not.
    Absent,
    /// Under a meaning that no longer holds.
    Outdated,
    /// It does; the pool's count of schema changes when it was parsed.
    At(u64),
}

/// The statements of one backend.
#[derive(Debug)]
pub struct BackendStatements {
    /// By their ids.
    prepared: LruCache<u64, Parsed, RandomState>,
    /// How many private ones were gone when that was last looked for.
    gone: u64,
    /// The unnamed one.
    pub unnamed: Unnamed,
}

/// One of them.
#[derive(Debug)]
struct Parsed {
    /// The pool's count of schema changes when it was parsed.
    schema: u64,
    /// How its rows are described; `None`: nobody has asked.
    shape: Option<u64>,
    /// That the one client which has it does so.
    private: Option<Weak<Private>>,
}

impl Default for BackendStatements {
    fn default() -> Self {
        let prepared = LruCache::with_hasher(usize::MAX, RandomState::default());
        Self { prepared, gone: 0, unnamed: Unnamed::Absent }
    }
}

impl BackendStatements {
    /// Whether and how it is here. Counts as a use.
    #[inline]
    pub fn get(&mut self, id: u64) -> Prepared {
        match self.prepared.get(&id) {
            None => Prepared::Absent,
            Some(&Parsed { schema: OUTDATED, .. }) => Prepared::Outdated,
            Some(&Parsed { schema, .. }) => Prepared::At(schema),
        }
    }

    /// Notes that it was parsed under settings that held for a transaction only: it must be parsed anew.
    pub fn outdate(&mut self, id: u64) {
        if let Some(parsed) = self.prepared.get_mut(&id) {
            parsed.schema = OUTDATED;
        }
    }

    /// How its rows are described here, if that is known.
    pub fn shape(&self, id: u64) -> Option<u64> {
        self.prepared.peek(&id)?.shape
    }

    /// Notes how they are.
    pub fn describe(&mut self, id: u64, shape: u64) {
        if let Some(parsed) = self.prepared.get_mut(&id) {
            parsed.shape = Some(shape);
        }
    }

    /// Notes a Parse.
    pub fn insert(&mut self, statement: &Statement, schema: u64) {
        let private = statement.private.as_ref().map(Arc::downgrade);
        self.prepared.insert(statement.id, Parsed { schema, shape: None, private });
    }

    /// Takes out those that no client has any more.
    #[inline]
    pub fn take_abandoned(&mut self) -> Vec<u64> {
        let gone = GONE.load(Ordering::Acquire);
        if gone == self.gone { Vec::new() } else { self.look_for_abandoned(gone) }
    }

    #[cold]
    fn look_for_abandoned(&mut self, gone: u64) -> Vec<u64> {
        self.gone = gone;
        let is_gone = |parsed: &Parsed| parsed.private.as_ref().is_some_and(|private| private.strong_count() == 0);
        let abandoned: Vec<u64> =
            self.prepared.iter().filter(|(_, parsed)| is_gone(parsed)).map(|(id, _)| *id).collect();
        abandoned.iter().for_each(|id| self.remove(*id));
        abandoned
    }

    /// The next statement that must be closed to make room.
    #[inline]
    #[must_use]
    pub fn surplus(&mut self) -> Option<u64> {
        if self.prepared.len() > CAPACITY { self.prepared.remove_lru().map(|(id, _)| id) } else { None }
    }

    /// Notes that the Parse of this unnamed statement was skipped; what is there instead, nobody knows. A later Parse
    /// may have been sent already.
    pub fn doubt_unnamed(&mut self, version: u64) {
        if self.unnamed == Unnamed::Version(version) {
            self.unnamed = Unnamed::Unknown;
        }
    }

    /// Notes that one is still there although it was to be closed. `false`: there is no room to remember it.
    #[must_use]
    pub fn restore(&mut self, id: u64) -> bool {
        let room = self.prepared.len() < 2 * CAPACITY;
        if room {
            self.prepared.insert(id, Parsed { schema: OUTDATED, shape: None, private: None });
        }
        room
    }

    /// Notes that one is gone.
    pub fn remove(&mut self, id: u64) {
        self.prepared.remove(&id);
    }

    /// Notes `DEALLOCATE ALL` and the like.
    pub fn clear(&mut self) {
        self.prepared.clear();
    }

    /// The ids of all.
    pub fn ids(&self) -> Vec<u64> {
        self.prepared.iter().map(|(id, _)| *id).collect()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.prepared.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.prepared.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statements(count: usize) -> Vec<Arc<Statement>> {
        (0..count).map(|_| Statement::private(b"select 1\0\0\0"[..].into(), b"select 1", None)).collect()
    }

    #[test]
    fn the_least_recently_used_makes_room() {
        let all = statements(CAPACITY + 1);
        let mut there = BackendStatements::default();
        for statement in &all[..CAPACITY] {
            there.insert(statement, 0);
            assert_eq!(there.surplus(), None);
        }
        assert_eq!(there.get(all[0].id), Prepared::At(0));
        there.insert(&all[CAPACITY], 3);
        assert_eq!((there.surplus(), there.surplus()), (Some(all[1].id), None));
        assert_eq!(there.get(all[1].id), Prepared::Absent);
        assert_eq!(there.get(all[CAPACITY].id), Prepared::At(3));
        there.outdate(all[CAPACITY].id);
        assert_eq!(there.get(all[CAPACITY].id), Prepared::Outdated);
        assert_eq!(there.len(), CAPACITY);
    }

    #[test]
    fn what_no_client_has_any_more_is_found_once() {
        let mut all = statements(3);
        let mut there = BackendStatements::default();
        all.iter().for_each(|statement| there.insert(statement, 0));
        let gone = all.remove(1).id;
        assert_eq!(there.take_abandoned(), [gone]);
        assert_eq!((there.get(gone), there.len()), (Prepared::Absent, 2));
        assert!(there.take_abandoned().is_empty());
    }
}

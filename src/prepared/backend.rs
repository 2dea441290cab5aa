//! Which statements one backend has: those prepared under server-side names, and whose unnamed statement it holds.

use foldhash::fast::RandomState;
use hashlink::LruCache;

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
    /// Id -> the pool's count of schema changes when it was parsed.
    prepared: LruCache<u64, u64, RandomState>,
    /// The unnamed one.
    pub unnamed: Unnamed,
}

impl Default for BackendStatements {
    fn default() -> Self {
        Self { prepared: LruCache::with_hasher(usize::MAX, RandomState::default()), unnamed: Unnamed::Absent }
    }
}

impl BackendStatements {
    /// Whether and how it is here. Counts as a use.
    #[inline]
    pub fn get(&mut self, id: u64) -> Prepared {
        match self.prepared.get(&id) {
            None => Prepared::Absent,
            Some(&OUTDATED) => Prepared::Outdated,
            Some(&schema) => Prepared::At(schema),
        }
    }

    /// Notes that it was parsed under settings that held for a transaction only: it must be parsed anew.
    pub fn outdate(&mut self, id: u64) {
        if let Some(schema) = self.prepared.get_mut(&id) {
            *schema = OUTDATED;
        }
    }

    /// Notes a Parse.
    pub fn insert(&mut self, id: u64, schema: u64) {
        self.prepared.insert(id, schema);
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
            self.prepared.insert(id, OUTDATED);
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

    #[test]
    fn the_least_recently_used_makes_room() {
        let mut statements = BackendStatements::default();
        for id in 0..CAPACITY as u64 {
            statements.insert(id, 0);
            assert_eq!(statements.surplus(), None);
        }
        assert_eq!(statements.get(0), Prepared::At(0));
        statements.insert(9_999, 3);
        assert_eq!((statements.surplus(), statements.surplus()), (Some(1), None));
        assert_eq!(statements.get(1), Prepared::Absent);
        assert_eq!(statements.get(9_999), Prepared::At(3));
        statements.outdate(9_999);
        assert_eq!(statements.get(9_999), Prepared::Outdated);
        assert_eq!(statements.len(), CAPACITY);
    }
}

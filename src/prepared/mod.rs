//! Prepared statements that work on any backend: a client's names for them, their identity (text and parameter types)
//! and name on backends, and which backend has which. Pure; the session acts on it.

mod backend;
mod client;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use foldhash::fast::RandomState;
use hashlink::LruCache;

pub use backend::{BackendStatements, Prepared, Unnamed};
pub use client::{ClientStatements, Named, UnnamedStatement};

use crate::track::Effects;

/// A statement as all clients of a pool share it.
#[derive(Debug)]
pub struct Statement {
    /// Unique in this process.
    pub id: u64,
    /// Its name on backends.
    pub name: Box<[u8]>,
    /// Text, NUL, parameter types: what follows the name in a Parse body.
    pub definition: Arc<[u8]>,
    /// What its text says about session state.
    pub effects: Effects,
}

/// The start of every server-side name. It holds a random number, so that a client cannot name another's statement.
pub fn prefix() -> &'static str {
    static PREFIX: LazyLock<String> = LazyLock::new(|| {
        let mut random = [0u8; 8];
        // Names need to be unguessable only against clients that are already logged in; a failing random source would
        // have stopped the process at its first login.
        let _ = aws_lc_rs::rand::fill(&mut random);
        format!("pgf_{:016x}_", u64::from_ne_bytes(random))
    });
    &PREFIX
}

static NEXT: AtomicU64 = AtomicU64::new(1);

/// The statements of one pool, so that the thousandth client that prepares a text finds it prepared. Bounded: the
/// least recently parsed are forgotten, and get a new identity when they come again.
#[derive(Debug)]
pub struct Registry {
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    statements: LruCache<(u128, Arc<[u8]>), Arc<Statement>, RandomState>,
    /// Of all definitions together.
    bytes: usize,
}

/// Statements remembered per pool.
const KNOWN: usize = 5_000;

/// Bytes of their definitions.
const KNOWN_BYTES: usize = 16 * 1024 * 1024;

impl Default for Registry {
    fn default() -> Self {
        let statements = LruCache::with_hasher(usize::MAX, RandomState::default());
        Self { known: Mutex::new(Known { statements, bytes: 0 }) }
    }
}

impl Registry {
    /// The statement with this definition, whose text is `text`, as clients with these settings mean it (see
    /// [`crate::track::Settings::parse_key`]).
    pub fn intern(&self, settings: u128, definition: &[u8], text: &[u8]) -> Arc<Statement> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (settings, Arc::from(definition));
        if let Some(statement) = known.statements.get(&key) {
            return statement.clone();
        }
        let statement = Statement::private(key.1.clone(), text);
        known.bytes += definition.len();
        known.statements.insert(key, statement.clone());
        while known.statements.len() > KNOWN || known.bytes > KNOWN_BYTES {
            let Some((_, forgotten)) = known.statements.remove_lru() else { break };
            known.bytes -= forgotten.definition.len();
        }
        statement
    }
}

impl Statement {
    /// A statement that no other client shares.
    pub fn private(definition: Arc<[u8]>, text: &[u8]) -> Arc<Statement> {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        Arc::new(Statement {
            id,
            name: format!("{}{id}", prefix()).into_bytes().into_boxed_slice(),
            definition,
            effects: Effects::of(text),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_definitions_are_one_statement() {
        let registry = Registry::default();
        let a = registry.intern(0, b"select 1\0\0\0", b"select 1");
        let b = registry.intern(0, b"select 1\0\0\0", b"select 1");
        let d = registry.intern(1, b"select 1\0\0\0", b"select 1");
        assert_ne!(a.id, d.id);
        let c = registry.intern(0, b"select 1\0\0\x01\0\0\0\x17", b"select 1");
        assert!(Arc::ptr_eq(&a, &b));
        assert_ne!(a.id, c.id);
        assert!(a.name.starts_with(prefix().as_bytes()));
    }
}

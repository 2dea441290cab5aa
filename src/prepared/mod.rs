//! Prepared statements that work on any backend: a client's names for them, their identity (text and parameter types)
//! and name on backends, and which backend has which. Pure; the session acts on it.

mod backend;
mod client;

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use foldhash::fast::RandomState;
use hashlink::LruCache;

pub use backend::{BackendStatements, Prepared, Unnamed};
pub use client::{ClientStatements, MOST_BYTES, MOST_NAMES, Named, Told, Under, UnnamedStatement, cut};

use crate::track::{self, Effects, Params, Said};

/// A statement that clients have prepared.
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
    /// What its text says of itself.
    pub said: Said,
    /// It is one client's; otherwise all clients of the pool with the same settings have it.
    pub private: Option<Arc<Private>>,
    /// It was made by SQL `PREPARE`, which is its text then.
    pub sql: Option<Prepare>,
    /// What was in force when it was parsed; `None`: something that held for that transaction only.
    pub params: Option<Arc<Params>>,
}

/// That one client has a statement: once it is gone, with its name or with the client, so is this.
#[derive(Debug)]
pub struct Private(());

/// How many of them have gone.
static GONE: AtomicU64 = AtomicU64::new(0);

impl Drop for Private {
    fn drop(&mut self) {
        GONE.fetch_add(1, Ordering::Release);
    }
}

/// Where SQL's `PREPARE` of a statement stood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prepare {
    /// Where the client's name stands in the statement's text.
    pub name: Range<usize>,
    /// Characters in front of it in the text that it was sent in: PostgreSQL counts the positions of errors from there,
    /// also of those that it finds later.
    pub before: usize,
    /// Characters that our names are longer than the client's, up to and including this one.
    pub added: isize,
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
    pub fn intern(&self, params: &Arc<Params>, definition: &[u8], text: &[u8]) -> Arc<Statement> {
        let key = (params.parse_key, Arc::from(definition));
        let lock = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(statement) = lock().statements.get(&key) {
            return statement.clone();
        }
        // The text is looked through while others use what is known.
        let statement = Arc::new(Statement {
            private: None,
            ..Statement::new(key.1.clone(), Effects::of(text), Said::of(text), Some(params.clone()))
        });
        let mut known = lock();
        if let Some(statement) = known.statements.get(&key) {
            return statement.clone();
        }
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
    pub fn private(definition: Arc<[u8]>, text: &[u8], params: Option<Arc<Params>>) -> Arc<Statement> {
        Arc::new(Self::new(definition, Effects::of(text), Said::of(text), params))
    }

    fn new(definition: Arc<[u8]>, effects: Effects, said: Said, params: Option<Arc<Params>>) -> Self {
        let id = Self::next_id();
        Statement {
            id,
            name: server_name(id),
            definition,
            effects,
            said,
            private: Some(Arc::new(Private(()))),
            sql: None,
            params,
        }
    }

    /// The same, of which no other client's settings change the meaning: PostgreSQL analyses a statement anew under those
    /// in force when `search_path` differs (`src/backend/utils/cache/plancache.c`, `RevalidateCachedQuery`).
    pub fn to_private(&self) -> Arc<Statement> {
        Arc::new(Self::new(self.definition.clone(), self.effects, self.said, self.params.clone()))
    }

    /// What SQL's `PREPARE` makes: `text` is that statement, `id` an unused one of [`Statement::next_id`].
    pub fn of_sql(id: u64, text: &[u8], sql: Prepare, params: Option<Arc<Params>>) -> Arc<Statement> {
        let mut effects = Effects::of(text);
        // They are of the PREPARE, not of what it prepares.
        effects.remove(Effects::NAMES.with(Effects::CLEARS));
        let definition = [text, &[0, 0, 0]].concat().into();
        let (said, private) = (Said::of(text), Some(Arc::new(Private(()))));
        Arc::new(Statement { id, name: server_name(id), definition, effects, said, private, sql: Some(sql), params })
    }

    /// An id for a statement to come.
    pub fn next_id() -> u64 {
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// The text alone.
    pub fn text(&self) -> &[u8] {
        self.definition.split(|byte| *byte == 0).next().unwrap_or_default()
    }

    /// How many parameters it has: those whose types were given, or more if the text says so.
    pub fn parameters(&self) -> u16 {
        let types = self.definition.get(self.text().len() + 1..).and_then(<[u8]>::first_chunk);
        types.map_or(0, |count| u16::from_be_bytes(*count)).max(track::parameters(self.text()))
    }

    /// Whether it surely does not end a transaction, as only that may run in one that has failed.
    pub fn ends_nothing(&self) -> bool {
        let first = self.text().trim_ascii_start().split(|byte| !byte.is_ascii_alphabetic()).next().unwrap_or_default();
        let ends: [&[u8]; 5] = [b"commit", b"rollback", b"end", b"abort", b"prepare"];
        // It may begin with a comment.
        !first.is_empty() && !ends.iter().any(|word| first.eq_ignore_ascii_case(word))
    }

    /// Whether SQL could have prepared it: a query, not a utility statement.
    pub fn is_plain(&self) -> bool {
        let first = self.text().trim_ascii_start().split(|byte| !byte.is_ascii_alphabetic()).next().unwrap_or_default();
        let plain: [&[u8]; 8] = [b"select", b"insert", b"update", b"delete", b"merge", b"values", b"with", b"table"];
        self.sql.is_some() || plain.iter().any(|word| first.eq_ignore_ascii_case(word))
    }

    /// The `PREPARE` that makes it anew on a backend, if one made it; errors get the same positions as before.
    pub fn prepare(&self) -> Option<Vec<u8>> {
        let sql = self.sql.as_ref()?;
        let (before, behind) = (self.text().get(..sql.name.start)?, self.text().get(sql.name.end..)?);
        Some([&vec![b' '; sql.before], before, &quoted(&self.name), behind].concat())
    }
}

/// The name on backends of the statement with this id.
pub fn server_name(id: u64) -> Box<[u8]> {
    format!("{}{id}", prefix()).into_bytes().into_boxed_slice()
}

/// As it stands in SQL; nothing in it needs doubling.
pub fn quoted(name: &[u8]) -> Vec<u8> {
    [b"\"", name, b"\""].concat()
}

/// Characters of a text: in UTF-8, and at most a little off in other encodings.
pub fn characters(text: &[u8]) -> usize {
    text.iter().filter(|byte| **byte & 0xc0 != 0x80).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_definitions_are_one_statement() {
        let registry = Registry::default();
        let params = |zone: &str| {
            let mut settings = track::Settings::default();
            settings.set("timezone", zone.to_owned());
            Arc::new(Params::new(settings, Default::default()))
        };
        let (paris, tokyo) = (&params("Europe/Paris"), &params("Asia/Tokyo"));
        let a = registry.intern(paris, b"select 1\0\0\0", b"select 1");
        let b = registry.intern(paris, b"select 1\0\0\0", b"select 1");
        let d = registry.intern(tokyo, b"select 1\0\0\0", b"select 1");
        assert_ne!(a.id, d.id);
        let c = registry.intern(paris, b"select 1\0\0\x01\0\0\0\x17", b"select 1");
        assert!(Arc::ptr_eq(&a, &b));
        assert_ne!(a.id, c.id);
        assert!(a.name.starts_with(prefix().as_bytes()));
    }

    #[test]
    fn a_prepare_is_made_anew_where_it_stood() {
        let sql = Prepare { name: 8..9, before: 3, added: 0 };
        let statement = Statement::of_sql(7, b"prepare p as select 1", sql, None);
        let expected = format!("   prepare \"{}7\" as select 1", prefix());
        assert_eq!(statement.prepare(), Some(expected.into_bytes()));
        assert!(!statement.effects.any(Effects::NAMES));
        assert_eq!(characters("aä€".as_bytes()), 3);
    }
}

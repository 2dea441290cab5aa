//! What is counted while it lives: clients, consoles, clients of one user, connections of one address.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// One more while it lives.
pub struct Count(Arc<AtomicUsize>);

impl Count {
    /// One more.
    pub fn new(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::AcqRel);
        Self(count.clone())
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// How many there are of each key. Keys come from outside: one that nobody has is forgotten.
pub struct Counts<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

/// One more of a key while it lives.
pub struct KeyCount<K: Eq + Hash> {
    counts: Arc<Mutex<HashMap<K, usize>>>,
    key: K,
}

impl<K: Eq + Hash + Clone> Counts<K> {
    /// Of all keys.
    pub fn all(&self) -> usize {
        lock(&self.0).values().sum()
    }

    /// One more of this key. `None`: there are `most` already.
    pub fn enter(&self, key: &K, most: usize) -> Option<KeyCount<K>> {
        let mut counts = lock(&self.0);
        let count = counts.get(key).copied().unwrap_or(0);
        if count >= most {
            return None;
        }
        counts.insert(key.clone(), count + 1);
        Some(KeyCount { counts: self.0.clone(), key: key.clone() })
    }
}

impl<K: Eq + Hash> KeyCount<K> {
    /// What it is one more of.
    pub fn key(&self) -> &K {
        &self.key
    }
}

impl<K: Eq + Hash> Drop for KeyCount<K> {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

fn lock<K>(counts: &Mutex<HashMap<K, usize>>) -> MutexGuard<'_, HashMap<K, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_limits_of_their_own_and_are_forgotten() {
        let counts = Counts::default();
        let first = counts.enter(&"a", 2);
        let second = counts.enter(&"a", 2);
        assert!(first.is_some() && second.is_some() && counts.enter(&"a", 2).is_none());
        let other = counts.enter(&"b", 2);
        assert_eq!(counts.all(), 3);
        drop((first, other));
        assert_eq!(lock(&counts.0).keys().collect::<Vec<_>>(), [&"a"]);
        assert!(counts.enter(&"a", 2).is_some());
    }
}

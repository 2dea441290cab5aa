//! SCRAM keys of passwords, derived on helper threads and remembered.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use foldhash::fast::RandomState;
use hashlink::LruCache;
use tokio::sync::{OnceCell, Semaphore};
use zeroize::Zeroizing;

use super::{ProcessSecret, lock};
use crate::auth::scram::{Challenge, Keys};
use crate::backend::KeySource;
use crate::config::Password;

/// Entries kept: some two per (password, server), so thousands of users; about a megabyte when full.
const CAPACITY: usize = 4096;

type Fingerprint = [u8; 32];

/// Keys by (password, salt, iterations). Under a fingerprint, not the password itself: a core dump of the cache alone
/// gives nothing away but what logging in needs anyway.
pub struct KeyCache {
    secret: ProcessSecret,
    entries: Mutex<LruCache<Fingerprint, Arc<OnceCell<Keys>>, RandomState>>,
    /// Derivations at one time: a flood of wrong passwords may occupy the helper threads, never all of the machine.
    threads: Semaphore,
}

impl KeyCache {
    /// An empty cache.
    pub fn new(secret: ProcessSecret) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Self {
            secret,
            entries: Mutex::new(LruCache::with_hasher(CAPACITY, RandomState::default())),
            threads: Semaphore::new((cores / 2).max(1)),
        }
    }

    /// The keys of `password`, from the cache or derived by a helper thread. However many ask for the same at once, it
    /// is derived once. Cancel-safe: if the asker that derives is dropped, the next one starts anew.
    pub async fn keys(&self, password: &[u8], salt: &[u8], iterations: u32) -> Keys {
        let fingerprint = self.fingerprint(password, salt, iterations);
        let cell = self.cell(fingerprint);
        cell.get_or_init(|| self.derive(password, salt, iterations)).await.clone()
    }

    /// As [`KeyCache::keys`], but keys that `fits` rejects are not remembered: for passwords that others send us, or
    /// guessing would wash out the cache.
    pub async fn keys_if(
        &self,
        password: &[u8],
        salt: &[u8],
        iterations: u32,
        fits: impl Fn(&Keys) -> bool,
    ) -> Option<Keys> {
        let fingerprint = self.fingerprint(password, salt, iterations);
        let known = lock(&self.entries).get(&fingerprint).and_then(|cell| cell.get().cloned());
        if let Some(keys) = known {
            return fits(&keys).then_some(keys);
        }
        let keys = self.derive(password, salt, iterations).await;
        if !fits(&keys) {
            return None;
        }
        // Whoever was faster put the same keys there.
        let _ = self.cell(fingerprint).set(keys.clone());
        Some(keys)
    }

    fn fingerprint(&self, password: &[u8], salt: &[u8], iterations: u32) -> Fingerprint {
        self.secret.fingerprint(&[password, salt, &iterations.to_be_bytes()])
    }

    fn cell(&self, fingerprint: Fingerprint) -> Arc<OnceCell<Keys>> {
        let mut entries = lock(&self.entries);
        if let Some(cell) = entries.get(&fingerprint) {
            return Arc::clone(cell);
        }
        let cell = Arc::new(OnceCell::new());
        entries.insert(fingerprint, Arc::clone(&cell));
        cell
    }

    async fn derive(&self, password: &[u8], salt: &[u8], iterations: u32) -> Keys {
        // The semaphore is never closed; without a permit it would only be less bounded.
        let _permit = self.threads.acquire().await.ok();
        let (owned, owned_salt) = (Zeroizing::new(password.to_vec()), salt.to_vec());
        match tokio::task::spawn_blocking(move || Keys::derive(&owned, &owned_salt, iterations)).await {
            Ok(keys) => keys,
            // The runtime is shutting down and takes no more helpers; nobody will wait for anything after this.
            Err(_) => Keys::derive(password, salt, iterations),
        }
    }
}

impl KeySource for KeyCache {
    fn keys<'a>(
        &'a self,
        password: &'a Password,
        challenge: &'a Challenge,
    ) -> Pin<Box<dyn Future<Output = Keys> + Send + 'a>> {
        Box::pin(self.keys(password.0.as_bytes(), &challenge.salt, challenge.iterations))
    }
}

impl fmt::Debug for KeyCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyCache(…)")
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    fn cache() -> KeyCache {
        KeyCache::new(ProcessSecret::random().unwrap())
    }

    #[tokio::test]
    async fn right_for_every_password_salt_and_count() {
        let cache = cache();
        for (password, salt, iterations) in [("a", "s", 1), ("b", "s", 1), ("a", "t", 1), ("a", "s", 2), ("a", "s", 1)]
        {
            let keys = cache.keys(password.as_bytes(), salt.as_bytes(), iterations).await;
            assert_eq!(keys, Keys::derive(password.as_bytes(), salt.as_bytes(), iterations));
        }
        assert_eq!(lock(&cache.entries).len(), 4);
    }

    /// 200 ask at once for keys that take a while: about the time of one, and the loop stays free meanwhile.
    #[tokio::test]
    async fn derived_once_and_not_on_this_thread() {
        const ITERATIONS: u32 = 300_000;
        let alone = Instant::now();
        Keys::derive(b"pencil", b"salt", ITERATIONS);
        let alone = alone.elapsed();

        let cache = Arc::new(cache());
        let start = Instant::now();
        let askers: Vec<_> = (0..200)
            .map(|_| {
                let cache = Arc::clone(&cache);
                tokio::spawn(async move { cache.keys(b"pencil", b"salt", ITERATIONS).await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(1)).await;
        let (woke, mut all) = (start.elapsed(), Vec::new());
        for asker in askers {
            all.push(asker.await.unwrap());
        }
        assert!(woke < alone, "the thread was blocked: {woke:?} of {alone:?}");
        assert!(start.elapsed() < alone * 20, "derived more than once: {:?}, one takes {alone:?}", start.elapsed());
        assert!(all.windows(2).all(|pair| pair[0] == pair[1]));
    }

    #[tokio::test]
    async fn a_dropped_asker_does_not_spoil_it() {
        let cache = cache();
        let dropped = tokio::time::timeout(Duration::ZERO, cache.keys(b"p", b"s", 50_000)).await;
        assert!(dropped.is_err());
        assert_eq!(cache.keys(b"p", b"s", 50_000).await, Keys::derive(b"p", b"s", 50_000));
    }

    #[tokio::test]
    async fn bounded_and_not_filled_by_guessing() {
        let cache = cache();
        assert!(cache.keys_if(b"guess", b"s", 1, |_| false).await.is_none());
        assert_eq!(lock(&cache.entries).len(), 0);
        assert!(cache.keys_if(b"right", b"s", 1, |_| true).await.is_some());
        assert!(cache.keys_if(b"right", b"s", 1, |_| false).await.is_none());
        assert_eq!(lock(&cache.entries).len(), 1);
        for number in 0..CAPACITY + 10 {
            cache.cell(cache.fingerprint(&number.to_be_bytes(), b"", 1));
        }
        assert_eq!(lock(&cache.entries).len(), CAPACITY);
    }
}

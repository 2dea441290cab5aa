//! Users that nobody lists: their password goes to PostgreSQL, which judges it. What it accepted is remembered for a
//! short time, so that a burst of logins is not a burst of backends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use hashlink::LruCache;

use crate::backend::Credential;
use crate::config::Password;
use crate::error::Error;
use crate::pool::{PoolKey, Registry};
use crate::secrets::ProcessSecret;

/// How long an accepted password is accepted without asking again. A changed password is noticed within this.
const REMEMBERED: Duration = Duration::from_secs(30);

/// Users remembered.
const CAPACITY: usize = 10_000;

type Accepted = LruCache<(PoolKey, [u8; 32]), Instant, RandomState>;

/// Passwords that PostgreSQL has accepted lately, as fingerprints.
pub struct PassedThrough {
    accepted: Mutex<Accepted>,
    secret: ProcessSecret,
}

impl PassedThrough {
    /// Nothing yet.
    pub fn new(secret: ProcessSecret) -> Self {
        Self { accepted: Mutex::new(LruCache::with_hasher(CAPACITY, RandomState::default())), secret }
    }

    /// Whether PostgreSQL accepts this password.
    ///
    /// # Errors
    /// PostgreSQL's own.
    pub(super) async fn prove(
        &self,
        registry: &Arc<Registry>,
        key: &PoolKey,
        password: Password,
    ) -> Result<Credential, Error> {
        let credential = Credential::Password(password.clone());
        let entry = (key.clone(), self.secret.fingerprint(&[b"pass through", password.0.as_bytes()]));
        let known = self.lock().get(&entry).is_some_and(|at| at.elapsed() < REMEMBERED);
        if !known {
            registry.prove(key, credential.clone()).await?;
            self.lock().insert(entry, Instant::now());
        }
        Ok(credential)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Accepted> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! Users that nobody lists: their password goes to PostgreSQL, which judges it. What it accepted is remembered for a
//! short time, so that a burst of logins is not a burst of backends.

use std::collections::HashMap;
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

/// Logins that may be waiting at one time before those that nobody waits for are forgotten.
const ASKING: usize = 1_000;

type Turn = Arc<tokio::sync::Mutex<()>>;

/// Who, and the fingerprint of a password.
type Login = (PoolKey, [u8; 32]);

type Accepted = LruCache<Login, Instant, RandomState>;

/// Passwords that PostgreSQL has accepted lately, as fingerprints.
pub struct PassedThrough {
    accepted: Mutex<Accepted>,
    /// Who waits for PostgreSQL's word, or for the one who does.
    asking: Mutex<HashMap<Login, Turn>>,
    secret: ProcessSecret,
}

impl PassedThrough {
    /// Nothing yet.
    pub fn new(secret: ProcessSecret) -> Self {
        let accepted = Mutex::new(LruCache::with_hasher(CAPACITY, RandomState::default()));
        Self { accepted, asking: Mutex::default(), secret }
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
        if !self.knows(&entry) {
            // One at a time: the others of a burst find the answer there. A wrong password delays nobody else.
            let turn = self.turn(&entry);
            let _held = turn.lock().await;
            if !self.knows(&entry) {
                registry.prove(key, credential.clone()).await?;
                self.lock().insert(entry, Instant::now());
            }
        }
        // A password that was right a moment ago must not replace one that is newer.
        Ok(registry.credential(key).unwrap_or(credential))
    }

    fn knows(&self, entry: &Login) -> bool {
        self.lock().get(entry).is_some_and(|at| at.elapsed() < REMEMBERED)
    }

    fn turn(&self, entry: &Login) -> Turn {
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        if asking.len() >= ASKING {
            asking.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        asking.entry(entry.clone()).or_default().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Accepted> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! SCRAM keys, derived once for all environments: PBKDF2 in each of them would be the storm's main cost, and that of
//! the database beside it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::OnceCell;

use super::failure::Failure;
use crate::auth::scram::{Challenge, Keys};

/// A server has one salt per user; one that makes a new salt for each login (PgBouncer does, for passwords that it
/// knows in clear) must not fill our memory.
const MOST_KEPT: usize = 16;

/// Derived keys by what they were derived with, for one password.
#[derive(Default)]
pub(super) struct KeyCache(Mutex<HashMap<Challenge, Arc<OnceCell<Keys>>>>);

impl KeyCache {
    /// The keys that answer `challenge`; derived on a blocking thread the first time, while others wait for it.
    pub(super) async fn get(&self, password: &[u8], challenge: &Challenge) -> Result<Keys, Failure> {
        let cell = {
            let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if kept.len() >= MOST_KEPT && !kept.contains_key(challenge) {
                kept.clear();
            }
            Arc::clone(kept.entry(challenge.clone()).or_default())
        };
        let derive = || async {
            let (password, challenge) = (password.to_vec(), challenge.clone());
            let derive = move || Keys::derive(&password, &challenge.salt, challenge.iterations);
            tokio::task::spawn_blocking(derive).await.map_err(|e| Failure::new("panic", e.to_string()))
        };
        cell.get_or_try_init(derive).await.cloned()
    }
}

//! Where credentials come from, and what is remembered of them.
//!
//! * [`auth_query`] judges what PostgreSQL says about a user who is not listed, and remembers it for seconds.
//! * [`Verifiers`] turns a user's stored secret into the [`Proof`] that the client must give; a user who does not exist
//!   gets one that looks and costs the same.
//! * [`KeyCache`] derives SCRAM keys (PBKDF2, slow) on helper threads, once per password.
//!
//! All caches are bounded. No password is kept here that the configuration does not keep anyway, and nothing here is
//! ever printed.

pub mod auth_query;
mod keys;
mod verifiers;

pub use auth_query::AuthQueryCache;
pub use keys::KeyCache;
pub use verifiers::{Doom, Proof, Verifiers};

use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use aws_lc_rs::hmac;

/// A secret value of the process: keys the fingerprints under which secrets are cached, and makes up salts for users who
/// do not exist.
#[derive(Clone)]
pub struct ProcessSecret([u8; 32]);

impl ProcessSecret {
    /// Fresh from the system's random source.
    ///
    /// # Errors
    /// The system has no randomness to give.
    pub fn random() -> std::io::Result<Self> {
        let mut bytes = [0; 32];
        aws_lc_rs::rand::fill(&mut bytes).map_err(|_| std::io::Error::other("no randomness from the system"))?;
        Ok(Self(bytes))
    }

    /// From something secret that outlives the process or is shared by several (the TLS private key): then restarts and
    /// sister processes show the same salts for users who do not exist. With a random one those change, and a stored
    /// verifier's do not, which tells the patient who exists.
    pub fn derived_from(material: &[u8]) -> Self {
        Self(Self([0; 32]).fingerprint(&[b"pgfunnel process secret", material]))
    }

    fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// What stands for `parts` in a cache: nobody can get at them from it, or find one by trying without our secret.
    pub(crate) fn fingerprint(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, &self.0));
        for part in parts {
            // With its length, so that no two lists of parts are the same bytes.
            context.update(&part.len().to_be_bytes());
            context.update(part);
        }
        let mut fingerprint = [0; 32];
        fingerprint.iter_mut().zip(context.sign().as_ref()).for_each(|(to, from)| *to = *from);
        fingerprint
    }
}

impl fmt::Debug for ProcessSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProcessSecret(…)")
    }
}

/// A cache's lock. A panic while it was held cannot have left a map half-changed that matters: entries are whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints() {
        let secret = ProcessSecret::random().unwrap();
        assert_eq!(secret.fingerprint(&[b"a", b"b"]), secret.fingerprint(&[b"a", b"b"]));
        assert_ne!(secret.fingerprint(&[b"ab", b""]), secret.fingerprint(&[b"a", b"b"]));
        assert_ne!(secret.fingerprint(&[b"a"]), ProcessSecret::random().unwrap().fingerprint(&[b"a"]));
        assert_eq!(format!("{secret:?}"), "ProcessSecret(…)");
        let derived = |material: &[u8]| ProcessSecret::derived_from(material).fingerprint(&[b"a"]);
        assert_eq!(derived(b"key"), derived(b"key"));
        assert_ne!(derived(b"key"), derived(b"another"));
    }
}

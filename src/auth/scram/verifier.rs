//! What a server stores for a user: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, the text of
//! `pg_authid.rolpassword` (manual, "pg_authid").

use std::fmt;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use thiserror::Error;

use super::keys::{Keys, hmac};
use super::{DEFAULT_ITERATIONS, KEY_LEN, SALT_LEN, SCRAM_SHA_256};

/// A stored SCRAM secret. It can check a proof, but nobody can log in with it. Its [`fmt::Display`] is the text that
/// PostgreSQL stores, which allows guessing off line: never log it.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// PBKDF2 rounds, at least 1.
    pub iterations: u32,
    /// The salt, decoded.
    pub salt: Vec<u8>,
    /// `SHA-256(ClientKey)`.
    pub stored_key: [u8; KEY_LEN],
    /// `HMAC(SaltedPassword, "Server Key")`.
    pub server_key: [u8; KEY_LEN],
}

/// Why a text is no verifier. Never quotes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BadVerifier {
    /// Not of the form above.
    #[error("not of the form SCRAM-SHA-256$<iterations>:<salt>$<stored key>:<server key>")]
    Form,
    /// Iterations not a number from 1 to 2^31-1.
    #[error("the iteration count of the SCRAM verifier is not a number from 1 to 2147483647")]
    Iterations,
    /// Salt or keys not base64, or keys not 32 bytes long.
    #[error("the {0} of the SCRAM verifier is not valid base64 of the right length")]
    Base64(&'static str),
}

impl Verifier {
    /// Parses the text of `pg_authid.rolpassword`.
    ///
    /// # Errors
    /// [`BadVerifier`] says which part is wrong.
    pub fn parse(text: &str) -> Result<Self, BadVerifier> {
        let rest = text.strip_prefix(SCRAM_SHA_256).and_then(|rest| rest.strip_prefix('$')).ok_or(BadVerifier::Form)?;
        let (cost, keys) = rest.split_once('$').ok_or(BadVerifier::Form)?;
        let (iterations, salt) = cost.split_once(':').ok_or(BadVerifier::Form)?;
        let (stored_key, server_key) = keys.split_once(':').ok_or(BadVerifier::Form)?;
        let iterations =
            iterations.parse().ok().filter(|n| (1..=i32::MAX as u32).contains(n)).ok_or(BadVerifier::Iterations)?;
        let salt = STANDARD.decode(salt).ok().filter(|salt| !salt.is_empty()).ok_or(BadVerifier::Base64("salt"))?;
        Ok(Self {
            iterations,
            salt,
            stored_key: decode_key(stored_key).ok_or(BadVerifier::Base64("stored key"))?,
            server_key: decode_key(server_key).ok_or(BadVerifier::Base64("server key"))?,
        })
    }

    /// The verifier of a password. **Slow on purpose**, see [`Keys::derive`].
    pub fn from_password(password: &[u8], salt: Vec<u8>, iterations: u32) -> Self {
        Keys::derive(password, &salt, iterations).verifier(salt, iterations)
    }

    /// A verifier that looks like any other but that no proof fits, for a user who does not exist (or has no usable
    /// secret): PostgreSQL's mock authentication. The salt is the same for a user each time, as a real one would be,
    /// and cannot be told from a real one without `process_secret`.
    pub fn doomed(user: &str, process_secret: &[u8]) -> Self {
        let key = |what: &[u8]| hmac(process_secret, &[what, user.as_bytes()]);
        Self {
            iterations: DEFAULT_ITERATIONS,
            salt: Self::salt_for(user, process_secret),
            stored_key: key(b"doomed stored key\0"),
            server_key: key(b"doomed server key\0"),
        }
    }

    /// The salt of `user` as [`Verifier::doomed`] shows it. A verifier made here from a plain password should use it
    /// too: then nobody can tell a user with a password from one who does not exist.
    pub fn salt_for(user: &str, process_secret: &[u8]) -> Vec<u8> {
        let salt = hmac(process_secret, &[b"salt\0", user.as_bytes()]);
        salt.iter().copied().take(SALT_LEN).collect()
    }

    /// Whether these are the keys of the password behind this verifier; takes the same time wherever they differ.
    pub fn matches(&self, keys: &Keys) -> bool {
        verify_slices_are_equal(&self.server_key, &keys.server_key).is_ok()
    }
}

impl fmt::Display for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let encode = |bytes: &[u8]| STANDARD.encode(bytes);
        let (salt, stored, server) = (encode(&self.salt), encode(&self.stored_key), encode(&self.server_key));
        write!(f, "{SCRAM_SHA_256}${}:{salt}${stored}:{server}", self.iterations)
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Verifier(…)")
    }
}

fn decode_key(text: &str) -> Option<[u8; KEY_LEN]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    // The user of RFC 7677, section 3: password 'pencil'.
    const PENCIL: &str = "SCRAM-SHA-256$4096:W22ZaJ0SNY7soEsUEjb6gQ==$\
        WG5d8oPm3OtcPnkdi4Uo7BkeZkBFzpcXkuLmtbsT4qY=:wfPLwcE6nTWhTAmQ7tl2KeoiWGPlZqQxSrmfPwDl2dU=";

    #[test]
    fn round_trips_and_fits_its_password() {
        let verifier = Verifier::parse(PENCIL).unwrap();
        assert_eq!(verifier.to_string(), PENCIL);
        assert_eq!(Verifier::from_password(b"pencil", verifier.salt.clone(), 4096), verifier);
        assert!(verifier.matches(&Keys::derive(b"pencil", &verifier.salt, 4096)));
        assert!(!verifier.matches(&Keys::derive(b"pencil2", &verifier.salt, 4096)));
        assert_eq!(format!("{verifier:?}"), "Verifier(…)");
    }

    #[test]
    fn refuses_what_is_not_one() {
        let keys = PENCIL.rsplit_once('$').unwrap().1;
        let table = [
            ("", BadVerifier::Form),
            ("SCRAM-SHA-256", BadVerifier::Form),
            ("SCRAM-SHA-256$4096:AAAA", BadVerifier::Form),
            ("SCRAM-SHA-1$4096:AAAA$A:B", BadVerifier::Form),
            (&format!("SCRAM-SHA-256$0:AAAA${keys}"), BadVerifier::Iterations),
            (&format!("SCRAM-SHA-256$-1:AAAA${keys}"), BadVerifier::Iterations),
            (&format!("SCRAM-SHA-256$2147483648:AAAA${keys}"), BadVerifier::Iterations),
            (&format!("SCRAM-SHA-256$4096:${keys}"), BadVerifier::Base64("salt")),
            (&format!("SCRAM-SHA-256$4096:A*AA${keys}"), BadVerifier::Base64("salt")),
            ("SCRAM-SHA-256$4096:AAAA$AAAA:AAAA", BadVerifier::Base64("stored key")),
            (&PENCIL[..PENCIL.len() - 4], BadVerifier::Base64("server key")),
        ];
        for (text, expected) in table {
            assert_eq!(Verifier::parse(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn the_doomed_are_stable_and_differ() {
        let doomed = Verifier::doomed("nobody", b"process");
        assert_eq!(doomed, Verifier::doomed("nobody", b"process"));
        assert_ne!(doomed.salt, Verifier::doomed("somebody", b"process").salt);
        assert_ne!(doomed.salt, Verifier::doomed("nobody", b"another").salt);
        assert_eq!((doomed.salt.len(), doomed.iterations), (SALT_LEN, DEFAULT_ITERATIONS));
    }
}

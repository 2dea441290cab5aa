//! The keys of RFC 5802, section 3, and the small cryptography behind them.

use std::fmt;
use std::num::NonZeroU32;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::{hmac, pbkdf2};
use zeroize::{Zeroize, Zeroizing};

use super::{Challenge, KEY_LEN, Verifier};

/// What a client needs to log in with one (password, salt, iterations), apart from nonces. As good as the password
/// for that server, hence never printed and wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Keys {
    /// `HMAC(SaltedPassword, "Client Key")`: proves us to the server.
    pub client_key: [u8; KEY_LEN],
    /// `HMAC(SaltedPassword, "Server Key")`: proves the server to us.
    pub server_key: [u8; KEY_LEN],
}

impl Keys {
    /// Derives the keys. **Slow on purpose** (PBKDF2, about a millisecond at 4,096 rounds): not on an IO thread.
    /// The password is SASLprep'd, or taken as it is where that is impossible, as PostgreSQL does. Zero iterations
    /// count as one.
    pub fn derive(password: &[u8], salt: &[u8], iterations: u32) -> Self {
        let password = normalize(password);
        let mut salted = Zeroizing::new([0; KEY_LEN]);
        let iterations = NonZeroU32::new(iterations).unwrap_or(NonZeroU32::MIN);
        pbkdf2::derive(pbkdf2::PBKDF2_HMAC_SHA256, iterations, salt, &password, salted.as_mut_slice());
        Self {
            client_key: hmac(salted.as_slice(), &[b"Client Key"]),
            server_key: hmac(salted.as_slice(), &[b"Server Key"]),
        }
    }

    /// The verifier that a server would store for these keys.
    pub fn verifier(&self, salt: Vec<u8>, iterations: u32) -> Verifier {
        Verifier { iterations, salt, stored_key: sha256(&self.client_key), server_key: self.server_key }
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        self.client_key.zeroize();
        self.server_key.zeroize();
    }
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(…)")
    }
}

/// Keys with the salt and iterations that they belong to: of use only to a server that asks for exactly those.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SaltedKeys {
    keys: Keys,
    salt: Vec<u8>,
    iterations: u32,
}

impl SaltedKeys {
    /// `keys` derived with `salt` and `iterations`.
    pub fn new(keys: Keys, salt: Vec<u8>, iterations: u32) -> Self {
        Self { keys, salt, iterations }
    }

    /// The keys, if they answer this challenge.
    pub fn for_challenge(&self, challenge: &Challenge) -> Option<&Keys> {
        (self.salt == challenge.salt && self.iterations == challenge.iterations).then_some(&self.keys)
    }
}

/// `HMAC-SHA-256(key, parts joined)`.
pub(super) fn hmac(key: &[u8], parts: &[&[u8]]) -> [u8; KEY_LEN] {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, key));
    for part in parts {
        context.update(part);
    }
    to_key(context.sign().as_ref())
}

/// SHA-256.
pub(super) fn sha256(data: &[u8]) -> [u8; KEY_LEN] {
    to_key(digest(&SHA256, data).as_ref())
}

/// The XOR of two keys: proof from key and signature, key from proof and signature.
pub(super) fn xor(a: &[u8; KEY_LEN], b: &[u8; KEY_LEN]) -> [u8; KEY_LEN] {
    let mut out = *a;
    out.iter_mut().zip(b).for_each(|(out, b)| *out ^= b);
    out
}

/// SHA-256 output is always as long as a key; the loop needs no panic to say so.
fn to_key(bytes: &[u8]) -> [u8; KEY_LEN] {
    let mut key = [0; KEY_LEN];
    key.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
    key
}

/// SASLprep with PostgreSQL's fallback (`pg_saslprep`): what is not UTF-8, holds prohibited characters or would
/// become empty is used as it is.
fn normalize(password: &[u8]) -> Zeroizing<Vec<u8>> {
    let prepared = std::str::from_utf8(password).ok().and_then(|text| stringprep::saslprep(text).ok());
    Zeroizing::new(match prepared {
        Some(text) if !text.is_empty() => text.into_owned().into_bytes(),
        _ => password.to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn normalizes_as_postgresql() {
        let table: &[(&[u8], &[u8])] = &[
            (b"pencil", b"pencil"),
            (b"", b""),
            // RFC 4013, section 3.
            ("I\u{AD}X".as_bytes(), b"IX"),
            ("\u{AA}".as_bytes(), b"a"),
            ("\u{2168}".as_bytes(), b"IX"),
            ("a\u{A0}b".as_bytes(), b"a b"),
            // Prohibited, mixed direction, not UTF-8, nothing left: raw.
            (b"\x07", b"\x07"),
            ("\u{627}1".as_bytes(), "\u{627}1".as_bytes()),
            (b"\xff\xfe", b"\xff\xfe"),
            ("\u{AD}".as_bytes(), "\u{AD}".as_bytes()),
        ];
        for (input, expected) in table {
            assert_eq!(normalize(input).as_slice(), *expected, "{input:?}");
        }
    }

    #[test]
    fn keys_are_not_printed() {
        let keys = Keys::derive(b"pencil", b"salt", 1);
        assert_eq!(format!("{keys:?}"), "Keys(…)");
    }

    #[test]
    fn salted_keys_answer_only_their_own_challenge() {
        let keys = Keys::derive(b"pencil", b"salt", 2);
        let salted = SaltedKeys::new(keys.clone(), b"salt".to_vec(), 2);
        let challenge = |salt: &[u8], iterations| Challenge { salt: salt.to_vec(), iterations };
        assert_eq!(salted.for_challenge(&challenge(b"salt", 2)), Some(&keys));
        assert_eq!(salted.for_challenge(&challenge(b"salt", 3)), None);
        assert_eq!(salted.for_challenge(&challenge(b"sale", 2)), None);
    }
}

//! PostgreSQL's md5 passwords (manual, "Password Authentication"; `src/common/md5_common.c`): the stored hash is
//! `md5` + hex(md5(password ‖ user)), the response `md5` + hex(md5(hex part ‖ 4 bytes of salt)).

use std::fmt::Write;

use aws_lc_rs::constant_time::verify_slices_are_equal;
use md5::{Digest, Md5};

const PREFIX: &str = "md5";

/// A fresh salt for AuthenticationMD5Password. `None`: the system has no randomness to give.
pub fn new_salt() -> Option<[u8; 4]> {
    let mut salt = [0; 4];
    aws_lc_rs::rand::fill(&mut salt).ok().map(|()| salt)
}

/// The hash that PostgreSQL stores for `password` of `user`.
pub fn hash(password: &[u8], user: &str) -> String {
    hex(&[password, user.as_bytes()])
}

/// The answer to AuthenticationMD5Password for a stored [`hash`].
pub fn response(hash: &str, salt: [u8; 4]) -> String {
    let digits = hash.strip_prefix(PREFIX).unwrap_or(hash);
    hex(&[digits.as_bytes(), &salt])
}

/// Whether `answer`, the client's PasswordMessage without its terminator, is the [`response`] to `salt`.
/// Takes the same time wherever the two differ.
pub fn verify(hash: &str, salt: [u8; 4], answer: &[u8]) -> bool {
    verify_slices_are_equal(response(hash, salt).as_bytes(), answer).is_ok()
}

/// Whether `text` has the form of a stored hash: `md5` and 32 lower-case hexadecimal digits, as PostgreSQL's
/// `get_password_type` requires.
pub fn is_hash(text: &str) -> bool {
    text.strip_prefix(PREFIX)
        .is_some_and(|digits| digits.len() == 32 && digits.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')))
}

fn hex(parts: &[&[u8]]) -> String {
    let mut md5 = Md5::new();
    for part in parts {
        md5.update(part);
    }
    md5.finalize().iter().fold(PREFIX.to_owned(), |mut text, byte| {
        // Writing to a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_postgresql() {
        // SELECT 'md5' || md5('secret' || 'app')
        assert_eq!(hash(b"secret", "app"), "md56a422f785c9e20873908ce25d1736ae2");
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        // An independent implementation, and its own published vector.
        assert_eq!(response(&hash(b"password", "md5_user"), salt), "md562af4dd09bbb41884907a838a3233294");
        assert_eq!(response(&hash(b"p", "u"), salt), postgres_protocol::authentication::md5_hash(b"u", b"p", salt));
    }

    #[test]
    fn verifies_only_the_right_answer() {
        let hash = hash(b"secret", "app");
        let answer = response(&hash, [1, 2, 3, 4]);
        assert!(verify(&hash, [1, 2, 3, 4], answer.as_bytes()));
        assert!(!verify(&hash, [1, 2, 3, 5], answer.as_bytes()));
        assert!(!verify(&hash, [1, 2, 3, 4], answer.to_uppercase().as_bytes()));
        assert!(!verify(&hash, [1, 2, 3, 4], b""));
    }

    #[test]
    fn recognises_hashes() {
        assert!(is_hash(&hash(b"", "")));
        for not in ["", "md5", "md5abc", "MD56a422f785c9e20873908ce25d1736ae2", "md5Ga422f785c9e20873908ce25d1736ae2"] {
            assert!(!is_hash(not), "{not}");
        }
    }
}

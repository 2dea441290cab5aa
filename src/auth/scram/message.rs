//! The text of SCRAM messages (RFC 5802, section 7): `letter=value` fields with commas between. Values never hold a
//! comma, so splitting is safe.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// The longest message accepted from a client: PostgreSQL's `PG_MAX_SASL_MESSAGE_LENGTH`.
pub(super) const MAX_CLIENT_MESSAGE: usize = 1024;

/// The longest message accepted from a server. PostgreSQL's have about 100 bytes; some services use longer nonces.
pub(super) const MAX_SERVER_MESSAGE: usize = 4096;

/// Random bytes in a nonce: PostgreSQL's `SCRAM_RAW_NONCE_LEN`.
const RAW_NONCE_LEN: usize = 18;

/// Reads the fields of one message in order.
pub(super) struct Fields<'a> {
    rest: Option<&'a [u8]>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: Some(message) }
    }

    /// The value of the next field, which must be `letter`.
    pub(super) fn expect(&mut self, letter: u8) -> Option<&'a [u8]> {
        match self.next()? {
            (found, value) if found == letter => Some(value),
            _ => None,
        }
    }

    /// The next field, whatever it is; `None` at the end or where there is no field.
    pub(super) fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (field, rest) = split(self.rest?);
        self.rest = rest;
        match field {
            [letter, b'=', value @ ..] if letter.is_ascii_alphabetic() => Some((*letter, value)),
            _ => None,
        }
    }

    /// Whether what remains is nothing but well-formed optional fields (which the RFC says to ignore).
    pub(super) fn only_extensions_left(mut self) -> bool {
        while self.rest.is_some() {
            if self.next().is_none() {
                return false;
            }
        }
        true
    }
}

/// The bytes up to the first comma, and those behind it if there is one.
pub(super) fn split(message: &[u8]) -> (&[u8], Option<&[u8]>) {
    match message.iter().position(|b| *b == b',').and_then(|at| message.split_at_checked(at)) {
        Some((field, rest)) => (field, rest.get(1..)),
        None => (message, None),
    }
}

/// Whether `nonce` is what the RFC calls printable, and not empty.
pub(super) fn is_nonce(nonce: &[u8]) -> bool {
    !nonce.is_empty() && nonce.iter().all(|b| (0x21..=0x7e).contains(b) && *b != b',')
}

/// A fresh nonce: 24 characters.
pub(super) fn new_nonce() -> Option<String> {
    let mut raw = [0; RAW_NONCE_LEN];
    aws_lc_rs::rand::fill(&mut raw).ok()?;
    Some(STANDARD.encode(raw))
}

/// Base64 of a key-sized value.
pub(super) fn decode<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    STANDARD.decode(text).ok()?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_in_order() {
        let mut fields = Fields::new(b"r=a=b,s=,x=1");
        assert_eq!(fields.expect(b'r'), Some(&b"a=b"[..]));
        assert_eq!(fields.expect(b's'), Some(&b""[..]));
        assert!(fields.only_extensions_left());
        for bad in [&b""[..], b"r", b"r=1,", b"=1", b"1=1", b"r=1,,s=2", b"\xff=1"] {
            assert!(!Fields::new(bad).only_extensions_left(), "{bad:?}");
        }
    }

    #[test]
    fn nonces() {
        let nonce = new_nonce().unwrap();
        assert!(is_nonce(nonce.as_bytes()) && nonce.len() == 24);
        assert_ne!(Some(nonce), new_nonce());
        for bad in [&b""[..], b"a b", b"a,b", b"\x7f", "ä".as_bytes()] {
            assert!(!is_nonce(bad), "{bad:?}");
        }
    }
}

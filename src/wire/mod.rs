//! The PostgreSQL wire protocol without IO: framing, startup packets, what a proxy must decode of frontend messages
//! and encode as backend messages. postgres-protocol has the opposite half (encoding frontend, decoding backend).
//! Owns no socket, keeps no state, never panics on any bytes.

pub mod backend;
pub mod frontend;
pub mod rows;
pub mod startup;

use crate::error::Error;

/// Bytes of a message header: tag and length.
pub const HEADER: usize = 5;

/// A protocol version as in a startup packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// 3.
    pub major: u16,
    /// 0 or 2 (3.1 was never used; manual, "Protocol Versions").
    pub minor: u16,
}

impl Version {
    /// Protocol 3.0.
    pub const V3_0: Version = Version { major: 3, minor: 0 };
    /// Protocol 3.2: cancel keys of up to 256 bytes.
    pub const V3_2: Version = Version { major: 3, minor: 2 };
}

/// The header of a message that follows the startup packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Message type.
    pub tag: u8,
    /// Bytes of the whole message, tag and length included.
    pub total: usize,
}

impl Header {
    /// The header at the start of `buf`, `None` if it is not there whole.
    ///
    /// # Errors
    /// A length below 4 or above what its tag may have.
    #[inline]
    pub fn peek(buf: &[u8], limit: fn(u8) -> usize) -> Result<Option<Header>, Error> {
        let Some((&[tag, a, b, c, d], _)) = buf.split_first_chunk::<HEADER>() else { return Ok(None) };
        let len = u32::from_be_bytes([a, b, c, d]) as usize;
        if len < 4 || len > limit(tag) {
            return Err(invalid_length(tag));
        }
        Ok(Some(Header { tag, total: len + 1 }))
    }

    /// Bytes of the body.
    pub fn body(self) -> usize {
        self.total - HEADER
    }
}

#[cold]
fn invalid_length(tag: u8) -> Error {
    Error::protocol("invalid message length").detail(format!("message type 0x{tag:02x}"))
}

/// The bytes before the first NUL, and those behind it.
#[inline]
pub fn split_cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let nul = memchr::memchr(0, bytes)?;
    Some((bytes.get(..nul)?, bytes.get(nul + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn header_needs_five_bytes_and_a_sane_length() {
        assert_eq!(Header::peek(b"Q\0\0\0", frontend::limit).unwrap(), None);
        let header = Header::peek(b"Q\0\0\0\x05\0", frontend::limit).unwrap().unwrap();
        assert_eq!((header.tag, header.total, header.body()), (b'Q', 6, 1));
        for bad in [[0, 0, 0, 3], [0, 0, 0, 0], [0xff, 0xff, 0xff, 0xff], [0x80, 0, 0, 0]] {
            let bytes = [&b"Q"[..], &bad].concat();
            assert!(Header::peek(&bytes, frontend::limit).is_err(), "{bad:?}");
        }
        assert!(Header::peek(b"S\0\0\x40\0", frontend::limit).is_err(), "a Sync of 16 KiB");
    }

    #[test]
    fn rows_are_taken_whole_and_nothing_behind_them() {
        let row = b"D\0\0\0\x06\0\0";
        let copied = b"d\0\0\0\x05x";
        let both = [&row[..], copied].concat();
        assert_eq!(backend::rows(&both), both.len());
        for behind in [&b"C\0\0\0\x05\0"[..], &row[..6], b"D\0", b"D\0\0\0\x03", b"Z\0\0\0\x05I"] {
            assert_eq!(backend::rows(&[&both, behind].concat()), both.len(), "{behind:?}");
        }
        assert_eq!((backend::rows(b""), backend::rows(b"T\0\0\0\x04")), (0, 0));
    }

    proptest! {
        #[test]
        fn decoders_never_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Header::peek(&body, frontend::limit);
            let _ = frontend::Parse::decode(&body);
            let _ = frontend::bind_names(&body);
            let _ = frontend::Named::decode(&body);
            let _ = startup::Packet::decode(&body);
            let _ = backend::ErrorFields::decode(&body);
            let _ = backend::parameter_status(&body);
            let _ = backend::rows(&body);
        }
    }
}

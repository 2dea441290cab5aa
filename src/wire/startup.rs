//! The untagged packets that open a connection (manual, "Message Formats": StartupMessage, SSLRequest,
//! GSSENCRequest, CancelRequest).

use super::{Version, split_cstr};
use crate::error::{Error, Side, SqlState};

/// The largest startup packet: `MAX_STARTUP_PACKET_LENGTH` of `src/include/libpq/pqcomm.h`.
pub const MAX_PACKET: usize = 10_000;

const CANCEL: u32 = 80_877_102;
const SSL: u32 = 80_877_103;
const GSSENC: u32 = 80_877_104;

/// A decoded opening packet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Packet {
    /// The client asks for TLS.
    Ssl,
    /// The client asks for GSSAPI encryption.
    GssEnc,
    /// Somebody asks to cancel what the client with this key runs.
    Cancel {
        /// Process id as in BackendKeyData.
        pid: i32,
        /// Secret key: 4 bytes in protocol 3.0, up to 256 in 3.2.
        key: Vec<u8>,
    },
    /// A session begins.
    Startup(Startup),
}

/// A StartupMessage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Startup {
    /// The version asked for; its major part is 3.
    pub version: Version,
    /// The parameters in the client's order, protocol options (`_pq_.…`) included.
    pub parameters: Vec<(String, String)>,
}

impl Packet {
    /// The length of the packet that starts with these four bytes.
    ///
    /// # Errors
    /// Below 8 (no room for a code) or above [`MAX_PACKET`].
    pub fn length(prefix: [u8; 4]) -> Result<usize, Error> {
        let length = u32::from_be_bytes(prefix) as usize;
        if !(8..=MAX_PACKET).contains(&length) {
            return Err(Error::protocol("invalid length of startup packet"));
        }
        Ok(length)
    }

    /// Decodes a packet without its length field.
    ///
    /// # Errors
    /// 08P01 for a malformed packet, 0A000 for an unsupported version.
    pub fn decode(body: &[u8]) -> Result<Packet, Error> {
        let Some((code, rest)) = body.split_first_chunk::<4>() else {
            return Err(Error::protocol("incomplete startup packet"));
        };
        match u32::from_be_bytes(*code) {
            SSL => Ok(Packet::Ssl),
            GSSENC => Ok(Packet::GssEnc),
            CANCEL => Ok(cancel(rest)),
            code => startup(Version { major: (code >> 16) as u16, minor: code as u16 }, rest).map(Packet::Startup),
        }
    }
}

/// Nobody is answered on a cancel request, not even that it is malformed: a key of another length is a wrong key.
fn cancel(rest: &[u8]) -> Packet {
    match rest.split_first_chunk::<4>() {
        Some((pid, key)) => Packet::Cancel { pid: i32::from_be_bytes(*pid), key: key.to_vec() },
        None => Packet::Cancel { pid: 0, key: Vec::new() },
    }
}

fn startup(version: Version, mut rest: &[u8]) -> Result<Startup, Error> {
    if version.major != 3 {
        return Err(Error::new(
            Side::Client,
            SqlState::FEATURE_NOT_SUPPORTED,
            format!("unsupported frontend protocol {}.{}: server supports 3.0 to 3.2", version.major, version.minor),
        ));
    }
    let mut parameters = Vec::new();
    loop {
        match rest {
            [0] => return Ok(Startup { version, parameters }),
            _ => {
                let (name, behind) = text(rest)?;
                let (value, behind) = text(behind)?;
                parameters.push((name, value));
                rest = behind;
            }
        }
    }
}

fn text(bytes: &[u8]) -> Result<(String, &[u8]), Error> {
    let (text, rest) = split_cstr(bytes)
        .ok_or_else(|| Error::protocol("invalid startup packet layout: expected terminator as last byte"))?;
    let text = std::str::from_utf8(text).map_err(|_| Error::protocol("startup packet is not valid UTF-8"))?;
    Ok((text.to_owned(), rest))
}

impl Startup {
    /// The value of a parameter; the last one wins, as in PostgreSQL.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.parameters.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The protocol options (`_pq_.…`) asked for. pgfunnel, like PostgreSQL 18, knows none.
    pub fn protocol_options(&self) -> Vec<&str> {
        self.parameters.iter().filter(|(name, _)| name.starts_with("_pq_.")).map(|(name, _)| name.as_str()).collect()
    }

    /// What must be answered with NegotiateProtocolVersion: the version that is spoken, unless the client asked for
    /// exactly what we speak and for no protocol option (manual, "Protocol Versions"). 3.1 was never used and is
    /// negotiated down.
    pub fn negotiated(&self) -> (Version, bool) {
        let spoken = if self.version >= Version::V3_2 { Version::V3_2 } else { Version::V3_0 };
        (spoken, spoken != self.version || !self.protocol_options().is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(code: u32, rest: &[u8]) -> Result<Packet, Error> {
        Packet::decode(&[&code.to_be_bytes()[..], rest].concat())
    }

    #[test]
    fn decodes_every_kind() {
        assert_eq!(packet(SSL, b"").unwrap(), Packet::Ssl);
        assert_eq!(packet(GSSENC, b"").unwrap(), Packet::GssEnc);
        assert_eq!(packet(CANCEL, b"\0\0\0\x07abcd").unwrap(), Packet::Cancel { pid: 7, key: b"abcd".to_vec() });
        let Packet::Startup(startup) = packet(0x0003_0000, b"user\0a\0database\0b\0\0").unwrap() else { panic!() };
        assert_eq!((startup.get("user"), startup.get("database"), startup.get("x")), (Some("a"), Some("b"), None));
        assert_eq!(startup.negotiated(), (Version::V3_0, false));
    }

    #[test]
    fn negotiates() {
        let at = |code, rest: &[u8]| match packet(code, rest).unwrap() {
            Packet::Startup(startup) => startup.negotiated(),
            other => panic!("{other:?}"),
        };
        assert_eq!(at(0x0003_0002, b"\0"), (Version::V3_2, false));
        assert_eq!(at(0x0003_0001, b"\0"), (Version::V3_0, true));
        assert_eq!(at(0x0003_270f, b"\0"), (Version::V3_2, true));
        assert_eq!(at(0x0003_0000, b"_pq_.x\0on\0\0"), (Version::V3_0, true));
    }

    #[test]
    fn refuses_malformed_packets() {
        for (code, rest) in [
            (0x0002_0000, &b"\0"[..]),
            (0x0003_0000, b""),
            (0x0003_0000, b"user\0a"),
            (0x0003_0000, b"user\0a\0"),
            (0x0003_0000, b"user\0\xff\0\0"),
        ] {
            assert!(packet(code, rest).is_err(), "{code:x} {rest:?}");
        }
        assert!(Packet::length([0, 0, 0, 7]).is_err());
        assert!(Packet::length([0xff; 4]).is_err());
        assert!(Packet::length([0, 0, 0x27, 0x11]).is_err());
        assert_eq!(Packet::length([0, 0, 0, 8]).unwrap(), 8);
    }
}

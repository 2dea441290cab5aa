//! The PROXY protocol, version 2 (haproxy.org, `doc/proxy-protocol.txt`): what a load balancer says about the client
//! before the client's own first byte. Only for connections from configured addresses, which *must* begin with it.
//!
//! Nothing behind the header is read. Bytes are judged as they come, so that a client which speaks PostgreSQL at once
//! is refused at once and not only when its time is up.

use std::io;
use std::net::{IpAddr, SocketAddr};

use ppp::v2::{Addresses, Header, PROTOCOL_PREFIX, Protocol};
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::error::Error as ClientError;

/// Signature, version and command, family and protocol, length.
const FIXED_LEN: usize = 16;

/// The most bytes that may follow the fixed part: addresses and extensions (TLVs). Those of AWS need about 100, a
/// certificate's subject some hundreds; a header is held in memory whole, and anybody in front may send one.
const MAX_REST: usize = 2048;

/// How version 1 (text) begins.
const VERSION_1: &[u8] = b"PROXY ";

/// The low half of byte 12, for "the proxy itself, e.g. a health check".
const COMMAND_LOCAL: u8 = 0;

/// Why a connection is refused before its first message.
#[derive(Debug, Error)]
pub enum ProxyError {
    /// The peer went away without a byte: a load balancer's TCP health check. Not worth a log line.
    #[error("connection closed before the PROXY protocol header")]
    NothingSent,
    /// The stream failed or ended within the header.
    #[error("reading the PROXY protocol header: {0}")]
    Io(#[from] io::Error),
    /// Something else began: most likely a client without a load balancer in between.
    #[error("the connection does not begin with a PROXY protocol version 2 header")]
    NoHeader,
    /// Version 1.
    #[error("the connection begins with a PROXY protocol version 1 header; only version 2 is understood")]
    Version1,
    /// More than 2,048 bytes of addresses and extensions.
    #[error("the PROXY protocol header claims {0} bytes; at most {MAX_REST} are accepted")]
    TooLong(usize),
    /// Not as the specification says.
    #[error("malformed PROXY protocol header: {0}")]
    Malformed(#[from] ppp::v2::ParseError),
    /// A client that did not come by TCP.
    #[error("the PROXY protocol header says that the client did not come by TCP")]
    NotTcp,
}

impl ProxyError {
    /// What the peer is told: 08P01. It is most likely a client that should have gone through the load balancer; whatever
    /// else it is hears a few bytes before the end.
    pub fn to_error(&self) -> ClientError {
        ClientError::protocol(self.to_string())
            .hint("connect through the load balancer, or take this address out of proxy_protocol_from")
    }
}

/// Reads the header. The client's address, or `None` where the header has none to tell (a health check of the load
/// balancer, an unknown family): then the peer's own address is the client's. The caller limits the time.
///
/// Not cancel-safe: bytes read so far are lost.
///
/// # Errors
/// [`ProxyError`]; the connection is of no use then.
pub async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> Result<Option<SocketAddr>, ProxyError> {
    let fixed = read_fixed(stream).await?;
    let [.., version_command, _family, high, low] = fixed;
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length > MAX_REST {
        return Err(ProxyError::TooLong(length));
    }
    let mut header = fixed.to_vec();
    header.resize(FIXED_LEN + length, 0);
    if let Some(rest) = header.get_mut(FIXED_LEN..) {
        stream.read_exact(rest).await?;
    }
    // Whatever a LOCAL header says about addresses is to be ignored, even if it is wrong.
    if version_command == 0x20 | COMMAND_LOCAL {
        return Ok(None);
    }
    client_address(&Header::try_from(header.as_slice())?)
}

/// The fixed part; ends at the first byte that cannot belong to a header.
async fn read_fixed<S: AsyncRead + Unpin>(stream: &mut S) -> Result<[u8; FIXED_LEN], ProxyError> {
    let mut fixed = [0; FIXED_LEN];
    let mut filled = 0;
    while let Some(free) = fixed.get_mut(filled..).filter(|free| !free.is_empty()) {
        match stream.read(free).await? {
            0 if filled == 0 => return Err(ProxyError::NothingSent),
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            read => filled += read,
        }
        let so_far = fixed.get(..filled).unwrap_or_default();
        let agrees = |with: &[u8]| so_far.iter().zip(with).all(|(byte, expected)| byte == expected);
        if agrees(VERSION_1) && filled >= VERSION_1.len() {
            return Err(ProxyError::Version1);
        }
        if !agrees(PROTOCOL_PREFIX) && !agrees(VERSION_1) {
            return Err(ProxyError::NoHeader);
        }
    }
    Ok(fixed)
}

fn client_address(header: &Header<'_>) -> Result<Option<SocketAddr>, ProxyError> {
    let (ip, port): (IpAddr, u16) = match &header.addresses {
        Addresses::Unspecified | Addresses::Unix(_) => return Ok(None),
        Addresses::IPv4(addresses) => (addresses.source_address.into(), addresses.source_port),
        Addresses::IPv6(addresses) => (addresses.source_address.into(), addresses.source_port),
    };
    match header.protocol {
        // ::ffff:10.0.0.1 is 10.0.0.1 for every limit and log line.
        Protocol::Stream => Ok(Some(SocketAddr::new(ip.to_canonical(), port))),
        Protocol::Unspecified => Ok(None),
        Protocol::Datagram => Err(ProxyError::NotTcp),
    }
}

#[cfg(test)]
mod tests {
    use ppp::v2::{Builder, Command, Type, Version};
    use proptest::prelude::*;
    use tokio_test_stream::OneByOne;

    use super::*;

    /// A stream that gives one byte per read, so that every boundary is met.
    mod tokio_test_stream {
        use std::pin::Pin;
        use std::task::{Context, Poll};

        use tokio::io::{AsyncRead, ReadBuf};

        pub(super) struct OneByOne<'a>(pub(super) &'a [u8]);

        impl AsyncRead for OneByOne<'_> {
            fn poll_read(
                mut self: Pin<&mut Self>,
                _: &mut Context<'_>,
                buf: &mut ReadBuf<'_>,
            ) -> Poll<std::io::Result<()>> {
                if let Some((first, rest)) = self.0.split_at_checked(1) {
                    buf.put_slice(first);
                    self.0 = rest;
                }
                Poll::Ready(Ok(()))
            }
        }
    }

    fn header(command: Command, protocol: Protocol, from: &str, to: &str) -> Vec<u8> {
        let addresses = (from.parse::<SocketAddr>().unwrap(), to.parse::<SocketAddr>().unwrap());
        let builder = Builder::with_addresses(Version::Two | command, protocol, addresses);
        builder.write_tlv(Type::NoOp, &[0; 40]).unwrap().build().unwrap()
    }

    /// The outcome, and what is left for the protocol behind; the same whether the bytes come singly or at once.
    async fn read(bytes: &[u8]) -> (Result<Option<SocketAddr>, String>, usize) {
        let mut at_once = bytes;
        let outcome = read_header(&mut at_once).await.map_err(|error| error.to_string());
        let mut singly = OneByOne(bytes);
        let again = read_header(&mut singly).await.map_err(|error| error.to_string());
        assert_eq!(outcome, again);
        if outcome.is_ok() {
            assert_eq!(at_once.len(), singly.0.len());
        }
        (outcome, at_once.len())
    }

    #[tokio::test]
    async fn addresses() {
        use Protocol::Stream;
        let (v4, v6) = ("192.0.2.7:40000", "[2001:db8::7]:40000");
        let unspecified = [PROTOCOL_PREFIX, &[0x21, 0x00, 0, 3, 1, 2, 3]].concat();
        let local_nonsense = [PROTOCOL_PREFIX, &[0x20, 0x11, 0, 1, 9]].concat();
        let table = [
            (header(Command::Proxy, Stream, v4, "10.0.0.1:5432"), Some(v4)),
            (header(Command::Proxy, Stream, v6, "[::1]:5432"), Some(v6)),
            (header(Command::Proxy, Stream, "[::ffff:192.0.2.7]:40000", "[::1]:5432"), Some(v4)),
            (header(Command::Local, Stream, v4, "10.0.0.1:5432"), None),
            (header(Command::Proxy, Protocol::Unspecified, v4, "10.0.0.1:5432"), None),
            (unspecified, None),
            (local_nonsense, None),
        ];
        for (mut bytes, expected) in table {
            bytes.extend_from_slice(b"\0\0\0\x08");
            let expected = expected.map(|address| address.parse().unwrap());
            assert_eq!(read(&bytes).await, (Ok(expected), 4), "{bytes:?}");
        }
    }

    #[tokio::test]
    async fn what_is_refused() {
        let good = header(Command::Proxy, Protocol::Stream, "192.0.2.7:40000", "10.0.0.1:5432");
        let with = |rest: &[u8]| [PROTOCOL_PREFIX, rest].concat();
        let table = [
            (Vec::new(), "closed before"),
            (good[..5].to_vec(), "reading the PROXY protocol header"),
            (good[..FIXED_LEN].to_vec(), "reading the PROXY protocol header"),
            (good[..good.len() - 1].to_vec(), "reading the PROXY protocol header"),
            (b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec(), "does not begin"),
            (b"\r\n\r\n\0\r\nQUIX".to_vec(), "does not begin"),
            (b"PROXX".to_vec(), "does not begin"),
            (b"PROXY TCP4 192.0.2.7 10.0.0.1 40000 5432\r\n".to_vec(), "version 1"),
            (with(&[0x31, 0x11, 0, 0]), "version"),
            (with(&[0x22, 0x11, 0, 0]), "Invalid command"),
            (with(&[0x21, 0x41, 0, 0]), "Invalid Address Family"),
            (with(&[0x21, 0x11, 0, 4, 1, 2, 3, 4]), "cannot store"),
            (with(&[0x21, 0x21, 0, 12, 1, 2, 3, 4, 1, 2, 3, 4, 1, 2, 3, 4]), "cannot store"),
            (with(&[0x21, 0x11, 0xff, 0xff]), "claims 65535 bytes"),
            (header(Command::Proxy, Protocol::Datagram, "192.0.2.7:4", "10.0.0.1:5"), "did not come by TCP"),
        ];
        for (bytes, expected) in table {
            let error = read(&bytes).await.0.unwrap_err();
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    /// A PostgreSQL client waits for an answer to its 8 bytes: the refusal must not wait for more.
    #[tokio::test]
    async fn refused_without_waiting_for_more() {
        use tokio::io::AsyncWriteExt;
        let (mut client, mut server) = tokio::io::duplex(64);
        client.write_all(&[0, 0, 0, 8]).await.unwrap();
        let error = read_header(&mut server).await.unwrap_err();
        assert_eq!(error.to_error().code.code(), "08P01");
    }

    proptest! {
        #[test]
        fn never_panics_nor_reads_on(rest: Vec<u8>, proper: bool) {
            let bytes = if proper { [PROTOCOL_PREFIX, &rest].concat() } else { rest };
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (outcome, left) = runtime.block_on(read(&bytes));
            if outcome.is_ok() {
                let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
                prop_assert_eq!(left, bytes.len() - FIXED_LEN - length);
            }
        }
    }
}

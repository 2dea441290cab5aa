//! From the first byte to the StartupMessage: SSLRequest, GSSENCRequest, direct TLS, CancelRequest. Not one byte is
//! read past a packet before TLS starts (CVE-2021-3935): what somebody put behind an SSLRequest reaches the TLS
//! handshake, and ends there.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio_rustls::TlsStream;

use super::{Refusal, Shared};
use crate::config::ClientTlsMode;
use crate::error::{Error, Side, SqlState};
use crate::log::{counted, peer_name};
use crate::net::tls::{ServerTls, check_direct};
use crate::net::{Io, Plain, Socket};
use crate::wire::startup::{Packet, Startup};

/// The first byte of a TLS handshake record (RFC 8446, 5.1); no packet of PostgreSQL's begins with it.
const TLS_HANDSHAKE: u8 = 0x16;

/// Bytes of an SSLRequest or a GSSENCRequest (manual, "Message Formats").
const ENCRYPTION_REQUEST: usize = 8;

/// What a client asks for, and how it came.
pub(super) struct Arrival {
    pub(super) startup: Startup,
    pub(super) tls: Option<Arc<ServerTls>>,
    /// Where it comes from; `None`: a Unix socket.
    pub(super) peer: Option<SocketAddr>,
    /// Whether what it says reaches us from this machine.
    near: bool,
}

impl Arrival {
    /// From this machine: nobody can listen in. Behind a load balancer neither its way to us nor the client's to it may
    /// leave the machine.
    pub(super) fn is_local(&self) -> bool {
        self.near && is_loopback(self.peer)
    }
}

/// Whether this is on the machine itself. `None`: a Unix socket, which is.
pub(super) fn is_loopback(peer: Option<SocketAddr>) -> bool {
    peer.is_none_or(|peer| peer.ip().to_canonical().is_loopback())
}

/// Reads up to the StartupMessage of a client from `peer`, whoever says that it is there; `near`: its bytes come from this
/// machine. `None`: it was a cancel request, which is done.
pub(super) async fn open(
    shared: &Shared,
    plain: Plain,
    peer: Option<SocketAddr>,
    near: bool,
) -> Result<Option<(Socket, Arrival)>, Refusal> {
    let (mut socket, mut tls, mut alone) = direct_tls(shared, plain, peer).await?;
    // One SSLRequest and one GSSENCRequest may come before the StartupMessage, as in PostgreSQL.
    let (mut ssl_asked, mut gss_asked) = (tls.is_some(), false);
    loop {
        // Where TLS can still start, nothing behind the packet may be read; elsewhere one read takes what there is.
        let may_upgrade = shared.tls.load().is_some() && matches!(socket.io(), Io::Plain(Plain::Tcp(_)));
        let request_is_alone = std::mem::take(&mut alone);
        let packet = match packet(&mut socket, may_upgrade, request_is_alone).await {
            Ok(packet) => packet,
            Err(Refusal::Told(error)) => return Err(Refusal::On(Box::new(socket), error)),
            Err(refusal) => return Err(refusal),
        };
        match packet {
            Packet::Ssl if !ssl_asked => {
                ssl_asked = true;
                if !socket.unseen().is_empty() || !request_is_alone && socket.io().has_input() {
                    return Err(Refusal::On(Box::new(socket), unencrypted_data()));
                }
                (socket, tls) = answer_ssl(shared, socket, peer).await?;
            }
            Packet::GssEnc if !gss_asked => {
                gss_asked = true;
                socket.output().extend_from_slice(b"N");
                socket.flush().await?;
            }
            Packet::Ssl | Packet::GssEnc => {
                return Err(Refusal::On(Box::new(socket), Error::protocol("encryption was requested twice")));
            }
            Packet::Cancel { pid, key } => {
                shared.clients.cancel(pid, &key).await;
                socket.shutdown().await;
                return Ok(None);
            }
            Packet::Startup(startup) => {
                return match check_mode(shared, socket.io()) {
                    Ok(()) => Ok(Some((socket, Arrival { startup, tls, peer, near }))),
                    Err(error) => Err(Refusal::On(Box::new(socket), error)),
                };
            }
        }
    }
}

/// TLS without a request (`sslnegotiation=direct`): the first byte tells. `true`: what is there is a request for
/// encryption, whole and with nothing behind it, as clients send it.
async fn direct_tls(
    shared: &Shared,
    plain: Plain,
    peer: Option<SocketAddr>,
) -> Result<(Socket, Option<Arc<ServerTls>>, bool), Refusal> {
    let (Plain::Tcp(tcp), Some(tls)) = (&plain, shared.tls.load_full()) else {
        return Ok((Socket::new(Io::Plain(plain)), None, false));
    };
    let mut first = [0; ENCRYPTION_REQUEST + 1];
    let there = tcp.peek(&mut first).await?;
    if there == 0 {
        return Err(Refusal::Gone);
    }
    if first[0] != TLS_HANDSHAKE {
        let is_request =
            first.first_chunk().is_some_and(|prefix| u32::from_be_bytes(*prefix) == ENCRYPTION_REQUEST as u32);
        return Ok((Socket::new(Io::Plain(plain)), None, is_request && there == ENCRYPTION_REQUEST));
    }
    let socket = handshake(&tls, plain, peer).await?;
    if let Io::Tls(stream) = socket.io()
        && let Err(error) = check_direct(stream.get_ref().1)
    {
        return Err(Refusal::On(Box::new(socket), error));
    }
    Ok((socket, Some(tls), false))
}

async fn answer_ssl(
    shared: &Shared,
    mut socket: Socket,
    peer: Option<SocketAddr>,
) -> Result<(Socket, Option<Arc<ServerTls>>), Refusal> {
    let offered = shared.tls.load_full().filter(|_| matches!(socket.io().plain(), Plain::Tcp(_)));
    socket.output().extend_from_slice(if offered.is_some() { b"S" } else { b"N" });
    socket.flush().await?;
    let Some(tls) = offered else { return Ok((socket, None)) };
    match socket.into_io() {
        Io::Plain(plain) => Ok((handshake(&tls, plain, peer).await?, Some(tls))),
        // TLS within TLS is not asked for twice: see `ssl_asked`.
        io => Ok((Socket::new(io), None)),
    }
}

async fn handshake(tls: &ServerTls, plain: Plain, peer: Option<SocketAddr>) -> Result<Socket, Refusal> {
    match Box::pin(tls.accept(plain)).await {
        Ok(stream) => Ok(Socket::new(Io::Tls(Box::new(TlsStream::Server(stream))))),
        Err(error) => {
            counted!(INFO, "TLS handshake with a client failed", "", "", { peer = peer_name(peer), }, "{error}");
            Err(Refusal::NoTls)
        }
    }
}

/// The next packet; `exactly`: and not a byte behind it. `is_request`: it is a request for encryption, and there whole.
async fn packet(socket: &mut Socket, exactly: bool, is_request: bool) -> Result<Packet, Refusal> {
    if is_request {
        let request = socket.read_exactly(ENCRYPTION_REQUEST).await?;
        return Ok(Packet::decode(request.get(4..).unwrap_or_default())?);
    }
    if exactly {
        let prefix = socket.read_exactly(4).await?;
        let prefix: [u8; 4] = prefix.try_into().map_err(|_| Refusal::Gone)?;
        let body = socket.read_exactly(Packet::length(prefix)? - 4).await?;
        return Ok(Packet::decode(&body)?);
    }
    socket.fill_to(4).await?;
    let prefix = *socket.unseen().first_chunk().ok_or(Refusal::Gone)?;
    let length = Packet::length(prefix)?;
    socket.fill_to(length).await?;
    let packet = Packet::decode(socket.unseen().get(4..length).unwrap_or_default())?;
    socket.consume(length);
    Ok(packet)
}

/// PostgreSQL's answer to CVE-2021-3935 (`ProcessStartupPacket`).
#[cold]
fn unencrypted_data() -> Error {
    Error::protocol("received unencrypted data after SSL request")
        .detail("This could be either a client-software bug or evidence of an attempted man-in-the-middle attack.")
}

/// Whether a client may go on without TLS. A Unix socket needs none.
fn check_mode(shared: &Shared, io: &Io) -> Result<(), Error> {
    let demanded = !matches!(
        shared.config.load().client_tls.mode,
        ClientTlsMode::Disable | ClientTlsMode::Allow | ClientTlsMode::Prefer
    );
    if !demanded || io.is_tls() || matches!(io.plain(), Plain::Unix(_)) {
        return Ok(());
    }
    Err(Error::new(
        Side::Client,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        "this server accepts only TLS connections",
    )
    .hint("Connect with sslmode=require or better (client_tls demands it)."))
}

//! The transports as one type.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::{SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsStream;

/// A transport without TLS.
#[derive(Debug)]
pub enum Plain {
    /// TCP, with Nagle's algorithm off.
    Tcp(TcpStream),
    /// A Unix socket.
    Unix(UnixStream),
}

/// A second handle on a connection that may have to be given up, to see it end.
#[derive(Debug)]
pub enum Remains {
    /// Of a TCP connection.
    Tcp(Socket),
    /// Of a Unix socket.
    Unix(Socket),
}

impl Remains {
    /// Ends our direction, drops what still arrives, and waits until the peer has closed its side, or the connection
    /// broke. The caller limits the time.
    pub async fn closed(self) {
        let reopened = match self {
            Remains::Tcp(socket) => TcpStream::from_std(socket.into()).map(Plain::Tcp),
            Remains::Unix(socket) => UnixStream::from_std(socket.into()).map(Plain::Unix),
        };
        // Failing here or below means that it is over already.
        let Ok(mut plain) = reopened else { return };
        let _ = plain.shutdown().await;
        let _ = tokio::io::copy(&mut plain, &mut tokio::io::sink()).await;
    }
}

/// A transport.
#[derive(Debug)]
pub enum Io {
    /// Without TLS.
    Plain(Plain),
    /// With TLS, either side. Boxed: a session is mostly plain, and the state is large.
    Tls(Box<TlsStream<Plain>>),
}

impl Plain {
    /// Takes a connected TCP stream; every write goes out at once.
    ///
    /// # Errors
    /// The socket is already dead.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        Ok(Self::Tcp(stream))
    }

    /// Notices within about `patience` that the peer's machine is gone: keepalive probes, and a limit on unacknowledged
    /// data and on a closed window (`TCP_USER_TIMEOUT`). `None` switches both off: a frozen Lambda environment
    /// acknowledges nothing, and must not be dropped for that.
    pub fn watch_peer(&self, patience: Option<Duration>) {
        let Plain::Tcp(_) = self else { return };
        let sock = self.sock();
        // Failing here means that the socket is dead, which the next read tells.
        match patience {
            Some(patience) => {
                let probe = (patience / 4).max(Duration::from_secs(1));
                let _ =
                    sock.set_tcp_keepalive(&TcpKeepalive::new().with_time(probe).with_interval(probe).with_retries(3));
                let _ = sock.set_tcp_user_timeout(Some(patience));
            }
            None => {
                let _ = sock.set_keepalive(false);
                let _ = sock.set_tcp_user_timeout(None);
            }
        }
    }

    /// A second handle on it. It stays open until both are dropped.
    ///
    /// # Errors
    /// There are no more descriptors.
    pub fn remains(&self) -> io::Result<Remains> {
        let socket = self.sock().try_clone()?;
        Ok(match self {
            Plain::Tcp(_) => Remains::Tcp(socket),
            Plain::Unix(_) => Remains::Unix(socket),
        })
    }

    /// Makes the coming close an RST, as a peer hears it of a machine that is gone. A Unix socket knows no such thing.
    pub fn reset_on_close(&self) {
        // Failing here means that the socket is dead already.
        let _ = self.sock().set_linger(Some(Duration::ZERO));
    }

    /// Sends what goes out without waiting; for the last words of a connection that nobody has read from or written to.
    pub fn send_at_once(&self, bytes: &[u8]) {
        // Failing here means that the peer has gone or does not listen.
        let _ = self.sock().send(bytes);
    }

    fn sock(&self) -> SockRef<'_> {
        match self {
            Plain::Tcp(tcp) => SockRef::from(tcp),
            Plain::Unix(unix) => SockRef::from(unix),
        }
    }
}

impl Io {
    /// The transport below TLS.
    #[inline]
    pub fn plain(&self) -> &Plain {
        match self {
            Io::Plain(plain) => plain,
            Io::Tls(tls) => tls.get_ref().0,
        }
    }

    /// The peer's address, over TCP.
    pub fn peer_address(&self) -> Option<SocketAddr> {
        match self.plain() {
            Plain::Tcp(tcp) => tcp.peer_addr().ok(),
            Plain::Unix(_) => None,
        }
    }

    /// The peer's address and ours, over TCP.
    pub fn addresses(&self) -> Option<(SocketAddr, SocketAddr)> {
        match self.plain() {
            Plain::Tcp(tcp) => tcp.peer_addr().ok().zip(tcp.local_addr().ok()),
            Plain::Unix(_) => None,
        }
    }

    /// Whether bytes are encrypted.
    pub fn is_tls(&self) -> bool {
        matches!(self, Io::Tls(_))
    }

    /// Whether the peer is on this machine: a Unix socket or a loopback address.
    pub fn is_local(&self) -> bool {
        match self.plain() {
            Plain::Tcp(tcp) => tcp.peer_addr().is_ok_and(|addr| addr.ip().is_loopback()),
            Plain::Unix(_) => true,
        }
    }

    /// Whether the runtime has heard that something waits to be read, or that the peer is gone. No system call.
    #[inline]
    pub fn has_heard(&self) -> bool {
        let heard = || Ok(());
        match self.plain() {
            Plain::Tcp(tcp) => tcp.try_io(Interest::READABLE, heard).is_ok(),
            Plain::Unix(unix) => unix.try_io(Interest::READABLE, heard).is_ok(),
        }
    }

    /// Whether something waits to be read, or the peer is gone. One system call, nothing is consumed.
    pub fn has_input(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        !matches!(self.plain().sock().peek(&mut byte), Err(error) if error.kind() == io::ErrorKind::WouldBlock)
    }
}

macro_rules! each {
    ($self:expr, $io:pat => $call:expr) => {
        match $self.get_mut() {
            Io::Plain(Plain::Tcp($io)) => $call,
            Io::Plain(Plain::Unix($io)) => $call,
            Io::Tls($io) => $call,
        }
    };
}

impl AsyncRead for Io {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

macro_rules! each_plain {
    ($self:expr, $io:pat => $call:expr) => {
        match $self.get_mut() {
            Plain::Tcp($io) => $call,
            Plain::Unix($io) => $call,
        }
    };
}

impl AsyncRead for Plain {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each_plain!(self, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for Plain {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        each_plain!(self, io => Pin::new(io).poll_write(cx, buf))
    }

    /// A flight of TLS is several records: they go out together.
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each_plain!(self, io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_plain!(self, io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each_plain!(self, io => Pin::new(io).poll_shutdown(cx))
    }
}

//! A client that says and hears single protocol messages.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, HandshakeKind, StreamOwned};

use super::{Addr, Answer, Fields, Message, PATIENCE, Result, Say, Target, cancel_request};

/// A connection on which single messages are sent and read. Every read ends after [`PATIENCE`] with an error.
pub struct Wire {
    stream: Stream,
    target: Target,
    /// Backend process id and cancel key as the server told them.
    pub key: (i32, Vec<u8>),
    /// Parameters that the server reported, kept current.
    pub parameters: BTreeMap<String, String>,
    /// The body of a NegotiateProtocolVersion.
    pub negotiated: Option<Vec<u8>>,
}

enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Wire {
    /// Connects (with TLS if the target says so), and says nothing yet.
    pub fn open(target: &Target) -> Result<Self> {
        let stream = match &target.addr {
            Addr::Tcp(addr) => {
                let mut stream = TcpStream::connect_timeout(addr, PATIENCE)?;
                stream.set_nodelay(true)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                stream.set_write_timeout(Some(PATIENCE))?;
                stream.write_all(&target.preamble)?;
                match &target.tls {
                    Some(config) => Stream::Tls(Box::new(start_tls(stream, config.clone())?)),
                    None => Stream::Tcp(stream),
                }
            }
            Addr::Unix(path) => {
                let stream = UnixStream::connect(path)?;
                stream.set_read_timeout(Some(PATIENCE))?;
                Stream::Unix(stream)
            }
        };
        let (key, parameters, negotiated) = Default::default();
        Ok(Self { stream, target: target.clone(), key, parameters, negotiated })
    }

    /// Sends bytes.
    pub fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.write_all(bytes),
            Stream::Unix(stream) => stream.write_all(bytes),
            Stream::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }

    /// Sends messages in one write.
    pub fn say(&mut self, say: &Say) -> io::Result<()> {
        self.send(say.bytes())
    }

    /// Fills `buf`.
    pub fn read_exact(&mut self, buf: &mut [u8]) -> io::Result<()> {
        match &mut self.stream {
            Stream::Tcp(stream) => stream.read_exact(buf),
            Stream::Unix(stream) => stream.read_exact(buf),
            Stream::Tls(stream) => stream.read_exact(buf),
        }
    }

    /// The next message, or `None` when the server has closed the connection (by FIN or RST).
    pub fn read_or_close(&mut self) -> Result<Option<Message>> {
        let mut header = [0; 5];
        match self.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if is_close(&error) => return Ok(None),
            Err(error) => return Err(format!("while waiting for a message: {error}").into()),
        }
        let [tag, length @ ..] = header;
        let length = u32::from_be_bytes(length).checked_sub(4).ok_or("a message length below 4")?;
        let mut body = vec![0; usize::try_from(length)?];
        self.read_exact(&mut body)?;
        let message = Message { tag, body };
        if tag == b'S' {
            let mut parts = message.body.split(|&byte| byte == 0).map(String::from_utf8_lossy);
            let (name, value) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            self.parameters.insert(name.into_owned(), value.into_owned());
        }
        Ok(Some(message))
    }

    /// The next message.
    pub fn read(&mut self) -> Result<Message> {
        self.read_or_close()?.ok_or_else(|| "the server closed the connection".into())
    }

    /// All messages up to the `count`th ReadyForQuery.
    pub fn read_ready(&mut self, count: usize) -> Result<Answer> {
        self.read_until(b'Z', count)
    }

    /// All messages up to the `count`th with this type.
    pub fn read_until(&mut self, tag: u8, count: usize) -> Result<Answer> {
        let mut messages = Vec::new();
        let mut seen = 0;
        while seen < count {
            let Some(message) = self.read_or_close()? else {
                let wanted = char::from(tag);
                return Err(format!("closed before {count} x {wanted}, after {messages:?}").into());
            };
            seen += usize::from(message.tag == tag);
            messages.push(message);
        }
        Ok(Answer(messages))
    }

    /// Everything until the server closes the connection.
    pub fn read_to_close(&mut self) -> Result<Answer> {
        let mut messages = Vec::new();
        while let Some(message) = self.read_or_close()? {
            messages.push(message);
        }
        Ok(Answer(messages))
    }

    /// Sends messages and reads what answers them, up to the last ReadyForQuery.
    pub fn ask(&mut self, say: &Say) -> Result<Answer> {
        self.say(say)?;
        self.read_ready(say.ready())
    }

    /// Sends messages that one ReadyForQuery answers; the first error, whether the connection ends with it or not.
    /// `Fields::default()`: no error.
    pub fn first_error(&mut self, say: &Say) -> Result<Fields> {
        self.say(say)?;
        loop {
            match self.read_or_close()? {
                None => return Err("closed without a word".into()),
                Some(message) if message.tag == b'E' => return Ok(message.fields().unwrap_or_default()),
                Some(message) if message.tag == b'Z' => return Ok(Fields::default()),
                Some(_) => {}
            }
        }
    }

    /// Runs a simple query.
    pub fn query(&mut self, sql: &str) -> Result<Answer> {
        self.ask(&Say::new().query(sql))
    }

    /// Runs a simple query that must not fail; its first value (empty if it has no rows).
    pub fn value(&mut self, sql: &str) -> Result<String> {
        let answer = self.query(sql)?;
        match answer.errors().first() {
            Some(error) => Err(format!("{sql}: {error:?}").into()),
            None if answer.rows().is_empty() => Ok(String::new()),
            None => Ok(answer.value()),
        }
    }

    /// Begins a transaction and does something in it, so that a backend is held.
    pub fn hold(&mut self) -> Result {
        self.value("begin; select 1").map(drop)
    }

    /// Whether nothing arrives for `time`.
    pub fn silent_for(&mut self, time: Duration) -> Result<bool> {
        self.set_read_timeout(time)?;
        let read = self.read_exact(&mut [0]);
        self.set_read_timeout(PATIENCE)?;
        match read {
            Ok(()) => Ok(false),
            Err(error) => Ok(matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)),
        }
    }

    /// How long a read may wait.
    pub fn set_read_timeout(&self, time: Duration) -> Result {
        match &self.stream {
            Stream::Tcp(stream) => stream.set_read_timeout(Some(time))?,
            Stream::Unix(stream) => stream.set_read_timeout(Some(time))?,
            Stream::Tls(stream) => stream.sock.set_read_timeout(Some(time))?,
        }
        Ok(())
    }

    /// Sends a CancelRequest for this client on a connection of its own, and waits until that is closed.
    pub fn cancel(&self) -> Result {
        self.cancel_key(self.key.0, &self.key.1)
    }

    /// A CancelRequest with any key.
    pub fn cancel_key(&self, pid: i32, key: &[u8]) -> Result {
        let mut wire = Self::open(&self.target)?;
        wire.send(&cancel_request(pid, key))?;
        match wire.read_or_close()? {
            None => Ok(()),
            Some(message) => Err(format!("a CancelRequest was answered with {message:?}").into()),
        }
    }

    /// How the TLS handshake went; `None` without TLS.
    pub fn handshake(&self) -> Option<HandshakeKind> {
        match &self.stream {
            Stream::Tls(stream) => stream.conn.handshake_kind(),
            _ => None,
        }
    }

    /// A second handle of a TCP connection, for a thread that only writes.
    pub fn writer(&self) -> Result<TcpStream> {
        match &self.stream {
            Stream::Tcp(stream) => Ok(stream.try_clone()?),
            _ => Err("not plain TCP".into()),
        }
    }

    /// Ends sending (a FIN), still able to read.
    pub fn half_close(&self) -> Result {
        match &self.stream {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write)?,
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write)?,
            Stream::Tls(stream) => stream.sock.shutdown(Shutdown::Write)?,
        }
        Ok(())
    }

    /// Ends the connection with an RST.
    pub fn reset(self) -> Result {
        let stream = match &self.stream {
            Stream::Tcp(stream) => stream,
            Stream::Tls(stream) => &stream.sock,
            Stream::Unix(_) => return Err("no RST on a Unix socket".into()),
        };
        Ok(socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO))?)
    }

    /// Our address, if over TCP.
    pub fn local_addr(&self) -> Result<SocketAddr> {
        match &self.stream {
            Stream::Tcp(stream) => Ok(stream.local_addr()?),
            Stream::Tls(stream) => Ok(stream.sock.local_addr()?),
            Stream::Unix(_) => Err("a Unix socket".into()),
        }
    }
}

/// Whether an error says that the peer is gone.
fn is_close(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), UnexpectedEof | ConnectionReset | ConnectionAborted | BrokenPipe)
}

/// SSLRequest, `S`, and the handshake. A direct start is what a config with the ALPN name `postgresql` asks for.
fn start_tls(mut stream: TcpStream, config: Arc<ClientConfig>) -> Result<StreamOwned<ClientConnection, TcpStream>> {
    if config.alpn_protocols.is_empty() {
        stream.write_all(&[0, 0, 0, 8, 4, 210, 22, 47])?;
        let mut answer = [0];
        stream.read_exact(&mut answer)?;
        if answer != *b"S" {
            return Err(format!("SSLRequest was answered {}", answer.escape_ascii()).into());
        }
    }
    let mut connection = ClientConnection::new(config, ServerName::try_from("localhost")?)?;
    connection.complete_io(&mut stream)?;
    Ok(StreamOwned::new(connection, stream))
}

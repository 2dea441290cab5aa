//! A PostgreSQL that answers what a test tells it to.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use super::{Message, PATIENCE, Port, Result, Say};

/// A listener on 127.0.0.1 that plays one function per connection, each on a thread of its own. The threads end with
/// the test's process.
pub struct Fake {
    port: Port,
}

/// One connection into a [`Fake`].
pub struct Conversation {
    /// The socket.
    pub stream: TcpStream,
    /// The number of this connection, from 0.
    pub number: usize,
}

impl Fake {
    /// Listens, and plays `script` on every connection. Its errors end the connection, as does its end.
    pub fn play(script: impl Fn(&mut Conversation) -> Result + Send + Sync + 'static) -> Result<Self> {
        let port = Port::reserve()?;
        let listener = TcpListener::bind(port.addr())?;
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for (number, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { continue };
                let script = script.clone();
                std::thread::spawn(move || {
                    let _ = stream.set_read_timeout(Some(PATIENCE));
                    if let Err(error) = script(&mut Conversation { stream, number }) {
                        eprintln!("fake PostgreSQL, connection {number}: {error:?}");
                    }
                });
            }
        });
        Ok(Self { port })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port.number()
    }
}

impl Conversation {
    /// Sends messages.
    pub fn send(&mut self, say: &Say) -> io::Result<()> {
        self.stream.write_all(say.bytes())
    }

    /// Reads the startup packet, refusing TLS and GSS encryption; its body without the version.
    pub fn startup(&mut self) -> Result<Vec<u8>> {
        loop {
            let mut head = [0; 8];
            self.stream.read_exact(&mut head)?;
            let (length, code) = head.split_first_chunk().ok_or("impossible")?;
            let length = usize::try_from(u32::from_be_bytes(*length))?;
            let mut rest = vec![0; length.checked_sub(8).ok_or("a short startup packet")?];
            self.stream.read_exact(&mut rest)?;
            match i32::from_be_bytes(code.try_into()?) {
                80_877_103 | 80_877_104 => self.stream.write_all(b"N")?,
                _ => return Ok(rest),
            }
        }
    }

    /// Lets the client in without a password.
    pub fn login(&mut self) -> Result {
        self.startup()?;
        Ok(self.send(&reply::welcome())?)
    }

    /// The next frontend message.
    pub fn read(&mut self) -> Result<Message> {
        let mut head = [0; 5];
        self.stream.read_exact(&mut head)?;
        let [tag, length @ ..] = head;
        let length = u32::from_be_bytes(length).checked_sub(4).ok_or("a message length below 4")?;
        let mut body = vec![0; usize::try_from(length)?];
        self.stream.read_exact(&mut body)?;
        Ok(Message { tag, body })
    }

    /// Reads up to a Query or Sync.
    pub fn request(&mut self) -> Result<Message> {
        loop {
            let message = self.read()?;
            match message.tag {
                b'Q' | b'S' => return Ok(message),
                b'X' => return Err("Terminate".into()),
                _ => {}
            }
        }
    }
}

/// Backend messages, written with the same builder as frontend ones.
pub mod reply {
    use super::Say;

    /// AuthenticationOk, the usual parameters, a key, ReadyForQuery.
    pub fn welcome() -> Say {
        let mut say = Say::new().raw(b'R', &[0; 4]);
        let parameters = [
            ("server_version", "15.0"),
            ("server_encoding", "UTF8"),
            ("client_encoding", "UTF8"),
            ("application_name", ""),
            ("is_superuser", "off"),
            ("session_authorization", "app"),
            ("DateStyle", "ISO, MDY"),
            ("IntervalStyle", "postgres"),
            ("TimeZone", "UTC"),
            ("integer_datetimes", "on"),
            ("standard_conforming_strings", "on"),
        ];
        for (name, value) in parameters {
            say = say.raw(b'S', format!("{name}\0{value}\0").as_bytes());
        }
        say.raw(b'K', &[0, 0, 0, 9, 1, 2, 3, 4]).and(&ready(b'I'))
    }

    /// ReadyForQuery.
    pub fn ready(status: u8) -> Say {
        Say::new().raw(b'Z', &[status])
    }

    /// A row of one text column, its description, a tag, and ReadyForQuery.
    pub fn value(text: &str) -> Say {
        let description = b"\0\x01value\0\0\0\0\0\0\0\0\0\0\x19\xff\xff\xff\xff\xff\xff\0\0";
        let length = u32::try_from(text.len()).unwrap_or_default().to_be_bytes();
        let row = [b"\0\x01".as_slice(), &length, text.as_bytes()].concat();
        Say::new().raw(b'T', description).raw(b'D', &row).raw(b'C', b"SELECT 1\0").and(&ready(b'I'))
    }

    /// ErrorResponse.
    pub fn error(severity: &str, code: &str, message: &str) -> Say {
        Say::new().raw(b'E', format!("S{severity}\0V{severity}\0C{code}\0M{message}\0\0").as_bytes())
    }
}

//! Frontend messages, appended to one another: what a client says in one write.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;

/// Some frontend messages and how many ReadyForQuery will answer them.
///
/// Names and texts come from the tests themselves, so an encoding error (a NUL in a name) panics.
#[derive(Clone, Default)]
pub struct Say {
    bytes: BytesMut,
    ready: usize,
}

impl Say {
    /// Nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many Query, Sync and FunctionCall messages there are.
    pub fn ready(&self) -> usize {
        self.ready
    }

    #[must_use]
    fn with(mut self, encode: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Self {
        encode(&mut self.bytes).expect("a message that can be encoded");
        self
    }

    /// Query
    #[must_use]
    pub fn query(mut self, sql: &str) -> Self {
        self.ready += 1;
        self.with(|buf| frontend::query(sql, buf))
    }

    /// Parse, with parameter types by OID.
    #[must_use]
    pub fn parse(self, name: &str, sql: &str, types: &[u32]) -> Self {
        self.with(|buf| frontend::parse(name, sql, types.iter().copied(), buf))
    }

    /// Bind, everything in text format.
    #[must_use]
    pub fn bind(self, portal: &str, statement: &str, values: &[Option<&str>]) -> Self {
        self.bind_formats(portal, statement, values, 0)
    }

    /// Bind with text parameters and results in `format` (0 text, 1 binary).
    #[must_use]
    pub fn bind_formats(self, portal: &str, statement: &str, values: &[Option<&str>], format: i16) -> Self {
        self.with(|buf| {
            let serialize = |value: &Option<&str>, buf: &mut BytesMut| match value {
                Some(value) => {
                    buf.put_slice(value.as_bytes());
                    Ok(IsNull::No)
                }
                None => Ok(IsNull::Yes),
            };
            match frontend::bind(portal, statement, [], values, serialize, [format], buf) {
                Ok(()) => Ok(()),
                Err(frontend::BindError::Conversion(error)) => Err(io::Error::other(error)),
                Err(frontend::BindError::Serialization(error)) => Err(error),
            }
        })
    }

    /// Describe of a statement.
    #[must_use]
    pub fn describe_statement(self, name: &str) -> Self {
        self.with(|buf| frontend::describe(b'S', name, buf))
    }

    /// Describe of a portal.
    #[must_use]
    pub fn describe_portal(self, name: &str) -> Self {
        self.with(|buf| frontend::describe(b'P', name, buf))
    }

    /// Execute; `rows` 0 is all.
    #[must_use]
    pub fn execute(self, portal: &str, rows: i32) -> Self {
        self.with(|buf| frontend::execute(portal, rows, buf))
    }

    /// Close of a statement.
    #[must_use]
    pub fn close_statement(self, name: &str) -> Self {
        self.with(|buf| frontend::close(b'S', name, buf))
    }

    /// Close of a portal.
    #[must_use]
    pub fn close_portal(self, name: &str) -> Self {
        self.with(|buf| frontend::close(b'P', name, buf))
    }

    /// Sync
    #[must_use]
    pub fn sync(mut self) -> Self {
        self.ready += 1;
        self.unanswered_sync()
    }

    /// A Sync that the server will ignore, as in the midst of a COPY.
    #[must_use]
    pub fn unanswered_sync(self) -> Self {
        self.raw(b'S', b"")
    }

    /// Flush
    #[must_use]
    pub fn flush(self) -> Self {
        self.raw(b'H', b"")
    }

    /// FunctionCall with text arguments and result.
    #[must_use]
    pub fn function_call(mut self, oid: u32, arguments: &[&str]) -> Self {
        self.ready += 1;
        let mut body = BytesMut::new();
        body.put_u32(oid);
        body.put_i16(0);
        body.put_i16(i16::try_from(arguments.len()).expect("few arguments"));
        for argument in arguments {
            body.put_i32(i32::try_from(argument.len()).expect("a short argument"));
            body.put_slice(argument.as_bytes());
        }
        body.put_i16(0);
        self.raw(b'F', &body)
    }

    /// CopyData
    #[must_use]
    pub fn copy_data(self, data: &[u8]) -> Self {
        self.raw(b'd', data)
    }

    /// CopyDone
    #[must_use]
    pub fn copy_done(self) -> Self {
        self.raw(b'c', b"")
    }

    /// CopyFail
    #[must_use]
    pub fn copy_fail(self, reason: &str) -> Self {
        self.with(|buf| frontend::copy_fail(reason, buf))
    }

    /// Terminate
    #[must_use]
    pub fn terminate(self) -> Self {
        self.raw(b'X', b"")
    }

    /// Any message, its length filled in.
    #[must_use]
    pub fn raw(self, tag: u8, body: &[u8]) -> Self {
        let length = i32::try_from(body.len() + 4).expect("a message below 2 GiB");
        self.raw_length(tag, length, body)
    }

    /// Any message with any length field.
    #[must_use]
    pub fn raw_length(mut self, tag: u8, length: i32, body: &[u8]) -> Self {
        self.bytes.put_u8(tag);
        self.bytes.put_i32(length);
        self.bytes.put_slice(body);
        self
    }

    /// The same, and `more` behind it.
    #[must_use]
    pub fn and(mut self, more: &Say) -> Self {
        self.bytes.extend_from_slice(&more.bytes);
        self.ready += more.ready;
        self
    }
}

/// A startup packet of protocol `version` (`0x0003_0000`, `0x0003_0002`).
pub fn startup(version: i32, parameters: &[(&str, &str)]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_i32(version);
    for (name, value) in parameters {
        for text in [name, value] {
            body.put_slice(text.as_bytes());
            body.put_u8(0);
        }
    }
    body.put_u8(0);
    untagged(&body)
}

/// A CancelRequest.
pub fn cancel_request(pid: i32, key: &[u8]) -> Bytes {
    let mut body = BytesMut::new();
    body.put_i32(80_877_102);
    body.put_i32(pid);
    body.put_slice(key);
    untagged(&body)
}

fn untagged(body: &[u8]) -> Bytes {
    let mut packet = BytesMut::new();
    packet.put_i32(i32::try_from(body.len() + 4).expect("a packet below 2 GiB"));
    packet.put_slice(body);
    packet.freeze()
}

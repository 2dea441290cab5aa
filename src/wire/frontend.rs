//! What a client sends after login (manual, "Message Formats", those marked F): tags, length limits, and views into
//! the few bodies that a proxy must look at.

use bytes::{BufMut, BytesMut};

use super::backend::message;
use super::split_cstr;

/// Query.
pub const QUERY: u8 = b'Q';
/// Parse.
pub const PARSE: u8 = b'P';
/// Bind.
pub const BIND: u8 = b'B';
/// Describe.
pub const DESCRIBE: u8 = b'D';
/// Execute.
pub const EXECUTE: u8 = b'E';
/// Close.
pub const CLOSE: u8 = b'C';
/// Sync.
pub const SYNC: u8 = b'S';
/// Flush.
pub const FLUSH: u8 = b'H';
/// FunctionCall.
pub const FUNCTION_CALL: u8 = b'F';
/// CopyData.
pub const COPY_DATA: u8 = b'd';
/// CopyDone.
pub const COPY_DONE: u8 = b'c';
/// CopyFail.
pub const COPY_FAIL: u8 = b'f';
/// Terminate.
pub const TERMINATE: u8 = b'X';
/// PasswordMessage, SASLInitialResponse, SASLResponse.
pub const PASSWORD: u8 = b'p';

/// The largest length field that PostgreSQL accepts for a tag: `PQ_LARGE_MESSAGE_LIMIT` and
/// `PQ_SMALL_MESSAGE_LIMIT` of `src/backend/tcop/postgres.c` (`SocketBackend`). An unknown tag gets the small one;
/// the session then refuses it by name.
#[inline]
pub fn limit(tag: u8) -> usize {
    match tag {
        QUERY | PARSE | BIND | FUNCTION_CALL | COPY_DATA => 0x3fff_ffff - 1,
        _ => 10_000,
    }
}

/// The body of a Parse message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parse<'a> {
    /// The statement's name; empty: the unnamed statement.
    pub name: &'a [u8],
    /// Everything behind the name: text, NUL, parameter types.
    pub definition: &'a [u8],
    /// The text alone.
    pub text: &'a [u8],
}

impl<'a> Parse<'a> {
    /// `None` if a terminator is missing; PostgreSQL then says what is wrong with it.
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let (name, definition) = split_cstr(body)?;
        let (text, _types) = split_cstr(definition)?;
        Some(Self { name, definition, text })
    }
}

/// The portal and statement names at the start of a Bind body, `None` if they are not there whole.
#[inline]
pub fn bind_names(body: &[u8]) -> Option<(&[u8], &[u8])> {
    let (portal, rest) = split_cstr(body)?;
    let (statement, _) = split_cstr(rest)?;
    Some((portal, statement))
}

/// What Describe and Close speak of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Named<'a> {
    /// A prepared statement.
    Statement(&'a [u8]),
    /// A portal.
    Portal(&'a [u8]),
}

impl<'a> Named<'a> {
    /// `None` if the body is malformed; PostgreSQL then says what is wrong with it.
    #[inline]
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let (&kind, rest) = body.split_first()?;
        let (name, _) = split_cstr(rest)?;
        match kind {
            b'S' => Some(Self::Statement(name)),
            b'P' => Some(Self::Portal(name)),
            _ => None,
        }
    }
}

/// A name, which has no NUL in it, and its end.
fn put_name(out: &mut BytesMut, name: &[u8]) {
    out.put_slice(name);
    out.put_u8(0);
}

/// Appends a Parse; `definition`: everything behind the name.
pub fn put_parse(out: &mut BytesMut, name: &[u8], definition: &[u8]) {
    message(PARSE, out, |out| {
        put_name(out, name);
        out.put_slice(definition);
    });
}

/// Appends the start of a Bind, of which so many bytes stand behind the names.
pub fn put_bind(out: &mut BytesMut, portal: &[u8], statement: &[u8], rest: usize) {
    out.put_u8(BIND);
    out.put_u32((4 + portal.len() + 1 + statement.len() + 1 + rest) as u32);
    put_name(out, portal);
    put_name(out, statement);
}

/// Appends a Describe or Close; `kind`: `S` for a statement, `P` for a portal.
pub fn put_named(out: &mut BytesMut, tag: u8, kind: u8, name: &[u8]) {
    message(tag, out, |out| {
        out.put_u8(kind);
        put_name(out, name);
    });
}

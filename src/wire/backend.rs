//! What PostgreSQL sends (manual, "Message Formats", those marked B): tags, encoders for what pgfunnel says in
//! PostgreSQL's place, and views into the few bodies that a proxy must look at.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::{BufMut, BytesMut};

use super::{Header, Version, split_cstr};
use crate::error::Error;

/// Authentication….
pub const AUTHENTICATION: u8 = b'R';
/// BackendKeyData.
pub const KEY_DATA: u8 = b'K';
/// BindComplete.
pub const BIND_COMPLETE: u8 = b'2';
/// CloseComplete.
pub const CLOSE_COMPLETE: u8 = b'3';
/// CommandComplete.
pub const COMMAND_COMPLETE: u8 = b'C';
/// CopyInResponse.
pub const COPY_IN: u8 = b'G';
/// CopyOutResponse.
pub const COPY_OUT: u8 = b'H';
/// CopyBothResponse.
pub const COPY_BOTH: u8 = b'W';
/// CopyData.
pub const COPY_DATA: u8 = b'd';
/// DataRow.
pub const DATA_ROW: u8 = b'D';
/// EmptyQueryResponse.
pub const EMPTY_QUERY: u8 = b'I';
/// ErrorResponse.
pub const ERROR: u8 = b'E';
/// NoData.
pub const NO_DATA: u8 = b'n';
/// NegotiateProtocolVersion.
pub const NEGOTIATE_VERSION: u8 = b'v';
/// NoticeResponse.
pub const NOTICE: u8 = b'N';
/// NotificationResponse.
pub const NOTIFICATION: u8 = b'A';
/// ParameterDescription.
pub const PARAMETER_DESCRIPTION: u8 = b't';
/// ParameterStatus.
pub const PARAMETER_STATUS: u8 = b'S';
/// ParseComplete.
pub const PARSE_COMPLETE: u8 = b'1';
/// PortalSuspended.
pub const PORTAL_SUSPENDED: u8 = b's';
/// ReadyForQuery.
pub const READY: u8 = b'Z';
/// RowDescription.
pub const ROW_DESCRIPTION: u8 = b'T';

/// The largest length field accepted from PostgreSQL: what a `palloc`ed row can be, and room for a header.
#[inline]
pub fn limit(_tag: u8) -> usize {
    0x4000_0000
}

/// Whether it is what there is most of, and nothing can be learned from: a row, of a result or a COPY.
#[inline]
pub fn is_row(tag: u8) -> bool {
    matches!(tag, DATA_ROW | COPY_DATA)
}

/// Bytes of the whole rows at the start of `bytes`.
#[inline]
pub fn rows(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(rest) = bytes.get(end..)
        && let Ok(Some(header)) = Header::peek(rest, limit)
        && is_row(header.tag)
        && header.total <= rest.len()
    {
        end += header.total;
    }
    end
}

/// Transaction state in ReadyForQuery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// `I`: outside a transaction block.
    Idle,
    /// `T`: inside one.
    Transaction,
    /// `E`: inside a failed one.
    Failed,
}

impl Status {
    /// From the body of ReadyForQuery.
    ///
    /// # Errors
    /// Anything but one of the three letters.
    #[inline]
    pub fn decode(body: &[u8]) -> Result<Self, Error> {
        match body {
            b"I" => Ok(Self::Idle),
            b"T" => Ok(Self::Transaction),
            b"E" => Ok(Self::Failed),
            _ => Err(Error::protocol("malformed ReadyForQuery from the database")),
        }
    }
}

/// Appends a message: tag, length, and what `body` writes.
pub fn message(tag: u8, out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    out.put_u8(tag);
    let start = out.len();
    out.put_u32(0);
    body(out);
    let length = (out.len() - start) as u32;
    if let Some(field) = out.get_mut(start..start + 4) {
        field.copy_from_slice(&length.to_be_bytes());
    }
}

/// Appends a string and its terminator. A NUL inside would end it early, so it ends there.
pub fn put_cstr(out: &mut BytesMut, text: &[u8]) {
    let end = memchr::memchr(0, text).unwrap_or(text.len());
    out.put_slice(&text[..end]);
    out.put_u8(0);
}

/// How bad an error is: field `S` and `V`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The statement failed.
    Error,
    /// The connection ends.
    Fatal,
}

/// ErrorResponse.
pub fn error(out: &mut BytesMut, severity: Severity, error: &Error) {
    let severity: &[u8] = match severity {
        Severity::Error => b"ERROR",
        Severity::Fatal => b"FATAL",
    };
    message(ERROR, out, |out| {
        let fields = [
            (b'S', Some(severity)),
            (b'V', Some(severity)),
            (b'C', Some(error.code.code().as_bytes())),
            (b'M', Some(error.message.as_bytes())),
            (b'D', error.detail.as_deref().map(str::as_bytes)),
            (b'H', error.hint.as_deref().map(str::as_bytes)),
        ];
        for (kind, value) in fields {
            if let Some(value) = value {
                out.put_u8(kind);
                put_cstr(out, value);
            }
        }
        out.put_u8(0);
    });
}

/// AuthenticationOk.
pub fn authentication_ok(out: &mut BytesMut) {
    message(AUTHENTICATION, out, |out| out.put_i32(0));
}

/// AuthenticationCleartextPassword.
pub fn authentication_cleartext(out: &mut BytesMut) {
    message(AUTHENTICATION, out, |out| out.put_i32(3));
}

/// AuthenticationMD5Password.
pub fn authentication_md5(out: &mut BytesMut, salt: [u8; 4]) {
    message(AUTHENTICATION, out, |out| {
        out.put_i32(5);
        out.put_slice(&salt);
    });
}

/// AuthenticationSASL with the mechanisms offered, best first.
pub fn authentication_sasl(out: &mut BytesMut, mechanisms: &[&str]) {
    message(AUTHENTICATION, out, |out| {
        out.put_i32(10);
        for mechanism in mechanisms {
            put_cstr(out, mechanism.as_bytes());
        }
        out.put_u8(0);
    });
}

/// AuthenticationSASLContinue.
pub fn authentication_sasl_continue(out: &mut BytesMut, data: &[u8]) {
    message(AUTHENTICATION, out, |out| {
        out.put_i32(11);
        out.put_slice(data);
    });
}

/// AuthenticationSASLFinal.
pub fn authentication_sasl_final(out: &mut BytesMut, data: &[u8]) {
    message(AUTHENTICATION, out, |out| {
        out.put_i32(12);
        out.put_slice(data);
    });
}

/// BackendKeyData.
pub fn key_data(out: &mut BytesMut, pid: i32, key: &[u8]) {
    message(KEY_DATA, out, |out| {
        out.put_i32(pid);
        out.put_slice(key);
    });
}

/// NegotiateProtocolVersion: the newest minor version spoken, and the protocol options not known. PostgreSQL sends
/// the whole version number (`src/backend/tcop/backend_startup.c`, `SendNegotiateProtocolVersion`).
pub fn negotiate_version(out: &mut BytesMut, spoken: Version, unknown: &[&str]) {
    message(NEGOTIATE_VERSION, out, |out| {
        out.put_u16(spoken.major);
        out.put_u16(spoken.minor);
        out.put_i32(unknown.len() as i32);
        for option in unknown {
            put_cstr(out, option.as_bytes());
        }
    });
}

/// ParameterStatus.
pub fn put_parameter_status(out: &mut BytesMut, name: &str, value: &str) {
    message(PARAMETER_STATUS, out, |out| {
        put_cstr(out, name.as_bytes());
        put_cstr(out, value.as_bytes());
    });
}

/// ReadyForQuery outside a transaction.
pub fn ready_idle(out: &mut BytesMut) {
    out.put_slice(b"Z\0\0\0\x05I");
}

/// A message without a body (ParseComplete, CloseComplete …).
pub fn bare(out: &mut BytesMut, tag: u8) {
    out.put_slice(&[tag, 0, 0, 0, 4]);
}

/// Name and value of a ParameterStatus body.
pub fn parameter_status(body: &[u8]) -> Option<(&str, &str)> {
    let (name, rest) = split_cstr(body)?;
    let (value, _) = split_cstr(rest)?;
    Some((std::str::from_utf8(name).ok()?, std::str::from_utf8(value).ok()?))
}

/// What PostgreSQL compares when it decides whether a plan has come to have another result (names, types and their
/// modifiers; `RevalidateCachedQuery` of `src/backend/utils/cache/plancache.c`), of a RowDescription body. Formats are the
/// portal's own.
pub fn row_shape(body: &[u8]) -> u64 {
    let mut shape = DefaultHasher::new();
    let mut columns = body.get(2..).unwrap_or_default();
    // Behind a name: table and column (4 + 2 bytes), type (4), its size (2), its modifier (4), format (2).
    while let Some((name, rest)) = split_cstr(columns)
        && let Some((described, behind)) = rest.split_first_chunk::<18>()
    {
        (name, &described[6..16]).hash(&mut shape);
        columns = behind;
    }
    shape.finish()
}

/// Process id and channel of a NotificationResponse body.
pub fn notification(body: &[u8]) -> Option<(i32, &[u8])> {
    let (pid, rest) = body.split_first_chunk()?;
    let (channel, _) = split_cstr(rest)?;
    Some((i32::from_be_bytes(*pid), channel))
}

/// The fields of an ErrorResponse or NoticeResponse that a proxy reads. A missing field is empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ErrorFields {
    /// `V` (or `S`, which may be translated).
    pub severity: String,
    /// `C`.
    pub code: String,
    /// `M`.
    pub message: String,
    /// `D`.
    pub detail: Option<String>,
    /// `H`.
    pub hint: Option<String>,
}

impl ErrorFields {
    /// Reads as far as the body is well formed; the rest stays empty.
    pub fn decode(body: &[u8]) -> Self {
        let mut fields = Self::default();
        let mut rest = body;
        while let Some((&kind, behind)) = rest.split_first() {
            let Some((value, behind)) = (if kind == 0 { None } else { split_cstr(behind) }) else { break };
            let value = || String::from_utf8_lossy(value).into_owned();
            match kind {
                b'V' => fields.severity = value(),
                b'S' if fields.severity.is_empty() => fields.severity = value(),
                b'C' => fields.code = value(),
                b'M' => fields.message = value(),
                b'D' => fields.detail = Some(value()),
                b'H' => fields.hint = Some(value()),
                _ => {}
            }
            rest = behind;
        }
        fields
    }

    /// Whether the connection ends with it.
    pub fn is_fatal(&self) -> bool {
        matches!(self.severity.as_str(), "FATAL" | "PANIC")
    }

    /// The same as an [`Error`] of the database's. Malformed codes become 08P01.
    pub fn into_error(self) -> Error {
        use crate::error::{Side, SqlState};
        let code = if self.code.len() == 5 { SqlState::from_code(&self.code) } else { SqlState::PROTOCOL_VIOLATION };
        let message =
            if self.message.is_empty() { "the database sent an error without a message".into() } else { self.message };
        let mut error = Error::new(Side::Database, code, message);
        error.detail = self.detail.map(Into::into);
        error.hint = self.hint.map(Into::into);
        error
    }
}

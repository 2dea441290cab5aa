//! What a query is answered with (manual, "Message Flow"), for answers of pgfunnel's own; and what of Bind decides how.

use bytes::{Buf, BufMut, BytesMut};

use super::backend::{self, Status, message, put_cstr};
use super::split_cstr;

/// A type of PostgreSQL's (`pg_type.dat`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// `text`.
    Text,
    /// `int8`.
    Int8,
}

impl Type {
    fn oid(self) -> i32 {
        match self {
            Type::Text => 25,
            Type::Int8 => 20,
        }
    }

    fn size(self) -> i16 {
        match self {
            Type::Text => -1,
            Type::Int8 => 8,
        }
    }
}

/// A column of a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// Its type.
    pub kind: Type,
}

/// A value in a row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Value {
    /// NULL.
    Null,
    /// `text`.
    Text(String),
    /// `int8`.
    Int(i64),
}

/// In which columns values go out as binary.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Formats(Vec<bool>);

impl Formats {
    fn is_binary(&self, column: usize) -> bool {
        match self.0.as_slice() {
            [] => false,
            [all] => *all,
            each => each.get(column).copied().unwrap_or(false),
        }
    }
}

/// The body of a Bind message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bind<'a> {
    /// The portal's name.
    pub portal: &'a [u8],
    /// The statement's name.
    pub statement: &'a [u8],
    /// How many parameters it brings.
    pub parameters: usize,
    /// How the results are wanted.
    pub formats: Formats,
}

impl<'a> Bind<'a> {
    /// `None`: it is malformed.
    pub fn decode(body: &'a [u8]) -> Option<Self> {
        let (portal, rest) = split_cstr(body)?;
        let (statement, mut rest) = split_cstr(rest)?;
        let codes = rest.try_get_u16().ok()?;
        rest = rest.get(2 * usize::from(codes)..)?;
        let parameters = rest.try_get_u16().ok()?;
        for _ in 0..parameters {
            let length = rest.try_get_i32().ok()?;
            rest = rest.get(usize::try_from(length).unwrap_or(0)..)?;
        }
        let results = rest.try_get_u16().ok()?;
        let formats = (0..results).map(|_| rest.try_get_u16().ok().map(|code| code == 1)).collect::<Option<_>>()?;
        Some(Self { portal, statement, parameters: parameters.into(), formats: Formats(formats) })
    }
}

/// RowDescription.
pub fn description(out: &mut BytesMut, columns: &[Column], formats: &Formats) {
    message(backend::ROW_DESCRIPTION, out, |out| {
        out.put_u16(columns.len() as u16);
        for (at, column) in columns.iter().enumerate() {
            put_cstr(out, column.name.as_bytes());
            // No table, no column of one.
            out.put_i32(0);
            out.put_i16(0);
            out.put_i32(column.kind.oid());
            out.put_i16(column.kind.size());
            out.put_i32(-1);
            out.put_i16(formats.is_binary(at).into());
        }
    });
}

/// DataRow.
pub fn row(out: &mut BytesMut, values: &[Value], formats: &Formats) {
    message(backend::DATA_ROW, out, |out| {
        out.put_u16(values.len() as u16);
        for (at, value) in values.iter().enumerate() {
            match value {
                Value::Null => out.put_i32(-1),
                Value::Text(text) => put_counted(out, text.as_bytes()),
                Value::Int(number) if formats.is_binary(at) => put_counted(out, &number.to_be_bytes()),
                Value::Int(number) => put_counted(out, number.to_string().as_bytes()),
            }
        }
    });
}

fn put_counted(out: &mut BytesMut, bytes: &[u8]) {
    out.put_i32(bytes.len() as i32);
    out.put_slice(bytes);
}

/// CommandComplete.
pub fn complete(out: &mut BytesMut, tag: &str) {
    message(backend::COMMAND_COMPLETE, out, |out| put_cstr(out, tag.as_bytes()));
}

/// ParameterDescription of a statement without parameters.
pub fn no_parameters(out: &mut BytesMut) {
    message(backend::PARAMETER_DESCRIPTION, out, |out| out.put_u16(0));
}

/// ReadyForQuery.
pub fn ready(out: &mut BytesMut, status: Status) {
    let letter = match status {
        Status::Idle => b'I',
        Status::Transaction => b'T',
        Status::Failed => b'E',
    };
    message(backend::READY, out, |out| out.put_u8(letter));
}

/// NoticeResponse.
pub fn notice(out: &mut BytesMut, text: &str, detail: &str) {
    message(backend::NOTICE, out, |out| {
        for (kind, value) in [(b'S', "NOTICE"), (b'V', "NOTICE"), (b'C', "00000"), (b'M', text), (b'D', detail)] {
            out.put_u8(kind);
            put_cstr(out, value.as_bytes());
        }
        out.put_u8(0);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn bind_says_how_results_are_wanted() {
        let body = b"p\0s\0\0\x01\0\0\0\x01\0\0\0\x02ab\0\x02\0\x01\0\0";
        let bind = Bind::decode(body).unwrap();
        assert_eq!((bind.portal, bind.statement, bind.parameters), (&b"p"[..], &b"s"[..], 1));
        assert_eq!([0, 1, 2].map(|column| bind.formats.is_binary(column)), [true, false, false]);
        assert_eq!(Bind::decode(&body[..body.len() - 1]), None);
    }

    proptest! {
        #[test]
        fn no_body_of_bind_is_a_panic(body in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Bind::decode(&body);
        }
    }
}

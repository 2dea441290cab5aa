//! Backend messages as a test looks at them.

use std::fmt;

/// One backend message.
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// The type byte.
    pub tag: u8,
    /// What follows the length.
    pub body: Vec<u8>,
}

/// The fields of an ErrorResponse or NoticeResponse that tests look at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields {
    /// `V`
    pub severity: String,
    /// `C`
    pub code: String,
    /// `M`
    pub message: String,
    /// `D`
    pub detail: String,
    /// `H`
    pub hint: String,
}

impl Message {
    /// The fields, if this is an ErrorResponse or a NoticeResponse.
    pub fn fields(&self) -> Option<Fields> {
        if !matches!(self.tag, b'E' | b'N') {
            return None;
        }
        let mut fields = Fields::default();
        for field in self.body.split(|&byte| byte == 0) {
            let Some((kind, text)) = field.split_first() else { continue };
            let text = String::from_utf8_lossy(text).into_owned();
            match kind {
                b'V' => fields.severity = text,
                b'C' => fields.code = text,
                b'M' => fields.message = text,
                b'D' => fields.detail = text,
                b'H' => fields.hint = text,
                _ => {}
            }
        }
        Some(fields)
    }

    /// The columns, if this is a DataRow.
    pub fn row(&self) -> Option<Vec<Option<String>>> {
        if self.tag != b'D' {
            return None;
        }
        let mut rest = self.body.get(2..)?;
        let mut row = Vec::new();
        while let Some((length, tail)) = rest.split_first_chunk::<4>() {
            let length = i32::from_be_bytes(*length);
            let Ok(length) = usize::try_from(length) else {
                row.push(None);
                rest = tail;
                continue;
            };
            row.push(Some(String::from_utf8_lossy(tail.get(..length)?).into_owned()));
            rest = tail.get(length..)?;
        }
        Some(row)
    }

    /// The body up to its first NUL: a command tag, a parameter's name.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(self.body.split(|&byte| byte == 0).next().unwrap_or_default()).into_owned()
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", char::from(self.tag))?;
        if let Some(fields) = self.fields() {
            return write!(f, "{fields:?}");
        }
        let shown = self.body.get(..200).unwrap_or(&self.body);
        write!(f, "[{}] {}", self.body.len(), shown.escape_ascii())
    }
}

/// The messages that answer something.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Answer(pub Vec<Message>);

impl Answer {
    /// The type bytes in order: `TDDCZ`.
    pub fn tags(&self) -> String {
        self.0.iter().map(|message| char::from(message.tag)).collect()
    }

    /// The first error; `Fields::default()` if there is none, so that an assertion on its code shows that.
    pub fn error(&self) -> Fields {
        self.errors().into_iter().next().unwrap_or_default()
    }

    /// Every error.
    pub fn errors(&self) -> Vec<Fields> {
        self.0.iter().filter(|message| message.tag == b'E').filter_map(Message::fields).collect()
    }

    /// All rows.
    pub fn rows(&self) -> Vec<Vec<Option<String>>> {
        self.0.iter().filter_map(Message::row).collect()
    }

    /// The names of the columns, as the first RowDescription has them.
    pub fn columns(&self) -> Vec<String> {
        let described = self.0.iter().find(|message| message.tag == b'T');
        let mut rest = described.and_then(|message| message.body.get(2..)).unwrap_or_default();
        let mut names = Vec::new();
        while let Some(end) = rest.iter().position(|&byte| byte == 0) {
            names.push(String::from_utf8_lossy(&rest[..end]).into_owned());
            // Table, column, type, size, modifier, format.
            rest = rest.get(end + 19..).unwrap_or_default();
        }
        names
    }

    /// The first column of the first row; the error's message if there is none.
    pub fn value(&self) -> String {
        match self.rows().into_iter().next() {
            Some(row) => row.into_iter().next().flatten().unwrap_or_else(|| "NULL".into()),
            None => format!("no row: {:?}", self.error()),
        }
    }

    /// The command tags.
    pub fn commands(&self) -> Vec<String> {
        self.0.iter().filter(|message| message.tag == b'C').map(Message::text).collect()
    }

    /// The transaction status of the last ReadyForQuery (`I`, `T`, `E`).
    pub fn status(&self) -> Option<char> {
        let ready = self.0.iter().rfind(|message| message.tag == b'Z')?;
        ready.body.first().map(|&status| char::from(status))
    }
}

//! PgBouncer's `userlist.txt` (pgbouncer.org, "Authentication file format"): `"user" "secret"` per line, a quote within
//! quotes doubled, anything behind the second column ignored; lines that begin with `;` or `#` and empty ones as well.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{Secret, files};
use crate::auth::scram::BadVerifier;

/// The longest name that PostgreSQL accepts (`NAMEDATALEN` - 1 bytes); a longer one would never log in.
const MAX_NAME: usize = 63;

/// What is wrong with a user list. Never quotes a secret.
#[derive(Debug, Error)]
pub(super) enum UserListError {
    /// The file cannot be read.
    #[error("cannot read the user list \"{path}\": {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A line is not right.
    #[error("line {line} of the user list \"{path}\": {what}")]
    Line {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// What is wrong.
        what: LineError,
    },
}

/// What is wrong with a line.
#[derive(Debug, PartialEq, Eq, Error)]
pub(super) enum LineError {
    /// It does not begin with a quote.
    #[error("must begin with the user name in double quotes: \"user\" \"secret\"")]
    NoUser,
    /// There is no second column.
    #[error("the secret in double quotes is missing: \"user\" \"secret\"")]
    NoSecret,
    /// A column does not end.
    #[error("a closing double quote is missing (a quote within quotes is written twice)")]
    OpenQuote,
    /// The name is empty or too long.
    #[error("the user name must have 1 to {MAX_NAME} bytes")]
    Name,
    /// A line before had the same user.
    #[error("the same user was already on line {0}")]
    Twice(usize),
    /// Not UTF-8.
    #[error("is not UTF-8")]
    Encoding,
    /// What no name or password can have.
    #[error("has NUL in it")]
    Nul,
    /// A broken verifier.
    #[error("{0}")]
    Verifier(#[from] BadVerifier),
}

/// Users with their secrets; `None` where the secret is empty (such a user can only be trusted).
pub(super) type Users = HashMap<String, Option<Secret>>;

/// Reads a user list. Blocks.
///
/// # Errors
/// The file, or its first line that is wrong.
pub(super) fn load(path: &Path) -> Result<Users, UserListError> {
    let text = files::read(path).map_err(|source| UserListError::Read { path: path.into(), source })?;
    parse(&text).map_err(|(line, what)| UserListError::Line { path: path.into(), line, what })
}

/// Parses a user list; an error with the number of its line.
fn parse(text: &[u8]) -> Result<Users, (usize, LineError)> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut seen: HashMap<String, usize> = HashMap::new();
    let mut users = Users::new();
    for (number, line) in text.split(|byte| *byte == b'\n').enumerate().map(|(at, line)| (at + 1, line)) {
        let line = std::str::from_utf8(line).map_err(|_| (number, LineError::Encoding))?;
        let Some((name, secret)) = parse_line(line.trim()).map_err(|what| (number, what))? else { continue };
        if let Some(before) = seen.insert(name.clone(), number) {
            return Err((number, LineError::Twice(before)));
        }
        users.insert(name, secret);
    }
    Ok(users)
}

fn parse_line(line: &str) -> Result<Option<(String, Option<Secret>)>, LineError> {
    if line.is_empty() || line.starts_with([';', '#']) {
        return Ok(None);
    }
    if line.contains('\0') {
        return Err(LineError::Nul);
    }
    let (name, rest) = quoted(line, LineError::NoUser)?;
    let (secret, _ignored) = quoted(rest.trim_start(), LineError::NoSecret)?;
    if name.is_empty() || name.len() > MAX_NAME {
        return Err(LineError::Name);
    }
    let secret = if secret.is_empty() { None } else { Some(Secret::classify(&secret)?) };
    Ok(Some((name, secret)))
}

/// The quoted text at the beginning, unescaped, and what is behind it.
fn quoted(text: &str, missing: LineError) -> Result<(String, &str), LineError> {
    let mut rest = text.strip_prefix('"').ok_or(missing)?;
    let mut value = String::new();
    loop {
        let (part, behind) = rest.split_once('"').ok_or(LineError::OpenQuote)?;
        value.push_str(part);
        match behind.strip_prefix('"') {
            Some(more) => rest = more,
            None => return Ok((value, behind)),
        }
        value.push('"');
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Password;
    use proptest::prelude::*;

    fn plain(text: &str) -> Option<Secret> {
        Some(Secret::Plain(Password(text.to_owned())))
    }

    #[test]
    fn reads_pgbouncers_format() {
        let text = "\u{feff}; comment\n# another\n\n\"app\" \"secret\"\r\n  \"o\"\"brien\"\t\"a\"\"b\" \"ignored\" too\n\
            \"old\" \"md56a422f785c9e20873908ce25d1736ae2\"\n\"trusted\"\"\"\"\" \"\"\n\"last\" \"x;#\"";
        let users = parse(text.as_bytes()).unwrap();
        assert_eq!(users.len(), 5);
        assert_eq!(users["app"], plain("secret"));
        assert_eq!(users["o\"brien"], plain("a\"b"));
        assert!(matches!(users["old"], Some(Secret::Md5(_))));
        assert_eq!(users["trusted\"\""], None);
        assert_eq!(users["last"], plain("x;#"));
    }

    #[test]
    fn errors_name_file_and_line_and_no_secret() {
        let long = format!("\"{}\" \"hunter2\"", "u".repeat(64));
        let table: [(&[u8], usize, &str); 11] = [
            (b"app \"hunter2\"", 1, "must begin with the user name"),
            (b"\n\"app\"", 2, "secret in double quotes is missing"),
            (b"\"app\" hunter2", 1, "secret in double quotes is missing"),
            (b"\"app\" \"hunter2", 1, "closing double quote"),
            (b"\"app\" \"hunter2\"\"", 1, "closing double quote"),
            (b"\"\" \"hunter2\"", 1, "1 to 63 bytes"),
            (long.as_bytes(), 1, "1 to 63 bytes"),
            (b"\"app\" \"hunter2\"\n;\n\"app\" \"b\"", 3, "already on line 1"),
            (b"\"app\" \"hunter2\xff\"", 1, "UTF-8"),
            (b"\"app\" \"hunter2\0\"", 1, "has NUL in it"),
            (b"\"app\" \"SCRAM-SHA-256$hunter2\"", 1, "not of the form"),
        ];
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("userlist.txt");
        for (text, line, expected) in table {
            std::fs::write(&path, text).unwrap();
            let error = load(&path).unwrap_err();
            let message = format!("{error} {error:?}");
            assert!(message.contains(expected) && message.contains("userlist.txt"), "{expected}: {message}");
            assert!(message.contains(&format!("line {line} ")), "{message}");
            assert!(!message.contains("hunter2"), "{message}");
        }
        assert!(load(&dir.path().join("none.txt")).unwrap_err().to_string().contains("none.txt"));
    }

    proptest! {
        #[test]
        fn any_name_and_secret_can_be_written(name in "[^\n\r\0]{1,15}", secret in "[^\n\r\0]{1,20}") {
            let quote = |text: &str| text.replace('"', "\"\"");
            let line = format!("\"{}\" \"{}\"\n", quote(&name), quote(&secret));
            let users = parse(line.as_bytes()).unwrap();
            prop_assert_eq!(users.get(&name).cloned(), Some(plain(&secret)));
        }

        #[test]
        fn never_panics(text: Vec<u8>) {
            let _ = parse(&text);
        }
    }
}

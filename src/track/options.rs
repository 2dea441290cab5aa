//! The `options` startup parameter: command-line switches for a backend (manual, `libpq` "options"). Only settings
//! (`-c name=value`, `--name=value`) can follow a client from backend to backend; anything else is refused.

use crate::error::{Error, Side, SqlState};

/// The settings in an `options` value, in order.
///
/// # Errors
/// 0A000 for a switch that is not a setting.
pub fn settings(options: &str) -> Result<Vec<(String, String)>, Error> {
    let mut words = split(options).into_iter();
    let mut found = Vec::new();
    while let Some(word) = words.next() {
        let setting = match word.strip_prefix("--") {
            Some(setting) => setting.to_owned(),
            None => match word.strip_prefix("-c") {
                Some("") => words.next().ok_or_else(|| unsupported(&word))?,
                Some(setting) => setting.to_owned(),
                None => return Err(unsupported(&word)),
            },
        };
        let Some((name, value)) = setting.split_once('=') else { return Err(unsupported(&setting)) };
        // A dash stands for an underscore (src/backend/utils/misc/guc.c, ParseLongOption).
        found.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(found)
}

#[cold]
fn unsupported(switch: &str) -> Error {
    Error::new(
        Side::Client,
        SqlState::FEATURE_NOT_SUPPORTED,
        format!("startup option \"{switch}\" cannot be used through a connection pool"),
    )
    .hint("Only settings (-c name=value or --name=value) can be given in options.")
}

/// Words separated by white space; a backslash keeps the next character
/// (`pg_split_opts` of `src/backend/utils/init/postinit.c`).
fn split(options: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut characters = options.chars();
    while let Some(c) = characters.next() {
        match c {
            '\\' => word.get_or_insert_default().extend(characters.next()),
            c if c.is_ascii_whitespace() => words.extend(word.take()),
            c => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_settings() {
        let pairs = |options: &str| settings(options).unwrap();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(pairs(""), vec![]);
        assert_eq!(
            pairs("-c search_path=a,\\ b --statement-timeout=5s  -cgeqo=off"),
            vec![pair("search_path", "a, b"), pair("statement_timeout", "5s"), pair("geqo", "off")]
        );
        for bad in ["-e", "-c", "-c x", "--x", "foo"] {
            assert!(settings(bad).is_err(), "{bad}");
        }
    }
}

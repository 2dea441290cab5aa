//! The channels that a text's `UNLISTEN` statements name.

use super::statements::unquote;
use super::tokens::{Token, Tokens};

/// What one `UNLISTEN` is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unlisten {
    /// `UNLISTEN *`
    All,
    /// One channel, as PostgreSQL folds its name.
    One(String),
}

/// PostgreSQL cuts a name here (`NAMEDATALEN` of `src/include/pg_config_manual.h`).
const LONGEST: usize = 63;

/// Those of a text, in order.
pub fn unlistened(text: &[u8]) -> Vec<Unlisten> {
    let mut found = Vec::new();
    let mut tokens = Tokens::new(text);
    let mut at_start = true;
    while let Some(token) = tokens.next() {
        if at_start && token.is("unlisten") {
            match tokens.next() {
                Some(Token::Punct(b'*')) => found.push(Unlisten::All),
                Some(Token::Word(name)) => found.push(Unlisten::One(cut(name.to_ascii_lowercase()))),
                Some(Token::Quoted(name)) => found.push(Unlisten::One(cut(unquote(name)))),
                // PostgreSQL refuses it; a text with `U&"…"` pins.
                _ => {}
            }
        }
        at_start = token == Token::Punct(b';');
    }
    found
}

fn cut(name: Vec<u8>) -> String {
    let mut name = String::from_utf8_lossy(&name).into_owned();
    name.truncate(name.floor_char_boundary(LONGEST));
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_folded_as_by_postgresql() {
        let one = |name: &str| Unlisten::One(name.into());
        for (text, expected) in [
            ("UNLISTEN Jobs", vec![one("jobs")]),
            ("unlisten \"Jobs \"\"1\"\"\";", vec![one("Jobs \"1\"")]),
            ("select 1; unlisten /* all */ *; reset all; unlisten b", vec![Unlisten::All, one("b")]),
            ("select 'unlisten a'; -- unlisten b", vec![]),
            ("unlisten", vec![]),
            (&format!("unlisten {}", "ä".repeat(40)), vec![one(&"ä".repeat(31))]),
        ] {
            assert_eq!(unlistened(text.as_bytes()), expected, "{text}");
        }
    }
}

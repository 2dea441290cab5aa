//! The channels that a text's `UNLISTEN` statements name.

use super::tokens::{Token, Tokens};

/// What one `UNLISTEN` is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unlisten {
    /// `UNLISTEN *`
    All,
    /// One channel, as PostgreSQL folds its name.
    One(String),
}

/// Those of a text, in order.
pub fn unlistened(text: &[u8]) -> Vec<Unlisten> {
    let mut found = Vec::new();
    let mut tokens = Tokens::new(text);
    let mut at_start = true;
    while let Some(token) = tokens.next() {
        if at_start && token.is("unlisten") {
            match tokens.next() {
                Some(Token::Punct(b'*')) => found.push(Unlisten::All),
                token => found.extend(token.and_then(|token| token.identifier()).map(one)),
            }
        }
        at_start = token == Token::Punct(b';');
    }
    found
}

fn one(name: Vec<u8>) -> Unlisten {
    Unlisten::One(String::from_utf8_lossy(&name).into_owned())
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

//! A tokenizer for SQL text that knows what can hide a word: comments, quotes, dollar quotes, `E''` strings (manual,
//! "Lexical Structure"). It assumes `standard_conforming_strings = on`; a session without it is pinned.

/// A token of interest; numbers and strings with escapes yield [`Token::Other`], comments nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    /// An unquoted identifier or keyword, in the client's case.
    Word(&'a [u8]),
    /// A quoted identifier, without its quotes and with doubled quotes as they stand.
    Quoted(&'a [u8]),
    /// A string constant without escapes, without its quotes and with doubled quotes as they stand.
    String(&'a [u8]),
    /// `U&"…"` or `U&'…'`.
    Unicode,
    /// A single character that is neither of these.
    Punct(u8),
    /// A constant.
    Other,
}

impl Token<'_> {
    /// Whether it is this keyword or function name, in any case. A quoted identifier counts: `"set_config"(…)` calls
    /// the same function.
    pub(super) fn is(&self, name: &str) -> bool {
        matches!(self, Token::Word(word) | Token::Quoted(word) if word.eq_ignore_ascii_case(name.as_bytes()))
    }
}

/// PostgreSQL cuts an identifier here (`NAMEDATALEN` of `src/include/pg_config_manual.h`).
pub(super) const LONGEST: usize = 63;

impl Token<'_> {
    /// The name that it means as an identifier: folded or unquoted, and cut, as PostgreSQL does. `None`: it is none, or one
    /// with escapes.
    pub(super) fn identifier(&self) -> Option<Vec<u8>> {
        match self {
            Token::Word(word) => Some(cut(word.to_ascii_lowercase())),
            Token::Quoted(word) if !word.is_empty() => Some(cut(unquote(word))),
            _ => None,
        }
    }

    /// How many bytes of the text it takes as an identifier, quotes included.
    pub(super) fn identifier_length(&self) -> usize {
        match self {
            Token::Word(word) => word.len(),
            Token::Quoted(word) => word.len() + 2,
            _ => 0,
        }
    }
}

/// Not within a character (`src/backend/parser/scansup.c`, `truncate_identifier`).
fn cut(mut name: Vec<u8>) -> Vec<u8> {
    if name.len() > LONGEST {
        let is_inside = |end: &usize| name.get(*end).is_some_and(|byte| byte & 0xc0 == 0x80);
        let end = (LONGEST - 3..=LONGEST).rev().find(|end| !is_inside(end)).unwrap_or(LONGEST);
        name.truncate(end);
    }
    name
}

/// Doubled quotes become single ones.
fn unquote(word: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(word.len());
    let mut quoted = false;
    for &byte in word {
        quoted = byte == b'"' && !quoted;
        if !quoted {
            out.push(byte);
        }
    }
    out
}

/// Walks a text.
#[derive(Clone)]
pub(super) struct Tokens<'a> {
    text: &'a [u8],
    at: usize,
}

impl<'a> Tokens<'a> {
    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { text, at: 0 }
    }

    /// All of it.
    pub(super) fn text(&self) -> &'a [u8] {
        self.text
    }

    /// The offset behind the last token.
    pub(super) fn offset(&self) -> usize {
        self.at
    }

    fn peek(&self, ahead: usize) -> u8 {
        self.text.get(self.at + ahead).copied().unwrap_or(0)
    }

    fn rest(&self) -> &'a [u8] {
        self.text.get(self.at..).unwrap_or_default()
    }

    /// Moves behind the next `needle`, or to the end.
    fn skip_past(&mut self, needle: &[u8]) {
        self.at = match memchr::memmem::find(self.rest(), needle) {
            Some(found) => self.at + found + needle.len(),
            None => self.text.len(),
        };
    }

    /// Block comments nest.
    fn skip_comment(&mut self) {
        let mut depth = 0usize;
        while self.at < self.text.len() {
            match (self.peek(0), self.peek(1)) {
                (b'/', b'*') => {
                    depth += 1;
                    self.at += 2;
                }
                (b'*', b'/') => {
                    depth -= 1;
                    self.at += 2;
                    if depth == 0 {
                        return;
                    }
                }
                _ => self.at += 1,
            }
        }
    }

    /// Behind the closing quote; a doubled quote does not close, nor does an escaped one where escapes count.
    fn skip_quoted(&mut self, quote: u8, escapes: bool) {
        while self.at < self.text.len() {
            let byte = self.peek(0);
            self.at += 1;
            if byte == quote {
                if self.peek(0) != quote {
                    return;
                }
                self.at += 1;
            } else if byte == b'\\' && escapes {
                self.at += 1;
            }
        }
        self.at = self.text.len();
    }

    /// A string goes on behind white space with a newline in it (and comments that end with one), with the same escapes.
    /// Moves behind that quote.
    fn goes_on(&mut self) -> bool {
        let (mut at, mut newline) = (self.at, false);
        while let Some(byte) = self.text.get(at) {
            match byte {
                b'\n' | b'\r' => newline = true,
                b' ' | b'\t' | 0x0b | 0x0c => {}
                b'-' if self.text.get(at + 1) == Some(&b'-') => {
                    let end = memchr::memchr2(b'\n', b'\r', self.text.get(at..).unwrap_or_default());
                    at = end.map_or(self.text.len(), |end| at + end);
                    continue;
                }
                b'\'' if newline => {
                    self.at = at + 1;
                    return true;
                }
                _ => return false,
            }
            at += 1;
        }
        false
    }

    fn dollar(&mut self) -> Token<'a> {
        let rest = self.rest();
        let tag = rest.iter().skip(1).take_while(|byte| is_word(**byte) && **byte != b'$').count();
        let digit = rest.get(1).is_some_and(u8::is_ascii_digit);
        match rest.get(..tag + 2) {
            Some(quote) if quote.ends_with(b"$") && !digit => {
                self.at += quote.len();
                self.skip_past(quote);
                Token::Other
            }
            _ => {
                self.at += 1;
                Token::Punct(b'$')
            }
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let byte = *self.text.get(self.at)?;
            match byte {
                b' ' | b'\t' | b'\n' | b'\r' | 0x0b | 0x0c => self.at += 1,
                b'-' if self.peek(1) == b'-' => match memchr::memchr2(b'\n', b'\r', self.rest()) {
                    Some(end) => self.at += end + 1,
                    None => self.at = self.text.len(),
                },
                b'/' if self.peek(1) == b'*' => self.skip_comment(),
                b'\'' => {
                    let start = self.at + 1;
                    self.at = start;
                    self.skip_quoted(b'\'', false);
                    return Some(Token::String(self.text.get(start..self.at.saturating_sub(1)).unwrap_or_default()));
                }
                b'"' => {
                    let start = self.at + 1;
                    self.at = start;
                    self.skip_quoted(b'"', false);
                    return Some(Token::Quoted(self.text.get(start..self.at.saturating_sub(1)).unwrap_or_default()));
                }
                b'$' => return Some(self.dollar()),
                b'0'..=b'9' => {
                    self.at += self.rest().iter().take_while(|byte| is_word(**byte) || **byte == b'.').count();
                    return Some(Token::Other);
                }
                _ if is_word(byte) => {
                    let rest = self.rest();
                    let word = &rest[..rest.iter().take_while(|byte| is_word(**byte)).count()];
                    self.at += word.len();
                    if word.len() == 1 && self.peek(0) == b'\'' && word.eq_ignore_ascii_case(b"e") {
                        self.at += 1;
                        self.skip_quoted(b'\'', true);
                        while self.goes_on() {
                            self.skip_quoted(b'\'', true);
                        }
                        return Some(Token::Other);
                    }
                    if word.eq_ignore_ascii_case(b"u") && self.peek(0) == b'&' && matches!(self.peek(1), b'"' | b'\'') {
                        let quote = self.peek(1);
                        self.at += 2;
                        self.skip_quoted(quote, false);
                        return Some(Token::Unicode);
                    }
                    return Some(Token::Word(word));
                }
                _ => {
                    self.at += 1;
                    return Some(Token::Punct(byte));
                }
            }
        }
    }
}

/// The largest number of a parameter (`$1`) in a text; 0: it has none.
pub fn parameters(text: &[u8]) -> u16 {
    let mut tokens = Tokens::new(text);
    let mut largest = 0;
    while let Some(token) = tokens.next() {
        if token == Token::Punct(b'$') {
            let digits = tokens.rest().iter().take_while(|byte| byte.is_ascii_digit());
            let number =
                digits.fold(0u16, |number, digit| number.saturating_mul(10).saturating_add(u16::from(digit - b'0')));
            largest = number.max(largest);
        }
    }
    largest
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(sql: &str) -> Vec<String> {
        Tokens::new(sql.as_bytes())
            .filter_map(|token| match token {
                Token::Word(word) | Token::Quoted(word) => Some(String::from_utf8_lossy(word).into_owned()),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn what_hides_words_is_skipped() {
        for (sql, expected) in [
            ("select 'a set b' x", vec!["select", "x"]),
            ("select 'it''s set' x", vec!["select", "x"]),
            ("select 'back\\' , y", vec!["select", "y"]),
            ("select E'it\\'s set' x", vec!["select", "x"]),
            ("select $$ set $$ x", vec!["select", "x"]),
            ("select $t$ $$ set $t$ x", vec!["select", "x"]),
            ("select $1, x", vec!["select", "x"]),
            ("select a$b$c", vec!["select", "a$b$c"]),
            ("-- set\nselect x", vec!["select", "x"]),
            ("/* set /* set */ set */ select", vec!["select"]),
            ("select \"se\"\"t\" x", vec!["select", "se\"\"t", "x"]),
            ("select 'open", vec!["select"]),
            ("select 1e5, 0x1f x", vec!["select", "x"]),
        ] {
            assert_eq!(words(sql), expected, "{sql}");
        }
    }

    #[test]
    fn parameters_are_found_where_they_are_none_of_something_else() {
        for (sql, largest) in [
            ("select $1::int + $12", 12),
            ("select '$5', \"$6\", $$ $7 $$, a$8 -- $9", 0),
            ("select $2 /* $3 */ + $1", 2),
            ("select $99999999", u16::MAX),
            ("", 0),
        ] {
            assert_eq!(parameters(sql.as_bytes()), largest, "{sql}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_always_ends(text in proptest::collection::vec(prop::sample::select(b"se t'\"$/*-\\;E1\n".to_vec()), 0..60)) {
            let count = Tokens::new(&text).count();
            prop_assert!(count <= text.len());
        }
    }
}

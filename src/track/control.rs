//! Texts that begin or end a transaction and do nothing else.

/// What such a text does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Control {
    /// Begins one, so that it cannot fail: not where a server in recovery would refuse.
    Begin,
    /// Commits it.
    Commit,
    /// Rolls it back.
    Rollback,
}

/// A longer text is none of these.
const LONGEST: usize = 100;

impl Control {
    /// `None`: it is another text, or one that need not be told apart (a comment, `AND CHAIN`, a second statement).
    #[inline]
    pub fn of(text: &[u8]) -> Option<Self> {
        // Nearly all others begin otherwise.
        match text.first()?.to_ascii_lowercase() {
            b'a' | b'b' | b'c' | b'e' | b'r' | b's' if text.len() <= LONGEST => Self::read(text),
            _ => None,
        }
    }

    /// (Manual, "BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK".)
    fn read(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?.trim_end_matches(|c: char| c.is_ascii_whitespace());
        let text = text.strip_suffix(';').unwrap_or(text);
        let mut words = text.split_ascii_whitespace().peekable();
        let skip = |words: &mut std::iter::Peekable<_>| {
            words.next_if(|word: &&str| is(word, "WORK") || is(word, "TRANSACTION"));
        };
        let first = words.next()?;
        if is(first, "BEGIN") {
            skip(&mut words);
        } else if is(first, "START") {
            words.next_if(|word| is(word, "TRANSACTION"))?;
        } else {
            skip(&mut words);
            let control = match first {
                _ if is(first, "COMMIT") || is(first, "END") => Self::Commit,
                _ if is(first, "ROLLBACK") || is(first, "ABORT") => Self::Rollback,
                _ => return None,
            };
            return words.next().is_none().then_some(control);
        }
        while let Some(word) = words.next() {
            let mode = [Some(word), words.next(), words.peek().copied()];
            let is_mode =
                |known: &[&str]| known.iter().zip(mode).all(|(known, word)| word.is_some_and(|word| is(word, known)));
            let level = is_mode(&["ISOLATION", "LEVEL", "READ"]) || is_mode(&["ISOLATION", "LEVEL", "REPEATABLE"]);
            match level {
                true => {
                    let read = words.next().is_some_and(|word| is(word, "READ"));
                    let known = |word: &str| {
                        if read { is(word, "COMMITTED") || is(word, "UNCOMMITTED") } else { is(word, "READ") }
                    };
                    words.next().filter(|word| known(word))?;
                }
                false if is_mode(&["READ", "ONLY"]) || is_mode(&["NOT", "DEFERRABLE"]) => {}
                false => return None,
            }
        }
        Some(Self::Begin)
    }
}

fn is(word: &str, keyword: &str) -> bool {
    word.eq_ignore_ascii_case(keyword)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_begins_and_ends_a_transaction_is_told() {
        for begin in [
            "BEGIN",
            "begin;",
            "Begin Work ; ",
            "START TRANSACTION",
            "BEGIN TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "begin isolation level repeatable read read only",
            "START TRANSACTION NOT DEFERRABLE READ ONLY;",
        ] {
            assert_eq!(Control::of(begin.as_bytes()), Some(Control::Begin), "{begin}");
        }
        for (text, control) in [
            ("commit", Control::Commit),
            ("END WORK;", Control::Commit),
            ("ROLLBACK TRANSACTION", Control::Rollback),
            ("abort\n", Control::Rollback),
        ] {
            assert_eq!(Control::of(text.as_bytes()), Some(control), "{text}");
        }
    }

    #[test]
    fn what_does_more_or_may_fail_is_another_text() {
        for text in [
            "",
            ";",
            "START",
            "BEGIN; SELECT 1",
            "BEGIN;;",
            "BEGIN /* x */",
            "BEGIN WORK WORK",
            "BEGIN READ WRITE",
            "BEGIN ISOLATION LEVEL SERIALIZABLE",
            "BEGIN ISOLATION LEVEL",
            "BEGIN ISOLATION LEVEL READ",
            "BEGIN ISOLATION LEVEL REPEATABLE",
            "BEGIN READ",
            "COMMIT AND CHAIN",
            "ROLLBACK TO a",
            "COMMIT PREPARED 'a'",
            "SELECT 1",
            "BEGINS",
        ] {
            assert_eq!(Control::of(text.as_bytes()), None, "{text}");
        }
    }
}

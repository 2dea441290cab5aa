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

/// What a transaction may begin with anywhere.
const MODES: [&[&str]; 5] = [
    &["ISOLATION", "LEVEL", "READ", "COMMITTED"],
    &["ISOLATION", "LEVEL", "READ", "UNCOMMITTED"],
    &["ISOLATION", "LEVEL", "REPEATABLE", "READ"],
    &["READ", "ONLY"],
    &["NOT", "DEFERRABLE"],
];

impl Control {
    /// `None`: it is another text, or one that need not be told apart (a comment, `AND CHAIN`, a second statement).
    #[inline]
    pub fn of(text: &[u8]) -> Option<Self> {
        // Nearly all others begin otherwise.
        match text.first_chunk::<2>()?.map(|byte| byte.to_ascii_lowercase()).as_slice() {
            b"ab" | b"be" | b"co" | b"en" | b"ro" | b"st" if text.len() <= LONGEST => Self::read(text),
            _ => None,
        }
    }

    /// (Manual, "BEGIN", "START TRANSACTION", "COMMIT", "ROLLBACK".)
    fn read(text: &[u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?.trim_end_matches(|c: char| c.is_ascii_whitespace());
        let words: Vec<&str> = text.strip_suffix(';').unwrap_or(text).split_ascii_whitespace().collect();
        let (first, behind) = words.split_first()?;
        let noise = usize::from(behind.first().is_some_and(|word| is(word, "TRANSACTION") || is(word, "WORK")));
        let mut modes = behind.get(noise..)?;
        let control = match *first {
            first if is(first, "COMMIT") || is(first, "END") => Self::Commit,
            first if is(first, "ROLLBACK") || is(first, "ABORT") => Self::Rollback,
            first if is(first, "BEGIN") => Self::Begin,
            first if is(first, "START") && behind.first().is_some_and(|word| is(word, "TRANSACTION")) => Self::Begin,
            _ => return None,
        };
        while control == Self::Begin && !modes.is_empty() {
            let fits = |mode: &&&[&str]| mode.len() <= modes.len() && mode.iter().zip(modes).all(|(a, b)| is(a, b));
            let mode = MODES.iter().find(fits)?;
            modes = modes.get(mode.len()..)?;
        }
        modes.is_empty().then_some(control)
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

//! Whether a text has one of a few words in it: an automaton as one table, which costs a handful of instructions per byte.
//! Every statement goes through it.

use std::collections::HashMap;
use std::sync::LazyLock;

use aho_corasick::Anchored;
use aho_corasick::automaton::Automaton;
use aho_corasick::dfa::{Builder, DFA};

/// What may stand anywhere in a statement that has an effect, and `;`, behind which another may begin.
const SUSPECTS: [&str; 23] = [
    ";",
    "set_config",
    "advisory",
    "currval",
    "lastval",
    "pg_notify",
    "setseed",
    "dblink",
    "temp",
    "pg_settings",
    "_to_xml",
    "ts_stat",
    "ts_rewrite",
    "crosstab",
    "xpath_table",
    "connectby",
    "pg_backup_start",
    "replication_slot",
    "replication_origin",
    "U&",
    "prepared_stat",
    "set_limit",
    "isn_weak",
];

/// Longer than every suspect word.
pub(super) const LONGER: usize = 19;

/// The state in which a word has been found; it is never left. States are numbers below it, the first one is 0.
const FOUND: u8 = u8::MAX;

/// The next state for each state and byte.
static TABLE: LazyLock<Box<[u8; 1 << 16]>> = LazyLock::new(|| {
    let automaton = Builder::new().ascii_case_insensitive(true).build(SUSPECTS);
    table(&automaton.expect("a few short literals always build"))
});

fn table(automaton: &DFA) -> Box<[u8; 1 << 16]> {
    let mut table = Box::new([FOUND; 1 << 16]);
    let start = automaton.start_state(Anchored::No).expect("the automaton is for unanchored searches, as by default");
    let mut numbers = HashMap::from([(start, 0)]);
    let mut open = vec![start];
    while let Some(state) = open.pop() {
        let row = usize::from(numbers[&state]) << 8;
        for byte in 0..=u8::MAX {
            let next = automaton.next_state(Anchored::No, state, byte);
            if automaton.is_match(next) {
                continue;
            }
            let known = u8::try_from(numbers.len()).expect("so few letters make fewer than 255 states");
            let number = *numbers.entry(next).or_insert_with(|| {
                open.push(next);
                known
            });
            table[row | usize::from(byte)] = number;
        }
    }
    assert!(numbers.len() < usize::from(FOUND), "see above");
    table
}

/// Builds the table, before somebody waits for it.
pub fn prepare() {
    LazyLock::force(&TABLE);
}

/// Whether a text has something suspect in it.
#[inline]
pub(super) fn are_in(text: &[u8]) -> bool {
    let table = &**TABLE;
    text.iter().fold(0, |state, byte| table[usize::from(state) << 8 | usize::from(*byte)]) == FOUND
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn each_is_found_anywhere_and_in_any_case() {
        assert!(SUSPECTS.iter().all(|word| word.len() < LONGER));
        for word in SUSPECTS {
            for text in
                [word.to_owned(), word.to_uppercase(), format!("se{word}"), format!("{word}t"), format!("é {word}")]
            {
                assert!(are_in(text.as_bytes()), "{text}");
            }
            let (_, cut) = word.split_at(1);
            assert!(!are_in(cut.as_bytes()), "{cut}");
        }
        assert!(!are_in(b"") && !are_in(b"select abalance from pgbench_accounts where aid = 1"));
    }

    proptest! {
        #[test]
        fn as_a_plain_search_finds_them(text in "[a-z_]{0,40}", at in 0..SUSPECTS.len(), to in 0..40usize) {
            let text = match to < text.len() {
                true => format!("{}{}{}", &text[..to], SUSPECTS[at], &text[to..]),
                false => text,
            };
            let expected = SUSPECTS.iter().any(|word| text.to_lowercase().contains(&word.to_lowercase()));
            prop_assert_eq!(are_in(text.as_bytes()), expected, "{}", text);
        }
    }
}

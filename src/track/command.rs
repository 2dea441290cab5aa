//! The command words at the head of a text (`SELECT`, `CREATE TEMP TABLE`): all that a log may show of a statement. Only
//! keywords of the lists below are taken, so that whatever a client writes, no name and no value of its own is among them.

use std::fmt;

use super::tokens::{Token, Tokens};
use crate::trace::TraceContext;

/// Commands (manual, "SQL Commands").
#[rustfmt::skip]
const FIRST: &[&str] = &[
    "SELECT", "INSERT", "UPDATE", "DELETE", "BEGIN", "COMMIT", "ROLLBACK", "WITH", "SET", "ABORT", "ALTER",
    "ANALYZE", "CALL", "CHECKPOINT", "CLOSE", "CLUSTER", "COMMENT", "COPY", "CREATE", "DEALLOCATE", "DECLARE",
    "DISCARD", "DO", "DROP", "END", "EXECUTE", "EXPLAIN", "FETCH", "GRANT", "IMPORT", "LISTEN", "LOAD",
    "LOCK", "MERGE", "MOVE", "NOTIFY", "PREPARE", "REASSIGN", "REFRESH", "REINDEX", "RELEASE", "RESET",
    "REVOKE", "SAVEPOINT", "SECURITY", "SHOW", "START", "TABLE", "TRUNCATE", "UNLISTEN", "VACUUM", "VALUES",
];

/// Commands that say more with the words behind them.
const LONGER: &[&str] = &["ALTER", "CREATE", "DISCARD", "DROP", "REFRESH", "RESET", "SET"];

/// Those words.
#[rustfmt::skip]
const BEHIND: &[&str] = &[
    "ALL", "AUTHORIZATION", "DATABASE", "EXTENSION", "FUNCTION", "GLOBAL", "INDEX", "LOCAL", "MATERIALIZED",
    "OR", "PLANS", "POLICY", "PROCEDURE", "REPLACE", "ROLE", "SCHEMA", "SEQUENCE", "SEQUENCES", "SESSION",
    "TABLE", "TEMP", "TEMPORARY", "TRANSACTION", "TRIGGER", "TYPE", "UNIQUE", "UNLOGGED", "USER", "VIEW",
];

/// The command words of a text; none, if it begins with none. Where they stand in the lists, counted from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Command([u8; 3]);

impl Command {
    /// Those at the head of a text.
    pub fn of(text: &[u8]) -> Self {
        let mut words = [0; 3];
        let mut tokens = Tokens::new(text);
        let mut list = FIRST;
        for word in &mut words {
            let Some(Token::Word(found)) = tokens.next() else { break };
            let Some(at) = list.iter().position(|known| known.as_bytes().eq_ignore_ascii_case(found)) else { break };
            *word = at as u8 + 1;
            if list == FIRST && !LONGER.contains(&FIRST[at]) {
                break;
            }
            list = BEHIND;
        }
        Self(words)
    }

    fn words(self) -> impl Iterator<Item = &'static str> {
        let lists = [FIRST, BEHIND, BEHIND];
        self.0.into_iter().zip(lists).map_while(|(at, list)| list.get(usize::from(at).checked_sub(1)?).copied())
    }

    /// The first word.
    pub fn first(self) -> Option<&'static str> {
        self.words().next()
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, word) in self.words().enumerate() {
            write!(f, "{}{word}", if at > 0 { " " } else { "" })?;
        }
        Ok(())
    }
}

/// What a statement says of itself, for those who watch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Said {
    /// Its command words.
    pub command: Command,
    /// The trace that it belongs to.
    pub trace: Option<TraceContext>,
}

impl Said {
    /// What this text does.
    pub fn of(text: &[u8]) -> Self {
        Self { command: Command::of(text), trace: TraceContext::of_statement(text) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keywords_are_shown() {
        for (text, expected) in [
            ("select 'sesame'", "SELECT"),
            ("  /* sesame */ Insert into sesame values (1)", "INSERT"),
            ("create temp table sesame (x int)", "CREATE TEMP TABLE"),
            ("CREATE OR REPLACE FUNCTION sesame()", "CREATE OR REPLACE"),
            ("create user sesame password 'sesame'", "CREATE USER"),
            ("set session authorization sesame", "SET SESSION AUTHORIZATION"),
            ("set timezone to 'sesame'", "SET"),
            ("table sesame", "TABLE"),
            ("table table", "TABLE"),
            ("values (1)", "VALUES"),
            ("discard all", "DISCARD ALL"),
            ("-- select\nbegin", "BEGIN"),
            ("sesame", ""),
            ("'sesame'", ""),
            ("\"select\"", ""),
            ("(select 1)", ""),
            ("sesame select", ""),
            ("selects", ""),
            ("", ""),
        ] {
            assert_eq!(Command::of(text.as_bytes()).to_string(), expected, "{text}");
        }
    }
}

//! What a statement's text says about session state: the effects that pin a client to its backend or that make the
//! backend's parameters unknown. Errs towards pinning. What a function, view or trigger does cannot be seen here.

use std::sync::LazyLock;

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};

use super::tokens::{Token, Tokens};

/// Of a longer text the start is examined, and its rest as it comes (see [`Rest`]).
pub const EXAMINED: usize = 64 * 1024;

/// A set of effects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Effects(u32);

/// Why a client keeps its backend beyond its transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PinReason {
    /// `set_config` with a name that is not in the text.
    Set,
    /// `SET ROLE`, `SET SESSION AUTHORIZATION`.
    Role,
    /// `LISTEN`.
    Listen,
    /// SQL `PREPARE`.
    Prepare,
    /// A temporary table, view, sequence …
    Temporary,
    /// `DECLARE … WITH HOLD`.
    Cursor,
    /// A session advisory lock.
    AdvisoryLock,
    /// `currval`, `lastval`.
    Sequence,
    /// `setseed`.
    Seed,
    /// `LOAD`.
    Load,
    /// A Parse or statement too large to remember.
    Large,
    /// `standard_conforming_strings = off`: texts cannot be examined.
    Strings,
    /// `DO` with dynamic SQL, dblink: what they leave in the session cannot be told.
    Hidden,
}

impl PinReason {
    /// Every reason, in the order of its bit in [`Effects`].
    pub const ALL: [PinReason; 13] = [
        PinReason::Set,
        PinReason::Role,
        PinReason::Listen,
        PinReason::Prepare,
        PinReason::Temporary,
        PinReason::Cursor,
        PinReason::AdvisoryLock,
        PinReason::Sequence,
        PinReason::Seed,
        PinReason::Load,
        PinReason::Large,
        PinReason::Strings,
        PinReason::Hidden,
    ];

    /// The metric label.
    pub fn as_str(self) -> &'static str {
        match self {
            PinReason::Set => "set",
            PinReason::Role => "role",
            PinReason::Listen => "listen",
            PinReason::Prepare => "prepare",
            PinReason::Temporary => "temporary",
            PinReason::Cursor => "cursor",
            PinReason::AdvisoryLock => "advisory_lock",
            PinReason::Sequence => "sequence",
            PinReason::Seed => "seed",
            PinReason::Load => "load",
            PinReason::Large => "large",
            PinReason::Strings => "strings",
            PinReason::Hidden => "hidden",
        }
    }

    /// Its bit.
    pub const fn effect(self) -> Effects {
        Effects(1 << self as u32)
    }
}

impl Effects {
    /// None.
    pub const NONE: Effects = Effects(0);
    /// Parameters of the backend may differ from what we know: `SET`, `RESET`, `DISCARD`.
    pub const PARAMETERS: Effects = Effects(1 << 13);
    /// May leave state that nobody sees (a text too long to be examined): cleaned before another client gets the backend.
    pub const UNSEEN: Effects = Effects(1 << 14);
    /// A `DEALLOCATE` whose name must be translated.
    pub const DEALLOCATE: Effects = Effects(1 << 15);

    /// Parameters may differ until the transaction ends: `SET LOCAL`, `set_config(…, true)`.
    pub const LOCAL: Effects = Effects(1 << 16);
    /// Ends state, so that nothing may be sent behind it before it is answered: `RESET`, `DISCARD`, `DEALLOCATE`,
    /// `CLOSE ALL`.
    pub const CLEARS: Effects = Effects(1 << 17);
    /// May end what pins: `DROP`, `UNLISTEN`, `pg_advisory_unlock` …
    pub const ENDS: Effects = Effects(1 << 18);
    /// Runs code that is not in the text: `DO`, `CALL`, the protocol's function call. The backend knows what came of it.
    pub const CODE: Effects = Effects(1 << 19);
    /// Does something besides setting and resetting, so that what it comes to is no function of its text.
    pub const OTHER: Effects = Effects(1 << 20);
    /// Parameters go back to what they were at login: `RESET`, `DISCARD ALL`.
    pub const RESETS: Effects = Effects(1 << 21);

    /// Mentions something of the database that may change session state: see [`super::Certificate`].
    pub const SUSPECT: Effects = Effects(1 << 22);

    /// What a function may not do without being noticed.
    pub const HIDES: Effects = Effects(
        (Self::PINS.0 & !PinReason::Sequence.effect().0)
            | Self::PARAMETERS.0
            | Self::UNSEEN.0
            | Self::DEALLOCATE.0
            | Self::CLEARS.0
            | Self::CODE.0,
    );

    /// The pins whose end the backend can tell.
    pub const ASKABLE: Effects = Effects(
        PinReason::Role.effect().0
            | PinReason::Listen.effect().0
            | PinReason::Prepare.effect().0
            | PinReason::Temporary.effect().0
            | PinReason::Cursor.effect().0
            | PinReason::AdvisoryLock.effect().0,
    );

    /// What may be left in a backend.
    pub const RESIDUE: Effects = Effects(Self::PINS.0 | Self::PARAMETERS.0 | Self::UNSEEN.0 | Self::LASTS.0);

    const PINS: Effects = Effects((1 << 13) - 1);

    /// Leaves what no reset undoes: connections of dblink, a backup in progress, temporary replication slots.
    pub const LASTS: Effects = Effects(1 << 23);

    /// What cleaning cannot undo: the backend must be discarded.
    pub const INDELIBLE: Effects = Effects(PinReason::Seed.effect().0 | PinReason::Load.effect().0 | Self::LASTS.0);

    /// Whether any of `other` is among these.
    pub fn any(self, other: Effects) -> bool {
        self.0 & other.0 != 0
    }

    /// Whether there is any that pins.
    #[inline]
    pub fn pins(self) -> bool {
        self.any(Self::PINS)
    }

    /// The reasons to pin among these.
    pub fn reasons(self) -> impl Iterator<Item = PinReason> {
        PinReason::ALL.into_iter().filter(move |reason| self.any(reason.effect()))
    }

    /// Adds others.
    #[inline]
    pub fn add(&mut self, other: Effects) {
        self.0 |= other.0;
    }

    /// Takes all but others away.
    pub fn keep(&mut self, others: Effects) {
        self.0 &= others.0;
    }

    /// Those that are also among `others`.
    #[must_use]
    pub fn only(self, others: Effects) -> Effects {
        Effects(self.0 & others.0)
    }

    /// Takes others away.
    pub fn remove(&mut self, other: Effects) {
        self.0 &= !other.0;
    }

    /// The effects that a text (one statement or several) can have. The common statement costs one scan for a few
    /// byte patterns; only a text that has one of them is tokenized.
    pub fn of(text: &[u8]) -> Effects {
        let mut effects = Effects::NONE;
        if !is_harmless(text) {
            Statements::new(text).each(|found| effects.add(found));
        }
        // Within the code that it runs nothing else is looked for.
        if effects.any(Effects::CODE) && (contains(text, b"currval") || contains(text, b"lastval")) {
            effects.add(PinReason::Sequence.effect());
        }
        effects
    }

    /// The effects of a function's body, whose statements also begin behind words of PL/pgSQL.
    pub fn of_body(text: &[u8]) -> Effects {
        let mut effects = Effects::NONE;
        Statements { is_body: true, ..Statements::new(text) }.each(|found| effects.add(found));
        effects
    }

    /// The effects of a text of which only the start is there, and what its rest must be looked through with. Without
    /// its rest a text that has anything suspect cannot be understood, and counts as [`PinReason::Large`].
    pub fn of_start(start: &[u8]) -> (Effects, Option<Rest>) {
        if is_harmless(start) {
            let mut rest = Rest::default();
            rest.keep(start);
            return (Effects::NONE, Some(rest));
        }
        let mut effects = LARGE;
        Statements::new(start).each(|found| effects.add(found));
        (effects, None)
    }
}

impl std::ops::BitOr for Effects {
    type Output = Effects;

    fn bitor(self, other: Effects) -> Effects {
        Effects(self.0 | other.0)
    }
}

/// What may stand anywhere in a statement that has an effect, and `;`, behind which another may begin.
static SUSPECTS: LazyLock<AhoCorasick> = LazyLock::new(|| {
    AhoCorasickBuilder::new()
        .ascii_case_insensitive(true)
        .build([
            ";",
            "set_config",
            "advisory",
            "currval",
            "lastval",
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
            "U&",
        ])
        .expect("a few short literals always build")
});

/// Whether a text has one statement, of a kind that has no effect, and nothing in it that could.
fn is_harmless(text: &[u8]) -> bool {
    let one = without_end(text);
    begins_with_dml(one) && !SUSPECTS.is_match(one)
}

/// Without the semicolon that may end it.
fn without_end(text: &[u8]) -> &[u8] {
    let trimmed = text.trim_ascii_end();
    trimmed.strip_suffix(b";").unwrap_or(trimmed)
}

/// The rest of a long text, in pieces; whether anything in it is suspect.
#[derive(Debug, Default)]
pub struct Rest {
    /// The end of what has been seen: a suspect word may be cut in two.
    last: Vec<u8>,
}

impl Rest {
    /// Longer than every suspect word.
    const OVERLAP: usize = 16;

    fn keep(&mut self, piece: &[u8]) {
        self.last.extend_from_slice(piece.get(piece.len().saturating_sub(Self::OVERLAP)..).unwrap_or_default());
        self.last.drain(..self.last.len().saturating_sub(Self::OVERLAP));
    }

    /// The effects of the next piece; `is_last`: of the text, NUL included.
    pub fn effects(&mut self, piece: &[u8], is_last: bool) -> Effects {
        let piece = match is_last {
            true => without_end(piece.strip_suffix(b"\0").unwrap_or(piece)),
            false => piece,
        };
        let overlap = piece.get(..Self::OVERLAP.min(piece.len())).unwrap_or_default();
        let suspect = SUSPECTS.is_match(piece) || SUSPECTS.is_match(&[&self.last, overlap].concat());
        self.keep(piece);
        if suspect { LARGE } else { Effects::NONE }
    }
}

const LARGE: Effects = Effects(PinReason::Large.effect().0 | Effects::UNSEEN.0);

/// Whether the first word is one whose own meaning has no effect. Only an exact match at the very start counts; the
/// rest is left to the tokenizer.
fn begins_with_dml(text: &[u8]) -> bool {
    let first = text.split(|byte| !byte.is_ascii_alphabetic()).next().unwrap_or_default();
    ["select", "insert", "update", "delete", "begin", "commit", "rollback", "with", "copy", "merge", "end", "savepoint"]
        .iter()
        .any(|word| first.eq_ignore_ascii_case(word.as_bytes()))
}

/// Walks the statements of a text.
struct Statements<'a> {
    tokens: Tokens<'a>,
    is_body: bool,
}

impl<'a> Statements<'a> {
    const LASTING: Effects =
        Effects(PinReason::Temporary.effect().0 | PinReason::Role.effect().0 | PinReason::Seed.effect().0);

    fn new(text: &'a [u8]) -> Self {
        Self { tokens: Tokens::new(text), is_body: false }
    }

    fn each(mut self, mut found: impl FnMut(Effects)) {
        // The first words of the current statement decide what it is.
        let mut head: Head<'a> = Head::default();
        let mut names_temp = false;
        let mut count = 0;
        let mut previous = Token::Other;
        let mut hold = false;
        loop {
            let token = self.tokens.next();
            match token {
                None | Some(Token::Punct(b';')) => {
                    found(leading(&head, count, hold, previous) | temporary_path(&head, names_temp));
                    (head, count, hold, names_temp) = (Head::default(), 0, false, false);
                    if token.is_none() {
                        return;
                    }
                }
                Some(token) if self.is_body && ["begin", "then", "else", "loop"].iter().any(|word| token.is(word)) => {
                    found(leading(&head, count, hold, previous));
                    (head, count, hold) = (Head::default(), 0, false);
                }
                Some(token) if self.is_body && token.is("execute") => found(DYNAMIC),
                Some(token) if count == 0 && token.is("explain") => {
                    // EXPLAIN ANALYZE does what it explains; what it is comes next.
                    self.skip_options();
                    previous = token;
                }
                Some(token) => {
                    if let Some(slot) = head.get_mut(count) {
                        *slot = Some(token);
                    }
                    count += 1;
                    hold |= token.is("hold") && previous.is("with");
                    names_temp |= matches!(token, Token::String(text) if contains(text, b"pg_temp"));
                    found(match () {
                        () if token.is("set_config") => self.set_config(),
                        () if token.is("standard_conforming_strings") => self.strings(),
                        // A rule on that view calls set_config.
                        () if token.is("pg_settings") && (self.is_body || contains(self.tokens.text(), b"update")) => {
                            SET | PinReason::Set.effect() | Effects::OTHER
                        }
                        () => anywhere(&token, &previous),
                    });
                    previous = token;
                }
            }
        }
    }

    /// Moves behind the options of an EXPLAIN; a statement in parentheses is none.
    fn skip_options(&mut self) {
        let mut ahead = self.tokens.clone();
        match ahead.next() {
            Some(Token::Punct(b'(')) => {}
            Some(token) if token.is("analyze") || token.is("analyse") || token.is("verbose") => {
                self.tokens = ahead;
                return self.skip_options();
            }
            _ => return,
        }
        let is_statement = |token: Token<'_>| {
            token == Token::Punct(b'(') || ["select", "with", "values", "table"].iter().any(|word| token.is(word))
        };
        if ahead.next().is_none_or(is_statement) {
            return;
        }
        if ahead.any(|token| token == Token::Punct(b')')) {
            self.tokens = ahead;
        }
    }

    /// `SET standard_conforming_strings` to anything but `on`.
    fn strings(&self) -> Effects {
        let mut ahead = self.tokens.clone();
        let assigned = ahead.next().is_some_and(|token| token == Token::Punct(b'=') || token.is("to"));
        let on = match ahead.next() {
            Some(Token::String(value)) => value == b"on",
            Some(token) => token.is("on") || token.is("true"),
            None => false,
        };
        if !assigned || on { Effects::NONE } else { PinReason::Strings.effect() | Effects::UNSEEN }
    }

    /// `set_config(name, value, true)` ends with the transaction; anything else in third place does not, or may not.
    fn set_config(&self) -> Effects {
        let mut ahead = self.tokens.clone();
        let name = match (ahead.next(), ahead.next(), ahead.next()) {
            (Some(Token::Punct(b'(')), Some(Token::String(name)), Some(Token::Punct(b','))) => Some(name),
            _ => None,
        };
        let mut set = parameter(name) | Effects::OTHER;
        let mut depth = 0usize;
        let mut last = [Token::Other; 2];
        for token in self.tokens.clone().take(LONGEST_CALL) {
            match token {
                Token::Punct(b';') => break,
                Token::String(value) if contains(value, b"pg_temp") => set.add(PinReason::Temporary.effect()),
                Token::Punct(b'(') => depth += 1,
                Token::Punct(b')') if depth <= 1 => {
                    let local = depth == 1 && last[0] == Token::Punct(b',') && last[1].is("true");
                    // What is left of it until the transaction ends, a role or a temporary schema, is asked for.
                    let lasting = set.only(Self::LASTING);
                    return if local { Effects::LOCAL | lasting } else { set };
                }
                Token::Punct(b')') => depth -= 1,
                _ => {}
            }
            last = [last[1], token];
        }
        set
    }
}

/// Tokens of a call that are looked at.
const LONGEST_CALL: usize = 200;

/// The first tokens of a statement: as many as a parameter's name may take.
type Head<'a> = [Option<Token<'a>>; 10];

const SET: Effects = Effects::PARAMETERS;
const RESET: Effects = Effects(Effects::PARAMETERS.0 | Effects::RESETS.0 | Effects::ENDS.0 | Effects::CLEARS.0);
const ROLE: Effects = Effects(PinReason::Role.effect().0 | Effects::PARAMETERS.0 | Effects::ENDS.0 | Effects::OTHER.0);
const CODE: Effects = Effects(Effects::CODE.0 | Effects::UNSEEN.0 | Effects::OTHER.0);
const DYNAMIC: Effects = Effects(PinReason::Hidden.effect().0 | CODE.0);

/// The effects of setting the parameter with this name; `None`: it is not in the text as it is.
fn parameter(name: Option<&[u8]>) -> Effects {
    let unknown = SET | PinReason::Set.effect();
    let Some(name) = name else { return unknown };
    let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
    // These three are in no view (`GUC_NO_SHOW_ALL` of `src/backend/utils/misc/guc_tables.c`).
    if is("role") || is("session_authorization") {
        ROLE
    } else if is("seed") {
        PinReason::Seed.effect()
    } else if name.split(|byte| *byte == b'.').all(super::names::is_identifier) {
        SET
    } else {
        unknown
    }
}

/// The name that a SET sets, if it stands there in one piece and unquoted. `None` for the forms that have a name of their
/// own (`TIME ZONE`, `NAMES`).
fn set_name<'a>(head: &Head<'a>, from: usize) -> Option<Option<Vec<u8>>> {
    let mut name: Vec<u8> = Vec::new();
    let mut end = None;
    for token in head.iter().skip(from) {
        match token {
            Some(Token::Punct(b'=')) => return Some(Some(name)),
            Some(token) if end.is_some() && token.is("to") => return Some(Some(name)),
            Some(Token::Word(word)) => {
                let at = word.as_ptr() as usize;
                if end.is_some_and(|end| end + 1 != at) {
                    // Two words: a form of its own, or white space around the dot.
                    return if name.ends_with(b".") { Some(None) } else { None };
                }
                name.extend_from_slice(word);
                end = Some(at + word.len());
            }
            Some(Token::Punct(b'.')) => name.push(b'.'),
            Some(Token::Quoted(_)) => return Some(None),
            _ => return if name.contains(&b'.') { Some(None) } else { None },
        }
    }
    Some(None)
}

/// A search path with temporary objects first, for the session or a transaction.
fn temporary_path(head: &Head<'_>, names_temp: bool) -> Effects {
    match head[0] {
        Some(first) if names_temp && first.is("set") => PinReason::Temporary.effect(),
        _ => Effects::NONE,
    }
}

/// Whether a text has a word in it, in any case.
pub fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

/// The effect that a statement's first words announce; it has `count` tokens, of which `last` is the last.
fn leading(head: &Head<'_>, count: usize, hold: bool, last: Token<'_>) -> Effects {
    let word = |at: usize, name: &str| head.get(at).copied().flatten().is_some_and(|token| token.is(name));
    let Some(first) = head[0] else { return Effects::NONE };
    if first.is("set") {
        // local.x, transaction.x: a parameter's name.
        let is_qualified = head[2] == Some(Token::Punct(b'.'));
        let named = if word(1, "session") && !is_qualified { set_name(head, 2) } else { set_name(head, 1) };
        match () {
            () if is_qualified => parameter(named.flatten().as_deref()),
            () if word(1, "transaction") || word(1, "constraints") => Effects::OTHER,
            () if word(1, "local") => Effects::LOCAL | Effects::OTHER,
            () if word(1, "role") || word(2, "role") || word(2, "authorization") => ROLE,
            () if last.is("default") || word(1, "time") && last.is("local") => RESET,
            () => named.map_or(SET, |name| parameter(name.as_deref())),
        }
    } else if first.is("reset") || first.is("discard") {
        RESET
    } else if first.is("close") && word(1, "all") {
        Effects::CLEARS | Effects::ENDS
    } else if first.is("unlisten") {
        Effects::ENDS
    } else if first.is("deallocate") {
        Effects::DEALLOCATE | Effects::CLEARS | Effects::ENDS
    } else if first.is("select") && word(1, "pg_advisory_unlock_all") && count == 4 {
        Effects::ENDS
    } else {
        Effects::OTHER | leading_other(first, word, hold, head)
    }
}

/// The same for a statement that does more than set or end something.
fn leading_other(first: Token<'_>, word: impl Fn(usize, &str) -> bool, hold: bool, head: &Head<'_>) -> Effects {
    let has = |name: &str| head.iter().take(4).flatten().any(|token| token.is(name));
    if first.is("listen") {
        PinReason::Listen.effect()
    } else if first.is("prepare") && !word(1, "transaction") {
        PinReason::Prepare.effect()
    } else if first.is("load") {
        PinReason::Load.effect()
    } else if first.is("declare") && hold {
        PinReason::Cursor.effect()
    } else if first.is("do") || first.is("call") {
        CODE
    } else if first.is("create") && (has("temp") || has("temporary")) {
        PinReason::Temporary.effect()
    } else if first.is("drop") || first.is("close") {
        Effects::ENDS
    } else {
        Effects::NONE
    }
}

/// The effect of a word wherever it stands.
fn anywhere(token: &Token<'_>, previous: &Token<'_>) -> Effects {
    let word = match token {
        Token::Word(word) | Token::Quoted(word) => word,
        // It may spell any name.
        Token::Unicode => return DYNAMIC,
        _ => return Effects::NONE,
    };
    let is = |name: &str| word.eq_ignore_ascii_case(name.as_bytes());
    match word.len() {
        4 | 9
            if (is("temp") || is("temporary"))
                && (previous.is("into") || previous.is("local") || previous.is("global")) =>
        {
            PinReason::Temporary.effect()
        }
        7 if is("pg_temp") => PinReason::Temporary.effect(),
        7 if is("currval") || is("lastval") => PinReason::Sequence.effect(),
        7 if is("setseed") => PinReason::Seed.effect(),
        _ if is("pg_advisory_lock")
            || is("pg_advisory_lock_shared")
            || is("pg_try_advisory_lock")
            || is("pg_try_advisory_lock_shared") =>
        {
            PinReason::AdvisoryLock.effect()
        }
        _ if word.len() >= 18 && word[..18].eq_ignore_ascii_case(b"pg_advisory_unlock") => Effects::ENDS,
        _ if word.len() >= 6 && word[..6].eq_ignore_ascii_case(b"dblink") => DYNAMIC | Effects::LASTS,
        _ if is("pg_backup_start") || is("pg_create_physical_replication_slot") => DYNAMIC | Effects::LASTS,
        _ if is("pg_create_logical_replication_slot") || is("pg_copy_logical_replication_slot") => {
            DYNAMIC | Effects::LASTS
        }
        _ if word.len() >= 8 && word[..8].eq_ignore_ascii_case(b"crosstab") => DYNAMIC,
        // They run a text that is given to them.
        _ if is("query_to_xml")
            || is("query_to_xmlschema")
            || is("query_to_xml_and_xmlschema")
            || is("cursor_to_xml")
            || is("ts_stat")
            || is("ts_rewrite")
            || is("xpath_table")
            || is("connectby") =>
        {
            DYNAMIC
        }
        _ => Effects::NONE,
    }
}

/// The name in a text that is exactly one `DEALLOCATE [PREPARE] name`, as the range of its bytes and the name as
/// PostgreSQL folds it; `None` for `ALL` and anything else.
pub fn deallocated(text: &[u8]) -> Option<(std::ops::Range<usize>, Vec<u8>)> {
    let mut tokens = Tokens::new(text);
    if !tokens.next()?.is("deallocate") {
        return None;
    }
    let mut name = tokens.next()?;
    if name.is("prepare") {
        name = tokens.next()?;
    }
    let end = tokens.offset();
    let name = match name {
        Token::Word(word) if word.eq_ignore_ascii_case(b"all") => return None,
        Token::Word(word) => (end - word.len()..end, word.to_ascii_lowercase()),
        Token::Quoted(word) => (end - word.len() - 2..end, unquote(word)),
        _ => return None,
    };
    tokens.all(|token| token == Token::Punct(b';')).then_some(name)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn reasons(sql: &str) -> Vec<&'static str> {
        Effects::of(sql.as_bytes()).reasons().map(PinReason::as_str).collect()
    }

    #[test]
    fn ordinary_statements_have_none() {
        for sql in [
            "",
            ";",
            "select 1",
            "BEGIN",
            "update t set x = 1 where y",
            "insert into t values ('SET x')",
            "select temp from sensors",
            "set local x = 1",
            "SET TRANSACTION READ ONLY",
            "set constraints all deferred",
            "select set_config('a.b', $1, true)",
            "begin; set local x = 1; commit",
            "select pg_advisory_xact_lock(1)",
            "select pg_advisory_unlock_all()",
            "prepare transaction 'x'",
            "declare c cursor for select 1",
            "/* set */ select 1 -- listen",
            "select $$ ; set x = 1 $$",
            "declare c cursor without hold for select 1",
            "select nextval('s')",
            "create table t (temp int)",
            "close all",
            "unlisten *",
        ] {
            assert_eq!(reasons(sql), Vec::<&str>::new(), "{sql}");
        }
    }

    #[test]
    fn session_state_pins() {
        for (sql, expected) in [
            ("set \"a b\" = 1", "set"),
            ("set a.\"b\" = 1", "set"),
            ("select set_config($1, 'x', false)", "set"),
            ("select set_config('app.' || $1, 'x', false)", "set"),
            ("select set_config('app.' 'tenant', 'x', false)", "set"),
            ("set app . tenant = 'x'", "set"),
            ("set session app.\"tenant\" = 'x'", "set"),
            ("set a.b.\"c\" = 'x'", "set"),
            ("select set_config('role', 'x', false)", "role"),
            ("select set_config('Session_Authorization', 'x', true)", "role"),
            ("set seed = 0.5", "seed"),
            ("set seed to 0.5", "seed"),
            ("update only pg_catalog.pg_settings set setting = 'x'", "set"),
            ("with a as (select 1) update pg_settings set setting = 'x'", "set"),
            ("set local search_path = 'pg_temp'", "temporary"),
            ("select set_config('search_path', 'pg_temp', true)", "temporary"),
            ("explain analyze (select setseed(0.1))", "seed"),
            ("explain (analyze) (select pg_advisory_lock(1))", "advisory_lock"),
            ("select * from crosstab3('select 1')", "hidden"),
            ("select dblink_connect('c')", "hidden"),
            ("update pg_settings set setting = 'x' where name = 'y'", "set"),
            ("select query_to_xml('select set_config(1,2,false)', true, true, '')", "hidden"),
            ("select U&\"set_confi\\0067\"('a', 'b', false); select 1", "hidden"),
            ("select E'a'\n'\\''; listen c; --'", "listen"),
            ("select E'a' -- b\n '\\''; listen c; --'", "listen"),
            ("set standard_conforming_strings = off", "strings"),
            ("set role x", "role"),
            ("set session role x", "role"),
            ("set session authorization x", "role"),
            ("listen c", "listen"),
            ("prepare p as select 1", "prepare"),
            ("create temp table t (x int)", "temporary"),
            ("create local temporary table t (x int)", "temporary"),
            ("select 1 as x into temp t", "temporary"),
            ("create table pg_temp.t (x int)", "temporary"),
            ("create or replace temp view v as select 1", "temporary"),
            ("declare c cursor with hold for select 1", "cursor"),
            ("select pg_try_advisory_lock(1)", "advisory_lock"),
            ("select currval('s')", "sequence"),
            ("select setseed(0.5)", "seed"),
            ("load 'x'", "load"),
            ("select 1; listen c", "listen"),
            ("explain analyze create temp table t as select 1", "temporary"),
            ("explain (analyze, costs off) create temp table t as select 1", "temporary"),
        ] {
            assert_eq!(reasons(sql), vec![expected], "{sql}");
        }
    }

    #[test]
    fn setting_is_asked_for() {
        for sql in [
            "set x = 1",
            "/* c */ SET x TO 1",
            "begin; set x = 1; commit",
            "set session characteristics as transaction read only",
            "SET TIME ZONE 'UTC'",
            "SET standard_conforming_strings = on",
            "SET search_path = \"a b\", c",
            "set session search_path to \"a\"",
            "select set_config('a.b', 'c', false)",
            "select pg_catalog.set_config('a', 'b', (true and false))",
            "select \"set_config\"('a','b',false)",
            "set local.x = 1",
            "set transaction.x = 1",
            "select set_config('a', set_config('b', '1', false), true)",
            "select set_config('a', 'b', not true)",
        ] {
            assert!(Effects::of(sql.as_bytes()).any(Effects::PARAMETERS), "{sql}");
            assert_eq!(reasons(sql), Vec::<&str>::new(), "{sql}");
        }
        // What a text comes to is a function of it only if it does nothing else.
        for (sql, pure) in [
            ("set x = 1; set y = 2", true),
            ("SELECT pg_advisory_unlock_all();\nCLOSE ALL;\nUNLISTEN *;\nRESET ALL;", true),
            ("discard all", true),
            ("set x = 1; select f()", false),
            ("select pg_advisory_unlock_all(), f(); reset all", false),
            ("begin; set x = 1; commit", false),
            ("set x = 1; set role y", false),
        ] {
            assert_eq!(!Effects::of(sql.as_bytes()).any(Effects::OTHER), pure, "{sql}");
        }
    }

    #[test]
    fn other_effects() {
        assert!(Effects::of(b"reset all").any(Effects::PARAMETERS));
        assert!(Effects::of(b"DO $$ begin end $$").any(Effects::CODE));
        assert!(Effects::of(b"call p()").any(Effects::CODE));
        assert!(Effects::of(b"discard all").any(Effects::CLEARS));
    }

    #[test]
    fn a_long_text_is_looked_through_in_pieces() {
        let in_pieces = |text: &str, size: usize| {
            let (start, rest) = text.as_bytes().split_at(size);
            let (mut effects, mut looks) = Effects::of_start(start);
            let pieces = rest.chunks(size);
            let count = pieces.len();
            for (at, piece) in pieces.enumerate() {
                if let Some(looks) = &mut looks {
                    effects.add(looks.effects(piece, at + 1 == count));
                }
            }
            effects.any(PinReason::Large.effect())
        };
        for size in [20, 21, 25, 33, 50] {
            assert!(!in_pieces("insert into t values ('aaaaaaaaaaaaaaaaaaa'), ('bbbbbbbbbbb');\0", size), "{size}");
            assert!(in_pieces("insert into t select 'aaaaaaaaa', set_config('x', 'y', false)\0", size), "{size}");
            assert!(in_pieces("insert into t values ('aaaaaaaaaaaaa'); set search_path = x\0", size), "{size}");
            assert!(in_pieces("set search_path = aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa, bbbbbb\0", size), "{size}");
        }
    }

    #[test]
    fn finds_what_is_deallocated() {
        let name = |sql: &str| {
            deallocated(sql.as_bytes()).map(|(range, name)| (sql[range].to_owned(), String::from_utf8(name).unwrap()))
        };
        assert_eq!(name("DEALLOCATE Foo"), Some(("Foo".into(), "foo".into())));
        assert_eq!(name("deallocate prepare \"a\"\"B\";"), Some(("\"a\"\"B\"".into(), "a\"B".into())));
        assert_eq!(name("DEALLOCATE ALL"), None);
        assert_eq!(name("deallocate a; select 1"), None);
        assert_eq!(name("select 1"), None);
    }
}

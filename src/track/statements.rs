//! Walks the statements of a text, token by token, and tells the effects that each can have.

use super::effects::{Effects, PinReason, contains};
use super::tokens::{Token, Tokens};

/// Walks the statements of a text.
pub(super) struct Statements<'a> {
    tokens: Tokens<'a>,
    is_body: bool,
    /// Whether the word "update" is anywhere, once that was asked.
    updates: Option<bool>,
    /// Calls of `set_config` so far.
    calls: usize,
}

impl<'a> Statements<'a> {
    const LASTING: Effects =
        PinReason::Temporary.effect().with(PinReason::Role.effect()).with(PinReason::Seed.effect());

    pub(super) fn new(text: &'a [u8]) -> Self {
        Self { tokens: Tokens::new(text), is_body: false, updates: None, calls: 0 }
    }

    /// Of a function's body: statements also begin behind words of PL/pgSQL.
    pub(super) fn of_body(text: &'a [u8]) -> Self {
        Self { tokens: Tokens::new(text), is_body: true, updates: None, calls: 0 }
    }

    /// Calls `found` with the effects of each, and of single words.
    pub(super) fn each(mut self, mut found: impl FnMut(Effects)) {
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
                    if !self.skip_options() {
                        found(DYNAMIC);
                    }
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
                        () if token.is("pg_settings") && (self.is_body || self.updates()) => {
                            SET | PinReason::Set.effect() | Effects::OTHER
                        }
                        () => anywhere(&token, &previous),
                    });
                    previous = token;
                }
            }
        }
    }

    fn updates(&mut self) -> bool {
        let text = self.tokens.text();
        *self.updates.get_or_insert_with(|| contains(text, b"update"))
    }

    /// Moves behind the options of an EXPLAIN; a statement in parentheses is none. `false`: they have no end in sight.
    fn skip_options(&mut self) -> bool {
        let mut ahead = self.tokens.clone();
        loop {
            match ahead.next() {
                Some(Token::Punct(b'(')) => break,
                Some(token) if token.is("analyze") || token.is("analyse") || token.is("verbose") => {
                    self.tokens = ahead.clone();
                }
                _ => return true,
            }
        }
        let is_statement = |token: Token<'_>| {
            token == Token::Punct(b'(') || ["select", "with", "values", "table"].iter().any(|word| token.is(word))
        };
        if ahead.next().is_none_or(is_statement) {
            return true;
        }
        // A text may have many of them.
        for _ in 0..LONGEST_CALL {
            match ahead.next() {
                Some(Token::Punct(b')')) => {
                    self.tokens = ahead;
                    return true;
                }
                None | Some(Token::Punct(b';')) => return true,
                Some(_) => {}
            }
        }
        false
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
    fn set_config(&mut self) -> Effects {
        self.calls += 1;
        if self.calls > MOST_CALLS {
            return parameter(None) | PinReason::Temporary.effect() | Effects::OTHER;
        }
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
                // Several calls may look at the same one.
                Token::String(value) if value.len() > LONGEST_VALUE || contains(value, b"pg_temp") => {
                    set.add(PinReason::Temporary.effect());
                }
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

/// Calls of one text that are looked at; what more of them do is unknown.
const MOST_CALLS: usize = 100;

/// Tokens of a call, or of the options of an EXPLAIN, that are looked at.
const LONGEST_CALL: usize = 200;

/// A longer value in a call is not looked through.
const LONGEST_VALUE: usize = 4096;

/// The first tokens of a statement: as many as a parameter's name may take.
type Head<'a> = [Option<Token<'a>>; 10];

const SET: Effects = Effects::PARAMETERS;
const RESET: Effects = Effects::PARAMETERS.with(Effects::RESETS).with(Effects::ENDS).with(Effects::CLEARS);
const ROLE: Effects = PinReason::Role.effect().with(Effects::PARAMETERS).with(Effects::ENDS).with(Effects::OTHER);
const CODE: Effects = Effects::CODE.with(Effects::UNSEEN).with(Effects::OTHER);
/// Nothing is sent behind it before it is answered: what a name means hangs on it.
const NAMES: Effects = Effects::NAMES.with(Effects::CLEARS);
const DYNAMIC: Effects = PinReason::Hidden.effect().with(CODE);

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
        Effects::UNLISTENS | Effects::CLEARS | Effects::ENDS
    } else if first.is("deallocate") {
        NAMES | Effects::ENDS
    } else if first.is("select") && word(1, "pg_advisory_unlock_all") && count == 4 {
        Effects::ENDS
    } else {
        Effects::OTHER | leading_other(first, hold, head)
    }
}

/// The same for a statement that does more than set or end something.
fn leading_other(first: Token<'_>, hold: bool, head: &Head<'_>) -> Effects {
    let has = |name: &str| head.iter().take(4).flatten().any(|token| token.is(name));
    if first.is("listen") {
        PinReason::Listen.effect()
    } else if first.is("notify") {
        Effects::NOTIFIES
    } else if first.is("prepare") || first.is("execute") {
        NAMES
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
        // CREATE TABLE … AS EXECUTE
        7 if is("execute") && previous.is("as") => NAMES,
        _ if is("pg_prepared_statements") || is("pg_prepared_statement") => Effects::LISTS | Effects::CLEARS,
        7 if is("currval") || is("lastval") => PinReason::Sequence.effect(),
        9 if is("pg_notify") => Effects::NOTIFIES,
        // Of pg_trgm, which sets a parameter, and of isn, which sets what no reset reaches.
        9 if is("set_limit") => SET | Effects::OTHER,
        8 if is("isn_weak") => DYNAMIC | Effects::LASTS,
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
        _ if word.len() >= 21 && word[..21].eq_ignore_ascii_case(b"pg_replication_origin") => DYNAMIC | Effects::LASTS,
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

//! What a statement's text says about session state: the effects that pin a client to its backend or that make the
//! backend's parameters unknown. Errs towards pinning. What a function, view or trigger does cannot be seen here.

use super::statements::Statements;
use super::suspects;

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
    /// SQL `PREPARE` of a name that could not be translated.
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
    /// `PREPARE`, `EXECUTE`, `DEALLOCATE`: has names of prepared statements, to be translated (see [`super::sql_names`]).
    pub const NAMES: Effects = Effects(1 << 15);

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

    /// May send a notification when the transaction commits: `NOTIFY`, `pg_notify`.
    pub const NOTIFIES: Effects = Effects(1 << 28);
    /// An `UNLISTEN`.
    pub const UNLISTENS: Effects = Effects(1 << 29);

    /// What a function may not do without being noticed.
    pub const HIDES: Effects = Effects(
        (Self::PINS.0 & !PinReason::Sequence.effect().0)
            | Self::PARAMETERS.0
            | Self::UNSEEN.0
            | Self::NAMES.0
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

    /// Those that pin.
    pub const PINS: Effects = Effects((1 << 13) - 1);

    /// Leaves what no reset undoes: connections of dblink, a backup in progress, temporary replication slots.
    pub const LASTS: Effects = Effects(1 << 23);

    /// Asks which prepared statements there are: `pg_prepared_statements`.
    pub const LISTS: Effects = Effects(1 << 24);

    /// Is about prepared statements: names some, or asks which there are.
    pub const STATEMENTS: Effects = Effects(Self::NAMES.0 | Self::LISTS.0);

    /// What cleaning cannot undo: the backend must be discarded.
    pub const INDELIBLE: Effects = Effects(PinReason::Seed.effect().0 | PinReason::Load.effect().0 | Self::LASTS.0);

    /// These and others.
    pub const fn with(self, others: Effects) -> Effects {
        Effects(self.0 | others.0)
    }

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

    /// Those of a text that cannot be understood without what is not there of it.
    pub const LARGE: Effects = Effects(PinReason::Large.effect().0 | Effects::UNSEEN.0 | Effects::NOTIFIES.0);

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
        Statements::of_body(text).each(|found| effects.add(found));
        effects
    }

    /// The effects of a text of which only the start is there, and what its rest must be looked through with. Without
    /// its rest a text that has anything suspect cannot be understood, and counts as [`PinReason::Large`].
    pub fn of_start(start: &[u8]) -> (Effects, Option<Rest>) {
        // A semicolon at its end does not end the text.
        if begins_with_dml(start) && !suspects::are_in(start) {
            let mut rest = Rest::default();
            rest.keep(start);
            return (Effects::NONE, Some(rest));
        }
        let mut effects = Effects::LARGE;
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

/// Whether a text has one statement, of a kind that has no effect, and nothing in it that could.
fn is_harmless(text: &[u8]) -> bool {
    let one = without_end(text);
    begins_with_dml(one) && !suspects::are_in(one)
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
    const OVERLAP: usize = suspects::LONGER;

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
        let cut = [&self.last, overlap].concat();
        let suspect = suspects::are_in(piece) || suspects::are_in(&cut);
        self.keep(piece);
        if !suspect {
            return Effects::NONE;
        }
        let asks = [piece, &cut].iter().any(|text| contains(text, b"currval") || contains(text, b"lastval"));
        Effects::LARGE | if asks { PinReason::Sequence.effect() } else { Effects::NONE }
    }
}

/// Whether the first word is one whose own meaning has no effect. Only an exact match at the very start counts; the
/// rest is left to the tokenizer.
fn begins_with_dml(text: &[u8]) -> bool {
    let length = text.iter().take(LONGEST_DML + 1).take_while(|byte| byte.is_ascii_alphabetic()).count();
    let mut word = [0; LONGEST_DML];
    let Some(first) = word.get_mut(..length) else { return false };
    first.copy_from_slice(&text[..length]);
    first.make_ascii_lowercase();
    matches!(
        &*first,
        b"select"
            | b"insert"
            | b"update"
            | b"delete"
            | b"begin"
            | b"commit"
            | b"rollback"
            | b"with"
            | b"copy"
            | b"merge"
            | b"end"
            | b"savepoint"
    )
}

/// The length of the longest of them.
const LONGEST_DML: usize = 9;

/// Whether a text has a word in it, in any case.
pub fn contains(text: &[u8], word: &[u8]) -> bool {
    text.windows(word.len()).any(|window| window.eq_ignore_ascii_case(word))
}

#[cfg(test)]
#[path = "effects_tests.rs"]
mod tests;

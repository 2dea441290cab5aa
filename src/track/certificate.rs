//! The catalogue certificate: whether anything that lives in a database (functions, views, triggers, defaults, policies
//! …) can change a session's state. If nothing can, a backend needs no cleaning between two clients; otherwise the names
//! whose mention may do so are known, closed over who uses whom.

use std::collections::{BTreeMap, BTreeSet};

use aho_corasick::{AhoCorasick, AhoCorasickBuilder};

use super::effects::{Effects, PinReason};
use super::names;

/// Something of the catalogue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The name that a statement mentions when it uses it (a table for its triggers); `None`: it may act anywhere.
    pub name: Option<String>,
    /// Its source, or the names that it uses.
    pub text: String,
    /// Its language, if it is a function.
    pub language: Option<String>,
    /// A function of an extension that is known to keep nothing in the session.
    pub trusted: bool,
}

/// What the catalogue says.
#[derive(Debug, Default)]
pub struct Certificate {
    /// What may change a session's state.
    hiding: Mentions,
    /// What may change parameters until the transaction ends.
    local: Mentions,
    /// What may send a notification.
    notifying: Mentions,
    /// Custom parameters named in the sources.
    names: Vec<String>,
    /// Somebody asks for `currval` or `lastval`.
    sequences: bool,
    /// A function's language has variables that outlive it, or is not known.
    globals: bool,
}

/// Names in whose mention something is suspected.
#[derive(Debug, Default)]
struct Mentions {
    /// Nothing is known, or something may act anywhere.
    everywhere: bool,
    names: Option<AhoCorasick>,
}

impl Mentions {
    /// None at all.
    fn is_empty(&self) -> bool {
        !self.everywhere && self.names.is_none()
    }

    fn are_in(&self, text: &[u8]) -> bool {
        self.everywhere || self.names.as_ref().is_some_and(|names| names.is_match(text))
    }

    /// Of the objects that are meant, and of all that use one of those.
    fn of(objects: &[Object], meant: &[bool]) -> Self {
        let mut mentions = Self::default();
        let mut names = BTreeSet::new();
        for (object, _) in objects.iter().zip(meant).filter(|(_, meant)| **meant) {
            mentions.note(object, &mut names);
        }
        mentions.close(objects, meant, &mut names);
        mentions.everywhere |= names.len() > MOST_NAMES;
        if !names.is_empty() && !mentions.everywhere {
            mentions.names = AhoCorasickBuilder::new().ascii_case_insensitive(true).build(&names).ok();
            mentions.everywhere |= mentions.names.is_none();
        }
        mentions
    }

    fn note(&mut self, object: &Object, names: &mut BTreeSet<String>) {
        match &object.name {
            // Only words are looked for in the texts of others.
            Some(name) if !name.chars().all(is_word) => self.everywhere = true,
            Some(name) => drop(names.insert(name.to_ascii_lowercase())),
            None => self.everywhere = true,
        }
    }

    fn close(&mut self, objects: &[Object], meant: &[bool], names: &mut BTreeSet<String>) {
        let mut open: BTreeMap<usize, BTreeSet<String>> = BTreeMap::new();
        if !names.is_empty() {
            let rest = objects.iter().enumerate().zip(meant).filter(|(_, meant)| !**meant);
            open.extend(rest.map(|((at, object), _)| (at, words(&object.text))));
        }
        loop {
            let found: Vec<usize> =
                open.iter().filter(|(_, words)| !words.is_disjoint(names)).map(|(at, _)| *at).collect();
            if found.is_empty() {
                return;
            }
            for at in found {
                open.remove(&at);
                if let Some(object) = objects.get(at) {
                    self.note(object, names);
                }
            }
        }
    }
}

/// More names than this are not searched for: anything counts.
const MOST_NAMES: usize = 2_000;

impl Certificate {
    /// Of a catalogue that could not be examined.
    pub fn unknown() -> Self {
        let everywhere = || Mentions { everywhere: true, names: None };
        Self { hiding: everywhere(), local: everywhere(), notifying: everywhere(), globals: true, ..Self::default() }
    }

    /// From all objects that are not PostgreSQL's own.
    pub fn new(objects: &[Object]) -> Self {
        let mut certificate = Self::default();
        let mut names = BTreeSet::new();
        let judged: Vec<Effects> = objects.iter().map(|object| certificate.judge(object, &mut names)).collect();
        let that = |effects: Effects| judged.iter().map(|own| own.any(effects)).collect::<Vec<_>>();
        certificate.hiding = Mentions::of(objects, &that(Effects::HIDES));
        certificate.local = Mentions::of(objects, &that(Effects::HIDES | Effects::LOCAL));
        certificate.notifying = Mentions::of(objects, &that(Effects::CODE | Effects::NOTIFIES));
        certificate.names = names.into_iter().collect();
        certificate
    }

    /// Whether nothing in this database can hide anything.
    #[inline]
    pub fn is_clean(&self) -> bool {
        self.hiding.is_empty()
    }

    /// Whether a text may use something that hides.
    pub fn suspects(&self, text: &[u8]) -> bool {
        self.hiding.are_in(text)
    }

    /// Whether something in this database may change parameters until the transaction ends.
    pub fn has_local(&self) -> bool {
        !self.local.is_empty()
    }

    /// Whether a text may use something that does.
    pub fn suspects_local(&self, text: &[u8]) -> bool {
        self.local.are_in(text)
    }

    /// Whether a text may use something that sends a notification.
    pub fn suspects_notify(&self, text: &[u8]) -> bool {
        self.notifying.are_in(text)
    }

    /// Custom parameters that something in the database may set.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// Whether something in the database asks for `currval` or `lastval`.
    pub fn asks_sequences(&self) -> bool {
        self.sequences
    }

    /// Whether a function may keep something where no reset reaches.
    pub fn has_globals(&self) -> bool {
        self.globals
    }

    /// What an object can do by itself.
    fn judge(&mut self, object: &Object, names: &mut BTreeSet<String>) -> Effects {
        match object.language.as_deref() {
            // Of tcn: the only one of them that tells others.
            Some("c" | "internal") if object.trusted => match object.name.as_deref() {
                Some("triggered_change_notification") => return Effects::NOTIFIES,
                _ => return Effects::NONE,
            },
            Some("sql" | "plpgsql") | None => {}
            Some(_) => {
                self.globals = true;
                return Effects::HIDES | Effects::NOTIFIES;
            }
        }
        let effects = Effects::of_body(object.text.as_bytes());
        self.sequences |= effects.any(PinReason::Sequence.effect());
        self.globals |= effects.any(Effects::INDELIBLE | PinReason::Hidden.effect());
        if effects.any(Effects::HIDES) {
            names.extend(names::dotted(object.text.as_bytes()));
        }
        effects
    }
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

fn words(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()).map(str::to_ascii_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function(name: &str, text: &str) -> Object {
        Object { name: Some(name.into()), text: text.into(), language: Some("plpgsql".into()), trusted: false }
    }

    fn uses(name: &str, text: &str) -> Object {
        Object { name: Some(name.into()), text: text.into(), language: None, trusted: false }
    }

    #[test]
    fn harmless_functions() {
        let objects = [
            function("f", "declare r record; begin for r in select 1 loop update t set x = 1; end loop; return 1; end"),
            function("g", "begin if x then insert into t values (1) on conflict do update set a = 1; end if; end"),
            function("h", "begin perform set_config('app.x', 'y', true); set local work_mem = '1MB'; end"),
            function("i", "begin perform pg_advisory_xact_lock(1); perform nextval('s'); end"),
            uses("v", "select g() from t"),
            Object { language: Some("c".into()), trusted: true, ..function("digest", "pg_digest") },
        ];
        let certificate = Certificate::new(&objects);
        assert!(certificate.is_clean(), "{certificate:?}");
        assert!(!certificate.suspects(b"select f(), g()") && !certificate.asks_sequences());
        let tells = function("triggered_change_notification", "triggered_change_notification");
        let tells = Object { language: Some("c".into()), trusted: true, ..tells };
        let certificate = Certificate::new(&[tells, uses("t", "public.triggered_change_notification")]);
        assert!(certificate.is_clean() && certificate.suspects_notify(b"insert into t values (1)"));
    }

    #[test]
    fn what_hides_and_who_uses_it() {
        for text in [
            "begin perform set_config('App.Tenant', $1, false); end",
            "begin set search_path = x; end",
            "begin if true then set work_mem = 1; end if; end",
            "begin execute 'set x = 1'; end",
            "begin create temp table x (a int); end",
            "begin perform pg_advisory_lock(1); end",
            "begin listen c; end",
            "begin reset all; end",
            "begin perform setseed(0.1); end",
            "begin perform dblink_connect('x'); end",
            "begin perform query_to_xml('select 1', true, true, ''); end",
        ] {
            let objects = [
                function("enter", text),
                function("outer_one", "begin perform enter('x'); end"),
                uses("seen", "select outer_one()"),
                uses("orders", "public.enter"),
                uses("archive", "orders"),
                function("other", "begin return 1; end"),
            ];
            let certificate = Certificate::new(&objects);
            assert!(!certificate.is_clean(), "{text}");
            for sql in [
                "select Enter(1)",
                "select outer_one()",
                "select * from seen",
                "insert into orders",
                "delete from archive",
            ] {
                assert!(certificate.suspects(sql.as_bytes()), "{text}: {sql}");
            }
            assert!(!certificate.suspects(b"select other()"), "{text}");
        }
        let tenant = Certificate::new(&[function("enter", "begin perform set_config('App.Tenant', $1, false); end")]);
        assert_eq!(tenant.names(), ["app.tenant"]);
    }

    #[test]
    fn what_cannot_be_told() {
        let python = Object { language: Some("plpython3u".into()), ..function("p", "pass") };
        let certificate = Certificate::new(&[python]);
        assert!(!certificate.is_clean() && certificate.has_globals());
        let c = Object { language: Some("c".into()), ..function("c", "x") };
        assert!(!Certificate::new(&[c]).is_clean());
        let operator = Object { name: None, ..uses("", "enter") };
        let local = Certificate::new(&[function("f", "begin perform set_config('TimeZone', 'UTC', true); end")]);
        let notifying = Certificate::new(&[
            function("tell", "begin perform pg_notify('a', 'b'); return new; end"),
            uses("orders", "public.tell"),
            function("say", "begin if true then notify a; end if; end"),
            function("run", "begin execute $1; end"),
        ]);
        for text in ["insert into orders values (1)", "select say()", "select run('x')"] {
            assert!(notifying.suspects_notify(text.as_bytes()), "{text}");
        }
        assert!(!notifying.suspects_notify(b"select 1"));
        assert!(local.is_clean() && local.suspects_local(b"select f()") && !local.suspects_local(b"select g()"));
        let everywhere = Certificate::new(&[function("enter", "begin set x = 1; end"), operator]);
        assert!(everywhere.suspects(b"select 1"));
        assert!(Certificate::unknown().suspects(b"select 1"));
        assert!(Certificate::new(&[function("f", "begin return lastval(); end")]).asks_sequences());
    }
}

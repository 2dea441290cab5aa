//! Parameters that follow a client. Equal states are one shared [`Arc`], so that the hot path compares pointers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::digest::{Context, SHA256};

/// Settings that a client asked for, by lower-case name.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Settings(BTreeMap<String, String>);

impl Settings {
    /// The last of several values for one name counts, as in PostgreSQL.
    pub fn set(&mut self, name: &str, value: String) {
        self.0.insert(name.to_ascii_lowercase(), value);
    }

    /// The value asked for.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    /// Takes one out.
    pub fn remove(&mut self, name: &str) -> Option<String> {
        self.0.remove(name)
    }

    /// What identifies these settings where a statement's meaning may depend on them. 0: none of them.
    pub fn parse_key(&self) -> u128 {
        let mut context = Context::new(&SHA256);
        let mut any = false;
        for (name, value) in self.0.iter().filter(|(name, _)| is_meaningful(name)) {
            any = true;
            for part in [name, value] {
                context.update(&(part.len() as u64).to_be_bytes());
                context.update(part.as_bytes());
            }
        }
        match context.finish().as_ref().first_chunk() {
            Some(start) if any => u128::from_be_bytes(*start),
            _ => 0,
        }
    }

    /// Whether a custom parameter is among them: once set, it never becomes unset again on a backend.
    pub fn has_custom(&self) -> bool {
        self.0.keys().any(|name| name.contains('.'))
    }

    /// Whether one of these limits of time is among them.
    fn limits(&self, names: &[&str]) -> bool {
        names.iter().any(|name| self.get(name).is_some_and(|value| value != "0"))
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Whether the meaning of a statement may depend on this parameter when it is parsed. Of those that clients change often
/// some surely have none: custom ones, limits of time and memory, the defaults of a transaction.
pub fn is_meaningful(name: &str) -> bool {
    let without = ["application_name", "client_min_messages", "extra_float_digits", "synchronous_commit", "work_mem"];
    !(name.contains('.')
        || name.ends_with("_timeout")
        || name.starts_with("default_transaction_")
        || without.contains(&name))
}

/// A client's parameters: what it asked for, and what PostgreSQL reports (ParameterStatus) with that in force.
#[derive(Debug, Default)]
pub struct Params {
    /// Unique in this process; 0: nobody's.
    pub id: u64,
    /// See [`Settings::parse_key`].
    pub parse_key: u128,
    /// A limit of time among the settings would end statements of ours, too, between its client and the next one.
    pub limits_statements: bool,
    /// PostgreSQL would end a backend with them that nobody has.
    pub limits_idleness: bool,
    /// What it asked for.
    pub settings: Settings,
    /// What is reported, by the name in PostgreSQL's own spelling.
    pub reported: BTreeMap<String, String>,
}

/// How a backend gets from what is in force to what the next client needs.
#[derive(Debug, PartialEq, Eq)]
pub struct Change<'a> {
    /// `RESET ALL` first: something is in force that the next client did not ask for, or nobody knows.
    pub reset: bool,
    /// Then these.
    pub set: Vec<(&'a str, &'a str)>,
}

static NEXT: AtomicU64 = AtomicU64::new(1);

impl Params {
    /// With a number of their own.
    pub fn new(settings: Settings, reported: BTreeMap<String, String>) -> Self {
        Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            parse_key: settings.parse_key(),
            limits_statements: settings.limits(&["statement_timeout", "transaction_timeout"]),
            limits_idleness: settings.limits(&["idle_session_timeout"]),
            settings,
            reported,
        }
    }

    /// The client's encoding, in PostgreSQL's own spelling.
    pub fn encoding(&self) -> &str {
        self.reported.get("client_encoding").map(String::as_str).unwrap_or_default()
    }

    /// What must change on a backend where `current` is in force (`None`: unknown). `None`: nothing.
    pub fn change_from<'a>(self: &'a Arc<Self>, current: Option<&Arc<Params>>) -> Option<Change<'a>> {
        let wanted = &self.settings;
        match current {
            Some(current) if Arc::ptr_eq(current, self) || current.settings == *wanted => None,
            Some(current) if current.settings.iter().all(|(name, _)| wanted.get(name).is_some()) => Some(Change {
                reset: false,
                set: wanted.iter().filter(|(name, value)| current.settings.get(name) != Some(value)).collect(),
            }),
            _ => Some(Change { reset: true, set: wanted.iter().collect() }),
        }
    }
}

/// What PostgreSQL makes of an `application_name`: bytes outside printable ASCII become `\xNN`, since 16 (before:
/// `?`), and it is cut at 63 bytes (`src/common/string.c`, `pg_clean_ascii`). Only names without such bytes are
/// predicted; `None` for the others.
pub fn plain_application_name(name: &str) -> Option<&str> {
    (name.len() < 64 && name.bytes().all(|byte| (32..127).contains(&byte))).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn params(pairs: &[(&str, &str)]) -> Arc<Params> {
        let mut settings = Settings::default();
        for (name, value) in pairs {
            settings.set(name, (*value).to_owned());
        }
        Arc::new(Params::new(settings, BTreeMap::new()))
    }

    #[test]
    fn limits_and_custom_parameters_give_no_statement_another_meaning() {
        let (none, path) = (params(&[]), params(&[("search_path", "mine")]));
        let more = params(&[("search_path", "mine"), ("app.tenant", "x"), ("statement_timeout", "1s")]);
        assert_eq!((none.parse_key, path.parse_key), (0, more.parse_key));
        assert_ne!(path.parse_key, params(&[("timezone", "UTC")]).parse_key);
    }

    #[test]
    fn limits_that_outlast_their_client_are_known() {
        for (name, value, expected) in [
            ("statement_timeout", "1s", (true, false)),
            ("Transaction_Timeout", "5", (true, false)),
            ("idle_session_timeout", "20", (false, true)),
            ("statement_timeout", "0", (false, false)),
            ("lock_timeout", "1", (false, false)),
        ] {
            let params = params(&[(name, value)]);
            assert_eq!((params.limits_statements, params.limits_idleness), expected, "{name}");
        }
    }

    #[test]
    fn changes_as_little_as_is_sure() {
        let none = params(&[]);
        let a1 = params(&[("a", "1")]);
        let a2b = params(&[("A", "2"), ("b", "1")]);
        assert_eq!(none.change_from(Some(&none)), None);
        assert_eq!(a1.change_from(Some(&params(&[("a", "1")]))), None);
        assert_eq!(a1.change_from(Some(&none)), Some(Change { reset: false, set: vec![("a", "1")] }));
        assert_eq!(a2b.change_from(Some(&a1)), Some(Change { reset: false, set: vec![("a", "2"), ("b", "1")] }));
        assert_eq!(a1.change_from(Some(&a2b)), Some(Change { reset: true, set: vec![("a", "1")] }));
        assert_eq!(none.change_from(None), Some(Change { reset: true, set: vec![] }));
    }
}

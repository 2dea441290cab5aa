//! Settings that a statement was parsed under, for when it is parsed anew on another backend after they have changed:
//! they decide what its constants and names mean (`timestamptz '2024-01-01'`). They are put in force around that Parse
//! and for its transaction only, as part of it, and the present ones again behind it.

use std::sync::Arc;

use bytes::BytesMut;

use super::Session;
use super::expect::{Expect, Run};
use super::sql_statements::{RUN_REPLIES, put_run};
use crate::backend::Backend;
use crate::track::params::is_meaningful;
use crate::track::{Effects, Params};
use crate::wire::backend::Status;

/// By the order of two arrays; NULL resets.
const SET: &str = "SELECT pg_catalog.set_config(name, value, true) FROM ROWS FROM \
     (pg_catalog.unnest($1::pg_catalog.text[]), pg_catalog.unnest($2::pg_catalog.text[])) AS settings(name, value)";

/// Settings that differ: the name, the value when the statement was parsed, and the present one. `None`: the server's.
pub(super) type Difference = Vec<(String, Option<String>, Option<String>)>;

impl Session {
    /// Whether a Parse is done under the client's settings as they are known: nothing has changed them since, or holds
    /// for this transaction only.
    #[inline]
    pub(super) fn knows_params(&self, lease: &Backend) -> bool {
        !self.changes_parse && !lease.residue.any(Effects::PARAMETERS)
    }

    /// What must be in force while a statement is parsed anew that was parsed under `then`, and is not. Nothing where
    /// what is in force now is not known, or the transaction has failed.
    pub(super) fn difference(&self, then: Option<&Arc<Params>>, lease: &Backend) -> Difference {
        let Some(then) = then.filter(|then| then.parse_key != self.params.parse_key) else { return Vec::new() };
        if !self.knows_params(lease) || lease.status == Status::Failed {
            return Vec::new();
        }
        let now = &self.params;
        let names = then.settings.iter().chain(now.settings.iter()).map(|(name, _)| name);
        let mut names: Vec<&str> = names.filter(|name| is_meaningful(name)).collect();
        names.sort_unstable();
        names.dedup();
        let value = |params: &Params, name: &str| params.settings.get(name).map(str::to_owned);
        let all = names.into_iter().map(|name| (name.to_owned(), value(then, name), value(now, name)));
        all.filter(|(_, then, now)| then != now).collect()
    }

    /// In front of the Parse, part of the client's batch.
    pub(super) fn run_then(&mut self, difference: &Difference, lease: &mut Backend) {
        if !difference.is_empty() {
            self.client.join(&mut lease.socket);
            put_then(lease.socket.output(), difference);
            self.expect_set(difference);
        }
    }

    /// Behind the Parse.
    pub(super) fn run_now(&mut self, difference: &Difference, lease: &mut Backend) {
        if !difference.is_empty() {
            put_now(lease.socket.output(), difference);
            self.expect_set(difference);
        }
    }

    fn expect_set(&mut self, difference: &Difference) {
        self.pipeline.push(Expect::OwnRun(Run::Now, RUN_REPLIES + difference.len()));
    }
}

/// Appends what puts the settings of that time in force, if any differ.
pub(super) fn put_then(out: &mut BytesMut, difference: &Difference) {
    put_set(out, difference.iter().map(|(name, then, _)| (name, then)));
}

/// Appends what puts the present ones in force again.
pub(super) fn put_now(out: &mut BytesMut, difference: &Difference) {
    put_set(out, difference.iter().map(|(name, _, now)| (name, now)));
}

fn put_set<'a>(out: &mut BytesMut, settings: impl Iterator<Item = (&'a String, &'a Option<String>)>) {
    let (names, values): (Vec<_>, Vec<_>) = settings.map(|(name, value)| (Some(name), value.as_ref())).unzip();
    if !names.is_empty() {
        put_run(out, SET.as_bytes(), &[&array(&names), &array(&values)]);
    }
}

/// A text[] constant (manual, "Array Input and Output Syntax").
fn array(elements: &[Option<&String>]) -> String {
    let element = |element: &Option<&String>| match element {
        Some(text) => format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"")),
        None => "NULL".to_owned(),
    };
    format!("{{{}}}", elements.iter().map(element).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_hold_any_text_and_none() {
        let text = "a \"b\" \\ {c},NULL".to_owned();
        assert_eq!(array(&[Some(&text), None]), r#"{"a \"b\" \\ {c},NULL",NULL}"#);
    }
}

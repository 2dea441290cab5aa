//! What is under way of SQL's `PREPARE`, `EXECUTE` and `DEALLOCATE`: the text that runs, and those that are bound to
//! portals.

use std::sync::Arc;

use super::sql_names::{Deed, Resolved};
use crate::prepared::{self, Statement};
use crate::wire::backend::ErrorFields;

/// What is under way.
#[derive(Debug, Default)]
pub(super) struct Sql {
    /// The text that runs, behind which nothing is sent.
    pub(super) running: Option<Box<Resolved>>,
    /// The client's statements are on the backend under its own names: see `sql_list`.
    pub(super) listed: bool,
    /// For good: see `sql_own`.
    pub(super) own: bool,
    /// What is rare even with those who use it.
    rare: Option<Box<Rare>>,
}

/// Portals of such texts that may be bound and not executed: each new one is compared with all of them.
pub(super) const MOST_BOUND: usize = 100;

#[derive(Debug, Default)]
struct Rare {
    /// Texts that are bound to portals, and not executed yet.
    bound: Vec<(Box<[u8]>, Box<Resolved>)>,
    /// Statements that could not be prepared for the text that runs, and why: it fails for the same reason when it comes
    /// to them.
    kept: Vec<(u64, Vec<u8>)>,
}

impl Sql {
    /// Whether anything is under way.
    #[inline]
    pub(super) fn is_active(&self) -> bool {
        self.running.is_some() || self.listed || self.has_bound()
    }

    /// Whether something has been bound and not executed.
    #[inline]
    pub(super) fn has_bound(&self) -> bool {
        !self.bound().is_empty()
    }

    /// Whether no more may be.
    #[inline]
    pub(super) fn is_full(&self) -> bool {
        self.bound().len() >= MOST_BOUND
    }

    #[inline]
    fn bound(&self) -> &[(Box<[u8]>, Box<Resolved>)] {
        self.rare.as_ref().map_or(&[], |rare| &rare.bound)
    }

    /// What is bound is never executed.
    pub(super) fn drop_bound(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.bound.clear();
        }
    }

    /// A text is sent.
    pub(super) fn run(&mut self, resolved: Box<Resolved>) {
        self.running = Some(resolved);
    }

    /// What was sent last is answered.
    pub(super) fn end(&mut self) {
        self.running = None;
        self.rare.take_if(|rare| {
            rare.kept.clear();
            rare.bound.is_empty()
        });
    }

    /// A statement could not be prepared for the text that runs.
    pub(super) fn keep(&mut self, id: u64, error: Vec<u8>) {
        self.rare.get_or_insert_default().kept.push((id, error));
    }

    /// Why a text has failed, if that is because a statement could not be prepared for it: it lacks it.
    pub(super) fn kept(&mut self, fields: &ErrorFields) -> Option<Vec<u8>> {
        let lacks = |id: u64| names(&fields.message, &prepared::server_name(id));
        let kept = &mut self.rare.as_mut()?.kept;
        let at = kept.iter().position(|(id, _)| lacks(*id))?;
        Some(kept.swap_remove(at).1)
    }

    /// Something is bound to a portal.
    pub(super) fn bind(&mut self, portal: &[u8], resolved: Option<Box<Resolved>>) {
        if resolved.is_none() && !self.has_bound() {
            return;
        }
        let bound = &mut self.rare.get_or_insert_default().bound;
        bound.retain(|(bound, _)| **bound != *portal);
        bound.extend(resolved.map(|resolved| (portal.into(), resolved)));
    }

    /// A portal is executed. `true`: it is one of these.
    pub(super) fn execute(&mut self, portal: &[u8]) -> bool {
        self.running = self.rare.as_mut().and_then(|rare| {
            let at = rare.bound.iter().position(|(bound, _)| **bound == *portal)?;
            Some(rare.bound.swap_remove(at).1)
        });
        self.running.is_some()
    }

    /// The statement that a name will mean once what is bound has been executed.
    pub(super) fn to_come(&self, name: &[u8]) -> Option<&Arc<Statement>> {
        let deeds = self.bound().iter().flat_map(|(_, resolved)| &resolved.deeds);
        deeds.rev().find_map(|deed| match deed {
            Deed::Prepare(prepared, statement) if **prepared == *name => Some(statement),
            _ => None,
        })
    }

    /// What will be deallocated once what is bound has been executed, and by which name.
    pub(super) fn to_go(&self) -> Vec<(Vec<u8>, u64)> {
        let deeds = self.bound().iter().flat_map(|(_, resolved)| &resolved.deeds);
        let gone = deeds.filter_map(|deed| match deed {
            Deed::Deallocate(name, id) => Some((name.to_vec(), *id)),
            Deed::Prepare(..) => None,
        });
        gone.collect()
    }

    /// The client's name of a statement that a text under way names.
    pub(super) fn name(&self, id: u64) -> Option<&[u8]> {
        let texts = self.running.iter().chain(self.bound().iter().rev().map(|(_, resolved)| resolved));
        texts.flat_map(|resolved| &resolved.places).find(|place| place.id == id).map(|place| &*place.name)
    }

    /// A position in the text that runs, or in one that it executes, as the client counts. Both are 1 for the first
    /// character.
    pub(super) fn position(&self, sent: usize) -> usize {
        self.running.as_ref().map_or(sent, |resolved| resolved.position(sent))
    }

    /// The same where a statement is prepared anew.
    pub(super) fn position_within(&self, id: u64, sent: usize) -> usize {
        let texts = self.running.iter().chain(self.bound().iter().map(|(_, resolved)| resolved));
        let need = texts.flat_map(|resolved| &resolved.needs).find(|need| need.statement.id == id);
        need.map_or(sent, |need| need.position(sent))
    }
}

/// Whether a message has this server-side name in it, in whatever quotes its language has.
fn names(message: &str, name: &[u8]) -> bool {
    let message = message.as_bytes();
    memchr::memmem::find_iter(message, name).any(|at| !message.get(at + name.len()).is_some_and(u8::is_ascii_digit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_found_in_any_quotes() {
        assert!(names("vorbereitete Anweisung »pgf_12« existiert nicht", b"pgf_12"));
        assert!(names("no pgf_123, but pgf_12", b"pgf_12"));
        assert!(!names("prepared statement \"pgf_123\" does not exist", b"pgf_12"));
    }
}

//! The names of prepared statements in a text: what each means at its place, and the text with the server-side ones.

use std::collections::VecDeque;
use std::sync::Arc;

use super::Session;
use crate::backend::Backend;
use crate::prepared::{self, ClientStatements, Prepare, Statement, characters, quoted};
use crate::track::sql_names::{self, Mention, Verb};
use crate::track::{Effects, Params, PinReason};

/// Names in one text that are looked up. So many statements more than it should have, a backend may get at a time.
const MOST: usize = 100;

/// A text whose names have been looked up.
#[derive(Debug, Default)]
pub(super) struct Resolved {
    /// As the backend gets it.
    pub(super) text: Vec<u8>,
    /// Where names were replaced in it, in order.
    pub(super) places: Vec<Place>,
    /// Statements that it names.
    pub(super) needs: Vec<Need>,
    /// What it does if all goes well, in the order of its command tags.
    pub(super) deeds: VecDeque<Deed>,
    /// Names whose statement another one has deallocated, and those that they mean instead.
    pub(super) parted: Vec<(Box<[u8]>, Arc<Statement>)>,
    /// Asks which statements there are: everything goes by the client's names.
    pub(super) lists: bool,
    /// It deallocates all.
    cleared: bool,
}

/// A name that was replaced.
#[derive(Debug)]
pub(super) struct Place {
    /// Characters of the text that is sent, up to the end of the name.
    end: usize,
    /// How many more they are than in the client's.
    added: isize,
    /// The statement.
    pub(super) id: u64,
    /// Its name of the client's.
    pub(super) name: Box<[u8]>,
}

/// A statement that must be there before a text is sent.
#[derive(Debug)]
pub(super) struct Need {
    pub(super) statement: Arc<Statement>,
    /// It is executed; otherwise only its name counts.
    pub(super) runs: bool,
}

/// What a text does to a name.
#[derive(Debug)]
pub(super) enum Deed {
    Prepare(Box<[u8]>, Arc<Statement>),
    Deallocate(Box<[u8]>, u64),
}

impl Need {
    /// A position within this statement, as the client counts.
    pub(super) fn position(&self, sent: usize) -> usize {
        sent.saturating_add_signed(-self.statement.sql.as_ref().map_or(0, |sql| sql.added))
    }
}

impl Resolved {
    /// A position in this text, or in one that it executes, as the client counts.
    pub(super) fn position(&self, sent: usize) -> usize {
        if self.lists {
            return sent;
        }
        // PostgreSQL counts in the text of the statement that it has found to be wrong, and does not say which that is.
        if sent > characters(&self.text) + 1
            && let Some(need) = self.needs.iter().find(|need| need.runs)
        {
            return need.position(sent);
        }
        let added = self.places.iter().rfind(|place| place.end < sent).map_or(0, |place| place.added);
        sent.saturating_add_signed(-added)
    }
}

/// What names mean while a text is read.
struct View<'a> {
    session: &'a Session,
    /// What it prepares statements under, if that is known.
    params: Option<Arc<Params>>,
    /// What it has done so far: `None` for a name that it has deallocated.
    done: Vec<(Vec<u8>, Option<Arc<Statement>>)>,
    /// It has deallocated all.
    cleared: bool,
    /// What is deallocated by then, and the name.
    gone: Vec<(Vec<u8>, u64)>,
}

/// What a name means.
enum Meaning {
    Unknown,
    /// A statement of the client's.
    Known(Arc<Statement>),
    /// One that the same text has prepared.
    New(Arc<Statement>),
    /// One that a portal prepares if it is executed.
    ToCome(Arc<Statement>),
}

impl View<'_> {
    fn get(&self, name: &[u8]) -> Meaning {
        match self.done.iter().rfind(|(done, _)| done == name) {
            Some((_, Some(statement))) => Meaning::New(statement.clone()),
            Some((_, None)) => Meaning::Unknown,
            None if self.cleared => Meaning::Unknown,
            None => match (self.session.statements.get(name), self.session.sql.to_come(name)) {
                (Some(named), _) => Meaning::Known(named.statement.clone()),
                (None, Some(statement)) => Meaning::ToCome(statement.clone()),
                (None, None) => Meaning::Unknown,
            },
        }
    }
}

impl Session {
    /// Whether the names in a text with these effects can be read.
    pub(super) fn sql_can_read(&self, text: &[u8], effects: Effects) -> bool {
        !(self.pins | effects).any(PinReason::Strings.effect())
            && (!effects.any(Effects::NAMES) || readable(text).is_some())
    }

    /// Looks up the names in a text with these effects. `None`: it cannot be read.
    pub(super) fn sql_resolve(&self, text: &[u8], effects: Effects, lease: &Backend) -> Option<Box<Resolved>> {
        if self.sql.own || (self.pins | effects).any(PinReason::Strings.effect()) {
            return None;
        }
        let mut resolved = Box::new(Resolved { lists: effects.any(Effects::LISTS), ..Resolved::default() });
        let sets = effects.any(Effects::PARAMETERS | Effects::LOCAL | Effects::SUSPECT);
        let params = (self.knows_params(lease) && !sets).then(|| self.params.clone());
        let mut view = View { session: self, params, done: Vec::new(), cleared: false, gone: self.sql.to_go() };
        let mut from = 0;
        let mentions = if effects.any(Effects::NAMES) { readable(text)? } else { Vec::new() };
        for mention in mentions {
            resolved.text.extend_from_slice(text.get(from..mention.at.start)?);
            from = mention.at.start;
            let statement = match (mention.verb, view.get(&mention.name)) {
                (Verb::DeallocateAll, _) => {
                    view.done.clear();
                    view.cleared = true;
                    continue;
                }
                (Verb::Prepare, Meaning::Unknown) => resolved.prepare(Statement::next_id(), text, &mention, &mut view),
                (Verb::Prepare, Meaning::ToCome(other)) => resolved.prepare(other.id, text, &mention, &mut view),
                (_, Meaning::Unknown) if mention.name.starts_with(prepared::prefix().as_bytes()) => {
                    // A name of ours, guessed, must not be found.
                    resolved.text.extend_from_slice(b"\"?\"");
                    from = mention.at.end;
                    continue;
                }
                (_, Meaning::Unknown) => continue,
                (verb, Meaning::Known(statement)) => {
                    let statement = resolved.parted(statement, &mention.name, &view);
                    resolved.needs.push(Need { statement: statement.clone(), runs: verb == Verb::Execute });
                    statement
                }
                (_, Meaning::New(statement) | Meaning::ToCome(statement)) => statement,
            };
            if mention.verb == Verb::Deallocate {
                resolved.deeds.push_back(Deed::Deallocate(mention.name.as_slice().into(), statement.id));
                view.gone.push((mention.name.clone(), statement.id));
                view.done.push((mention.name.clone(), None));
            }
            resolved.lists |= mention.verb == Verb::Execute && statement.effects.any(Effects::LISTS);
            resolved.replace(text, &mention, &statement);
            from = mention.at.end;
        }
        resolved.text.extend_from_slice(text.get(from..)?);
        resolved.cleared = view.cleared;
        if resolved.lists {
            resolved.text = text.to_vec();
            resolved.places.clear();
        }
        Some(resolved)
    }
}

impl Resolved {
    /// Effects of the statements that it executes.
    pub(super) fn executed(&self) -> Effects {
        self.needs.iter().filter(|need| need.runs).fold(Effects::NONE, |all, need| all | need.statement.effects)
    }

    /// Whether it prepares more than a client may have.
    pub(super) fn exceeds(&self, statements: &ClientStatements) -> bool {
        let (mut names, mut bytes) = (0usize, 0);
        for deed in &self.deeds {
            match deed {
                Deed::Prepare(name, statement) => {
                    names += 1;
                    bytes += name.len() + statement.definition.len();
                }
                Deed::Deallocate(..) => names = names.saturating_sub(1),
            }
        }
        names > 0 && !self.cleared && statements.exceeds(names, bytes)
    }

    /// A client's statement, or a copy of its own if this text has deallocated it by another name.
    fn parted(&mut self, statement: Arc<Statement>, name: &[u8], view: &View<'_>) -> Arc<Statement> {
        if let Some((_, own)) = self.parted.iter().find(|(parted, _)| **parted == *name) {
            return own.clone();
        }
        if !view.gone.iter().any(|(gone, id)| *id == statement.id && gone != name) {
            return statement;
        }
        let own = statement.to_private();
        self.parted.push((name.into(), own.clone()));
        own
    }

    /// A statement to come of this text.
    fn prepare(&mut self, id: u64, text: &[u8], mention: &Mention, view: &mut View<'_>) -> Arc<Statement> {
        let added = self.places.last().map_or(0, |place| place.added);
        let own = text.get(mention.statement.clone()).unwrap_or_default();
        let before = characters(text.get(..mention.statement.start).unwrap_or_default()).saturating_add_signed(added);
        let name = mention.at.start - mention.statement.start..mention.at.end - mention.statement.start;
        let longer = longer(text, mention, &prepared::server_name(id));
        let statement =
            Statement::of_sql(id, own, Prepare { name, before, added: added + longer }, view.params.clone());
        self.deeds.push_back(Deed::Prepare(mention.name.as_slice().into(), statement.clone()));
        view.done.push((mention.name.clone(), Some(statement.clone())));
        statement
    }

    fn replace(&mut self, text: &[u8], mention: &Mention, statement: &Statement) {
        self.text.extend_from_slice(&quoted(&statement.name));
        let added = self.places.last().map_or(0, |place| place.added) + longer(text, mention, &statement.name);
        let name = mention.name.as_slice().into();
        self.places.push(Place { end: characters(&self.text), added, id: statement.id, name });
    }
}

/// The names in a text, if they can be read.
fn readable(text: &[u8]) -> Option<Vec<Mention>> {
    sql_names::mentions(text).filter(|mentions| mentions.len() <= MOST)
}

/// How many characters longer a text gets by this name in the place of the client's.
fn longer(text: &[u8], mention: &Mention, name: &[u8]) -> isize {
    let own = characters(text.get(mention.at.clone()).unwrap_or_default());
    quoted(name).len() as isize - own as isize
}

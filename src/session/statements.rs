//! Prepared statements on their way to a backend: Parse, Bind, Describe and Close are rewritten from the client's names to
//! the server-side ones, and preceded by a Parse of ours where this backend lacks the statement.

use std::sync::Arc;

use super::Session;
use super::expect::{Closed, Expect, Parsed};
use super::refusal::{too_many_portals, too_many_statements};
use super::requests::{LARGEST_PARSE, LONGEST_NAMES};
use crate::backend::Backend;
use crate::prepared::{self, Prepared, Under, Unnamed, UnnamedStatement};
use crate::track::{Effects, PinReason};
use crate::wire::backend::Status;
use crate::wire::frontend::{self as tag, Named, Parse, put_bind, put_named, put_parse};
use crate::wire::{HEADER, Header};

impl Session {
    pub(super) fn parse(&mut self, header: Header, lease: &mut Backend) -> bool {
        if (header.body() > LARGEST_PARSE || self.pins.any(PinReason::Strings.effect())) && !self.sql_own(lease) {
            return false;
        }
        if header.body() > LARGEST_PARSE {
            if self.cannot_forget_yet(lease) {
                return false;
            }
            self.forget_sequences(lease);
            self.note_effects(Effects::LARGE | self.suspicion(None), b"Parse", lease);
            lease.statements.unnamed = Unnamed::Unknown;
            self.pipeline.push(Expect::Parse(Parsed::Verbatim));
            self.batch.is_open = true;
            self.pass_request(header);
            return true;
        }
        // It has begun, although it is not there whole.
        self.batch.is_open = true;
        let Some(body) = self.client.unseen().get(HEADER..header.total) else { return false };
        let Some(parse) = Parse::decode(body) else {
            self.pipeline.push(Expect::Parse(Parsed::Verbatim));
            self.pass_request(header);
            return true;
        };
        if let Some(said) = self.saids.of(parse.text) {
            self.saids.note(self.pipeline.ends(), said);
        }
        if parse.name.is_empty() {
            let (definition, effects) = match self.same_unnamed(parse.definition) {
                Some(same) => (same, Effects::NONE),
                None => (parse.definition.into(), Effects::of(parse.text)),
            };
            let effects = effects | self.suspicion(Some(parse.text));
            self.parse_unnamed(header, definition, effects, lease);
        } else if self.sql.own {
            let text = parse.text.to_vec();
            self.note_own(Effects::of(&text), &text, lease);
            self.pipeline.push(Expect::Parse(Parsed::Verbatim));
            self.pass_request(header);
        } else {
            // So does whether the name of one that is there already is taken on this backend.
            let known = self.statements.get(parse.name).map(|named| named.statement.id);
            if self.must_wait(parse.name) || known.is_some_and(|id| self.pipeline.parse_hangs(id)) {
                self.undecided = true;
                return false;
            }
            let body = body.to_vec();
            self.parse_named(header, &body, lease);
        }
        true
    }

    /// What a name means may hang on answers that are to come: a Parse or Close of it, in a batch before this one, may
    /// have been skipped.
    fn must_wait(&self, name: &[u8]) -> bool {
        !self.pipeline.is_certain() && self.statements.is_unsettled(name)
    }

    /// The last unnamed statement, if it was the same and does nothing: its text need not be looked through again.
    fn same_unnamed(&self, definition: &[u8]) -> Option<Arc<[u8]>> {
        let last = self.statements.unnamed().filter(|last| last.effects == Effects::NONE)?;
        (*last.definition == *definition).then(|| last.definition.clone())
    }

    fn parse_unnamed(&mut self, header: Header, definition: Arc<[u8]>, effects: Effects, lease: &mut Backend) {
        let under = if self.knows_params(lease) { Under::Present } else { Under::Unknown };
        let unnamed = UnnamedStatement::new(definition, effects, under);
        if unnamed.effects.any(Effects::NAMES) && self.exceeds_by_sql(unnamed.text()) {
            self.client.skip(header.total, &mut lease.socket);
            self.drop_unnamed(lease);
            return self.refuse_in_batch(too_many_statements(), lease);
        }
        lease.statements.unnamed = Unnamed::Version(unnamed.version);
        self.unnamed = (unnamed.effects != Effects::NONE).then(|| (unnamed.effects, unnamed.definition.clone()));
        self.pipeline.push(Expect::Parse(Parsed::Unnamed(unnamed)));
        self.pass_request(header);
    }

    fn parse_named(&mut self, header: Header, body: &[u8], lease: &mut Backend) {
        let Some(parse) = Parse::decode(body) else { return };
        self.client.skip(header.total, &mut lease.socket);
        if let Some(existing) = self.statements.get(parse.name).map(|named| named.statement.clone()) {
            // PostgreSQL says 42P05, or before that what is wrong with the text: let it.
            self.ensure_name(&existing, lease);
            put_parse(lease.socket.output(), &existing.name, parse.definition);
            self.pipeline.push(Expect::Parse(Parsed::Duplicate(prepared::cut(parse.name).into())));
            return;
        }
        if self.statements.exceeds(1, parse.name.len() + parse.definition.len()) {
            return self.refuse_in_batch(too_many_statements(), lease);
        }
        // What PostgreSQL makes of a text depends on settings: with the ones of its login, a client shares statements
        // with those that logged in with the same; with others, nobody's fits.
        let mut statement = match self.knows_params(lease) {
            true => self.pool.statements.intern(&self.params, parse.definition, parse.text),
            false => prepared::Statement::private(parse.definition.into(), parse.text, None),
        };
        if statement.effects.any(Effects::NAMES) {
            // What it names is not what it names for others.
            let params = statement.params.clone();
            statement = prepared::Statement::private(parse.definition.into(), parse.text, params);
        }
        let told = self.told_nothing();
        let schema = told.schema;
        self.statements.insert(parse.name, statement.clone(), told);
        match lease.statements.get(statement.id) {
            Prepared::At(at) if at == schema && lease.status != Status::Failed && self.pipeline.is_certain() => {
                self.pipeline.push(Expect::SayParsed(prepared::cut(parse.name).into()));
                return;
            }
            Prepared::At(_) | Prepared::Outdated => self.close_statement(statement.id, lease),
            Prepared::Absent => {}
        }
        put_parse(lease.socket.output(), &statement.name, parse.definition);
        self.pipeline.push(Expect::Parse(Parsed::Named(prepared::cut(parse.name).into(), statement.id)));
        if self.changed_schema {
            self.local_parses.push(statement.id);
        }
        self.remember_prepared(&statement, schema, lease);
    }

    /// Sees to it that the backend's unnamed statement is the client's. `false`: that hangs on answers to come.
    fn ensure_unnamed(&mut self, lease: &mut Backend) -> bool {
        if self.pipeline.unnamed_hangs() {
            self.undecided = true;
            return false;
        }
        let there = lease.statements.unnamed;
        let pending = matches!(there, Unnamed::Version(version) if self.pending_unnamed(version));
        match self.statements.unnamed().filter(|_| !self.pipeline.closes_unnamed()) {
            _ if pending => {}
            Some(unnamed) if there == Unnamed::Version(unnamed.version) => {}
            Some(unnamed) => {
                let (version, definition) = (unnamed.version, unnamed.definition.clone());
                let difference = match &unnamed.under {
                    Under::Past(then) => self.difference(Some(then), lease),
                    Under::Present | Under::Unknown => Vec::new(),
                };
                self.run_then(&difference, lease);
                self.client.join(&mut lease.socket);
                put_parse(lease.socket.output(), b"", &definition);
                lease.statements.unnamed = Unnamed::Version(version);
                self.pipeline.push(Expect::OwnUnnamed(version));
                self.run_now(&difference, lease);
            }
            None if there == Unnamed::Absent => {}
            // A Parse too large to keep: it lives only there.
            None if there == Unnamed::Unknown && self.pins.any(PinReason::Large.effect()) => {}
            None => {
                // Somebody else's must not be found.
                self.client.join(&mut lease.socket);
                put_named(lease.socket.output(), tag::CLOSE, b'S', b"");
                lease.statements.unnamed = Unnamed::Absent;
                self.pipeline.push(Expect::OwnClose(0));
            }
        }
        true
    }

    /// Whether the client's own unnamed Parse of this version is on its way.
    fn pending_unnamed(&self, version: u64) -> bool {
        self.pipeline.parses_unnamed(version)
    }

    pub(super) fn bind(&mut self, header: Header, lease: &mut Backend) -> bool {
        let unseen = self.client.unseen();
        let end = unseen.len().min(header.total);
        let Some((portal, name)) = tag::bind_names(unseen.get(HEADER..end).unwrap_or_default()) else {
            if end < header.total && end < LONGEST_NAMES {
                return false;
            }
            return self.pass_bind(header);
        };
        if self.sql.has_bound() {
            self.sql.bind(portal, None);
            if self.sql.is_full() {
                self.skip_request(header, lease);
                self.refuse_in_batch(too_many_portals(), lease);
                return true;
            }
        }
        if name.is_empty() {
            return self.ensure_unnamed(lease) && self.bind_unnamed(header, lease);
        }
        if self.must_wait(name) {
            self.undecided = true;
            return false;
        }
        let Some((statement, number, told)) =
            self.statements.get(name).map(|named| (named.statement.clone(), named.number, named.told))
        else {
            let at = HEADER + portal.len() + 1;
            return self.pass_unknown(header, at, Expect::Bind(0));
        };
        let is_sql = statement.effects.any(Effects::STATEMENTS);
        if is_sql && !self.sql_can_read(statement.text(), statement.effects) && lease.status != Status::Failed {
            // By the client's own name from now on.
            return self.sql_own(lease) && self.bind(header, lease);
        }
        if self.pipeline.parse_hangs(statement.id) || is_sql && !self.pipeline.is_certain() {
            self.undecided = true;
            return false;
        }
        let names = portal.len() + name.len() + 2;
        let portal = portal.to_vec();
        let own = if is_sql { name.to_vec() } else { Vec::new() };
        let effects = statement.effects | self.suspicion(Some(&statement.definition));
        if self.must_be_answered_first(effects, lease) || effects.any(Effects::LISTS) && self.sql_waits(lease) {
            return false;
        }
        let lacks = if is_sql { Ok(false) } else { self.lacks(header, &statement, told, lease) };
        let lacks = match lacks {
            Ok(lacks) => lacks,
            Err(taken) => return taken,
        };
        self.batch.undescribed = if portal.is_empty() && told.shape.is_none() && !is_sql { number } else { 0 };
        self.note_said(self.saids.of_prepared(&statement.said));
        self.note_bound(effects, &statement.definition, lease);
        let is_listed = is_sql && self.sql_bind(&statement, &portal, lease);
        if lacks {
            self.ensure_bindable(&statement, lease);
        }
        let name = if is_listed { &own[..] } else { &statement.name };
        self.client.skip(HEADER + names, &mut lease.socket);
        let rest = header.body() - names;
        put_bind(lease.socket.output(), &portal, name, rest);
        self.pipeline.push(Expect::Bind(number));
        self.batch.is_open = true;
        self.pass_request(Header { tag: tag::BIND, total: rest });
        true
    }

    fn bind_unnamed(&mut self, header: Header, lease: &mut Backend) -> bool {
        // One that is being parsed has been noted then.
        if !self.pipeline.parses_any_unnamed()
            && let Some(parsed) = self.statements.unnamed()
            && let Some(said) = self.saids.of(parsed.text())
        {
            self.saids.note(self.pipeline.ends(), said);
        }
        if let Some((effects, definition)) = self.unnamed_of(lease) {
            let is_sql = effects.any(Effects::STATEMENTS) && !self.sql.own;
            let text = || definition.split(|byte| *byte == 0).next().unwrap_or_default();
            if is_sql && !self.sql_can_read(text(), effects) && !self.sql_own(lease) {
                return false;
            }
            if is_sql && !self.pipeline.is_certain() {
                self.undecided = true;
                return false;
            }
            if self.must_be_answered_first(effects, lease) || effects.any(Effects::LISTS) && self.sql_waits(lease) {
                return false;
            }
            self.note_bound(effects, &definition, lease);
            if is_sql {
                let body = self.client.unseen().get(HEADER..).unwrap_or_default();
                let portal = tag::bind_names(body).map(|(portal, _)| portal.to_vec()).unwrap_or_default();
                self.sql_bind_unnamed(effects, &definition, Some(&portal), lease);
            }
        }
        self.pass_bind(header)
    }

    /// Notes the effects of a statement that is about to be executed.
    pub(super) fn note_bound(&mut self, effects: Effects, definition: &[u8], lease: &mut Backend) {
        if effects != Effects::NONE {
            self.guard_sequences(effects, lease);
            self.note_effects(effects, definition, lease);
            self.listening.bind(effects, definition);
            self.batch.clears |= effects.any(Effects::CLEARS);
            self.clearing = effects;
        }
    }

    fn pass_bind(&mut self, header: Header) -> bool {
        self.batch.undescribed = 0;
        self.pipeline.push(Expect::Bind(0));
        self.batch.is_open = true;
        self.pass_request(header);
        true
    }

    /// A message about a statement (named at offset `at`) that the client has not prepared through us: a text that could
    /// not be read may have made it on a pinned backend; otherwise PostgreSQL says 26000. A name of ours, guessed, must not be found.
    fn pass_unknown(&mut self, header: Header, at: usize, expect: Expect) -> bool {
        let name = self.client.unseen_mut().get_mut(at..).unwrap_or_default();
        if name.starts_with(prepared::prefix().as_bytes()) {
            name[0] = b'?';
        }
        self.pass_request(header);
        self.pipeline.push(expect);
        self.batch.is_open = true;
        true
    }

    /// Describe and Close.
    pub(super) fn named(&mut self, header: Header, lease: &mut Backend) -> bool {
        let Some(body) = self.client.unseen().get(HEADER..header.total) else { return false };
        let closes = header.tag == tag::CLOSE;
        let unremembered = || if closes { Expect::Close } else { Expect::Describe(0, Box::default()) };
        let name = match Named::decode(body) {
            Some(Named::Statement(name)) => name.to_vec(),
            portal => {
                let expect = match portal {
                    Some(Named::Portal(portal)) if !closes => self.expect_rows(portal),
                    _ => unremembered(),
                };
                self.pipeline.push(expect);
                self.batch.is_open = true;
                self.pass_request(header);
                return true;
            }
        };
        if name.is_empty() {
            let expect = if closes {
                lease.statements.unnamed = Unnamed::Absent;
                Expect::CloseUnnamed(UnnamedStatement::latest())
            } else if !self.ensure_unnamed(lease) || !self.describe_unnamed(lease) {
                return false;
            } else {
                unremembered()
            };
            self.pipeline.push(expect);
            self.batch.is_open = true;
            self.pass_request(header);
            return true;
        }
        if self.must_wait(&name) {
            self.undecided = true;
            return false;
        }
        let Some((statement, number, told)) =
            self.statements.get(&name).map(|named| (named.statement.clone(), named.number, named.told))
        else {
            return self.pass_unknown(header, HEADER + 1, unremembered());
        };
        let is_sql = !closes && statement.effects.any(Effects::NAMES);
        if !closes && self.pipeline.parse_hangs(statement.id) || is_sql && !self.pipeline.is_certain() {
            self.undecided = true;
            return false;
        }
        if !closes
            && !is_sql
            && let Err(taken) = self.lacks(header, &statement, told, lease)
        {
            return taken;
        }
        self.batch.is_open = true;
        self.client.skip(header.total, &mut lease.socket);
        if closes {
            self.statements.remove(&name);
            self.pipeline.push(Expect::SayClosed(Box::new(Closed { name: name.into(), statement, told })));
        } else {
            match is_sql {
                true => self.sql_describe(&statement, lease),
                false => self.ensure_prepared(&statement, lease),
            }
            put_named(lease.socket.output(), tag::DESCRIBE, b'S', &statement.name);
            let remembered = if is_sql { Box::default() } else { name.into_boxed_slice() };
            self.pipeline.push(Expect::Describe(number, remembered));
        }
        true
    }
}

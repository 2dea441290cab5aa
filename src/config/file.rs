//! The configuration file: TOML text -> [`Raw`], every key with its line. Only reads; judges nothing but keys.

use std::path::Path;
use std::sync::Arc;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::raw::{Raw, Scope};
use super::source::{Report, Source};
use super::value::{Data, Written};
use super::{files, suggest};

/// Read `path` into `raw`. `false`: nothing could be read, so that nothing can be said to be missing.
pub(super) fn read(path: &Path, raw: &mut Raw, report: &mut Report) -> bool {
    let shared: Arc<Path> = Arc::from(path);
    let text = match files::read_text(path) {
        Ok(text) => text,
        Err(error) => {
            report.error(&Source::File(shared), format!("cannot read the configuration file: {error}"));
            return false;
        }
    };
    let mut reader = Reader { path: shared, text: &text, raw, report };
    let (document, errors) = DeTable::parse_recoverable(&text);
    if !errors.is_empty() {
        for error in errors {
            // Only the message: the parser's own rendering quotes the line, which may hold a password.
            let start = error.span().map_or(0, |span| span.start);
            let source = reader.line(start);
            reader.report.error(&source, format!("not valid TOML: {}", error.message()));
        }
        return false;
    }
    reader.top(document.get_ref());
    true
}

struct Reader<'a> {
    path: Arc<Path>,
    text: &'a str,
    raw: &'a mut Raw,
    report: &'a mut Report,
}

impl Reader<'_> {
    fn line(&self, offset: usize) -> Source {
        let newlines = self.text.bytes().take(offset).filter(|byte| *byte == b'\n').count();
        Source::Line(Arc::clone(&self.path), newlines + 1)
    }

    fn top(&mut self, table: &DeTable<'_>) {
        for (key, value) in table {
            match key.get_ref().as_ref() {
                "databases" => self.entries(key.span().start, value, Scope::Database),
                "users" => self.entries(key.span().start, value, Scope::User),
                name => self.key(&Scope::Top, name, key.span().start, value),
            }
        }
    }

    /// `[databases.…]` or `[users.…]`: one table per name.
    fn entries(&mut self, offset: usize, value: &Spanned<DeValue<'_>>, scope: fn(String) -> Scope) {
        let DeValue::Table(table) = value.get_ref() else {
            let (source, parent) = (self.line(offset), parent(&scope(String::new())));
            return self.report.error(&source, format!("{parent}: must be tables, one per name: [{parent}.NAME]"));
        };
        for (name, entry) in table {
            let scope = scope(name.get_ref().to_string());
            let source = self.line(name.span().start);
            if name.get_ref().is_empty() {
                self.report.error(&source, format!("empty name{}", scope.place()));
                continue;
            }
            let DeValue::Table(keys) = entry.get_ref() else {
                let parent = parent(&scope);
                let written = Written { data: Data::Toml(entry.get_ref()), base: Path::new("") };
                // `[databases]` with keys directly below it: the name was forgotten. The value may be a password.
                let shown = if parent == "users" { String::new() } else { format!(" = {}", written.show()) };
                let message = format!("{}{shown} in [{parent}]: must stand in a table [{parent}.NAME]", name.get_ref());
                self.report.error(&source, message);
                continue;
            };
            self.raw.declare(&scope, &source);
            for (key, value) in keys {
                self.key(&scope, key.get_ref(), key.span().start, value);
            }
        }
    }

    fn key(&mut self, scope: &Scope, key: &str, offset: usize, value: &Spanned<DeValue<'_>>) {
        let source = self.line(offset);
        let base = self.path.parent().unwrap_or(Path::new("")).to_owned();
        let written = Written { data: Data::Toml(value.get_ref()), base: &base };
        if !self.raw.assign(scope, key, &written, &source, self.report) {
            let hint = elsewhere(scope, key).unwrap_or_else(|| {
                let mut known = scope.keys();
                if *scope == Scope::Top {
                    known.extend(["databases", "users"]);
                }
                suggest::hint(key, &known)
            });
            self.report.error(&source, format!("unknown key \"{key}\"{}{hint}", scope.place()));
        }
    }
}

/// The table that the entries of such a scope stand in.
fn parent(scope: &Scope) -> &'static str {
    if matches!(scope, Scope::User(_)) { "users" } else { "databases" }
}

/// Where a key that is unknown here would be known.
fn elsewhere(scope: &Scope, key: &str) -> Option<String> {
    let name = || "NAME".to_owned();
    let places: Vec<&str> = [
        (Scope::Top, "at top level"),
        (Scope::Database(name()), "in [databases.NAME]"),
        (Scope::User(name()), "in [users.NAME]"),
    ]
    .iter()
    .filter(|(other, _)| std::mem::discriminant(other) != std::mem::discriminant(scope) && other.keys().contains(&key))
    .map(|(_, place)| *place)
    .collect();
    (!places.is_empty()).then(|| format!(" here; it belongs {}", places.join(" or ")))
}

//! Environment variables -> [`Raw`], over whatever the file said.
//!
//! * `PGFUNNEL_<KEY>`: a key of the top level, in capitals.
//! * `PGFUNNEL_DATABASES__<NAME>__<KEY>`, `PGFUNNEL_USERS__<NAME>__<KEY>`: a key of one database or user.
//! * `PGFUNNEL_ANY_DATABASE__<KEY>`: a key of `[databases."*"]`, which a shell could not write.
//!
//! NAME stands for the file's entry of that name, else for the only one that equals it apart from case; a name the
//! file does not have is taken as written if it has a small letter, else in small letters (as PostgreSQL folds names).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::raw::{Raw, Scope};
use super::source::{Report, Source};
use super::suggest;
use super::value::{Data, Written};

const PREFIX: &str = "PGFUNNEL_";
/// Read by the command line, not part of the configuration: the file's path, the log filter.
const NOT_KEYS: [&str; 2] = ["CONFIG", "LOG"];
/// `PGFUNNEL_TEST_…` is for whoever tests pgfunnel; it never means anything to pgfunnel itself.
const TESTS: &str = "TEST_";

/// The process's environment. Text that is not UTF-8 keeps replacement characters, which [`read`] refuses.
pub fn environment() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
}

/// Apply every `PGFUNNEL_…` variable.
pub(super) fn read(variables: &BTreeMap<String, String>, raw: &mut Raw, report: &mut Report) {
    let names_of_file =
        Names { databases: raw.databases.keys().cloned().collect(), users: raw.users.keys().cloned().collect() };
    let mut seen = BTreeMap::new();
    let mut unknown = Vec::new();
    for (variable, text) in variables {
        let Some(name) = variable.strip_prefix(PREFIX) else { continue };
        if NOT_KEYS.contains(&name) || name.starts_with(TESTS) || is_service_link(name, text) {
            continue;
        }
        let source = Source::Variable(variable.clone());
        let Some((scope, key)) = names_of_file.resolve(name) else {
            unknown.push(variable);
            continue;
        };
        if let Some(other) = seen.insert((scope.clone(), key.clone()), variable) {
            report.error(&source, format!("says the same{} as {other}; keep one of them", scope.place()));
        }
        if !scope.keys().contains(&key.as_str()) {
            unknown.push(variable);
        } else if text.is_empty() || text.contains('\u{fffd}') {
            let what = if text.is_empty() { "is empty" } else { "is not valid UTF-8" };
            report.error(&source, format!("{key}{}: {what}; unset the variable or give it a value", scope.place()));
        } else {
            let written = Written { data: Data::Variable(text), base: Path::new("") };
            raw.assign(&scope, &key, &written, &source, report);
        }
    }
    refuse_unknown(&unknown, raw, report);
}

/// Unknown variables are errors, unless a `password_env` names them.
fn refuse_unknown(unknown: &[&String], raw: &Raw, report: &mut Report) {
    let passwords: BTreeSet<&str> = raw
        .users
        .values()
        .flat_map(|user| [&user.account.password_env, &user.account.backend_password_env])
        .flatten()
        .map(|name| name.value.as_str())
        .collect();
    for variable in unknown.iter().filter(|variable| !passwords.contains(variable.as_str())) {
        let source = Source::Variable((*variable).clone());
        report.error(&source, format!("unknown variable{}", nearest_variable(variable)));
    }
}

fn nearest_variable(variable: &str) -> String {
    let name = variable.strip_prefix(PREFIX).unwrap_or(variable);
    let (prefix, key, scope) = match name.rsplit_once("__") {
        Some((head, key)) => {
            let scope =
                if head.starts_with("USERS") { Scope::User(String::new()) } else { Scope::Database(String::new()) };
            (format!("{PREFIX}{head}__"), key, scope)
        }
        None => (PREFIX.to_owned(), name, Scope::Top),
    };
    let known: Vec<String> = scope.keys().iter().map(|key| key.to_ascii_uppercase()).collect();
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    match suggest::nearest(key, &known) {
        Some(near) if near != key => format!("; did you mean \"{prefix}{near}\"?"),
        _ => format!(
            "; variables are {PREFIX}<KEY>, {PREFIX}DATABASES__<NAME>__<KEY>, {PREFIX}ANY_DATABASE__<KEY> and \
             {PREFIX}USERS__<NAME>__<KEY>, with <KEY> one of {}",
            known.join(", ")
        ),
    }
}

/// The names that the file defines.
struct Names {
    databases: Vec<String>,
    users: Vec<String>,
}

impl Names {
    /// What a variable without its prefix is about; the key is not looked at. `None`: not of a known form.
    fn resolve(&self, name: &str) -> Option<(Scope, String)> {
        let Some((head, key)) = name.rsplit_once("__") else {
            return Some((Scope::Top, small(name)?));
        };
        let key = small(key)?;
        if head == "ANY_DATABASE" {
            return Some((Scope::Database("*".to_owned()), key));
        }
        if let Some(written) = head.strip_prefix("DATABASES__").filter(|written| !written.is_empty()) {
            return Some((Scope::Database(entry_name(written, &self.databases)), key));
        }
        let written = head.strip_prefix("USERS__").filter(|written| !written.is_empty())?;
        Some((Scope::User(entry_name(written, &self.users)), key))
    }
}

/// Keys are written in capitals; anything else is not a key.
fn small(key: &str) -> Option<String> {
    (!key.is_empty() && !key.contains(char::is_lowercase)).then(|| key.to_ascii_lowercase())
}

fn entry_name(written: &str, of_file: &[String]) -> String {
    if of_file.iter().any(|name| name == written) {
        return written.to_owned();
    }
    let mut alike = of_file.iter().filter(|name| name.to_lowercase() == written.to_lowercase());
    if let (Some(name), None) = (alike.next(), alike.next()) {
        return name.clone();
    }
    if written.contains(char::is_lowercase) { written.to_owned() } else { written.to_lowercase() }
}

/// What Kubernetes and Docker links put into every container beside a service named `pgfunnel`:
/// `PGFUNNEL_SERVICE_HOST`, `PGFUNNEL_PORT=tcp://…`, `PGFUNNEL_PORT_6432_TCP_ADDR` … No key of ours looks like these.
fn is_service_link(name: &str, text: &str) -> bool {
    if name.contains("__") {
        return false;
    }
    let name = format!("_{name}");
    let has_port_number = name
        .split("_PORT_")
        .skip(1)
        .any(|rest| rest.split('_').next().is_some_and(|number| number.parse::<u16>().is_ok()));
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || has_port_number
        || (name.ends_with("_PORT") && text.contains("://"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_case() {
        let names = Names {
            databases: ["app", "MyApp", "two", "TWO", "with__double"].map(str::to_owned).to_vec(),
            users: vec!["App User".to_owned()],
        };
        let database = |name: &str| Scope::Database(name.to_owned());
        for (variable, scope, key) in [
            ("POOL_SIZE", Scope::Top, "pool_size"),
            ("DATABASES__APP__HOST", database("app"), "host"),
            ("DATABASES__MYAPP__HOST", database("MyApp"), "host"),
            ("DATABASES__TWO__HOST", database("TWO"), "host"),
            ("DATABASES__Two__HOST", database("Two"), "host"),
            ("DATABASES__NEW__HOST", database("new"), "host"),
            ("DATABASES__New__HOST", database("New"), "host"),
            ("DATABASES__WITH__DOUBLE__HOST", database("with__double"), "host"),
            ("DATABASES__*__HOST", database("*"), "host"),
            ("ANY_DATABASE__TLS_CA", database("*"), "tls_ca"),
            ("USERS__APP USER__PASSWORD", Scope::User("App User".to_owned()), "password"),
        ] {
            assert_eq!(names.resolve(variable), Some((scope, key.to_owned())), "{variable}");
        }
        for variable in ["pool_size", "", "DATABASES__HOST", "DATABASES____HOST", "USERS__A__password", "X__A__HOST"] {
            assert_eq!(names.resolve(variable), None, "{variable}");
        }
    }

    #[test]
    fn service_links_are_not_ours() {
        for (name, text) in [
            ("SERVICE_HOST", "10.0.0.1"),
            ("SERVICE_PORT_HTTP", "9127"),
            ("PORT", "tcp://10.0.0.1:6432"),
            ("PORT_6432_TCP", "tcp://10.0.0.1:6432"),
            ("PORT_6432_TCP_ADDR", "10.0.0.1"),
            ("METRICS_SERVICE_HOST", "10.0.0.1"),
            ("METRICS_PORT_9127_TCP_PORT", "9127"),
        ] {
            assert!(is_service_link(name, text), "{name}");
        }
        for (name, text) in [("PORT", "6432"), ("POOL_SIZE", "20"), ("DATABASES__A__PORT", "tcp://10.0.0.1:5432")] {
            assert!(!is_service_link(name, text), "{name}");
        }
    }
}

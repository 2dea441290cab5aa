//! `[users.NAME]`, the user list file and `DATABASE_URL`'s user -> [`User`]. Reads secrets; shows none.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::raw::{self, Raw, Scope};
use super::set::Written;
use super::source::{Report, Source, Sourced};
use super::validate::{check_min_idle, or};
use super::{ClientAuth, Config, Password, PoolOverrides, Secret, UnlistedUsers, User, files, userlist};

/// All listed users by name. `[users.NAME]` wins over the user list, both win over `DATABASE_URL`.
pub(super) fn all(written: &Written, report: &mut Report) -> HashMap<String, User> {
    let raw = &written.raw;
    let mut users: HashMap<String, User> =
        raw.users.iter().map(|(name, user)| (name.clone(), listed(name, user, &written.variables, report))).collect();
    add_userlist(&raw.general.userlist, &mut users, report);
    if let Some(url_user) = &written.url_user {
        let entry = users.entry(url_user.name.clone()).or_default();
        if entry.secret.is_none() {
            entry.secret = url_user.password.clone().map(Secret::Plain);
        }
        if entry.secret.is_none() {
            report.warning(&url_user.source, format!("gives no password: \"{}\" cannot log in with it", url_user.name));
        }
    }
    let inline = raw.users.values().any(|user| {
        let account = &user.account;
        [&account.password, &account.secret, &account.backend_password]
            .into_iter()
            .flatten()
            .any(|secret| matches!(secret.source, Source::Line(..)))
    });
    if let (true, Some(file)) = (inline, &written.source) {
        warn_if_world_readable(file, report);
    }
    users
}

/// Users of the list; those of [users.NAME] only get the secret that they do not have.
fn add_userlist(path: &Option<Sourced<PathBuf>>, users: &mut HashMap<String, User>, report: &mut Report) {
    let Some(path) = path else { return };
    match userlist::load(&path.value) {
        Ok(list) => {
            for (name, secret) in list {
                let user = users.entry(name).or_default();
                user.secret = user.secret.take().or(secret);
            }
            warn_if_world_readable(&path.value, report);
        }
        Err(problem) => report.error(&path.source, format!("userlist: {problem}")),
    }
}

/// What a viewer of the live page must show.
pub(super) fn http_token(
    general: &raw::General,
    variables: &BTreeMap<String, String>,
    report: &mut Report,
) -> Option<Password> {
    let choice = Choice::of(
        &general.http_token,
        ("http_token_env", &general.http_token_env),
        ("http_token_file", &general.http_token_file),
        &None,
    );
    let resolver = Resolver { place: "", variables };
    match resolver.secret(&choice, report)? {
        Secret::Plain(token) => Some(token),
        Secret::Md5(_) | Secret::Scram(_) => None,
    }
}

fn listed(name: &str, user: &raw::User, variables: &BTreeMap<String, String>, report: &mut Report) -> User {
    let account = &user.account;
    let place = Scope::User(name.to_owned()).place();
    let resolver = Resolver { place: &place, variables };
    let secret = Choice::of(
        &account.password,
        ("password_env", &account.password_env),
        ("password_file", &account.password_file),
        &account.secret,
    );
    let backend = Choice::of(
        &account.backend_password,
        ("backend_password_env", &account.backend_password_env),
        ("backend_password_file", &account.backend_password_file),
        &None,
    );
    let pool = &user.pool;
    User {
        secret: resolver.secret(&secret, report),
        backend_password: resolver.secret(&backend, report).and_then(|secret| match secret {
            Secret::Plain(password) => Some(password),
            Secret::Md5(_) | Secret::Scram(_) => None,
        }),
        max_leases: or(&account.max_leases, None),
        max_clients: or(&account.max_clients, None),
        pool: PoolOverrides {
            mode: value(&pool.pool_mode),
            size: value(&pool.pool_size),
            min_idle: value(&pool.min_idle),
            borrow_timeout: value(&pool.borrow_timeout),
            max_waiting: value(&pool.max_waiting),
            query_timeout: value(&pool.query_timeout),
            log_slow_query: value(&pool.log_slow_query),
            log_slow_borrow: value(&pool.log_slow_borrow),
            idle_transaction_timeout: value(&pool.idle_transaction_timeout),
            client_idle_timeout: value(&pool.client_idle_timeout),
        },
    }
}

fn value<T: Clone>(written: &Option<Sourced<T>>) -> Option<T> {
    written.as_ref().map(|sourced| sourced.value.clone())
}

/// The ways in which one password may be given, those that were used.
struct Choice<'a> {
    given: Vec<(&'static str, &'a Source, Given<'a>)>,
}

enum Given<'a> {
    Password(&'a Password),
    Stored(&'a Password),
    Variable(&'a str),
    File(&'a Path),
}

impl<'a> Choice<'a> {
    fn of(
        password: &'a Option<Sourced<Password>>,
        env: (&'static str, &'a Option<Sourced<String>>),
        file: (&'static str, &'a Option<Sourced<PathBuf>>),
        stored: &'a Option<Sourced<Password>>,
    ) -> Self {
        let name = env.0.strip_suffix("_env").unwrap_or(env.0);
        let mut given: Vec<(&'static str, &Source, Given<'_>)> = [
            password.as_ref().map(|one| (name, &one.source, Given::Password(&one.value))),
            env.1.as_ref().map(|one| (env.0, &one.source, Given::Variable(&one.value))),
            file.1.as_ref().map(|one| (file.0, &one.source, Given::File(&one.value))),
            stored.as_ref().map(|one| ("secret", &one.source, Given::Stored(&one.value))),
        ]
        .into_iter()
        .flatten()
        .collect();
        // The environment wins over the file, also when it gives the password in another way.
        if given.iter().any(|(_, source, _)| matches!(source, Source::Variable(_))) {
            given.retain(|(_, source, _)| matches!(source, Source::Variable(_)));
        }
        Self { given }
    }
}

struct Resolver<'a> {
    place: &'a str,
    variables: &'a BTreeMap<String, String>,
}

impl Resolver<'_> {
    fn secret(&self, choice: &Choice<'_>, report: &mut Report) -> Option<Secret> {
        let place = self.place;
        if let [_, (key, source, _), ..] = choice.given.as_slice() {
            let keys: Vec<&str> = choice.given.iter().map(|(key, ..)| *key).collect();
            report.error(source, format!("{key}{place}: must be the only one of {}", keys.join(", ")));
            return None;
        }
        let (key, source, given) = choice.given.first()?;
        let outcome = match given {
            Given::Stored(text) => stored(&text.0),
            Given::Password(password) => plain(&password.0),
            Given::Variable(name) => self.variable(name),
            Given::File(path) => file(path, report),
        };
        outcome.map_err(|problem| report.error(source, format!("{key}{place}: {problem}"))).ok()
    }

    fn variable(&self, name: &str) -> Result<Secret, String> {
        match self.variables.get(name).filter(|text| !text.is_empty() && !text.contains('\u{fffd}')) {
            Some(text) => plain(text),
            None => Err(format!("must name an environment variable that holds the password; \"{name}\" does not")),
        }
    }
}

fn file(path: &Path, report: &mut Report) -> Result<Secret, String> {
    let shown = path.display();
    let text = files::read_text(path)
        .map_err(|error| format!("must name a file that holds the password; \"{shown}\": {error}"))?;
    warn_if_world_readable(path, report);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let text = text.strip_suffix('\r').unwrap_or(text);
    if text.is_empty() || text.contains('\n') {
        return Err(format!("must name a file of one line, the password; \"{shown}\" is not"));
    }
    if text.contains('\0') {
        return Err(format!("must name a file of text; \"{shown}\" has NUL in it"));
    }
    plain(text)
}

/// A password. PostgreSQL itself would take one that looks like a stored secret for that secret.
fn plain(text: &str) -> Result<Secret, String> {
    match Secret::classify(text) {
        Ok(Secret::Plain(password)) => Ok(Secret::Plain(password)),
        _ => Err("must be the password itself; a stored secret (md5…, SCRAM-SHA-256$…) belongs in \"secret\"".into()),
    }
}

/// A secret as PostgreSQL stores it.
fn stored(text: &str) -> Result<Secret, String> {
    let right = "must be as pg_authid.rolpassword has it: \"md5\" and 32 hexadecimal digits, or a SCRAM verifier";
    match Secret::classify(text) {
        Ok(Secret::Plain(_)) => Err(format!("{right}; a password itself belongs in \"password\"")),
        Ok(secret) => Ok(secret),
        Err(problem) => Err(format!("{right}; {problem}")),
    }
}

/// Others on this machine could read the passwords in `path`.
pub(super) fn warn_if_world_readable(path: &Path, report: &mut Report) {
    let Ok(metadata) = std::fs::metadata(path) else { return };
    let mode = metadata.permissions().mode() & 0o777;
    if mode & 0o004 != 0 {
        let message = format!("holds passwords and can be read by everybody (mode {mode:03o}); chmod 640 or less");
        report.warning(&Source::File(Arc::from(path)), message);
    }
}

/// What only shows when databases and users are known.
pub(super) fn check(raw: &Raw, config: &Config, report: &mut Report) {
    for (name, entry) in &raw.databases {
        let database = if name == "*" { config.any_database.as_ref() } else { config.databases.get(name) };
        let Some(database) = database else { continue };
        check_auth_query(name, entry, database, config, report);
        for (user, written) in &raw.users {
            if let Some(settings) = config.pool_settings(name, user) {
                check_min_idle(&settings, &written.pool.min_idle, &written.pool.pool_size, report);
            }
        }
    }
    warn_of_md5(config, report);
    if let Some(source) = raw.users.get("*").and_then(|user| user.declared.as_ref()) {
        let message = "[users.\"*\"]: is the user of this very name, and no other; users that are not listed are up to \
                       the unlisted_users of their database";
        report.warning(source, message);
    }
    let can_log_in = config.auth == ClientAuth::Trust
        || config.users.values().any(|user| user.secret.is_some())
        || config.databases.values().chain(&config.any_database).any(|one| one.unlisted_users != UnlistedUsers::Refuse);
    if !can_log_in {
        let message = "nobody can log in: no user has a password (tables [users.NAME], userlist) and no database has \
                       unlisted_users = \"auth_query\" or \"pass_through\"";
        report.warning(&Source::Configuration, message);
    }
}

fn check_auth_query(
    name: &str,
    entry: &raw::Database,
    database: &super::Database,
    config: &Config,
    report: &mut Report,
) {
    let UnlistedUsers::AuthQuery { user, .. } = &database.unlisted_users else { return };
    let Some(written) = &entry.target.auth_query_user else { return };
    let place = Scope::Database(name.to_owned()).place();
    let Some(known) = config.users.get(user) else {
        let message = format!("auth_query_user = \"{user}\"{place}: must be listed, in [users.NAME] or the userlist");
        return report.error(&written.source, message);
    };
    // Not an error: the server may trust our address or certificate.
    if known.backend_password.is_none() && matches!(known.secret, None | Some(Secret::Scram(_))) {
        let message = format!("auth_query_user = \"{user}\"{place}: has no password to log in to PostgreSQL with");
        report.warning(&written.source, message);
    }
}

/// Users that could never log in.
fn warn_of_md5(config: &Config, report: &mut Report) {
    if config.auth != ClientAuth::Scram {
        return;
    }
    let mut names: Vec<&str> = config
        .users
        .iter()
        .filter(|(_, user)| matches!(user.secret, Some(Secret::Md5(_))))
        .map(|(name, _)| name.as_str())
        .collect();
    names.sort_unstable();
    if let Some(first) = names.first() {
        let message = format!(
            "{} user(s) have only an md5 hash (first: \"{first}\") and cannot log in: set auth = \"md5\" or store \
             SCRAM secrets",
            names.len()
        );
        report.warning(&Source::Configuration, message);
    }
}

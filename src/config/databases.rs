//! `[databases.NAME]` -> [`Database`].

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use super::raw::{self, Raw, Scope, Unlisted};
use super::source::{Report, Source, Sourced};
use super::validate::{check_pool, or, pool_settings};
use super::{Database, PoolSettings, PoolSize, UnlistedUsers, defaults, tls};

/// The name that stands for every other.
const ANY: &str = "*";

/// All entries by name, and the one named `*`.
pub(super) fn all(
    raw: &Raw,
    defaults: &PoolSettings,
    file: Option<&Path>,
    report: &mut Report,
) -> (HashMap<String, Database>, Option<Database>) {
    let mut databases: HashMap<String, Database> = raw
        .databases
        .iter()
        .filter_map(|(name, entry)| Some((name.clone(), database(name, entry, defaults, report)?)))
        .collect();
    if raw.databases.is_empty() {
        let message = "no database: needs a table [databases.NAME] with a host, or the variable DATABASE_URL=\
                       postgres://user:password@host:port/database";
        let source = file.map_or(Source::Configuration, |file| Source::File(Arc::from(file)));
        report.error(&source, message);
    }
    let any = databases.remove(ANY);
    (databases, any)
}

/// `None`: there is no host, which is in the report.
fn database(name: &str, entry: &raw::Database, defaults: &PoolSettings, report: &mut Report) -> Option<Database> {
    let target = &entry.target;
    let source = entry.declared.clone().unwrap_or(Source::Configuration);
    let place = Scope::Database(name.to_owned()).place();
    let Some(host) = &target.host else {
        if !entry.faulty {
            report.error(&source, format!("host is missing{place}: must name the PostgreSQL server"));
        }
        return None;
    };
    let pool = pool_settings(defaults.clone(), &entry.pool);
    check_pool(&pool, &entry.pool, report);
    check_max_backends(&pool, &target.max_backends, &place, report);
    Some(Database {
        host: host.value.clone(),
        port: u16::try_from(or(&target.port, usize::from(defaults::PORT))).unwrap_or(defaults::PORT),
        dbname: target.dbname.as_ref().map(|dbname| dbname.value.clone()),
        tls: tls::backend(target, report),
        max_backends: or(&target.max_backends, None),
        unlisted_users: unlisted_users(target, &source, &place, report),
        pool,
    })
}

/// A bound of all users' backends that a single pool would exceed.
fn check_max_backends(
    pool: &PoolSettings,
    max_backends: &Option<Sourced<Option<usize>>>,
    place: &str,
    report: &mut Report,
) {
    let (Some(Sourced { value: Some(most), source, .. }), PoolSize::Count(size)) = (max_backends, pool.size) else {
        return;
    };
    if *most < size {
        let message = format!("max_backends = {most}{place}: the pool_size of {size} can never be reached");
        report.warning(source, message);
    }
}

fn unlisted_users(target: &raw::Target, source: &Source, place: &str, report: &mut Report) -> UnlistedUsers {
    let useless = |report: &mut Report| {
        let keys = [("auth_query_user", &target.auth_query_user), ("auth_query", &target.auth_query)];
        for (key, value) in keys.into_iter().filter_map(|(key, value)| Some((key, value.as_ref()?))) {
            let message = format!("{key}{place}: does nothing without unlisted_users = \"auth_query\"");
            report.error(&value.source, message);
        }
        UnlistedUsers::Refuse
    };
    match target.unlisted_users.as_ref().map(|unlisted| (unlisted.value, &unlisted.source)) {
        None => useless(report),
        Some((Unlisted::Refuse, _)) => UnlistedUsers::Refuse,
        Some((Unlisted::PassThrough, _)) => UnlistedUsers::PassThrough,
        Some((Unlisted::AuthQuery, at)) => {
            let Some(user) = &target.auth_query_user else {
                let message = format!(
                    "unlisted_users = \"auth_query\"{place}: needs auth_query_user, the listed user that runs the query"
                );
                report.error(at, message);
                return UnlistedUsers::Refuse;
            };
            let query = or(&target.auth_query, defaults::AUTH_QUERY.to_owned());
            if !query.contains("$1") {
                let at = target.auth_query.as_ref().map_or(source, |query| &query.source);
                report.error(at, format!("auth_query = {query:?}{place}: must have $1 where the user's name goes"));
            }
            UnlistedUsers::AuthQuery { user: user.value.clone(), query }
        }
    }
}

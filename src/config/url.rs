//! `DATABASE_URL` -> a database entry and a user, where nothing else defines them. Never shows the URL: it holds a
//! password. (libpq's URIs: manual, "Connection URIs"; `sslmode` and its files: "SSL Support".)

use std::collections::BTreeMap;
use std::path::Path;

use percent_encoding::percent_decode_str;
use tokio_postgres::config::Host;

use super::Password;
use super::raw::{Raw, Scope};
use super::source::{Report, Source};
use super::suggest;
use super::value::{Data, Written};

const VARIABLE: &str = "DATABASE_URL";
/// Parameters that become keys of the database entry.
const KEYS: [(&str, &str); 5] = [
    ("sslmode", "tls"),
    ("sslrootcert", "tls_ca"),
    ("sslcert", "tls_cert"),
    ("sslkey", "tls_key"),
    ("connect_timeout", "connect_timeout"),
];
/// Parameters that say where and who; tokio-postgres reads them.
const PARSED: [&str; 6] = ["host", "hostaddr", "port", "dbname", "user", "password"];
/// Parameters of libpq and of common drivers that mean the application's own connection, not ours.
const IGNORED: [&str; 24] = [
    "application_name",
    "channel_binding",
    "client_encoding",
    "connection_limit",
    "fallback_application_name",
    "gssencmode",
    "gsslib",
    "keepalives",
    "keepalives_count",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_retries",
    "krbsrvname",
    "load_balance_hosts",
    "options",
    "pgbouncer",
    "pool_timeout",
    "schema",
    "socket_timeout",
    "sslcompression",
    "sslnegotiation",
    "statement_cache_size",
    "target_session_attrs",
    "tcp_user_timeout",
];

/// The user that the URL names.
#[derive(Debug, Clone)]
pub(super) struct UrlUser {
    pub(super) name: String,
    pub(super) password: Option<Password>,
    pub(super) source: Source,
}

/// Fill in the URL's database entry and return its user.
pub(super) fn read(variables: &BTreeMap<String, String>, raw: &mut Raw, report: &mut Report) -> Option<UrlUser> {
    let url = variables.get(VARIABLE)?;
    let source = Source::Variable(VARIABLE.to_owned());
    let target = match Target::parse(url) {
        Ok(target) => target,
        Err(problem) => {
            let right = "must be postgres://user:password@host:port/database?sslmode=…";
            report.error(&source, format!("{problem}; {right}"));
            return None;
        }
    };
    for name in &target.ignored {
        report.warning(&source, format!("parameter \"{name}\" has no meaning for pgfunnel and is ignored"));
    }
    let entry = raw.databases.get(&target.database);
    if entry.is_none_or(|entry| entry.target.host.is_none()) {
        let scope = Scope::Database(target.database.clone());
        for (key, text) in &target.keys {
            if raw.databases.get(&target.database).is_none_or(|entry| !entry.has(key)) {
                // libpq, too, takes the files of a URL relative to the working directory.
                let written = Written { data: Data::Variable(text), base: Path::new("") };
                raw.assign(&scope, key, &written, &source, report);
            }
        }
    }
    Some(UrlUser { name: target.user, password: target.password, source })
}

/// What a URL says.
#[derive(Debug, PartialEq)]
struct Target {
    user: String,
    password: Option<Password>,
    database: String,
    /// Keys of the database entry.
    keys: Vec<(&'static str, String)>,
    ignored: Vec<String>,
}

impl Target {
    fn parse(url: &str) -> Result<Self, String> {
        check_encoding(url)?;
        if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
            return Err("does not begin with postgres:// or postgresql://".to_owned());
        }
        let Split { url, tls, ignored } = Split::new(url)?;
        let config: tokio_postgres::Config = url.parse().map_err(|error: tokio_postgres::Error| {
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        })?;
        let user = config.get_user().filter(|user| !user.is_empty()).ok_or("names no user")?.to_owned();
        let password = match config.get_password() {
            Some(bytes) => {
                let text = std::str::from_utf8(bytes).map_err(|_| "has a password that is not UTF-8")?;
                (!text.is_empty()).then(|| Password(text.to_owned()))
            }
            None => None,
        };
        // As libpq: the database is called like the user unless it is named.
        let database = config.get_dbname().unwrap_or(&user).to_owned();
        let mut keys = vec![("host", host(&config)?), ("dbname", database.clone())];
        if let [port] = config.get_ports() {
            keys.push(("port", port.to_string()));
        }
        keys.extend(tls);
        as_libpq(&mut keys);
        Ok(Self { user, password, database, keys, ignored })
    }
}

fn host(config: &tokio_postgres::Config) -> Result<String, String> {
    match (config.get_hosts(), config.get_hostaddrs()) {
        ([] | [_], [address]) => Ok(address.to_string()),
        ([Host::Tcp(name)], []) => Ok(name.clone()),
        ([Host::Unix(directory)], []) => {
            directory.to_str().map(str::to_owned).ok_or_else(|| "has a host that is not UTF-8".to_owned())
        }
        ([], []) => Err("names no host".to_owned()),
        _ => Err("names several hosts; pgfunnel serves one per database entry".to_owned()),
    }
}

/// Refuses a URL that is not percent-encoded where that matters: the rest of a password would be taken for another part,
/// and shown; a line's end, for the end of a name.
///
/// # Errors
/// What to write instead.
pub(crate) fn check_encoding(url: &str) -> Result<(), String> {
    check_characters(url)?;
    let rest = url.split_once("://").map_or("", |(_, rest)| rest);
    let (login, rest) = rest.split_once('@').unwrap_or(("", rest));
    let (place, query) = rest.split_once('?').unwrap_or((rest, ""));
    let user = login.split_once(':').map_or(login, |(user, _)| user);
    // In front of the first @ there may be the password of the query.
    let in_query = user.contains(['/', '?']) || login.contains("?password=") || login.contains("&password=");
    if in_query || place.contains('@') {
        return Err("has an @ too many: in a password it must be written %40".to_owned());
    }
    // libpq knows no fragments: to it this is part of a name.
    if rest.contains('#') {
        return Err("has a # behind the login, where it must be written %23".to_owned());
    }
    check_percent(url)?;
    let names = || query.split('&').filter_map(|parameter| parameter.split_once('=')).map(|(name, _)| name);
    let may_show = !query.contains('@') && !names().any(|name| name == "password");
    if !may_show && names().any(|name| !known_parameters().any(|known| known == name)) {
        return Err("has an unknown parameter; in a password @ must be written %40, & %26, and ? %3F".to_owned());
    }
    Ok(())
}

/// What came into the URL by accident: from a file that ends in a line's end, say.
fn check_characters(url: &str) -> Result<(), String> {
    let wrong = if url.contains('\u{fffd}') {
        "is not valid UTF-8"
    } else if url.trim() != url {
        "begins or ends with a space or a line's end"
    } else if url.contains(char::is_control) {
        "has a control character in it, which must be percent-encoded (a tab is %09)"
    } else {
        return Ok(());
    };
    Err(wrong.to_owned())
}

/// As libpq (`conninfo_uri_decode`): a `%` without its digits would be taken for itself, and `%00` ends a string.
fn check_percent(url: &str) -> Result<(), String> {
    for behind in url.split('%').skip(1) {
        let digits = behind.as_bytes().get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        match digits {
            Some(b"00") => return Err("has %00 in it, which no part of it can hold".to_owned()),
            Some(_) => {}
            None => return Err("has a % without two hexadecimal digits behind it: it must be written %25".to_owned()),
        }
    }
    Ok(())
}

fn known_parameters() -> impl Iterator<Item = &'static str> {
    KEYS.iter().map(|(theirs, _)| *theirs).chain(PARSED).chain(IGNORED)
}

/// `sslrootcert=system` means the system's authorities, and `verify-full` unless something else is asked for.
fn as_libpq(keys: &mut Vec<(&'static str, String)>) {
    let before = keys.len();
    keys.retain(|(key, value)| !(*key == "tls_ca" && value == "system"));
    if keys.len() < before && !keys.iter().any(|(key, _)| *key == "tls") {
        keys.push(("tls", "verify-full".to_owned()));
    }
}

/// A URL without the parameters that tokio-postgres does not know, and those parameters.
struct Split {
    url: String,
    tls: Vec<(&'static str, String)>,
    ignored: Vec<String>,
}

impl Split {
    fn new(url: &str) -> Result<Self, String> {
        // A `?` in front of the `@` belongs to a password.
        let after_login = url.find('@').unwrap_or(0);
        let (base, query) = match url.get(after_login..).and_then(|rest| rest.split_once('?')) {
            Some((head, query)) => (url.get(..after_login + head.len()).unwrap_or(url), query),
            None => (url, ""),
        };
        let (mut kept, mut tls, mut ignored) = (Vec::new(), Vec::new(), Vec::new());
        for parameter in query.split('&').filter(|parameter| !parameter.is_empty()) {
            let (name, value) = parameter.split_once('=').ok_or("has a parameter without a value")?;
            if let Some((_, key)) = KEYS.iter().find(|(theirs, _)| *theirs == name) {
                let value = percent_decode_str(value).decode_utf8().map_err(|_| format!("{name} is not UTF-8"))?;
                // To libpq a connect_timeout of 0 is none; ours must end some time, so the default stays.
                let is_default = value.is_empty() || (name == "connect_timeout" && value == "0");
                if !is_default {
                    tls.push((*key, value.into_owned()));
                }
            } else if PARSED.contains(&name) {
                kept.push(parameter);
            } else if IGNORED.contains(&name) {
                ignored.push(name.to_owned());
            } else {
                let known: Vec<&str> = known_parameters().collect();
                return Err(format!("unknown parameter \"{name}\"{}", suggest::hint(name, &known)));
            }
        }
        let separator = if kept.is_empty() { "" } else { "?" };
        Ok(Self { url: format!("{base}{separator}{}", kept.join("&")), tls, ignored })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts() {
        let target = Target::parse(
            "postgres://us%40er:p%3Fw?x@db.example:5433/app?sslmode=verify-ca&sslrootcert=%2Fca.pem\
             &connect_timeout=7&schema=public",
        )
        .expect("valid");
        assert_eq!(target.user, "us@er");
        assert_eq!(target.password, Some(Password("p?w?x".to_owned())));
        assert_eq!(target.database, "app");
        let keys: Vec<(&str, &str)> = target.keys.iter().map(|(key, value)| (*key, value.as_str())).collect();
        assert_eq!(
            keys,
            [
                ("host", "db.example"),
                ("dbname", "app"),
                ("port", "5433"),
                ("tls", "verify-ca"),
                ("tls_ca", "/ca.pem"),
                ("connect_timeout", "7"),
            ]
        );
        assert_eq!(target.ignored, ["schema"]);
    }

    #[test]
    fn short_forms() {
        let value = |url: &str, key: &str| {
            let target = Target::parse(url).expect(url);
            target.keys.into_iter().find(|(name, _)| *name == key).map(|(_, value)| value)
        };
        assert_eq!(value("postgresql://app@db", "dbname").as_deref(), Some("app"));
        assert_eq!(value("postgres://app@db/x", "port").as_deref(), Some("5432"));
        assert_eq!(value("postgres://app@[::1]:7/x", "host").as_deref(), Some("::1"));
        assert_eq!(value("postgres://app@%2Frun%2Fpg/x", "host").as_deref(), Some("/run/pg"));
        assert_eq!(value("postgres:///x?host=/run/pg&user=app", "host").as_deref(), Some("/run/pg"));
        assert_eq!(value("postgres://a@db/x?sslrootcert=system", "tls").as_deref(), Some("verify-full"));
        assert_eq!(value("postgres://a@db/x?sslrootcert=system", "tls_ca"), None);
        assert_eq!(value("postgres://a@db/x?sslmode=require&sslrootcert=system", "tls").as_deref(), Some("require"));
    }

    #[test]
    fn wrong_ones_say_why_and_hide_the_password() {
        for (url, part) in [
            ("mysql://a:hunter2@db/x", "does not begin with postgres://"),
            ("postgres://db/x?password=hunter2", "names no user"),
            ("postgres://a:hunter2@/x", "names no host"),
            ("postgres://a:hunter2@db1,db2/x", "several hosts"),
            ("postgres://a:hunter2@db:port/x", "port"),
            ("postgres://a:hunter2@db/x?sslmod=require", "did you mean \"sslmode\"?"),
            ("postgres://a:hunter2@db/x?sslmode", "without a value"),
        ] {
            let problem = Target::parse(url).expect_err(url);
            assert!(problem.contains(part), "{url}: {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn what_is_not_encoded_is_not_shown_in_another_part() {
        for (url, part) in [
            ("postgres://a:x@hunter2@db:5432/app", "%40"),
            ("postgres://a:x@y/hunter2@db:5432/app", "%40"),
            ("postgres://a:x/y@hunter2@db/app", "%40"),
            ("postgres://a:x#y@hunter2@db/app", "%40"),
            ("postgres://a:x@y?hunter2@db/app", "without a value"),
            ("postgres://a:x@y?hunter2=z@db/app", "%40"),
            ("postgres://db/x?user=a&password=x@hunter2", "%40"),
            ("postgres://db:5432/x?user=a&password=x@hunter2", "%40"),
            ("postgres:///x?host=/run/pg&user=a&password=x@hunter2", "%40"),
            ("postgres://a@db/x?password=x&hunter2=y", "%26"),
            ("postgres://a@db/x?password=x&hunter2", "without a value"),
            ("postgres://a:hunter2/x", "port"),
            ("postgres://a:hunter2@db/x\n", "begins or ends with a space or a line's end"),
            (" postgres://a:hunter2@db/x", "begins or ends with a space or a line's end"),
            ("postgres://a:hunter2@db/x\r\n", "begins or ends with a space or a line's end"),
            ("postgres://a:hunter2\n@db/x", "control character"),
            ("postgres://a:hunter2\u{fffd}@db/x", "UTF-8"),
            ("postgres://a:hunter2%ZZ@db/x", "%25"),
            ("postgres://a:hunter2%4@db/x", "%25"),
            ("postgres://a:hunter2%@db/x", "%25"),
            ("postgres://a:hunter2%00@db/x", "%00"),
            ("postgres://a@db/x?password=hunter2%", "%25"),
            ("postgres://a:hunter2@db/x#y", "%23"),
            ("postgres://a@db/x?password=hunter2#y", "%23"),
            ("postgres://a:hunter2#y/x", "%23"),
        ] {
            let problem = Target::parse(url).expect_err(url);
            assert!(problem.contains(part), "{url}: {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        for (url, password) in [
            ("postgres://a:x%40y@db/app", "x@y"),
            ("postgres://a:x/y?z=#w:v@db/app", "x/y?z=#w:v"),
            ("postgres://a@db/x?password=y%40z%26&application_name=a@b", "y@z&"),
        ] {
            assert_eq!(Target::parse(url).expect(url).password, Some(Password(password.to_owned())));
        }
    }
}

//! The reference file against the code, and what whole configurations come to.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::raw::Scope;
use super::*;

const REFERENCE: &str = include_str!("../../config/pgfunnel.toml");

fn load_file(text: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("pgfunnel.toml");
    std::fs::write(&path, text).expect("a file");
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let config = Config::load(Some(&path), variables)?;
    Ok(Config { source: None, ..config })
}

fn load(variables: &[(&str, &str)]) -> Config {
    let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Config::load(None, variables).unwrap_or_else(|errors| panic!("{errors}"))
}

fn scope(header: &str) -> Scope {
    match header.split_once('.') {
        Some(("databases", name)) => Scope::Database(name.to_owned()),
        Some(("users", name)) => Scope::User(name.to_owned()),
        _ => panic!("unknown table [{header}]"),
    }
}

/// The key of `key = value`, `#key = value` (a default) or `## key = value` (an example); prose begins with `# `.
fn key(line: &str) -> Option<&str> {
    let line = line.strip_prefix("## ").or_else(|| line.strip_prefix('#')).unwrap_or(line);
    let (key, _) = line.split_once(" = ")?;
    key.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_').then_some(key)
}

#[test]
fn the_reference_has_every_key_and_no_other() {
    let mut at = Scope::Top;
    let mut found = BTreeSet::new();
    // The head explains the notation with keys that are none.
    let (_, body) = REFERENCE.split_once("# ---- Where").expect("the first section");
    for line in body.lines() {
        let bare = line.trim_start_matches(['#', ' ']);
        if let Some(header) = bare.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            at = scope(header);
        } else if let Some(key) = key(line) {
            assert!(at.keys().contains(&key), "the reference has {key}{}", at.place());
            assert!(found.insert((at.clone(), key.to_owned())), "twice in the reference: {key}{}", at.place());
        }
    }
    for scope in [Scope::Top, Scope::Database("\"*\"".to_owned()), Scope::User("app".to_owned())] {
        for key in scope.keys() {
            assert!(found.contains(&(scope.clone(), key.to_owned())), "not in the reference: {key}{}", scope.place());
        }
    }
}

#[test]
fn the_reference_shows_the_defaults() {
    let written = load_file(REFERENCE, &[]).expect("the reference is valid");
    let uncommented: String = REFERENCE
        .lines()
        .map(|line| match line.strip_prefix('#') {
            Some(rest) if rest.starts_with(|c: char| c.is_ascii_lowercase()) => format!("{rest}\n"),
            _ => format!("{line}\n"),
        })
        .collect();
    assert!(uncommented.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).count() >= 30);
    let defaults = load_file(&uncommented, &[]).expect("its defaults are valid");
    assert_eq!(format!("{written:#?}"), format!("{defaults:#?}"));
    let minimal = load(&[("PGFUNNEL_DATABASES__X__HOST", "x")]);
    assert_eq!(written.any_database.expect("an entry").pool, minimal.databases["x"].pool);

    // auth_query only counts with unlisted_users = "auth_query".
    let query =
        uncommented.replace("= \"pass_through\"", "= \"auth_query\"\nauth_query_user = \"q\"") + "\n[users.q]\n";
    let of = |text: &str| load_file(text, &[]).expect("valid").any_database.expect("an entry").unlisted_users;
    let unsaid: String =
        query.lines().filter(|line| !line.starts_with("auth_query =")).map(|l| format!("{l}\n")).collect();
    assert_ne!(query, unsaid);
    assert_eq!(of(&query), of(&unsaid));
}

#[test]
fn a_url_makes_a_database_and_a_user() {
    let config = load(&[("DATABASE_URL", "postgres://app:secret@db.example:5433/shop?sslmode=verify-full")]);
    let database = &config.databases["shop"];
    assert_eq!((database.host.as_str(), database.port, database.dbname.as_deref()), ("db.example", 5433, Some("shop")));
    assert_eq!(database.tls, BackendTls { mode: BackendTlsMode::VerifyFull, ca: None, identity: None });
    assert_eq!(database.unlisted_users, UnlistedUsers::Refuse);
    assert_eq!(database.pool, PoolSettings::default());
    assert_eq!(config.users["app"].secret, Some(Secret::Plain(Password("secret".to_owned()))));
    assert_eq!(config.auth, ClientAuth::Scram);
    assert_eq!(config.listen, [ListenAddr::Tcp("127.0.0.1:6432".parse().expect("valid"))]);
    assert_eq!(config.http_listen, Some("127.0.0.1:9127".parse().expect("valid")));
    assert!(config.any_database.is_none() && config.database("other").is_none());
}

#[test]
fn a_url_changes_nothing_that_is_defined_elsewhere() {
    let url = ("DATABASE_URL", "postgres://app:secret@elsewhere:5433/shop?connect_timeout=9");
    let file = "[databases.shop]\nhost = 'here'\n[users.app]\npassword = 'other'\nmax_leases = 3\n";
    let config = load_file(file, &[url]).expect("valid");
    let database = &config.databases["shop"];
    assert_eq!((database.host.as_str(), database.port), ("here", 5432));
    assert_eq!(database.pool.connect_timeout, Duration::from_secs(5));
    assert_eq!(config.users["app"].secret, Some(Secret::Plain(Password("other".to_owned()))));

    // Settings without a host, a user without a password: the URL fills in the rest.
    let file = "[databases.shop]\nport = 1\n[users.app]\nmax_leases = 3\n";
    let config = load_file(file, &[url]).expect("valid");
    let database = &config.databases["shop"];
    assert_eq!((database.host.as_str(), database.port), ("elsewhere", 1));
    assert_eq!(database.pool.connect_timeout, Duration::from_secs(9));
    let user = &config.users["app"];
    assert_eq!((user.max_leases, &user.secret), (Some(3), &Some(Secret::Plain(Password("secret".to_owned())))));
}

#[test]
fn settings_go_from_the_top_to_databases_to_users() {
    let config = load_file(
        "pool_size = 9\nborrow_timeout = '1s'\nquery_timeout = '3s'\n\
         [databases.app]\nhost = 'x'\npool_size = 5\nidle_timeout = 'off'\n\
         [databases.'*']\nhost = 'y'\n\
         [users.u]\npool_size = 2\npool_mode = 'session'\nquery_timeout = 'off'\n",
        &[("PGFUNNEL_ANY_DATABASE__POOL_SIZE", "80%"), ("PGFUNNEL_USERS__U__BORROW_TIMEOUT", "250ms")],
    )
    .expect("valid");
    let app = config.pool_settings("app", "nobody").expect("listed");
    assert_eq!((app.size, app.borrow_timeout, app.idle_timeout), (PoolSize::Count(5), Duration::from_secs(1), None));
    let u = config.pool_settings("app", "u").expect("listed");
    assert_eq!((u.size, u.mode, u.query_timeout), (PoolSize::Count(2), PoolMode::Session, None));
    assert_eq!(u.borrow_timeout, Duration::from_millis(250));
    assert_eq!(config.pool_settings("other", "nobody").expect("by *").size, PoolSize::Share(0.8));
}

#[test]
fn the_bound_of_the_process_follows_the_pools() {
    let bound = |variables: &[(&str, &str)]| {
        let mut all = vec![("PGFUNNEL_DATABASES__X__HOST", "x")];
        all.extend(variables);
        load(&all).max_backends
    };
    assert_eq!(bound(&[]), 100);
    assert_eq!(bound(&[("PGFUNNEL_POOL_SIZE", "250")]), 250);
    assert_eq!(bound(&[("PGFUNNEL_POOL_SIZE", "250"), ("PGFUNNEL_MAX_BACKENDS", "90")]), 90);
    assert_eq!(bound(&[("PGFUNNEL_POOL_SIZE", "50%"), ("PGFUNNEL_MAX_CLIENTS", "700")]), 700);
}

#[test]
fn paths_are_relative_to_the_file() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("word"), "s\r\n").expect("a file");
    let file = directory.path().join("pgfunnel.toml");
    std::fs::write(&file, "[databases.x]\nhost = 'x'\n[users.u]\npassword_file = 'word'\n").expect("a file");
    let config = Config::load(Some(&file), std::iter::empty()).expect("valid");
    assert_eq!(config.users["u"].secret, Some(Secret::Plain(Password("s".to_owned()))));
    assert_eq!(config.source.as_deref(), Some(Path::new(&file)));
}

#[test]
fn the_configuration_wins_over_the_userlist_and_both_over_the_url() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("list"), "\"a\" \"list\"\n\"b\" \"list\"\n\"c\" \"list\"\n").expect("a file");
    let file = directory.path().join("pgfunnel.toml");
    let text = "userlist = 'list'\n[users.a]\npassword = 'file'\n[users.b]\nmax_leases = 1\n";
    std::fs::write(&file, text).expect("a file");
    let url = ("DATABASE_URL".to_owned(), "postgres://c:url@db/x".to_owned());
    let config = Config::load(Some(&file), std::iter::once(url)).expect("valid");
    let secret = |user: &str| config.users[user].secret.clone();
    let plain = |text: &str| Some(Secret::Plain(Password(text.to_owned())));
    assert_eq!((secret("a"), secret("b"), secret("c")), (plain("file"), plain("list"), plain("list")));
    assert_eq!(config.users["b"].max_leases, Some(1));
}

#[test]
fn authorities_make_require_verify_as_in_libpq() {
    let authority = rcgen::generate_simple_self_signed(vec!["ca".to_owned()]).expect("a certificate");
    let directory = tempfile::tempdir().expect("a directory");
    let ca: PathBuf = directory.path().join("ca.pem");
    std::fs::write(&ca, authority.cert.pem()).expect("a file");
    let ca = ca.to_str().expect("UTF-8");
    for (word, mode, warned) in [
        ("require", BackendTlsMode::VerifyCa, false),
        ("verify-full", BackendTlsMode::VerifyFull, false),
        ("prefer", BackendTlsMode::Prefer, true),
    ] {
        let url = format!("postgres://u:p@db/x?sslmode={word}&sslrootcert={}", ca.replace('/', "%2F"));
        let config = load(&[("DATABASE_URL", &url)]);
        assert_eq!(config.databases["x"].tls.mode, mode);
        assert_eq!(config.databases["x"].tls.ca.as_deref(), Some(Path::new(ca)));
        assert_eq!(config.warnings.iter().any(|warning| warning.contains("tls_ca: is not looked at")), warned);
    }
}

#[test]
fn debug_output_shows_no_secret() {
    let config = load(&[
        ("DATABASE_URL", "postgres://app:hunter2@db/x"),
        ("PGFUNNEL_USERS__B__PASSWORD", "hunter2"),
        ("PGFUNNEL_USERS__B__BACKEND_PASSWORD", "hunter2"),
        ("PGFUNNEL_USERS__C__SECRET", "md5d0322c4cd9ee5d9d0322c4cd9ee5d9aa"),
    ]);
    let shown = format!("{config:?}");
    assert!(!shown.contains("hunter2") && !shown.contains("d0322"), "{shown}");
}

#[test]
fn networks() {
    let network = |addr: &str, prefix| Network { addr: addr.parse().unwrap(), prefix };
    for (net, ip, expected) in [
        (network("10.0.0.0", 8), "10.9.8.7", true),
        (network("10.0.0.0", 8), "11.0.0.1", false),
        (network("10.0.0.0", 8), "::ffff:10.0.0.1", true),
        (network("0.0.0.0", 0), "1.2.3.4", true),
        (network("0.0.0.0", 0), "::1", false),
        (network("::1", 128), "::1", true),
        (network("::", 0), "fe80::1", true),
    ] {
        assert_eq!(net.contains(ip.parse().unwrap()), expected, "{net:?} {ip}");
    }
}

//! Where the configuration comes from (files, variables, a URL), and what is only warned of.

use super::*;

#[test]
fn the_environment_wins() {
    let file = "max_clients = 0\nmax_backends = 50\n[databases.app]\nhost = \"127.0.0.1\"\n";
    Case::new(file).var("PGFUNNEL_MAX_CLIENTS", "7").refused(&["pgfunnel.toml:1: max_clients = 0"]);
    let file = file.replace("max_clients = 0", "max_clients = 5");
    let (summary, _) = Case::new(&file).var("PGFUNNEL_MAX_CLIENTS", "7").accepted();
    assert_eq!(summary, "config ok: 1 database, 0 users, 1 listener, at most 50 backends for 7 clients\n");
    // Another way to give the password replaces the file's way.
    let file = format!("{DATABASE}[users.app]\npassword_env = 'ABSENT'\n");
    Case::new(&file).refused(&["password_env"]);
    Case::new(&file).var("PGFUNNEL_USERS__APP__PASSWORD", "hunter2").accepted();
}

#[test]
fn variables_that_are_not_settings() {
    Case::new(&format!("{DATABASE}[users.app]\npassword_env = 'PGFUNNEL_APP_PASSWORD'\n"))
        .var("PGFUNNEL_APP_PASSWORD", "hunter2")
        .var("PGFUNNEL_LOG", "debug")
        .var("PGFUNNEL_SERVICE_HOST", "10.0.0.1")
        .var("PGFUNNEL_PORT", "tcp://10.0.0.1:6432")
        .var("PGFUNNEL_PORT_6432_TCP_ADDR", "10.0.0.1")
        .accepted();
}

#[test]
fn a_url_alone_is_enough() {
    let directory = tempfile::tempdir().expect("a directory");
    let (code, stdout, stderr) = read(&pgfunnel(&["check"], &[URL], directory.path()));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert_eq!(stdout, "config ok: 1 database, 1 user, 1 listener, at most 100 backends for 10000 clients\n");
    let (code, _, stderr) = read(&pgfunnel(&["check"], &[], directory.path()));
    assert_eq!(code, 2);
    assert!(stderr.contains("DATABASE_URL=postgres://user:password@host:port/database"), "{stderr}");
}

#[test]
fn user_lists() {
    let toml = format!("userlist = 'list'\n{DATABASE}unlisted_users = 'auth_query'\nauth_query_user = 'q'\n");
    let with = |list: &str, mode: u32| {
        let case = Case::new(&toml);
        case.file("list", list, mode);
        case
    };
    let (summary, warnings) = with("\"q\" \"hunter2\"\n\"app\" \"hunter2\"\n", 0o600).accepted();
    assert!(summary.contains(" 2 users") && warnings.is_empty(), "{summary}{warnings}");
    let (_, warnings) = with("\"q\" \"hunter2\"\n", 0o644).accepted();
    assert!(warnings.contains("warning: list: holds passwords and can be read by everybody"), "{warnings}");
    with("\"q\" \"hunter2\"\n\"app\" hunter2", 0o600).refused(&[":1: userlist: line 2 of the user list \"list\""]);
    with("\"app\" \"hunter2\"\n", 0o600).refused(&[":5: auth_query_user = \"q\" in [databases.app]: must be listed"]);
    Case::new(&toml).refused(&[":1: userlist: cannot read the user list \"list\": No such file"]);

    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("config/userlist.txt.example");
    let case = Case::new(&format!("userlist = {example:?}\n{DATABASE}"));
    assert!(case.accepted().0.contains(" 2 users"));
}

#[test]
fn world_readable_passwords_are_worth_a_warning() {
    let toml = format!("{DATABASE}[users.app]\npassword = 'hunter2'\n");
    assert_eq!(Case::new(&toml).accepted().1, "");
    let case = Case::new("");
    case.file("pgfunnel.toml", &toml, 0o644);
    assert!(case.accepted().1.contains("warning: pgfunnel.toml: holds passwords and can be read by everybody"));

    let case = Case::new(&format!("{DATABASE}[users.app]\npassword_file = 'word'\n"));
    case.file("word", "hunter2\n", 0o604);
    assert!(case.accepted().1.contains("word: holds passwords and can be read by everybody (mode 604)"));
}

#[test]
fn other_warnings() {
    for (toml, part) in [
        (DATABASE.to_owned(), "nobody can log in"),
        (
            format!("{DATABASE}[users.app]\nsecret = 'md5{}'\n", "0".repeat(32)),
            "1 user(s) have only an md5 hash (first: \"app\")",
        ),
        (
            format!("max_backends = 5\n{DATABASE}[users.app]\nsecret = '{SCRAM}'\n"),
            ":1: max_backends = 5 bounds the whole process: the pool_size of 20 can never be reached",
        ),
        (format!("pause_timeout = '1s'\n{DATABASE}"), ":1: pause_timeout = 1s: counts as borrow_timeout, which is 5s"),
        (
            format!("{DATABASE}borrow_timeout = '3min'\npause_timeout = '2min'\n"),
            ":4: pause_timeout = 120s: counts as borrow_timeout, which is 180s",
        ),
        (
            format!("listen = '0.0.0.0:6432'\n{DATABASE}unlisted_users = 'pass_through'\n"),
            "unlisted_users = \"pass_through\" works only on loopback",
        ),
        (
            format!("[users.q]\nsecret = '{SCRAM}'\n{DATABASE}unlisted_users = 'auth_query'\nauth_query_user = 'q'\n"),
            "auth_query_user = \"q\" in [databases.app]: has no password to log in to PostgreSQL with",
        ),
        (
            format!("http_from = ['10.0.0.0/8', '0.0.0.0/0']\n{DATABASE}"),
            ":1: http_from = \"0.0.0.0/0\": shows the live page and the metrics to everybody; set http_token, too",
        ),
        (
            format!("http_token = 'hunter2'\nproxy_protocol_from = '::/0'\n{DATABASE}"),
            ":2: proxy_protocol_from = \"::/0\": lets everybody say where they come from",
        ),
        (
            format!("{DATABASE}pool_size = 9\nmax_backends = 3\n"),
            ":4: max_backends = 3 in [databases.app]: the pool_size of 9 can never be reached",
        ),
        (format!("{DATABASE}[users.\"*\"]\nsecret = '{SCRAM}'\n"), ":3: [users.\"*\"]: is the user of this very name"),
    ] {
        let (_, warnings) = Case::new(&toml).accepted();
        assert!(warnings.contains(part), "no {part:?} in:\n{warnings}");
    }
    // What bounds after all.
    let bounded = "http_from = '0.0.0.0/0'\nhttp_token = 'hunter2'\nproxy_protocol_from = '10.0.0.0/8'\n";
    let toml = format!("{bounded}{DATABASE}pool_size = 3\nmax_backends = 3\n[users.app]\nsecret = '{SCRAM}'\n");
    assert_eq!(Case::new(&toml).accepted().1, "");
}

#[test]
fn what_cannot_be_written_is_a_failure() {
    for (arguments, variables) in [(&["check"][..], &[URL][..]), (&["--help"], &[])] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a full device");
        let mut command = Command::new(env!("CARGO_BIN_EXE_pgfunnel"));
        command.args(arguments).env_clear().envs(variables.iter().copied()).stdout(full);
        let (code, _, stderr) = read(&command.output().expect("the binary starts"));
        assert_eq!((code, stderr.lines().count()), (1, 1), "{stderr}");
        assert!(stderr.starts_with("error: cannot write to stdout: "), "{stderr}");
    }
}

#[test]
fn the_reference_loads_and_help_helps() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (code, stdout, stderr) = read(&pgfunnel(&["check", "--config", "config/pgfunnel.toml"], &[], root));
    assert_eq!((code, stderr.as_str()), (0, ""));
    assert!(stdout.starts_with("config ok: 0 databases and \"*\", 0 users"), "{stdout}");
    for arguments in [&["--help"][..], &["run", "--help"], &["check", "--help"]] {
        let (code, stdout, _) = read(&pgfunnel(arguments, &[], root));
        assert_eq!(code, 0);
        assert!(stdout.contains("Examples:"), "{stdout}");
    }
    let (code, _, stderr) = read(&pgfunnel(&["chekc"], &[], root));
    assert_eq!(code, 2);
    assert!(stderr.contains("'check'"), "{stderr}");
}

#[test]
fn a_wrong_log_filter_is_a_wrong_configuration() {
    for command in ["run", "check"] {
        for (filter, part) in [
            ("pgfunnel=loud", "PGFUNNEL_LOG = \"pgfunnel=loud\": must be a log filter"),
            ("", "PGFUNNEL_LOG: is empty"),
        ] {
            let (code, _, stderr) = read(&pgfunnel(&[command], &[URL, ("PGFUNNEL_LOG", filter)], Path::new("/")));
            assert_eq!(code, 2);
            assert!(stderr.contains(part), "{stderr}");
        }
    }
}

/// A self-signed certificate and its key, valid until the end of `year`.
fn certificate(year: i32) -> (String, String) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let mut parameters = rcgen::CertificateParams::new(vec!["localhost".to_owned()]).expect("valid names");
    parameters.not_after = rcgen::date_time_ymd(year, 12, 31);
    let certificate = parameters.self_signed(&key).expect("a certificate");
    (certificate.pem(), key.serialize_pem())
}

#[test]
fn tls_files() {
    let (cert, key) = certificate(2100);
    let (_, other_key) = certificate(2100);
    let (old_cert, old_key) = certificate(2001);
    let with = |cert: &str, key: &str, mode: u32| {
        let case = Case::new(&format!("client_tls_cert = 'c.pem'\nclient_tls_key = 'c.key'\n{DATABASE}"));
        case.file("c.pem", cert, 0o644);
        case.file("c.key", key, mode);
        case
    };
    let (_, warnings) = with(&cert, &key, 0o600).accepted();
    assert!(!warnings.contains("c.pem") && !warnings.contains("c.key"), "{warnings}");
    with(&cert, &other_key, 0o600).refused(&[":2: client_tls_key: the private key in \"c.key\" does not fit"]);
    with(&key, &cert, 0o600).refused(&[":1: client_tls_cert: \"c.pem\" holds no certificate", "swapped"]);
    with(&cert, "hunter2", 0o600).refused(&[":2: client_tls_key: \"c.key\" holds no private key"]);
    let (_, warnings) = with(&old_cert, &old_key, 0o600).accepted();
    assert!(warnings.contains("warning: pgfunnel.toml:1: client_tls_cert: certificate 1 in \"c.pem\""), "{warnings}");
    assert!(warnings.contains("expired on"), "{warnings}");
    let (_, warnings) = with(&cert, &key, 0o644).accepted();
    assert!(warnings.contains("can be read by every user of this machine"), "{warnings}");
    Case::new(&format!("{DATABASE}tls_cert = 'absent.pem'\ntls_key = 'absent.key'\n"))
        .refused(&[":3: tls_cert: cannot read \"absent.pem\""]);
}

//! What is wrong is refused, with file, key, value and what would be right.

use super::*;

#[test]
fn bad_files() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join("binary"), b"\xff\xfe\x00").expect("a file");
    std::fs::create_dir(directory.path().join("directory")).expect("a directory");
    for (path, part) in [
        ("absent.toml", "absent.toml: cannot read the configuration file: No such file"),
        ("directory", "directory: cannot read the configuration file: is a directory"),
        ("binary", "binary: cannot read the configuration file: is not valid UTF-8"),
    ] {
        let (code, _, stderr) = read(&pgfunnel(&["check", "-c", path], &[], directory.path()));
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(part), "no {part:?} in:\n{stderr}");
        // By the variable too, and `run` refuses as `check` does.
        let (code, _, stderr) = read(&pgfunnel(&["run"], &[("PGFUNNEL_CONFIG", path)], directory.path()));
        assert_eq!(code, 2, "{stderr}");
        assert!(stderr.contains(part), "no {part:?} in:\n{stderr}");
    }
}

#[test]
fn bad_toml() {
    for (toml, parts) in [
        ("pool_size = \n[databases.app]\nhost = 'x'", ["pgfunnel.toml:1: not valid TOML: "]),
        ("[databases.app]\nhost = 'x'\nhost = 'y'", ["pgfunnel.toml:3: not valid TOML: duplicate key"]),
        ("\n\n[users.app]\npassword = \"hunter2\nx = 1", ["pgfunnel.toml:4: not valid TOML: "]),
    ] {
        Case::new(toml).refused(&parts);
    }
}

/// One wrong line each, above a database that is right; the message begins at that line.
#[test]
fn wrong_top_level_values() {
    let long_socket = &format!("listen = '/tmp/{}'", "s".repeat(108));
    for (line, rest) in [
        ("pol_size = 20", "unknown key \"pol_size\"; did you mean \"pool_size\"?"),
        ("max_client_conn = 20", "unknown key \"max_client_conn\"; did you mean \"max_clients\"?"),
        ("host = 'db'", "unknown key \"host\" here; it belongs in [databases.NAME]"),
        ("pool_size = 0", "pool_size = 0: must be a whole number from 1 to 262143, or a percentage such as \"80%\""),
        ("pool_size = -1", "pool_size = -1: must be"),
        ("pool_size = \"0%\"", "pool_size = \"0%\": must be"),
        ("pool_size = \"101%\"", "pool_size = \"101%\": must be"),
        ("pool_size = \"NaN%\"", "pool_size = \"NaN%\": must be"),
        ("pool_size = \"many\"", "pool_size = \"many\": must be"),
        ("pool_size = 1.5", "pool_size = 1.5: must be"),
        ("pool_size = [1]", "pool_size = [1]: must be"),
        ("pool_size = 99999999999999999999", "pool_size = 99999999999999999999: must be"),
        ("min_idle = 21", "min_idle = 21: must not be above pool_size, which is 20"),
        ("borrow_timeout = 0", "borrow_timeout = 0: must be a span of time from 1ms to 365d"),
        ("borrow_timeout = '5 minutes'", "borrow_timeout = \"5 minutes\": must be a span of time"),
        ("borrow_timeout = -1", "borrow_timeout = -1: must be a span of time"),
        ("borrow_timeout = 1e300", "borrow_timeout = 1e300: must be a span of time"),
        ("query_timeout = true", "query_timeout = true: must be a span of time"),
        ("idle_timeout = 'never'", "idle_timeout = \"never\": must be a span of time"),
        ("pool_mode = 'transction'", "pool_mode = \"transction\": must be one of \"transaction\", \"session\""),
        ("auth = 'none'", "auth = \"none\": must be one of \"scram\", \"md5\", \"cleartext\", \"trust\""),
        ("max_clients = 0", "max_clients = 0: must be a whole number from 1 to 1000000"),
        ("worker_threads = '2'", "worker_threads = \"2\": must be a whole number from 1 to 1024"),
        ("log_connections = 'yes'", "log_connections = \"yes\": must be true or false"),
        ("listen = 6432", "listen = 6432: must be IP address and port"),
        ("listen = []", "listen = []: must be IP address and port"),
        ("listen = 'db.example:6432'", "listen = \"db.example:6432\": must be IP address and port"),
        ("listen = ['127.0.0.1:1', '127.0.0.1:1']", "listen = \"127.0.0.1:1\": must be listed only once"),
        ("listen = ['127.0.0.1:1', '0.0.0.0:1']", "listen = \"127.0.0.1:1\": must be listed only once"),
        ("listen = '127.0.0.1:9127'", "http_listen = \"127.0.0.1:9127\": must differ from listen"),
        ("listen = '/'", "listen = \"/\": must be IP address and port"),
        ("listen = '/tmp'", "listen = \"/tmp\": is a directory; must be the socket itself"),
        ("listen = '/no/such/.s.PGSQL.6432'", "must be in a directory that exists"),
        ("listen = '/dev/null'", "listen = \"/dev/null\": is a device, which is not replaced; must be a socket or not"),
        (long_socket, "must have at most 107 bytes, as the path of any Unix socket; it has 113"),
        (
            "otlp_endpoint = 'https://a'",
            match cfg!(feature = "otlp") {
                true => "otlp_endpoint = \"https://a\": must be the URL of a collector (http)",
                false => "must be \"off\": this pgfunnel was built without it; build one with `cargo build --release",
            },
        ),
        ("otlp_endpoint = 'https://u:hunter2@a'", "otlp_endpoint = \"https://…@a\": must be"),
        ("client_tls_ca = 'https://u:hunter2@a/ca'", "client_tls_ca = \"https://…@a/ca\": must be the path of a file"),
        ("http_listen = 'on'", "http_listen = \"on\": must be IP address and port"),
        ("proxy_protocol_from = ['10.0.0.1/8']", "must be a network; \"10.0.0.1/8\" has bits set behind its first 8"),
        ("http_from = ['foo']", "http_from = [\"foo\"]: must be a network such as"),
        ("http_from = ['10.0.0.0/8', 'foo']", "or a list of them, which \"foo\" is not"),
        ("listen = ['127.0.0.1:1', '::1']", "or a list of them, which \"::1\" is not"),
        ("admin_users = ['']", "admin_users = [\"\"]: must be a name"),
        ("client_tls = 'on'", "client_tls = \"on\": must be one of \"disable\""),
        ("client_tls = 'require'", "client_tls = \"require\": needs client_tls_cert and client_tls_key"),
        ("client_tls = 'verify-full'", "client_tls = \"verify-full\": needs client_tls_ca"),
        ("client_tls_cert = 'x.pem'", "client_tls_cert: needs client_tls_key, its private key, as well"),
        ("client_tls_ca = 'absent.pem'", "client_tls_ca: cannot read \"absent.pem\": No such file"),
        ("userlist = '/dev/zero'", "userlist: cannot read the user list \"/dev/zero\": is a device, not a file"),
        ("client_tls_ca = '/dev/zero'", "client_tls_ca: cannot read \"/dev/zero\": is a device, not a file"),
        ("http_token_file = '/dev/zero'", "\"/dev/zero\": is a device, not a file"),
        ("databases = 3", "databases: must be tables, one per name: [databases.NAME]"),
    ] {
        let (before, database) = if line.starts_with("databases") { ("", "") } else { ("# first line\n", DATABASE) };
        let number = 1 + before.lines().count();
        Case::new(&format!("{before}{line}\n{database}")).refused(&[&format!("error: pgfunnel.toml:{number}: "), rest]);
    }
}

#[test]
fn trust_is_for_loopback_only() {
    let trust = "auth = 'trust'\nlisten = ['127.0.0.1:6432', '[::1]:6432', '127.9.9.9:6432']\n";
    Case::new(&format!("{trust}{DATABASE}")).accepted();
    Case::new(&format!("{trust}proxy_protocol_from = ['127.0.0.1']\n{DATABASE}"))
        .refused(&["error: pgfunnel.toml:1: auth = \"trust\": must not be used with proxy_protocol_from"]);
    for open in ["0.0.0.0:6432", "10.0.0.1:6432", "[::]:6432", "[::ffff:10.0.0.1]:6432"] {
        Case::new(&format!("auth = 'trust'\nlisten = ['127.0.0.1:1', '{open}']\n{DATABASE}"))
            .refused(&["error: pgfunnel.toml:1: auth = \"trust\": must not be used while listening on ", open]);
    }
}

#[test]
fn wrong_databases() {
    for (toml, part) in [
        ("pool_size = 5", "pgfunnel.toml: no database: needs a table [databases.NAME]"),
        ("[databases.app]\nport = 5432", ":1: host is missing in [databases.app]: must name the PostgreSQL server"),
        ("[databases.app]\nhots = 'x'", ":2: unknown key \"hots\" in [databases.app]; did you mean \"host\"?"),
        ("[databases.app]\nhost = 'x:5432'", "host = \"x:5432\" in [databases.app]: must be a host name"),
        (
            "[databases.app]\nhost = 'postgres://u:hunter2@h/db'",
            ":2: host = \"postgres://…@h/db\" in [databases.app]: must be a host name, an IP address, or the absolute \
             directory of a Unix socket; this is a URL, which belongs in the variable DATABASE_URL",
        ),
        ("[databases]\nhost = 'postgres://u:hunter2@h/db'", ":2: host = \"postgres://…@h/db\" in [databases]: must"),
        ("[databases.app]\nhost = 'x'\nport = 65536", "port = 65536 in [databases.app]: must be a whole number from 1"),
        ("[databases.app]\nhost = 'x'\nmin_idle = 21", ":3: min_idle = 21: must not be above pool_size, which is 20"),
        (
            "min_idle = 10\n[databases.app]\nhost = 'x'\npool_size = 5",
            ":4: pool_size = 5: must not be below min_idle, which is 10",
        ),
        ("[databases.\"my db\"]\nhost = 'x'\ntls = 1", "tls = 1 in [databases.\"my db\"]: must be one of \"disable\""),
        ("[databases.app]\nhost = 'x'\nmax_clients = 1", "\"max_clients\" in [databases.app] here; it belongs at top"),
        ("[databases]\nhost = 'x'", ":2: host = \"x\" in [databases]: must stand in a table [databases.NAME]"),
        ("[database.app]\nhost = 'x'", ":1: unknown key \"database\"; did you mean \"databases\"?"),
        ("[databases.\"\"]\nhost = 'x'", ":1: empty name in [databases.\"\"]"),
        ("[databases.app]\nhost = 'x'\ntls_ca = 'no.pem'", ":3: tls_ca: cannot read \"no.pem\""),
        (
            "[databases.app]\nhost = 'x'\nunlisted_users = 'auth_query'",
            ":3: unlisted_users = \"auth_query\" in [databases.app]: needs auth_query_user",
        ),
        (
            "[databases.app]\nhost = 'x'\nunlisted_users = 'auth_query'\nauth_query_user = 'q'",
            ":4: auth_query_user = \"q\" in [databases.app]: must be listed",
        ),
        (
            "[databases.app]\nhost = 'x'\nauth_query_user = 'q'",
            ":3: auth_query_user in [databases.app]: does nothing without unlisted_users = \"auth_query\"",
        ),
        (
            "[users.q]\npassword = 'hunter2'\n[databases.app]\nhost = 'x'\nunlisted_users = 'auth_query'\n\
             auth_query_user = 'q'\nauth_query = 'SELECT 1'",
            ":7: auth_query = \"SELECT 1\" in [databases.app]: must have $1",
        ),
    ] {
        Case::new(toml).refused(&[part]);
    }
}

#[test]
fn wrong_users() {
    for (lines, part) in [
        (
            "password = 'hunter2'\nsecret = 'md50123'",
            ":5: secret in [users.app]: must be the only one of password, secret",
        ),
        ("password = ''", ":4: password in [users.app]: must be a string that is not empty"),
        ("password = 1234", ":4: password in [users.app]: must be a string, in quotes"),
        ("password = \"hunter2\\u0000\"", ":4: password in [users.app]: must be a string without NUL"),
        ("password = ['hunter2']", ":4: password in [users.app]: must be a string"),
        ("password = 'SCRAM-SHA-256$hunter2'", "must be the password itself; a stored secret"),
        ("secret = 'hunter2'", ":4: secret in [users.app]: must be as pg_authid.rolpassword has it"),
        ("secret = 'md5hunter2'", ":4: secret in [users.app]: must be as"),
        ("secret = 'SCRAM-SHA-256$4096:hunter2$a:b'", ":4: secret in [users.app]: must be as"),
        ("password_env = 'ABSENT'", ":4: password_env in [users.app]: must name an environment variable"),
        ("password_file = 'absent'", ":4: password_file in [users.app]: must name a file that holds the password"),
        ("passwd = 'hunter2'", ":4: unknown key \"passwd\" in [users.app]; did you mean \"password\"?"),
        ("min_idle = 21", ":4: min_idle = 21: must not be above pool_size, which is 20"),
        ("connect_timeout = 1", "unknown key \"connect_timeout\" in [users.app] here; it belongs at top level or in"),
        ("max_leases = -1", "max_leases = -1 in [users.app]: must be a whole number from 1"),
    ] {
        Case::new(&format!("{DATABASE}[users.app]\n{lines}\n")).refused(&[part]);
    }
    Case::new(&format!("{DATABASE}[users]\npassword = 'hunter2'\n"))
        .refused(&[":4: password in [users]: must stand in a table [users.NAME]"]);
}

#[test]
fn every_error_at_once_in_order() {
    let case = Case::new("pool_size = 0\n[databases.app]\nhost = 'x'\ntls = 'on'\n[users.a]\nsecret = 'hunter2'\n")
        .var("PGFUNNEL_MAX_CLIENTS", "none")
        .var("PGFUNNEL_LISTN", "127.0.0.1:1");
    let (code, _, stderr) = case.check();
    assert_eq!(code, 2);
    let places: Vec<&str> = stderr.lines().map(|line| line.split(": ").nth(1).unwrap_or(line)).collect();
    assert_eq!(
        places,
        ["pgfunnel.toml:1", "pgfunnel.toml:4", "pgfunnel.toml:6", "PGFUNNEL_LISTN", "PGFUNNEL_MAX_CLIENTS"],
        "{stderr}"
    );
}

#[test]
fn wrong_variables() {
    for (variable, value, part) in [
        ("PGFUNNEL_POOL_SIZE", "0", "pool_size = \"0\": must be a whole number from 1"),
        ("PGFUNNEL_POOL_SIZE", "", "pool_size: is empty; unset the variable or give it a value"),
        ("PGFUNNEL_POL_SIZE", "5", "unknown variable; did you mean \"PGFUNNEL_POOL_SIZE\"?"),
        ("PGFUNNEL_pool_size", "5", "unknown variable; did you mean \"PGFUNNEL_POOL_SIZE\"?"),
        ("PGFUNNEL_DATABASES__APP__PORTT", "5", "did you mean \"PGFUNNEL_DATABASES__APP__PORT\"?"),
        ("PGFUNNEL_DATABASES__APP__PORT", "x", "port = \"x\" in [databases.app]: must be a whole number"),
        ("PGFUNNEL_DATABASE__APP__PORT", "5", "unknown variable; variables are PGFUNNEL_<KEY>"),
        ("PGFUNNEL_USERS__APP__SECRET", "hunter2", "secret in [users.app]: must be as pg_authid"),
        ("PGFUNNEL_USERS__APP__PASWORD", "hunter2", "did you mean \"PGFUNNEL_USERS__APP__PASSWORD\"?"),
        ("PGFUNNEL_LISTEN", "http://u:hunter2@h", "listen = \"http://…@h\": must be IP address and port"),
        ("PGFUNNEL_LISTEN", "127.0.0.1:1,127.0.0.1:1", "listen = \"127.0.0.1:1\": must be listed only once"),
        ("DATABASE_URL", "postgres://app:x@hunter2@db:5432/app", "an @ too many: in a password it must be written %40"),
        ("DATABASE_URL", "postgres://app:hunter2@db/app\n", "begins or ends with a space or a line's end"),
        ("DATABASE_URL", "postgres://app:hunter2%ZZ@db/app", "has a % without two hexadecimal digits behind it"),
        ("DATABASE_URL", "mysql://app:hunter2@db/app", "does not begin with postgres://"),
        ("DATABASE_URL", "postgres://app:hunter2@db/x?sslmode=on", "tls = \"on\" in [databases.x]: must be one of"),
        ("DATABASE_URL", "postgres://app:hunter2@db/x?sslmod=on", "unknown parameter \"sslmod\"; did you mean"),
    ] {
        Case::new(DATABASE).var(variable, value).refused(&[&format!("error: {variable}: "), part]);
    }
    Case::new(DATABASE)
        .var("PGFUNNEL_DATABASES__APP__PORT", "1")
        .var("PGFUNNEL_DATABASES__app__PORT", "2")
        .refused(&["PGFUNNEL_DATABASES__app__PORT: says the same in [databases.app] as PGFUNNEL_DATABASES__APP__PORT"]);
}

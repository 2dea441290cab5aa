//! The nearest known name for one that is unknown.

/// What PgBouncer calls our keys where the spelling alone would not lead there.
const PGBOUNCER_NAMES: &[(&str, &str)] = &[
    ("auth_file", "userlist"),
    ("auth_type", "auth"),
    ("auth_user", "auth_query_user"),
    ("client_tls_sslmode", "client_tls"),
    ("default_pool_size", "pool_size"),
    ("listen_addr", "listen"),
    ("listen_port", "listen"),
    ("max_client_conn", "max_clients"),
    ("max_db_connections", "max_backends"),
    ("max_user_connections", "max_leases"),
    ("min_pool_size", "min_idle"),
    ("query_wait_timeout", "borrow_timeout"),
    ("server_connect_timeout", "connect_timeout"),
    ("server_idle_timeout", "idle_timeout"),
    ("server_lifetime", "max_lifetime"),
    ("server_tls_ca_file", "tls_ca"),
    ("server_tls_sslmode", "tls"),
    ("unix_socket_dir", "listen"),
];

/// Below this likeness (Jaro-Winkler, 0 to 1) a suggestion would confuse more than help.
const LIKE: f64 = 0.75;

/// The candidate most like `word`, if any is like it at all.
pub(super) fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let word = word.to_ascii_lowercase();
    if let Some((_, ours)) = PGBOUNCER_NAMES.iter().find(|(theirs, _)| *theirs == word)
        && let Some(candidate) = candidates.iter().find(|candidate| *candidate == ours)
    {
        return Some(candidate);
    }
    candidates
        .iter()
        .map(|candidate| (*candidate, strsim::jaro_winkler(&word, &candidate.to_ascii_lowercase())))
        .filter(|(_, likeness)| *likeness >= LIKE)
        .max_by(|a, b| a.1.total_cmp(&b.1))
        .map(|(candidate, _)| candidate)
}

/// `; did you mean "pool_size"?`, or the list of what is known.
pub(super) fn hint(word: &str, candidates: &[&str]) -> String {
    match nearest(word, candidates) {
        Some(candidate) => format!("; did you mean \"{candidate}\"?"),
        None => format!("; known: {}", candidates.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_typing_errors_and_pgbouncer_names() {
        let known = ["pool_size", "pool_mode", "max_clients", "borrow_timeout", "listen"];
        for (word, expected) in [
            ("pol_size", Some("pool_size")),
            ("poolsize", Some("pool_size")),
            ("POOL_MODUS", Some("pool_mode")),
            ("max_client_conn", Some("max_clients")),
            ("query_wait_timeout", Some("borrow_timeout")),
            ("listen_addr", Some("listen")),
            ("zebra", None),
        ] {
            assert_eq!(nearest(word, &known), expected, "{word}");
        }
    }

    #[test]
    fn a_far_word_gets_the_whole_list() {
        assert_eq!(hint("zebra", &["host", "port"]), "; known: host, port");
    }
}

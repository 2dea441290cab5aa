//! Names of parameters in a text. Custom ones (`app.tenant`) are in no catalogue view, so they must be known to be asked
//! for; all others are told by `pg_settings`.

use std::collections::BTreeSet;

/// Names looked for in one text; with more, the text is too odd to be understood.
const MOST: usize = 64;

/// Every dotted name in a text, wherever it stands (as a word, within a string, within the body of a `DO`), in lower
/// case as PostgreSQL compares them, once. `runs`: it has code in it, and not only statements. `None`: too many, or a
/// name that is not in the text.
pub fn custom(text: &[u8], runs: bool) -> Option<BTreeSet<String>> {
    if has_unnamed(text, runs) {
        return None;
    }
    let mut names = BTreeSet::new();
    for name in dotted(text) {
        names.insert(name);
        if names.len() > MOST {
            return None;
        }
    }
    Some(names)
}

/// The same, each as often as it stands there, and however many there are.
pub fn dotted(text: &[u8]) -> impl Iterator<Item = String> {
    let words = text.split(|byte| !(is_name(*byte) || *byte == b'.'));
    let dotted = words.filter(|word| word.contains(&b'.') && word.split(|byte| *byte == b'.').all(is_identifier));
    dotted.map(|word| String::from_utf8_lossy(word).to_ascii_lowercase())
}

/// Whether it has a `set_config` whose first argument is not a plain string, or SQL that is put together as it runs.
fn has_unnamed(text: &[u8], runs: bool) -> bool {
    let lower = text.to_ascii_lowercase();
    let call = memchr::memmem::find_iter(&lower, b"set_config").any(|at| {
        let behind = lower.get(at + b"set_config".len()..).unwrap_or_default().trim_ascii_start();
        let Some(argument) = behind.strip_prefix(b"(").map(<[u8]>::trim_ascii_start) else { return false };
        // 'name', with nothing put together: not 'a' || 'b', not 'a' 'b'. Within a string the quotes are doubled.
        let quotes = argument.iter().take_while(|byte| **byte == b'\'').count();
        let name = argument.get(quotes..).unwrap_or_default();
        let end = name.iter().position(|byte| *byte == b'\'').unwrap_or(name.len());
        let rest = name.get(end..).unwrap_or_default();
        let closing = rest.iter().take_while(|byte| **byte == b'\'').count();
        let next = rest.get(closing..).unwrap_or_default().trim_ascii_start().first();
        !(quotes == 1 || quotes == 2) || closing != quotes || next != Some(&b',')
    });
    call || runs && memchr::memmem::find(&lower, b"execute").is_some()
}

/// Those of these parameters, in lower case, that a text with a `RESET` takes back: `RESET ALL` does so with all.
pub fn reset<'a>(text: &[u8], names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let words = text.split(|byte| !(is_name(*byte) || *byte == b'.')).filter(|word| !word.is_empty());
    let words: BTreeSet<Vec<u8>> = words.map(<[u8]>::to_ascii_lowercase).collect();
    let has = |word: &[u8]| words.contains(word);
    names.filter(|name| has(b"all") || has(name.as_bytes()) || *name == "timezone" && has(b"zone")).collect()
}

fn is_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

/// Whether it can be a part of a custom parameter's name.
pub(super) fn is_identifier(part: &[u8]) -> bool {
    part.first().is_some_and(|byte| is_name(*byte) && !byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resets() {
        let table: &[(&str, &[&str])] = &[
            ("RESET ALL", &["work_mem", "timezone", "tenant"]),
            ("reset Work_Mem;", &["work_mem"]),
            ("reset time zone", &["timezone"]),
            ("reset app.tenant", &[]),
        ];
        for (text, expected) in table {
            assert_eq!(reset(text.as_bytes(), ["work_mem", "timezone", "tenant"].into_iter()), *expected, "{text}");
        }
    }

    #[test]
    fn finds_names_wherever_they_stand() {
        let found =
            |sql: &str| custom(sql.as_bytes(), true).map(|names| names.into_iter().collect::<Vec<_>>().join(" "));
        assert_eq!(found("set App.Tenant = 'x.y'"), Some("app.tenant x.y".into()));
        assert_eq!(found("select set_config('app.tenant', $1, false)"), Some("app.tenant".into()));
        assert_eq!(found("do $$begin perform set_config('a.b', '1', false); end$$"), Some("a.b".into()));
        assert_eq!(found("set work_mem = 1.5"), Some(String::new()));
        assert_eq!(found("select set_config($1, $2, false)"), None);
        assert_eq!(found("select set_config('app.' || $1, $2, false)"), None);
        assert_eq!(found("select query('select set_config(''a.b'', ''x'', false)')"), Some("a.b".into()));
        assert_eq!(found("do $$begin execute format('set %I = 1', x); end$$"), None);
        assert_eq!(found(&(0..100).map(|n| format!("a.b{n} ")).collect::<String>()), None);
    }
}

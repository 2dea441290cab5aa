//! What an operator may say. Pure: text in, a command out.

use std::fmt;

use super::Shutdown;
use super::views::{self, View};
use crate::error::{Error, Side, SqlState};

/// What an operator says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Command {
    /// Nothing.
    Empty,
    /// Show something.
    Show(&'static View),
    /// What drivers say of their own accord; answered with its tag, and nothing else.
    Nothing(&'static str),
    /// `BEGIN`.
    Begin,
    /// `COMMIT` or `ROLLBACK`, by its tag.
    End(&'static str),
    /// Do something.
    Do(Action),
}

/// What changes something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Action {
    Pause(Option<String>),
    Resume(Option<String>),
    Disable(String),
    Enable(String),
    Kill(String),
    KillClient(u64),
    Reconnect(Option<String>),
    WaitClose(Option<String>),
    Reload,
    Shutdown(Shutdown),
    Set(String, String),
}

impl Action {
    /// CommandComplete's.
    pub(super) fn tag(&self) -> &'static str {
        match self {
            Action::Pause(_) => "PAUSE",
            Action::Resume(_) => "RESUME",
            Action::Disable(_) => "DISABLE",
            Action::Enable(_) => "ENABLE",
            Action::Kill(_) => "KILL",
            Action::KillClient(_) => "KILL_CLIENT",
            Action::Reconnect(_) => "RECONNECT",
            Action::WaitClose(_) => "WAIT_CLOSE",
            Action::Reload => "RELOAD",
            Action::Shutdown(_) => "SHUTDOWN",
            Action::Set(..) => "SET",
        }
    }
}

/// As it is said, without a value: it may be meant for a secret.
impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.tag())?;
        match self {
            Action::Pause(name) | Action::Resume(name) | Action::Reconnect(name) | Action::WaitClose(name) => {
                name.as_ref().map_or(Ok(()), |name| write!(f, " {name:?}"))
            }
            Action::Disable(name) | Action::Enable(name) | Action::Kill(name) => write!(f, " {name:?}"),
            Action::KillClient(id) => write!(f, " {id}"),
            Action::Shutdown(Shutdown::WaitForServers) => f.write_str(" WAIT_FOR_SERVERS"),
            Action::Shutdown(Shutdown::WaitForClients) => f.write_str(" WAIT_FOR_CLIENTS"),
            Action::Set(key, _) => write!(f, " {key:?}"),
            Action::Reload | Action::Shutdown(Shutdown::Now) => Ok(()),
        }
    }
}

/// Settings of a session with PostgreSQL that drivers set of their own accord.
const DRIVERS_SETTINGS: [&str; 13] = [
    "application_name",
    "bytea_output",
    "client_encoding",
    "client_min_messages",
    "datestyle",
    "extra_float_digits",
    "intervalstyle",
    "names",
    "search_path",
    "session",
    "standard_conforming_strings",
    "statement_timeout",
    "timezone",
];

impl Command {
    /// Reads a text.
    ///
    /// # Errors
    /// 42601, naming what is not understood.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let words = words(text)?;
        let mut words = words.iter();
        let Some(first) = words.next() else { return Ok(Command::Empty) };
        let rest: Vec<&Word> = words.collect();
        let plain = || rest.iter().map(|word| word.text.to_ascii_uppercase()).collect::<Vec<_>>().join(" ");
        let (name, one) = (|| optional(&rest), || required(&rest, &first.text));
        let action = match first.text.to_ascii_uppercase().as_str() {
            "SHOW" => return views::find(&plain()).map(Command::Show).ok_or_else(|| unknown(text)),
            "BEGIN" => return Ok(Command::Begin),
            "START" if plain().starts_with("TRANSACTION") => return Ok(Command::Begin),
            "COMMIT" | "END" => return Ok(Command::End("COMMIT")),
            "ROLLBACK" | "ABORT" => return Ok(Command::End("ROLLBACK")),
            "DISCARD" if plain() == "ALL" => return Ok(Command::Nothing("DISCARD ALL")),
            "DEALLOCATE" if plain() == "ALL" => return Ok(Command::Nothing("DEALLOCATE ALL")),
            "RESET" => return Ok(Command::Nothing("RESET")),
            "SET" => return set(&rest),
            "PAUSE" => Action::Pause(name()?),
            "RESUME" => Action::Resume(name()?),
            "DISABLE" => Action::Disable(one()?),
            "ENABLE" => Action::Enable(one()?),
            "KILL" => Action::Kill(one()?),
            "KILL_CLIENT" => Action::KillClient(client(&one()?)?),
            "RECONNECT" => Action::Reconnect(name()?),
            "WAIT_CLOSE" => Action::WaitClose(name()?),
            "RELOAD" if rest.is_empty() => Action::Reload,
            "SHUTDOWN" => Action::Shutdown(match plain().as_str() {
                "" => Shutdown::Now,
                "WAIT_FOR_SERVERS" => Shutdown::WaitForServers,
                "WAIT_FOR_CLIENTS" => Shutdown::WaitForClients,
                _ => return Err(unknown(text)),
            }),
            "SUSPEND" => return Err(no_suspend()),
            _ => return Err(unknown(text)),
        };
        Ok(Command::Do(action))
    }
}

fn optional(rest: &[&Word]) -> Result<Option<String>, Error> {
    match rest {
        [] => Ok(None),
        [name] => Ok(Some(name.text.clone())),
        _ => Err(syntax("more than one name").hint("Put a name with spaces in double quotes.")),
    }
}

fn required(rest: &[&Word], command: &str) -> Result<String, Error> {
    optional(rest)?.ok_or_else(|| syntax(format!("{} wants a name behind it", command.to_ascii_uppercase())))
}

/// `c12`, as in the column `ptr`, or `12`, as in `id`.
fn client(text: &str) -> Result<u64, Error> {
    let number = text.strip_prefix('c').unwrap_or(text);
    number.parse().map_err(|_| syntax(format!("\"{text}\" is no client")).hint("SHOW CLIENTS has their id."))
}

fn set(rest: &[&Word]) -> Result<Command, Error> {
    let drivers = |word: &Word| DRIVERS_SETTINGS.iter().any(|name| word.text.eq_ignore_ascii_case(name));
    if rest.first().is_some_and(|key| drivers(key)) {
        return Ok(Command::Nothing("SET"));
    }
    match rest {
        [key, is, value] if !is.quoted && (is.text == "=" || is.text.eq_ignore_ascii_case("to")) => {
            Ok(Command::Do(Action::Set(key.text.clone(), value.text.clone())))
        }
        _ => {
            Err(syntax("SET wants a key and a value").hint("SET pool_size = 30, or SET databases.app.pool_size = 30."))
        }
    }
}

/// A word, a text in quotes, or `=`.
#[derive(Debug, PartialEq, Eq)]
struct Word {
    text: String,
    quoted: bool,
}

/// The words of one statement, without comments and the semicolon at its end.
fn words(text: &str) -> Result<Vec<Word>, Error> {
    let (mut words, mut at_end) = (Vec::new(), false);
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        rest = match first {
            '-' if rest.starts_with("--") => rest.split_once('\n').map_or("", |(_, behind)| behind),
            '/' if rest.starts_with("/*") => {
                rest.split_once("*/").map(|(_, behind)| behind).ok_or_else(|| syntax("unterminated comment"))?
            }
            ';' => {
                at_end = !words.is_empty();
                &rest[1..]
            }
            _ if at_end => {
                return Err(syntax("more than one statement").hint("The console takes one at a time."));
            }
            '=' => {
                words.push(Word { text: "=".to_owned(), quoted: false });
                &rest[1..]
            }
            '\'' | '"' => {
                let (text, behind) = quoted(&rest[1..], first)?;
                words.push(Word { text, quoted: true });
                behind
            }
            _ => {
                let ends = |c: char| c.is_whitespace() || matches!(c, ';' | '=' | '\'' | '"');
                let (word, behind) = rest.split_at(rest.find(ends).unwrap_or(rest.len()));
                words.push(Word { text: word.to_owned(), quoted: false });
                behind
            }
        }
        .trim_start();
    }
    Ok(words)
}

/// Up to the closing quote, of which two stand for one; and what is behind it.
fn quoted(text: &str, quote: char) -> Result<(String, &str), Error> {
    let (mut inside, mut rest) = (String::new(), text);
    loop {
        let (before, behind) = rest.split_once(quote).ok_or_else(|| syntax("unterminated quoted text"))?;
        inside.push_str(before);
        match behind.strip_prefix(quote) {
            Some(more) => {
                inside.push(quote);
                rest = more;
            }
            None => return Ok((inside, behind)),
        }
    }
}

#[cold]
fn syntax(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(Side::Client, SqlState::SYNTAX_ERROR, message)
}

#[cold]
fn unknown(text: &str) -> Error {
    let shown: String = text.trim().chars().take(60).collect();
    syntax(format!("invalid command '{shown}'")).hint("This is pgfunnel's admin console; SHOW HELP lists its commands.")
}

#[cold]
fn no_suspend() -> Error {
    Error::new(Side::Client, SqlState::FEATURE_NOT_SUPPORTED, "SUSPEND is not supported")
        .hint("It serves PgBouncer's online restart. PAUSE holds all clients; SHUTDOWN WAIT_FOR_SERVERS ends without breaking a transaction.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands() {
        let app = || Some("app".to_owned());
        for (text, expected) in [
            ("", Command::Empty),
            (" ; ", Command::Empty),
            ("-- nothing", Command::Empty),
            ("; -- nothing", Command::Empty),
            ("PAUSE", Command::Do(Action::Pause(None))),
            ("pause app;", Command::Do(Action::Pause(app()))),
            ("/* traceparent='00-1' */ Pause \"app\" ;;", Command::Do(Action::Pause(app()))),
            ("RESUME \"a \"\"b\"", Command::Do(Action::Resume(Some("a \"b".to_owned())))),
            ("KILL App", Command::Do(Action::Kill("App".to_owned()))),
            ("KILL_CLIENT c12", Command::Do(Action::KillClient(12))),
            ("KILL_CLIENT 12", Command::Do(Action::KillClient(12))),
            ("SHUTDOWN wait_for_clients", Command::Do(Action::Shutdown(Shutdown::WaitForClients))),
            ("SET pool_size=30", Command::Do(Action::Set("pool_size".into(), "30".into()))),
            ("SET borrow_timeout TO '5s'", Command::Do(Action::Set("borrow_timeout".into(), "5s".into()))),
            (
                "SET databases.app.pool_size = 80%",
                Command::Do(Action::Set("databases.app.pool_size".into(), "80%".into())),
            ),
            ("SET extra_float_digits = 3", Command::Nothing("SET")),
            ("set session characteristics as transaction read only", Command::Nothing("SET")),
            ("BEGIN ISOLATION LEVEL SERIALIZABLE", Command::Begin),
            ("rollback", Command::End("ROLLBACK")),
        ] {
            assert_eq!(Command::parse(text).expect(text), expected, "{text}");
        }
        let Ok(Command::Show(view)) = Command::parse("show  pools") else { panic!("SHOW POOLS") };
        assert_eq!(view.name, "POOLS");
    }

    #[test]
    fn what_is_not_understood_is_said() {
        for (text, expected) in [
            ("SELECT 1", "invalid command 'SELECT 1'"),
            ("SHOW", "invalid command 'SHOW'"),
            ("SHOW NOTHING", "invalid command 'SHOW NOTHING'"),
            ("SHOW POOLS; SHOW LISTS", "more than one statement"),
            ("PAUSE a b", "more than one name"),
            ("KILL", "KILL wants a name behind it"),
            ("KILL_CLIENT x", "\"x\" is no client"),
            ("PAUSE \"a", "unterminated quoted text"),
            ("PAUSE /* a", "unterminated comment"),
            ("SET pool_size", "SET wants a key and a value"),
            ("SHUTDOWN NOW", "invalid command"),
            ("SUSPEND", "SUSPEND is not supported"),
        ] {
            let error = Command::parse(text).expect_err(text);
            assert!(error.message.contains(expected), "{text}: {error}");
            assert!(error.code == SqlState::SYNTAX_ERROR || text == "SUSPEND");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_a_panic(text in "[ -~é;'\"/*\\-]{0,60}") {
            let _ = Command::parse(&text);
        }
    }
}

//! What a backend's session carries: asking for it, and putting a client's settings in force. By prepared statements of
//! our own, so that a client's unnamed one is left alone; schema-qualified, operators included, so that no client's
//! `search_path` can bend them.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, LazyLock};

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::message::frontend;

use super::Backend;
use super::ask::{Answer, AskError, bind_text, too_large};
use crate::prepared::{self, Unnamed};
use crate::track::params::Change;
use crate::track::{Effects, PinReason, Settings};

/// What a backend's session carries beyond the server's defaults.
#[derive(Debug)]
pub struct Carried {
    /// Settings in force.
    pub settings: Settings,
    /// Pins, if they were asked for.
    pub pins: Option<Effects>,
}

/// A statement of ours, and its name, which no client can use: see [`prepared::prefix`].
struct Own {
    name: LazyLock<String>,
    text: &'static str,
}

macro_rules! own {
    ($($name:ident = $text:expr;)*) => {
        $(static $name: Own = Own {
            name: LazyLock::new(|| format!("{}{}", prepared::prefix(), stringify!($name).to_ascii_lowercase())),
            text: $text,
        };)*
    };
}

own! {
    RESETTER = "RESET ALL";
    SETTER = "SELECT pg_catalog.set_config($1, $2, false)";
    // For this transaction only: a client's own limit is not about our questions.
    LOCAL_SETTER = "SELECT pg_catalog.set_config($1, $2, true)";
    SHOWER = "SELECT $1, pg_catalog.current_setting($1)";
    // `transaction_…` is about the transaction that asks. A custom parameter is in no view.
    PARAMETERS = "SELECT name, setting, reset_val FROM pg_catalog.pg_settings \
         WHERE source OPERATOR(pg_catalog.=) 'session' AND name OPERATOR(pg_catalog.!~~) 'transaction\\_%' \
         UNION ALL SELECT name, value, NULL FROM \
         (SELECT name, pg_catalog.current_setting(name, true) AS value FROM pg_catalog.unnest($1::pg_catalog.text[]) name) own \
         WHERE value IS NOT NULL";
    PINS = "SELECT pg_catalog.current_setting('role') OPERATOR(pg_catalog.<>) 'none' OR session_user OPERATOR(pg_catalog.<>) $1::pg_catalog.name, \
         EXISTS (SELECT FROM pg_catalog.pg_listening_channels()), \
         EXISTS (SELECT FROM pg_catalog.pg_prepared_statement() WHERE from_sql AND NOT pg_catalog.starts_with(name, $2)), \
         pg_catalog.pg_my_temp_schema() OPERATOR(pg_catalog.<>) 0 AND ( \
             EXISTS (SELECT FROM pg_catalog.pg_class WHERE relnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
             OR EXISTS (SELECT FROM pg_catalog.pg_type WHERE typnamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()) \
             OR EXISTS (SELECT FROM pg_catalog.pg_proc WHERE pronamespace OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema())), \
         EXISTS (SELECT FROM pg_catalog.pg_cursor() WHERE is_holdable), \
         EXISTS (SELECT FROM pg_catalog.pg_lock_status() \
             WHERE locktype OPERATOR(pg_catalog.=) 'advisory' AND pid OPERATOR(pg_catalog.=) pg_catalog.pg_backend_pid())";
}

/// The pins that the columns of [`PINS`] tell.
const PIN_COLUMNS: [PinReason; 6] = [
    PinReason::Role,
    PinReason::Listen,
    PinReason::Prepare,
    PinReason::Temporary,
    PinReason::Cursor,
    PinReason::AdvisoryLock,
];

/// The steps of `DISCARD ALL` (manual, `DISCARD`) but `RESET ALL`, `DEALLOCATE ALL` and `DISCARD PLANS`.
const CLEANING: &str = "RESET SESSION AUTHORIZATION; CLOSE ALL; UNLISTEN *; SELECT pg_catalog.pg_advisory_unlock_all(); \
     DISCARD TEMP; DISCARD SEQUENCES";

const TIMEOUT: &str = "statement_timeout";

impl Backend {
    /// Asks what is in force: all settings, custom ones by their names; and what pins, if `pins`.
    ///
    /// # Errors
    /// See [`AskError`]; after `Io` the backend is marked broken.
    pub async fn carried(&mut self, names: &[String], pins: bool) -> Result<Carried, AskError> {
        let user = self.identity.target.user.clone();
        let out = self.put_asks()?;
        // Each Execute has a time limit of its own (`exec_execute_message`): only the first two have the client's.
        run(&SHOWER, &[TIMEOUT], out)?;
        run(&LOCAL_SETTER, &[TIMEOUT, "0"], out)?;
        run(&PARAMETERS, &[&array(names)], out)?;
        if pins {
            // Those of our own names are known.
            run(&PINS, &[&user, prepared::prefix()], out)?;
        }
        frontend::sync(out);
        let answer = self.collect().await?;
        let mut carried = Carried { settings: Settings::default(), pins: None };
        let mut timeout = None;
        for row in answer.rows {
            match <[Option<String>; 3]>::try_from(row) {
                // Ours, in the place of the client's.
                Ok([Some(name), _, default]) if name == TIMEOUT => {
                    if let Some(value) = timeout.take().filter(|value: &String| default.as_ref() != Some(value)) {
                        carried.settings.set(&name, value);
                    }
                }
                Ok([Some(name), Some(value), _]) => carried.settings.set(&name, value),
                Ok(_) => {}
                Err(row) if row.len() == PIN_COLUMNS.len() => {
                    let mut found = Effects::NONE;
                    for (reason, column) in PIN_COLUMNS.iter().zip(row) {
                        if column.as_deref() == Some("t") {
                            found.add(reason.effect());
                        }
                    }
                    carried.pins = Some(found);
                }
                Err(row) if row.len() == 2 => timeout = row.into_iter().nth(1).flatten(),
                Err(_) => {}
            }
        }
        Ok(carried)
    }

    /// Where to append a question, with the statements for it there.
    fn put_asks(&mut self) -> io::Result<&mut BytesMut> {
        let has = std::mem::replace(&mut self.has_asks, true);
        let out = self.socket.output();
        if !has {
            for own in [&LOCAL_SETTER, &SHOWER, &PARAMETERS, &PINS] {
                frontend::parse(&own.name, own.text, [], out)?;
            }
        }
        Ok(out)
    }

    /// Runs one statement with text parameters, unbent by what is in force in the session, and leaves that as it is. The
    /// unnamed statement is used.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn ask_safely(&mut self, sql: &str, arguments: &[&str]) -> Result<Answer, AskError> {
        self.statements.unnamed = Unnamed::Unknown;
        let out = self.put_asks()?;
        run(&LOCAL_SETTER, &[TIMEOUT, "0"], out)?;
        run(&LOCAL_SETTER, &["search_path", "pg_catalog"], out)?;
        frontend::parse("", sql, [], out)?;
        bind_text("", arguments, out)?;
        frontend::execute("", 0, out)?;
        frontend::sync(out);
        let mut answer = self.collect().await?;
        // The setters' own answers.
        answer.rows.drain(..answer.rows.len().min(2));
        Ok(answer)
    }

    /// Runs statements without rows in one transaction, whatever limits of time the session has. The unnamed statement is
    /// used.
    ///
    /// # Errors
    /// See [`AskError`].
    pub async fn run(&mut self, statements: &[&str]) -> Result<(), AskError> {
        self.statements.unnamed = Unnamed::Unknown;
        let out = self.put_asks()?;
        for limit in [TIMEOUT, "lock_timeout"] {
            run(&LOCAL_SETTER, &[limit, "0"], out)?;
        }
        for statement in statements {
            frontend::parse("", statement, [], out)?;
            bind_text("", &[], out)?;
            frontend::execute("", 0, out)?;
        }
        frontend::sync(out);
        self.collect().await.map(drop)
    }

    /// Puts settings in force, in one round trip, and returns what is reported then.
    ///
    /// # Errors
    /// PostgreSQL's own for a setting that it does not accept.
    pub async fn apply(&mut self, settings: &Settings) -> Result<BTreeMap<String, String>, AskError> {
        self.params = None;
        let change = Change { reset: true, set: settings.iter().collect() };
        self.put_settings(&change)?;
        self.collect().await?;
        Ok(self.reported.clone())
    }

    /// Appends what puts a change of parameters in force, ended by a Sync of its own: without it, a later error of the
    /// client's would undo it.
    ///
    /// # Errors
    /// A value that does not fit a message.
    pub fn put_settings(&mut self, change: &Change<'_>) -> io::Result<()> {
        let has = std::mem::replace(&mut self.has_setters, true);
        let out = self.socket.output();
        if !has {
            for own in [&RESETTER, &SETTER] {
                frontend::parse(&own.name, own.text, [], out)?;
            }
        }
        if change.reset {
            frontend::bind("", &RESETTER.name, [], std::iter::empty::<()>(), |(), _| Ok(IsNull::No), [], out)
                .map_err(too_large)?;
            frontend::execute("", 0, out)?;
        }
        for (name, value) in &change.set {
            run(&SETTER, &[*name, *value], out)?;
        }
        frontend::sync(out);
        Ok(())
    }

    /// Takes all settings back, and waits for that: a limit among them may end it, and with it nobody's statement. On
    /// failure the backend is marked broken.
    pub async fn reset_settings(&mut self) {
        let put = self.put_settings(&Change { reset: true, set: Vec::new() });
        self.broken |= put.is_err() || self.collect().await.is_err();
        self.params = Some(Arc::default());
    }

    /// Appends what takes away whatever a session may hold that its owner's statements did not show, but prepared
    /// statements: in two steps, so that no time limit of that owner bears on the second. The unnamed statement goes, too.
    ///
    /// # Errors
    /// Never in practice: a message that does not fit.
    pub fn put_cleaning(&mut self) -> io::Result<()> {
        self.put_settings(&Change { reset: true, set: Vec::new() })?;
        frontend::query(CLEANING, self.socket.output())?;
        self.statements.unnamed = Unnamed::Absent;
        self.params = Some(Arc::default());
        Ok(())
    }

    /// Appends what makes `currval` and `lastval` forget.
    pub fn put_discard_sequences(&mut self) {
        self.statements.unnamed = Unnamed::Absent;
        // The text has no NUL.
        let _ = frontend::query("DISCARD SEQUENCES", self.socket.output());
    }

    /// Appends what closes our own statements, and returns how many messages that takes.
    pub fn put_close_own(&mut self) -> usize {
        self.forget_own_statements();
        let all = [&RESETTER, &SETTER, &LOCAL_SETTER, &SHOWER, &PARAMETERS, &PINS];
        let out = self.socket.output();
        for own in all {
            // The name is short.
            let _ = frontend::close(b'S', &own.name, out);
        }
        all.len()
    }

    /// Our own statements are gone with all others.
    pub fn forget_own_statements(&mut self) {
        self.has_setters = false;
        self.has_asks = false;
    }
}

fn run(own: &Own, arguments: &[&str], out: &mut BytesMut) -> io::Result<()> {
    bind_text(&own.name, arguments, out)?;
    frontend::execute("", 0, out)
}

/// A text[] constant (manual, "Array Input and Output Syntax").
fn array(names: &[String]) -> String {
    let quoted = names.iter().map(|name| format!("\"{}\"", name.replace('\\', "\\\\").replace('"', "\\\"")));
    format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
}

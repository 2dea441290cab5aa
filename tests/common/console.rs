//! The admin console, read as tables.

use std::collections::HashMap;
use std::thread::JoinHandle;

use super::{APP, Config, Failure, PASSWORD, Proxy, Result, Say, Target, Wire};

/// A row by column.
pub type Row = HashMap<String, String>;

impl Config {
    /// With a console for an operator and for somebody who may look.
    #[must_use]
    pub fn console(self) -> Self {
        self.top("admin_users = [\"operator\"]\nstats_users = [\"watcher\"]").section(&format!(
            "[users.operator]\npassword = \"{PASSWORD}\"\n[users.watcher]\npassword = \"{PASSWORD}\""
        ))
    }
}

impl Proxy {
    /// The console, for an operator.
    pub fn console(&self) -> Target {
        self.target().user("operator", PASSWORD).database("pgfunnel")
    }
}

impl Wire {
    /// A table of the console's; NULL is `<null>`.
    pub fn table(&mut self, command: &str) -> Result<Vec<Row>> {
        let answer = self.query(command)?;
        if let Some(error) = answer.errors().first() {
            return Err(format!("{command}: {error:?}").into());
        }
        let columns = answer.columns();
        let named = |row: Vec<Option<String>>| {
            let values = row.into_iter().map(|value| value.unwrap_or_else(|| "<null>".to_owned()));
            columns.iter().cloned().zip(values).collect()
        };
        Ok(answer.rows().into_iter().map(named).collect())
    }

    /// The row of it in which a column has this value.
    pub fn row(&mut self, command: &str, column: &str, value: &str) -> Result<Row> {
        let rows = self.table(command)?;
        let found = rows.iter().find(|row| row.get(column).is_some_and(|found| found == value));
        found.cloned().ok_or_else(|| format!("{command}: no {column} = {value} in {rows:?}").into())
    }

    /// The row of the pool of [`APP`].
    pub fn pool(&mut self, command: &str) -> Result<Row> {
        self.row(command, "database", APP)
    }

    /// Says a command that has no table.
    pub fn order(&mut self, command: &str) -> Result {
        let answer = self.ask(&Say::new().query(command))?;
        match answer.errors().first() {
            Some(error) => Err(format!("{command}: {error:?}").into()),
            None => Ok(()),
        }
    }
}

/// Says a command in the background; the thread ends when it is answered.
pub fn later(target: &Target, command: &'static str) -> JoinHandle<std::result::Result<(), String>> {
    let target = target.clone();
    std::thread::spawn(move || {
        let said = || target.connect()?.order(command);
        said().map_err(|error: Failure| format!("{error:?}"))
    })
}

/// Waits until it is answered.
pub fn answered(said: JoinHandle<std::result::Result<(), String>>) -> Result {
    Ok(said.join().map_err(|_| "it panicked")??)
}

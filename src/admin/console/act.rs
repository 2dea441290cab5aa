//! What an operator changes. Each answer comes when it is done; what waits can be cancelled.

use tokio::sync::oneshot;

use super::command::Action;
use super::{Console, Wish};
use crate::cancel::Order;
use crate::error::{Error, Side, SqlState};
use crate::pool::no_database;

impl Console {
    /// Does it.
    ///
    /// # Errors
    /// What it names is not there, or cannot be so.
    pub(super) async fn act(&self, action: &Action) -> Result<(), Error> {
        let registry = &self.watched.registry;
        if let Some(database) = action.database() {
            self.check(database)?;
        }
        match action {
            Action::Pause(database) => {
                let database = database.as_deref();
                let pause = Pause { console: self, database, taken_back: !registry.is_paused(database) };
                registry.pause(database);
                let complete = registry.emptied(database).await;
                pause.stays();
                if !complete {
                    return Err(resumed());
                }
            }
            Action::Resume(database) => {
                if !registry.resume(database.as_deref()) {
                    return Err(not_paused(database.as_deref()));
                }
            }
            Action::Disable(database) => registry.disable(database, true),
            Action::Enable(database) => registry.disable(database, false),
            Action::Kill(database) => {
                registry.pause(Some(database));
                let all = self.watched.clients.all();
                let theirs = all.iter().filter(|client| client.pool.key.database == *database);
                theirs.for_each(|client| client.give(Order::Kill));
            }
            Action::KillClient(id) => {
                let all = self.watched.clients.all();
                let client = all.iter().find(|client| client.id == *id).ok_or_else(|| no_client(*id))?;
                client.give(Order::Kill);
            }
            Action::Reconnect(database) => registry.reconnect(database.as_deref()),
            Action::WaitClose(database) => registry.closed(database.as_deref()).await,
            Action::Reload => self.ask(Wish::Reload).await?,
            Action::Set(key, value) => {
                let wish = |reply| Wish::Set { key: key.clone(), value: value.clone(), reply };
                self.ask(wish).await?;
                // Now it is known that it is no secret.
                tracing::info!("SET {key:?} = {value:?} is in force until the next RELOAD");
            }
            Action::Shutdown(how) => self.wishes.send(Wish::Shutdown(*how)).await.map_err(|_| ending())?,
        }
        Ok(())
    }

    fn check(&self, database: &str) -> Result<(), Error> {
        match self.watched.registry.config().database(database) {
            Some(_) => Ok(()),
            None => Err(no_database(database)),
        }
    }

    /// Asks the server, and waits for its answer.
    async fn ask(&self, wish: impl FnOnce(oneshot::Sender<Result<(), String>>) -> Wish) -> Result<(), Error> {
        let (reply, answer) = oneshot::channel();
        self.wishes.send(wish(reply)).await.map_err(|_| ending())?;
        answer.await.map_err(|_| ending())?.map_err(|problem| {
            Error::new(Side::Client, SqlState::CONFIG_FILE_ERROR, "the configuration was not changed").detail(problem)
        })
    }
}

impl Action {
    /// The database that must be there for it.
    fn database(&self) -> Option<&str> {
        match self {
            Action::Pause(name) | Action::Reconnect(name) | Action::WaitClose(name) => name.as_deref(),
            Action::Disable(name) | Action::Kill(name) => Some(name),
            Action::KillClient(_) | Action::Reload | Action::Shutdown(_) | Action::Set(..) => None,
            // One that a reload has taken away may still be let go.
            Action::Resume(_) | Action::Enable(_) => None,
        }
    }
}

/// A PAUSE that waits for backends; dropped half-way (cancelled, or its operator is gone), it is taken back.
struct Pause<'a> {
    console: &'a Console,
    database: Option<&'a str>,
    taken_back: bool,
}

impl Pause<'_> {
    fn stays(mut self) {
        self.taken_back = false;
    }
}

impl Drop for Pause<'_> {
    fn drop(&mut self) {
        if self.taken_back {
            self.console.watched.registry.take_back(self.database);
        }
    }
}

#[cold]
fn not_paused(database: Option<&str>) -> Error {
    let what = database.map_or_else(|| "pgfunnel".to_owned(), |name| format!("database \"{name}\""));
    Error::new(Side::Client, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, format!("{what} is not paused"))
}

#[cold]
fn resumed() -> Error {
    let message = "PAUSE was taken back by another operator before it was complete";
    Error::new(Side::Client, SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, message)
        .hint("RESUME does that, and so does Ctrl-C of who had paused before.")
}

#[cold]
fn no_client(id: u64) -> Error {
    Error::new(Side::Client, SqlState::UNDEFINED_OBJECT, format!("there is no client {id}"))
        .hint("SHOW CLIENTS lists them.")
}

#[cold]
fn ending() -> Error {
    Error::new(Side::Proxy, SqlState::ADMIN_SHUTDOWN, "pgfunnel is shutting down")
}

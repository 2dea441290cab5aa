//! What an operator does to databases: holds them (PAUSE: nobody gets a backend, who waits keeps its turn), shuts them to
//! new clients (DISABLE), and replaces their backends (RECONNECT).

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::Duration;

use super::{Pool, Registry};
use crate::clock::Moment;
use crate::config::PoolSettings;

/// How often it is looked whether backends have gone.
const GLANCE: Duration = Duration::from_millis(20);

/// Who waits in a pool that is held looks so often whether it still is.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Which databases are held, and which are shut.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// All, those that will come, too.
    all: bool,
    /// But these, that were let go since.
    except: HashSet<String>,
    /// Those that were named.
    named: HashSet<String>,
    disabled: HashSet<String>,
}

impl Held {
    pub(super) fn has(&self, database: &str) -> bool {
        self.named.contains(database) || self.all && !self.except.contains(database)
    }
}

/// Whether a pool is held.
#[derive(Debug, Default)]
pub(super) struct Hold {
    held: bool,
    /// When it was let go last.
    released: Option<Moment>,
}

impl Registry {
    /// Locked before the pools are, if both are.
    pub(super) fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The pools of a database, or all.
    fn of<'a>(&self, database: Option<&'a str>) -> impl Iterator<Item = Arc<Pool>> + use<'a> {
        self.all().into_iter().filter(move |pool| database.is_none_or(|name| pool.key.database == name))
    }

    /// Nobody gets a backend of this database (`None`: of any) until [`Registry::resume`]; those that there are are closed
    /// as their clients give them back.
    pub fn pause(&self, database: Option<&str>) {
        let mut held = self.held();
        match database {
            Some(name) => drop(held.named.insert(name.to_owned())),
            None => (held.all, held.except) = (true, HashSet::new()),
        }
        self.hold_as(&held, database);
    }

    /// Ends that, for this database or for all. `false`: it was not so.
    pub fn resume(&self, database: Option<&str>) -> bool {
        let mut held = self.held();
        let was = database.map_or(held.all || !held.named.is_empty(), |name| held.has(name));
        match database {
            Some(name) => {
                held.named.remove(name);
                if held.all {
                    held.except.insert(name.to_owned());
                }
            }
            None => (held.all, held.except, held.named) = Default::default(),
        }
        self.hold_as(&held, database);
        was
    }

    /// Takes a [`Registry::pause`] back that is not complete; what another has paused stays so.
    pub fn take_back(&self, database: Option<&str>) {
        let mut held = self.held();
        match database {
            Some(name) => drop(held.named.remove(name)),
            None => (held.all, held.except) = Default::default(),
        }
        self.hold_as(&held, database);
    }

    /// Holds pools or lets them go. Under the lock, so that a pool that is made meanwhile comes before or after.
    fn hold_as(&self, held: &Held, database: Option<&str>) {
        for pool in self.of(database) {
            let hold = held.has(&pool.key.database);
            if hold != pool.is_held() {
                pool.hold(hold);
            }
        }
    }

    /// Whether a database is held; `None`: all are.
    pub fn is_paused(&self, database: Option<&str>) -> bool {
        let held = self.held();
        database.map_or(held.all && held.except.is_empty(), |name| held.has(name))
    }

    /// Whether any is.
    pub fn holds_any(&self) -> bool {
        let held = self.held();
        held.all || !held.named.is_empty()
    }

    /// Waits until a database is not held.
    pub(super) async fn resumed(&self, database: &str) {
        while self.is_paused(Some(database)) {
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Lets no new client into a database, or does again.
    pub fn disable(&self, database: &str, disable: bool) {
        let mut held = self.held();
        match disable {
            true => drop(held.disabled.insert(database.to_owned())),
            false => drop(held.disabled.remove(database)),
        }
    }

    /// Whether a database lets no new client in.
    pub fn is_disabled(&self, database: &str) -> bool {
        self.held().disabled.contains(database)
    }

    /// Replaces the backends of a database, or all: none that there is now is lent again.
    pub fn reconnect(self: &Arc<Self>, database: Option<&str>) {
        self.of(database).for_each(|pool| pool.retire());
    }

    /// Waits until the backends of a database, or all, that are to be closed have gone.
    pub async fn closed(&self, database: Option<&str>) {
        let closing = |pool: Arc<Pool>| pool.backends().iter().any(|member| pool.is_outdated(member));
        while self.of(database).any(closing) {
            tokio::time::sleep(GLANCE).await;
        }
    }

    /// Waits until a database, or all, that is held has no backends and opens none. `false`: it is not held any more.
    pub async fn emptied(&self, database: Option<&str>) -> bool {
        while self.is_paused(database) {
            if self.of(database).all(|pool| pool.bounds.own().inside() == 0) {
                return true;
            }
            tokio::time::sleep(GLANCE).await;
        }
        false
    }
}

impl Pool {
    fn hold_state(&self) -> MutexGuard<'_, Hold> {
        self.hold.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// See [`Registry::pause`].
    pub(super) fn hold(self: &Arc<Self>, hold: bool) {
        {
            let mut state = self.hold_state();
            if state.held && !hold {
                state.released = Some(Moment::now());
            }
            state.held = hold;
            self.gate.hold(hold);
        }
        if hold {
            self.retire();
        }
    }

    /// Whether nobody gets a backend.
    pub fn is_held(&self) -> bool {
        self.hold_state().held
    }

    /// Waits until it is held.
    pub(super) async fn began_to_be_held(&self) {
        while !self.is_held() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// No backend that there is now is lent again.
    fn retire(self: &Arc<Self>) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.close_idle();
    }

    /// Closes those that nobody has.
    pub(super) fn close_idle(self: &Arc<Self>) {
        while let Some(idle) = self.store.take(0) {
            self.close(idle);
        }
    }

    /// When a client that asked then has waited long enough: the time in which the pool is held does not count towards
    /// `borrow_timeout`, but towards `pause_timeout`.
    pub(super) fn patience(&self, asked: Moment, settings: &PoolSettings) -> Moment {
        self.hold_state().patience(asked, settings)
    }

    /// When to look again whether the time is over.
    pub(super) fn next_look(&self, asked: Moment, settings: &PoolSettings) -> Moment {
        let state = self.hold_state();
        let end = state.patience(asked, settings);
        if state.held { end.min(Moment::now() + LOOK_AGAIN) } else { end }
    }
}

impl Hold {
    fn patience(&self, asked: Moment, settings: &PoolSettings) -> Moment {
        match self.held {
            true => asked + settings.pause_patience(),
            false => self.released.map_or(asked, |released| released.max(asked)) + settings.borrow_timeout,
        }
    }
}

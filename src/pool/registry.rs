//! All pools, and the bounds that they share.

use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use arc_swap::ArcSwap;

use super::bounds::Bounds;
use super::certify::Certified;
use super::connector::{Connector, give_up};
use super::deserted::make_room;
use super::gate::UNLIMITED;
use super::hold::Held;
use super::params::KnownParams;
use super::pressure::Pressure;
use super::store::Store;
use super::totals::Periods;
use super::{Gate, Pool, shutting_down};
use crate::backend::{Credential, KeySource, Target, connect};
use crate::clock::Moment;
use crate::config::{self, BackendTlsMode, Config, Console, HiddenState, PoolSettings, PoolSize};
use crate::error::{Error, Side, SqlState};
use crate::metrics::metrics;
use crate::net::Endpoint;
use crate::net::tls::BackendTls;

/// What distinguishes pools.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// The database that clients ask for.
    pub database: String,
    /// The user that they are.
    pub user: String,
}

impl fmt::Display for PoolKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.database, self.user)
    }
}

type Gates<K> = Mutex<HashMap<K, Arc<Gate>>>;

/// All pools of the process.
pub struct Registry {
    pub(super) config: ArcSwap<Config>,
    pub(super) pools: RwLock<HashMap<PoolKey, Arc<Pool>>>,
    pub(super) process: Arc<Gate>,
    own: Gates<PoolKey>,
    pub(super) databases: Gates<String>,
    pub(super) users: Gates<String>,
    keys: Arc<dyn KeySource>,
    pub(super) tls: Mutex<Vec<(config::BackendTls, Arc<BackendTls>)>>,
    pub(super) held: Mutex<Held>,
}

impl Registry {
    /// No pools yet.
    pub fn new(config: Arc<Config>, keys: Arc<dyn KeySource>) -> Arc<Self> {
        Arc::new(Self {
            process: Gate::new(config.max_backends),
            config: ArcSwap::new(config),
            pools: RwLock::default(),
            own: Mutex::default(),
            databases: Mutex::default(),
            users: Mutex::default(),
            keys,
            tls: Mutex::default(),
            held: Mutex::default(),
        })
    }

    /// The configuration in force.
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// All pools.
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The pool for a database and a user that have been let in; made if it is the first time. `credential` is what
    /// proves to PostgreSQL that we are that user.
    ///
    /// # Errors
    /// 3D000 for a database that is not configured; F0000 for TLS files that cannot be used any more.
    pub fn pool(self: &Arc<Self>, key: &PoolKey, credential: Credential) -> Result<Arc<Pool>, Error> {
        if let Some(pool) = self.known(key) {
            pool.renew_credential(credential);
            return Ok(pool);
        }
        let config = self.config();
        let target = self.target(&config, key, credential)?;
        let settings = config.pool_settings(&key.database, &key.user).ok_or_else(|| no_database(&key.database))?;
        let held = self.held();
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        if !pools.contains_key(key) {
            make_room(&mut pools, &config, key);
        }
        let pool = pools.entry(key.clone()).or_insert_with(|| {
            let pool = Arc::new(self.new_pool(&config, key, settings, target));
            if held.has(&key.database) {
                pool.hold(true);
            }
            pool
        });
        Ok(pool.clone())
    }

    /// What a pool that there is proves to PostgreSQL.
    pub fn credential(&self, key: &PoolKey) -> Option<Credential> {
        self.known(key).map(|pool| pool.target.load().credential.clone())
    }

    fn known(&self, key: &PoolKey) -> Option<Arc<Pool>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// Finds out whether PostgreSQL accepts a credential, by logging in with it. A pool is made only if it does.
    ///
    /// # Errors
    /// PostgreSQL's own; 53300 if no backend may be opened within `borrow_timeout`.
    pub async fn prove(self: &Arc<Self>, key: &PoolKey, credential: Credential) -> Result<(), Error> {
        // A pause is waited out as long as a login may take.
        self.resumed(&key.database).await;
        // A task of its own: a client that gives up leaves no connection behind that is not counted.
        let (registry, key) = (self.clone(), key.clone());
        let proving = tokio::spawn(async move { registry.prove_now(&key, credential).await });
        proving.await.unwrap_or_else(|_| Err(shutting_down()))
    }

    async fn prove_now(self: &Arc<Self>, key: &PoolKey, credential: Credential) -> Result<(), Error> {
        let config = self.config();
        let target = self.target(&config, key, credential.clone())?;
        let settings = config.pool_settings(&key.database, &key.user).ok_or_else(|| no_database(&key.database))?;
        let limit = settings.borrow_timeout;
        let bounds = self.bounds(&config, key, settings.size);
        let enter = async {
            self.resumed(&key.database).await;
            bounds.enter(|gate| self.evict(gate, None)).await
        };
        let Ok(places) = tokio::time::timeout(limit, enter).await else {
            return Err(Error::new(
                Side::Proxy,
                SqlState::TOO_MANY_CONNECTIONS,
                format!("no backend could be opened within borrow_timeout ({limit:?})"),
            )
            .hint("Raise pool_size, max_backends or borrow_timeout."));
        };
        match connect(&target).await {
            Ok(mut backend) if !backend.identity.proved => {
                tokio::spawn(async move {
                    backend.close(false).await;
                    drop(places);
                });
                Err(not_proved(&key.user))
            }
            Ok(backend) => {
                let pool = self.pool(key, credential)?;
                // What it connects to may have changed meanwhile; then this one is not current.
                let generation = match pool.lives_at(&target) {
                    true => pool.generation.load(Ordering::Acquire),
                    false => u64::MAX,
                };
                pool.keep(backend, &target, places, generation).await;
                Ok(())
            }
            Err(failed) => {
                let told = failed.error.to_error(&target);
                give_up(failed, places);
                Err(told)
            }
        }
    }

    /// The bounds on the backends of a pool: its own, the database's, the process's.
    fn bounds(&self, config: &Config, key: &PoolKey, size: PoolSize) -> Bounds {
        let limit = config.database(&key.database).and_then(|database| database.max_backends);
        Bounds::new(
            named_gate(&self.own, key, Some(initial_size(size))),
            named_gate(&self.databases, &key.database, limit),
            self.process.clone(),
        )
    }

    fn new_pool(self: &Arc<Self>, config: &Config, key: &PoolKey, settings: PoolSettings, target: Target) -> Pool {
        let user = named_gate(&self.users, &key.user, config.users.get(&key.user).and_then(|user| user.max_leases));
        Pool {
            key: key.clone(),
            target: ArcSwap::from_pointee(target),
            statements: Default::default(),
            schema: AtomicU64::new(0),
            catalogue: AtomicU64::new(0),
            sequences: AtomicBool::new(false),
            certified: ArcSwap::from_pointee(Certified::unknown()),
            certifying: AtomicBool::new(false),
            hides: AtomicBool::new(settings.hidden_state != HiddenState::Off),
            locals: AtomicBool::new(settings.hidden_state != HiddenState::Off),
            careful: AtomicBool::new(true),
            metrics: metrics().pool(&key.database, &key.user),
            clients: Arc::default(),
            active: AtomicUsize::new(0),
            listening: AtomicUsize::new(0),
            pressure: Pressure::new(),
            headroom: Default::default(),
            gate: Gate::new(initial_size(settings.size)),
            hold: Default::default(),
            roster: Default::default(),
            periods: Periods::new(),
            bounds: self.bounds(config, key, settings.size),
            registry: Arc::downgrade(self),
            user,
            applications: Mutex::default(),
            generation: AtomicU64::new(0),
            waits: Mutex::default(),
            waiting: AtomicUsize::new(0),
            closing: AtomicUsize::new(0),
            store: Store::new(),
            connector: Connector::new(settings.connect_concurrency),
            params: KnownParams::new(),
            made: Moment::now(),
            age: Default::default(),
            capped: AtomicBool::new(settings.max_leases_per_application.is_some()),
            settings: Arc::new(ArcSwap::from_pointee(settings)),
        }
    }

    pub(super) fn target(&self, config: &Config, key: &PoolKey, credential: Credential) -> Result<Target, Error> {
        let database = config.database(&key.database).ok_or_else(|| no_database(&key.database))?;
        Ok(Target {
            endpoint: Endpoint::new(&database.host, database.port),
            host: database.host.clone(),
            dbname: database.dbname.clone().unwrap_or_else(|| key.database.clone()),
            user: key.user.clone(),
            credential,
            tls_mode: database.tls.mode,
            tls: self.backend_tls(&database.tls)?,
            keys: self.keys.clone(),
            timeout: database.pool.connect_timeout,
        })
    }

    /// One TLS configuration per distinct setting, so that sessions are resumed across pools.
    fn backend_tls(&self, wanted: &config::BackendTls) -> Result<Option<Arc<BackendTls>>, Error> {
        if wanted.mode == BackendTlsMode::Disable {
            return Ok(None);
        }
        let mut known = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, tls)) = known.iter().find(|(config, _)| config == wanted) {
            return Ok(Some(tls.clone()));
        }
        let built = BackendTls::build(wanted).map_err(|error| {
            Error::new(Side::Proxy, SqlState::CONFIG_FILE_ERROR, format!("TLS towards the database: {error}"))
        })?;
        let Some(tls) = built.map(Arc::new) else { return Ok(None) };
        known.push((wanted.clone(), tls.clone()));
        Ok(Some(tls))
    }

    /// Closes an idle backend of another pool than `except` behind this gate.
    pub(super) fn evict(&self, gate: &Arc<Gate>, except: Option<&Pool>) {
        for pool in self.all() {
            if !pool.bounds.has(gate) || except.is_some_and(|except| std::ptr::eq(&*pool, except)) {
                continue;
            }
            if let Some(taken) = pool.store.take(0) {
                pool.close(taken);
                return;
            }
        }
    }

    /// Forgets the bounds that no pool has.
    pub(super) fn forget_gates(&self) {
        forget_unused(&self.own);
        forget_unused(&self.databases);
        forget_unused(&self.users);
    }

    /// Opens the warm minimum of the pools that can be known before anybody asks: for users that set `min_idle`
    /// themselves, and for the only user there is.
    pub fn warm_up(self: &Arc<Self>) {
        let config = self.config();
        for database in config.databases.keys() {
            for (user, settings) in &config.users {
                let Some(credential) = configured_credential(&config, user) else { continue };
                if settings.pool.min_idle.is_none() && config.users.len() > 1 {
                    continue;
                }
                let min_idle = config.pool_settings(database, user).map_or(0, |settings| settings.min_idle);
                if min_idle == 0 {
                    continue;
                }
                let key = PoolKey { database: database.clone(), user: user.clone() };
                match self.pool(&key, credential) {
                    Ok(pool) => pool.warm_up(min_idle),
                    Err(error) => tracing::warn!(pool = %key, "cannot warm up: {error}"),
                }
            }
        }
    }
}

/// What the configuration says that we prove to PostgreSQL as this user.
pub fn configured_credential(config: &Config, user: &str) -> Option<Credential> {
    let user = config.users.get(user)?;
    if let Some(password) = &user.backend_password {
        return Some(Credential::Password(password.clone()));
    }
    match user.secret.as_ref()? {
        config::Secret::Plain(password) => Some(Credential::Password(password.clone())),
        config::Secret::Md5(hash) => Some(Credential::Md5(hash.clone())),
        config::Secret::Scram(_) => None,
    }
}

/// A percentage is not known before the first backend is there: until then, one.
fn initial_size(size: PoolSize) -> usize {
    match size {
        PoolSize::Count(size) => size,
        PoolSize::Share(_) => 1,
    }
}

/// Always there, so that a reload can give or take away a limit.
fn named_gate<K: Hash + Eq + Clone>(gates: &Gates<K>, name: &K, limit: Option<usize>) -> Arc<Gate> {
    let mut gates = gates.lock().unwrap_or_else(PoisonError::into_inner);
    gates.entry(name.clone()).or_insert_with(|| Gate::new(limit.unwrap_or(UNLIMITED))).clone()
}

fn forget_unused<K: Hash + Eq>(gates: &Gates<K>) {
    gates.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, gate| Arc::strong_count(gate) > 1);
}

/// 3D000, in PostgreSQL's words.
pub fn no_database(name: &str) -> Error {
    Error::new(Side::Client, SqlState::INVALID_CATALOG_NAME, format!("database \"{name}\" does not exist")).hint(
        match Console::NAMES.contains(&name) {
            true => {
                "The admin console is open to admin_users and stats_users of pgfunnel's configuration: there are none."
            }
            false => "pgfunnel has no entry for it: see [databases] in its configuration.",
        },
    )
}
/// 28000: nobody has judged the password.
#[cold]
fn not_proved(user: &str) -> Error {
    Error::new(
        Side::Proxy,
        SqlState::INVALID_AUTHORIZATION_SPECIFICATION,
        format!("PostgreSQL lets pgfunnel in as \"{user}\" without a password, and so does not judge this one"),
    )
    .hint("Have pg_hba.conf demand a password of pgfunnel's address (scram-sha-256), or list the user with a secret.")
}

//! Another configuration for pools that there are. Nobody is disturbed.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::gate::UNLIMITED;
use super::{Pool, Registry, configured_credential};
use crate::backend::{Credential, Target};
use crate::config::{Config, PoolSettings, PoolSize};
use crate::error::Error;

impl Registry {
    /// Puts another configuration in force. Nobody is disturbed; what pools connect to counts for new backends.
    ///
    /// # Errors
    /// TLS files that cannot be used; nothing is changed then.
    pub fn reload(&self, config: Arc<Config>) -> Result<(), Error> {
        let old_tls = std::mem::take(&mut *self.tls.lock().unwrap_or_else(PoisonError::into_inner));
        let mut changes = Vec::new();
        for pool in self.all() {
            let credential =
                configured_credential(&config, &pool.key.user).unwrap_or_else(|| pool.target.load().credential.clone());
            let Some(settings) = config.pool_settings(&pool.key.database, &pool.key.user) else { continue };
            match self.target(&config, &pool.key, credential) {
                Ok(target) => changes.push((pool, settings, target)),
                Err(error) => {
                    *self.tls.lock().unwrap_or_else(PoisonError::into_inner) = old_tls;
                    return Err(error);
                }
            }
        }
        for (pool, settings, target) in changes {
            pool.reconfigure(settings, target);
        }
        self.process.resize(config.max_backends);
        for (name, gate) in self.databases.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            gate.resize(config.database(name).and_then(|database| database.max_backends).unwrap_or(UNLIMITED));
        }
        for (name, gate) in self.users.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            gate.resize(config.users.get(name).and_then(|user| user.max_leases).unwrap_or(UNLIMITED));
        }
        self.config.store(config);
        Ok(())
    }
}

impl Pool {
    /// A user that is not configured proves itself anew at each login; the last proof counts.
    pub(super) fn renew_credential(&self, credential: Credential) {
        let target = self.target.load();
        if target.credential != credential {
            self.target.store(Arc::new(Target { credential, ..Target::clone(&target) }));
            self.connector.forget_trouble();
        }
    }

    /// Whether this is where its backends go.
    pub(super) fn lives_at(&self, target: &Target) -> bool {
        let current = self.target.load();
        (&current.endpoint, &current.dbname, current.tls_mode) == (&target.endpoint, &target.dbname, target.tls_mode)
    }

    fn reconfigure(&self, settings: PoolSettings, target: Target) {
        let old = self.settings.load_full();
        if old.size != settings.size {
            if let PoolSize::Count(size) = settings.size {
                self.resize(size);
            }
            self.connector.survey_again();
        }
        self.connector.resize(settings.connect_concurrency);
        self.connector.forget_trouble();
        let moved = !self.lives_at(&target);
        // The target first: who reads the new generation connects to the new target.
        self.target.store(Arc::new(target));
        if moved {
            self.generation.fetch_add(1, Ordering::AcqRel);
        }
        self.capped.store(settings.max_leases_per_application.is_some(), Ordering::Relaxed);
        self.settings.store(Arc::new(settings));
        self.judge();
    }
}

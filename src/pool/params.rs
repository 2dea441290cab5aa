//! What PostgreSQL reports for the settings that clients log in with. Asked once per combination, so that the
//! thousandth Lambda with the same settings costs nothing.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use foldhash::fast::RandomState;
use hashlink::LruCache;

use super::Pool;
use crate::error::Error;
use crate::track::params::plain_application_name;
use crate::track::{Params, Settings};

/// Combinations remembered per pool.
const REMEMBERED: usize = 1_000;

#[derive(Debug)]
pub(crate) struct KnownParams {
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    /// What a backend reports right after its login.
    baseline: Option<BTreeMap<String, String>>,
    by_settings: LruCache<Settings, Arc<Params>, RandomState>,
    outcomes: LruCache<(u64, u64, Arc<[u8]>), Outcome, RandomState>,
}

/// What a text makes of a client's parameters.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    /// The client's own from now on.
    pub(crate) own: Arc<Params>,
    /// What is in force on the backend: without what a reset took away and the client has by its login.
    pub(crate) in_force: Arc<Params>,
}

impl KnownParams {
    pub(super) fn new() -> Self {
        let by_settings = LruCache::with_hasher(REMEMBERED, RandomState::default());
        let outcomes = LruCache::with_hasher(REMEMBERED, RandomState::default());
        Self { known: Mutex::new(Known { baseline: None, by_settings, outcomes }) }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what a new backend reports. If that changed, everything known is stale.
    pub(super) fn learn(&self, reported: &BTreeMap<String, String>) {
        let mut known = self.lock();
        if known.baseline.as_ref() != Some(reported) {
            known.by_settings.clear();
            known.outcomes.clear();
            known.baseline = Some(reported.clone());
        }
    }

    fn get(&self, settings: &Settings) -> Option<Arc<Params>> {
        let mut known = self.lock();
        if settings.is_empty() && known.by_settings.peek(settings).is_none() {
            let reported = known.baseline.clone()?;
            known.by_settings.insert(settings.clone(), Arc::new(Params::new(settings.clone(), reported)));
        }
        known.by_settings.get(settings).cloned()
    }

    /// The one that stands for these settings.
    pub(crate) fn insert(&self, settings: Settings, reported: BTreeMap<String, String>) -> Arc<Params> {
        let mut known = self.lock();
        if let Some(same) = known.by_settings.get(&settings) {
            return same.clone();
        }
        let params = Arc::new(Params::new(settings.clone(), reported));
        known.by_settings.insert(settings, params.clone());
        params
    }

    /// What a text made of these parameters, for a client that logged in with those, if that was seen before.
    pub(crate) fn outcome(&self, login: &Params, before: &Params, text: &Arc<[u8]>) -> Option<Outcome> {
        self.lock().outcomes.get(&(login.id, before.id, text.clone())).cloned()
    }

    /// Remembers that. Only for a text whose outcome depends on nothing else.
    pub(crate) fn remember(&self, login: &Params, before: &Params, text: Arc<[u8]>, outcome: Outcome) {
        self.lock().outcomes.insert((login.id, before.id, text), outcome);
    }
}

impl Pool {
    /// The parameters of a client that logs in with these settings: what PostgreSQL reports with them in force. Asks a
    /// backend if nobody has come with these before; `application_name` alone needs no question.
    ///
    /// # Errors
    /// PostgreSQL's own for a setting that it does not accept; those of [`Pool::borrow`].
    pub async fn resolve(self: &Arc<Self>, settings: Settings) -> Result<Arc<Params>, Error> {
        if let Some(params) = self.known(&settings) {
            return Ok(params);
        }
        let mut lease = self.borrow_for_errand().await?;
        // The backend that was opened told what it reports, and others may have asked meanwhile.
        let known = self.known(&settings);
        if known.is_some() || settings.is_empty() {
            lease.release();
            return known.ok_or_else(super::shutting_down);
        }
        if lease.residue != crate::track::Effects::NONE {
            lease.clean().await;
        }
        match lease.apply(&settings).await {
            Ok(reported) => {
                let params = self.params.insert(settings, reported);
                lease.params = Some(params.clone());
                if lease.limits_idleness() {
                    lease.reset_settings().await;
                }
                lease.release();
                Ok(params)
            }
            Err(error) => {
                lease.release();
                Err(error.into_error())
            }
        }
    }

    /// The same as far as it is known without a question.
    fn known(&self, settings: &Settings) -> Option<Arc<Params>> {
        if let Some(params) = self.params.get(settings) {
            return Some(params);
        }
        let mut without_name = settings.clone();
        let name = without_name.remove("application_name")?;
        let name = plain_application_name(&name)?;
        let mut reported = self.params.get(&without_name)?.reported.clone();
        reported.insert("application_name".to_owned(), name.to_owned());
        Some(self.params.insert(settings.clone(), reported))
    }
}

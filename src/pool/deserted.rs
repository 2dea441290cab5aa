//! When a pool is forgotten, with its metrics. Names come from clients: what none of them led anywhere must neither stay
//! nor become many.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, PoisonError};

use super::{Pool, PoolKey, Registry, upkeep};
use crate::config::Config;
use crate::metrics::metrics;

/// Rounds of upkeep that a pool may be deserted before it is forgotten.
const DESERTED: u32 = 600;

/// The same for one of doubtful name: longer than its last error is shown (10 s), and than any back-off.
const DOUBTFUL: u32 = 15;

/// Pools of doubtful name at one time, those in use aside: each has 200 lines of metrics.
const MOST_DOUBTFUL: usize = 100;

/// For how many rounds of upkeep nobody has used a pool.
#[derive(Default)]
pub(super) struct Age(AtomicU32);

impl Registry {
    /// Looks after all pools, for as long as the process lives.
    pub async fn keep_up(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(upkeep::INTERVAL);
        loop {
            ticks.tick().await;
            let config = self.config();
            let mut old = Vec::new();
            for pool in self.all() {
                let doubtful = is_doubtful(&config, &pool);
                pool.upkeep();
                if !doubtful {
                    pool.keep_warm();
                }
                pool.keep_certified();
                if pool.grow_older() > if doubtful { DOUBTFUL } else { DESERTED } {
                    old.push(pool.key.clone());
                }
            }
            self.forget_gates();
            old.iter().for_each(|key| self.forget(key));
        }
    }

    /// Removes a pool, unless somebody has just come for it.
    fn forget(&self, key: &PoolKey) {
        let mut pools = self.pools.write().unwrap_or_else(PoisonError::into_inner);
        if pools.get(key).is_some_and(is_unused) {
            remove(&mut pools, key);
        }
    }
}

/// Forgets pools of doubtful name, the longest known first, until another may be made; never one that is in use.
pub(super) fn make_room(pools: &mut HashMap<PoolKey, Arc<Pool>>, config: &Config, key: &PoolKey) {
    if is_named(config, key) || pools.len() < MOST_DOUBTFUL {
        return;
    }
    let mut doubtful: Vec<&Arc<Pool>> = pools.values().filter(|pool| is_doubtful(config, pool)).collect();
    let surplus = (doubtful.len() + 1).saturating_sub(MOST_DOUBTFUL);
    doubtful.retain(|pool| is_unused(pool));
    doubtful.sort_unstable_by_key(|pool| pool.made);
    let surplus: Vec<PoolKey> = doubtful.into_iter().take(surplus).map(|pool| pool.key.clone()).collect();
    surplus.iter().for_each(|key| remove(pools, key));
}

fn remove(pools: &mut HashMap<PoolKey, Arc<Pool>>, key: &PoolKey) {
    pools.remove(key);
    metrics().forget_pool(&key.database, &key.user);
}

/// With the registry's lock held, nobody can come for it.
fn is_unused(pool: &Arc<Pool>) -> bool {
    Arc::strong_count(pool) == 1
}

/// Nothing but a client's word says that there is such a database, or such a user.
fn is_doubtful(config: &Config, pool: &Pool) -> bool {
    !pool.connector.is_proven() && !is_named(config, &pool.key)
}

fn is_named(config: &Config, key: &PoolKey) -> bool {
    config.databases.contains_key(&key.database) && config.users.contains_key(&key.user)
}

impl Pool {
    /// Whether nobody uses it and nothing would be lost with it.
    fn is_deserted(&self) -> bool {
        self.clients.load(Ordering::Acquire) == 0 && self.gate.inside() == 0 && self.bounds.own().inside() == 0
    }

    /// Another round of upkeep. For how many it has been deserted.
    fn grow_older(&self) -> u32 {
        let Age(rounds) = &self.age;
        let age = if self.is_deserted() { rounds.load(Ordering::Relaxed).saturating_add(1) } else { 0 };
        rounds.store(age, Ordering::Relaxed);
        age
    }
}

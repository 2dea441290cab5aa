//! LISTEN for many clients by one backend per pool. A client's `LISTEN` runs on its own backend, as PostgreSQL means it;
//! once it has taken effect, the channel is handed over to the pool's listener, which passes notifications on to all who
//! want them. The first such backend becomes the listener itself, so none has to be waited for. Notifications wait here,
//! within a bound, until their client is between transactions.

mod inbox;
mod listener;
mod subscription;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::backend::{AskError, Backend};
use crate::pool::{Pool, PoolKey};
use crate::prepared;
use listener::Order;
pub use listener::Start;
pub use subscription::Subscription;

/// The channel by which backends and listeners agree on a moment. No client can guess it: see [`prepared::prefix`].
static MARKER: LazyLock<String> = LazyLock::new(|| format!("{}marker", prepared::prefix()));

/// The listeners of all pools.
#[derive(Default)]
pub struct Listeners {
    by_pool: Mutex<HashMap<PoolKey, Entry>>,
}

struct Entry {
    /// A pool of the same name may have taken its place.
    pool: Weak<Pool>,
    orders: UnboundedSender<Order>,
}

/// Who listens for a pool.
pub enum Listener {
    /// Somebody does.
    Running(Running),
    /// Nobody did; who asks now provides the backend.
    Wanted(Start),
}

/// The way to a listener.
#[derive(Clone)]
pub struct Running(UnboundedSender<Order>);

impl Listeners {
    /// The pool's listener.
    pub fn of(&self, pool: &Arc<Pool>) -> Listener {
        let mut by_pool = self.by_pool.lock().unwrap_or_else(PoisonError::into_inner);
        let is_its = |entry: &&Entry| std::ptr::eq(entry.pool.as_ptr(), Arc::as_ptr(pool)) && !entry.orders.is_closed();
        if let Some(entry) = by_pool.get(&pool.key).filter(is_its) {
            return Listener::Running(Running(entry.orders.clone()));
        }
        by_pool.retain(|_, entry| !entry.orders.is_closed());
        let (sender, orders): (_, UnboundedReceiver<Order>) = unbounded_channel();
        by_pool.insert(pool.key.clone(), Entry { pool: Arc::downgrade(pool), orders: sender.clone() });
        Listener::Wanted(Start::new(Running(sender), orders))
    }
}

/// A number for a moment that [`hand_over`] marks, unique in this process.
pub fn moment() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Marks a moment on a backend that listens: what it has been told before is returned, what comes behind is for the
/// listener to tell. It listens to nothing afterwards.
///
/// # Errors
/// See [`AskError`].
pub async fn hand_over(backend: &mut Backend, moment: u64) -> Result<Vec<u8>, AskError> {
    let answer = backend.run(&format!("LISTEN {0}; NOTIFY {0}, '{moment}'", quoted(&MARKER))).await?;
    let mut before = answer.notifications;
    if let Some(end) = listener::position(&before, moment) {
        before.truncate(end);
    }
    backend.run("UNLISTEN *").await?;
    Ok(before)
}

/// As a quoted identifier.
fn quoted(channel: &str) -> String {
    format!("\"{}\"", channel.replace('"', "\"\""))
}

//! LISTEN for many clients by one backend per pool. A client's `LISTEN` runs on its own backend, as PostgreSQL means it;
//! once it has taken effect, the channel is handed over to the pool's listener, which passes notifications on to all who
//! want them. The first such backend becomes the listener itself, so none has to be waited for. Notifications wait here,
//! within a bound, until their client is between transactions.

mod inbox;
mod listener;
mod subscription;
mod table;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

use crate::backend::{AskError, Backend};
use crate::cancel::Handle;
use crate::pool::{Pool, PoolKey};
use crate::prepared;
use crate::wire::backend as tag;
use crate::wire::{HEADER, Header};
use listener::Order;
pub use listener::Start;
pub use subscription::{MOST_CHANNELS, Subscription};

/// The channel by which backends and listeners agree on a moment. Clients do not listen to it: it is not shared.
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

/// What a client finds that wants to share what it listens to.
pub enum Found {
    /// A listener, which listens for it from now on.
    Joined(Subscription),
    /// None: its own backend is to become one.
    Wanted(Box<Start>),
    /// One that does not answer.
    Silent,
}

/// The way to a listener.
#[derive(Clone)]
pub(crate) struct Running(UnboundedSender<Order>);

impl Listeners {
    /// Joins the pool's listener, if there is one, from the moment that [`hand_over`] marks. See [`Subscription`]'s own
    /// `join` for who has joined already.
    pub async fn join(&self, pool: &Arc<Pool>, client: &Arc<Handle>, channels: &[String], moment: u64) -> Found {
        loop {
            let listener = match self.find(pool) {
                Ok(listener) => listener,
                Err(start) => return Found::Wanted(start),
            };
            let mut subscription = Subscription::new(listener.clone(), client.clone());
            if subscription.join(channels, moment).await {
                return Found::Joined(subscription);
            }
            // One that has just ended makes room for another.
            if !listener.0.is_closed() {
                return Found::Silent;
            }
        }
    }

    fn find(&self, pool: &Arc<Pool>) -> Result<Running, Box<Start>> {
        let mut by_pool = self.by_pool.lock().unwrap_or_else(PoisonError::into_inner);
        let is_its = |entry: &&Entry| std::ptr::eq(entry.pool.as_ptr(), Arc::as_ptr(pool)) && !entry.orders.is_closed();
        if let Some(entry) = by_pool.get(&pool.key).filter(is_its) {
            return Ok(Running(entry.orders.clone()));
        }
        by_pool.retain(|_, entry| !entry.orders.is_closed());
        let (sender, orders) = unbounded_channel();
        by_pool.insert(pool.key.clone(), Entry { pool: Arc::downgrade(pool), orders: sender.clone() });
        Err(Box::new(Start::new(Running(sender), orders)))
    }
}

/// A number for a moment that [`hand_over`] marks, unique in this process.
pub fn moment() -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

/// Marks a moment on a backend that listens: what it has been told before stays in [`Backend::notifications`], what comes
/// behind is for the listener to tell. It listens to nothing afterwards. Not cancel-safe.
///
/// # Errors
/// See [`AskError`]; after `Refused` it listens as before.
pub async fn hand_over(backend: &mut Backend, moment: u64) -> Result<(), AskError> {
    let marker = quoted(&MARKER);
    backend.run(&[&format!("LISTEN {marker}"), &format!("NOTIFY {marker}, '{moment}'")]).await?;
    let mut end = 0;
    let mut marked = None;
    each(&backend.notifications, |message| {
        if table::mark(message.get(HEADER..).unwrap_or_default()) == Some(moment) {
            marked = Some(end);
        }
        end += message.len();
    });
    backend.notifications.truncate(marked.unwrap_or(end));
    let before = std::mem::take(&mut backend.notifications);
    if let Err(AskError::Refused(error)) = backend.run(&["UNLISTEN *"]).await {
        // It may be told what the listener tells as well.
        backend.broken = true;
        return Err(AskError::Io(std::io::Error::other(error)));
    }
    backend.notifications = before;
    Ok(())
}

/// Calls `act` with each of these messages.
pub fn each(mut messages: &[u8], mut act: impl FnMut(&[u8])) {
    while let Ok(Some(header)) = Header::peek(messages, tag::limit)
        && let Some((message, rest)) = messages.split_at_checked(header.total)
    {
        act(message);
        messages = rest;
    }
}

/// Whether a NotificationResponse is on one of these channels.
pub fn is_on(message: &[u8], channels: &[String]) -> bool {
    let heard = tag::notification(message.get(HEADER..).unwrap_or_default());
    heard.is_some_and(|(_, on)| channels.iter().any(|channel| channel.as_bytes() == on))
}

/// Whether it is the channel by which moments are marked.
pub fn is_marker(channel: &[u8]) -> bool {
    channel == MARKER.as_bytes()
}

/// As a quoted identifier.
fn quoted(channel: &str) -> String {
    format!("\"{}\"", channel.replace('"', "\"\""))
}

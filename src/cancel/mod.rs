//! Clients by their cancel keys: which backend each one has right now, so that a cancel hits that one or nobody; and
//! the orders that other tasks give to a client (drain, stop).

mod handle;

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use tokio::sync::Notify;

use crate::log::counted;
use crate::metrics::metrics;
use crate::pool::Pool;
use crate::trace::TraceContext;
pub use handle::{Handle, Order, Pinned};

/// Keys of operators' consoles, and who is told of a cancel.
type Consoles = HashMap<i32, (Vec<u8>, Arc<Notify>)>;

/// All logged-in clients.
#[derive(Default)]
pub struct Clients {
    by_pid: Mutex<HashMap<i32, Arc<Handle>>>,
    consoles: Mutex<Consoles>,
    next: AtomicU64,
    /// What was last ordered to all; who comes later is told, too.
    order: AtomicU8,
}

/// Who comes.
pub struct Who {
    /// Its pool.
    pub pool: Arc<Pool>,
    /// Its `application_name`, without a trace context.
    pub application: Box<str>,
    /// Its trace context.
    pub trace: Option<TraceContext>,
    /// Where it comes from; `None`: a Unix socket.
    pub peer: Option<SocketAddr>,
    /// By TLS.
    pub tls: bool,
}

/// A client's entry; dropped, it is gone and its key means nothing.
pub struct Entry {
    clients: Arc<Clients>,
    /// The client.
    pub handle: Arc<Handle>,
}

/// The entry of an operator's console, which has no backend; dropped, it is gone.
pub struct ConsoleEntry {
    clients: Arc<Clients>,
    /// Its process id as told in BackendKeyData.
    pub pid: i32,
    /// The secret behind it.
    pub key: Vec<u8>,
    /// Told of a cancel.
    pub cancelled: Arc<Notify>,
}

impl Clients {
    fn consoles(&self) -> MutexGuard<'_, Consoles> {
        self.consoles.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<i32, Arc<Handle>>> {
        self.by_pid.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a client, with an unguessable key of `key_length` bytes.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn enter(self: &Arc<Self>, who: Who, key_length: usize) -> io::Result<Entry> {
        let key = random(key_length)?;
        let mut by_pid = self.lock();
        let pid = self.new_pid(&by_pid)?;
        let (id, order) = (self.next.fetch_add(1, Ordering::Relaxed) + 1, self.order.load(Ordering::Acquire));
        let handle = Arc::new(Handle::new(id, pid, key, who, order));
        by_pid.insert(pid, handle.clone());
        Ok(Entry { clients: self.clone(), handle })
    }

    /// Enters an operator's console, in the same way.
    ///
    /// # Errors
    /// The system gives no randomness.
    pub fn enter_console(self: &Arc<Self>, key_length: usize) -> io::Result<ConsoleEntry> {
        let (key, cancelled) = (random(key_length)?, Arc::new(Notify::new()));
        let pid = self.new_pid(&self.lock())?;
        self.consoles().insert(pid, (key.clone(), cancelled.clone()));
        Ok(ConsoleEntry { clients: self.clone(), pid, key, cancelled })
    }

    /// A process id that nobody has.
    fn new_pid(&self, taken: &HashMap<i32, Arc<Handle>>) -> io::Result<i32> {
        loop {
            let bytes = random(4)?.try_into().unwrap_or_default();
            let pid = i32::from_be_bytes(bytes) & i32::MAX;
            if pid > 0 && !taken.contains_key(&pid) && !self.consoles().contains_key(&pid) {
                return Ok(pid);
            }
        }
    }

    /// Carries out a CancelRequest. A wrong key does nothing, and takes as long.
    pub async fn cancel(&self, pid: i32, key: &[u8]) {
        let handle = self.lock().get(&pid).cloned();
        let known = handle.filter(|handle| verify_slices_are_equal(handle.key(), key).is_ok());
        let outcome = match known {
            None if self.cancel_console(pid, key) => "sent",
            None => "unknown",
            // A task of its own: who asks may be cut off, what was begun must end.
            Some(handle) => match tokio::spawn(async move { handle.cancel().await }).await {
                Ok(Ok(true)) => "sent",
                Ok(Ok(false)) => "idle",
                Ok(Err(error)) => {
                    counted!(WARN, "a cancel request could not be passed on", "", "", {}, "{error}");
                    "failed"
                }
                Err(_) => "failed",
            },
        };
        metrics().cancels.with_label_values(&[outcome]).inc();
    }

    fn cancel_console(&self, pid: i32, key: &[u8]) -> bool {
        let consoles = self.consoles();
        let known = consoles.get(&pid).filter(|(own, _)| verify_slices_are_equal(own, key).is_ok());
        known.is_some_and(|(_, cancelled)| {
            cancelled.notify_waiters();
            true
        })
    }

    /// All of them, in no order.
    pub fn all(&self) -> Vec<Arc<Handle>> {
        self.lock().values().cloned().collect()
    }

    /// Gives an order to all.
    pub fn order_all(&self, order: Order) {
        let handles: Vec<_> = {
            let by_pid = self.lock();
            self.order.fetch_max(order as u8, Ordering::AcqRel);
            by_pid.values().cloned().collect()
        };
        handles.iter().for_each(|handle| handle.give(order));
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.clients.lock().remove(&self.handle.pid);
    }
}

impl Drop for ConsoleEntry {
    fn drop(&mut self) {
        self.clients.consoles().remove(&self.pid);
    }
}

fn random(length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length];
    aws_lc_rs::rand::fill(&mut bytes).map_err(|_| io::Error::other("no randomness for a cancel key"))?;
    Ok(bytes)
}

//! Who may be connected to the HTTP port: so many in all and of one address. Who has not said what it wants makes room
//! for who comes, the longest silent first: silence keeps nobody from `/healthz`.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::JoinHandle;

use super::live::MOST_VIEWERS;
use crate::counts::{Counts, KeyCount};

/// Connections at one time: viewers, scrapers, load balancers.
pub const MOST_CONNECTIONS: usize = 400;

/// Of one address. All viewers may sit behind one.
const MOST_OF_ONE: usize = MOST_VIEWERS + 30;

/// The conversations with those that have not sent a whole request head, in the order in which they came.
type Silent = Mutex<BTreeMap<u64, (IpAddr, JoinHandle<()>)>>;

/// All connections of the port.
#[derive(Default)]
pub(super) struct Room {
    counts: Counts<IpAddr>,
    came: AtomicU64,
    silent: Arc<Silent>,
}

/// One that may be closed for another, until it is heard or gone.
pub(super) struct Unheard {
    silent: Arc<Silent>,
    number: u64,
}

impl Room {
    /// A place for a connection from this address. `None`: all are taken by those that are being answered.
    ///
    /// Cancel-safe.
    pub(super) async fn enter(&self, address: IpAddr) -> Option<KeyCount<IpAddr>> {
        let mut place = self.counts.enter(&address, MOST_OF_ONE);
        if place.is_none() {
            self.close_oldest(Some(address)).await;
            place = self.counts.enter(&address, MOST_OF_ONE);
        }
        // That of this connection is among them.
        if place.is_some() && self.counts.all() > MOST_CONNECTIONS {
            self.close_oldest(None).await;
        }
        place.filter(|_| self.counts.all() <= MOST_CONNECTIONS)
    }

    /// Converses with one that has entered. What it is given is to be told as soon as a request is there.
    pub(super) fn spawn<F>(&self, place: KeyCount<IpAddr>, converse: impl FnOnce(Unheard) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let number = self.came.fetch_add(1, Ordering::Relaxed);
        let address = *place.key();
        let conversation = converse(Unheard { silent: self.silent.clone(), number });
        // Locked meanwhile: it may be over at once, and must find itself here.
        let mut silent = lock(&self.silent);
        let task = tokio::spawn(async move {
            conversation.await;
            drop(place);
        });
        silent.insert(number, (address, task));
    }

    /// Closes the one (of this address) that has been silent longest, if there is one.
    async fn close_oldest(&self, address: Option<IpAddr>) {
        let task = {
            let mut silent = lock(&self.silent);
            let mut fitting = silent.iter().filter(|(_, (from, _))| address.is_none_or(|address| address == *from));
            let oldest = fitting.next().map(|(number, _)| *number);
            oldest.and_then(|number| silent.remove(&number))
        };
        if let Some((_, task)) = task {
            task.abort();
            // Its place is free when it has ended.
            let _ = task.await;
        }
    }
}

impl Unheard {
    /// It has said what it wants: from now on it is left in peace.
    pub(super) fn heard(&self) {
        lock(&self.silent).remove(&self.number);
    }
}

impl Drop for Unheard {
    fn drop(&mut self) {
        self.heard();
    }
}

fn lock(silent: &Silent) -> MutexGuard<'_, BTreeMap<u64, (IpAddr, JoinHandle<()>)>> {
    silent.lock().unwrap_or_else(PoisonError::into_inner)
}

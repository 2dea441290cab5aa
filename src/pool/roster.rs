//! The backends of a pool, for those who look: entered when one has been opened, gone with it.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Instant;

use super::Pool;
use crate::backend::{Backend, Identity};

/// What a backend does that no client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Doing {
    /// It can be lent, unless it is.
    Ready,
    /// It listens for the pool's clients.
    Listening,
    /// What a client that is gone left running or open is ended.
    Cancelling,
    /// What its clients have left behind is removed.
    Cleaning,
    /// It is closed, and counts until the server has closed its side.
    Closing,
}

/// A backend.
pub struct Member {
    /// Its number, unique in this process.
    pub id: u64,
    /// Where PostgreSQL knows it.
    pub identity: Arc<Identity>,
    /// When it was opened.
    pub since: Instant,
    /// The server's address and ours; `None`: a Unix socket.
    pub addresses: Option<(SocketAddr, SocketAddr)>,
    /// By TLS.
    pub tls: bool,
    pub(super) generation: u64,
    doing: AtomicU8,
}

impl Member {
    pub(super) fn new(backend: &Backend, generation: u64) -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            identity: backend.identity.clone(),
            since: Instant::now(),
            addresses: backend.socket.io().addresses(),
            tls: backend.socket.io().is_tls(),
            generation,
            doing: AtomicU8::new(Doing::Ready as u8),
        })
    }

    pub(super) fn set(&self, doing: Doing) {
        self.doing.store(doing as u8, Ordering::Relaxed);
    }

    /// What it does.
    pub fn doing(&self) -> Doing {
        let all = [Doing::Ready, Doing::Listening, Doing::Cancelling, Doing::Cleaning, Doing::Closing];
        let now = self.doing.load(Ordering::Relaxed);
        all.into_iter().find(|doing| *doing as u8 == now).unwrap_or(Doing::Ready)
    }
}

/// All of a pool's.
#[derive(Default)]
pub(super) struct Roster(Mutex<Vec<Weak<Member>>>);

impl Roster {
    pub(super) fn enter(&self, member: &Arc<Member>) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|member| member.strong_count() > 0);
        all.push(Arc::downgrade(member));
    }
}

impl Pool {
    /// Its backends, the oldest first; not those that are being opened.
    pub fn backends(&self) -> Vec<Arc<Member>> {
        let all = self.roster.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter_map(Weak::upgrade).collect()
    }

    /// Whether a backend is closed as soon as nobody has it.
    pub fn is_outdated(&self, member: &Member) -> bool {
        member.generation != self.generation.load(Ordering::Acquire) || member.doing() == Doing::Closing
    }
}

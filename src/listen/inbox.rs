//! What waits for one client: notifications that came while it was in a transaction, or does not read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::cancel::Handle;
use crate::error::{Error, Side, SqlState};

/// Bytes of notifications that may wait for one client: a frozen one must not take the others' memory.
const LARGEST: usize = 1024 * 1024;

/// A client's inbox.
pub(super) struct Inbox {
    client: Arc<Handle>,
    waiting: Mutex<Waiting>,
    /// Whether there is anything.
    any: AtomicBool,
    /// The newest barrier that the listener has passed for it.
    passed: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Arc<[u8]>>,
    bytes: usize,
    end: Option<Ended>,
}

/// Why no more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// More than [`LARGEST`] waited.
    Overflow,
    /// The listener is gone.
    Lost,
    /// One is in an encoding that the client does not have.
    Untranslatable,
}

impl Inbox {
    pub(super) fn new(client: Arc<Handle>) -> Arc<Self> {
        Arc::new(Self { client, waiting: Mutex::default(), any: AtomicBool::new(false), passed: AtomicU64::new(0) })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The client's number.
    pub(super) fn client(&self) -> u64 {
        self.client.id
    }

    /// The client's process id, as it knows it.
    pub(super) fn pid(&self) -> i32 {
        self.client.pid
    }

    /// A NotificationResponse.
    pub(super) fn push(&self, message: &Arc<[u8]>) {
        let mut waiting = self.lock();
        if waiting.end.is_some() {
            return;
        }
        waiting.bytes += message.len();
        if waiting.bytes > LARGEST {
            *waiting = Waiting { end: Some(Ended::Overflow), ..Waiting::default() };
        } else {
            waiting.messages.push_back(message.clone());
        }
        drop(waiting);
        self.ring();
    }

    /// Nothing comes any more.
    pub(super) fn lose(&self) {
        self.lock().end.get_or_insert(Ended::Lost);
        self.ring();
    }

    /// One cannot be told: no other is.
    pub(super) fn give_up(&self) -> Error {
        *self.lock() = Waiting { end: Some(Ended::Untranslatable), ..Waiting::default() };
        self.ring();
        untranslatable()
    }

    /// The listener has heard all that was sent before this barrier was asked for.
    pub(super) fn pass(&self, barrier: u64) {
        self.passed.fetch_max(barrier, Ordering::AcqRel);
        self.client.wake();
    }

    fn ring(&self) {
        self.any.store(true, Ordering::Release);
        self.client.wake();
    }

    pub(super) fn passed(&self) -> u64 {
        self.passed.load(Ordering::Acquire)
    }

    /// Whether there is anything to take.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// Whether nothing comes any more.
    pub(super) fn is_over(&self) -> bool {
        self.any() && self.lock().end.is_some()
    }

    /// The next message.
    ///
    /// # Errors
    /// Some were lost: the client must know.
    pub(super) fn take(&self) -> Result<Option<Arc<[u8]>>, Error> {
        let mut waiting = self.lock();
        if let Some(message) = waiting.messages.pop_front() {
            waiting.bytes -= message.len();
            return Ok(Some(message));
        }
        waiting.messages = VecDeque::new();
        match waiting.end {
            Some(Ended::Lost) => Err(lost()),
            Some(Ended::Overflow) => Err(overflow()),
            Some(Ended::Untranslatable) => Err(untranslatable()),
            None => {
                self.any.store(false, Ordering::Release);
                Ok(None)
            }
        }
    }
}

#[cold]
fn lost() -> Error {
    Error::new(
        Side::Database,
        SqlState::ADMIN_SHUTDOWN,
        "terminating connection because the backend that listened for it was lost",
    )
    .hint("Notifications may have been missed. Connect and LISTEN again.")
}

#[cold]
fn overflow() -> Error {
    Error::new(
        Side::Client,
        SqlState::PROGRAM_LIMIT_EXCEEDED,
        format!("terminating connection because it left more than {LARGEST} bytes of notifications unread"),
    )
    .hint("Read notifications as they come, and do not listen in long transactions or frozen environments.")
}

#[cold]
fn untranslatable() -> Error {
    Error::new(
        Side::Client,
        SqlState::UNTRANSLATABLE_CHARACTER,
        "terminating connection because a notification cannot be told in its client_encoding",
    )
    .hint("Clients that listen and then leave UTF8 are told what is in ASCII only.")
}

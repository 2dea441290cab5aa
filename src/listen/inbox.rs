//! What waits for one client: notifications that came while it was in a transaction, or does not read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::cancel::Handle;
use crate::error::{Error, Side, SqlState};

/// Bytes that may wait for one client: a frozen one must not take the others' memory.
const LARGEST: usize = 1024 * 1024;

/// What a waiting message takes besides its bytes.
const OVERHEAD: usize = 48;

/// A client's inbox.
pub(super) struct Inbox {
    client: Arc<Handle>,
    waiting: Mutex<Waiting>,
    /// Whether there is anything.
    any: AtomicBool,
    /// Told when there is room again.
    room: Notify,
}

#[derive(Default)]
struct Waiting {
    messages: VecDeque<Arc<[u8]>>,
    bytes: usize,
    /// How many have come so far.
    come: u64,
    /// The newest echo that has come, and how many messages had come then.
    echo: (u64, u64),
    end: Option<Ended>,
}

/// Why no more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    /// More than [`LARGEST`] waited, and the client took none.
    Overflow,
    /// The listener is gone.
    Lost,
    /// One is in an encoding that the client does not have.
    Untranslatable,
    /// The client does not want any.
    Left,
}

/// A message, and which it is.
pub(super) struct Taken {
    pub(super) message: Arc<[u8]>,
    pub(super) number: u64,
}

impl Inbox {
    pub(super) fn new(client: Arc<Handle>) -> Arc<Self> {
        Arc::new(Self { client, waiting: Mutex::default(), any: AtomicBool::new(false), room: Notify::new() })
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

    /// A NotificationResponse. `false`: there is no room for more.
    #[must_use]
    pub(super) fn push(&self, message: &Arc<[u8]>) -> bool {
        let mut waiting = self.lock();
        if waiting.end.is_some() {
            return true;
        }
        waiting.bytes += message.len() + OVERHEAD;
        waiting.come += 1;
        waiting.messages.push_back(message.clone());
        let has_room = waiting.bytes <= LARGEST;
        drop(waiting);
        self.ring();
        has_room
    }

    /// Waits until there is room. Cancel-safe.
    pub(super) async fn has_room(&self) {
        loop {
            let told = self.room.notified();
            {
                let waiting = self.lock();
                if waiting.bytes <= LARGEST || waiting.end.is_some() {
                    return;
                }
            }
            told.await;
        }
    }

    /// What was told to be sent before has come.
    pub(super) fn echo(&self, number: u64) {
        let mut waiting = self.lock();
        waiting.echo = (number, waiting.come);
        drop(waiting);
        self.client.wake();
    }

    /// How many messages had come when this echo did; `None`: it has not yet. Nothing is to come any more: all.
    pub(super) fn echoed(&self, number: u64) -> Option<u64> {
        let waiting = self.lock();
        match waiting.echo {
            (newest, come) if newest >= number => Some(come),
            _ => waiting.end.map(|_| waiting.come),
        }
    }

    /// How many messages have come so far.
    pub(super) fn come(&self) -> u64 {
        self.lock().come
    }

    /// How many of them have been taken.
    pub(super) fn taken(&self) -> u64 {
        let waiting = self.lock();
        waiting.come - waiting.messages.len() as u64
    }

    /// The client took none for too long.
    pub(super) fn overflow(&self) {
        self.end(Ended::Overflow);
    }

    /// Nothing comes any more.
    pub(super) fn lose(&self) {
        self.end(Ended::Lost);
    }

    /// One cannot be told: no other is.
    pub(super) fn give_up(&self) -> Error {
        self.end(Ended::Untranslatable);
        untranslatable()
    }

    /// The client is gone.
    pub(super) fn close(&self) {
        self.end(Ended::Left);
    }

    fn end(&self, why: Ended) {
        let mut waiting = self.lock();
        waiting.end.get_or_insert(why);
        if why != Ended::Lost {
            waiting.messages = VecDeque::new();
            waiting.bytes = 0;
        }
        drop(waiting);
        self.room.notify_one();
        self.ring();
    }

    fn ring(&self) {
        self.any.store(true, Ordering::Release);
        self.client.wake();
    }

    /// Whether there is anything to take.
    #[inline]
    pub(super) fn any(&self) -> bool {
        self.any.load(Ordering::Acquire)
    }

    /// The next message.
    ///
    /// # Errors
    /// Some were lost: the client must know.
    pub(super) fn take(&self) -> Result<Option<Taken>, Error> {
        let mut waiting = self.lock();
        let Some(message) = waiting.messages.pop_front() else {
            waiting.messages = VecDeque::new();
            return match waiting.end {
                Some(Ended::Lost) => Err(lost()),
                Some(Ended::Overflow) => Err(overflow()),
                Some(Ended::Untranslatable) => Err(untranslatable()),
                Some(Ended::Left) | None => {
                    self.any.store(false, Ordering::Release);
                    Ok(None)
                }
            };
        };
        let was_full = waiting.bytes > LARGEST;
        waiting.bytes -= message.len() + OVERHEAD;
        if was_full && waiting.bytes <= LARGEST {
            self.room.notify_one();
        }
        let number = waiting.come - waiting.messages.len() as u64;
        Ok(Some(Taken { message, number }))
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

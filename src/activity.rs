//! What a client is doing, and since when, for those who look: written by its task without a lock, read by a scrape, the
//! console and the live page.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::clock::Moment;

/// What a client may be doing, from when it has proved who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// Nothing, holding nothing.
    Idle,
    /// Waiting for a backend.
    Waiting,
    /// A statement of its own runs, or its answer is on its way.
    Active,
    /// Silent in a transaction, holding a backend.
    IdleInTransaction,
    /// Silent outside a transaction, holding a backend that has something of its own.
    Pinned,
}

impl State {
    /// All of them, in order.
    pub const ALL: [State; 5] = [State::Idle, State::Waiting, State::Active, State::IdleInTransaction, State::Pinned];

    /// The metric label.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Idle => "idle",
            State::Waiting => "waiting",
            State::Active => "active",
            State::IdleInTransaction => "idle_in_transaction",
            State::Pinned => "pinned",
        }
    }

    /// Whether it holds a backend.
    pub fn holds(self) -> bool {
        self >= State::Active
    }
}

/// The state of one client: since when, in nanoseconds, and in the lowest three bits which.
#[derive(Debug)]
pub struct Activity(AtomicU64);

impl Default for Activity {
    fn default() -> Self {
        Self(AtomicU64::new(Moment::now().nanos() & !7))
    }
}

impl Activity {
    /// It does this from now on, unless it does already.
    #[inline]
    pub fn set(&self, state: State) {
        if !self.is(state) {
            self.begin(state, Moment::now());
        }
    }

    /// It does this from a moment on, unless it does already.
    #[inline]
    pub fn set_at(&self, state: State, since: Moment) {
        if !self.is(state) {
            self.begin(state, since);
        }
    }

    #[inline]
    fn is(&self, state: State) -> bool {
        self.0.load(Ordering::Relaxed) & 7 == state as u64
    }

    fn begin(&self, state: State, since: Moment) {
        self.0.store(since.nanos() & !7 | state as u64, Ordering::Relaxed);
    }

    /// What it does, and for how long.
    pub fn get(&self) -> (State, Duration) {
        let packed = self.0.load(Ordering::Relaxed);
        let state = State::ALL.into_iter().find(|state| *state as u64 == packed & 7).unwrap_or(State::Idle);
        (state, Duration::from_nanos(Moment::now().nanos().saturating_sub(packed & !7)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_was_set_last_and_since_then() {
        let activity = Activity::default();
        assert_eq!(activity.get().0, State::Idle);
        for state in State::ALL {
            activity.set(state);
            assert_eq!(activity.get().0, state);
        }
        std::thread::sleep(Duration::from_millis(5));
        activity.set(State::Pinned);
        assert!(activity.get().1 >= Duration::from_millis(4), "the same state goes on");
        assert!(State::Pinned.holds() && State::Active.holds() && !State::Waiting.holds());
    }
}
